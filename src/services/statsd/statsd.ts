/**
 * From shares and outcomes of blocks to time series for charts: `shares` (per worker), `pool` (sums, with the reasons of refusals) and
 * `blocks`. Nothing of money depends on it.
 *
 * On a bus with offsets a record is handled once it is written: while the time series is away nothing is read, the log keeps it, and
 * nothing is missing afterwards. How far the written sums go is written beside them (`statsd_positions`), so that a restart rebuilds
 * the windows that were open. On a bus without offsets everything goes on; what cannot be held is a gap, and counted.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { quoteText } from '../../core/series/line.ts';
import {
  type Decoded,
  decodeBlockOutcome,
  decodeRejectedShare,
  decodeShare,
} from '../../messages/codec.ts';
import { isMarkKey, type ShareRecord } from '../../messages/share.ts';
import type { Bus, Clock, Log, ReceivedRecord, Series, SeriesPoint } from '../../ports.ts';
import { type CountedShare, Lane, type Position, SLOTS } from './lane.ts';
import { ROSTER_LIMITS, Roster, type RosterLimits } from './roster.ts';

export type StatsMeter = {
  count(name: string, labels?: Readonly<Record<string, string>>): void;
  set(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
};

export type StatsdTools = { clock: Clock; log: Log; bus: Bus; series: Series; meter: StatsMeter };

export type StatsdOptions = {
  /** How often sums are written where nobody waits for it. */
  cycleMs?: number;
  /** How long records that wait to be written wait for others. */
  gatherMs?: number;
  /** How long after a failure it is tried again. */
  behindMs?: number;
  /** How long a position is asked for before a partition is read from where the group left off. */
  positionPatienceMs?: number;
  roster?: RosterLimits;
};

export type StatsdStatus = {
  shares: number;
  late: number;
  duplicates: number;
  unreadable: number;
  /** Sums lost because the time series was away for too long. */
  lost: number;
  blocks: number;
  workers: number;
  /** The time series does not take what it is given; on a bus with offsets reading is paused. */
  behind: boolean;
};

export type Statsd = { status(): StatsdStatus; stop(): Promise<void> };

const GROUP = 'statsd';
const STOPPED = 'statsd is stopped';
const CYCLE_MS = 5_000;
const GATHER_MS = 250;
const BEHIND_MS = 2_000;
const POSITION_PATIENCE_MS = 60_000;
const POSITION_RETRY_MS = 1_000;
/** Points handed over at a time, far below what the buffer of the time series holds. */
const SLICE = 20_000;
const FUTURE_MS_MAX = 3_600_000;
const HOUR_MS = 3_600_000;
const STOP_MS_MAX = 5_000;
/** Records of one batch are taken in in turns, so that other work gets in between. */
const TURN = 500;
const UNKNOWN = '(unknown)';
const REASON = /^[a-z][a-z-]{0,31}$/;
const REASONS_MAX = 64;

const TOPICS = ['share.valid', 'share.rejected', 'share.stale'] as const;
type ShareTopic = (typeof TOPICS)[number];
/** Partitions of different topics write at different places of a window. */
const PARTITIONS_MAX = 300;

