import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeDecimal, decodeHex32 } from '../../../src/core/stratum/number.ts';
import { createSubmitFields, decodeSubmit } from '../../../src/core/stratum/submit.ts';

const digits = (count: number) =>
  fc.string({
    unit: fc.constantFrom(...'0123456789abcdefABCDEF'),
    minLength: count,
    maxLength: count,
  });

test('canonical values do not depend on case, padding or prefix', () => {
  fc.assert(
    fc.property(
      digits(16),
      digits(8),
      digits(8),
      digits(8),
      (extranonce2, ntime, nonce, version) => {
        const plain = createSubmitFields();
        const odd = createSubmitFields();
        const short = (hex: string) => hex.replace(/^0+(?=.)/, '');
        assert.equal(decodeSubmit(['u', 'j', extranonce2, ntime, nonce, version], 32, plain), null);
        const params = [
          'u',
          'j',
          extranonce2.toUpperCase(),
          `0x${short(ntime)}`,
          short(nonce).toLowerCase(),
          `0X${version}`,
          null,
        ];
        assert.equal(decodeSubmit(params, 32, odd), null);
        for (const key of [
          'extranonce2High',
          'extranonce2Low',
          'ntime',
          'nonce',
          'versionBits',
        ] as const) {
          assert.equal(plain[key], odd[key]);
        }
        assert.equal(plain.nonce, Number.parseInt(nonce, 16));
        assert.equal(plain.extranonce2Low, Number.parseInt(extranonce2.slice(8), 16));
      },
    ),
  );
});

test('nothing of an earlier submission stays', () => {
  const fields = createSubmitFields();
  decodeSubmit(['u', 'j', '00'.repeat(8), '1', '2', 'ff'], 32, fields);
  decodeSubmit(['u', 'j', '00'.repeat(8), '00000001', '00000002'], 32, fields);
  assert.deepEqual([fields.hasVersion, fields.versionBits, fields.isShort], [false, 0, false]);
});

test('hex words: what parseInt would take is refused', () => {
  for (const bad of [
    '',
    '0x',
    '1fzz',
    ' 1',
    '1 ',
    '-1',
    '+1',
    '1e5x',
    '000000001',
    '0x000000001',
    '٣',
    '1_0',
    'NaN',
  ]) {
    assert.equal(decodeHex32(bad), -1, bad);
  }
  assert.equal(decodeHex32('ffffffff'), 0xffffffff);
  assert.equal(decodeHex32('0'), 0);
});

test('decimals: what Number would take is refused', () => {
  for (const bad of [
    '',
    ' ',
    '0x10',
    '1e',
    '-1',
    '+1',
    '1e999',
    'Infinity',
    'NaN',
    '1,5',
    '.5',
    '1'.repeat(30),
    '1kk',
    '[5]',
  ]) {
    assert.equal(decodeDecimal(bad), null, bad);
  }
  assert.deepEqual(
    ['1', '0.5', '2e-5', '1.', '10k', '2M', '1G', '3T'].map(decodeDecimal),
    [1, 0.5, 2e-5, 1, 1e4, 2e6, 1e9, 3e12],
  );
});
