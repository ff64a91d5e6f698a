/**
 * Merkle trees of transaction ids, as Bitcoin builds them: pairs hashed with double SHA-256, the last hash of an odd row
 * paired with itself. All hashes are 32 bytes in wire order.
 */

import { sha256dPair } from './hash.ts';

/** Root of at least one hash. Throws RangeError for none: a block always has its coinbase. */
export function merkleRoot(hashes: readonly Uint8Array[]): Uint8Array {
  if (hashes.length === 0) throw new RangeError('a merkle tree needs at least one hash');
  let row = hashes;
  while (row.length > 1) row = nextRow(row);
  return row[0]!;
}

/**
 * The siblings of the first leaf, from bottom to top, given every other leaf: what Stratum's notify carries, so that a miner
 * can put its own coinbase under the root. No transactions give an empty branch.
 */
export function merkleBranch(txidsWithoutCoinbase: readonly Uint8Array[]): Uint8Array[] {
  const branch: Uint8Array[] = [];
  // `row` is each level without its first hash, which the coinbase decides.
  let row = txidsWithoutCoinbase;
  while (row.length > 0) {
    branch.push(row[0]!);
    row = nextRow(row.slice(1));
  }
  return branch;
}

/** Merkle root of `leaf` (the coinbase txid) under a branch made by `merkleBranch`. */
export function foldBranch(leaf: Uint8Array, branch: readonly Uint8Array[]): Uint8Array {
  let hash = leaf;
  for (const sibling of branch) hash = sha256dPair(hash, sibling);
  return hash;
}

function nextRow(row: readonly Uint8Array[]): Uint8Array[] {
  const next: Uint8Array[] = [];
  for (let i = 0; i < row.length; i += 2) {
    next.push(sha256dPair(row[i]!, row[i + 1] ?? row[i]!));
  }
  return next;
}
