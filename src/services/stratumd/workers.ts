/**
 * Workers of each pool as the gateway remembers them, across sessions: what they earned, what was refused and why, the difficulty they had.
 * Bounded: least recently used workers and the oldest rejections go first. Everything here is for people and for the next
 * session's start; money is counted from the journal.
 */

import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeHeader, type Header } from '../../core/bitcoin/header.ts';
import type { StratumErrorName } from '../../core/stratum/errors.ts';
import type { SessionLimits } from '../../core/stratum/limits.ts';
import { HashrateMeter, type Rates } from '../../core/work/hashrate.ts';
import type { RejectReason } from './options.ts';

/** Rejections kept over all workers together, about 1 KiB each. */
const REJECTIONS_MAX = 20_000;

/** A refused share, as it can be looked up. */
export type Rejection = {
  atMs: number;
  reason: RejectReason;
  error: StratumErrorName;
  /** The request as it came, cut. */
  line: string;
  /** 80 bytes, or null when no header could be put together. */
  header: Uint8Array | null;
  headerHash: Uint8Array | null;
  /** What the hash had to be at most: 64 hex digits, most significant first; empty when no job was known. */
  expectedTargetDisplay: string;
  difficulty: number;
  shareDifficulty: number;
};

/** The same for a status page: header decoded, hashes as people write them. */
export type RejectionView = Omit<Rejection, 'header' | 'headerHash'> & {
  headerHex: string;
  header: Header | null;
  headerHashDisplay: string;
};

export class WorkerRecord {
  readonly pool: string;
  readonly account: string;
  readonly name: string;
  readonly meter: HashrateMeter;
  agent = '';
  sessions = 0;
  accepted = 0;
  workAccepted = 0;
  bestDifficulty = 0;
  blocks = 0;
  lastShareAtMs = 0;
  /** In force now, and where the next session of this worker starts. */
  difficulty = 0;
  /** A share was accepted at about `difficulty`, so it is worth remembering. */
  isDifficultyProven = false;
  rejected: Map<RejectReason, number> | null = null;
  rejections: Rejection[] | null = null;

  constructor(pool: string, account: string, name: string, nowMs: number) {
    this.pool = pool;
    this.account = account;
    this.name = name;
    this.meter = new HashrateMeter(nowMs);
  }
}

export type WorkerView = {
  pool: string;
  account: string;
  worker: string;
  agent: string;
  sessions: number;
  accepted: number;
  workAccepted: number;
  rejected: Record<string, number>;
  bestDifficulty: number;
  blocks: number;
  lastShareAtMs: number;
  difficulty: number;
  rates: Rates;
};

export class WorkerBook {
  readonly #limits: SessionLimits;
  /** By pool and `account.name`, least recently taken first. */
  readonly #workers = new Map<string, WorkerRecord>();
  /** Whose rejection is the oldest, for all that are kept. */
  #owners: WorkerRecord[] = [];
  #ownersFrom = 0;

  constructor(limits: SessionLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#workers.size;
  }

  /** The record of a worker, made when it is new. A full book lets go of workers without a session first. */
  take(pool: string, account: string, name: string, nowMs: number): WorkerRecord {
    const key = `${pool} ${account}.${name}`;
    let worker = this.#workers.get(key);
    if (worker === undefined) {
      worker = new WorkerRecord(pool, account, name, nowMs);
      if (this.#workers.size >= this.#limits.workersMax) this.#letGo();
    } else {
      this.#workers.delete(key);
    }
    this.#workers.set(key, worker);
    return worker;
  }

  /** Null when unknown. `name` is `account.worker`. */
  find(pool: string, name: string): WorkerRecord | null {
    return this.#workers.get(`${pool} ${name}`) ?? null;
  }

  /** Keeps a rejection: the last few of each worker, the last 20,000 of all. */
  reject(worker: WorkerRecord, rejection: Rejection): void {
    worker.rejected ??= new Map();
    worker.rejected.set(rejection.reason, (worker.rejected.get(rejection.reason) ?? 0) + 1);
    worker.rejections ??= [];
    worker.rejections.push(rejection);
    if (worker.rejections.length > this.#limits.rejectionsKept) {
      worker.rejections.shift();
      return;
    }
    this.#owners.push(worker);
    if (this.#owners.length - this.#ownersFrom > REJECTIONS_MAX) {
      this.#owners[this.#ownersFrom]?.rejections?.shift();
      this.#ownersFrom += 1;
      if (this.#ownersFrom > REJECTIONS_MAX) {
        this.#owners = this.#owners.slice(this.#ownersFrom);
        this.#ownersFrom = 0;
      }
    }
  }

  /** All workers, most recently taken last. */
  views(nowMs: number): WorkerView[] {
    return Array.from(this.#workers.values(), (worker) => viewWorker(worker, nowMs));
  }

  #letGo(): void {
    let first: string | null = null;
    let looked = 0;
    for (const [key, worker] of this.#workers) {
      first ??= key;
      if (worker.sessions === 0) {
        this.#workers.delete(key);
        return;
      }
      // All live: the eldest goes; its sessions keep their own reference.
      if ((looked += 1) >= 64) break;
    }
    if (first !== null) this.#workers.delete(first);
  }
}

/** A worker as the status page shows it. */
export function viewWorker(worker: WorkerRecord, nowMs: number): WorkerView {
  return {
    pool: worker.pool,
    account: worker.account,
    worker: worker.name,
    agent: worker.agent,
    sessions: worker.sessions,
    accepted: worker.accepted,
    workAccepted: worker.workAccepted,
    rejected: Object.fromEntries(worker.rejected ?? []),
    bestDifficulty: worker.bestDifficulty,
    blocks: worker.blocks,
    lastShareAtMs: worker.lastShareAtMs,
    difficulty: worker.difficulty,
    rates: worker.meter.rates(nowMs),
  };
}

/** A rejection as the status page shows it. */
export function viewRejection(rejection: Rejection): RejectionView {
  const { header, headerHash } = rejection;
  return {
    ...rejection,
    headerHex: header === null ? '' : encodeHex(header),
    header: header === null ? null : decodeHeader(header),
    headerHashDisplay: headerHash === null ? '' : encodeHexReversed(headerHash),
  };
}
