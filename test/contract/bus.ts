/**
 * What every bus must do, whatever carries it. `open` gives a publishing and a subscribing end, which may be the same bus, and a
 * way to close both. A bus may hold records of earlier tests: each test knows its own by their key.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  encodeBlockOutcome,
  encodeSolvedBlock,
  encodeTemplateBody,
} from '../../src/messages/codec.ts';
import { TOPICS } from '../../src/messages/topics.ts';
import type { Bus, BusRecord } from '../../src/ports.ts';
import { until } from '../tools/waiting.ts';

export type BusUnderTest = { publisher: Bus; subscriber: Bus; close(): Promise<void> };

/** Real brokers share two cores with everybody. */
const LIMIT_MS = 20_000;

export const outcomeRecord = (key: string, height: number): BusRecord => ({
  key,
  value: encodeBlockOutcome({
    headerHash: new Uint8Array(32),
    height,
    state: 'found',
    node: '',
    detail: '',
    confirmations: 0,
    atMs: height,
  }),
});

const hex = (records: readonly BusRecord[]): string[] =>
  records.map(({ key, value }) => `${key}:${Buffer.from(value).toString('hex')}`);

/** A publisher as services are: what is not safe is published again. */
export async function publishUntilSafe(
  bus: Bus,
  topic: string,
  records: readonly BusRecord[],
  onRejected: () => void = () => {},
): Promise<void> {
  for (let rejections = 0; ; rejections += 1) {
    try {
      await bus.publish(topic, records);
      return;
    } catch (error) {
      onRejected();
      if (rejections === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

export function busContract(name: string, open: () => Promise<BusUnderTest>): void {
  let tests = 0;
  const withBus = async (
    work: (bus: BusUnderTest & { key: string }) => Promise<void>,
  ): Promise<void> => {
    const bus = await open();
    tests += 1;
    try {
      await work({ ...bus, key: `test-${process.pid}-${tests}` });
    } finally {
      await bus.close();
    }
  };

  describe(`bus contract: ${name}`, () => {
    test('records arrive once per group, in order', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        const first: string[] = [];
        const second: string[] = [];
        await subscriber.subscribe('block.outcome', 'one', async (records) => {
          await new Promise((resolve) => setImmediate(resolve));
          first.push(...hex(records.filter((one) => one.key === key)));
        });
        await subscriber.subscribe('block.outcome', 'two', async (records) => {
          second.push(...hex(records.filter((one) => one.key === key)));
        });
        const all = Array.from({ length: 30 }, (_, i) => outcomeRecord(key, i));
        await Promise.all([
          publisher.publish('block.outcome', all.slice(0, 10)),
          publisher.publish('block.outcome', all.slice(10, 11)),
          publisher.publish('block.outcome', all.slice(11)),
        ]);
        await until('both have all', () => first.length + second.length >= 60, LIMIT_MS);
        assert.deepEqual(first, hex(all));
        assert.deepEqual(second, hex(all));
      }));

    test('many keys: each in its order, and nothing of any is missing', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        const seen = new Map<string, string[]>();
        let count = 0;
        await subscriber.subscribe('block.outcome', 'one', async (records) => {
          for (const record of records.filter((one) => one.key.startsWith(key))) {
            seen.set(record.key, [...(seen.get(record.key) ?? []), hex([record])[0] as string]);
            count += 1;
          }
        });
        const all = Array.from({ length: 400 }, (_, i) =>
          outcomeRecord(`${key}/${i % 13}`, Math.floor(i / 13)),
        );
        for (let at = 0; at < all.length; at += 25) {
          await publisher.publish('block.outcome', all.slice(at, at + 25));
        }
        await until('all are there', () => count >= all.length, LIMIT_MS);
        assert.equal(count, all.length);
        for (const [one, texts] of seen) {
          assert.deepEqual(texts, hex(all.filter((record) => record.key === one)));
        }
      }));

    test('batches of one key come one at a time, however slow the handler', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        let running = 0;
        let most = 0;
        const slow: string[] = [];
        const quick: string[] = [];
        await subscriber.subscribe('block.outcome', 'slow', async (records) => {
          running += 1;
          most = Math.max(most, running);
          await new Promise((resolve) => setTimeout(resolve, 5));
          slow.push(...hex(records.filter((one) => one.key === key)));
          running -= 1;
        });
        await subscriber.subscribe('block.outcome', 'quick', async (records) => {
          quick.push(...hex(records.filter((one) => one.key === key)));
        });
        const all = Array.from({ length: 20 }, (_, i) => outcomeRecord(key, i));
        await Promise.all(all.map((one) => publisher.publish('block.outcome', [one])));
        await until('both have all', () => slow.length + quick.length >= 40, LIMIT_MS);
        assert.equal(most, 1);
        assert.deepEqual(slow, hex(all));
        assert.deepEqual(quick, hex(all));
      }));

    test('a handler that rejects gets the same batch again, and then the rest', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        const calls: string[][] = [];
        await subscriber.subscribe('block.outcome', 'one', async (records) => {
          const mine = hex(records.filter((one) => one.key === key));
          if (mine.length === 0) return;
          calls.push(mine);
          if (calls.length < 3) throw new Error('not today');
        });
        const batch = [outcomeRecord(key, 1), outcomeRecord(key, 2)];
        await publishUntilSafe(publisher, 'block.outcome', batch);
        await until('it was taken', () => calls.length >= 3, LIMIT_MS);
        await publishUntilSafe(publisher, 'block.outcome', [outcomeRecord(key, 3)]);
        await until('so was the next', () => calls.length >= 4, LIMIT_MS);
        assert.deepEqual(calls, [hex(batch), hex(batch), hex(batch), hex([outcomeRecord(key, 3)])]);
      }));

    test('a retained topic first delivers its last record, to everybody', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        const template = (height: number): BusRecord => ({
          key,
          value: encodeTemplateBody({
            jobId: 'a',
            height,
            previousHash: new Uint8Array(32),
            transactionCount: 0,
            body: new Uint8Array(3_900_000).fill(height),
            witness: true,
          }),
        });
        await publisher.publish('mining.templates', [template(1)]);
        await publisher.publish('mining.templates', [template(2)]);
        const seen: number[][] = [[], []];
        for (const [i, heights] of seen.entries()) {
          await subscriber.subscribe('mining.templates', `late-${i}`, async (records) => {
            for (const { value } of records) heights.push(value.at(-5) as number);
          });
        }
        await publisher.publish('mining.templates', [template(3)]);
        await until('both have all', () => seen.every((one) => one.length >= 2), LIMIT_MS);
        assert.deepEqual(seen, [
          [2, 3],
          [2, 3],
        ]);
      }));

    test('records of the full 16 MiB pass, more than the topic allows does not', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        let bytes = 0;
        await subscriber.subscribe('block.solved', 'one', async (records) => {
          for (const one of records) if (one.key === key) bytes = one.value.length;
        });
        const solved = (size: number): BusRecord => ({
          key,
          value: encodeSolvedBlock({
            headerHash: new Uint8Array(32),
            height: 1,
            block: new Uint8Array(size),
          }),
        });
        const limit = TOPICS['block.solved'].bytesMax;
        const frame = solved(limit - 64).value.length - (limit - 64);
        const largest = solved(limit - frame);
        assert.equal(largest.value.length, limit);
        await publisher.publish('block.solved', [largest]);
        await until('it is there', () => bytes === limit, LIMIT_MS);
        await assert.rejects(
          publisher.publish('block.solved', [solved(limit - frame + 1)]),
          RangeError,
        );
      }));

    test('unknown topics and a second reader of a group are refused', () =>
      withBus(async ({ publisher, subscriber, key }) => {
        await assert.rejects(publisher.publish('no.such', [outcomeRecord(key, 1)]), RangeError);
        await assert.rejects(
          subscriber.subscribe('no.such', 'g', async () => {}),
          RangeError,
        );
        await subscriber.subscribe('block.outcome', 'g', async () => {});
        await assert.rejects(subscriber.subscribe('block.outcome', 'g', async () => {}));
      }));

    test('publishing nothing, or to nobody, is fine; publishing after stop is not', () =>
      withBus(async ({ publisher, key }) => {
        await publisher.publish('block.outcome', []);
        await publisher.publish('block.candidates', []);
        await publisher.publish('block.outcome', [outcomeRecord(key, 1)]);
        await publisher.stop();
        await assert.rejects(publisher.publish('block.outcome', [outcomeRecord(key, 1)]));
      }));
  });
}