/** Subscribes, and resolves when the bus has taken the subscriptions. */
export async function startStatsd(
  tools: StatsdTools,
  options: StatsdOptions = {},
): Promise<Statsd> {
  const { clock, log, bus, series, meter } = tools;
  const { cycleMs = CYCLE_MS, gatherMs = GATHER_MS, behindMs = BEHIND_MS } = options;
  const roster = new Roster(options.roster ?? ROSTER_LIMITS);
  const reasons = new Set<string>();
  const lanes = new Map<string, Lane>();
  // Another one for every process and start, as far as they are close in time.
  const slot = (Math.floor(clock.nowMs() / 1_000) + process.pid * 37) % SLOTS;
  const status = { shares: 0, late: 0, duplicates: 0, unreadable: 0, lost: 0, blocks: 0 };
  const ending = new AbortController();
  let isBehind = false;
  let running: Promise<boolean> | null = null;
  let queued: Promise<boolean> | null = null;

  // ---- from records to sums

  function laneOf(topic: ShareTopic, partition: number | null, position: Position | null): Lane {
    const place = TOPICS.indexOf(topic) * PARTITIONS_MAX + (partition ?? PARTITIONS_MAX - 1);
    const lane = new Lane(place, slot, position);
    lanes.set(nameOf(topic, partition), lane);
    return lane;
  }

  async function takeShares(topic: ShareTopic, records: readonly ReceivedRecord[]): Promise<void> {
    const partition = records[0]?.offset === undefined ? null : (records[0].partition ?? 0);
    const name = nameOf(topic, partition);
    const lane = lanes.get(name) ?? (partition === null ? laneOf(topic, null, null) : null);
    for (let from = 0; from < records.length; from += TURN) {
      if (from > 0) await new Promise((resolve) => setImmediate(resolve));
      // The partition may have been given to another process, and back.
      if (lane === null || lanes.get(name) !== lane)
        throw new Error('the partition is taken up anew');
      for (const record of records.slice(from, from + TURN)) takeShare(topic, lane, record);
    }
    // Without offsets nobody waits: the publisher has other subscribers.
    if (partition === null) void nextCycle(cycleMs);
    else while (!(await nextCycle(gatherMs))) if (ending.signal.aborted) throw new Error(STOPPED);
  }

  function takeShare(topic: ShareTopic, lane: Lane, record: ReceivedRecord): void {
    const offset = record.offset ?? null;
    if (offset !== null && !lane.enter(offset)) return;
    if (isMarkKey(record.key)) return;
    const decoded = countedShare(topic, record.value);
    const isReadable = decoded.ok && decoded.value.atMs < clock.nowMs() + FUTURE_MS_MAX;
    if (!isReadable) {
      status.unreadable++;
      meter.count('statsd_unreadable', { topic });
      return;
    }
    const share = decoded.value;
    if (share.reason !== '') share.reason = closedReason(share.reason);
    if (share.account !== '') {
      Object.assign(share, roster.place(share.account, share.worker, share.atMs));
    }
    const verdict = lane.add(share, offset);
    meter.count('statsd_shares', { status: share.status, verdict });
    if (verdict === 'counted') status.shares++;
    else if (verdict === 'late') status.late++;
    else if (verdict === 'duplicate') status.duplicates++;
  }

  /** Reasons are a closed list of the gateway and the audit; whatever comes beside it does not grow for ever. */
  function closedReason(reason: string): string {
    if (!reasons.has(reason)) {
      if (!REASON.test(reason) || reasons.size >= REASONS_MAX) return 'other';
      reasons.add(reason);
    }
    return reason;
  }

  async function takeOutcomes(records: readonly ReceivedRecord[]): Promise<void> {
    const points: SeriesPoint[] = [];
    for (const { value } of records) {
      const decoded = decodeBlockOutcome(value);
      if (!decoded.ok) {
        status.unreadable++;
        meter.count('statsd_unreadable', { topic: 'block.outcome' });
        continue;
      }
      const { headerHash, height, state, node, detail, confirmations, atMs } = decoded.value;
      status.blocks++;
      points.push({
        measurement: 'blocks',
        tags: { state },
        fields: {
          hash: encodeHexReversed(headerHash),
          height: BigInt(height),
          confirmations: BigInt(confirmations),
          node,
          detail,
        },
        // Two blocks of one millisecond are two points.
        atMs:
          atMs + ((((headerHash[0] as number) << 8) | (headerHash[1] as number)) % 1_000) / 1_000,
      });
    }
    series.write(points);
    // Rejects while the time series is away, so that they come again; where nothing comes again, nobody waits.
    if (records[0]?.offset !== undefined) await series.flush();
  }

  // ---- from sums to the time series

  /** The next cycle that takes in all that is there now, `afterMs` from now; true when everything is written. Cycles do not overlap. */
  function nextCycle(afterMs: number): Promise<boolean> {
    queued ??= (async () => {
      await running;
      await pause(isBehind ? Math.max(afterMs, behindMs) : afterMs);
      queued = null;
      running = runCycle();
      return running;
    })();
    return queued;
  }

  async function runCycle(): Promise<boolean> {
    try {
      await cycle();
      if (isBehind) log.info('Statistics are written again.');
      isBehind = false;
    } catch (error) {
      if (!isBehind && !ending.signal.aborted) {
        log.warn('Statistics can not be written.', { error: String(error) });
      }
      isBehind = true;
      meter.count('statsd_failures');
    }
    tellMeter();
    if (isBehind && !ending.signal.aborted) void nextCycle(behindMs);
    return !isBehind;
  }

  async function cycle(): Promise<void> {
    // What was written before goes first; while that fails, nothing is written into the buffer twice.
    await series.flush();
    const taken = Array.from(lanes, ([name, lane]) => ({ name, lane, ...lane.take() }));
    const nowMs = clock.nowMs();
    try {
      await write(taken.flatMap(({ name, birth }) => positionPoints(name, birth, nowMs)));
      await write(taken.flatMap(({ points }) => points));
    } catch (error) {
      for (const { lane } of taken) lane.giveBack();
      throw error;
    }
    for (const { lane } of taken) lane.settle();
    await write(taken.flatMap(({ name, position }) => positionPoints(name, position, nowMs)));
  }

  /** Ends early when statsd ends. */
  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        ending.signal.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      ending.signal.addEventListener('abort', end);
      if (ending.signal.aborted) end();
    });
  }

  async function write(points: readonly SeriesPoint[]): Promise<void> {
    for (let from = 0; from < points.length; from += SLICE) {
      series.write(points.slice(from, from + SLICE));
      await series.flush();
    }
  }

  function tellMeter(): void {
    status.lost = 0;
    let dirty = 0;
    for (const lane of lanes.values()) {
      status.lost += lane.lost;
      dirty += lane.dirtyCells;
    }
    meter.set('statsd_lost', status.lost);
    meter.set('statsd_unwritten', dirty);
    meter.set('statsd_workers', roster.workers);
    meter.set('statsd_behind', isBehind ? 1 : 0);
  }

  /** The next offset that is wanted of a partition; null when nothing is known of it. */
  async function takeUp(topic: ShareTopic, partition: number): Promise<bigint | null> {
    const name = nameOf(topic, partition);
    // What is on its way from its last time here is written before it is asked what is there; the rest is read again.
    lanes.delete(name);
    await running;
    const position = await readPosition(name);
    laneOf(topic, partition, position);
    return position?.resume ?? null;
  }

  async function readPosition(name: string): Promise<Position | null> {
    if (series.query === undefined) return null;
    const endMs = performance.now() + (options.positionPatienceMs ?? POSITION_PATIENCE_MS);
    for (;;) {
      if (ending.signal.aborted) throw new Error(STOPPED);
      try {
        return positionIn(await series.query(positionQuery(name)));
      } catch (error) {
        if (performance.now() < endMs) {
          await pause(POSITION_RETRY_MS);
          continue;
        }
        log.warn('It is not known how far statistics go. They go on where the bus left off.', {
          lane: name,
          error: String(error),
        });
        meter.count('statsd_positions_unknown');
        return null;
      }
    }
  }

  await Promise.all([
    ...TOPICS.map((topic) =>
      bus.subscribe(topic, GROUP, (records) => takeShares(topic, records), {
        from: (partition) => takeUp(topic, partition),
      }),
    ),
    bus.subscribe('block.outcome', GROUP, takeOutcomes),
  ]);

  return {
    status: () => ({ ...status, workers: roster.workers, behind: isBehind }),
    async stop() {
      ending.abort();
      await Promise.race([
        nextCycle(0),
        new Promise((resolve) => setTimeout(resolve, STOP_MS_MAX).unref()),
      ]);
    },
  };
}

