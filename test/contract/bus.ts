/**
 * What every bus must do, whatever carries it. `open` gives a publishing and a subscribing end, which may be the same bus, and a
 * way to close both.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { encodeBlockOutcome, encodeSolvedBlock } from '../../src/messages/codec.ts';
import type { Bus, BusRecord } from '../../src/ports.ts';

export type BusUnderTest = { publisher: Bus; subscriber: Bus; close(): Promise<void> };

const outcome = (height: number): BusRecord => ({
  key: 'k',
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

export function busContract(name: string, open: () => Promise<BusUnderTest>): void {
  const withBus = async (work: (bus: BusUnderTest) => Promise<void>): Promise<void> => {
    const bus = await open();
    try {
      await work(bus);
    } finally {
      await bus.close();
    }
  };

  describe(`bus contract: ${name}`, () => {
    test('records arrive once per group, in order, before publish resolves', () =>
      withBus(async ({ publisher, subscriber }) => {
        const first: string[] = [];
        const second: string[] = [];
        await subscriber.subscribe('block.outcome', 'one', async (records) => {
          await new Promise((resolve) => setImmediate(resolve));
          first.push(...hex(records));
        });
        await subscriber.subscribe('block.outcome', 'two', async (records) => {
          second.push(...hex(records));
        });
        const all = Array.from({ length: 30 }, (_, i) => outcome(i));
        await Promise.all([
          publisher.publish('block.outcome', all.slice(0, 10)),
          publisher.publish('block.outcome', all.slice(10, 11)),
          publisher.publish('block.outcome', all.slice(11)),
        ]);
        assert.deepEqual(first, hex(all));
        assert.deepEqual(second, hex(all));
      }));

    test('batches of one subscription come one at a time', () =>
      withBus(async ({ publisher, subscriber }) => {
        let running = 0;
        let most = 0;
        await subscriber.subscribe('block.outcome', 'one', async () => {
          running++;
          most = Math.max(most, running);
          await new Promise((resolve) => setImmediate(resolve));
          running--;
        });
        await Promise.all(
          Array.from({ length: 20 }, (_, i) => publisher.publish('block.outcome', [outcome(i)])),
        );
        assert.equal(most, 1);
      }));

    test('a handler that rejects gets the batch again when it is repeated', () =>
      withBus(async ({ publisher, subscriber }) => {
        let calls = 0;
        await subscriber.subscribe('block.outcome', 'one', async () => {
          calls++;
          if (calls === 1) throw new Error('not today');
        });
        await assert.rejects(publisher.publish('block.outcome', [outcome(1)]), /not today/);
        await publisher.publish('block.outcome', [outcome(1)]);
        assert.equal(calls, 2);
      }));

    test('a retained topic first delivers its last record', () =>
      withBus(async ({ publisher, subscriber }) => {
        const { encodeTemplateBody } = await import('../../src/messages/codec.ts');
        const template = (height: number): BusRecord => ({
          key: 'k',
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
        const seen: number[] = [];
        await subscriber.subscribe('mining.templates', 'late', async (records) => {
          for (const { value } of records) seen.push(value.at(-5) as number);
        });
        await publisher.publish('mining.templates', [template(3)]);
        assert.deepEqual(seen, [2, 3]);
      }));

    test('whole blocks pass, more than the topic allows does not', () =>
      withBus(async ({ publisher, subscriber }) => {
        let bytes = 0;
        await subscriber.subscribe('block.solved', 'one', async (records) => {
          bytes += records[0]?.value.length ?? 0;
        });
        const solved = (size: number): BusRecord => ({
          key: 'k',
          value: encodeSolvedBlock({
            headerHash: new Uint8Array(32),
            height: 1,
            block: new Uint8Array(size),
          }),
        });
        await publisher.publish('block.solved', [solved(3_990_000)]);
        assert.ok(bytes > 3_990_000);
        await assert.rejects(publisher.publish('block.solved', [solved(17_000_000)]), RangeError);
      }));

    test('unknown topics and a second reader of a group are refused', () =>
      withBus(async ({ publisher, subscriber }) => {
        await assert.rejects(publisher.publish('no.such', [outcome(1)]), RangeError);
        await assert.rejects(
          subscriber.subscribe('no.such', 'g', async () => {}),
          RangeError,
        );
        await subscriber.subscribe('block.outcome', 'g', async () => {});
        await assert.rejects(subscriber.subscribe('block.outcome', 'g', async () => {}));
      }));

    test('publishing nothing, or to nobody, is fine; publishing after stop is not', () =>
      withBus(async ({ publisher }) => {
        await publisher.publish('block.outcome', []);
        await publisher.publish('block.candidates', []);
        await publisher.publish('block.outcome', [outcome(1)]);
        await publisher.stop();
        await assert.rejects(publisher.publish('block.outcome', [outcome(1)]));
      }));
  });
}
