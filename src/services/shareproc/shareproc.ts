/**
 * The second look at everything a gateway says: `share.submissions` → audit → `share.valid` or `share.rejected`, in the partition they came
 * from and in their order; `block.candidates` → audit → whole blocks on `block.solved`. Keeps nothing but jobs, plans and templates, so
 * that any number may run; one that starts late has older jobs from the cache. What cannot be read goes to `dead.letters` as it is.
 *
 * A batch is done when everything it led to is published; else it comes again, and whoever reads `share.valid` knows a share by its
 * header hash. A gateway's mark is passed on behind all that came before it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { HashWork } from '../../core/work/share.ts';
import {
  decodeBlockCandidate,
  decodeCoinbasePlans,
  decodeJob,
  decodeShare,
  decodeShareMark,
  encodeCheckedShare,
  encodeRejectedShare,
} from '../../messages/codec.ts';
import { isMarkKey, type ShareRecord } from '../../messages/share.ts';
import type { Bus, BusRecord, Cache, Clock, Log, ReceivedRecord } from '../../ports.ts';
import { type AuditOptions, Auditor } from './audit.ts';
import { createSolver, type Solver } from './solver.ts';

export type ShareprocTools = {
  bus: Bus;
  log: Log;
  clock: Clock;
  hash: HashWork;
  /** Where job managers leave copies of jobs: one that starts late finds those of shares that still wait. */
  cache?: Cache;
};

export type ShareprocOptions = AuditOptions & {
  /** Also puts together whole blocks. Not where the gateway's block lane is all there is. */
  buildsBlocks?: boolean;
  /** How long a candidate waits for its job and its template. */
  templatePatienceMs?: number;
};

export type ShareprocStatus = {
  valid: number;
  /** Of these, on the gateway's word, because the job was no longer known. */
  unaudited: number;
  rejected: number;
  undecodable: number;
  /** Candidates put together as whole blocks. */
  solved: number;
};

/**
 * The whole block is for a blocksubmit that cannot make one of the record; on a machine with all services its megabytes would be in the
 * way of those who hand the block to a node at this moment.
 */
const AFTER_FIND_MS = 100;

export type Shareproc = { status(): ShareprocStatus; stop(): Promise<void> };

