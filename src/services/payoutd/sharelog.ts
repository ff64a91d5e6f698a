/**
 * Makes rows of what the audit let through: `share.valid` → table `shares`, numbered; `block.candidates` and `block.outcome` → blocks and
 * their history; `share.rejected` → dead letters. Also the upkeep of the log: partitions ahead, retention.
 *
 * Two roads lead here. Within one process the records of one journal come in the journal's order and are stored before `publish`
 * resolves. Over Kafka they come with offsets, by several roads at once: they are held until their place in the order is certain
 * (`share-order.ts`) and then stored in one transaction with the offsets behind them, so that a start after any death, and any other
 * reader of the same log, goes on exactly where the database stands. Two may run at once: they number the same order, and what the one
 * stored is known to the other by its header hash. Each must read all partitions, hence in a group of its own.
 *
 * Records that no database would take are set aside one by one, so that none of them can stop the rest.
 */
import {
  decodeBlockCandidate,
  decodeBlockOutcome,
  decodeCheckedShare,
  decodeRejectedShare,
  decodeShareMark,
  encodeShare,
} from '../../messages/codec.ts';
import { type CheckedShare, isMarkKey } from '../../messages/share.ts';
import { PARTITIONS } from '../../messages/topics.ts';
import type { Bus, Clock, Db, Log, ReceivedRecord } from '../../ports.ts';
import { recordCandidate, recordOutcome } from '../../store/blocks.ts';
import { type DeadLetter, recordDeadLetters, trimDeadLetters } from '../../store/dead-letters.ts';
import {
  moveInbox,
  readInbox,
  readShareGateways,
  within,
  writeShareGateways,
} from '../../store/inbox.ts';
import { dropOldShares, makeSharePartitions, recordShares } from '../../store/shares.ts';
import { type HeldShare, ShareOrder } from './share-order.ts';

export type ShareLogMeter = {
  count(name: string, labels?: Record<string, string>): void;
  set(name: string, value: number, labels?: Record<string, string>): void;
};

export type ShareLogTools = {
  bus: Bus;
  db: Db;
  log: Log;
  clock: Clock;
  meter: ShareLogMeter;
  /** Milliseconds that only go forward; `performance.now` unless a test owns time. */
  monotonicMs?: () => number;
};

export type ShareLogOptions = {
  /** Name among the readers of the bus. Over Kafka nobody else may have it: every share log reads all partitions. */
  group?: string;
  /** Shares older than this are removed, a day at a time. */
  retentionDays?: number;
  /** Shares held until their place is certain; with more, reading pauses. */
  heldMax?: number;
  /** A gateway without marks for so long is not waited for. */
  gatewayGoneMs?: number;
};

export type ShareLogStatus = {
  stored: number;
  duplicates: number;
  /** Stored on the gateway's word, because the job was no longer known when it was audited. */
  unaudited: number;
  /** Records that could not be decoded or stored, and shares that were refused; they are in the table dead_letters. */
  setAside: number;
  blocks: number;
  /** Shares whose place is not certain yet. */
  held: number;
  gateways: number;
  /** The last try to store shares failed. */
  stalled: boolean;
};

export type ShareLog = {
  status(): ShareLogStatus;
  /** Everything accepted up to this by gateways that are alive is stored. Null where there are no marks. */
  throughMs(): number | null;
  /** Resolves with the reason when this one cannot go on and must be started again with a bus of its own. Never otherwise. */
  failed: Promise<string>;
  stop(): Promise<void>;
};

const RETENTION_DAYS = 90;
const PARTITIONS_AHEAD_DAYS = 3;
const MAINTENANCE_MS = 3_600_000;
const RETRY_MS = [100, 500, 2_000, 5_000] as const;
const HELD_MAX = 200_000;
const GATEWAY_GONE_MS = 30_000;
/** When all are silent it is more likely the bus; that is borne so many times longer. */
const ALL_GONE_FACTOR = 20;
/** Of one transaction: 0.1 s of PostgreSQL, about. */
const STORE_MAX = 4_000;
const TICK_MS = 1_000;
const ROOM_PATIENCE_MS = 250;
/** How long offsets may wait when no share takes them along. */
const IDLE_MOVE_MS = 5_000;
/** data_exception, integrity_constraint_violation: the fault is in the record, another try cannot help. */
const RECORD_FAULT = /^(22|23)/;
const SHARES = 'share.valid';

