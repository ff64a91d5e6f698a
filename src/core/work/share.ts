/**
 * A share: what a miner chose for one job, put together into a header, hashed, and compared as a 256-bit integer.
 *
 * The hot path of the pool. `compileWork` lays out everything of a job and coinbase once; `fillWork` writes the six numbers
 * of a submission into it; a `HashWork` (fold.ts, or the accelerator) writes the header hash; `meetsTarget` decides. None of
 * the last three allocates. Policies (`checkVersionBits`, `checkNtime`) are separate and come after the block test.
 *
 * Byte orders: numbers are what the big-endian hex of the wire says (`decodeHexU32`); hashes are in wire order, so the
 * integer a hash is compared as is little-endian.
 */

import { HEADER_BYTES } from '../bitcoin/header.ts';
import { compress, INITIAL_STATE } from '../bitcoin/sha256.ts';
import { DIFFICULTY_1_TARGET, TARGET_MAX } from '../bitcoin/target.ts';
import { type CoinbaseParts, EXTRANONCE_BYTES, type Job } from './job.ts';

/**
 * A job and coinbase laid out for hashing; reused for every share on them. One buffer:
 *
 *   0             coinbase without witness, padded as SHA-256 wants it (a multiple of 64 bytes)
 *   headerOffset  header, 80 bytes, and its SHA-256 padding: 128 bytes
 *   branchOffset  merkle branch, 32 bytes a step
 *   end − 32      the header hash, written by `HashWork`
 */
export type Work = {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The last 32 bytes of `bytes`: header hash in wire order, valid after a `HashWork` ran. */
  readonly hash: Uint8Array;
  readonly coinbaseLength: number;
  readonly extranonceOffset: number;
  readonly headerOffset: number;
  readonly branchOffset: number;
  readonly branchLength: number;
  /** SHA-256 state after the first `midstateOffset` bytes of the coinbase, which no submission changes. */
  readonly midstate: Int32Array;
  readonly midstateOffset: number;
};

/** Hashes what `fillWork` has put into `work` and writes the 32 bytes of `work.hash`; leaves the merkle root in the header. */
export type HashWork = (work: Work) => void;

/** What a miner chose. All unsigned 32-bit; extranonce2 is 8 bytes, its first four in `extranonce2High`. May be reused. */
export type Chosen = {
  extranonce1: number;
  extranonce2High: number;
  extranonce2Low: number;
  ntime: number;
  nonce: number;
  /** The whole header version, after `rollVersion`. */
  version: number;
};

/** A target as eight unsigned 32-bit words, most significant first. */
export type PreparedTarget = Uint32Array;

/** How far beyond the template's (and our) time a share may date its header, as ckpool allows. */
export const NTIME_AHEAD_SECONDS_MAX = 7000;

/** Lays out a job and the halves of one coinbase (with 12 bytes of extranonce between them). About 1 KiB. */
export function compileWork(
  job: Pick<Job, 'previousHash' | 'bits' | 'branch'>,
  parts: CoinbaseParts,
): Work {
  const extranonceOffset = parts.prefix.length;
  const coinbaseLength = extranonceOffset + EXTRANONCE_BYTES + parts.suffix.length;
  const headerOffset = paddedLength(coinbaseLength);
  const branchOffset = headerOffset + paddedLength(HEADER_BYTES);
  const hashOffset = branchOffset + 32 * job.branch.length;
  const bytes = new Uint8Array(hashOffset + 32);
  const view = new DataView(bytes.buffer);

  bytes.set(parts.prefix);
  bytes.set(parts.suffix, extranonceOffset + EXTRANONCE_BYTES);
  writePadding(view, 0, coinbaseLength);

  bytes.set(job.previousHash, headerOffset + 4);
  view.setUint32(headerOffset + 72, job.bits, true);
  writePadding(view, headerOffset, HEADER_BYTES);

  for (const [step, sibling] of job.branch.entries()) bytes.set(sibling, branchOffset + 32 * step);

  const midstateOffset = extranonceOffset - (extranonceOffset % 64);
  const midstate = Int32Array.from(INITIAL_STATE);
  const block = new Int32Array(16);
  for (let offset = 0; offset < midstateOffset; offset += 64) {
    for (let i = 0; i < 16; i++) block[i] = view.getInt32(offset + 4 * i);
    compress(midstate, block);
  }
  return {
    bytes,
    view,
    hash: bytes.subarray(hashOffset),
    coinbaseLength,
    extranonceOffset,
    headerOffset,
    branchOffset,
    branchLength: job.branch.length,
    midstate,
    midstateOffset,
  };
}