/** Subscribes to jobs and plans first, so that what is retained is there before the first share. */
export async function startShareproc(
  tools: ShareprocTools,
  options: ShareprocOptions,
): Promise<Shareproc> {
  const { bus, log, clock, cache } = tools;
  const auditor = new Auditor(tools.hash, options);
  const solver: Solver | null = options.buildsBlocks
    ? createSolver({ log }, { auditor, patienceMs: options.templatePatienceMs })
    : null;
  const status: ShareprocStatus = {
    valid: 0,
    unaudited: 0,
    rejected: 0,
    undecodable: 0,
    solved: 0,
  };

  /** Jobs that the cache did not have, and when it was asked. */
  const missed = new Map<string, number>();

  /** Jobs of these shares that were published before we came. */
  async function learnJobs(shares: readonly ShareRecord[]): Promise<void> {
    if (cache === undefined) return;
    const nowMs = clock.nowMs();
    for (const { jobId } of shares) {
      if (auditor.jobOf(jobId) !== null) continue;
      if (nowMs - (missed.get(jobId) ?? Number.NEGATIVE_INFINITY) < MISSED_MS) continue;
      const value = await cache.get(`job:${jobId}`);
      const decoded = value === null ? null : decodeJob(value);
      if (decoded?.ok && decoded.value.jobId === jobId) {
        auditor.addJob(decoded.value);
        continue;
      }
      missed.delete(jobId);
      missed.set(jobId, nowMs);
      if (missed.size > MISSED_MAX) missed.delete(missed.keys().next().value!);
    }
  }

  /** Publishes the bytes of what could not be read, under the place it was found at. */
  async function deadLetter(topic: string, records: readonly ReceivedRecord[]): Promise<void> {
    if (records.length === 0) return;
    status.undecodable += records.length;
    log.error('A record could not be read.', { topic, records: records.length });
    await bus.publish(
      'dead.letters',
      records.map(({ value, partition = 0, offset = '' }) => ({
        key: `${topic}/${partition}/${offset}`,
        value,
      })),
    );
  }

  async function takeShares(records: readonly ReceivedRecord[]): Promise<void> {
    const valid: BusRecord[] = [];
    const refused: BusRecord[] = [];
    const unreadable: ReceivedRecord[] = [];
    let unaudited = 0;
    let marks = 0;
    const all = records.map((record) => ({
      record,
      decoded: isMarkKey(record.key) ? null : decodeShare(record.value),
    }));
    await learnJobs(all.flatMap(({ decoded }) => (decoded?.ok ? [decoded.value] : [])));
    for (const { record, decoded } of all) {
      const { value } = record;
      if (decoded === null) {
        const mark = decodeShareMark(value);
        if (mark.ok) valid.push(inPlace(record, value));
        else unreadable.push(record);
        marks++;
        continue;
      }
      if (!decoded.ok) {
        unreadable.push(record);
        refused.push(refusal(record, null, value, 'undecodable', decoded.reason));
        continue;
      }
      const share = decoded.value;
      const result = auditor.audit(share);
      if (result.verdict === 'rejected') {
        refused.push(refusal(record, share, NO_BYTES, result.reason, result.detail));
      } else if (result.verdict === 'valid') valid.push(inPlace(record, value));
      else {
        unaudited++;
        valid.push(inPlace(record, encodeCheckedShare({ share, audited: false })));
      }
    }
    // All in one call: that keeps the marks behind what they speak of.
    await bus.publish('share.valid', valid);
    await bus.publish('share.rejected', refused);
    await deadLetter('share.submissions', unreadable);
    status.valid += valid.length - marks;
    status.unaudited += unaudited;
    status.rejected += refused.length;
  }

  function refusal(
    record: ReceivedRecord,
    share: ShareRecord | null,
    raw: Uint8Array,
    reason: string,
    detail: string,
  ): BusRecord {
    const rejected = { share, raw, reason, detail, atMs: clock.nowMs() };
    return inPlace(record, encodeRejectedShare(rejected));
  }

  async function takeCandidates(own: Solver, records: readonly ReceivedRecord[]): Promise<void> {
    const unreadable: ReceivedRecord[] = [];
    // Together: one that waits for its template holds up none that need not.
    await Promise.all(
      records.map(async (record) => {
        const decoded = decodeBlockCandidate(record.value);
        if (!decoded.ok) {
          unreadable.push(record);
          return;
        }
        await sleep(AFTER_FIND_MS);
        const value = await own.solve(decoded.value);
        if (value === null) return;
        await bus.publish('block.solved', [{ key: record.key, value }]);
        status.solved++;
      }),
    );
    await deadLetter('block.candidates', unreadable);
  }

  await bus.subscribe('mining.jobs', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeJob(value);
      if (decoded.ok) auditor.addJob(decoded.value);
      else log.error('A job could not be read.', { reason: decoded.reason });
    }
    solver?.look();
  });
  await bus.subscribe('mining.plans', 'shareproc', async (records) => {
    for (const { value } of records) {
      const decoded = decodeCoinbasePlans(value);
      if (decoded.ok) auditor.addPlans(decoded.value);
      else log.error('Plans of coinbases could not be read.', { reason: decoded.reason });
    }
  });
  if (solver !== null) {
    await bus.subscribe('mining.templates', 'shareproc', async (records) => {
      for (const { value } of records) solver.addTemplate(value);
    });
    await bus.subscribe('block.candidates', 'shareproc', (records) =>
      takeCandidates(solver, records),
    );
  }
  await bus.subscribe('share.submissions', 'shareproc', takeShares);

  return {
    status: () => ({ ...status }),
    async stop() {
      solver?.stop();
    },
  };
}

const NO_BYTES = new Uint8Array(0);
const MISSED_MS = 10_000;
const MISSED_MAX = 1_024;

/** What is made of a record goes where it came from. */
function inPlace({ key, partition }: ReceivedRecord, value: Uint8Array): BusRecord {
  return partition === undefined ? { key, value } : { key, value, partition };
}
