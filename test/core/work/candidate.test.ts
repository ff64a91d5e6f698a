/** The check of a find against its job, on a mined header: every part changed on its own is found. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { sha256d } from '../../../src/core/bitcoin/hash.ts';
import { encodeHeader, hashHeader } from '../../../src/core/bitcoin/header.ts';
import { merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import { decodeBits } from '../../../src/core/bitcoin/target.ts';
import { findFault } from '../../../src/core/work/candidate.ts';

const BITS = 0x207fffff;
const coinbase = Uint8Array.of(1, 2, 3, 4);
const sibling = new Uint8Array(32).fill(7);
const previousHash = new Uint8Array(32).fill(9);
const networkTarget = decodeBits(BITS)!;

/** A header over the coinbase and one other transaction, good or bad by its hash. */
function mine(isGood: boolean) {
  for (let nonce = 0; ; nonce++) {
    const header = encodeHeader({
      version: 0x20000000,
      previousHash,
      merkleRoot: merkleRoot([sha256d(coinbase), sibling]),
      time: 1_700_000_000,
      bits: BITS,
      nonce,
    });
    const headerHash = hashHeader(header);
    const hash = BigInt(`0x${Buffer.from(headerHash).reverse().toString('hex')}`);
    if (hash <= networkTarget === isGood) return { header, headerHash, coinbase };
  }
}

describe('a find and its job', () => {
  const job = { networkTarget, previousHash, branch: [sibling] };

  it('belong together', () => {
    assert.equal(findFault(mine(true), job), null);
  });

  it('do not when any part is another', () => {
    const find = mine(true);
    const other = new Uint8Array(32).fill(8);
    const faults = [
      findFault({ ...find, headerHash: other }, job),
      findFault(mine(false), job),
      findFault(find, { ...job, previousHash: other }),
      findFault({ ...find, coinbase: Uint8Array.of(1, 2, 3, 5) }, job),
      findFault(find, { ...job, branch: [other] }),
      findFault(find, { ...job, branch: [] }),
    ];
    const coinbaseFault = 'its coinbase does not belong to it';
    assert.deepEqual(faults, [
      'its header has another hash',
      'its hash misses the target of its job',
      'it builds on another block',
      coinbaseFault,
      coinbaseFault,
      coinbaseFault,
    ]);
  });
});
