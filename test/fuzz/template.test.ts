import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { fuzz } from './template.ts';

test('templates: 5,000 damaged answers, none throws, what is accepted makes a job', (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  assert.ok(fuzz(seed, 5000) > 500);
});