function countedShare(topic: ShareTopic, value: Uint8Array): Decoded<CountedShare> {
  if (topic === 'share.valid') {
    const decoded = decodeShare(value);
    if (!decoded.ok) return decoded;
    return { ok: true, value: counted(decoded.value, 'valid', '', decoded.value.headerHash) };
  }
  const decoded = decodeRejectedShare(value);
  if (!decoded.ok) return decoded;
  const { share, reason, atMs } = decoded.value;
  const status =
    topic === 'share.stale' ? 'stale' : reason === 'duplicate' ? 'duplicate' : 'rejected';
  if (share !== null) {
    const counts = counted(share, status, reason || 'other', null);
    return { ok: true, value: { ...counts, atMs: share.acceptedAtMs || atMs } };
  }
  const nobody = { pool: UNKNOWN, account: '', worker: '', difficulty: 0, shareDifficulty: 0 };
  return { ok: true, value: { ...nobody, status, reason: reason || 'other', atMs, hash: null } };
}

function counted(
  share: ShareRecord,
  status: string,
  reason: string,
  hash: Uint8Array | null,
): CountedShare {
  const { pool, account, worker, difficulty, shareDifficulty, acceptedAtMs } = share;
  return {
    status,
    reason,
    pool,
    account,
    worker,
    difficulty,
    shareDifficulty,
    atMs: acceptedAtMs,
    hash,
  };
}

function nameOf(topic: ShareTopic, partition: number | null): string {
  return `${topic}/${partition ?? '-'}`;
}

/** One point an hour and lane, written over and over. */
function positionPoints(name: string, position: Position | null, nowMs: number): SeriesPoint[] {
  if (position === null) return [];
  const { resume, next, progressMs, slot } = position;
  return [
    {
      measurement: 'statsd_positions',
      tags: { lane: name },
      fields: { resume, next, progress_ms: BigInt(Math.floor(progressMs)), slot: BigInt(slot) },
      atMs: Math.floor(nowMs / HOUR_MS) * HOUR_MS,
    },
  ];
}

function positionQuery(name: string): string {
  return (
    'SELECT resume, next, progress_ms, slot FROM statsd_positions' +
    ` WHERE lane = ${quoteText(name)} ORDER BY time DESC LIMIT 1`
  );
}

function positionIn(rows: readonly Record<string, unknown>[]): Position | null {
  const [row] = rows;
  const { resume, next, progress_ms: progressMs, slot } = row ?? {};
  const isWhole = [resume, next, progressMs, slot].every((value) => Number.isSafeInteger(value));
  if (!isWhole) return null;
  return {
    resume: BigInt(resume as number),
    next: BigInt(next as number),
    progressMs: progressMs as number,
    slot: slot as number,
  };
}
