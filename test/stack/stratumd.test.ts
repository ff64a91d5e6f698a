/**
 * Two gateways and a job manager as processes over a real broker: mining goes on, blocks land, and no acknowledged share is lost while
 * the broker is stopped, killed, slow to come back, while the gateway itself is killed, and while the cache and the database are away
 * (promises P01, P04, P25, P26, P38; faults F-K1, F-R1 to F-R3, F-G1).
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { encodeHex, encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import type { JobOrigin } from '../../src/core/work/follow.ts';
import type { Job } from '../../src/core/work/job.ts';
import {
  decodeBlockCandidate,
  decodeJobNews,
  decodeRejectedShare,
  decodeShare,
  encodeJob,
} from '../../src/messages/codec.ts';
import { isMarkKey } from '../../src/messages/share.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../tools/broker.ts';
import { makeDataDir, type PoolProcess, removeData } from '../tools/pool-process.ts';
import { REDIS_SERVER, type RedisServer, startRedis } from '../tools/redis-server.ts';
import { findProgram, type RegtestNode, startRegtestNode } from '../tools/regtest-node.ts';
import { TestMiner } from '../tools/test-miner.ts';
import { createMemoryLog, until } from '../tools/waiting.ts';
import { POOL_ADDRESS, startService, untilReady } from './rig.ts';

const missing = kafkaMissing();
const NEVER_LATER_MS = 120_000;

describe(`gateways over Kafka${missing === null ? '' : ` (${missing})`}`, () => {
  let dataDir = '';
  let broker: TestBroker;
  let node: RegtestNode;
  let redis: RedisServer | null = null;
  let jobmanager: PoolProcess;
  const gateways: PoolProcess[] = [];
  let reader: KafkaBus;
  /** Header hashes on share.submissions, with the gateway that judged them. */
  const submitted = new Map<string, string>();
  const marks = new Map<string, number>();
  const candidates = new Set<string>();
  const refused: string[] = [];
  /** Shares for which a miner heard `true`. */
  let acknowledged = 0;
  let lastJob: { job: Job; origin: JobOrigin } | null = null;

  const startGateway = (instance: number, ports?: PoolProcess['ports']) =>
    startService('stratumd', {
      dataDir,
      brokers: broker.brokers,
      node,
      instance,
      ...(ports === undefined ? {} : { ports }),
      env: redis === null ? {} : { REDIS_URL: redis.url },
    });
  const dial = (gateway: PoolProcess, name: string) =>
    TestMiner.join({ port: gateway.ports.stratum, user: `${POOL_ADDRESS}.${name}` });
  /** A miner with a job on the newest block. */
  async function join(gateway: PoolProcess, name: string): Promise<TestMiner> {
    const miner = await dial(gateway, name);
    await reachTip(miner);
    return miner;
  }
  const reachTip = (miner: TestMiner) =>
    eventually(
      'a job on the newest block',
      async () =>
        encodeHexReversed(miner.job!.previousHash) === (await node.call('getbestblockhash')),
    );
  const height = async () => Number(await node.call('getblockcount'));
  /** Shares until so many more were acknowledged; every one of them is a block too, and the chain must grow. */
  async function mine(miner: TestMiner, count: number): Promise<void> {
    await reachTip(miner);
    const before = await height();
    for (let i = 0; i < count; i++) {
      await miner.acceptedShare();
      acknowledged += 1;
    }
    await eventually('the chain to grow', async () => (await height()) > before);
  }
  async function eventually(what: string, condition: () => boolean | Promise<boolean>) {
    const endMs = performance.now() + NEVER_LATER_MS;
    while (!(await condition())) {
      if (performance.now() > endMs)
        throw new Error(`${what}\n${gateways.map((one) => one.tail()).join('\n')}`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
  const allArrived = () =>
    eventually(
      `${acknowledged} shares on the topic, ${submitted.size} there`,
      () => submitted.size >= acknowledged,
    );

  before(async () => {
    dataDir = makeDataDir();
    broker = await startTestBroker();
    node = await startRegtestNode(findProgram('BITCOIND', 'bitcoind'));
    if (REDIS_SERVER !== null) redis = await startRedis(REDIS_SERVER);
    reader = createKafkaBus({
      log: createMemoryLog(),
      brokers: broker.brokers,
      groupPrefix: 'test',
      clientId: 'test',
    });
    await reader.subscribe('share.submissions', 'test', async (records) => {
      for (const { key, value } of records) {
        if (isMarkKey(key)) {
          marks.set(key, (marks.get(key) ?? 0) + 1);
          continue;
        }
        const share = decodeShare(value);
        assert.ok(share.ok);
        submitted.set(encodeHex(share.value.headerHash), share.value.gateway);
      }
    });
    await reader.subscribe('block.candidates', 'test', async (records) => {
      for (const { value } of records) {
        const candidate = decodeBlockCandidate(value);
        assert.ok(candidate.ok);
        candidates.add(encodeHex(candidate.value.headerHash));
      }
    });
    for (const topic of ['share.stale', 'share.rejected'])
      await reader.subscribe(topic, 'test', async (records) => {
        for (const { value } of records) {
          const rejected = decodeRejectedShare(value);
          assert.ok(rejected.ok);
          refused.push(`${topic} ${rejected.value.reason}`);
        }
      });
    await reader.subscribe('mining.jobs', 'test', async (records) => {
      const news = decodeJobNews(records.at(-1)!.value);
      assert.ok(news.ok);
      lastJob = { job: news.value.job, origin: { ...news.value.origin, isAgain: false } };
    });
    jobmanager = await startService('jobmanager', {
      dataDir,
      brokers: broker.brokers,
      node,
      instance: 9,
      env: redis === null ? {} : { REDIS_URL: redis.url },
    });
    gateways.push(await startGateway(1), await startGateway(2));
    for (const service of [jobmanager, ...gateways]) await untilReady(service);
  });

  afterEach(() => broker.control?.mend());

  after(async () => {
    for (const service of [...gateways, jobmanager]) {
      service?.signal('SIGCONT');
      await service?.stop();
    }
    await reader?.stop();
    await redis?.stop();
    await node?.stop();
    await broker?.stop();
    removeData(dataDir);
  });

  it('both hand out work of their own part, mine blocks, and ship every share with their names', async () => {
    const [first, second] = await Promise.all([join(gateways[0]!, 'a'), join(gateways[1]!, 'b')]);
    assert.equal(first.job!.extranonce1[0], 1);
    assert.equal(second.job!.extranonce1[0], 2);
    await mine(first, 3);
    await mine(second, 3);
    await allArrived();
    assert.deepEqual([...new Set(submitted.values())].sort(), ['stratumd-1', 'stratumd-2']);
    await eventually('marks of both', () => marks.size === 2);
    await eventually('the candidates', () => candidates.size >= 6);
    first.hangUp();
    second.hangUp();
  });

  it('tell others of what they refused', async () => {
    const miner = await join(gateways[0]!, 'refused');
    const params = await miner.acceptedShare();
    acknowledged += 1;
    const again = await miner.call('mining.submit', params);
    assert.notEqual(again.result, true);
    await eventually('the refusal', () =>
      refused.some((text) => /^share\.(rejected duplicate|stale stale)$/.test(text)),
    );
    miner.hangUp();
  });

  it('a tip from elsewhere reaches the miners of both', async () => {
    const miners = await Promise.all(gateways.map((gateway) => join(gateway, 'tip')));
    const jobs = miners.map((miner) => miner.job);
    await node.call('generatetoaddress', [1, POOL_ADDRESS]);
    for (const [i, miner] of miners.entries())
      await eventually('a new job', () => miner.job !== jobs[i]);
    for (const miner of miners) miner.hangUp();
  });

  it('the transactions of a job never come: its blocks land all the same, by the node that still has them', async () => {
    const miner = await join(gateways[0]!, 'spare');
    const { job, origin } = lastJob!;
    const heard = miner.job;
    const before = await height();
    await reader.publish('mining.jobs', [
      { key: 'job', value: encodeJob({ ...job, jobId: 'feed0001', clean: true }, origin) },
    ]);
    await eventually('the job without transactions', () => miner.job !== heard);
    await miner.acceptedShare();
    acknowledged += 1;
    await eventually('the block', async () => (await height()) > before);
    const word = 'the transactions of a job did not come; a node had them still';
    // Where there are none, nobody need be asked.
    if (job.transactionCount > 0)
      await eventually('word of it', () => gateways[0]!.logged(word).length === 1);
    miner.hangUp();
  });

  it('the broker is stopped, and goes on: shares are acknowledged, blocks land, and all arrives', async () => {
    if (broker.control === null) return;
    const miner = await join(gateways[0]!, 'stopped');
    broker.control.pause();
    const before = await height();
    // The first is a block; on the job of before it only shares of the old tip follow, which are stale.
    await miner.acceptedShare();
    acknowledged += 1;
    await eventually('the block', async () => (await height()) > before);
    const late = await dial(gateways[0]!, 'late');
    assert.ok(late.isReady);
    late.hangUp();
    broker.control.resume();
    await allArrived();
    await mine(miner, 2);
    await allArrived();
    miner.hangUp();
  });

  it('the broker is killed: blocks land, and a gateway that starts now lives, is not ready and says why; it comes back, and both work', async () => {
    if (broker.control === null) return;
    const miner = await join(gateways[1]!, 'killed');
    await broker.control.kill();
    const third = await startGateway(3);
    gateways.push(third);
    const before = await height();
    await miner.acceptedShare();
    acknowledged += 1;
    await eventually('the block', async () => (await height()) > before);
    assert.deepEqual(await untilReady(gateways[1]!), []);
    const reasons = await untilReady(third, false);
    assert.match(reasons.join(), /no work|starting/);
    assert.equal((await third.get('metrics', '/live')).status, 200);
    await broker.control.restart();
    await allArrived();
    await mine(miner, 2);
    miner.hangUp();
    await untilReady(third);
    const patient = await join(third, 'patient');
    assert.equal(patient.job!.extranonce1[0], 3);
    await mine(patient, 1);
    patient.hangUp();
    await allArrived();
  });

  it('the broker hangs: one gateway is killed, one is told to end and ends in time; the next starts ship what nobody has but their journals', async () => {
    if (broker.control === null) return;
    const ones = [gateways[0]!, gateways[1]!];
    const miners = [await join(ones[0]!, 'journal'), await join(ones[1]!, 'hanging')];
    await Promise.all(miners.map(reachTip));
    broker.control.pause();
    for (const miner of miners) await miner.acceptedShare();
    acknowledged += miners.length;
    ones[0]!.signal('SIGKILL');
    await ones[0]!.ended();
    assert.equal(await ones[1]!.stop(), 0, ones[1]!.tail());
    broker.control.resume();
    for (const at of [0, 1]) gateways[at] = await startGateway(at + 1, ones[at]!.ports);
    for (const at of [0, 1]) await untilReady(gateways[at]!);
    await allArrived();
    assert.equal(submitted.size, acknowledged, 'what was acknowledged, and nothing else');
    const again = await join(gateways[0]!, 'again');
    await mine(again, 1);
    again.hangUp();
  });

  it('the job manager is stopped: the last job is mined on; killed and started again: jobs go on', async () => {
    const miner = await join(gateways[1]!, 'jobless');
    jobmanager.signal('SIGSTOP');
    const before = await height();
    await miner.acceptedShare();
    acknowledged += 1;
    await eventually('the block', async () => (await height()) > before);
    jobmanager.signal('SIGKILL');
    await jobmanager.ended();
    jobmanager = await startService('jobmanager', {
      dataDir,
      brokers: broker.brokers,
      node,
      instance: 9,
      ports: jobmanager.ports,
    });
    await untilReady(jobmanager);
    await mine(miner, 2);
    await allArrived();
    miner.hangUp();
  });

  it('Redis is flushed, frozen, killed: nobody notices', async () => {
    if (redis === null) return;
    for (const harm of [
      async () => void (await redis?.command('FLUSHALL')),
      async () => redis?.freeze(),
      async () => {
        redis?.thaw();
        await redis?.kill();
      },
    ]) {
      await harm();
      const miner = await join(gateways[1]!, 'cacheless');
      await mine(miner, 1);
      miner.hangUp();
      assert.deepEqual(await untilReady(gateways[1]!), []);
    }
    await redis.restart();
    await allArrived();
  });

  it('SIGTERM: answers go out, shares are shipped, exit code 0', async () => {
    const gateway = gateways[2] ?? gateways[0]!;
    const miner = await join(gateway, 'last');
    await mine(miner, 1);
    assert.equal(await gateway.stop(), 0, gateway.tail());
    await allArrived();
    assert.equal(submitted.size, acknowledged, 'what was acknowledged, and nothing else');
    await until('the socket closed', () => miner.isClosed);
  });
});
