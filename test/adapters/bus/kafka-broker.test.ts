/** Brokers that stop, die and come back. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../../src/adapters/bus/kafka.ts';
import { publishUntilSafe } from '../../contract/bus.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../../tools/broker.ts';
import { assertNothingLost, isAllReceived, type Sent, startBusLoad } from '../../tools/bus-load.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { until } from '../../tools/waiting.ts';

const missing = kafkaMissing();
const LIMIT_MS = 40_000;

if (missing !== null) test(`Kafka NOT FOUND: ${missing}`, () => {});
else
  describe('Kafka that stops, dies and comes back', () => {
    let broker: TestBroker;
    const log = createSilentLog();
    const open: KafkaBus[] = [];
    const connect = (options: Partial<Parameters<typeof createKafkaBus>[0]> = {}): KafkaBus => {
      const bus = createKafkaBus({
        log,
        brokers: broker.brokers,
        groupPrefix: `broker-${process.pid}-${open.length}`,
        clientId: 'test',
        heartbeatMs: 200,
        sessionMs: 3_000,
        publishTimeoutMs: 1_000,
        ...options,
      });
      open.push(bus);
      return bus;
    };

    before(async () => {
      broker = await startTestBroker();
    });
    after(async () => {
      await Promise.all(open.map((bus) => bus.stop()));
      await broker.stop();
    });

    test('publishers are told, nothing is lost, and nobody has to be started again', async (t) => {
      if (broker.control === null) return t.diagnostic('a broker of our own was not found');
      const { pause, resume, kill, restart } = broker.control;
      const bus = connect();
      const prefix = `away-${process.pid}-`;
      const received: Sent[] = [];
      await bus.subscribe('share.submissions', 'g', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      const load = startBusLoad(bus, 'share.submissions', prefix);
      await until('it runs', () => received.length > 200, LIMIT_MS);

      pause();
      // What was under way may have been late for other reasons.
      const before = load.rejections();
      await until('publishers are told', () => load.rejections() > before + 1, LIMIT_MS);
      await until('nobody answers', () => !bus.status().connected, LIMIT_MS);
      resume();
      const afterPause = received.length;
      await until('it goes on', () => received.length > afterPause + 200, LIMIT_MS);

      await kill();
      const rejections = load.rejections();
      await until('publishers are told again', () => load.rejections() > rejections, LIMIT_MS);
      await restart();
      const afterKill = received.length;
      await until('it goes on again', () => received.length > afterKill + 200, LIMIT_MS);
      await load.stop();
      await until('all arrived', () => isAllReceived(load.sent, received), LIMIT_MS);
      assertNothingLost(load.sent, received);
      await until('connected', () => bus.status().connected, LIMIT_MS);
    });

    test('services that start before their broker wait for it', async (t) => {
      if (broker.control === null) return t.diagnostic('a broker of our own was not found');
      const { kill, restart } = broker.control;
      await kill();
      const bus = connect({ subscribeWaitMs: 100, publishTimeoutMs: 500 });
      const key = `early-${process.pid}`;
      const shares: string[] = [];
      const jobs: string[] = [];
      for (const [topic, texts] of [
        ['share.stale', shares],
        ['mining.jobs', jobs],
      ] as const) {
        await bus.subscribe(topic, 'g', async (records) => {
          texts.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
        });
      }
      const record = { key, value: Buffer.from('x') };
      await assert.rejects(bus.publish('share.stale', [record]), /did not take/);
      assert.equal(bus.status().connected, false);
      await restart();
      await bus.ready;
      await publishUntilSafe(bus, 'share.stale', [record]);
      await publishUntilSafe(bus, 'mining.jobs', [record]);
      await until('both came', () => shares.includes('x') && jobs.includes('x'), LIMIT_MS);
    });

    test('stopping a bus whose broker is away takes no longer than it may', async (t) => {
      if (broker.control === null) return t.diagnostic('a broker of our own was not found');
      const { pause, resume } = broker.control;
      const bus = connect({ stopTimeoutMs: 300, publishTimeoutMs: 60_000 });
      await bus.subscribe('share.stale', 'g', async () => {});
      pause();
      const hanging = assert.rejects(
        bus.publish('share.stale', [{ key: 'k', value: Buffer.from('x') }]),
        /stopped/,
      );
      await bus.stop();
      await hanging;
      resume();
    });
  });
