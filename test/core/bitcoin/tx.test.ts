import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeHex, encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  decodeTx,
  encodeTx,
  hasWitness,
  stripTx,
  type Tx,
  txid,
  txWeight,
  wtxid,
} from '../../../src/core/bitcoin/tx.ts';

// BIP143, "Native P2WPKH": the signed transaction, and its id as any node prints it.
const BIP143_SIGNED =
  '01000000000102fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f00000000494830450221008b9d1dc26ba6a9cb62127b02742fa9d754cd3bebf337f7a55d114c8e5cdd30be022040529b194ba3f9281a99f2b1c0a19c0489bc22ede944ccf4ecbab4cc618ef3ed01eeffffffef51e1b804cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a9148280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa815988ac000247304402203609e17b84f6a7d30c80bfa610b5b4542f32a8a0d5447a12fb1366d7f01cc44a0220573a954c4518331561406f90300e8f3358f51928d43c212a8caed02de67eebee0121025476c2e83188368da1ff3e292e7acafcdb3566bb0ad253f62fc70f07aeee635711000000';

test('the signed P2WPKH transaction of BIP143', () => {
  const bytes = decodeHex(BIP143_SIGNED)!;
  const decoded = decodeTx(bytes);
  assert.ok(decoded.ok);
  const { tx } = decoded;
  assert.equal(tx.inputs.length, 2);
  assert.deepEqual(
    tx.inputs.map((input) => input.witness.length),
    [0, 2],
  );
  assert.equal(tx.inputs[0]!.sequence, 0xffffffee);
  assert.deepEqual(
    tx.outputs.map((output) => output.valueSats),
    [112340000n, 223450000n],
  );
  assert.equal(tx.locktime, 17);
  assert.equal(encodeHex(encodeTx(tx, { witness: true })), BIP143_SIGNED);
  assert.notDeepEqual(txid(tx), wtxid(tx));
  const stripped = encodeTx(tx, { witness: false });
  assert.equal(txWeight(tx), 3 * stripped.length + bytes.length);
});

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const anyTx: fc.Arbitrary<Tx> = fc.record(
  {
    version: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    inputs: fc.array(
      fc.record(
        {
          previousTxid: fc.uint8Array({ minLength: 32, maxLength: 32 }),
          previousIndex: u32,
          script: fc.uint8Array({ maxLength: 300 }),
          sequence: u32,
          witness: fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 3 }),
        },
        { noNullPrototype: true },
      ),
      { minLength: 1, maxLength: 4 },
    ),
    outputs: fc.array(
      fc.record(
        {
          valueSats: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
          script: fc.uint8Array({ maxLength: 300 }),
        },
        { noNullPrototype: true },
      ),
      { maxLength: 4 },
    ),
    locktime: u32,
  },
  { noNullPrototype: true },
);

test('any transaction encodes and decodes to itself, with and without witness', () => {
  fc.assert(
    fc.property(anyTx, (tx) => {
      const full = encodeTx(tx, { witness: true });
      const decoded = decodeTx(full);
      assert.ok(decoded.ok);
      assert.deepEqual(decoded.tx, tx);
      const stripped = decodeTx(encodeTx(tx, { witness: false }));
      assert.ok(stripped.ok);
      assert.ok(!hasWitness(stripped.tx));
      assert.deepEqual(txid(stripped.tx), txid(tx));
      if (!hasWitness(tx)) assert.deepEqual(txid(tx), wtxid(tx));
    }),
  );
});

test('one meaning has one encoding: whatever decodes encodes to the same bytes', () => {
  const damaged = fc
    .tuple(anyTx, fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat(3))
    .map(([tx, at, value, cut]) => {
      const bytes = encodeTx(tx, { witness: true });
      bytes[at % bytes.length] = value;
      return bytes.slice(0, bytes.length - cut);
    });
  fc.assert(
    fc.property(fc.oneof(damaged, fc.uint8Array({ maxLength: 120 })), (bytes) => {
      const decoded = decodeTx(bytes);
      const read = stripTx(bytes);
      if (!decoded.ok) assert.equal(read.ok, false);
      else assert.deepEqual(read, { ok: true, stripped: encodeTx(decoded.tx, { witness: false }) });
      if (decoded.ok) assert.deepEqual(encodeTx(decoded.tx, { witness: true }), bytes);
      else assert.ok(decoded.reason.length > 0);
    }),
    { numRuns: 500 },
  );
});

test('refusals name what is wrong', () => {
  const bare =
    '01000000' + '01' + '00'.repeat(36) + '00' + 'ffffffff' + '01' + '00'.repeat(8) + '00';
  const cases: [string, RegExp][] = [
    ['', /too early/],
    [bare, /too early/],
    [bare + '00000000' + '00', /after its end/],
    ['01000000' + '00' + '00' + '00000000', /unknown flag/],
    ['01000000' + '00' + '02' + bare.slice(8) + '00' + '00000000', /unknown flag/],
    ['01000000' + '0001' + bare.slice(8) + '00' + '00000000', /flag without witness/],
    ['01000000' + '0001' + '00' + '00' + '00000000', /no inputs/],
    ['01000000' + 'fd0100' + bare.slice(10) + '00000000', /shortest form/],
    ['01000000' + 'feffffff7f' + bare.slice(10), /too early/],
    ['01000000' + 'ffffffffffffffffff', /too large/],
  ];
  for (const [hex, pattern] of cases) {
    const decoded = decodeTx(decodeHex(hex)!);
    assert.ok(!decoded.ok, hex);
    assert.match(decoded.reason, pattern, hex);
  }
  assert.ok(decodeTx(decodeHex(bare + '00000000')!).ok);
  assert.deepEqual(decodeTx(new Uint8Array(4_000_001)), {
    ok: false,
    reason: 'transaction is too large',
  });
});
