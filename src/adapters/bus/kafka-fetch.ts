/**
 * From the broker into the queues of a subscription's partitions: one request to each broker at a time, for the partitions that have
 * room. What fails is asked again, later and later; an offset that the broker does not have is replaced by the first that it has, and
 * said.
 */
import { type Consumer, findErrorBy, ListOffsetTimestamps } from '@platformatic/kafka';
import { GATHER_MS } from '../../messages/topics.ts';
import type { Log } from '../../ports.ts';
import type { KafkaHealth } from './kafka-health.ts';
import type { Tenure } from './kafka-tenure.ts';

type FetchResponse = Awaited<ReturnType<Consumer['fetch']>>;

export type KafkaFetch = {
  /** Asks for what comes next, wherever there is room. */
  pump(): void;
  /** Of each partition, where it begins or where it ends. */
  findOffsets(partitions: readonly number[], which: 'first' | 'end'): Promise<Map<number, bigint>>;
  countPartitions(): Promise<number>;
  /** Something with the broker failed: leaders may have moved. */
  failed(error: unknown): void;
  /** Records that were gone before they were read, or places that the broker did not know. */
  gaps(): number;
  /** No question is asked and no record queued any more. */
  stop(): void;
  close(): Promise<void>;
};

export type FetchTools = {
  log: Log;
  health: KafkaHealth;
  /** A consumer that only fetches, over connections of its own, and repeats nothing by itself. */
  openFetcher(): Consumer;
  /** By partition; changed by its owner. */
  tenures: ReadonlyMap<number, Tenure>;
  /** Queues have grown. */
  onRecords(): void;
  /** The topic was deleted and made again: places in the old one mean nothing. */
  onNewTopic(): void;
  /** The place of a partition is past its end, which begins at `start`. */
  onPastEnd(tenure: Tenure, start: bigint): void;
  /** Reading failed: the topic may be gone. */
  onTrouble(): void;
};

const FETCH_WAIT_MS = 500;
const FETCH_BYTES = 4 * 1024 * 1024;
const PARTITION_BYTES = 1024 * 1024;
/** Fetched ahead per partition; it is asked for more when it has less. */
const AHEAD_BYTES = 1024 * 1024;
/** A partition that is not fetched tells nothing of its end: it is asked for. */
const END_PAUSE_MS = 2_000;
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 2_000;
/** Longer than all its own patience taken together: to connect, to ask what the broker can do, and for the answer itself. */
const CLIENT_PATIENCE_MS = 30_000;
const READ_UNCOMMITTED = 0;
const CONTROL_BATCH = 0x20;
const NO_EPOCH = -1;
const OFFSET_OUT_OF_RANGE = 1;

