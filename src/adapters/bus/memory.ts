/**
 * The bus of one process: a table of handlers. `publish` resolves when every subscriber has handled the records and rejects when
 * one did not, so that the publisher repeats; nothing is kept here but the last record of retained topics.
 *
 * Each subscription is handed one batch at a time, in order of publishing. What waits for a slow handler is bounded by count and
 * bytes; beyond that, publishing is refused.
 */
import {
  decodeBlockCandidate,
  decodeBlockOutcome,
  decodeCoinbasePlans,
  decodeJob,
  decodeRejectedShare,
  decodeShare,
  decodeShareMark,
  decodeSolvedBlock,
  decodeTemplateBody,
} from '../../messages/codec.ts';
import { decodeServiceReport } from '../../messages/service.ts';
import { type TopicName, topicOf } from '../../messages/topics.ts';
import type { Bus, BusRecord, Log, ReceivedRecord } from '../../ports.ts';

export type MemoryBus = Bus & {
  /** Ends a subscription; batches already waiting for it are rejected. For subscribers that can die alone. */
  unsubscribe(topic: string, group: string): void;
};

export type MemoryBusOptions = {
  log: Log;
  /** Tests: every record must decode, and every subscriber gets bytes of its own. */
  encodeCheck?: boolean;
  waitingBatchesMax?: number;
  waitingBytesMax?: number;
};

const WAITING_BATCHES_MAX = 1_024;
const WAITING_BYTES_MAX = 128 * 1024 * 1024;

type Subscription = {
  group: string;
  handle: (records: readonly ReceivedRecord[]) => Promise<void>;
  /** Settled when everything handed over so far has been handled. Never rejects. */
  tail: Promise<void>;
  waitingBatches: number;
  waitingBytes: number;
  ended: boolean;
};

/** A new, empty bus. Topics are those of `messages/topics.ts`; others are refused with a RangeError. */
export function createMemoryBus(options: MemoryBusOptions): MemoryBus {
  const { log, encodeCheck = false } = options;
  const waitingBatchesMax = options.waitingBatchesMax ?? WAITING_BATCHES_MAX;
  const waitingBytesMax = options.waitingBytesMax ?? WAITING_BYTES_MAX;
  const subscriptions = new Map<string, Subscription[]>();
  const retained = new Map<string, BusRecord>();
  let stopped = false;

  function deliver(subscription: Subscription, records: readonly BusRecord[]): Promise<void> {
    const bytes = records.reduce((sum, record) => sum + record.value.length, 0);
    if (
      subscription.waitingBatches >= waitingBatchesMax ||
      (subscription.waitingBatches > 0 && subscription.waitingBytes + bytes > waitingBytesMax)
    ) {
      return Promise.reject(new Error(`subscriber "${subscription.group}" is too far behind`));
    }
    subscription.waitingBatches++;
    subscription.waitingBytes += bytes;
    const own = encodeCheck ? records.map(copyRecord) : records;
    const handled = subscription.tail.then(() => {
      if (subscription.ended) throw new Error(`subscriber "${subscription.group}" is gone`);
      return subscription.handle(own);
    });
    const settle = (): void => {
      subscription.waitingBatches--;
      subscription.waitingBytes -= bytes;
    };
    subscription.tail = handled.then(settle, settle);
    return handled;
  }

  return {
    async publish(topic, records) {
      if (stopped) throw new Error('the bus is stopped');
      checkRecords(topic, records, encodeCheck);
      const last = records.at(-1);
      if (last === undefined) return;
      if (topicOf(topic)?.retained) retained.set(topic, last);
      const current = subscriptions.get(topic) ?? [];
      const results = await Promise.allSettled(current.map((one) => deliver(one, records)));
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    },

    async subscribe(topic, group, handle) {
      if (stopped) throw new Error('the bus is stopped');
      if (topicOf(topic) === null) throw new RangeError(`unknown topic "${topic}"`);
      const current = subscriptions.get(topic) ?? [];
      if (current.some((one) => one.group === group)) {
        throw new Error(`group "${group}" already reads "${topic}"`);
      }
      const subscription: Subscription = {
        group,
        handle,
        tail: Promise.resolve(),
        waitingBatches: 0,
        waitingBytes: 0,
        ended: false,
      };
      subscriptions.set(topic, [...current, subscription]);
      const last = retained.get(topic);
      if (last === undefined) return;
      try {
        await deliver(subscription, [last]);
      } catch (error) {
        // Nobody is there to repeat it, and the next record of a retained topic replaces it.
        log.error('A subscriber failed on the retained record.', {
          topic,
          group,
          error: String(error),
        });
      }
    },

    unsubscribe(topic, group) {
      const current = subscriptions.get(topic) ?? [];
      for (const one of current) if (one.group === group) one.ended = true;
      subscriptions.set(
        topic,
        current.filter((one) => one.group !== group),
      );
    },

    async stop() {
      stopped = true;
      const all = [...subscriptions.values()].flat();
      await Promise.all(all.map((one) => one.tail));
      subscriptions.clear();
    },
  };
}

const DECODERS: Record<TopicName, (bytes: Uint8Array) => { ok: boolean; reason?: string }> = {
  'mining.jobs': decodeJob,
  'mining.templates': decodeTemplateBody,
  'mining.plans': decodeCoinbasePlans,
  'share.submissions': decodeShare,
  'share.valid': decodeShare,
  'share.rejected': decodeRejectedShare,
  'share.stale': decodeRejectedShare,
  'block.candidates': decodeBlockCandidate,
  'block.solved': decodeSolvedBlock,
  'block.outcome': decodeBlockOutcome,
  'service.status': decodeServiceReport,
  'dead.letters': () => ({ ok: true }),
};

function checkRecords(topic: string, records: readonly BusRecord[], encodeCheck: boolean): void {
  const row = topicOf(topic);
  if (row === null) throw new RangeError(`unknown topic "${topic}"`);
  for (const { key, value } of records) {
    if (value.length > row.bytesMax) {
      throw new RangeError(
        `a record of ${value.length} bytes is too large for "${topic}" (${row.bytesMax})`,
      );
    }
    if (!encodeCheck) continue;
    // Marks of gateways travel among the shares.
    const decode = key.startsWith('mark:') ? decodeShareMark : DECODERS[topic as TopicName];
    const decoded = decode(value);
    if (!decoded.ok) throw new Error(`a record on "${topic}" does not decode: ${decoded.reason}`);
  }
}

function copyRecord(record: BusRecord): BusRecord {
  return { ...record, value: record.value.slice() };
}
