import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  decodeBits,
  difficultyOfTarget,
  workOfDifficulty,
} from '../../../src/core/bitcoin/target.ts';
import { networkWorkOfBits, subsidySats } from '../../../src/core/ledger/reward.ts';

test('the subsidy halves where Bitcoin Core says', () => {
  const mainnet: [number, bigint][] = [
    [0, 5_000_000_000n],
    [209_999, 5_000_000_000n],
    [210_000, 2_500_000_000n],
    [840_000, 312_500_000n],
    [210_000 * 10, 4_882_812n],
    [210_000 * 32, 1n],
    [210_000 * 33, 0n],
    [210_000 * 64, 0n],
    [210_000 * 1_000, 0n],
  ];
  for (const [height, sats] of mainnet) {
    assert.equal(subsidySats(height, 'mainnet'), sats, `${height}`);
    assert.equal(subsidySats(height, 'signet'), sats, `${height}`);
  }
  assert.equal(subsidySats(149, 'regtest'), 5_000_000_000n);
  assert.equal(subsidySats(150, 'regtest'), 2_500_000_000n);
  for (const height of [-1, 0.5, Number.NaN]) {
    assert.throws(() => subsidySats(height, 'mainnet'), RangeError);
  }
});

test('all subsidies of mainnet together are what Bitcoin Core’s own test finds', () => {
  // validation_tests.cpp, subsidy_limit_test: 2099999997690000 satoshi.
  let sum = 0n;
  for (let height = 0; height < 14_000_000; height += 210_000) {
    sum += 210_000n * subsidySats(height, 'mainnet');
  }
  assert.equal(sum, 2_099_999_997_690_000n);
});

test('the work of a block at difficulty 1 is 2^48, and on regtest it is above zero', () => {
  assert.equal(networkWorkOfBits(0x1d00ffff), 1n << 48n);
  assert.equal(networkWorkOfBits(0x207fffff), 131_070n);
  for (const bits of [0, 0x04923456, 0xff123456]) {
    assert.throws(() => networkWorkOfBits(bits), RangeError, bits.toString(16));
  }
});

test('the work of bits is difficulty times 2^48, within the rounding of a double and no more', () => {
  const anyBits = fc
    .tuple(fc.integer({ min: 3, max: 32 }), fc.integer({ min: 0x008000, max: 0x7fffff }))
    .map(([size, word]) => ((size << 24) | word) >>> 0);
  fc.assert(
    fc.property(anyBits, (bits) => {
      const exact = networkWorkOfBits(bits);
      const rounded = workOfDifficulty(difficultyOfTarget(decodeBits(bits)!));
      const difference = exact > rounded ? exact - rounded : rounded - exact;
      assert.ok(exact > 0n);
      // Half a unit in the 53rd place, and both are rounded down.
      assert.ok(difference <= (exact >> 53n) + 1n, `${bits.toString(16)}: ${exact} ${rounded}`);
    }),
    { numRuns: 1_000 },
  );
});
