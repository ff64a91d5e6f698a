/**
 * The oracle: judges a submission as a suspicious outsider would, from nothing but the text that went over the wire.
 *
 * Written on purpose in another way than the product and sharing no line with it: strings of hex, node:crypto, BigInt, the
 * notify line as the miner received it. Slow and plain; if it and the product differ, one of them is wrong.
 */

import { hash as hashOnce } from 'node:crypto';

export type WireJob = {
  /** Header up to the merkle root without the version: previous hash, wire order. */
  previousHash: string;
  coinbaseStart: string;
  coinbaseEnd: string;
  branch: Buffer[];
  version: string;
  bits: string;
};

export type WireSubmit = {
  extranonce1: string;
  extranonce2: string;
  ntime: string;
  nonce: string;
  /** Whole version as 8 hex digits, see `slowVersion`. */
  version: string;
};

/** Reads a `mining.notify` line the way a miner does. */
export function readNotify(line: string): WireJob {
  const [, previous, coinbaseStart, coinbaseEnd, branch, version, bits] = JSON.parse(line).params;
  return {
    previousHash: previous.replace(/(..)(..)(..)(..)/g, '$4$3$2$1'),
    coinbaseStart,
    coinbaseEnd,
    branch: branch.map((step: string) => Buffer.from(step, 'hex')),
    version,
    bits,
  };
}

/** Merkle root (wire order) for this coinbase. */
export function slowMerkleRoot(job: WireJob, extranonce1: string, extranonce2: string): Buffer {
  const coinbase = job.coinbaseStart + extranonce1 + extranonce2 + job.coinbaseEnd;
  let root = twice(Buffer.from(coinbase, 'hex'));
  for (const step of job.branch) root = twice(Buffer.concat([root, step]));
  return root;
}

/** The 80 header bytes. `root` may be handed in where many submissions share a coinbase. */
export function slowHeader(job: WireJob, submit: WireSubmit, root: Buffer): Buffer {
  const words = [submit.ntime, job.bits, submit.nonce].map(swap).join('');
  return Buffer.from(swap(submit.version) + job.previousHash + root.toString('hex') + words, 'hex');
}

/** Header hash in wire order. */
export function slowHash(header: Buffer): Buffer {
  return twice(header);
}

/** The number that is compared with a target. */
export function slowValue(hash: Buffer): bigint {
  return BigInt('0x' + Buffer.from(hash).reverse().toString('hex'));
}

/** BIP310, bit by bit on the binary text: inside the mask the miner's bit, outside the job's. */
export function slowVersion(job: string, mask: string, bits: string): string {
  const [ours, allowed, theirs] = [job, mask, bits].map((hex) =>
    BigInt('0x' + hex)
      .toString(2)
      .padStart(32, '0'),
  );
  let chosen = '';
  for (let i = 0; i < 32; i++) chosen += allowed![i] === '1' ? theirs![i] : ours![i];
  return BigInt('0b' + chosen)
    .toString(16)
    .padStart(8, '0');
}

/** Target of a difficulty: the double is scaled by two until it is an integer, then divided once. */
export function slowTarget(difficulty: number): bigint {
  let numerator = 0xffffn * 2n ** 208n;
  let scaled = difficulty;
  while (!Number.isInteger(scaled)) {
    scaled *= 2;
    numerator *= 2n;
  }
  const target = numerator / BigInt(scaled);
  const most = 2n ** 256n - 1n;
  return target < 1n ? 1n : target > most ? most : target;
}

/** Target of compact bits by the formula: mantissa · 256^(exponent − 3). Only for sane, positive bits. */
export function slowBits(bits: string): bigint {
  const exponent = Number.parseInt(bits.slice(0, 2), 16);
  const mantissa = BigInt('0x' + bits.slice(2));
  return exponent >= 3
    ? mantissa * 256n ** BigInt(exponent - 3)
    : mantissa / 256n ** BigInt(3 - exponent);
}

function twice(bytes: Buffer): Buffer {
  return hashOnce('sha256', hashOnce('sha256', bytes, 'buffer'), 'buffer');
}

function swap(word: string): string {
  return word.slice(6, 8) + word.slice(4, 6) + word.slice(2, 4) + word.slice(0, 2);
}
