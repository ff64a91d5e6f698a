import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { foldBranch, merkleBranch, merkleRoot } from '../../../src/core/bitcoin/merkle.ts';

/** The tree by recursion on halves, with node:crypto: another way to the same root. */
function slowRoot(hashes: Buffer[]): Buffer {
  if (hashes.length === 1) return hashes[0]!;
  const parents: Buffer[] = [];
  while (hashes.length > 0) {
    const [left, right = left] = hashes.splice(0, 2);
    const once = createHash('sha256').update(left!).update(right!).digest();
    parents.push(createHash('sha256').update(once).digest());
  }
  return slowRoot(parents);
}

test('root and branch for every number of transactions up to 70, and around powers of two', () => {
  for (const count of [...Array(70).keys(), 127, 128, 255, 256, 257, 1023, 1025]) {
    const txids = Array.from({ length: count }, () => randomBytes(32));
    const leaf = randomBytes(32);
    const expected = slowRoot([leaf, ...txids]);
    const branch = merkleBranch(txids);
    assert.deepEqual(Buffer.from(merkleRoot([leaf, ...txids])), expected, `${count}`);
    assert.deepEqual(Buffer.from(foldBranch(leaf, branch)), expected, `${count}`);
    assert.equal(branch.length, Math.ceil(Math.log2(count + 1)), `${count}`);
  }
});

test('a tree of nothing is an error of ours', () => {
  assert.throws(() => merkleRoot([]), RangeError);
});
