import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rateQuery, readRates } from '../../../src/core/series/rates.ts';

const SPAN = { fromMs: 1_700_000_000_000, untilMs: 1_700_000_130_000, stepMs: 60_000 };

test('a pool is asked for by its sums, an account and a worker by their own', () => {
  assert.equal(
    rateQuery({ pool: 'main' }, SPAN),
    'SELECT sum(difficulty) AS difficulty, sum(count) AS shares FROM pool' +
      " WHERE time >= 1700000040000ms AND time < 1700000100000ms AND pool = 'main' AND status = 'valid'" +
      ' GROUP BY time(60000ms) fill(none)',
  );
  const ofAccount = rateQuery({ pool: 'main', account: "a'b" }, SPAN, 'stale');
  assert.match(
    ofAccount,
    /FROM shares WHERE .* AND status = 'stale' AND miner_address = 'a\\'b' GROUP/,
  );
  const ofWorker = rateQuery({ pool: 'main', account: 'a', worker: 'w\\' }, SPAN);
  assert.match(ofWorker, /AND miner_address = 'a' AND worker_name = 'w_' GROUP/);
});

test('every step is there, whole steps only, and what is no number is zero', () => {
  const span = { fromMs: 1_700_000_040_000, untilMs: 1_700_000_280_000, stepMs: 60_000 };
  const rows = [
    { time: 1_700_000_040_000, difficulty: 60, shares: 3 },
    { time: 1_700_000_160_000, difficulty: Number.POSITIVE_INFINITY, shares: 'x' },
    { time: 1_700_000_220_000, difficulty: 1, shares: 1 },
    { time: 1_700_000_220_001, difficulty: 9, shares: 9 },
    { time: 1_800_000_000_000, difficulty: 9, shares: 9 },
    { time: '?', difficulty: 9, shares: 9 },
  ];
  assert.deepEqual(readRates(rows, span), [
    { atMs: 1_700_000_040_000, hps: 4_294_967_296, shares: 3 },
    { atMs: 1_700_000_100_000, hps: 0, shares: 0 },
    { atMs: 1_700_000_160_000, hps: 0, shares: 0 },
    { atMs: 1_700_000_220_000, hps: 4_294_967_296 / 60, shares: 1 },
  ]);
  assert.deepEqual(readRates([], { fromMs: 5, untilMs: 9, stepMs: 10_000 }), []);
});

test('spans that no chart has are refused', () => {
  for (const wrong of [
    { ...SPAN, stepMs: 15_000 },
    { ...SPAN, stepMs: 0 },
    { ...SPAN, stepMs: Number.NaN },
    { ...SPAN, fromMs: -1e6 },
    { ...SPAN, fromMs: Number.NaN },
    { ...SPAN, fromMs: 0 },
  ]) {
    assert.throws(() => rateQuery({ pool: 'main' }, wrong), RangeError);
    assert.throws(() => readRates([], wrong), RangeError);
  }
});
