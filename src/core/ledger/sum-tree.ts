/**
 * A Merkle-sum tree: every node commits to its hash and to the sum of all amounts below it, so that a root shows both that a leaf
 * is in the tree and that no amount was left out, invented or made negative (Maxwell's proof of liabilities).
 *
 *   leaf  hash = SHA-256(00, sum as 8 bytes, content)
 *   node  hash = SHA-256(01, left hash, left sum, right hash, right sum), sum = left + right
 *
 * Sums are big-endian; the first byte keeps leaves and nodes apart, as in RFC 6962. The last node of an odd row goes up as it is.
 * Refused: sums below zero or over 21 million BTC anywhere, a tree without leaves.
 */

import { concatBytes, encodeUtf8, equalBytes } from '../bitcoin/bytes.ts';
import { MONEY_MAX_SATS } from '../bitcoin/coinbase.ts';
import { sha256 } from '../bitcoin/hash.ts';

/** `content` says whose the amount is; what it means is the caller's. */
export type SumLeaf = { content: string; sats: bigint };

/** A node: 32 bytes, and what is below it. */
export type SumNode = { hash: Uint8Array; sumSats: bigint };

/** A sibling on the way up, and on which side of the way it stands. */
export type SumStep = SumNode & { side: 'left' | 'right' };

/** 2^40 leaves; no honest way up is longer. */
const STEPS_MAX = 40;
const LEAF_MARK = Uint8Array.of(0);

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
    if (hash.length !== 32 || !isAmount(sumSats) || !isAmount(node.sumSats + sumSats)) return false;
    const sibling = { hash, sumSats };
    node = side === 'left' ? parentNode(sibling, node) : parentNode(node, sibling);
  }
  return equalBytes(node.hash, root.hash) && node.sumSats === root.sumSats;
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
  const sum = new Uint8Array(8);
  writeAmount(sum, 0, sats);
  const hash = sha256(concatBytes(LEAF_MARK, sum, encodeUtf8(content)));
  return { hash, sumSats: sats };
}

function parentNode(left: SumNode, right: SumNode): SumNode {
  const message = new Uint8Array(1 + 2 * (32 + 8));
  message[0] = 1;
  message.set(left.hash, 1);
  writeAmount(message, 33, left.sumSats);
  message.set(right.hash, 41);
  writeAmount(message, 73, right.sumSats);
  const sumSats = left.sumSats + right.sumSats;
  if (!isAmount(sumSats)) throw new RangeError(`a sum of ${sumSats} sat is out of range`);
  return { hash: sha256(message), sumSats };
}

function writeAmount(bytes: Uint8Array, offset: number, sats: bigint): void {
  if (!isAmount(sats)) throw new RangeError(`an amount of ${sats} sat is out of range`);
  new DataView(bytes.buffer).setBigUint64(offset, sats);
}

function isAmount(sats: bigint): boolean {
  return sats >= 0n && sats <= MONEY_MAX_SATS;
}
