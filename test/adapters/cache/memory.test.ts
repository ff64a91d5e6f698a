import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMemoryCache } from '../../../src/adapters/cache/memory.ts';
import { cacheContract } from '../../contract/cache.ts';

function createClock(): { nowMs(): number; pass(ms: number): void } {
  let nowMs = 1_700_000_000_000;
  return {
    nowMs: () => nowMs,
    pass(ms) {
      nowMs += ms;
    },
  };
}

cacheContract('memory', async () => {
  const clock = createClock();
  const cache = createMemoryCache({ clock });
  return {
    cache,
    later: async (ms) => clock.pass(ms),
    close: () => cache.stop(),
  };
});

test('the least recently used go first', async () => {
  const cache = createMemoryCache({ clock: createClock(), entriesMax: 3 });
  for (const key of ['a', 'b', 'c']) await cache.set(key, key, 60_000);
  await cache.get('a');
  await cache.set('d', 'd', 60_000);
  assert.equal(await cache.get('b'), null);
  for (const key of ['a', 'c', 'd']) assert.notEqual(await cache.get(key), null, key);
  await cache.increment('n', 60_000);
  assert.equal(await cache.get('a'), null);
});

test('bytes are bounded, and what is over a quarter of them is not kept', async () => {
  const cache = createMemoryCache({ clock: createClock(), bytesMax: 100_000 });
  await cache.set('large', new Uint8Array(30_000), 60_000);
  assert.equal(await cache.get('large'), null);
  assert.equal(cache.counts().dropped, 1);
  for (let i = 0; i < 100; i++) await cache.set(`k${i}`, new Uint8Array(9_000), 60_000);
  let kept = 0;
  for (let i = 0; i < 100; i++) if ((await cache.get(`k${i}`)) !== null) kept++;
  assert.equal(kept, 10);
  assert.notEqual(await cache.get('k99'), null);
  // A value that is not kept does not leave the one before it.
  await cache.set('k99', new Uint8Array(30_000), 60_000);
  assert.equal(await cache.get('k99'), null);
});
