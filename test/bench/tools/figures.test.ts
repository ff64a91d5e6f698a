import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type Baseline,
  compareFigure,
  type Figure,
  formatTable,
  formatValue,
  percentile,
  ratioOf,
  targetMet,
} from '../../../bench/tools/figures.ts';

const cost: Figure = { metric: 'cost', value: 12, unit: 'us', better: 'lower', target: 15 };
const speed: Figure = {
  metric: 'speed',
  value: 70_000,
  unit: '/s',
  better: 'higher',
  target: 70_000,
};
const stored = (figures: Baseline['figures']): Baseline => ({
  machine: 'm',
  takenAt: '2026-11-21',
  figures,
});

test('a target is met at its bound, from the right side', () => {
  assert.equal(targetMet(cost), true);
  assert.equal(targetMet({ ...cost, value: 15 }), true);
  assert.equal(targetMet({ ...cost, value: 15.01 }), false);
  assert.equal(targetMet(speed), true);
  assert.equal(targetMet({ ...speed, value: 69_999 }), false);
  assert.equal(targetMet({ ...cost, target: undefined }), null);
  // A figure that could not be measured meets nothing.
  assert.equal(targetMet({ ...cost, value: Number.NaN }), false);
});

test('below 85 % of the stored speed or above 120 % of the stored cost is worse', () => {
  const baseline = stored({
    'share/cost': { value: 10, unit: 'us' },
    'share/speed': { value: 100_000, unit: '/s' },
  });
  const verdictOf = (figure: Figure) => compareFigure('share', figure, baseline).verdict;
  assert.equal(verdictOf({ ...cost, value: 12 }), 'same');
  assert.equal(verdictOf({ ...cost, value: 12.1 }), 'worse');
  assert.equal(verdictOf({ ...cost, value: 8 }), 'better');
  assert.equal(verdictOf({ ...speed, value: 85_000 }), 'same');
  assert.equal(verdictOf({ ...speed, value: 84_000 }), 'worse');
  assert.equal(verdictOf({ ...speed, value: 121_000 }), 'better');
  assert.equal(compareFigure('share', { ...cost, metric: 'other' }, baseline).verdict, 'new');
  assert.equal(compareFigure('share', { ...cost, unit: 'ms' }, baseline).verdict, 'new');
  assert.equal(compareFigure('share', cost, null).verdict, 'new');
});

test('the ratio is value over yardstick', () => {
  assert.equal(ratioOf({ ...cost, against: { name: 'bare', value: 4 } }), 3);
  assert.equal(ratioOf({ ...cost, against: { name: 'bare', value: 0 } }), null);
  assert.equal(ratioOf(cost), null);
});

test('percentiles are values that were measured', () => {
  assert.equal(percentile([1, 2, 3, 4], 0.5), 2);
  assert.equal(percentile([1, 2, 3, 4], 0.99), 4);
  assert.equal(percentile([1, 2, 3, 4], 0), 1);
  assert.ok(Number.isNaN(percentile([], 0.5)));
});

test('the table shows target, yardstick, ratio and note', () => {
  const lines = formatTable(
    'share',
    [{ ...cost, against: { name: 'bare', value: 4 }, note: 'how' }],
    stored({ 'share/cost': { value: 6, unit: 'us' } }),
  );
  assert.match(lines[2]!, /^cost +12\.0 us +<= 15\.0 +yes +bare: 4\.00 +3\.00x +2\.00x WORSE$/);
  assert.equal(lines[3], '    how');
  assert.equal(formatValue(1234.6), '1,235');
  assert.equal(formatValue(0.123), '0.12');
});
