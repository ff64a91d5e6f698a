/**
 * The cache in Redis against a real server: killed, frozen, flushed, full, and used by another program. Where `redis-server` is not
 * on the machine, the tests that need no server remain, and a name says so.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { after, describe, test } from 'node:test';
import { createRedisCache } from '../../../src/adapters/cache/redis.ts';
import { cacheContract } from '../../contract/cache.ts';
import { freePort } from '../../tools/pool-process.ts';
import { REDIS_SERVER, type RedisServer, startRedis } from '../../tools/redis-server.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const PREFIX = 'headframe:regtest:';
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function openCache(url: string, log = createMemoryLog()) {
  const cache = createRedisCache({ url, prefix: PREFIX, log, timeoutMs: 1_000 });
  await ready(cache);
  const before = cache.counts();
  return {
    ...cache,
    // What was asked while it was connecting does not count.
    counts: () => ({
      ...cache.counts(),
      errors: cache.counts().errors - before.errors,
      hits: cache.counts().hits - before.hits,
      misses: cache.counts().misses - before.misses,
    }),
  };
}

/** Asks until there is an answer. */
async function ready(cache: ReturnType<typeof createRedisCache>): Promise<void> {
  const answered = () => cache.counts().hits + cache.counts().misses;
  const before = answered();
  for (let i = 0; answered() === before; i++) {
    await cache.get('probe');
    if (i > 1_000) throw new Error('Redis did not answer');
    await sleep(10);
  }
}

