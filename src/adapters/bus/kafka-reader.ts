/**
 * One subscription: fetches what its partitions hold, hands it to the handler in batches, and remembers how far that got.
 *
 * A partition has at most one handler at a time and its records come in their order; some partitions are handled side by side. A
 * handler that rejects gets the same batch again, later and later, until it resolves or the partition is taken away. What is fetched
 * ahead is bounded, so that a slow handler costs time and not memory.
 *
 * With a group, partitions come and go with its members, and offsets are committed after their handler resolved. A retained topic is
 * read by everybody, from the last record of each partition.
 */
import { type Consumer, findErrorBy, ListOffsetTimestamps } from '@platformatic/kafka';
import type { Log, ReceivedRecord } from '../../ports.ts';
import {
  type Assignment,
  type GroupTools,
  joinKafkaGroup,
  type KafkaGroup,
} from './kafka-group.ts';
import { type KafkaHealth, reasonOf } from './kafka-health.ts';

type FetchResponse = Awaited<ReturnType<Consumer['fetch']>>;

export type KafkaReader = {
  /** Resolves when the partitions first assigned have their place; not before the broker answers. */
  placed: Promise<void>;
  status(): ReaderStatus;
  /** Handlers end, offsets are committed, the group is left; what takes longer than `timeoutMs` is left behind. */
  stop(timeoutMs: number): Promise<void>;
};

export type ReaderStatus = {
  topic: string;
  group: string | null;
  partitions: number;
  /** Records on the broker that are not handled yet, of the partitions that are ours. */
  lag: number;
  waitingBytes: number;
  /** Calls of the handler that rejected. */
  rejections: number;
  /** Records that were gone before they were read, or places that the broker did not know. */
  gaps: number;
};

export type ReaderTools = {
  log: Log;
  health: KafkaHealth;
  /** Resolves when the topics are as they must be. */
  ready: Promise<void>;
  /** A consumer that only fetches, over connections of its own, and repeats nothing by itself. */
  openFetcher(): Consumer;
  openMember: GroupTools['openMember'];
  /** Reading failed: the topic may be gone. */
  onTrouble(): void;
};

export type ReaderOptions = {
  topic: string;
  /** Null: everybody reads everything, from the last record. */
  group: string | null;
  from?: (partition: number) => Promise<bigint | null>;
  batchRecordsMax: number;
  batchBytesMax: number;
  handlersMax: number;
  /** How long the end of handlers is waited for when the group changes. */
  drainMs: number;
};

/** A partition while it is ours. */
type Tenure = {
  partition: number;
  isOver: boolean;
  /** Next offset to fetch; null until it is known. */
  next: bigint | null;
  /** Everything before it was handled. */
  handled: bigint;
  committed: bigint;
  /** End of the partition, as the broker last said. */
  end: bigint;
  queue: ReceivedRecord[];
  queueBytes: number;
  /** Handed to the handler, and not handled yet. */
  batch: ReceivedRecord[] | null;
  attempts: number;
  retryTimer: NodeJS.Timeout | null;
};

const FETCH_WAIT_MS = 500;
const FETCH_BYTES = 4 * 1024 * 1024;
const PARTITION_BYTES = 1024 * 1024;
/** Fetched ahead per partition; it is asked for more when it has less. */
const AHEAD_BYTES = 1024 * 1024;
const COMMIT_PAUSE_MS = 100;
/** A partition that is not fetched tells nothing of its end: it is asked for. */
const END_PAUSE_MS = 2_000;
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 2_000;
const HANDLER_PAUSE_MAX_MS = 5_000;
const READ_UNCOMMITTED = 0;
const CONTROL_BATCH = 0x20;
const NO_EPOCH = -1;
const OFFSET_OUT_OF_RANGE = 1;

