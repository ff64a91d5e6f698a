import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  hash160,
  sha256,
  sha256d,
  sha256dPair,
  taggedHash,
} from '../../../src/core/bitcoin/hash.ts';
import { INITIAL_STATE, resetState } from '../../../src/core/bitcoin/sha256.ts';

const sha = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest();

test('SHA-256 agrees with node:crypto at every length around the block borders', () => {
  for (let length = 0; length <= 260; length++) {
    const bytes = randomBytes(length);
    assert.deepEqual(Buffer.from(sha256(bytes)), sha(bytes), `${length} bytes`);
    assert.deepEqual(Buffer.from(sha256d(bytes)), sha(sha(bytes)), `${length} bytes twice`);
  }
  const large = randomBytes(1_000_003);
  assert.deepEqual(Buffer.from(sha256(large)), sha(large));
});

test('bytes of a view into a larger buffer are hashed at their own place', () => {
  const whole = randomBytes(300);
  const part = whole.subarray(7, 207);
  assert.deepEqual(Buffer.from(sha256(part)), sha(Buffer.from(part)));
});

test('a merkle step is the double hash of both halves', () => {
  for (let i = 0; i < 50; i++) {
    const [left, right] = [randomBytes(32), randomBytes(32)];
    const expected = sha(sha(Buffer.concat([left, right])));
    assert.deepEqual(Buffer.from(sha256dPair(left, right)), expected);
  }
});

test('the initial state is the fractional part of the roots of the first eight primes', () => {
  const roots = [2, 3, 5, 7, 11, 13, 17, 19].map((prime) =>
    Math.floor((Math.sqrt(prime) % 1) * 2 ** 32),
  );
  assert.deepEqual([...INITIAL_STATE], roots);
  const state = new Int32Array(8);
  resetState(state);
  assert.deepEqual([...new Uint32Array(state.buffer)], roots);
});

test('HASH160 and tagged hashes agree with node:crypto and BIP340', () => {
  const key = Buffer.from(
    '0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798',
    'hex',
  );
  // BIP173: the key of its example addresses.
  assert.equal(encodeHex(hash160(key)), '751e76e8199196d454941c45d1b3a323f1433bd6');
  const tag = sha(Buffer.from('BIP0340/challenge'));
  const message = randomBytes(99);
  assert.deepEqual(
    Buffer.from(taggedHash('BIP0340/challenge', message)),
    sha(Buffer.concat([tag, tag, message])),
  );
});
