/**
 * Bitcoin's block and transaction rules that need no coins, as Core's `CheckBlock`, `ContextualCheckBlockHeader`,
 * `ContextualCheckBlock` and `CheckTransaction` apply them on regtest, in the same order and with the same answer
 * strings, so that a pool sees exactly what Core would tell it. Pure: time and chain come as arguments.
 */
import { concatBytes, equalBytes } from '../../core/bitcoin/bytes.ts';
import { sha256d, sha256dPair } from '../../core/bitcoin/hash.ts';
import type { Header } from '../../core/bitcoin/header.ts';
import { decodeBits, hashToInteger } from '../../core/bitcoin/target.ts';
import { hasWitness, type Tx } from '../../core/bitcoin/tx.ts';
import type { ChainBlock, ChainTx } from './blocks.ts';
import { countSigops } from './script.ts';

export const blockWeightMax = 4_000_000;
export const blockSigopsCostMax = 80_000;
export const witnessScale = 4;
export const coinbaseMaturity = 100;
export const halvingInterval = 150;
export const easiestBits = 0x207fffff;
const moneyMaxSats = 2_100_000_000_000_000n;
const futureSecondsMax = 7200;
/** BIP94, which Core's regtest enforces: the first block of a period may be at most this much older than the last. */
const timewarpSecondsMax = 600;
const retargetBlocks = 144;
const locktimeThreshold = 500_000_000;
export const sequenceFinal = 0xffff_ffff;

/** What the header rules need to know about the block before. */
export type Parent = { height: number; time: number; medianTimePast: number };

/** Subsidy at `height` in satoshis: 50 coins halved every 150 blocks. */
export function subsidySats(height: number): bigint {
  const halvings = Math.floor(height / halvingInterval);
  return halvings >= 64 ? 0n : 5_000_000_000n >> BigInt(halvings);
}

/** The earliest time Core would put into a template on this parent, in seconds. */
export function earliestTime(parent: Parent): number {
  const afterMedian = parent.medianTimePast + 1;
  return (parent.height + 1) % retargetBlocks === 0
    ? Math.max(afterMedian, parent.time - timewarpSecondsMax)
    : afterMedian;
}

/** True when `hash` (wire order) meets the target of `bits` and the target is within regtest's limit. */
export function meetsProofOfWork(hash: Uint8Array, bits: number): boolean {
  const target = decodeBits(bits);
  const limit = decodeBits(easiestBits);
  if (target === null || limit === null || target <= 0n || target > limit) return false;
  return hashToInteger(hash) <= target;
}

/** `ContextualCheckBlockHeader`: null or the reject reason. `bits` is what this height requires. */
export function checkHeaderInContext(
  header: Header,
  parent: Parent,
  bits: number,
  nowSeconds: number,
): string | null {
  if (header.bits !== bits) return 'bad-diffbits';
  if (header.time <= parent.medianTimePast) return 'time-too-old';
  if ((parent.height + 1) % retargetBlocks === 0 && header.time < parent.time - timewarpSecondsMax)
    return 'time-timewarp-attack';
  if (header.time > nowSeconds + futureSecondsMax) return 'time-too-new';
  const version = header.version | 0;
  if (version < 4) return `bad-version(0x${(version >>> 0).toString(16).padStart(8, '0')})`;
  return null;
}

/**
 * `CheckBlock`, without the proof of work, which callers check or skip themselves. Null or the reject reason. A block
 * that fails here is not remembered: its header may still belong to a good block.
 */
export function checkBlock(block: ChainBlock): string | null {
  const root = rootOf(block.transactions.map((entry) => entry.txid));
  if (!equalBytes(root.root, block.header.merkleRoot)) return 'bad-txnmrklroot';
  if (root.mutated) return 'bad-txns-duplicate';
  if (
    block.transactions.length === 0 ||
    block.transactions.length * witnessScale > blockWeightMax ||
    block.strippedBytes * witnessScale > blockWeightMax
  )
    return 'bad-blk-length';
  if (!isCoinbase(block.transactions[0].tx)) return 'bad-cb-missing';
  for (const entry of block.transactions.slice(1))
    if (isCoinbase(entry.tx)) return 'bad-cb-multiple';
  let sigops = 0;
  for (const entry of block.transactions) {
    const reason = checkTransaction(entry);
    if (reason !== null) return reason;
    sigops += countLegacySigops(entry.tx);
  }
  return sigops * witnessScale > blockSigopsCostMax ? 'bad-blk-sigops' : null;
}

/**
 * `ContextualCheckBlock`. Null, or the reason and whether the block was merely mutated (wrong witness around a header
 * that may be good) and must not be remembered as invalid.
 */
export function checkBlockInContext(
  block: ChainBlock,
  parent: Parent,
): { reason: string; mutated: boolean } | null {
  const height = parent.height + 1;
  for (const entry of block.transactions)
    if (!isFinal(entry.tx, height, parent.medianTimePast))
      return { reason: 'bad-txns-nonfinal', mutated: false };
  const expected = encodeHeight(height);
  const { script } = block.transactions[0].tx.inputs[0];
  if (!equalBytes(script.subarray(0, expected.length), expected))
    return { reason: 'bad-cb-height', mutated: false };
  const witness = checkWitness(block);
  if (witness !== null) return { reason: witness, mutated: true };
  return block.weight > blockWeightMax ? { reason: 'bad-blk-weight', mutated: false } : null;
}

