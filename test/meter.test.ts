import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMeter } from '../src/meter.ts';

test('counts, gauges and durations come out in the form of the page', () => {
  const meter = createMeter();
  meter.count('jobs_published', { node: 'a' });
  meter.count('jobs_published', { node: 'a' });
  meter.set('job_age_seconds', 3);
  meter.observe('block_disk_ms', 5);
  meter.observe('block_disk_ms', 2);
  const values = Object.fromEntries(meter.figures().map(({ name, value }) => [name, value]));
  assert.deepEqual(values, {
    headframe_jobs_published_total: 2,
    headframe_job_age_seconds: 3,
    headframe_block_disk_ms_count_total: 2,
    headframe_block_disk_ms_sum_total: 7,
    headframe_block_disk_ms_max: 5,
  });
});

test('series are bounded, whatever the labels', () => {
  const meter = createMeter();
  for (let n = 0; n < 5_000; n += 1) meter.count('calls', { node: String(n) });
  assert.equal(meter.figures().length, 1_000);
});
