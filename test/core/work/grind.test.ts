import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { it } from 'node:test';
import { decodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { targetOfDifficulty } from '../../../src/core/bitcoin/target.ts';
import { Grinder } from '../../../src/core/work/grind.ts';
import { prepareTarget } from '../../../src/core/work/share.ts';

/** Block 0 of the main chain. */
const GENESIS = decodeHex(
  '0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c',
)!;
const GENESIS_NONCE = 2_083_236_893;

it('finds the nonce of the first block', () => {
  const grinder = new Grinder();
  grinder.setHeader(GENESIS);
  const target = prepareTarget(targetOfDifficulty(1));
  const found = grinder.find(GENESIS_NONCE - 1_000, GENESIS_NONCE + 1_000, target);
  assert.equal(found, GENESIS_NONCE);
  assert.equal(
    encodeHexReversed(grinder.hash),
    '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f',
  );
});

it('finds exactly what node:crypto finds, also at the ends of the range', () => {
  const target = 1n << 249n;
  const header = GENESIS.slice();
  const view = new DataView(header.buffer);
  const expected: number[] = [];
  const from = 2 ** 32 - 2_000;
  for (let nonce = from; nonce < 2 ** 32; nonce++) {
    view.setUint32(76, nonce, true);
    const once = createHash('sha256').update(header).digest();
    const hash = createHash('sha256').update(once).digest().reverse();
    if (BigInt(`0x${hash.toString('hex')}`) <= target) expected.push(nonce);
  }
  const grinder = new Grinder();
  grinder.setHeader(header);
  const found: number[] = [];
  for (let nonce = from; nonce < 2 ** 32; ) {
    nonce = grinder.find(nonce, 2 ** 32, prepareTarget(target));
    if (nonce < 0) break;
    found.push(nonce++);
  }
  assert.ok(expected.length > 5);
  assert.deepEqual(found, expected);
  assert.equal(grinder.find(5, 5, prepareTarget(target)), -1);
});
