/**
 * What gateways tell each other through the cache, and what refused submissions become: always later, never needed, bounded.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createMemoryCache } from '../../../src/adapters/cache/memory.ts';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { decodeRejectedShare } from '../../../src/messages/codec.ts';
import type { Cache } from '../../../src/ports.ts';
import { ADMISSION_OPTIONS, Admission } from '../../../src/services/stratumd/admission.ts';
import {
  createNeighbours,
  sessionKey,
  workerKey,
} from '../../../src/services/stratumd/neighbours.ts';
import { RefusalBook } from '../../../src/services/stratumd/refusals.ts';
import {
  createJob,
  createRig,
  MINER,
  mine,
  type Rig,
  SHARE_DIFFICULTY,
  START_MS,
} from './gateway-rig.ts';

const readMs = () => START_MS;
const turn = () => new Promise((resolve) => setImmediate(resolve));
const createCache = () => createMemoryCache({ clock: { nowMs: readMs } });
const KEY = workerKey('main', MINER, 'w');

/** A gateway with vardiff, in touch with others through this cache. */
function createGateway(cache: Cache): Rig {
  const rig = createRig({
    tools: { neighbours: createNeighbours(cache, readMs) },
    port: { vardiff: true },
  });
  return rig;
}

describe('difficulties across gateways', () => {
  it('what a worker has proven at one gateway is what it begins with at the other', async () => {
    const cache = createCache();
    const [first, second] = [createGateway(cache), createGateway(cache)];
    const job = createJob();
    first.setJob(job);
    second.setJob(job);
    const there = first.connect();
    there.start(`${MINER}.w`, 'test/1', `d=${SHARE_DIFFICULTY * 8}`);
    assert.equal(there.difficulty, SHARE_DIFFICULTY * 8);
    there.submit(mine(there, job, { difficulty: SHARE_DIFFICULTY * 8 }));
    first.gateway.closed(there.session, first.nowMs);
    assert.equal(Number(Buffer.from((await cache.get(KEY))!)), SHARE_DIFFICULTY * 8);

    const here = second.connect();
    here.start();
    assert.equal(here.difficulty, SHARE_DIFFICULTY, 'the job did not wait');
    await turn();
    here.take();
    assert.equal(here.difficulty, SHARE_DIFFICULTY * 8);
    assert.notEqual(here.notify[0], job.jobId, 'a job of its own for the new difficulty');
    // What was in flight keeps its difficulty.
    const early = mine(here, job, { missing: SHARE_DIFFICULTY * 8 });
    here.submit(early);
    assert.equal(second.journal.appended.at(-1)!.difficulty, SHARE_DIFFICULTY);
  });

  it('a session of another gateway is known by its id', async () => {
    const cache = createCache();
    await cache.set(sessionKey('00112233445566aa'), String(SHARE_DIFFICULTY * 4), 60_000);
    const rig = createGateway(cache);
    rig.setJob(createJob());
    const client = rig.connect();
    client.call('mining.subscribe', ['test/1', '00112233445566AA']);
    await turn();
    client.call('mining.authorize', [`${MINER}.w`, 'x']);
    assert.equal(client.difficulty, SHARE_DIFFICULTY * 4);
  });

  it('whoever named a difficulty himself, has proven one, or is gone, is left alone', async () => {
    const cache = createCache();
    await cache.set(KEY, String(SHARE_DIFFICULTY * 4), 60_000);
    const rig = createGateway(cache);
    const job = createJob();
    rig.setJob(job);
    const named = rig.connect();
    named.start(`${MINER}.w`, 'test/1', `d=${SHARE_DIFFICULTY * 2}`);
    const quick = rig.connect();
    quick.start();
    quick.submit(mine(quick, job));
    const gone = rig.connect();
    gone.start();
    rig.gateway.closed(gone.session, rig.nowMs);
    await turn();
    for (const client of [named, quick, gone]) client.take();
    assert.equal(named.difficulty, SHARE_DIFFICULTY * 2);
    assert.equal(quick.difficulty, SHARE_DIFFICULTY);
    assert.equal(gone.difficulty, SHARE_DIFFICULTY);
  });

  it('what others write under our keys is no difficulty', async () => {
    for (const value of [
      '',
      'NaN',
      '-1',
      '1e999',
      '0',
      'Infinity',
      '0x10',
      '1'.repeat(100),
      '{}',
    ]) {
      const cache = createCache();
      await cache.set(KEY, value, 60_000);
      const rig = createGateway(cache);
      rig.setJob(createJob());
      const client = rig.connect();
      client.start();
      await turn();
      client.take();
      assert.equal(client.difficulty, SHARE_DIFFICULTY, value);
    }
  });

  it('a cache that never answers is as none', async () => {
    const never = new Promise<never>(() => {});
    const rig = createGateway({
      get: () => never,
      set: () => never,
      increment: () => never,
      stop: async () => {},
    });
    const job = createJob();
    rig.setJob(job);
    const client = rig.connect();
    client.start();
    client.submit(mine(client, job));
    assert.equal(rig.journal.appended.length, 1);
  });
});

