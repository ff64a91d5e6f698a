import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMemoryCache } from '../../../src/adapters/cache/memory.ts';
import type { Cache } from '../../../src/ports.ts';
import { createRemember } from '../../../src/services/apiserver/remember.ts';

function createRig() {
  let nowMs = 1_800_000_000_000;
  const cache = createMemoryCache({ clock: { nowMs: () => nowMs } });
  let made = 0;
  return {
    cache,
    remember: createRemember({ cache }),
    wait(elapsedMs: number) {
      nowMs += elapsedMs;
    },
    make: async () => {
      made += 1;
      return { made, rewardSats: 12_345_678_901_234_567_890n, list: [1n, null, 'x'] };
    },
  };
}

test('an answer is made once in its time, and comes back with its satoshi exact', async () => {
  const { remember, make, wait } = createRig();
  const first = await remember('a', 1_000, make);
  assert.equal(first.rewardSats, 12_345_678_901_234_567_890n);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(await remember('a', 1_000, make), first);
  assert.equal((await remember('b', 1_000, make)).made, 2);
  wait(1_001);
  assert.equal((await remember('a', 1_000, make)).made, 3);
});

test('two apiservers share what one has made', async () => {
  const { cache, remember, make } = createRig();
  await remember('a', 1_000, make);
  const other = createRemember({ cache });
  assert.equal((await other('a', 1_000, make)).made, 1);
});

test('who asks for the same at the same time waits for the same answer; a failure is not kept', async () => {
  const { remember, make } = createRig();
  const answers = await Promise.all([1, 2, 3].map(() => remember('a', 1_000, make)));
  assert.deepEqual(
    answers.map(({ made }) => made),
    [1, 1, 1],
  );
  const fail = () => remember('bad', 1_000, () => Promise.reject(new Error('away')));
  await assert.rejects(fail, /away/);
  await assert.rejects(fail, /away/);
  assert.equal((await remember('bad', 1_000, make)).made, 2);
});

test('what another program left under the key, or damaged, reads as absent', async () => {
  for (const foreign of ['{"made":7}', 'answer1 {"made":', 'answer1 {"x":{"$bigint":"no"}}', '']) {
    const { cache, remember, make } = createRig();
    await cache.set('api:a', foreign, 1_000);
    assert.equal((await remember('a', 1_000, make)).made, 1, foreign);
  }
});

test('a cache that gives nothing, ever, costs nothing but the work', async () => {
  const nothing: Pick<Cache, 'get' | 'set'> = { get: async () => null, set: async () => {} };
  const remember = createRemember({ cache: nothing });
  const { make } = createRig();
  await remember('a', 1_000, make);
  assert.equal((await remember('a', 1_000, make)).made, 2);
});
