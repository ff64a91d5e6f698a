/** Members of a group that die, come and go. */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../../src/adapters/bus/kafka.ts';
import { PARTITIONS } from '../../../src/messages/topics.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../../tools/broker.ts';
import { assertNothingLost, isAllReceived, type Sent, startBusLoad } from '../../tools/bus-load.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const missing = kafkaMissing();
const LIMIT_MS = 30_000;
/** So long that whoever has to wait for its end fails. */
const LONG_SESSION_MS = 120_000;

if (missing !== null) test(`Kafka NOT FOUND: ${missing}`, () => {});
else
  describe('Kafka groups that change', () => {
    let broker: TestBroker;
    let groups = 0;
    const log = createMemoryLog();
    const open: KafkaBus[] = [];
    const children: ChildProcess[] = [];
    const connect = (options: Partial<Parameters<typeof createKafkaBus>[0]> = {}): KafkaBus => {
      const bus = createKafkaBus({
        log,
        brokers: broker.brokers,
        groupPrefix: `group-${process.pid}-${++groups}`,
        clientId: 'test',
        heartbeatMs: 200,
        sessionMs: 3_000,
        batchRecordsMax: 20,
        ...options,
      });
      open.push(bus);
      return bus;
    };

    const startChild = async (
      groupPrefix: string,
      topic: string,
      hold: 'hold' | 'handle',
      ...more: string[]
    ): Promise<{ child: ChildProcess; received: Sent[]; offsets: string[] }> => {
      const child = fork(new URL('../../tools/kafka-consumer.ts', import.meta.url), [
        broker.brokers.join(','),
        groupPrefix,
        topic,
        hold,
        ...more,
      ]);
      children.push(child);
      const received: Sent[] = [];
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

    test('a consumer killed in the middle of a batch: another one is handed that batch', async () => {
      const groupPrefix = `killed-${process.pid}`;
      const prefix = `killed-${process.pid}-`;
      const bus = connect({ groupPrefix });
      const first = await startChild(groupPrefix, 'share.valid', 'hold');
      const load = startBusLoad(bus, 'share.valid', prefix);
      await until('it holds a batch', () => first.received.length > 0, LIMIT_MS);
      await load.stop();
      first.child.kill('SIGKILL');
      const received: Sent[] = [];
      await bus.subscribe('share.valid', 'g', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      await until('all arrived', () => received.length >= load.sent.length, LIMIT_MS);
      assertNothingLost(load.sent, received);
    });

    test('one member, two, one again, under load: nothing is lost, and nothing comes twice when all end in order', async () => {
      const groupPrefix = `turns-${process.pid}`;
      const prefix = `turns-${process.pid}-`;
      const received: Sent[] = [];
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
      const load = startBusLoad(connect(), 'share.rejected', prefix);
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
      await load.stop();
      await until('all arrived', () => received.length >= load.sent.length, LIMIT_MS);
      assertNothingLost(load.sent, received);
      assert.equal(load.rejections(), 0);
      assert.equal(received.length, load.sent.length);
    });

    test('a member that was stopped and thrown out commits nothing when it wakes', async () => {
      const groupPrefix = `fenced-${process.pid}`;
      const prefix = `fenced-${process.pid}-`;
      const publisher = connect();
      const first = await startChild(groupPrefix, 'share.stale', 'handle');
      const load = startBusLoad(publisher, 'share.stale', prefix);
      await until('it runs', () => first.received.length > 100, LIMIT_MS);
      first.child.kill('SIGSTOP');
      const received: Sent[] = [];
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
      await load.stop();
      await until(
        'everything arrived',
        () => isAllReceived(load.sent, [...first.received, ...received]),
        LIMIT_MS,
      );
    });

    test('who is killed and comes back under his name has his partitions at once, and goes on where he was', async () => {
      const groupPrefix = `named-${process.pid}`;
      const prefix = `named-${process.pid}-`;
      const member = 'reader-1';
      const load = startBusLoad(connect(), 'share.valid', prefix);
      const lives = [
        await startChild(groupPrefix, 'share.valid', 'handle', String(LONG_SESSION_MS), member),
      ];
      // The leader of a group and who is not are taken back in different ways.
      const other = connect({ groupPrefix, member: 'reader-2', sessionMs: LONG_SESSION_MS });
      const received: Sent[] = [];
      await other.subscribe('share.valid', 'g', async (records) => {
        for (const { key, value } of records) received.push([key, String(value)]);
      });
      const half = () => other.status().subscriptions[0]!.partitions === PARTITIONS / 2;
      await until('both have a half', half, LIMIT_MS);
      for (let turn = 0; turn < 3; turn += 1) {
        const life = lives.at(-1)!;
        await until('it runs', () => life.received.length > 100, LIMIT_MS);
        life.child.kill('SIGKILL');
        lives.push(
          await startChild(groupPrefix, 'share.valid', 'handle', String(LONG_SESSION_MS), member),
        );
        assert.ok(half());
      }
      const everything = () => [...received, ...lives.flatMap((life) => life.received)];
      await load.stop();
      await until('everything arrived', () => isAllReceived(load.sent, everything()), LIMIT_MS);
      lives.at(-1)!.child.send('stop');
      await until(
        'who leaves in order is not waited for',
        () => other.status().subscriptions[0]!.partitions === PARTITIONS,
        LIMIT_MS,
      );
      await other.stop();
    });

    test('two under one name: one line says so, they share the work, and nothing is lost', async () => {
      const groupPrefix = `twins-${process.pid}`;
      const prefix = `twins-${process.pid}-`;
      const received: Sent[] = [];
      const read = async (): Promise<KafkaBus> => {
        const bus = connect({ groupPrefix, member: 'twin', sessionMs: 10_000 });
        await bus.subscribe('share.rejected', 'g', async (records) => {
          for (const { key, value } of records)
            if (key.startsWith(prefix)) received.push([key, String(value)]);
        });
        return bus;
      };
      const load = startBusLoad(connect(), 'share.rejected', prefix);
      const twins = [await read()];
      await until('it runs', () => received.length > 100, LIMIT_MS);
      twins.push(await read());
      const shared = () =>
        twins.every((one) => one.status().subscriptions[0]!.partitions === PARTITIONS / 2);
      await until('both have a half', shared, LIMIT_MS);
      const before = received.length;
      await until('they run', () => received.length > before + 500, LIMIT_MS);
      await load.stop();
      await until('everything arrived', () => isAllReceived(load.sent, received), LIMIT_MS);
      assert.ok(shared());
      const said = log.lines.filter(({ message }) => /another process works under/.test(message));
      assert.deepEqual(
        said.map(({ level, fields }) => [level, fields.name]),
        [['error', 'twin']],
      );
    });
  });
