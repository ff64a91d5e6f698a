import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { fuzz } from './address.ts';

test('addresses: 20,000 mutated texts, none throws, what is accepted is stable', (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  assert.ok(fuzz(seed, 20_000) > 1000);
});
