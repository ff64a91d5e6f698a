/**
 * One job manager among several, on a node over real HTTP: it names itself and the work of its tip, says its job again and again as long
 * as it has a node, and makes ids that no other makes.
 */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { createMemoryCache } from '../../../src/adapters/cache/memory.ts';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import type { JobOrigin } from '../../../src/core/work/follow.ts';
import type { Job } from '../../../src/core/work/job.ts';
import { decodeJob, decodeJobNews } from '../../../src/messages/codec.ts';
import { startJobmanager } from '../../../src/services/jobmanager/jobmanager.ts';
import { startFakeNode } from '../../tools/fake-node.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function start(among: { source: string; againMs: number } | null) {
  const node = await startFakeNode();
  closers.push(() => node.stop());
  const log = createMemoryLog();
  const bus = createMemoryBus({ log, encodeCheck: true });
  const cache = createMemoryCache({ clock: { nowMs: () => Date.now() } });
  const heard: { job: Job; origin: JobOrigin }[] = [];
  await bus.subscribe('mining.jobs', 'test', async (records) => {
    for (const { value } of records) {
      const news = decodeJobNews(value);
      assert.ok(news.ok);
      heard.push(news.value);
    }
  });
  const manager = await startJobmanager(
    {
      clock: { nowMs: () => Date.now() },
      log,
      bus,
      cache,
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      openHints: () => ({ stop() {} }),
    },
    {
      nodes: [{ name: 'one', url: node.url, user: 'user', password: 'pass' }],
      network: 'regtest',
      poolTag: '/test/',
      pools: [
        {
          id: 'main',
          coinbase: { mode: 'pool', script: Uint8Array.of(0x51), address: 'nobody' },
        },
      ],
      pollMs: 20,
      lookMs: 50,
      tickMs: 10,
      ...(among === null ? {} : { among }),
    },
  );
  closers.push(() => manager.stop());
  return { node, heard, cache, manager };
}

describe('one job manager among several', () => {
  it('says who it is, the work of its tip, and its job again', async () => {
    const { heard, cache } = await start({ source: 'jm-7', againMs: 30 });
    await until('a job said again', () => heard.filter(({ origin }) => origin.isAgain).length >= 3);
    const [first] = heard;
    assert.equal(first!.origin.isAgain, false);
    assert.match(first!.job.jobId, /^[0-9a-f]{14}$/);
    assert.ok(heard.every(({ origin }) => origin.source === 'jm-7'));
    const again = heard.at(-1)!;
    assert.deepEqual(again.job, first!.job);
    assert.equal(typeof again.origin.tipWork, 'bigint');
    for (const key of [`job:${first!.job.jobId}`, 'job:current']) {
      const kept = decodeJob((await cache.get(key))!);
      assert.ok(kept.ok);
      assert.equal(kept.value.jobId, first!.job.jobId);
    }
  });

  it('is silent when no node can be used, and speaks when one is there again', async () => {
    const { node, heard, manager } = await start({ source: 'jm', againMs: 20 });
    await until('a job said again', () => heard.some(({ origin }) => origin.isAgain));
    node.faults.set('*', { kind: 'error', code: -28, message: 'Loading' });
    await until('no node', () => manager.status().nodes[0]?.health === 'starting');
    const count = heard.length;
    const asked = node.calls.length;
    await until('it asks on', () => node.calls.length >= asked + 5);
    assert.ok(heard.length <= count + 1);
    node.faults.clear();
    await until('a job said again', () => heard.length >= count + 3);
  });

  it('alone, it says everything once', async () => {
    const { heard } = await start(null);
    await until('a job', () => heard.length > 0);
    assert.deepEqual(heard[0]!.origin, { ...heard[0]!.origin, source: '', isAgain: false });
    assert.match(heard[0]!.job.jobId, /^[0-9a-f]{14}$/);
    assert.ok(heard.every(({ origin }) => !origin.isAgain));
  });
});

it('two that begin in the same moment under one name make no id that the other makes', async () => {
  const same = { source: 'jm-1', againMs: 1_000 };
  const both = await Promise.all([start(same), start(same)]);
  for (let tips = 1; tips <= 5; tips++) {
    for (const { node } of both) node.mine();
    await until('jobs on the new tips', () =>
      both.every(({ heard, node }) => heard.at(-1)?.job.height === node.tip().height + 1),
    );
  }
  const [ones, others] = both.map(({ heard }) => new Set(heard.map(({ job }) => job.jobId)));
  assert.ok(ones!.size >= 5 && others!.size >= 5);
  assert.deepEqual(ones!.intersection(others!), new Set());
});