function checkWitness(block: ChainBlock): string | null {
  const coinbase = block.transactions[0].tx;
  const commitment = commitmentIndex(coinbase);
  if (commitment >= 0) {
    const { witness } = coinbase.inputs[0];
    if (witness.length !== 1 || witness[0].length !== 32) return 'bad-witness-nonce-size';
    const root = witnessRoot(block.transactions);
    const committed = coinbase.outputs[commitment].script.subarray(6, 38);
    return equalBytes(sha256d(concatBytes(root, witness[0])), committed)
      ? null
      : 'bad-witness-merkle-match';
  }
  return block.transactions.some((entry) => hasWitness(entry.tx)) ? 'unexpected-witness' : null;
}

/** `CheckTransaction`: rules of a transaction alone. Null or the reject reason. */
export function checkTransaction(entry: ChainTx): string | null {
  const { tx } = entry;
  if (tx.inputs.length === 0) return 'bad-txns-vin-empty';
  if (tx.outputs.length === 0) return 'bad-txns-vout-empty';
  if (entry.strippedBytes * witnessScale > blockWeightMax) return 'bad-txns-oversize';
  let total = 0n;
  for (const output of tx.outputs) {
    const value = BigInt.asIntN(64, output.valueSats);
    if (value < 0n) return 'bad-txns-vout-negative';
    if (value > moneyMaxSats) return 'bad-txns-vout-toolarge';
    total += value;
    if (total > moneyMaxSats) return 'bad-txns-txouttotal-toolarge';
  }
  const seen = new Set<string>();
  for (const key of entry.spends) {
    if (seen.has(key)) return 'bad-txns-inputs-duplicate';
    seen.add(key);
  }
  if (isCoinbase(tx)) {
    const { length } = tx.inputs[0].script;
    if (length < 2 || length > 100) return 'bad-cb-length';
  } else if (tx.inputs.some((input) => isNullOutpoint(input))) return 'bad-txns-prevout-null';
  return null;
}

/** True when the amount is one money can be (0 to 21 million coins). */
export function isMoney(sats: bigint): boolean {
  return sats >= 0n && sats <= moneyMaxSats;
}

/** BIP113 finality of the lock time. */
export function isFinal(tx: Tx, height: number, medianTimePast: number): boolean {
  if (tx.locktime === 0) return true;
  if (tx.locktime < (tx.locktime < locktimeThreshold ? height : medianTimePast)) return true;
  return tx.inputs.every((input) => input.sequence === sequenceFinal);
}

/**
 * BIP68: true when every relative lock of `tx` has run out in a block of `height` on a parent with this median time.
 * `coinHeights` are those of the inputs, `medianTimeAt` the median time past of a main chain height.
 */
export function sequenceLocksPassed(
  tx: Tx,
  coinHeights: readonly number[],
  height: number,
  medianTimePast: number,
  medianTimeAt: (height: number) => number,
): boolean {
  if (tx.version >>> 0 < 2) return true;
  return tx.inputs.every((input, at) => {
    if (input.sequence >= 0x8000_0000) return true;
    const value = input.sequence & 0xffff;
    if ((input.sequence & (1 << 22)) === 0) return coinHeights[at] + value - 1 < height;
    return medianTimeAt(Math.max(coinHeights[at] - 1, 0)) + value * 512 - 1 < medianTimePast;
  });
}

export function isCoinbase(tx: Tx): boolean {
  return tx.inputs.length === 1 && isNullOutpoint(tx.inputs[0]);
}

/** Index of the output that holds the BIP141 commitment (the last that looks like one), or -1. */
export function commitmentIndex(coinbase: Tx): number {
  return coinbase.outputs.findLastIndex(
    ({ script }) => script.length >= 38 && commitmentHead.every((byte, at) => script[at] === byte),
  );
}

/** The BIP141 commitment script for these transactions (coinbase first) and an all-zero reserved value. */
export function commitmentScript(transactions: readonly ChainTx[]): Uint8Array {
  return concatBytes(
    commitmentHead,
    sha256d(concatBytes(witnessRoot(transactions), new Uint8Array(32))),
  );
}

export function countLegacySigops(tx: Tx): number {
  let count = 0;
  for (const input of tx.inputs) count += countSigops(input.script);
  for (const output of tx.outputs) count += countSigops(output.script);
  return count;
}

/** BIP34: the height as the script number push the coinbase must begin with (`CScript() << height`). */
export function encodeHeight(height: number): Uint8Array {
  if (height === 0) return Uint8Array.of(0x00);
  if (height <= 16) return Uint8Array.of(0x50 + height);
  const bytes: number[] = [];
  for (let rest = height; rest > 0; rest = Math.floor(rest / 256)) bytes.push(rest & 0xff);
  if (bytes[bytes.length - 1] & 0x80) bytes.push(0);
  return Uint8Array.of(bytes.length, ...bytes);
}

/** Merkle root and whether two equal neighbours make it ambiguous (CVE-2012-2459). */
function rootOf(leaves: readonly Uint8Array[]): { root: Uint8Array; mutated: boolean } {
  if (leaves.length === 0) return { root: new Uint8Array(32), mutated: false };
  let mutated = false;
  let level = leaves.slice();
  while (level.length > 1) {
    const next: Uint8Array[] = [];
    for (let at = 0; at < level.length; at += 2) {
      const right = level[at + 1] ?? level[at];
      if (at + 1 < level.length && equalBytes(level[at], right)) mutated = true;
      next.push(sha256dPair(level[at], right));
    }
    level = next;
  }
  return { root: level[0], mutated };
}

function witnessRoot(transactions: readonly ChainTx[]): Uint8Array {
  return rootOf(transactions.map((entry, at) => (at === 0 ? new Uint8Array(32) : entry.wtxid)))
    .root;
}

const commitmentHead = Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed);

function isNullOutpoint(input: { previousTxid: Uint8Array; previousIndex: number }): boolean {
  return input.previousIndex === 0xffff_ffff && input.previousTxid.every((byte) => byte === 0);
}
