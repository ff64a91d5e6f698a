/** Brokers that stop, die and come back; members of a group that die, come and go. */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../../src/adapters/bus/kafka.ts';
import { PARTITIONS } from '../../../src/messages/topics.ts';
import { publishUntilSafe } from '../../contract/bus.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../../tools/broker.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { until } from '../../tools/waiting.ts';

const missing = kafkaMissing();
const LIMIT_MS = 30_000;

if (missing !== null) test(`Kafka NOT FOUND: ${missing}`, () => {});
else
  describe('Kafka in trouble', () => {
    let broker: TestBroker;
    let groups = 0;
    const log = createSilentLog();
    const open: KafkaBus[] = [];
    const children: ChildProcess[] = [];
    const share = (key: string, text: string) => ({ key, value: Buffer.from(text) });
    const connect = (options: Partial<Parameters<typeof createKafkaBus>[0]> = {}): KafkaBus => {
      const bus = createKafkaBus({
        log,
        brokers: broker.brokers,
        groupPrefix: `faults-${process.pid}-${++groups}`,
        clientId: 'test',
        heartbeatMs: 200,
        sessionMs: 3_000,
        batchRecordsMax: 20,
        publishTimeoutMs: 2_000,
        ...options,
      });
      open.push(bus);
      return bus;
    };

    /** Publishes shares of some keys one after the other until it is told to stop; nothing of it may be missing afterwards. */
    const load = (bus: KafkaBus, topic: string, prefix: string) => {
      const sent: [string, string][] = [];
      let rejections = 0;
      let isOver = false;
      const done = (async () => {
        for (let i = 0; !isOver; i += 1) {
          const batch = Array.from({ length: 10 }, (_, j): [string, string] => [
            `${prefix}${(i * 10 + j) % 37}`,
            `${i * 10 + j}`,
          ]);
          await publishUntilSafe(
            bus,
            topic,
            batch.map(([key, text]) => share(key, text)),
            () => {
              rejections += 1;
            },
          );
          sent.push(...batch);
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
      })();
      done.catch(() => {});
      return {
        sent,
        rejections: () => rejections,
        async stop() {
          isOver = true;
          await done;
        },
      };
    };

    /** Every record came; for each key the first time it came it was in its order. */
    const assertNothingLost = (
      sent: readonly [string, string][],
      received: readonly (readonly [string, string])[],
    ): void => {
      const first = new Map<string, Set<string>>();
      for (const [key, text] of received) first.set(key, (first.get(key) ?? new Set()).add(text));
      const wanted = new Map<string, string[]>();
      for (const [key, text] of sent) wanted.set(key, [...(wanted.get(key) ?? []), text]);
      for (const [key, texts] of wanted) assert.deepEqual([...(first.get(key) ?? [])], texts, key);
    };

    const startChild = async (
      groupPrefix: string,
      topic: string,
      hold: 'hold' | 'handle',
    ): Promise<{ child: ChildProcess; received: [string, string][]; offsets: string[] }> => {
      const child = fork(new URL('../../tools/kafka-consumer.ts', import.meta.url), [
        broker.brokers.join(','),
        groupPrefix,
        topic,
        hold,
      ]);
      children.push(child);
      const received: [string, string][] = [];
      const offsets: string[] = [];
      let isSubscribed = false;
      child.on(
        'message',
        (message: { subscribed?: boolean; records?: [string, string, string][] }) => {
          isSubscribed ||= message.subscribed === true;
          for (const [key, text, offset] of message.records ?? []) {
            received.push([key, text]);
            offsets.push(offset);
          }
        },
      );
      await until('the other process reads', () => isSubscribed, LIMIT_MS);
      return { child, received, offsets };
    };

    before(async () => {
      broker = await startTestBroker();
    });
    after(async () => {
      for (const child of children) child.kill('SIGKILL');
      await Promise.all(open.map((bus) => bus.stop()));
      await broker.stop();
    });

    test('a broker that stops answering, and one that dies: publishers are told, nothing is lost, nobody is started again', async (t) => {
      if (broker.control === null) return t.diagnostic('a broker of our own was not found');
      const { pause, resume, kill, restart } = broker.control;
      const bus = connect();
      const prefix = `away-${process.pid}-`;
      const received: [string, string][] = [];
      await bus.subscribe('share.submissions', 'g', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      const producer = load(bus, 'share.submissions', prefix);
      await until('it runs', () => received.length > 200, LIMIT_MS);

      pause();
      await until('publishers are told', () => producer.rejections() > 0, LIMIT_MS);
      assert.equal(bus.status().connected, false);
      resume();
      const afterPause = received.length;
      await until('it goes on', () => received.length > afterPause + 200, LIMIT_MS);

      await kill();
      const rejections = producer.rejections();
      await until('publishers are told again', () => producer.rejections() > rejections, LIMIT_MS);
      await restart();
      const afterKill = received.length;
      await until('it goes on again', () => received.length > afterKill + 200, LIMIT_MS);
      await producer.stop();
      const wanted = new Set(producer.sent.map(([key, text]) => `${key} ${text}`));
      await until(
        'everything arrived',
        () => new Set(received.map(([key, text]) => `${key} ${text}`)).size === wanted.size,
        LIMIT_MS,
      );
      assertNothingLost(producer.sent, received);
      await until('connected', () => bus.status().connected, LIMIT_MS);
    });

    test('services that start before their broker wait for it', async (t) => {
      if (broker.control === null) return t.diagnostic('a broker of our own was not found');
      const { kill, restart } = broker.control;
      await kill();
      const bus = connect({ subscribeWaitMs: 100, publishTimeoutMs: 500 });
      const key = `early-${process.pid}`;
      const seen: string[] = [];
      await bus.subscribe('share.stale', 'g', async (records) => {
        seen.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
      });
      const jobs: string[] = [];
      await bus.subscribe('mining.jobs', 'g', async (records) => {
        jobs.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
      });
      await assert.rejects(bus.publish('share.stale', [share(key, 'x')]), /did not take/);
      await restart();
      await bus.ready;
      await publishUntilSafe(bus, 'share.stale', [share(key, 'x')]);
      await publishUntilSafe(bus, 'mining.jobs', [share(key, 'job')]);
      await until('both are there', () => seen.includes('x') && jobs.includes('job'), LIMIT_MS);
    });

    test('a consumer killed in the middle of a batch: another one is handed that batch', async () => {
      const groupPrefix = `killed-${process.pid}`;
      const prefix = `killed-${process.pid}-`;
      const bus = connect({ groupPrefix });
      const first = await startChild(groupPrefix, 'share.valid', 'hold');
      const producer = load(bus, 'share.valid', prefix);
      await until('it holds a batch', () => first.received.length > 0, LIMIT_MS);
      await producer.stop();
      first.child.kill('SIGKILL');
      const received: [string, string][] = [];
      await bus.subscribe('share.valid', 'g', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      await until('all arrived', () => received.length >= producer.sent.length, LIMIT_MS);
      assertNothingLost(producer.sent, received);
    });

    test('one member, two, one again, under load: nothing is lost, and nothing comes twice when all end in order', async () => {
      const groupPrefix = `turns-${process.pid}`;
      const prefix = `turns-${process.pid}-`;
      const received: [string, string][] = [];
      const read = async (): Promise<KafkaBus> => {
        const bus = connect({ groupPrefix });
        await bus.subscribe('share.rejected', 'g', async (records) => {
          await new Promise((resolve) => setTimeout(resolve, 3));
          for (const { key, value } of records)
            if (key.startsWith(prefix)) received.push([key, String(value)]);
        });
        return bus;
      };
      const partitionsOf = (bus: KafkaBus): number => bus.status().subscriptions[0]!.partitions;
      const first = await read();
      const producer = load(connect(), 'share.rejected', prefix);
      await until('it runs', () => received.length > 200, LIMIT_MS);
      for (let turn = 0; turn < 2; turn += 1) {
        const second = await read();
        await until(
          'both have a half',
          () => partitionsOf(first) === PARTITIONS / 2 && partitionsOf(second) === PARTITIONS / 2,
          LIMIT_MS,
        );
        const shared = received.length;
        await until('both run', () => received.length > shared + 200, LIMIT_MS);
        await second.stop();
        await until('one has all', () => partitionsOf(first) === PARTITIONS, LIMIT_MS);
        const alone = received.length;
        await until('it runs on', () => received.length > alone + 200, LIMIT_MS);
      }
      await producer.stop();
      await until('all arrived', () => received.length >= producer.sent.length, LIMIT_MS);
      assertNothingLost(producer.sent, received);
      assert.equal(producer.rejections(), 0);
      assert.equal(received.length, producer.sent.length);
    });

    test('a member that was stopped and thrown out commits nothing when it wakes', async () => {
      const groupPrefix = `fenced-${process.pid}`;
      const prefix = `fenced-${process.pid}-`;
      const publisher = connect();
      const first = await startChild(groupPrefix, 'share.stale', 'handle');
      const producer = load(publisher, 'share.stale', prefix);
      await until('it runs', () => first.received.length > 100, LIMIT_MS);
      first.child.kill('SIGSTOP');
      const received: [string, string][] = [];
      const second = connect({ groupPrefix });
      await second.subscribe('share.stale', 'g', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      await until('the other has everything', () => received.length > 200, LIMIT_MS);
      first.child.kill('SIGCONT');
      await until(
        'both have some',
        () => second.status().subscriptions[0]!.partitions === PARTITIONS / 2,
        LIMIT_MS,
      );
      await producer.stop();
      const wanted = new Set(producer.sent.map(([key, text]) => `${key} ${text}`));
      const all = (): [string, string][] => [...first.received, ...received];
      await until(
        'everything arrived',
        () => wanted.isSubsetOf(new Set(all().map(([key, text]) => `${key} ${text}`))),
        LIMIT_MS,
      );
    });
  });
