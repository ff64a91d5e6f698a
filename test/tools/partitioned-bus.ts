/**
 * A broker in small: topics with partitions and offsets, consumer groups whose partitions move when members come, go or die, handlers
 * that get a batch again until they resolve, publishing that takes effect and fails all the same. Chance decides who goes next, so that a
 * seed is an interleaving.
 */
import { partitionOf } from '../../src/adapters/bus/partitioner.ts';
import { type Topic, topicOf } from '../../src/messages/topics.ts';
import type { Bus, BusRecord, ReceivedRecord, SubscribeOptions } from '../../src/ports.ts';

/** A process on the broker. Killed, it publishes nothing and hears nothing any more, and its partitions go to others. */
export type BrokerClient = Bus & { kill(): void };

export type PartitionedBroker = {
  connect(): BrokerClient;
  /** All records of a topic, by partition. */
  read(topic: string): readonly (readonly BusRecord[])[];
  /** Deals the partitions of all groups anew; who had one hears its records again from what was committed. */
  rebalance(): void;
  /** Moves what groups committed to the beginning. */
  forgetOffsets(): void;
};

export type BrokerChances = {
  /** A number in [0, 1). */
  random(): number;
  /** That a call of publish fails: half of them after it took effect. */
  publishFails: number;
  batchMax: number;
};

type Handler = (records: readonly ReceivedRecord[]) => Promise<void>;

type Member = {
  client: BrokerClient;
  topic: string;
  group: string;
  handle: Handler;
  from: SubscribeOptions['from'];
  /** By partition; a new object each time it is dealt. */
  tenures: Map<number, { isOver: boolean }>;
};

export function createPartitionedBroker(chances: BrokerChances): PartitionedBroker {
  const topics = new Map<string, BusRecord[][]>();
  const members = new Set<Member>();
  const committed = new Map<string, number>();
  const dead = new Set<BrokerClient>();

  const partitionsOf = (topic: string): BusRecord[][] => {
    const row = topicOf(topic) as Topic | null;
    if (row === null) throw new RangeError(`unknown topic "${topic}"`);
    let partitions = topics.get(topic);
    if (partitions === undefined) {
      partitions = Array.from({ length: row.partitions }, () => []);
      topics.set(topic, partitions);
    }
    return partitions;
  };

  async function someTurns(): Promise<void> {
    const turns = Math.floor(chances.random() * 4);
    for (let i = 0; i <= turns; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  async function serve(member: Member, partition: number): Promise<void> {
    const tenure = { isOver: false };
    member.tenures.set(partition, tenure);
    const place = `${member.group} ${member.topic} ${partition}`;
    const isOver = () => tenure.isOver || dead.has(member.client);
    const owned = (await member.from?.(partition)) ?? null;
    let next = owned === null ? (committed.get(place) ?? 0) : Number(owned);
    while (!isOver()) {
      await someTurns();
      const records = partitionsOf(member.topic)[partition] as BusRecord[];
      if (next >= records.length) continue;
      const count = 1 + Math.floor(chances.random() * chances.batchMax);
      const batch = records.slice(next, next + count).map((record, i) => ({
        ...record,
        value: record.value.slice(),
        partition,
        offset: BigInt(next + i),
      }));
      for (;;) {
        try {
          await member.handle(batch);
          break;
        } catch {
          await someTurns();
          if (isOver()) return;
        }
      }
      next += batch.length;
      // What was handled after the partition went to another is not committed: it comes again.
      if (!isOver()) committed.set(place, next);
    }
  }

  function deal(topic: string, group: string): void {
    const own = [...members].filter((one) => one.topic === topic && one.group === group);
    for (const member of own) {
      for (const tenure of member.tenures.values()) tenure.isOver = true;
      member.tenures.clear();
    }
    if (own.length === 0) return;
    const shift = Math.floor(chances.random() * own.length);
    partitionsOf(topic).forEach((_, partition) => {
      const member = own[(partition + shift) % own.length] as Member;
      // A member that was just taken down may have nowhere to begin.
      serve(member, partition).catch(() => {});
    });
  }

  function dealAll(): void {
    for (const key of new Set([...members].map(({ topic, group }) => `${topic} ${group}`))) {
      const [topic, group] = key.split(' ') as [string, string];
      deal(topic, group);
    }
  }

  return {
    connect() {
      const client: BrokerClient = {
        async publish(topic, records) {
          await someTurns();
          if (dead.has(client)) throw new Error('this client is gone');
          const fails = chances.random() < chances.publishFails;
          if (fails && chances.random() < 0.5) throw new Error('not published');
          const partitions = partitionsOf(topic);
          for (const record of records) {
            const { key, value } = record;
            const partition = record.partition ?? partitionOf(Buffer.from(key), partitions.length);
            partitions[partition]?.push({ key, value });
          }
          if (fails) throw new Error('published, but nobody knows');
        },
        async subscribe(topic, group, handle, options) {
          const from = options?.from;
          members.add({ client, topic, group, handle, from, tenures: new Map() });
          deal(topic, group);
        },
        async stop() {
          client.kill();
        },
        kill() {
          dead.add(client);
          for (const member of [...members]) if (member.client === client) members.delete(member);
          dealAll();
        },
      };
      return client;
    },
    read: (topic) => partitionsOf(topic),
    rebalance: dealAll,
    forgetOffsets() {
      committed.clear();
    },
  };
}
