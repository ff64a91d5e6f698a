import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { fuzz } from './framing.ts';

test('framing: 10,000 streams in any segmentation read as a slow reader reads them', (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  assert.ok(fuzz(seed, 10_000) > 1_000);
});
