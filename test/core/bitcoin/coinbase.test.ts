import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeHex, encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  addCoinbaseWitness,
  assembleCoinbase,
  buildCoinbase,
  COINBASE_WITNESS_WEIGHT,
  type CoinbaseOutput,
  encodeHeightPush,
  MONEY_MAX_SATS,
} from '../../../src/core/bitcoin/coinbase.ts';
import { decodeTx, txid, txWeight } from '../../../src/core/bitcoin/tx.ts';

const output: CoinbaseOutput = {
  script: decodeHex('0014' + '11'.repeat(20))!,
  valueSats: 312_500_000n,
};
const commitment = decodeHex('6a24aa21a9ed' + '22'.repeat(32))!;

function build(changes: Partial<Parameters<typeof buildCoinbase>[0]> = {}) {
  return buildCoinbase({
    height: 840_000,
    tag: '/Headframe/',
    aux: new Uint8Array(0),
    extranonceBytes: 12,
    outputs: [output],
    witnessCommitment: commitment,
    ...changes,
  });
}

/** The whole coinbase decoded, with extranonce 1, 2, 3… */
function decoded(changes: Partial<Parameters<typeof buildCoinbase>[0]> = {}) {
  const built = build(changes);
  assert.ok(built.ok, built.ok ? '' : built.reason);
  const extranonce = Uint8Array.from({ length: changes.extranonceBytes ?? 12 }, (_, i) => i + 1);
  const tx = decodeTx(assembleCoinbase(built.prefix, extranonce, built.suffix, false));
  assert.ok(tx.ok, tx.ok ? '' : tx.reason);
  return { tx: tx.tx, script: encodeHex(tx.tx.inputs[0]!.script), built, extranonce };
}

test('the height is pushed as Bitcoin Core compares it (BIP34)', () => {
  const facts: [number, string][] = [
    [0, '00'],
    [1, '51'],
    [2, '52'],
    [16, '60'],
    [17, '0111'],
    [127, '017f'],
    [128, '028000'],
    [255, '02ff00'],
    [256, '020001'],
    [32767, '02ff7f'],
    [32768, '03008000'],
    [227_835, '03fb7903'], // the first block that followed BIP34 on mainnet
    [840_000, '0340d10c'],
    [8_388_607, '03ffff7f'],
    [8_388_608, '0400008000'],
    [0x7fffffff, '04ffffff7f'],
  ];
  for (const [height, hex] of facts) {
    assert.equal(encodeHex(encodeHeightPush(height)), hex, `${height}`);
    assert.ok(decoded({ height, tag: '' }).script.startsWith(hex));
  }
});

test('the parts stand in order: height, aux, tag, salt and extranonce in one push', () => {
  const { tx, script } = decoded({
    aux: Uint8Array.of(0xca, 0xfe),
    salt: Uint8Array.of(0xbe, 0xef),
  });
  const tag = '0b' + Buffer.from('/Headframe/').toString('hex');
  assert.equal(script, '0340d10c' + 'cafe' + tag + '0e' + 'beef' + '0102030405060708090a0b0c');
  assert.equal(tx.version, 2);
  assert.equal(tx.locktime, 0);
  assert.deepEqual(tx.inputs[0]!.previousTxid, new Uint8Array(32));
  assert.equal(tx.inputs[0]!.previousIndex, 0xffffffff);
  assert.equal(tx.inputs[0]!.sequence, 0xffffffff);
  assert.deepEqual(tx.outputs, [output, { script: commitment, valueSats: 0n }]);
});

test('a tag is text: any characters, none at all, or longer than a one-byte push', () => {
  assert.equal(decoded({ tag: '' }).script, '0340d10c' + '0c' + '0102030405060708090a0b0c');
  assert.ok(decoded({ tag: '⛏' }).script.includes('03e29b8f'));
  const long = decoded({ tag: 'x'.repeat(77), extranonceBytes: 4 }).script;
  assert.ok(long.startsWith('0340d10c' + '4c4d' + '78'.repeat(77)));
});

test('even the lowest height gives a script of two bytes or more', () => {
  const { tx } = decoded({ height: 1, tag: '', extranonceBytes: 1 });
  assert.ok(tx.inputs[0]!.script.length >= 2);
});

test('no commitment, many outputs', () => {
  const outputs = Array.from({ length: 300 }, (_, i) => ({ ...output, valueSats: BigInt(i) }));
  assert.deepEqual(decoded({ witnessCommitment: null, outputs }).tx.outputs, outputs);
});

test('the witness adds marker, flag and 32 zero bytes; txid stays, weight grows by what is stated', () => {
  const { tx, built, extranonce } = decoded();
  const full = assembleCoinbase(built.prefix, extranonce, built.suffix, true);
  assert.deepEqual(
    full,
    addCoinbaseWitness(assembleCoinbase(built.prefix, extranonce, built.suffix, false)),
  );
  const withWitness = decodeTx(full);
  assert.ok(withWitness.ok);
  assert.deepEqual(withWitness.tx.inputs[0]!.witness, [new Uint8Array(32)]);
  assert.deepEqual(txid(withWitness.tx), txid(tx));
  assert.equal(txWeight(withWitness.tx), txWeight(tx) + COINBASE_WITNESS_WEIGHT);
});

test('refused with a reason: script over 100 bytes, no outputs, impossible amounts, sizes and heights', () => {
  const cases: [Partial<Parameters<typeof buildCoinbase>[0]>, RegExp][] = [
    [{ tag: 'x'.repeat(82) }, /101 bytes, allowed are 100/],
    [{ aux: new Uint8Array(100) }, /allowed are 100/],
    [{ outputs: [] }, /no outputs/],
    [{ outputs: [{ ...output, valueSats: -1n }] }, /out of range/],
    [{ outputs: [{ ...output, valueSats: MONEY_MAX_SATS + 1n }] }, /out of range/],
    [{ extranonceBytes: 0 }, /outside 1 to 32/],
    [{ extranonceBytes: 33 }, /outside 1 to 32/],
    [{ extranonceBytes: 1.5 }, /outside 1 to 32/],
    [{ height: -1 }, /height/],
    [{ height: 2 ** 31 }, /height/],
    [{ height: Number.NaN }, /height/],
  ];
  for (const [changes, pattern] of cases) {
    const built = build(changes);
    assert.ok(!built.ok);
    assert.match(built.reason, pattern);
  }
  // 4 height + 2 push of 81 + 81 tag + 1 push + 12 extranonce = 100.
  const most = build({ tag: 'x'.repeat(81) });
  assert.ok(most.ok);
});

test('whatever is built decodes, and its script never exceeds 100 bytes', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 0x7fffffff }),
      fc.string({ maxLength: 90 }),
      fc.uint8Array({ maxLength: 20 }),
      fc.uint8Array({ maxLength: 8 }),
      fc.integer({ min: 1, max: 32 }),
      (height, tag, aux, salt, extranonceBytes) => {
        const built = build({ height, tag, aux, salt, extranonceBytes });
        if (!built.ok) return;
        const { tx } = decoded({ height, tag, aux, salt, extranonceBytes });
        assert.ok(tx.inputs[0]!.script.length <= 100);
      },
    ),
  );
});
