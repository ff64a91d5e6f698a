import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeAddress } from '../../../src/core/bitcoin/address.ts';
import { decodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { dustSats } from '../../../src/core/bitcoin/dust.ts';

/** Known addresses of mainnet, one of each kind, and what Bitcoin Core asks of an output to them. */
const KINDS: [string, string, bigint][] = [
  ['p2pkh', '1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa', 546n],
  ['p2sh', '3P14159f73E4gFr7JterCCQh9QjiTjiZrG', 540n],
  ['p2wpkh', 'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4', 294n],
  ['p2wsh', 'bc1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qccfmv3', 330n],
  ['p2tr', 'bc1p5d7rjq7g6rdk2yhzks9smlaqtedr4dekq08ge8ztwac72sfr9rusxg3297', 330n],
];

test('the five kinds of address have the thresholds of Bitcoin Core', () => {
  for (const [kind, address, sats] of KINDS) {
    const answer = decodeAddress(address, 'mainnet');
    assert.ok(answer.ok && answer.kind === kind, address);
    assert.equal(dustSats(answer.script), sats, kind);
  }
});

test('scripts of other forms, as Core counts them', () => {
  // Pay to anchor; witness version 16 of 2 bytes; bare public keys; nothing at all; commitments, which nobody can spend.
  assert.equal(dustSats(decodeHex('51024e73')!), 240n);
  assert.equal(dustSats(decodeHex('60020102')!), 240n);
  assert.equal(dustSats(Uint8Array.of(33, ...new Uint8Array(33).fill(2), 0xac)), 576n);
  assert.equal(dustSats(Uint8Array.of(65, ...new Uint8Array(65).fill(4), 0xac)), 672n);
  assert.equal(dustSats(new Uint8Array(0)), 471n);
  assert.equal(dustSats(decodeHex('6a24aa21a9ed')!), 0n);
  assert.equal(dustSats(new Uint8Array(10_001)), 0n);
});

test('what only looks like a witness program costs a whole input', () => {
  const plain = (length: number) => BigInt(3 * (8 + 1 + length + 148));
  const program = (version: number, bytes: number) =>
    Uint8Array.of(version, bytes, ...new Uint8Array(bytes).fill(1));
  assert.equal(dustSats(program(0x00, 1)), plain(3), 'a program of one byte');
  assert.equal(dustSats(program(0x00, 41)), plain(43), 'a program of 41 bytes');
  assert.equal(dustSats(program(0x50, 20)), plain(22), 'OP_RESERVED is no version');
  assert.equal(dustSats(program(0x61, 20)), plain(22), 'OP_NOP is no version');
  const twoPushes = Uint8Array.of(0x00, 19, ...new Uint8Array(20).fill(1));
  assert.equal(dustSats(twoPushes), plain(22), 'a push that ends before the script does');
});

test('the size of the length in front of a script counts', () => {
  fc.assert(
    fc.property(fc.integer({ min: 43, max: 9_999 }), (length) => {
      const script = new Uint8Array(length).fill(0x51);
      const header = length < 253 ? 9 : 11;
      assert.equal(dustSats(script), BigInt(3 * (header + length + 148)));
    }),
    { numRuns: 200 },
  );
});
