import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import { formatSats, parseAmount } from '../../../src/core/ledger/amount.ts';

test('amounts are written with sign, eight places and unit', () => {
  const written: [bigint, string][] = [
    [0n, '0.00000000 BTC'],
    [12_345n, '0.00012345 BTC'],
    [-1n, '-0.00000001 BTC'],
    [312_500_000n, '3.12500000 BTC'],
    [-100_000_001n, '-1.00000001 BTC'],
    [MONEY_MAX_SATS, '21000000.00000000 BTC'],
  ];
  for (const [sats, text] of written) assert.equal(formatSats(sats), text);
});

test('amounts are read exactly, in either unit', () => {
  const read: [string, bigint][] = [
    ['0.5 BTC', 50_000_000n],
    ['0.00000001btc', 1n],
    ['5000 sat', 5_000n],
    [' 5000 SATS ', 5_000n],
    ['-1 sat', -1n],
    ['007 BTC', 700_000_000n],
    ['21000000 BTC', MONEY_MAX_SATS],
    // 0.29 is no double: a parser that goes through one loses a satoshi here.
    ['0.29000000 BTC', 29_000_000n],
    ['4503599.62737049 BTC', 450_359_962_737_049n],
  ];
  for (const [text, sats] of read) assert.deepEqual(parseAmount(text), { ok: true, sats }, text);
});

test('what is no exact amount with a unit is refused, with words', () => {
  const refused: [string, RegExp][] = [
    ['0.5', /unit is missing/],
    ['', /no amount/],
    ['BTC', /no amount/],
    ['.5 BTC', /no amount/],
    ['1. BTC', /no amount/],
    ['1e3 sat', /no amount/],
    ['+1 sat', /no amount/],
    ['1,000 sat', /no amount/],
    ['1 mBTC', /no amount/],
    ['1 sat 2', /no amount/],
    ['1  sat', /no amount/],
    ['٣ sat', /no amount/],
    ['0.5 sat', /parts of a satoshi/],
    ['0.000000001 BTC', /eight decimal places/],
    ['21000000.00000001 BTC', /21 million/],
    [`1${'0'.repeat(60)} sat`, /40 characters/],
  ];
  for (const [text, reason] of refused) {
    const answer = parseAmount(text);
    assert.ok(!answer.ok && reason.test(answer.reason), `${text}: ${JSON.stringify(answer.ok)}`);
  }
});

test('what is written is read again as the same amount', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -MONEY_MAX_SATS, max: MONEY_MAX_SATS }), (sats) => {
      assert.deepEqual(parseAmount(formatSats(sats)), { ok: true, sats });
      assert.deepEqual(parseAmount(`${sats} sat`), { ok: true, sats });
    }),
  );
});

test('no text makes the reader throw', () => {
  fc.assert(fc.property(fc.string(), (text) => void parseAmount(text)));
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => void parseAmount(`1${text} sat`)));
});
