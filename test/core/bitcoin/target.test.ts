import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  DIFFICULTY_1_TARGET,
  decodeBits,
  difficultyOfTarget,
  encodeBits,
  hashToInteger,
  readCompact,
  TARGET_MAX,
  targetOfDifficulty,
  workOfDifficulty,
  workOfTarget,
} from '../../../src/core/bitcoin/target.ts';
import { slowTarget } from '../../tools/slow-verifier.ts';

// Bitcoin Core, src/test/arith_uint256_tests.cpp, bignum_SetCompact: bits, value, negative, overflow, GetCompact.
const CORE_COMPACT: [number, bigint, boolean, boolean, number][] = [
  [0, 0n, false, false, 0],
  [0x00123456, 0n, false, false, 0],
  [0x01003456, 0n, false, false, 0],
  [0x02000056, 0n, false, false, 0],
  [0x03000000, 0n, false, false, 0],
  [0x04000000, 0n, false, false, 0],
  [0x00923456, 0n, false, false, 0],
  [0x01803456, 0n, false, false, 0],
  [0x02800056, 0n, false, false, 0],
  [0x03800000, 0n, false, false, 0],
  [0x04800000, 0n, false, false, 0],
  [0x01123456, 0x12n, false, false, 0x01120000],
  [0x01fedcba, 0x7en, true, false, 0x017e0000],
  [0x02123456, 0x1234n, false, false, 0x02123400],
  [0x03123456, 0x123456n, false, false, 0x03123456],
  [0x04123456, 0x12345600n, false, false, 0x04123456],
  [0x04923456, 0x12345600n, true, false, 0x04123456],
  [0x05009234, 0x92340000n, false, false, 0x05009234],
  [0x20123456, 0x123456n << 232n, false, false, 0x20123456],
];

test('compact bits read and written as in the tests of Bitcoin Core', () => {
  for (const [bits, value, negative, overflow, compact] of CORE_COMPACT) {
    assert.deepEqual(readCompact(bits), { value, negative, overflow }, bits.toString(16));
    assert.equal(encodeBits(value), compact, bits.toString(16));
    assert.equal(decodeBits(bits), negative || value === 0n ? null : value, bits.toString(16));
  }
  assert.equal(encodeBits(0x80n), 0x02008000);
  assert.equal(readCompact(0xff123456).overflow, true);
  assert.equal(decodeBits(0xff123456), null);
  assert.equal(decodeBits(0xffffffff), null);
});

test('overflow begins exactly where 256 bits end', () => {
  assert.equal(decodeBits(0x2100ffff), 0xffffn << 240n);
  assert.equal(decodeBits(0x220000ff), 0xffn << 248n);
  for (const bits of [0x21010000, 0x22000100, 0x23000001]) assert.equal(decodeBits(bits), null);
});

test('known bits of known networks', () => {
  assert.equal(decodeBits(0x1d00ffff), DIFFICULTY_1_TARGET);
  assert.equal(decodeBits(0x207fffff), 0x7fffffn << 232n);
  assert.equal(difficultyOfTarget(decodeBits(0x1d00ffff)!), 1);
  // Difficulties as getdifficulty and explorers print them.
  assert.equal(difficultyOfTarget(decodeBits(0x1b0404cb)!), 16307.420938523983);
  assert.equal(difficultyOfTarget(decodeBits(0x1a44b9f2)!), 244112.48777433642);
  assert.equal(difficultyOfTarget(decodeBits(0x207fffff)!), 4.6565423739069247e-10);
});

test('the target of bits written back gives the same bits', () => {
  const canonical = fc
    .tuple(fc.integer({ min: 3, max: 32 }), fc.integer({ min: 0x008000, max: 0x7fffff }))
    .map(([size, word]) => ((size << 24) | word) >>> 0);
  fc.assert(fc.property(canonical, (bits) => assert.equal(encodeBits(decodeBits(bits)!), bits)));
});

test('writing bits truncates: never easier than the target, less than one part in 2^15 harder', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: TARGET_MAX }), (target) => {
      const kept = decodeBits(encodeBits(target))!;
      assert.ok(kept <= target);
      assert.ok((target - kept) << 15n < target);
    }),
  );
  assert.throws(() => encodeBits(-1n), RangeError);
  assert.throws(() => encodeBits(TARGET_MAX + 1n), RangeError);
});

