/**
 * One subscription: the partitions that are its own, what they hold (`kafka-fetch.ts`) handed to the handler in batches, and how far that
 * got.
 *
 * A partition has at most one handler at a time and its records come in their order; some partitions are handled side by side. A
 * handler that rejects gets the same batch again, later and later, until it resolves or the partition is taken away. What is fetched
 * ahead is bounded, so that a slow handler costs time and not memory.
 *
 * With a group, partitions come and go with its members, and offsets are committed after their handler resolved. A retained topic is
 * read by everybody, from the last record of each partition.
 */
import type { Log, ReceivedRecord } from '../../ports.ts';
import { createKafkaFetch, type FetchTools } from './kafka-fetch.ts';
import {
  type Assignment,
  type GroupTools,
  joinKafkaGroup,
  type KafkaGroup,
} from './kafka-group.ts';
import { type KafkaHealth, reasonOf } from './kafka-health.ts';
import { createTenure, endTenure, settleTenure, type Tenure, takeBatch } from './kafka-tenure.ts';

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
  openFetcher: FetchTools['openFetcher'];
  openMember: GroupTools['openMember'];
  onTrouble: FetchTools['onTrouble'];
};

export type ReaderOptions = {
  topic: string;
  /** Null: everybody reads everything, from the last record. */
  group: string | null;
  from?: (partition: number) => Promise<bigint | null>;
  /** See `Topic`. */
  gatherBytes: number;
  batchRecordsMax: number;
  batchBytesMax: number;
  handlersMax: number;
  /** How long the end of handlers is waited for when the group changes. */
  drainMs: number;
  /** See `GroupOptions`. */
  groupPatienceMs: number;
};

const COMMIT_PAUSE_MS = 100;
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 2_000;
const HANDLER_PAUSE_MAX_MS = 5_000;

export function startKafkaReader(
  tools: ReaderTools,
  options: ReaderOptions,
  handle: (records: readonly ReceivedRecord[]) => Promise<void>,
): KafkaReader {
  const { log, health } = tools;
  const { topic, group: groupId } = options;
  const batchLimits = { recordsMax: options.batchRecordsMax, bytesMax: options.batchBytesMax };
  const part = `reading ${topic}${groupId === null ? '' : ` for ${groupId}`}`;
  const tenures = new Map<number, Tenure>();
  const waiters: (() => void)[] = [];
  let group: KafkaGroup | null = null;
  /** Partitions whose handler runs; it may outlive the tenure it began in. */
  const running = new Set<number>();
  let rejections = 0;
  let isDraining = false;
  let isStopping = false;
  let isStopped = false;
  let commitTimer: NodeJS.Timeout | null = null;
  let committing: Promise<void> | null = null;
  let isPlaced: () => void = () => {};
  const placed = new Promise<void>((resolve) => {
    isPlaced = resolve;
  });
  const { openFetcher, onTrouble } = tools;
  const fetch = createKafkaFetch(
    {
      log,
      health,
      openFetcher,
      tenures,
      onRecords: dispatch,
      onNewTopic() {
        const old = [...tenures.values()];
        for (const tenure of old) end(tenure);
        void place(
          old.map(({ partition }) => begin(partition)),
          PAUSE_MIN_MS,
        );
      },
      onPastEnd(tenure, start) {
        end(tenure);
        settleTenure(begin(tenure.partition), start);
      },
      onTrouble,
    },
    { topic, group: groupId, part, gatherBytes: options.gatherBytes },
  );

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
    const tenure = createTenure(partition);
    tenures.set(partition, tenure);
    return tenure;
  }

  function end(tenure: Tenure): void {
    endTenure(tenure);
    if (tenures.get(tenure.partition) === tenure) tenures.delete(tenure.partition);
  }

  /** Finds where each begins, trying for as long as it is ours. */
  async function place(fresh: readonly Tenure[], againMs: number): Promise<void> {
    const mine = fresh.filter(({ isOver }) => !isOver);
    if (mine.length === 0 || isStopped) return;
    try {
      const places = await findPlaces(mine.map(({ partition }) => partition));
      for (const tenure of mine) settleTenure(tenure, places.get(tenure.partition) ?? 0n);
      health.fine(part);
      isPlaced();
      fetch.pump();
    } catch (error) {
      if (isStopped) return;
      fetch.failed(error);
      setTimeout(() => void place(mine, Math.min(againMs * 2, PAUSE_MAX_MS)), againMs);
    }
  }

  async function findPlaces(partitions: readonly number[]): Promise<Map<number, bigint>> {
    const first = await fetch.findOffsets(partitions, 'first');
    if (group === null) {
      const last = await fetch.findOffsets(partitions, 'end');
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
    const batch = (tenure.batch ??= takeBatch(tenure, batchLimits));
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
    fetch.pump();
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
        {
          topic,
          beforeJoin: () => drain(options.drainMs),
          onAssigned: assign,
          patienceMs: options.groupPatienceMs,
        },
      );
      return;
    }
    for (let againMs = PAUSE_MIN_MS; !isStopped; againMs = Math.min(againMs * 2, PAUSE_MAX_MS)) {
      try {
        const partitions = Array.from({ length: await fetch.countPartitions() }, (_, i) => i);
        assign({ partitions, isUnbroken: false });
        return;
      } catch (error) {
        if (isStopped) return;
        fetch.failed(error);
        await new Promise((resolve) => setTimeout(resolve, againMs));
      }
    }
  }

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
        gaps: fetch.gaps(),
      };
    },

    async stop(timeoutMs) {
      if (isStopping) return;
      isStopping = true;
      const endMs = performance.now() + timeoutMs;
      await drain(timeoutMs);
      isStopped = true;
      fetch.stop();
      if (commitTimer !== null) clearTimeout(commitTimer);
      for (const tenure of [...tenures.values()]) end(tenure);
      await group?.stop(Math.max(0, endMs - performance.now()));
      await within(fetch.close(), endMs);
      health.forget(part);
    },
  };
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
