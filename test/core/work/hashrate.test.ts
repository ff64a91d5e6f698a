import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HASHES_PER_DIFFICULTY, HashrateMeter } from '../../../src/core/work/hashrate.ts';

test('a steady worker is measured right from its first minutes on, in all spans', () => {
  const meter = new HashrateMeter(0);
  for (let second = 1; second <= 7_200; second += 1) {
    meter.add(2, second * 1_000);
    if (second !== 60 && second !== 7_200) continue;
    const rates = meter.rates(second * 1_000);
    for (const rate of Object.values(rates)) {
      assert.ok(Math.abs(rate / (2 * HASHES_PER_DIFFICULTY) - 1) < 0.01, JSON.stringify(rates));
    }
  }
});

test('a worker that stops fades, the short span first', () => {
  const meter = new HashrateMeter(0);
  for (let second = 1; second <= 3_600; second += 1) meter.add(1, second * 1_000);
  const rates = meter.rates(3_600_000 + 1_200_000);
  assert.ok(rates.fiveMinutesHps < 0.03 * HASHES_PER_DIFFICULTY);
  assert.ok(rates.hourHps > 0.4 * HASHES_PER_DIFFICULTY);
});

test('nothing poisons the sums', () => {
  const meter = new HashrateMeter(0);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, -1, 0]) meter.add(bad, 1_000);
  meter.add(1, 2_000);
  meter.add(1, 1_000);
  const rates = meter.rates(1_500);
  for (const rate of Object.values(rates)) assert.ok(Number.isFinite(rate) && rate > 0);
});