/** Writes a submission into `work`. Every field is overwritten, so nothing of an earlier share remains. No allocation. */
export function fillWork(work: Work, chosen: Chosen): void {
  const { view, extranonceOffset, headerOffset } = work;
  view.setUint32(extranonceOffset, chosen.extranonce1);
  view.setUint32(extranonceOffset + 4, chosen.extranonce2High);
  view.setUint32(extranonceOffset + 8, chosen.extranonce2Low);
  view.setUint32(headerOffset, chosen.version, true);
  view.setUint32(headerOffset + 68, chosen.ntime, true);
  view.setUint32(headerOffset + 76, chosen.nonce, true);
}

/** Target (1 to 2^256 − 1) → the form `meetsTarget` compares with. Throws RangeError outside. */
export function prepareTarget(target: bigint): PreparedTarget {
  if (target < 1n || target > TARGET_MAX) throw new RangeError('target outside 256 bits');
  const words = new Uint32Array(8);
  for (let i = 0; i < 8; i++) words[i] = Number((target >> BigInt(224 - 32 * i)) & 0xffffffffn);
  return words;
}

/**
 * hash ≤ target, as 256-bit integers: a hash equal to the target is good, one above is not. `hash` is 32 bytes in wire
 * order. No allocation, and almost always decided by the first word.
 */
export function meetsTarget(hash: Uint8Array, target: PreparedTarget): boolean {
  for (let i = 0; i < 8; i++) {
    const offset = 28 - 4 * i;
    const word =
      ((hash[offset + 3]! << 24) |
        (hash[offset + 2]! << 16) |
        (hash[offset + 1]! << 8) |
        hash[offset]!) >>>
      0;
    const limit = target[i]!;
    if (word !== limit) return word < limit;
  }
  return true;
}

/** A copy of the 80 header bytes, complete once a `HashWork` ran. */
export function headerOf(work: Work): Uint8Array {
  return work.bytes.slice(work.headerOffset, work.headerOffset + HEADER_BYTES);
}

/** A copy of the coinbase without witness, with the extranonces of the last `fillWork`. */
export function coinbaseOf(work: Work): Uint8Array {
  return work.bytes.slice(0, work.coinbaseLength);
}

/**
 * Difficulty a hash (32 bytes, wire order) would satisfy, to double precision, for people and best-share lists. It never
 * decides anything. The hash of all zeros counts as Number.MAX_VALUE.
 */
export function difficultyOfHash(hash: Uint8Array): number {
  let value = 0;
  for (let i = 31; i >= 0; i--) value = value * 256 + hash[i]!;
  return value === 0 ? Number.MAX_VALUE : Math.min(DIFFICULTY_1 / value, Number.MAX_VALUE);
}

const DIFFICULTY_1 = Number(DIFFICULTY_1_TARGET);

/**
 * The header version a submission means (BIP310): the job's own bits outside the mask, the miner's inside. All unsigned
 * 32-bit. A share without version bits uses the job's version unchanged: call with `bits` = job version, or do not call.
 */
export function rollVersion(jobVersion: number, mask: number, bits: number): number {
  return ((jobVersion & ~mask) | (bits & mask)) >>> 0;
}

/**
 * Version policy. Bits outside the mask are fine when they are none, or exactly the job's own: some firmware sends the whole
 * version, some only the rolled bits, and `rollVersion` gives the same header for both. Anything else is 'outside-mask'.
 */
export function checkVersionBits(
  jobVersion: number,
  mask: number,
  bits: number,
): 'ok' | 'outside-mask' {
  const outside = bits & ~mask;
  return outside === 0 || outside === (jobVersion & ~mask) ? 'ok' : 'outside-mask';
}

/**
 * The header version to test for a block when `checkVersionBits` says 'outside-mask': the header the miner most likely
 * hashed. With top bits of BIP9 (001) it sent a whole version; otherwise bits it rolled on top of the job's.
 */
export function versionOutsideMask(jobVersion: number, bits: number): number {
  return bits >>> 29 === 1 ? bits : (jobVersion | bits) >>> 0;
}

/**
 * Time policy, all in seconds since 1970: [mintime, min(curtime, now) + 7000]. Below `mintime` the block would be
 * `time-too-old`; the upper end stays inside the two hours of `time-too-new` even when one clock of the two is wrong.
 */
export function checkNtime(
  ntime: number,
  job: { mintime: number; curtime: number },
  nowSeconds: number,
): 'ok' | 'too-old' | 'too-new' {
  if (ntime < job.mintime) return 'too-old';
  const latest = Math.min(job.curtime, nowSeconds) + NTIME_AHEAD_SECONDS_MAX;
  return ntime > latest ? 'too-new' : 'ok';
}

/** Length of a message with SHA-256 padding: at least 9 more bytes, then up to a multiple of 64. */
function paddedLength(length: number): number {
  return Math.ceil((length + 9) / 64) * 64;
}

/** Writes the SHA-256 padding behind the `length` message bytes that start at `start`. */
function writePadding(view: DataView, start: number, length: number): void {
  view.setUint8(start + length, 0x80);
  view.setUint32(start + paddedLength(length) - 4, length * 8);
}
