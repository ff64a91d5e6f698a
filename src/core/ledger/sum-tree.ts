/**
 * A Merkle-sum tree: every node commits to its hash and to the sum of all amounts below it, so that a root shows both that a leaf
 * is in the tree and that no amount was left out, invented or made negative (Maxwell's proof of liabilities).
 *
 *   leaf  hash = tagged("headframe/sum-leaf", sum as 8 bytes, content)
 *   node  hash = tagged("headframe/sum-node", left hash, left sum, right hash, right sum), sum = left + right
 *
 * Sums are big-endian, hashes tagged as in BIP340. The last node of an odd row goes up as it is. Refused: sums below zero or
 * over 21 million BTC anywhere, a tree without leaves.
 */

import { concatBytes, decodeHex, encodeHex } from '../bitcoin/bytes.ts';
import { MONEY_MAX_SATS } from '../bitcoin/coinbase.ts';
import { taggedHash } from '../bitcoin/hash.ts';

/** `content` says whose the amount is; what it means is the caller's. */
export type SumLeaf = { content: string; sats: bigint };

/** A node: 64 hex digits and what is below it. */
export type SumNode = { hash: string; sumSats: bigint };

/** A sibling on the way up, and on which side of the way it stands. */
export type SumStep = SumNode & { side: 'left' | 'right' };

/** 2^40 leaves; no honest way up is longer. */
const STEPS_MAX = 40;

/** The root of leaves in their order. Throws RangeError for what is refused. */
export function sumTree(leaves: readonly SumLeaf[]): SumNode {
  return rowsOf(leaves).at(-1)![0]!;
}

/** The siblings from the leaf `index` up to the root. Throws RangeError when there is no such leaf. */
export function stepsOf(leaves: readonly SumLeaf[], index: number): SumStep[] {
  if (!Number.isInteger(index) || index < 0 || index >= leaves.length) {
    throw new RangeError(`there is no leaf ${index}`);
  }
  const steps: SumStep[] = [];
  let at = index;
  for (const row of rowsOf(leaves)) {
    const isRight = at % 2 === 1;
    const sibling = row[isRight ? at - 1 : at + 1];
    if (sibling !== undefined) steps.push({ ...sibling, side: isRight ? 'left' : 'right' });
    at = Math.floor(at / 2);
  }
  return steps;
}

/** Whether the steps lead from the leaf to the root, hash and sum, with every sum in range. Total. */
export function climbsTo(leaf: SumLeaf, steps: readonly SumStep[], root: SumNode): boolean {
  if (steps.length > STEPS_MAX || !isAmount(leaf.sats)) return false;
  let node = leafNode(leaf);
  for (const { hash, sumSats, side } of steps) {
    if (!/^[0-9a-f]{64}$/.test(hash) || !isAmount(sumSats)) return false;
    if (!isAmount(node.sumSats + sumSats)) return false;
    const sibling = { hash, sumSats };
    node = side === 'left' ? parentNode(sibling, node) : parentNode(node, sibling);
  }
  return node.hash === root.hash && node.sumSats === root.sumSats;
}

/** From the leaves' nodes to the root's row of one. */
function rowsOf(leaves: readonly SumLeaf[]): SumNode[][] {
  if (leaves.length === 0) throw new RangeError('a sum tree needs at least one leaf');
  let row = leaves.map(leafNode);
  const rows = [row];
  while (row.length > 1) {
    const next: SumNode[] = [];
    for (let at = 0; at < row.length; at += 2) {
      const right = row[at + 1];
      next.push(right === undefined ? row[at]! : parentNode(row[at]!, right));
    }
    rows.push(next);
    row = next;
  }
  return rows;
}

function leafNode({ content, sats }: SumLeaf): SumNode {
  const message = concatBytes(amountBytes(sats), new TextEncoder().encode(content));
  return { hash: encodeHex(taggedHash('headframe/sum-leaf', message)), sumSats: sats };
}

function parentNode(left: SumNode, right: SumNode): SumNode {
  const message = concatBytes(
    decodeHex(left.hash)!,
    amountBytes(left.sumSats),
    decodeHex(right.hash)!,
    amountBytes(right.sumSats),
  );
  const sumSats = left.sumSats + right.sumSats;
  if (!isAmount(sumSats)) throw new RangeError(`a sum of ${sumSats} sat is out of range`);
  return { hash: encodeHex(taggedHash('headframe/sum-node', message)), sumSats };
}

function amountBytes(sats: bigint): Uint8Array {
  if (!isAmount(sats)) throw new RangeError(`an amount of ${sats} sat is out of range`);
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, sats);
  return bytes;
}

function isAmount(sats: bigint): boolean {
  return sats >= 0n && sats <= MONEY_MAX_SATS;
}
