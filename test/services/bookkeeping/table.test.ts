import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type Column,
  type Format,
  formatPpm,
  printTable,
  type Value,
} from '../../../src/services/bookkeeping/table.ts';

const columns: Column[] = [
  { name: 'worker', kind: 'text' },
  { name: 'amount', kind: 'sats' },
  { name: 'work', kind: 'count' },
  { name: 'fee', kind: 'ppm' },
  { name: 'at', kind: 'time' },
];

async function lines(format: Format, rows: Value[][]): Promise<string[]> {
  const printed: string[] = [];
  await printTable({ print: (line) => printed.push(line) }, format, columns, rows, 'nothing');
  return printed;
}

const row: Value[] = ['a', -1n, 2n ** 70n, 12_500, Date.UTC(2026, 0, 2, 3, 4, 5, 6)];

test('for people: aligned, every amount with its unit', async () => {
  assert.deepEqual(await lines('text', [row, ['bb', 2_100_000_000_000_000n, 1, 0, null]]), [
    'worker                 amount                    work    fee  at',
    'a             -0.00000001 BTC  1180591620717411303424  1.25%  2026-01-02T03:04:05Z',
    'bb      21000000.00000000 BTC                       1     0%  –',
  ]);
  assert.deepEqual(await lines('text', []), ['nothing']);
});

test('CSV: money as BTC and as satoshi, the unit in the header', async () => {
  assert.deepEqual(await lines('csv', [row, [null, null, null, null, null]]), [
    'worker,amount_btc,amount_sat,work,fee_percent,at_utc',
    'a,-0.00000001,-1,1180591620717411303424,1.25,2026-01-02T03:04:05.006Z',
    ',,,,,',
  ]);
});

test('JSON: one array, a row per line, money as text', async () => {
  const printed = await lines('json', [row, row]);
  assert.deepEqual(JSON.parse(printed.join('\n')), [
    {
      worker: 'a',
      amount_btc: '-0.00000001',
      amount_sat: '-1',
      work: '1180591620717411303424',
      fee_percent: '1.25',
      at_utc: '2026-01-02T03:04:05.006Z',
    },
    JSON.parse(printed[1]!.slice(1)),
  ]);
  assert.deepEqual(JSON.parse((await lines('json', [])).join('')), []);
});

test('a spreadsheet takes no cell for a formula', async () => {
  for (const begin of ['=', '+', '-', '@', '\t', '\r']) {
    const [, line] = await lines('csv', [[`${begin}cmd|' /C calc'!A0`, 0n, 0, 0, 0]]);
    assert.ok(line!.startsWith(`"'${begin}`), line);
  }
  const [, quoted] = await lines('csv', [['a,"b"\nc', 0n, 0, 0, 0]]);
  assert.ok(quoted!.startsWith('"a,""b""\nc",'));
});

test('any text comes through CSV, and none is a formula', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 20 }), async (text) => {
      const [, line] = await lines('csv', [[text, 0n, 0, 0, 0]]);
      const cell = /^("(?:[^"]|"")*"|[^,"]*),0\.00000000,/s.exec(line!)?.[1];
      assert.ok(cell !== undefined, line);
      const read = cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell;
      assert.ok(read === text || read === `'${text}`);
      assert.ok(!/^[=+@\t\r]/.test(read) && !/^-(?!\d+(\.\d+)?$)/.test(read), read);
    }),
    { numRuns: 300 },
  );
});

test('what miners chose as a name does not move the cursor', async () => {
  const [, line] = await lines('text', [['a\u001b[2Jb\u202ec', 0n, 0, 0, 0]]);
  assert.ok(line!.startsWith('a?[2Jb?c '), line);
});

test('parts per million are exact percent', () => {
  assert.deepEqual([0, 1, 100, 12_345, 1_000_000].map(formatPpm), [
    '0%',
    '0.0001%',
    '0.01%',
    '1.2345%',
    '100%',
  ]);
});
