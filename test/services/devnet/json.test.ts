/** Amounts survive both directions exactly, for every satoshi there is. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  amountJson,
  ExactNumber,
  formatAmount,
  parseAmount,
  parseJson,
} from '../../../src/services/devnet/json.ts';

const money = fc.bigInt({ min: 0n, max: 2_100_000_000_000_000n });

test('satoshis to JSON and back', () => {
  fc.assert(
    fc.property(money, (sats) => {
      const text = JSON.stringify({ amount: amountJson(sats), list: [amountJson(-sats)] });
      const parsed = parseJson(text) as { amount: unknown; list: unknown[] };
      assert.equal(parseAmount(parsed.amount), sats);
      assert.equal(parseAmount(parsed.list[0]), -sats);
      assert.equal(parseAmount(formatAmount(sats)), sats);
    }),
  );
});

test('amounts are read as Core reads them', () => {
  const cases: [unknown, bigint | null][] = [
    [1, 100_000_000n],
    ['0.1', 10_000_000n],
    ['1e-8', 1n],
    ['1e2', 10_000_000_000n],
    ['0.000000010', 1n],
    ['0.000000001', null],
    ['1e-9', null],
    ['', null],
    ['.5', null],
    ['1.', null],
    ['0x10', null],
    ['1 ', null],
    ['NaN', null],
    [null, null],
    [{}, null],
    [new ExactNumber('20999999.99999999'), 2_099_999_999_999_999n],
    ['1'.repeat(60), null],
  ];
  for (const [value, sats] of cases) assert.equal(parseAmount(value), sats, String(value));
});

test('numbers that a double cannot hold keep their text; safe integers stay numbers', () => {
  const parsed = parseJson('[1, 1.5, 12345678901234567890, 1e2, -0, "1.5"]') as unknown[];
  assert.equal(parsed[0], 1);
  assert.deepEqual(parsed[1], new ExactNumber('1.5'));
  assert.deepEqual(parsed[2], new ExactNumber('12345678901234567890'));
  assert.deepEqual(parsed[3], new ExactNumber('1e2'));
  assert.equal(parsed[5], '1.5');
});