/** The database knows less than it had acknowledged: a standby took over, or a backup was restored. */
class DatabaseWentBackError extends Error {}

/** Makes today's partitions, then subscribes. Rejects when the database is not there. */
export async function startShareLog(
  tools: ShareLogTools,
  options: ShareLogOptions = {},
): Promise<ShareLog> {
  const { bus, db, log, clock, meter } = tools;
  const monotonicMs = tools.monotonicMs ?? (() => performance.now());
  const group = options.group ?? 'sharelog';
  const heldMax = options.heldMax ?? HELD_MAX;
  const goneMs = options.gatewayGoneMs ?? GATEWAY_GONE_MS;
  const status = {
    stored: 0,
    duplicates: 0,
    unaudited: 0,
    setAside: 0,
    blocks: 0,
    stalled: false,
  };
  const failed = Promise.withResolvers<string>();
  const order = new ShareOrder(PARTITIONS);
  /** The offsets that we know the database to have had, by topic and partition. */
  const written = new Map<string, bigint>();
  let writtenGateways = '';
  let storedThroughMs: number | null = null;
  let movedAtMs = monotonicMs();
  let stopped = false;
  /** Something came, was stored or was given up. */
  const change = createSignal();
  const ending = createSignal();

  // ---- setting aside ----------------------------------------------------------------------------------------------

  function letter(topic: string, reason: string, detail: string, raw: Uint8Array): DeadLetter {
    return { topic, reason, detail, raw, atMs: clock.nowMs() };
  }

  function tellOf(letters: readonly DeadLetter[]): void {
    status.setAside += letters.length;
    for (const { topic, reason, detail } of letters.slice(0, 3)) {
      log.error('A record was set aside.', { topic, reason, detail, more: letters.length - 1 });
    }
  }

  async function setAside(letters: readonly DeadLetter[]): Promise<void> {
    if (letters.length === 0) return;
    await recordDeadLetters(db, letters);
    tellOf(letters);
  }

  // ---- storing shares ---------------------------------------------------------------------------------------------

  /** One transaction: the shares, in their order, with the offsets behind them. */
  async function storeTogether(
    batch: readonly CheckedShare[],
    offsets: ReadonlyMap<number, bigint>,
  ): Promise<void> {
    const gateways = order.gateways();
    const { result, letters } = await db.transaction(async (tx) => {
      await move(tx, SHARES, offsets);
      if (offsets.size > 0 && gateways.join('\n') !== writtenGateways) {
        await writeShareGateways(tx, gateways);
      }
      const result = await recordShares(within(tx), batch);
      const letters = result.tooOld.map((share) =>
        letter('share.submissions', 'too-old', 'older than the share log', encodeShare(share)),
      );
      await recordDeadLetters(tx, letters);
      return { result, letters };
    });
    noteMoved(SHARES, offsets);
    if (offsets.size > 0) writtenGateways = gateways.join('\n');
    status.stored += result.stored;
    status.duplicates += result.duplicates;
    tellOf(letters);
    for (const { audited } of batch) if (!audited) status.unaudited++;
  }

  /** Halves a batch that the database refuses for its content, until the one record at fault stands alone. */
  async function store<Share extends CheckedShare>(
    batch: readonly Share[],
    offsetsAfter: (batch: readonly Share[]) => ReadonlyMap<number, bigint>,
    settle: (batch: readonly Share[]) => void,
  ): Promise<void> {
    try {
      await storeTogether(batch, offsetsAfter(batch));
      settle(batch);
    } catch (error) {
      if (!RECORD_FAULT.test(errorCode(error)) || batch.length === 0) throw error;
      if (batch.length > 1) {
        const middle = batch.length >> 1;
        await store(batch.slice(0, middle), offsetsAfter, settle);
        await store(batch.slice(middle), offsetsAfter, settle);
        return;
      }
      const { share } = batch[0] as Share;
      await setAside([
        letter('share.submissions', 'unstorable', String(error), encodeShare(share)),
      ]);
      settle(batch);
    }
  }

  /** Moves offsets within the transaction of their effect. Throws when the database has forgotten what it had. */
  async function move(
    tx: Pick<Db, 'query'>,
    topic: string,
    offsets: ReadonlyMap<number, bigint>,
  ): Promise<void> {
    const ourOwn = (partition: number) => written.get(`${topic}/${partition}`);
    const back = [...offsets].filter(([partition, offset]) => offset < (ourOwn(partition) ?? 0n));
    const before = await moveInbox(tx, topic, offsets, new Set(back.map(([one]) => one)));
    for (const partition of offsets.keys()) {
      const ours = ourOwn(partition);
      if (ours === undefined || (before.get(partition) ?? -1n) >= ours) continue;
      throw new DatabaseWentBackError(
        `the database had taken in ${topic}/${partition} up to ${ours}, and now knows of ${before.get(partition) ?? 'nothing'}`,
      );
    }
  }

  function noteMoved(topic: string, offsets: ReadonlyMap<number, bigint>): void {
    for (const [partition, offset] of offsets) written.set(`${topic}/${partition}`, offset);
  }

  // ---- shares in the order of their journal -----------------------------------------------------------------------

  /** The one journal there is: its order is the order of the log, and its shipper repeats what is not stored. */
  async function storeAtOnce(records: readonly ReceivedRecord[]): Promise<void> {
    const batch: CheckedShare[] = [];
    const letters: DeadLetter[] = [];
    for (const { key, value } of records) {
      if (isMarkKey(key)) continue;
      const decoded = decodeCheckedShare(value);
      if (decoded.ok) batch.push(decoded.value);
      else letters.push(letter(SHARES, 'undecodable', decoded.reason, value));
    }
    if (batch.length > 0) {
      await store(
        batch,
        () => NO_OFFSETS,
        () => {},
      );
    }
    await setAside(letters);
  }

  // ---- shares of several roads ------------------------------------------------------------------------------------

  async function hold(records: readonly ReceivedRecord[]): Promise<void> {
    const partition = records[0]?.partition ?? 0;
    const letters: DeadLetter[] = [];
    const found = records.map(({ key, value, offset = 0n }) => {
      const mark = isMarkKey(key) ? decodeShareMark(value) : null;
      const share = mark === null ? decodeCheckedShare(value) : null;
      const reason = mark?.ok === false ? mark.reason : share?.ok === false ? share.reason : null;
      if (reason !== null) letters.push(letter(SHARES, 'undecodable', reason, value));
      return { offset, mark, share };
    });
    await room(partition);
    // Before any offset moves behind them.
    await setAside(letters);
    const nowMs = monotonicMs();
    for (const { offset, mark, share } of found) {
      if (share?.ok) order.take({ ...share.value, partition, offset }, nowMs);
      else order.pass(partition, offset);
      if (mark?.ok) order.mark(partition, mark.value, nowMs);
    }
    change.notify();
  }

  /**
   * Resolves when more of this partition may be held: there is room, or only more of it can make room. Rejects when that takes long, so
   * that other partitions get their turn.
   */
  async function room(partition: number): Promise<void> {
    const giveUpAtMs = monotonicMs() + ROOM_PATIENCE_MS;
    while (!stopped && order.held >= heldMax) {
      const isNeeded = order.isLagging(partition) && !status.stalled;
      if (isNeeded && order.held < 2 * heldMax) return;
      const leftMs = giveUpAtMs - monotonicMs();
      if (leftMs <= 0) throw new Error('the share log holds as many shares as it may');
      await change.wait(leftMs);
    }
    if (stopped) throw new Error('the share log is stopped');
  }

  /** Only offsets that the database does not have yet. */
  function news(offsets: Map<number, bigint>): Map<number, bigint> {
    for (const [partition, offset] of offsets) {
      if (written.get(`${SHARES}/${partition}`) === offset) offsets.delete(partition);
    }
    return offsets;
  }

  const offsetsAfter = (batch: readonly HeldShare[]) => news(order.offsetsAfter(batch));
  const settle = (batch: readonly HeldShare[]) => {
    order.settle(batch);
    change.notify();
  };

  async function storeRipe(): Promise<void> {
    // Read first: what comes while this is being stored may be older than what is marked by then.
    const throughMs = order.throughMs();
    let ripe = order.ripe();
    if (ripe.length === 0 && order.held >= 2 * heldMax) {
      const slowest = order.dropSlowest();
      ripe = order.oldestHalf();
      log.error('The share log waits no longer; some shares may be numbered out of turn.', {
        gateway: slowest,
        held: order.held,
      });
      meter.count('share_log_forced');
    }
    for (let at = 0; at < ripe.length && !stopped; at += STORE_MAX) {
      await store(ripe.slice(at, at + STORE_MAX), offsetsAfter, settle);
      movedAtMs = monotonicMs();
    }
    if (ripe.length === 0 && monotonicMs() - movedAtMs >= IDLE_MOVE_MS) {
      movedAtMs = monotonicMs();
      const offsets = offsetsAfter([]);
      if (offsets.size > 0) await storeTogether([], offsets);
    }
    if (!stopped && Number.isFinite(throughMs)) storedThroughMs = throughMs;
  }

  async function keepStoring(): Promise<void> {
    let attempt = 0;
    while (!stopped) {
      const seen = change.count();
      try {
        await storeRipe();
        if (status.stalled) log.info('Shares are stored again.', { held: order.held });
        status.stalled = false;
        attempt = 0;
        if (!stopped && change.count() === seen) await change.wait(TICK_MS);
      } catch (error) {
        if (error instanceof DatabaseWentBackError) {
          log.error('The share log must be read again from where the database stands.', {
            reason: error.message,
          });
          failed.resolve(error.message);
          stopped = true;
          change.notify();
          return;
        }
        if (!status.stalled) {
          log.error('Shares cannot be stored. They stay on the bus.', {
            error: String(error),
            held: order.held,
          });
        }
        status.stalled = true;
        order.askAgain();
        await pause(attempt++);
      }
    }
  }

  function tick(): void {
    const limits = { goneMs, allGoneMs: ALL_GONE_FACTOR * goneMs };
    for (const gateway of order.dropSilent(monotonicMs(), limits)) {
      log.warn('A gateway has fallen silent; the share log waits for it no longer.', { gateway });
      meter.count('share_log_gateways_gone');
      change.notify();
    }
    meter.set('share_log_held', order.held);
    meter.set('share_log_gateways', order.gateways().length);
  }

  // ---- blocks -----------------------------------------------------------------------------------------------------

  /** Stores one block record with its offset, for as long as it takes: its publisher has better things to do than to repeat it. */
  async function takeBlock(
    topic: string,
    record: ReceivedRecord,
    step: ((tx: Pick<Db, 'transaction'>) => Promise<void>) | string,
  ): Promise<void> {
    const { value, offset, partition = 0 } = record;
    const offsets = offset === undefined ? NO_OFFSETS : new Map([[partition, offset + 1n]]);
    for (let attempt = 0; !stopped; attempt++) {
      try {
        const current = step;
        await db.transaction(async (tx) => {
          await move(tx, topic, offsets);
          if (typeof current === 'string') {
            await recordDeadLetters(tx, [letter(topic, 'undecodable', current, value)]);
          } else await current(within(tx));
        });
        noteMoved(topic, offsets);
        if (typeof current === 'string') tellOf([letter(topic, 'undecodable', current, value)]);
        else status.blocks++;
        return;
      } catch (error) {
        if (RECORD_FAULT.test(errorCode(error)) && typeof step !== 'string') {
          step = String(error);
          continue;
        }
        if (error instanceof DatabaseWentBackError) {
          failed.resolve(error.message);
          stopped = true;
          break;
        }
        if (attempt === 0) {
          log.error('A block record cannot be stored yet; it is tried again.', {
            topic,
            error: String(error),
          });
        }
        await pause(attempt);
      }
    }
    throw new Error('the share log is stopped');
  }

  async function takeRejected(records: readonly ReceivedRecord[]): Promise<void> {
    const letters = records.map(({ value }) => {
      const decoded = decodeRejectedShare(value);
      if (!decoded.ok) return letter('share.rejected', 'undecodable', decoded.reason, value);
      const { share, raw, reason, detail, atMs } = decoded.value;
      const bytes = share === null ? raw : encodeShare(share);
      return { topic: 'share.submissions', reason, detail, raw: bytes, atMs };
    });
    await setAside(letters);
  }

  // ---- life -------------------------------------------------------------------------------------------------------

  async function pause(attempt: number): Promise<void> {
    if (!stopped) await ending.wait(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)] as number);
  }

  async function maintain(): Promise<void> {
    const nowMs = clock.nowMs();
    await makeSharePartitions(db, { nowMs, aheadDays: PARTITIONS_AHEAD_DAYS });
    await dropOldShares(db, { nowMs, retentionDays: options.retentionDays ?? RETENTION_DAYS });
    await trimDeadLetters(db);
  }

  /** Where the database stands with a partition; asked until it answers. */
  function from(topic: string): (partition: number) => Promise<bigint> {
    return async (partition) => {
      for (let attempt = 0; !stopped; attempt++) {
        try {
          const offset = (await readInbox(db, topic)).get(partition);
          if (offset === undefined) written.delete(`${topic}/${partition}`);
          else written.set(`${topic}/${partition}`, offset);
          // Nothing is stored of it: from its beginning, wherever the group says it was.
          return offset ?? 0n;
        } catch (error) {
          if (attempt === 0) {
            log.error('The database does not say where the log stands.', { error: String(error) });
          }
          await pause(attempt);
        }
      }
      throw new Error('the share log is stopped');
    };
  }

  await maintain();
  for (const gateway of await readShareGateways(db)) order.expect(gateway, monotonicMs());
  writtenGateways = order.gateways().join('\n');
  await bus.subscribe(
    SHARES,
    group,
    async (records) => {
      if (stopped) throw new Error('the share log is stopped');
      await (records[0]?.offset === undefined ? storeAtOnce(records) : hold(records));
    },
    { from: from(SHARES) },
  );
  await bus.subscribe('share.rejected', group, takeRejected);
  await bus.subscribe(
    'block.candidates',
    group,
    async (records) => {
      for (const record of records) {
        const decoded = decodeBlockCandidate(record.value);
        await takeBlock(
          'block.candidates',
          record,
          decoded.ok ? (tx) => recordCandidate(tx, decoded.value) : decoded.reason,
        );
      }
    },
    { from: from('block.candidates') },
  );
  await bus.subscribe(
    'block.outcome',
    group,
    async (records) => {
      for (const record of records) {
        const decoded = decodeBlockOutcome(record.value);
        await takeBlock(
          'block.outcome',
          record,
          decoded.ok ? (tx) => recordOutcome(tx, decoded.value) : decoded.reason,
        );
      }
    },
    { from: from('block.outcome') },
  );
  const storing = keepStoring();
  const maintenance = setInterval(() => {
    maintain().catch((error) => {
      log.error('The share log could not be maintained.', { error: String(error) });
    });
  }, MAINTENANCE_MS);
  const ticking = setInterval(tick, TICK_MS);

  return {
    status: () => ({ ...status, held: order.held, gateways: order.gateways().length }),
    throughMs: () => storedThroughMs,
    failed: failed.promise,
    async stop() {
      stopped = true;
      clearInterval(maintenance);
      clearInterval(ticking);
      ending.notify();
      change.notify();
      await storing;
    },
  };
}

const NO_OFFSETS: ReadonlyMap<number, bigint> = new Map();

type Signal = {
  wait(timeoutMs: number): Promise<void>;
  /** Wakes all who wait. */
  notify(): void;
  /** How often it was. */
  count(): number;
};

function createSignal(): Signal {
  const waiting = new Set<() => void>();
  let count = 0;
  return {
    wait: (timeoutMs) =>
      new Promise((resolve) => {
        const end = (): void => {
          clearTimeout(timer);
          waiting.delete(end);
          resolve();
        };
        const timer = setTimeout(end, timeoutMs);
        waiting.add(end);
      }),
    notify() {
      count += 1;
      for (const end of [...waiting]) end();
    },
    count: () => count,
  };
}

function errorCode(error: unknown): string {
  if (error !== null && typeof error === 'object' && 'code' in error) return String(error.code);
  return '';
}