export function startKafkaReader(
  tools: ReaderTools,
  options: ReaderOptions,
  handle: (records: readonly ReceivedRecord[]) => Promise<void>,
): KafkaReader {
  const { log, health } = tools;
  const { topic, group: groupId } = options;
  const part = `reading ${topic}${groupId === null ? '' : ` for ${groupId}`}`;
  const fetcher = tools.openFetcher();
  fetcher.topics.track(topic);
  (fetcher as NodeJS.EventEmitter).on('error', () => {});
  const tenures = new Map<number, Tenure>();
  const busyNodes = new Set<number>();
  const waiters: (() => void)[] = [];
  let group: KafkaGroup | null = null;
  let topicId: string | null = null;
  /** Partitions whose handler runs; it may outlive the tenure it began in. */
  const running = new Set<number>();
  let turn = 0;
  let rejections = 0;
  let gaps = 0;
  let isDraining = false;
  let isStopping = false;
  let isStopped = false;
  let isPumping = false;
  let pumpAgain = false;
  let pumpTimer: NodeJS.Timeout | null = null;
  let pauseMs = PAUSE_MIN_MS;
  let commitTimer: NodeJS.Timeout | null = null;
  let committing: Promise<void> | null = null;
  let isPlaced: () => void = () => {};
  const placed = new Promise<void>((resolve) => {
    isPlaced = resolve;
  });

  // ---- partitions come and go

  function assign({ partitions, isUnbroken }: Assignment): void {
    if (isStopped) return;
    for (const tenure of [...tenures.values()]) {
      if (!isUnbroken || !partitions.includes(tenure.partition)) end(tenure);
    }
    const fresh = partitions.filter((partition) => !tenures.has(partition)).map(begin);
    isDraining = isStopping;
    if (fresh.length > 0) void place(fresh, PAUSE_MIN_MS);
    else isPlaced();
    dispatch();
    commitLater();
  }

  function begin(partition: number): Tenure {
    const tenure: Tenure = {
      partition,
      isOver: false,
      next: null,
      handled: 0n,
      committed: 0n,
      end: 0n,
      queue: [],
      queueBytes: 0,
      batch: null,
      attempts: 0,
      retryTimer: null,
    };
    tenures.set(partition, tenure);
    return tenure;
  }

  function end(tenure: Tenure): void {
    tenure.isOver = true;
    tenure.queue = [];
    tenure.queueBytes = 0;
    if (tenure.retryTimer !== null) clearTimeout(tenure.retryTimer);
    if (tenures.get(tenure.partition) === tenure) tenures.delete(tenure.partition);
  }

  /** Finds where each begins, trying for as long as it is ours. */
  async function place(fresh: readonly Tenure[], againMs: number): Promise<void> {
    const mine = fresh.filter(({ isOver }) => !isOver);
    if (mine.length === 0 || isStopped) return;
    try {
      const places = await findPlaces(mine.map(({ partition }) => partition));
      for (const tenure of mine) settle(tenure, places.get(tenure.partition) ?? 0n);
      health.fine(part);
      isPlaced();
      pump();
    } catch (error) {
      if (isStopped) return;
      trouble(error);
      setTimeout(() => void place(mine, Math.min(againMs * 2, PAUSE_MAX_MS)), againMs);
    }
  }

  function settle(tenure: Tenure, offset: bigint): void {
    tenure.next = offset;
    tenure.handled = offset;
    tenure.committed = offset;
  }

  async function findPlaces(partitions: readonly number[]): Promise<Map<number, bigint>> {
    const first = await listOffsets(partitions, ListOffsetTimestamps.EARLIEST);
    if (group === null) {
      const last = await listOffsets(partitions, ListOffsetTimestamps.LATEST);
      return new Map(
        partitions.map((partition) => {
          const start = first.get(partition) ?? 0n;
          const before = (last.get(partition) ?? 0n) - 1n;
          return [partition, before > start ? before : start];
        }),
      );
    }
    const owned = await Promise.all(
      partitions.map(async (one) => [one, (await options.from?.(one)) ?? null] as const),
    );
    const committed = await group.readCommitted(partitions);
    return new Map(
      owned.map(([one, offset]) => [one, offset ?? committed.get(one) ?? first.get(one) ?? 0n]),
    );
  }

  async function listOffsets(
    partitions: readonly number[],
    timestamp: bigint,
  ): Promise<Map<number, bigint>> {
    const found = await fetcher.listOffsets({
      topics: [topic],
      partitions: { [topic]: [...partitions] },
      timestamp,
    });
    const offsets = found.get(topic) ?? [];
    return new Map(partitions.map((partition) => [partition, offsets[partition] ?? 0n]));
  }

  function trouble(error: unknown): void {
    health.failed(part, error);
    // Leaders may have moved.
    fetcher.clearMetadata();
    tools.onTrouble();
  }

  // ---- from the broker into the queues

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
      const known = (await fetcher.metadata({ topics: [topic] })).topics.get(topic);
      if (known === undefined) throw new Error(`nothing is known of topic "${topic}"`);
      if (topicId !== null && topicId !== known.id) onNewTopic();
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
      trouble(error);
      pumpLater();
    }
  }

  /** The topic was deleted and made again: places in the old one mean nothing. */
  function onNewTopic(): void {
    log.error('a topic was made anew; it is read from its beginning', { topic });
    gaps += 1;
    const old = [...tenures.values()];
    for (const tenure of old) end(tenure);
    const fresh = old.map(({ partition }) => begin(partition));
    void place(fresh, PAUSE_MIN_MS);
  }

  async function fetchFrom(node: number, id: string, asked: readonly Tenure[]): Promise<void> {
    busyNodes.add(node);
    const from = new Map(asked.map((tenure) => [tenure, tenure.next as bigint]));
    try {
      const response = await fetcher.fetch({
        node,
        maxWaitTime: FETCH_WAIT_MS,
        minBytes: 1,
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
      });
      busyNodes.delete(node);
      if (isStopped) return;
      pauseMs = PAUSE_MIN_MS;
      health.fine(part);
      take(response, from);
      pump();
    } catch (error) {
      busyNodes.delete(node);
      if (isStopped) return;
      if (findErrorBy(error as Error, 'apiId', 'OFFSET_OUT_OF_RANGE') !== null) {
        await replace(error as { response?: FetchResponse }, from);
      } else trouble(error);
      pumpLater();
    }
  }

  function take(response: FetchResponse, from: ReadonlyMap<Tenure, bigint>): void {
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
            tenure.queueBytes += bytesOf(key, value);
          }
          const after = batch.firstOffset + BigInt(batch.lastOffsetDelta) + 1n;
          if (after > tenure.next) tenure.next = after;
        }
      }
    }
    dispatch();
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
      const first = await listOffsets(
        lost.map(({ partition }) => partition),
        ListOffsetTimestamps.EARLIEST,
      );
      for (const tenure of lost) {
        const start = first.get(tenure.partition) ?? 0n;
        const wanted = tenure.next as bigint;
        gaps += 1;
        const words = {
          topic,
          group: groupId,
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
          end(tenure);
          settle(begin(tenure.partition), start);
        }
      }
    } catch (cause) {
      trouble(cause);
    }
  }

  async function askEnds(): Promise<void> {
    const still = [...tenures.values()].filter(
      ({ next, queueBytes }) => next !== null && queueBytes >= AHEAD_BYTES,
    );
    if (still.length === 0) return;
    try {
      const ends = await listOffsets(
        still.map(({ partition }) => partition),
        ListOffsetTimestamps.LATEST,
      );
      for (const tenure of still) tenure.end = ends.get(tenure.partition) ?? tenure.end;
    } catch (error) {
      if (!isStopped) health.failed(part, error);
    }
  }

  // ---- from the queues to the handler

  function dispatch(): void {
    if (isDraining || isStopped) return;
    for (const tenure of tenures.values()) {
      if (running.size >= options.handlersMax) return;
      const isWaiting = tenure.batch !== null || tenure.queue.length > 0;
      if (isWaiting && !running.has(tenure.partition) && tenure.retryTimer === null)
        void work(tenure);
    }
  }

  async function work(tenure: Tenure): Promise<void> {
    // Goes to the end of the line, so that every partition has its turn.
    tenures.delete(tenure.partition);
    tenures.set(tenure.partition, tenure);
    running.add(tenure.partition);
    const batch = (tenure.batch ??= nextBatch(tenure));
    try {
      await handle(batch);
      tenure.batch = null;
      tenure.attempts = 0;
      tenure.handled = batch.at(-1)!.offset! + 1n;
      if (!tenure.isOver) commitLater();
    } catch (error) {
      rejections += 1;
      retryLater(tenure, error);
    }
    running.delete(tenure.partition);
    for (const resolve of waiters.splice(0)) resolve();
    dispatch();
    pump();
  }

  function nextBatch(tenure: Tenure): ReceivedRecord[] {
    let bytes = 0;
    let count = 0;
    for (const { key, value } of tenure.queue) {
      const size = key.length + value.length;
      if (count > 0 && (count >= options.batchRecordsMax || bytes + size > options.batchBytesMax)) {
        break;
      }
      bytes += size;
      count += 1;
    }
    tenure.queueBytes = count === tenure.queue.length ? 0 : tenure.queueBytes - bytes;
    return tenure.queue.splice(0, count);
  }

  function retryLater(tenure: Tenure, error: unknown): void {
    if (tenure.isOver || isStopped) return;
    const afterMs = Math.min(
      PAUSE_MIN_MS * 2 ** Math.min(tenure.attempts, 10),
      HANDLER_PAUSE_MAX_MS,
    );
    tenure.attempts += 1;
    if (tenure.attempts === 1 || tenure.attempts % 60 === 0) {
      log.warn('records were not handled; they are handed over again', {
        topic,
        group: groupId,
        partition: tenure.partition,
        attempts: tenure.attempts,
        reason: reasonOf(error),
      });
    }
    tenure.retryTimer = setTimeout(() => {
      tenure.retryTimer = null;
      dispatch();
    }, afterMs);
  }

  // ---- how far it got

  function commitLater(): void {
    if (group === null || commitTimer !== null || isStopped) return;
    commitTimer = setTimeout(() => {
      commitTimer = null;
      void commit().then((isDone) => {
        if (!isDone) commitLater();
      });
    }, COMMIT_PAUSE_MS);
  }

  /** Commits what was handled; false when something is left to commit. */
  async function commit(): Promise<boolean> {
    await committing;
    const some = [...tenures.values()].filter(
      (one) => one.next !== null && one.handled > one.committed,
    );
    if (group === null || some.length === 0) return true;
    const offsets = new Map(some.map(({ partition, handled }) => [partition, handled]));
    let isDone = false;
    committing = group.commit(offsets).then(
      () => {
        for (const tenure of some) tenure.committed = offsets.get(tenure.partition)!;
        isDone = true;
      },
      // The group is changing, or the broker away: what was handled is committed later, or handled twice.
      () => {},
    );
    await committing;
    committing = null;
    return isDone;
  }

  async function drain(timeoutMs: number): Promise<void> {
    isDraining = true;
    const endMs = performance.now() + timeoutMs;
    while (running.size > 0 && performance.now() < endMs) {
      await within(new Promise<void>((resolve) => waiters.push(resolve)), endMs);
    }
    await within(commit(), endMs);
  }

  // ---- start and end

  async function start(): Promise<void> {
    await tools.ready;
    if (isStopped) return;
    if (groupId !== null) {
      group = joinKafkaGroup(
        { openMember: tools.openMember, health, log },
        { topic, beforeJoin: () => drain(options.drainMs), onAssigned: assign },
      );
      return;
    }
    for (let againMs = PAUSE_MIN_MS; !isStopped; againMs = Math.min(againMs * 2, PAUSE_MAX_MS)) {
      try {
        const known = (await fetcher.metadata({ topics: [topic] })).topics.get(topic);
        const partitions = Array.from({ length: known?.partitionsCount ?? 0 }, (_, i) => i);
        assign({ partitions, isUnbroken: false });
        return;
      } catch (error) {
        if (isStopped) return;
        trouble(error);
        await new Promise((resolve) => setTimeout(resolve, againMs));
      }
    }
  }

  const endTimer = setInterval(() => void askEnds(), END_PAUSE_MS);

  // Topics that are refused are the owner's to hear of, by `ready`.
  start().catch(() => {});

  return {
    placed,

    status() {
      let lag = 0n;
      let waitingBytes = 0;
      for (const { end: last, handled, next, queueBytes } of tenures.values()) {
        if (next !== null && last > handled) lag += last - handled;
        waitingBytes += queueBytes;
      }
      return {
        topic,
        group: groupId,
        partitions: tenures.size,
        lag: Number(lag),
        waitingBytes,
        rejections,
        gaps,
      };
    },

    async stop(timeoutMs) {
      if (isStopping) return;
      isStopping = true;
      const endMs = performance.now() + timeoutMs;
      await drain(timeoutMs);
      isStopped = true;
      clearInterval(endTimer);
      for (const timer of [pumpTimer, commitTimer]) if (timer !== null) clearTimeout(timer);
      for (const tenure of [...tenures.values()]) end(tenure);
      await group?.stop(Math.max(0, endMs - performance.now()));
      await within(
        fetcher.close(true).catch(() => {}),
        endMs,
      );
      health.forget(part);
    },
  };
}

function bytesOf(key: Buffer | null, value: Buffer | null): number {
  return (key?.length ?? 0) + (value?.length ?? 0);
}

/** Waits for something, but not past a moment. */
async function within(what: Promise<unknown>, endMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([
    what,
    new Promise((resolve) => {
      timer = setTimeout(resolve, Math.max(0, endMs - performance.now()));
    }),
  ]);
  clearTimeout(timer);
}
