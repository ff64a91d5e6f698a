import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { fuzz } from './journal.ts';

test('journals: 400 damaged ones, none stops the reader or makes it invent', async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  assert.ok((await fuzz(seed, 400)) > 1_000);
});