const anyDifficulty = fc.oneof(
  fc.double({ min: Number.MIN_VALUE, max: Number.MAX_VALUE, noNaN: true }),
  fc.double({ min: 1e-12, max: 1e18, noNaN: true }),
  fc.constantFrom(Number.MIN_VALUE, 2 ** -1022, 1, 0.001, 1e-9, 3, 2 ** 53 + 2, Number.MAX_VALUE),
);

test('the target of a difficulty is the exact quotient, rounded down', () => {
  fc.assert(
    fc.property(anyDifficulty, (difficulty) => {
      assert.equal(targetOfDifficulty(difficulty), slowTarget(difficulty));
    }),
    { numRuns: 1000 },
  );
  assert.equal(targetOfDifficulty(1), DIFFICULTY_1_TARGET);
  assert.equal(targetOfDifficulty(2), DIFFICULTY_1_TARGET / 2n);
  assert.equal(targetOfDifficulty(0.5), DIFFICULTY_1_TARGET * 2n);
  assert.equal(targetOfDifficulty(Number.MAX_VALUE), 1n);
  assert.equal(targetOfDifficulty(Number.MIN_VALUE), TARGET_MAX);
});

test('a higher difficulty never has an easier target', () => {
  fc.assert(
    fc.property(anyDifficulty, anyDifficulty, (a, b) => {
      const [low, high] = a < b ? [a, b] : [b, a];
      assert.ok(targetOfDifficulty(high) <= targetOfDifficulty(low));
    }),
  );
});

test('the difficulty of a target is the nearest double to the true ratio, and falls as targets rise', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: TARGET_MAX - 1n }), (target) => {
      const difficulty = difficultyOfTarget(target);
      assert.ok(difficultyOfTarget(target + 1n) <= difficulty);
      // |difficulty − ratio| in units of the ratio is at most half a unit in the last place: 2^-53.
      const scale = 2n ** 400n;
      const ratio = (DIFFICULTY_1_TARGET * scale) / target;
      const exact = BigInt(
        difficulty * 2 ** 300 === Number.POSITIVE_INFINITY ? 0 : difficulty * 2 ** 300,
      );
      const distance = exact * 2n ** 100n - ratio;
      const size = distance < 0n ? -distance : distance;
      if (exact !== 0n) assert.ok(size <= (ratio >> 53n) + 1n, `${target}`);
    }),
  );
  assert.throws(() => difficultyOfTarget(0n), RangeError);
  assert.throws(() => difficultyOfTarget(TARGET_MAX + 1n), RangeError);
});

test('difficulty to target and back is the same double while the target has bits enough to say it', () => {
  fc.assert(
    fc.property(fc.double({ min: 1e-9, max: 1e40, noNaN: true }), (difficulty) => {
      assert.equal(difficultyOfTarget(targetOfDifficulty(difficulty)), difficulty);
    }),
  );
});

test('difficulties that are none are thrown back', () => {
  for (const difficulty of [
    0,
    -0,
    -1,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ]) {
    assert.throws(() => targetOfDifficulty(difficulty), RangeError);
    assert.throws(() => workOfDifficulty(difficulty), RangeError);
  }
});

test('work: blocks as Core counts them, shares in units of 2^-48', () => {
  assert.equal(workOfTarget(DIFFICULTY_1_TARGET), 0x100010001n); // chainwork of block 0
  assert.equal(workOfTarget(decodeBits(0x207fffff)!), 2n);
  assert.equal(workOfDifficulty(1), 1n << 48n);
  assert.equal(workOfDifficulty(0.5), 1n << 47n);
  assert.equal(workOfDifficulty(2 ** 60), 1n << 108n);
  assert.equal(workOfDifficulty(Number.MIN_VALUE), 0n);
  fc.assert(
    fc.property(fc.double({ min: 2 ** 5, max: 2 ** 900, noNaN: true }), (difficulty) => {
      assert.equal(workOfDifficulty(difficulty), BigInt(difficulty * 2 ** 48)); // both exact: nothing is cut
    }),
  );
});

test('a hash is a little-endian integer', () => {
  const hash = decodeHex('6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000')!;
  assert.equal(
    hashToInteger(hash),
    0x000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26fn,
  );
  assert.equal(
    hashToInteger(Uint8Array.of(...new Uint8Array(7), ...hash).subarray(7)),
    hashToInteger(hash),
  );
});
