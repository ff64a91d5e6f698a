import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeAddress, encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { concatBytes, encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { NETWORKS, type Network } from '../../../src/core/bitcoin/network.ts';

const vectors: {
  valid: [string, Network, string, boolean][];
  bip341: [string, string][];
  invalid: [string, Network, string][];
} = JSON.parse(
  readFileSync(new URL('../../vectors/segwit-addresses.json', import.meta.url), 'utf8'),
);

for (const [text, network, script, payable] of vectors.valid) {
  test(`BIP350 valid ${text}: ${payable ? 'its script' : 'known, but not payable'}`, () => {
    const answer = decodeAddress(text, network);
    assert.equal(answer.ok, payable);
    if (!answer.ok) {
      assert.match(answer.reason, /not payable yet|must be 32/);
      return;
    }
    assert.equal(encodeHex(answer.script), script);
    assert.equal(answer.canonical, text.toLowerCase());
    assert.equal(encodeAddress(answer.script, network), text.toLowerCase());
  });
}

test('BIP341 wallet vectors', () => {
  for (const [text, script] of vectors.bip341) {
    const answer = decodeAddress(text, 'mainnet');
    assert.ok(answer.ok);
    assert.equal(encodeHex(answer.script), script);
    assert.equal(answer.kind, 'p2tr');
    assert.equal(answer.unusual, undefined);
  }
});

for (const [text, network, reason] of vectors.invalid) {
  test(`BIP173 or BIP350 invalid ${text}: ${reason}`, () => {
    const answer = decodeAddress(text, network);
    assert.ok(!answer.ok);
    assert.ok(answer.reason.includes(reason), answer.reason);
  });
}

const hash = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const script = fc.oneof(
  hash(20).map((h) => concatBytes(Uint8Array.of(0x76, 0xa9, 20), h, Uint8Array.of(0x88, 0xac))),
  hash(20).map((h) => concatBytes(Uint8Array.of(0xa9, 20), h, Uint8Array.of(0x87))),
  hash(20).map((h) => concatBytes(Uint8Array.of(0, 20), h)),
  hash(32).map((h) => concatBytes(Uint8Array.of(0, 32), h)),
  hash(32).map((h) => concatBytes(Uint8Array.of(0x51, 32), h)),
);
const network = fc.constantFrom(...(Object.keys(NETWORKS) as Network[]));

test('address of a script decodes to the script on its network, and on no network with other prefixes', () => {
  fc.assert(
    fc.property(script, network, network, (bytes, own, other) => {
      const text = encodeAddress(bytes, own)!;
      const answer = decodeAddress(text, own);
      assert.ok(answer.ok);
      assert.deepEqual(answer.script, bytes);
      assert.equal(answer.canonical, text);
      const again = decodeAddress(text, other);
      const [a, b] = [NETWORKS[own], NETWORKS[other]];
      const segwit = answer.kind.startsWith('p2w') || answer.kind === 'p2tr';
      const shared = segwit ? a.bech32Prefix === b.bech32Prefix : a.p2pkhVersion === b.p2pkhVersion;
      assert.equal(again.ok, shared);
      if (!again.ok) assert.match(again.reason, /^address belongs to .+, this pool runs on /);
    }),
    { numRuns: 300 },
  );
});

test('scripts of no standard form have no address', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 45 }), network, (bytes, own) => {
      const text = encodeAddress(bytes, own);
      if (text === null) return;
      const answer = decodeAddress(text, own);
      assert.ok(answer.ok);
      assert.deepEqual(answer.script, bytes);
    }),
  );
  for (const bytes of [
    '',
    '00',
    '0014',
    '5120',
    '6a24aa21a9ed',
    '51024e73',
    '5214' + '11'.repeat(20),
  ]) {
    assert.equal(encodeAddress(Buffer.from(bytes, 'hex'), 'mainnet'), null, bytes);
  }
});

test('testnet base58 that happens to begin like a bech32 prefix is still base58', () => {
  // Search a hash whose address begins with n and has a 1 early; the decoder must not take it for bech32.
  for (let i = 0; i < 3000; i++) {
    const payload = new Uint8Array(20);
    new DataView(payload.buffer).setUint32(0, Math.imul(i, 2654435761) >>> 0);
    const bytes = concatBytes(Uint8Array.of(0x76, 0xa9, 20), payload, Uint8Array.of(0x88, 0xac));
    const text = encodeAddress(bytes, 'testnet3')!;
    assert.ok(decodeAddress(text, 'testnet3').ok, text);
  }
});