describe('addresses across gateways', () => {
  const address = '203.0.113.7';

  it('a ban is heard of by the next gateway, with its end', async () => {
    const cache = createCache();
    const [one, two] = [createNeighbours(cache, readMs), createNeighbours(cache, readMs)];
    const heard: number[] = [];
    two.arrive(address, 100, (untilMs) => heard.push(untilMs));
    await turn();
    assert.equal(heard.length, 0);
    one.ban(address, START_MS + 600_000);
    two.arrive(address, 100, (untilMs) => heard.push(untilMs));
    two.arrive('203.0.113.8', 100, (untilMs) => heard.push(untilMs));
    await turn();
    assert.deepEqual(heard, [START_MS + 600_000]);
  });

  it('arrivals at all gateways together are counted', async () => {
    const cache = createCache();
    const gateways = [createNeighbours(cache, readMs), createNeighbours(cache, readMs)];
    let refused = 0;
    for (let i = 0; i < 20; i++)
      gateways[i % 2]!.arrive(address, 15, (untilMs) => {
        assert.equal(untilMs, 0);
        refused += 1;
      });
    await turn();
    assert.equal(refused, 5);
  });

  it('a ban from elsewhere holds like one of our own, but not against the honest and the allowed', () => {
    const admission = new Admission(ADMISSION_OPTIONS);
    assert.equal(admission.heedBan(address, 60_000, 0), true);
    assert.equal(admission.arrive(address, 1).kind, 'refuse');
    assert.equal(admission.arrive(address, 60_001).kind, 'admit');
    assert.equal(admission.heedBan('127.0.0.1', 60_000, 0), false);
    assert.equal(admission.heedBan('no address', 60_000, 0), false);
    const honest = admission.arrive('203.0.113.9', 0);
    assert.ok(honest.kind === 'admit');
    admission.prove(honest.ticket);
    assert.equal(admission.heedBan('203.0.113.9', 60_000, 1), false);
    assert.equal(admission.arrive('203.0.113.9', 2).kind, 'admit');
    // Nobody writes into the cache what outlasts our own longest ban.
    admission.heedBan('203.0.113.10', Number.MAX_SAFE_INTEGER, 0);
    assert.equal(admission.arrive('203.0.113.10', ADMISSION_OPTIONS.banMsMax + 1).kind, 'admit');
  });
});

describe('refused submissions', () => {
  function refuse(
    work: (rig: Rig, client: ReturnType<Rig['connect']>, job: ReturnType<typeof createJob>) => void,
  ) {
    const refusals = new RefusalBook();
    const rig = createRig({ tools: { refusals } });
    const job = createJob();
    rig.setJob(job);
    const client = rig.connect();
    client.start();
    work(rig, client, job);
    return refusals.take().flatMap(({ topic, records }) =>
      records.map(({ key, value }) => {
        const decoded = decodeRejectedShare(value);
        assert.ok(decoded.ok);
        assert.equal(key, client.session.sessionId);
        return { topic, ...decoded.value };
      }),
    );
  }

  it('a stale share goes to share.stale, whole', () => {
    const hashes: Uint8Array[] = [];
    const told = refuse((rig, client, job) => {
      const share = mine(client, job);
      hashes.push(share.hash);
      rig.setJob(createJob({ previousHash: new Uint8Array(32).fill(9), clean: true }));
      rig.pass(60_000);
      client.submit(share);
    });
    assert.deepEqual(
      told.map(({ topic, reason }) => [topic, reason]),
      [['share.stale', 'stale']],
    );
    const { share } = told[0]!;
    assert.equal(encodeHex(share!.headerHash), encodeHex(hashes[0]!));
    assert.equal(share!.account, MINER);
    assert.equal(share!.worker, 'w');
    assert.equal(share!.difficulty, SHARE_DIFFICULTY);
    assert.equal(share!.gateway, 'g1');
  });

  it('others go to share.rejected, with their reason, and as text when there is no header', () => {
    const told = refuse((_, client, job) => {
      const share = mine(client, job);
      client.submit(share);
      client.submit(share);
      client.submit({ ...share, jobId: 'ffffffff' });
      client.call('mining.submit', [7]);
    });
    assert.deepEqual(
      told.map(({ topic, reason, share }) => [topic, reason, share !== null]),
      [
        ['share.rejected', 'duplicate', true],
        ['share.rejected', 'unknown-job', false],
        ['share.rejected', 'malformed', false],
      ],
    );
    assert.match(Buffer.from(told[1]!.raw).toString(), /ffffffff/);
  });

  it('a flood is counted, and the rest is told', () => {
    const refusals = new RefusalBook();
    for (let i = 0; i < 5_000; i++)
      refusals.note({
        share: null,
        sessionId: 's',
        text: 'x'.repeat(10_000),
        reason: 'malformed',
        detail: '',
        atMs: 1,
      });
    const [batch] = refusals.take();
    assert.equal(batch!.records.length + refusals.dropped, 5_000);
    assert.ok(batch!.records.length <= 2_000);
    assert.ok(batch!.records.every(({ value }) => value.length < 1_200));
    assert.deepEqual(refusals.take(), []);
  });
});
