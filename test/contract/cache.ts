/** What every cache must do, wherever it keeps things. `open` gives a new one; `later` lets its time pass. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CountedCache } from '../../src/adapters/cache/memory.ts';

export type CacheUnderTest = {
  cache: CountedCache;
  /** Lets at least so much time pass. */
  later(ms: number): Promise<void>;
  close(): Promise<void>;
};

const text = (value: Uint8Array | null): string | null =>
  value === null ? null : Buffer.from(value).toString();

export function cacheContract(name: string, open: () => Promise<CacheUnderTest>): void {
  const withCache = async (work: (under: CacheUnderTest) => Promise<void>): Promise<void> => {
    const under = await open();
    try {
      await work(under);
    } finally {
      await under.close();
    }
  };

  describe(`cache contract: ${name}`, () => {
    test('what was set is there, byte for byte, and the last one counts', () =>
      withCache(async ({ cache }) => {
        const all = Uint8Array.from({ length: 256 }, (_, i) => i);
        await cache.set('job:1', all, 60_000);
        await cache.set('job:2', 'häuer', 60_000);
        assert.deepEqual(await cache.get('job:1'), all);
        assert.equal(text(await cache.get('job:2')), 'häuer');
        await cache.set('job:1', new Uint8Array(0), 60_000);
        assert.deepEqual(await cache.get('job:1'), new Uint8Array(0));
        assert.equal(await cache.get('job:3'), null);
        const { hits, misses, errors } = cache.counts();
        assert.deepEqual({ hits, misses, errors }, { hits: 3, misses: 1, errors: 0 });
      }));

    test('neither the setter nor the getter can change what is kept', () =>
      withCache(async ({ cache }) => {
        const value = Uint8Array.of(1, 2, 3);
        const setting = cache.set('k', value, 60_000);
        value[0] = 9;
        await setting;
        const first = await cache.get('k');
        assert.deepEqual(first, Uint8Array.of(1, 2, 3));
        first!.fill(7);
        assert.deepEqual(await cache.get('k'), Uint8Array.of(1, 2, 3));
      }));

    test('everything ends', () =>
      withCache(async ({ cache, later }) => {
        await cache.set('short', 'a', 20);
        await cache.set('long', 'b', 600_000);
        await cache.set('never', 'c', 0);
        await cache.set('before', 'd', -5);
        await cache.set('nonsense', 'e', Number.NaN);
        await later(60);
        assert.equal(await cache.get('short'), null);
        assert.equal(text(await cache.get('long')), 'b');
        for (const key of ['never', 'before', 'nonsense']) assert.equal(await cache.get(key), null);
      }));

    test('counts one by one, and starts again when the time of the first one is over', () =>
      withCache(async ({ cache, later }) => {
        const sums = await Promise.all(
          Array.from({ length: 50 }, () => cache.increment('limit:a', 600_000)),
        );
        assert.deepEqual(
          sums.toSorted((a, b) => Number(a) - Number(b)),
          Array.from({ length: 50 }, (_, i) => i + 1),
        );
        assert.equal(await cache.increment('limit:b', 80), 1);
        assert.equal(await cache.increment('limit:b', 600_000), 2);
        await later(160);
        assert.equal(await cache.increment('limit:b', 600_000), 1);
        assert.equal(text(await cache.get('limit:b')), '1');
      }));

    test('what is no number is not counted on', () =>
      withCache(async ({ cache }) => {
        await cache.set('k', 'word', 60_000);
        assert.equal(await cache.increment('k', 60_000), null);
        assert.equal(text(await cache.get('k')), 'word');
        assert.equal(cache.counts().wrongTypes, 1);
        assert.equal(cache.counts().open, 0);
      }));

    test('no key is refused, and different keys are different', () =>
      withCache(async ({ cache }) => {
        const keys = [
          'a',
          'a ',
          'a\r\nFLUSHALL\r\n',
          'a*',
          'a%20',
          '\ud800',
          '',
          '\u0000',
          'ä',
          'x'.repeat(5_000),
          'x'.repeat(5_001),
        ];
        for (const [i, key] of keys.entries()) await cache.set(key, String(i), 60_000);
        for (const [i, key] of keys.entries()) {
          assert.equal(text(await cache.get(key)), String(i), JSON.stringify(key));
        }
      }));

    test('after its end everything is absent, and nothing rejects', () =>
      withCache(async ({ cache }) => {
        await cache.set('k', 'v', 60_000);
        await cache.stop();
        assert.equal(await cache.get('k'), null);
        await cache.set('k', 'v', 60_000);
        await cache.stop();
      }));
  });
}
