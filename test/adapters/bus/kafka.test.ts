import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ConfigResourceTypes, IncrementalAlterConfigOperationTypes } from '@platformatic/kafka';
import { createKafkaBus, type KafkaBus } from '../../../src/adapters/bus/kafka.ts';
import { batchBytesMax, UnusableKafkaError } from '../../../src/adapters/bus/kafka-topics.ts';
import { partitionOf } from '../../../src/adapters/bus/partitioner.ts';
import { PARTITIONS, TOPICS } from '../../../src/messages/topics.ts';
import type { ReceivedRecord } from '../../../src/ports.ts';
import { busContract, outcomeRecord } from '../../contract/bus.ts';
import { kafkaMissing, startTestBroker, type TestBroker, withAdmin } from '../../tools/broker.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { until } from '../../tools/waiting.ts';

const missing = kafkaMissing();
const LIMIT_MS = 20_000;

if (missing !== null) test(`Kafka NOT FOUND: ${missing}`, () => {});
else
  describe('Kafka', () => {
    let broker: TestBroker;
    let groups = 0;
    const log = createSilentLog();
    const open: KafkaBus[] = [];
    const share = (key: string, text: string, partition?: number) => ({
      key,
      value: Buffer.from(text),
      ...(partition === undefined ? {} : { partition }),
    });
    const connect = (options: Partial<Parameters<typeof createKafkaBus>[0]> = {}): KafkaBus => {
      const bus = createKafkaBus({
        log,
        brokers: broker.brokers,
        groupPrefix: `test-${process.pid}-${++groups}`,
        clientId: 'test',
        heartbeatMs: 200,
        sessionMs: 3_000,
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

    busContract('Kafka, two ends', async () => {
      const groupPrefix = `contract-${process.pid}-${++groups}`;
      const publisher = connect({ groupPrefix });
      const subscriber = connect({ groupPrefix });
      return {
        publisher,
        subscriber,
        async close() {
          await publisher.stop();
          await subscriber.stop();
        },
      };
    });

    test('topics are made as the table says', async () => {
      const bus = connect();
      await bus.ready;
      await withAdmin(broker.brokers, async (admin) => {
        const names = Object.keys(TOPICS) as (keyof typeof TOPICS)[];
        const { topics } = await admin.metadata({ topics: [...names] });
        const found = await admin.describeConfigs({
          resources: names.map((resourceName) => ({
            resourceType: ConfigResourceTypes.TOPIC,
            resourceName,
          })),
        });
        for (const name of names) {
          const configs = found.find(({ resourceName }) => resourceName === name)?.configs ?? [];
          const setting = (key: string) => configs.find((one) => one.name === key)?.value;
          const row = TOPICS[name];
          assert.equal(topics.get(name)?.partitionsCount, row.partitions, name);
          assert.equal(setting('max.message.bytes'), String(batchBytesMax(row)), name);
          assert.equal(setting('cleanup.policy'), row.retained ? 'compact' : 'delete', name);
          if (row.retentionMs !== null)
            assert.equal(setting('retention.ms'), String(row.retentionMs), name);
        }
      });
    });

    test('a key goes to the same partition in every topic of shares, and a record may name its own', async () => {
      const bus = connect();
      const prefix = `place-${process.pid}-`;
      const seen = new Map<string, Set<number>>();
      let count = 0;
      for (const topic of ['share.submissions', 'share.valid', 'share.stale']) {
        await bus.subscribe(topic, 'g', async (records) => {
          for (const { key, partition } of records.filter((one) => one.key.startsWith(prefix))) {
            seen.set(key, (seen.get(key) ?? new Set()).add(partition as number));
            count += 1;
          }
        });
        const keys = Array.from({ length: 40 }, (_, i) => `${prefix}${i}`);
        await bus.publish(
          topic,
          keys.map((key) => share(key, 'x')),
        );
      }
      await bus.publish(
        'share.valid',
        Array.from({ length: PARTITIONS }, (_, i) => share(`${prefix}mark`, 'x', i)),
      );
      await until('all are there', () => count >= 3 * 40 + PARTITIONS, LIMIT_MS);
      assert.equal(seen.get(`${prefix}mark`)?.size, PARTITIONS);
      seen.delete(`${prefix}mark`);
      for (const [key, partitions] of seen) {
        assert.deepEqual([...partitions], [partitionOf(Buffer.from(key), PARTITIONS)], key);
      }
    });

    test('offsets of a partition have no holes, and an owner that keeps its place starts there', async () => {
      const first = connect();
      const key = `from-${process.pid}`;
      const texts = Array.from({ length: 50 }, (_, i) => `${i}`);
      const all: ReceivedRecord[] = [];
      await first.subscribe('share.rejected', 'g', async (records) => {
        all.push(...records.filter((one) => one.key === key));
      });
      await first.publish(
        'share.rejected',
        texts.map((text) => share(key, text)),
      );
      await until('all are there', () => all.length === 50, LIMIT_MS);
      const start = all[0]?.offset as bigint;
      assert.deepEqual(
        all.map(({ offset }) => (offset as bigint) - start),
        texts.map((text) => BigInt(text)),
      );
      // The same group has committed all of it, or will have: its own word counts more.
      const partition = all[0]?.partition as number;
      await first.stop();
      const asked: number[] = [];
      const again = connect({ groupPrefix: `test-${process.pid}-${groups}` });
      const seen: string[] = [];
      await again.subscribe(
        'share.rejected',
        'g',
        async (records) => {
          seen.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
        },
        {
          from: async (one) => {
            asked.push(one);
            return one === partition ? start + 30n : null;
          },
        },
      );
      await until('the rest is there', () => seen.length >= 20, LIMIT_MS);
      assert.deepEqual(seen, texts.slice(30));
      assert.deepEqual(
        asked.sort((a, b) => a - b),
        Array.from({ length: PARTITIONS }, (_, i) => i),
      );
    });

    test('what was handled is not handed over again after an orderly stop; what was not, is', async () => {
      const groupPrefix = `resume-${process.pid}`;
      const key = `resume-${process.pid}`;
      const seen: string[] = [];
      let accepts = 60;
      const read = async (): Promise<KafkaBus> => {
        const bus = connect({ groupPrefix, batchRecordsMax: 10 });
        await bus.subscribe('share.stale', 'g', async (records) => {
          const mine = records.filter((one) => one.key === key);
          if (mine.length > 0 && accepts <= 0) throw new Error('enough');
          accepts -= mine.length;
          seen.push(...mine.map(({ value }) => String(value)));
        });
        return bus;
      };
      const publisher = connect();
      await publisher.publish(
        'share.stale',
        Array.from({ length: 100 }, (_, i) => share(key, `${i}`)),
      );
      const first = await read();
      await until('some are handled', () => seen.length >= 60, LIMIT_MS);
      await until(
        'and the next was refused',
        () => first.status().subscriptions[0]!.rejections > 0,
      );
      await first.stop();
      accepts = 100;
      await read();
      await until('all are handled', () => seen.length >= 100, LIMIT_MS);
      assert.deepEqual(
        seen,
        Array.from({ length: 100 }, (_, i) => `${i}`),
      );
    });

    test('the offsets of a group are set back: everything comes again', async () => {
      const groupPrefix = `replay-${process.pid}`;
      const key = `replay-${process.pid}`;
      const read = async (wanted: number): Promise<{ bus: KafkaBus; seen: string[] }> => {
        const bus = connect({ groupPrefix });
        const seen: string[] = [];
        await bus.subscribe('block.outcome', 'g', async (records) => {
          seen.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
        });
        await until('all are there', () => seen.length >= wanted, LIMIT_MS);
        await bus.stop();
        return { bus, seen };
      };
      const publisher = connect();
      const records = Array.from({ length: 20 }, (_, i) => outcomeRecord(key, i));
      await publisher.publish('block.outcome', records);
      const { seen: before } = await read(20);
      await publisher.publish('block.outcome', [outcomeRecord(key, 20)]);
      const { seen: next } = await read(1);
      assert.equal(next.length, 1);
      await withAdmin(broker.brokers, async (admin) => {
        await admin.alterConsumerGroupOffsets({
          groupId: `${groupPrefix}.g.block.outcome`,
          topics: [{ name: 'block.outcome', partitionOffsets: [{ partition: 0, offset: 0n }] }],
        });
      });
      const { seen: again } = await read(21);
      assert.deepEqual(again, [...before, ...next]);
    });

    test('records that are gone before they were read are told of, and reading goes on', async () => {
      const groupPrefix = `gap-${process.pid}`;
      const key = `gap-${process.pid}`;
      const publisher = connect();
      await publisher.publish(
        'dead.letters',
        Array.from({ length: 10 }, (_, i) => share(key, `${i}`)),
      );
      await withAdmin(broker.brokers, (admin) =>
        admin.deleteRecords({
          topics: [{ name: 'dead.letters', partitions: [{ partition: 0, offset: 7n }] }],
        }),
      );
      const bus = connect({ groupPrefix });
      const seen: string[] = [];
      await bus.subscribe(
        'dead.letters',
        'g',
        async (records) => void seen.push(...records.map((one) => String(one.value))),
        { from: async () => 2n },
      );
      await until('the rest is there', () => seen.length >= 3, LIMIT_MS);
      assert.deepEqual(seen, ['7', '8', '9']);
      assert.equal(bus.status().subscriptions[0]?.gaps, 1);
      // Past the end: a log that was made anew, or restored from before.
      const ahead = connect();
      const replayed: string[] = [];
      await ahead.subscribe(
        'dead.letters',
        'g',
        async (records) => void replayed.push(...records.map((one) => String(one.value))),
        { from: async () => 5_000n },
      );
      await until('it is read again', () => replayed.length >= 3, LIMIT_MS);
      assert.deepEqual(replayed, ['7', '8', '9']);
      assert.ok(log.lines.some(({ message }) => message.includes('gone before they were read')));
    });

    test('status: connected, and the lag of who is behind', async () => {
      const bus = connect();
      let release = () => {};
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      const key = `lag-${process.pid}`;
      let handled = 0;
      await bus.publish(
        'share.submissions',
        Array.from({ length: 25 }, (_, i) => share(key, `${i}`)),
      );
      await bus.subscribe('share.submissions', 'g', async (records) => {
        await held;
        handled += records.filter((one) => one.key === key).length;
      });
      await until('it is behind', () => bus.status().subscriptions[0]!.lag >= 25, LIMIT_MS);
      assert.equal(bus.status().connected, true);
      release();
      await until('it caught up', () => bus.status().subscriptions[0]!.lag === 0, LIMIT_MS);
      assert.equal(handled, 25);
      assert.equal(bus.status().subscriptions[0]?.waitingBytes, 0);
    });

    test('a slow handler costs time and not memory', async () => {
      const bus = connect({ groupPrefix: `slow-${process.pid}` });
      const key = `slow-${process.pid}`;
      let release = () => {};
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      let bytes = 0;
      await bus.subscribe('block.candidates', 'g', async (records) => {
        await held;
        for (const one of records) if (one.key === key) bytes += one.value.length;
      });
      const value = new Uint8Array(3_000_000);
      for (let i = 0; i < 12; i += 1) await bus.publish('block.candidates', [{ key, value }]);
      await until('it is seen', () => bus.status().subscriptions[0]!.lag >= 12, LIMIT_MS);
      assert.ok(bus.status().subscriptions[0]!.waitingBytes <= 2 * 3_000_000 + 100);
      release();
      await until('all are there', () => bytes === 36_000_000, LIMIT_MS);
    });

    test('topics that would break a promise are refused, in words', async () => {
      const wrong = async (
        setting: { name: string; value: string },
        topic: string,
      ): Promise<string> => {
        const alter = (value: string) =>
          withAdmin(broker.brokers, (admin) =>
            admin.incrementalAlterConfigs({
              resources: [
                {
                  resourceType: ConfigResourceTypes.TOPIC,
                  resourceName: topic,
                  configs: [
                    {
                      name: setting.name,
                      configOperation: IncrementalAlterConfigOperationTypes.SET,
                      value,
                    },
                  ],
                },
              ],
            }),
          );
        const { value: right } = await withAdmin(broker.brokers, async (admin) => {
          const [found] = await admin.describeConfigs({
            resources: [{ resourceType: ConfigResourceTypes.TOPIC, resourceName: topic }],
          });
          return { value: found?.configs.find(({ name }) => name === setting.name)?.value ?? '' };
        });
        await alter(setting.value);
        try {
          const bus = connect();
          const error = await bus.ready.then(
            () => null,
            (reason: unknown) => reason,
          );
          assert.ok(error instanceof UnusableKafkaError);
          await assert.rejects(
            bus.publish('block.outcome', [outcomeRecord('k', 1)]),
            UnusableKafkaError,
          );
          return error.message;
        } finally {
          await alter(right);
        }
      };
      const small = await wrong(
        { name: 'max.message.bytes', value: '1048588' },
        'block.candidates',
      );
      assert.match(small, /"block.candidates" takes 1048588 bytes at most and must take 16842752/);
      const forgets = await wrong({ name: 'cleanup.policy', value: 'delete' }, 'mining.jobs');
      assert.match(forgets, /"mining.jobs" would forget its last record/);
      const loses = await wrong({ name: 'cleanup.policy', value: 'compact' }, 'share.valid');
      assert.match(loses, /"share.valid" would lose all but the last record of a key/);
    });

    test('topics that vanish are made again, and both ends go on', async () => {
      const key = `vanish-${process.pid}`;
      const bus = connect({ publishTimeoutMs: 3_000 });
      const seen: string[] = [];
      await bus.subscribe('share.stale', 'g', async (records) => {
        seen.push(...records.filter((one) => one.key === key).map((one) => String(one.value)));
      });
      await bus.publish('share.stale', [share(key, 'before')]);
      await until('it is there', () => seen.length === 1, LIMIT_MS);
      await withAdmin(broker.brokers, (admin) => admin.deleteTopics({ topics: ['share.stale'] }));
      for (let i = 0; ; i += 1) {
        try {
          await bus.publish('share.stale', [share(key, 'after')]);
          break;
        } catch (error) {
          if (i === 5) throw error;
        }
      }
      await until('so is the next', () => seen.includes('after'), LIMIT_MS);
    });

    test('a topic with another count of partitions is refused', async () => {
      await withAdmin(broker.brokers, (admin) =>
        admin.createPartitions({
          topics: [{ name: 'share.valid', count: PARTITIONS + 1, assignments: null }],
        }),
      );
      await assert.rejects(connect().ready, /"share.valid" has 13 partitions and must have 12/);
    });
  });