if (REDIS_SERVER === null) {
  test('redis-server NOT FOUND (set REDIS_SERVER to its path): the contract was not held against it', () => {});
} else {
  const program = REDIS_SERVER;
  let shared: Promise<RedisServer> | null = null;
  const server = (): Promise<RedisServer> => (shared ??= startRedis(program));
  after(async () => (await shared)?.stop());

  cacheContract('redis', async () => {
    const redis = await server();
    await redis.command('FLUSHALL');
    const cache = await openCache(redis.url);
    return { cache, later: sleep, close: () => cache.stop() };
  });

  describe('the cache in Redis', () => {
    test('keys stand under their prefix, escaped, and every one ends', async () => {
      const redis = await server();
      await redis.command('FLUSHALL');
      const cache = await openCache(redis.url);
      await cache.set('job:4a', 'x', 60_000);
      await cache.set('worker:a b\n%', 'y', 60_000);
      await cache.increment('limit', 60_000);
      assert.match(await redis.command('GET', 'headframe:regtest:job:4a'), /x$/);
      assert.match(await redis.command('GET', 'headframe:regtest:worker:a%20b%0a%25'), /y$/);
      assert.equal(await redis.command('DBSIZE'), ':3');
      for (const key of ['job:4a', 'worker:a%20b%0a%25', 'limit']) {
        const left = Number((await redis.command('PTTL', PREFIX + key)).slice(1));
        assert.ok(left > 0 && left <= 60_000, `${key}: ${left}`);
      }
      // A counter that lost its end gets one again.
      await redis.command('PERSIST', `${PREFIX}limit`);
      assert.equal(await cache.increment('limit', 60_000), 2);
      assert.notEqual(await redis.command('PTTL', `${PREFIX}limit`), ':-1');
      await cache.stop();
    });

    test('keys of another program read as absent and are counted', async () => {
      const redis = await server();
      await redis.command('FLUSHALL');
      const cache = await openCache(redis.url);
      await redis.command('RPUSH', `${PREFIX}list`, 'a');
      await redis.command('HSET', `${PREFIX}hash`, 'a', 'b');
      assert.equal(await cache.get('list'), null);
      assert.equal(await cache.get('hash'), null);
      assert.equal(await cache.increment('list', 60_000), null);
      const { wrongTypes, misses, errors, open } = cache.counts();
      assert.deepEqual(
        { wrongTypes, misses, errors, open },
        { wrongTypes: 3, misses: 2, errors: 0, open: 0 },
      );
      // To set is to replace.
      await cache.set('list', 'ours', 60_000);
      assert.notEqual(await cache.get('list'), null);
      await cache.stop();
    });

    test('FLUSHALL at any moment loses nothing but what was kept', async () => {
      const redis = await server();
      const cache = await openCache(redis.url);
      for (let i = 0; i < 20; i++) {
        const work = Array.from({ length: 50 }, async (_, n) => {
          await cache.set(`k${n}`, `v${n}`, 60_000);
          const value = await cache.get(`k${n}`);
          assert.ok(value === null || Buffer.from(value).toString() === `v${n}`);
          const sum = await cache.increment('n', 60_000);
          assert.ok(sum !== null && sum >= 1 && sum <= 50 * 20);
        });
        await Promise.all([...work, redis.command('FLUSHALL')]);
      }
      assert.equal(cache.counts().errors, 0);
      await cache.stop();
    });

    test('killed and started again: absent meanwhile, then there, without being asked to connect', async () => {
      const redis = await startRedis(program);
      const log = createMemoryLog();
      const cache = await openCache(redis.url, log);
      try {
        await cache.set('k', 'v', 60_000);
        await redis.kill();
        await until('the cache is away', () => log.text().includes('The cache is away'));
        for (let i = 0; i < 30; i++) {
          assert.equal(await cache.get('k'), null);
          assert.equal(await cache.increment('n', 1_000), null);
          await cache.set('k', 'w', 60_000);
        }
        assert.equal(cache.counts().open, 1);
        assert.ok(cache.counts().refused > 0);
        await redis.restart();
        await until('the cache is back', () => cache.counts().open === 0, 12_000);
        await cache.set('k', 'again', 60_000);
        assert.equal(Buffer.from((await cache.get('k'))!).toString(), 'again');
        assert.equal(log.lines.filter((line) => line.level === 'warn').length, 1);
        assert.ok(log.text().includes('The cache is there again'));
      } finally {
        await cache.stop();
        await redis.stop();
      }
    });

    test('frozen: calls end by themselves, then are not tried, and after the thaw all is well', async () => {
      const redis = await startRedis(program);
      const log = createMemoryLog();
      const cache = createRedisCache({ url: redis.url, prefix: PREFIX, log, timeoutMs: 30 });
      try {
        await ready(cache);
        await cache.set('k', 'v', 60_000);
        redis.freeze();
        const rounds = 40;
        for (let i = 0; i < rounds; i++) {
          const all = await Promise.all([
            cache.get('k'),
            cache.get('k'),
            cache.increment('n', 1_000),
          ]);
          assert.deepEqual(all, [null, null, null]);
        }
        const { open, refused } = cache.counts();
        assert.equal(open, 1);
        // Almost none of them waited.
        assert.ok(refused > rounds * 2, String(refused));
        redis.thaw();
        await until(
          'the cache answers',
          () => {
            void cache.get('k');
            return cache.counts().open === 0 && cache.counts().hits > 0;
          },
          12_000,
        );
        await ready(cache);
        assert.equal(Buffer.from((await cache.get('k'))!).toString(), 'v');
        assert.equal(log.lines.filter((line) => line.level === 'warn').length, 1);
      } finally {
        await cache.stop();
        await redis.stop();
      }
    });

    test('full: what it has no room for is not kept, it is said once, and reading goes on', async () => {
      const redis = await startRedis(program);
      const log = createMemoryLog();
      const cache = await openCache(redis.url, log);
      try {
        await cache.set('small', 'kept', 60_000);
        await redis.command('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
        await redis.command('CONFIG', 'SET', 'maxmemory', '1');
        for (let i = 0; i < 60; i++) await cache.set(`k${i}`, 'value', 60_000);
        assert.equal(await cache.increment('n', 60_000), null);
        assert.equal(cache.counts().dropped, 61);
        assert.equal(await cache.get('k1'), null);
        assert.equal(Buffer.from((await cache.get('small'))!).toString(), 'kept');
        assert.equal(cache.counts().open, 0);
        assert.equal(log.lines.filter((line) => line.level === 'warn').length, 1);
      } finally {
        await cache.stop();
        await redis.stop();
      }
    });

    test('a wrong password is patience, not a crash, and is not shown', async () => {
      const redis = await startRedis(program, [['requirepass', 'rightword']]);
      const log = createMemoryLog();
      const withPassword = (password: string) => redis.url.replace('//', `//:${password}@`);
      const wrong = createRedisCache({ url: withPassword('wrongword'), prefix: PREFIX, log });
      const right = createRedisCache({ url: withPassword('rightword'), prefix: PREFIX, log });
      try {
        await until('it is told', () => log.text().includes('WRONGPASS'));
        await ready(right);
        await right.set('k', 'v', 60_000);
        assert.notEqual(await right.get('k'), null);
        await wrong.set('k', 'w', 60_000);
        assert.equal(await wrong.get('k'), null);
        assert.doesNotMatch(log.text(), /rightword|wrongword/);
      } finally {
        await wrong.stop();
        await right.stop();
        await redis.stop();
      }
    });
  });
}

test('nobody there: everything is absent at once, and the end is clean', async () => {
  const log = createMemoryLog();
  const url = `redis://user:secretword@127.0.0.1:${await freePort()}/0`;
  const cache = createRedisCache({ url, prefix: PREFIX, log });
  for (let i = 0; i < 200; i++) {
    assert.equal(await cache.get('k'), null);
    await cache.set('k', 'v', 1_000);
    assert.equal(await cache.increment('n', 1_000), null);
  }
  await cache.stop();
  assert.equal(cache.counts().hits, 0);
  assert.ok(cache.counts().errors + cache.counts().refused >= 600);
  assert.doesNotMatch(log.text(), /secretword/);
});

test('somebody else there: an answer that is none of Redis is as good as none', async () => {
  for (const answer of [
    'HTTP/1.1 400 Bad Request\r\n\r\n',
    '$-5\r\n',
    '*1000000\r\n',
    '\u0000\u0001',
  ]) {
    const stranger = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', () => socket.write(answer));
    });
    await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve));
    const address = stranger.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const log = createMemoryLog();
    const cache = createRedisCache({
      url: `redis://127.0.0.1:${port}`,
      prefix: PREFIX,
      log,
      timeoutMs: 20,
    });
    for (let i = 0; i < 40; i++) {
      assert.equal(await cache.get('k'), null);
      await sleep(1);
    }
    await cache.stop();
    stranger.close();
  }
});

test('an address that can not be read is refused without showing it', () => {
  const log = createMemoryLog();
  for (const url of ['redis//x:secretword@y', 'http://x:secretword@127.0.0.1', '']) {
    assert.throws(
      () => createRedisCache({ url, prefix: PREFIX, log }),
      (error: unknown) =>
        error instanceof TypeError &&
        !JSON.stringify([String(error), error]).includes('secretword'),
    );
  }
});
