import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { fuzz } from './configuration.ts';

test('configurations: 3,000 mutated ones, none throws, tells a secret or starts half', (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  assert.ok(fuzz(seed, 3_000) > 50);
});
