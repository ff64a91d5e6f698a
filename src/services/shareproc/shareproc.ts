/**
 * Reads acknowledged shares and found blocks from the bus and makes them rows: `share.submissions` → audit → table `shares` →
 * `share.valid`, and what fails the audit to `share.rejected` and the dead letters. Records that no database would take are
 * set aside one by one, so that none of them can stop the rest.
 *
 * Shares are repeated by their publisher when the database is away. Block records are repeated here: their publisher has better
 * things to do.
 */
import type { HashWork } from '../../core/work/share.ts';
import {
  decodeBlockCandidate,
  decodeBlockOutcome,
  decodeCoinbasePlans,
  decodeJob,
  decodeShare,
  encodeRejectedShare,
  encodeShare,
} from '../../messages/codec.ts';
import type { Bus, BusRecord, Clock, Db, Log } from '../../ports.ts';
import { recordCandidate, recordOutcome } from '../../store/blocks.ts';
import { type DeadLetter, recordDeadLetters, trimDeadLetters } from '../../store/dead-letters.ts';
import {
  type CheckedShare,
  dropOldShares,
  makeSharePartitions,
  recordShares,
} from '../../store/shares.ts';
import { type AuditOptions, Auditor } from './audit.ts';

export type ShareprocTools = { bus: Bus; db: Db; log: Log; clock: Clock; hash: HashWork };

export type ShareprocOptions = AuditOptions & {
  /** Shares older than this are removed, a day at a time. */
  retentionDays?: number;
};

export type ShareprocStatus = {
  stored: number;
  duplicates: number;
  /** Stored on the gateway's word, because the job was no longer known. */
  unaudited: number;
  rejected: number;
  /** Records that could not be decoded or stored; they are in the table dead_letters. */
  setAside: number;
  blocks: number;
};

export type Shareproc = { status(): ShareprocStatus; stop(): Promise<void> };

const RETENTION_DAYS = 90;
const PARTITIONS_AHEAD_DAYS = 3;
const MAINTENANCE_MS = 3_600_000;
const BLOCK_RETRY_MS = [100, 500, 2_000, 5_000] as const;
/** data_exception, integrity_constraint_violation: the fault is in the record, another try cannot help. */
const RECORD_FAULT = /^(22|23)/;

