/**
 * A bus with partitions and offsets in memory, as Kafka has them: a log that stays, groups that are read from where their owner or their
 * last commit says, handlers that are called again when they reject. `cut` ends all reading as a kill would, without a commit.
 */
import type { Bus, BusRecord, ReceivedRecord } from '../../../src/ports.ts';

export type LogBus = {
  bus: Bus;
  append(topic: string, partition: number, records: readonly BusRecord[]): void;
  /** Nothing more is handed to anybody who subscribed so far. */
  cut(): void;
  /** All partitions are taken from their readers and given back, as when a group changes. */
  rebalance(): Promise<void>;
  /** Records that no handler has resolved for. */
  lag(): number;
};

export function createLogBus(partitions: number, batchMax = 200): LogBus {
  const logs = new Map<string, BusRecord[][]>();
  const committed = new Map<string, number>();
  let readers: { isCut: boolean; start: () => Promise<void>; cut: () => void }[] = [];

  const logOf = (topic: string): BusRecord[][] => {
    const known = logs.get(topic);
    if (known !== undefined) return known;
    const fresh = Array.from({ length: partitions }, (): BusRecord[] => []);
    logs.set(topic, fresh);
    return fresh;
  };

  const bus: Bus = {
    async publish() {
      throw new Error('nobody publishes here');
    },
    async subscribe(topic, group, handle, options) {
      const log = logOf(topic);
      let turn = 0;
      const run = async (mine: number, partition: number, from: number): Promise<void> => {
        const name = `${topic}/${partition}/${group}`;
        let next = from;
        while (mine === turn) {
          const batch = (log[partition] ?? []).slice(next, next + batchMax);
          if (batch.length === 0) {
            await pause();
            continue;
          }
          const records = batch.map(
            (record, i): ReceivedRecord => ({ ...record, partition, offset: BigInt(next + i) }),
          );
          try {
            await handle(records);
            if (mine !== turn) return;
            next += batch.length;
            committed.set(name, next);
          } catch {
            await pause();
          }
        }
      };
      const reader = {
        isCut: false,
        cut: () => {
          turn++;
        },
        async start() {
          const mine = ++turn;
          await Promise.all(
            log.map(async (_, partition) => {
              const owned = await options?.from?.(partition);
              const left = committed.get(`${topic}/${partition}/${group}`) ?? 0;
              void run(mine, partition, owned == null ? left : Number(owned));
            }),
          );
        },
      };
      readers.push(reader);
      await reader.start();
    },
    async stop() {},
  };

  return {
    bus,
    append(topic, partition, records) {
      logOf(topic)[partition]?.push(...records);
    },
    cut() {
      for (const reader of readers) reader.cut();
      readers = [];
    },
    async rebalance() {
      await Promise.all(readers.map((reader) => reader.start()));
    },
    lag() {
      let sum = 0;
      for (const [topic, log] of logs) {
        for (const [partition, records] of log.entries()) {
          sum += records.length - (committed.get(`${topic}/${partition}/statsd`) ?? 0);
        }
      }
      return sum;
    },
  };
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 3));
}
