/**
 * Two job managers without a number of their own, on two nodes over a real broker, and two gateways: one manager lags, one is stopped, one is killed, the chain splits.
 * Gateways follow the tip with most work and do not flap (promises P14, P26; fault F-N9).
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { decodeJobNews, decodeTemplateBody } from '../../src/messages/codec.ts';
import { type Devnet, type DevnetOptions, startDevnet } from '../../src/services/devnet/devnet.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../tools/broker.ts';
import { makeDataDir, type PoolProcess, removeData } from '../tools/pool-process.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { TestMiner } from '../tools/test-miner.ts';
import { POOL_ADDRESS, startService, untilReady } from './rig.ts';

const missing = kafkaMissing();
const NEVER_LATER_MS = 120_000;

describe(`two job managers${missing === null ? '' : ` (${missing})`}`, () => {
  let dataDir = '';
  let broker: TestBroker;
  const nodes: Devnet[] = [];
  const managers: PoolProcess[] = [];
  const gateways: PoolProcess[] = [];
  const miners: TestMiner[] = [];
  let reader: KafkaBus;
  /** Times each job manager has said its job again, and the ids of all jobs of each, by its name. */
  const said = new Map<string, number>();
  const ids = new Map<string, Set<string>>();
  /** Times the transactions of each job came, by its id. */
  const bodies = new Map<string, number>();
  let part: () => void = () => {};

  const startNode = (options: Partial<DevnetOptions>): Promise<Devnet> =>
    startDevnet(
      { clock: { nowMs: () => Date.now() }, log: createSilentLog() },
      {
        rpcPort: 0,
        zmqPort: 0,
        user: 'pool',
        password: 'word',
        initialBlocks: 0,
        transactionsPerBlock: 3,
        ...options,
      },
    );
  const settingsOf = (node: Devnet) => ({
    settings: {
      BITCOIN_RPC_URL: node.rpcUrl,
      BITCOIN_RPC_USER: 'pool',
      BITCOIN_RPC_PASSWORD: 'word',
      BITCOIN_ZMQ_ADDR: node.zmqAddress!,
    },
  });
  const startManager = (at: number, ports?: PoolProcess['ports']) =>
    startService('jobmanager', {
      dataDir,
      brokers: broker.brokers,
      node: settingsOf(nodes[at]!),
      env: { DATA_DIR: join(dataDir, `jobmanager-${at}`) },
      ...(ports === undefined ? {} : { ports }),
    });
  /** What a job manager calls itself to gateways. */
  const nameOf = (manager: PoolProcess) =>
    String(manager.logged('jobs are made').at(-1)?.source ?? '');
  async function eventually(what: string, condition: () => boolean | Promise<boolean>) {
    const endMs = performance.now() + NEVER_LATER_MS;
    while (!(await condition())) {
      if (performance.now() > endMs)
        throw new Error(
          `${what}\n${[...gateways, ...managers].map((one) => one.tail()).join('\n')}`,
        );
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  const tipOf = (miner: TestMiner) => encodeHexReversed(miner.job!.previousHash);
  const allOn = (node: Devnet) =>
    eventually('all miners on the tip', () =>
      miners.every((miner) => tipOf(miner) === node.chain.tip.id),
    );
  const nodesAgree = () =>
    eventually('the nodes to agree', () => nodes[0]!.chain.tip.id === nodes[1]!.chain.tip.id);
  const changes = () =>
    Promise.all(gateways.map((one) => one.metric('headframe_job_source_changes_total')));
  const generate = (node: Devnet, count = 1) =>
    node.call('generatetoaddress', [count, POOL_ADDRESS]);
  /** Both have said again what they have, so that a gateway that wanted to change would have. */
  async function bothSaid(): Promise<void> {
    const before = new Map(said);
    await eventually('both to speak', () =>
      managers
        .map(nameOf)
        .every((source) => (said.get(source) ?? 0) >= (before.get(source) ?? 0) + 2),
    );
  }
  /** Tips that a miner was told of, one after the other. */
  const tipsTold = (miner: TestMiner) =>
    miner.events
      .flatMap((event) => (event.kind === 'job' ? [encodeHexReversed(event.job.previousHash)] : []))
      .filter((tip, at, all) => tip !== all[at - 1]);

  before(async () => {
    dataDir = makeDataDir();
    broker = await startTestBroker();
    nodes.push(await startNode({ initialBlocks: 103 }), await startNode({}));
    part = nodes[0]!.connect(nodes[1]!);
    reader = createKafkaBus({
      log: createSilentLog(),
      brokers: broker.brokers,
      groupPrefix: 'test',
      clientId: 'test',
    });
    await reader.subscribe('mining.jobs', 'test', async (records) => {
      for (const { value } of records) {
        const news = decodeJobNews(value);
        assert.ok(news.ok);
        const { source, isAgain } = news.value.origin;
        if (isAgain) said.set(source, (said.get(source) ?? 0) + 1);
        ids.set(source, (ids.get(source) ?? new Set()).add(news.value.job.jobId));
      }
    });
    await reader.subscribe('mining.templates', 'test', async (records) => {
      for (const { value } of records) {
        const decoded = decodeTemplateBody(value);
        assert.ok(decoded.ok);
        const { jobId } = decoded.value;
        bodies.set(jobId, (bodies.get(jobId) ?? 0) + 1);
      }
    });
    managers.push(await startManager(0), await startManager(1));
    for (const instance of [11, 12])
      gateways.push(
        await startService('stratumd', {
          dataDir,
          brokers: broker.brokers,
          node: settingsOf(nodes[0]!),
          instance,
        }),
      );
    for (const service of [...managers, ...gateways]) await untilReady(service);
    for (const gateway of gateways)
      miners.push(
        await TestMiner.join({ port: gateway.ports.stratum, user: `${POOL_ADDRESS}.rig` }),
      );
  });

  after(async () => {
    for (const miner of miners) miner.hangUp();
    for (const service of [...gateways, ...managers]) {
      service.signal('SIGCONT');
      await service.stop();
    }
    await reader?.stop();
    part();
    for (const node of nodes) await node.stop();
    await broker?.stop();
    removeData(dataDir);
  });

  it('make jobs of different ids; a gateway told by both goes from tip to tip and never back', async () => {
    const counted = await changes();
    const heard = tipsTold(miners[0]!).length;
    for (let i = 0; i < 10; i++) {
      await generate(nodes[i % 2]!);
      await nodesAgree();
      await allOn(nodes[0]!);
    }
    for (const miner of miners) {
      const tips = tipsTold(miner);
      assert.equal(new Set(tips).size, tips.length, 'a tip was told twice');
    }
    assert.ok(tipsTold(miners[0]!).length <= heard + 10);
    const [ones, others] = managers.map((manager) => ids.get(nameOf(manager))!);
    assert.ok(ones!.size >= 5 && others!.size >= 5);
    assert.deepEqual(ones!.intersection(others!), new Set());
    const after = await changes();
    for (const [i, count] of after.entries()) assert.ok(count - counted[i]! <= 10, 'flaps');
  });

  it('one lags behind: its jobs are not handed out', async () => {
    part();
    await generate(nodes[0]!, 2);
    await allOn(nodes[0]!);
    const counted = await changes();
    const told = miners.map((miner) => tipsTold(miner).length);
    // The one that lags goes on speaking of its tip.
    await bothSaid();
    assert.deepEqual(await changes(), counted);
    assert.deepEqual(
      miners.map((miner) => tipsTold(miner).length),
      told,
    );
    part = nodes[0]!.connect(nodes[1]!);
    await nodesAgree();
  });

  it('a split: each has a block of its own at one height; nobody changes until one side has more work', async () => {
    part();
    await generate(nodes[0]!);
    const [tip] = [nodes[0]!.chain.tip.id];
    await allOn(nodes[0]!);
    const counted = await changes();
    await generate(nodes[1]!);
    assert.notEqual(nodes[1]!.chain.tip.id, tip);
    await bothSaid();
    assert.ok(miners.every((miner) => tipOf(miner) === tip));
    assert.deepEqual(await changes(), counted);
    await generate(nodes[1]!);
    await allOn(nodes[1]!);
    part = nodes[0]!.connect(nodes[1]!);
    await nodesAgree();
  });

  it('the one in use is stopped, then killed: the other takes over, blocks land', async () => {
    const used = gateways[0]!.logged('work is taken from another job manager').at(-1)?.to;
    const at = used === nameOf(managers[0]!) ? 0 : 1;
    managers[at]!.signal('SIGSTOP');
    await generate(nodes[1 - at]!);
    await allOn(nodes[0]!);
    managers[at]!.signal('SIGKILL');
    await managers[at]!.ended();
    await miners[0]!.acceptedShare();
    await allOn(nodes[0]!);
    const gone = nameOf(managers[at]!);
    const last = [...ids.get(used as string)!].at(-1)!;
    assert.equal(bodies.get(last), 1);
    managers[at] = await startManager(at, managers[at]!.ports);
    // A find on that job may still wait for them.
    await eventually('the transactions of its last job again', () => bodies.get(last) === 2);
    await untilReady(managers[at]!);
    assert.notEqual(nameOf(managers[at]!), gone);
    const counted = await changes();
    await bothSaid();
    assert.deepEqual(await changes(), counted, 'coming back is no reason to change');
  });

  it('a late gateway starts with a job that it can make blocks of', async () => {
    const late = await startService('stratumd', {
      dataDir,
      brokers: broker.brokers,
      node: settingsOf(nodes[0]!),
      instance: 13,
    });
    gateways.push(late);
    await untilReady(late);
    const miner = await TestMiner.join({ port: late.ports.stratum, user: `${POOL_ADDRESS}.late` });
    miners.push(miner);
    await allOn(nodes[0]!);
    const before = nodes[0]!.chain.tip.id;
    await miner.acceptedShare();
    await eventually('a block', () => nodes[0]!.chain.tip.id !== before);
    await allOn(nodes[0]!);
  });
});