/** `part` is the name under which health hears of it. Nothing is asked before the first call. */
export function createKafkaFetch(
  tools: FetchTools,
  options: { topic: string; group: string | null; part: string; gatherBytes: number },
): KafkaFetch {
  const { log, health, tenures } = tools;
  const { topic, group, part, gatherBytes } = options;
  let fetcher = open();
  const busyNodes = new Set<number>();
  /** Brokers whose last answer had records: more are on their way. */
  const flowing = new Set<number>();
  let topicId: string | null = null;
  let turn = 0;
  let gaps = 0;
  let isStopped = false;
  let isPumping = false;
  let pumpAgain = false;
  let pumpTimer: NodeJS.Timeout | null = null;
  let pauseMs = PAUSE_MIN_MS;
  const endTimer = setInterval(() => void askEnds(), END_PAUSE_MS);

  function open(): Consumer {
    const made = tools.openFetcher();
    made.topics.track(topic);
    (made as NodeJS.EventEmitter).on('error', () => {});
    return made;
  }

  /** Asks the client, and takes a new one when it owes the answer for too long: nothing may wait for ever for what was lost in there. */
  async function ask<T>(question: (client: Consumer) => Promise<T>): Promise<T> {
    const client = fetcher;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        if (client === fetcher && !isStopped) {
          client.close(true).catch(() => {});
          fetcher = open();
        }
        reject(new Error('the Kafka client owes an answer'));
      }, CLIENT_PATIENCE_MS);
    });
    try {
      return await Promise.race([question(client), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async function readMetadata() {
    return (await ask((client) => client.metadata({ topics: [topic] }))).topics.get(topic);
  }

  function failed(error: unknown): void {
    health.failed(part, error);
    fetcher.clearMetadata();
    tools.onTrouble();
  }

  async function findOffsets(
    partitions: readonly number[],
    which: 'first' | 'end',
  ): Promise<Map<number, bigint>> {
    const timestamp =
      which === 'first' ? ListOffsetTimestamps.EARLIEST : ListOffsetTimestamps.LATEST;
    const found = await ask((client) =>
      client.listOffsets({
        topics: [topic],
        partitions: { [topic]: [...partitions] },
        timestamp,
      }),
    );
    const offsets = found.get(topic) ?? [];
    return new Map(partitions.map((partition) => [partition, offsets[partition] ?? 0n]));
  }

  function pump(): void {
    if (isPumping) {
      pumpAgain = true;
      return;
    }
    isPumping = true;
    void pumpOnce().finally(() => {
      isPumping = false;
      if (pumpAgain) {
        pumpAgain = false;
        pump();
      }
    });
  }

  function pumpLater(): void {
    if (isStopped || pumpTimer !== null) return;
    pumpTimer = setTimeout(() => {
      pumpTimer = null;
      pump();
    }, pauseMs);
    pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
  }

  async function pumpOnce(): Promise<void> {
    if (isStopped || tenures.size === 0) return;
    try {
      const known = await readMetadata();
      if (known === undefined) throw new Error(`nothing is known of topic "${topic}"`);
      if (topicId !== null && topicId !== known.id) {
        log.error('a topic was made anew; it is read from its beginning', { topic });
        gaps += 1;
        tools.onNewTopic();
      }
      topicId = known.id;
      const wanted = new Map<number, Tenure[]>();
      const all = [...tenures.values()];
      turn += 1;
      for (let i = 0; i < all.length; i += 1) {
        // Another one is first each time: the broker fills the answer in the order of the request.
        const tenure = all[(i + turn) % all.length]!;
        if (tenure.next === null || tenure.queueBytes >= AHEAD_BYTES) continue;
        const node = known.partitions[tenure.partition]?.leader ?? -1;
        if (node < 0) throw new Error(`partition ${tenure.partition} has no leader`);
        if (busyNodes.has(node)) continue;
        wanted.set(node, [...(wanted.get(node) ?? []), tenure]);
      }
      for (const [node, some] of wanted) void fetchFrom(node, known.id, some);
    } catch (error) {
      if (isStopped) return;
      failed(error);
      pumpLater();
    }
  }

  async function fetchFrom(node: number, id: string, asked: readonly Tenure[]): Promise<void> {
    busyNodes.add(node);
    const isFlowing = gatherBytes > 1 && flowing.has(node);
    const from = new Map(asked.map((tenure) => [tenure, tenure.next as bigint]));
    try {
      const response = await ask((client) =>
        client.fetch({
          node,
          maxWaitTime: isFlowing ? GATHER_MS : FETCH_WAIT_MS,
          minBytes: isFlowing ? gatherBytes : 1,
          maxBytes: FETCH_BYTES,
          isolationLevel: READ_UNCOMMITTED,
          topics: [
            {
              topicId: id,
              partitions: asked.map((tenure) => ({
                partition: tenure.partition,
                fetchOffset: tenure.next as bigint,
                currentLeaderEpoch: NO_EPOCH,
                lastFetchedEpoch: NO_EPOCH,
                partitionMaxBytes: PARTITION_BYTES,
              })),
            },
          ],
        }),
      );
      busyNodes.delete(node);
      if (isStopped) return;
      pauseMs = PAUSE_MIN_MS;
      health.fine(part);
      if (take(response, from) > 0) flowing.add(node);
      else flowing.delete(node);
      tools.onRecords();
      pump();
    } catch (error) {
      busyNodes.delete(node);
      if (isStopped) return;
      if (findErrorBy(error as Error, 'apiId', 'OFFSET_OUT_OF_RANGE') !== null) {
        await replace(error as { response?: FetchResponse }, from);
      } else failed(error);
      pumpLater();
    }
  }

  /** Queues what came, and answers how many records that were. */
  function take(response: FetchResponse, from: ReadonlyMap<Tenure, bigint>): number {
    let count = 0;
    for (const { partitions } of response.responses) {
      for (const { partitionIndex, highWatermark, records } of partitions) {
        const tenure = tenures.get(partitionIndex);
        // An answer for who had it before, or for a place that was left since.
        if (tenure === undefined || tenure.next === null || from.get(tenure) !== tenure.next)
          continue;
        if (highWatermark > tenure.end) tenure.end = highWatermark;
        for (const batch of records ?? []) {
          const isControl = (batch.attributes & CONTROL_BATCH) !== 0;
          for (const { key, value, offsetDelta } of batch.records) {
            const offset = batch.firstOffset + BigInt(offsetDelta);
            // Batches come whole, also where only their end was asked for.
            if (isControl || offset < tenure.next) continue;
            tenure.queue.push({
              key: key?.toString() ?? '',
              // A deletion; whoever reads the topic finds it undecodable and says so.
              value: value ?? new Uint8Array(0),
              partition: partitionIndex,
              offset,
            });
            count += 1;
            tenure.queueBytes += (key?.length ?? 0) + (value?.length ?? 0);
          }
          const after = batch.firstOffset + BigInt(batch.lastOffsetDelta) + 1n;
          if (after > tenure.next) tenure.next = after;
        }
      }
    }
    return count;
  }

  /** The broker does not have what is next for us: go on where it begins, and say how much is missing. */
  async function replace(
    error: { response?: FetchResponse },
    from: ReadonlyMap<Tenure, bigint>,
  ): Promise<void> {
    const lost = [...from.keys()].filter(
      (tenure) =>
        !tenure.isOver &&
        error.response?.responses.some(({ partitions }) =>
          partitions.some(
            ({ partitionIndex, errorCode }) =>
              partitionIndex === tenure.partition && errorCode === OFFSET_OUT_OF_RANGE,
          ),
        ),
    );
    try {
      const first = await findOffsets(
        lost.map(({ partition }) => partition),
        'first',
      );
      for (const tenure of lost) {
        const start = first.get(tenure.partition) ?? 0n;
        const wanted = tenure.next as bigint;
        gaps += 1;
        const words = {
          topic,
          group,
          partition: tenure.partition,
          wanted: String(wanted),
          start: String(start),
        };
        if (start > wanted) {
          log.error('records are gone before they were read', words);
          // What is queued lies before the gap.
          tenure.next = start;
        } else {
          log.error('the place to read from is past the end; the topic is read again', words);
          tools.onPastEnd(tenure, start);
        }
      }
    } catch (cause) {
      failed(cause);
    }
  }

  async function askEnds(): Promise<void> {
    const still = [...tenures.values()].filter(
      ({ next, queueBytes }) => next !== null && queueBytes >= AHEAD_BYTES,
    );
    if (still.length === 0) return;
    try {
      const ends = await findOffsets(
        still.map(({ partition }) => partition),
        'end',
      );
      for (const tenure of still) tenure.end = ends.get(tenure.partition) ?? tenure.end;
    } catch (error) {
      if (!isStopped) health.failed(part, error);
    }
  }

  return {
    pump,
    findOffsets,
    async countPartitions() {
      return (await readMetadata())?.partitionsCount ?? 0;
    },
    failed,
    gaps: () => gaps,
    stop() {
      isStopped = true;
      clearInterval(endTimer);
      if (pumpTimer !== null) clearTimeout(pumpTimer);
    },
    close: () => fetcher.close(true).catch(() => {}),
  };
}