/** Makes today's partitions, then subscribes. Rejects when the database is not there. */
export async function startShareproc(
  tools: ShareprocTools,
  options: ShareprocOptions,
): Promise<Shareproc> {
  const { bus, db, log, clock } = tools;
  const auditor = new Auditor(tools.hash, options);
  const status: ShareprocStatus = {
    stored: 0,
    duplicates: 0,
    unaudited: 0,
    rejected: 0,
    setAside: 0,
    blocks: 0,
  };
  let stopped = false;
  let wake = (): void => {};

  async function maintain(): Promise<void> {
    const nowMs = clock.nowMs();
    await makeSharePartitions(db, { nowMs, aheadDays: PARTITIONS_AHEAD_DAYS });
    await dropOldShares(db, { nowMs, retentionDays: options.retentionDays ?? RETENTION_DAYS });
    await trimDeadLetters(db);
  }

  function letter(topic: string, reason: string, detail: string, raw: Uint8Array): DeadLetter {
    return { topic, reason, detail, raw, atMs: clock.nowMs() };
  }

  async function setAside(letters: readonly DeadLetter[]): Promise<void> {
    if (letters.length === 0) return;
    await recordDeadLetters(db, letters);
    status.setAside += letters.length;
    for (const { topic, reason, detail } of letters.slice(0, 3)) {
      log.error('A record was set aside.', { topic, reason, detail, more: letters.length - 1 });
    }
  }

  async function takeShares(records: readonly BusRecord[]): Promise<void> {
    const valid: CheckedShare[] = [];
    const letters: DeadLetter[] = [];
    const refused: BusRecord[] = [];
    for (const { key, value } of records) {
      const decoded = decodeShare(value);
      if (!decoded.ok) {
        letters.push(letter('share.submissions', 'undecodable', decoded.reason, value));
        refused.push(refusal(key, null, value, 'undecodable', decoded.reason));
        continue;
      }
      const share = decoded.value;
      const result = auditor.audit(share);
      if (result.verdict === 'rejected') {
        letters.push(letter('share.submissions', result.reason, result.detail, value));
        refused.push(refusal(key, share, NO_BYTES, result.reason, result.detail));
      } else {
        valid.push({ share, audited: result.verdict === 'valid' });
      }
    }
    await storeShares(valid);
    await setAside(letters);
    if (refused.length > 0) {
      status.rejected += refused.length;
      await bus.publish('share.rejected', refused);
    }
  }

  function refusal(
    key: string,
    share: CheckedShare['share'] | null,
    raw: Uint8Array,
    reason: string,
    detail: string,
  ): BusRecord {
    const rejected = { share, raw, reason, detail, atMs: clock.nowMs() };
    return { key, value: encodeRejectedShare(rejected) };
  }

  /** Halves a batch that the database refuses for its content, until the one record at fault stands alone. */
  async function storeShares(batch: readonly CheckedShare[]): Promise<void> {
    if (batch.length === 0) return;
    let result: Awaited<ReturnType<typeof recordShares>>;
    try {
      result = await recordShares(db, batch);
    } catch (error) {
      if (!RECORD_FAULT.test(errorCode(error))) throw error;
      if (batch.length > 1) {
        const middle = batch.length >> 1;
        await storeShares(batch.slice(0, middle));
        await storeShares(batch.slice(middle));
        return;
      }
      const { share } = batch[0] as CheckedShare;
      await setAside([
        letter('share.submissions', 'unstorable', String(error), encodeShare(share)),
      ]);
      return;
    }
    status.stored += result.stored;
    status.duplicates += result.duplicates;
    await setAside(
      result.tooOld.map((share) =>
        letter('share.submissions', 'too-old', 'older than the share log', encodeShare(share)),
      ),
    );
    const late = new Set(result.tooOld);
    const stored = batch.filter(({ share }) => !late.has(share));
    for (const { audited } of stored) if (!audited) status.unaudited++;
    await bus.publish(
      'share.valid',
      stored.map(({ share }) => ({ key: share.sessionId, value: encodeShare(share) })),
    );
  }

  /** Stores one block record, for as long as it takes. */
  async function takeBlock(
    topic: string,
    raw: Uint8Array,
    step: (() => Promise<void>) | string,
  ): Promise<void> {
    for (let attempt = 0; !stopped; attempt++) {
      try {
        if (typeof step === 'string')
          return await setAside([letter(topic, 'undecodable', step, raw)]);
        await step();
        status.blocks++;
        return;
      } catch (error) {
        if (RECORD_FAULT.test(errorCode(error))) {
          step = String(error);
          continue;
        }
        if (attempt === 0) {
          log.error('A block record cannot be stored yet; it is tried again.', {
            topic,
            error: String(error),
          });
        }
        const waitMs = BLOCK_RETRY_MS[Math.min(attempt, BLOCK_RETRY_MS.length - 1)] as number;
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, waitMs);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    }
    throw new Error('shareproc is stopped');
  }

  await maintain();
  await bus.subscribe('mining.jobs', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeJob(value);
      if (decoded.ok) auditor.addJob(decoded.value);
      else log.error('A job could not be read.', { reason: decoded.reason });
    }
  });
  await bus.subscribe('mining.plans', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeCoinbasePlans(value);
      if (decoded.ok) auditor.addPlans(decoded.value);
      else log.error('Plans of coinbases could not be read.', { reason: decoded.reason });
    }
  });
  await bus.subscribe('share.submissions', 'shareproc', takeShares);
  await bus.subscribe('block.candidates', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockCandidate(value);
      const step = decoded.ok ? () => recordCandidate(db, decoded.value) : decoded.reason;
      await takeBlock('block.candidates', value, step);
    }
  });
  await bus.subscribe('block.outcome', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockOutcome(value);
      const step = decoded.ok ? () => recordOutcome(db, decoded.value) : decoded.reason;
      await takeBlock('block.outcome', value, step);
    }
  });
  const timer = setInterval(() => {
    maintain().catch((error) => {
      log.error('The share log could not be maintained.', { error: String(error) });
    });
  }, MAINTENANCE_MS);

  return {
    status: () => ({ ...status }),
    async stop() {
      stopped = true;
      clearInterval(timer);
      wake();
    },
  };
}

const NO_BYTES = new Uint8Array(0);

function errorCode(error: unknown): string {
  if (error !== null && typeof error === 'object' && 'code' in error) return String(error.code);
  return '';
}
