/**
 * The jobs a gateway knows: all of the last three tips, whole, each with its compiled coinbases and its notify lines.
 *
 * A job can be announced more than once under different ids (a "call"): same coinbase, later time, so that a session whose
 * difficulty changed gets fresh work at once and shares in flight for the older id keep their difficulty. Sequence numbers
 * count calls; a session's terms refer to them. Shares and blocks always name the job itself.
 */

import { encodeHex } from '../../core/bitcoin/bytes.ts';
import { difficultyOfTarget } from '../../core/bitcoin/target.ts';
import type { SessionLimits } from '../../core/stratum/limits.ts';
import { DuplicateSet } from '../../core/work/duplicates.ts';
import {
  buildJobCoinbase,
  type CoinbaseParts,
  EXTRANONCE_BYTES,
  encodeNotify,
  type Job,
} from '../../core/work/job.ts';
import { coinbaseOutputs } from '../../core/work/payout.ts';
import {
  compileWork,
  type PreparedTarget,
  prepareTarget,
  type Work,
} from '../../core/work/share.ts';
import type { PayoutOptions } from './options.ts';

/** Whom a coinbase pays: the pool, or in solo mode the one address of a session. */
export type Payee = { account: string; script: Uint8Array };

/** A job with one coinbase, ready for hashing. */
export type Compiled = {
  work: Work;
  parts: CoinbaseParts;
  /** Bytes of the whole coinbase without witness. */
  coinbaseBytes: number;
  /** The last lines made of it, without and with the clean flag. */
  plainLine: NotifyLine | null;
  cleanLine: NotifyLine | null;
};

export type NotifyLine = { sequence: number; text: string; bytes: Uint8Array };

/** A job as received. */
export type KnownJob = {
  job: Job;
  /** Hex of the previous block's hash: the tip it builds on. */
  tip: string;
  networkTarget: PreparedTarget;
  networkDifficulty: number;
  /** Monotonic time of the template: receipt, less the age it had then. */
  madeAtMs: number;
  /** Coinbase in pool mode; solo coinbases are in the book's cache. */
  pooled: Compiled | null;
  calls: number;
};

/** One announcement of a job. */
export type Call = { sequence: number; id: string; curtime: number; known: KnownJob };

const CALLS_MAX = 255;

export class JobBook {
  readonly #limits: SessionLimits;
  readonly #payout: PayoutOptions;
  readonly #coinbaseTag: string;
  readonly #calls = new Map<string, Call>();
  /** Oldest first. */
  #known: KnownJob[] = [];
  /** Newest last. */
  #tips: string[] = [];
  readonly #duplicates: DuplicateSet;
  /** Solo coinbases by job and account, least recently used first. */
  readonly #compiled = new Map<string, Compiled>();
  #sequence = 0;
  /** The call that new work is made of; null before the first job. */
  newest: Call | null = null;
  /** Calls before this one are on another tip: whoever missed it must drop its work. */
  cleanSequence = 0;

  constructor(options: { limits: SessionLimits; payout: PayoutOptions; coinbaseTag: string }) {
    this.#limits = options.limits;
    this.#payout = options.payout;
    this.#coinbaseTag = options.coinbaseTag;
    this.#duplicates = new DuplicateSet({ jobsMax: options.limits.jobsMax + 1 });
  }

  get size(): number {
    return this.#known.length;
  }

  /**
   * Takes a job in and makes it the newest. Returns its call, or null when its id is known already (a repeated
   * delivery) or no coinbase can be built for it (`reason` is handed to `complain`).
   */
  add(job: Job, nowMs: number, ageMs: number, complain: (reason: string) => void): Call | null {
    if (this.#calls.has(job.jobId)) return null;
    const tip = encodeHex(job.previousHash);
    const known: KnownJob = {
      job,
      tip,
      networkTarget: prepareTarget(job.networkTarget),
      networkDifficulty: difficultyOfTarget(job.networkTarget),
      madeAtMs: nowMs - ageMs,
      pooled: null,
      calls: 0,
    };
    if (this.#payout.mode === 'pool') {
      const built = this.#build(known, this.#payout.script);
      if (typeof built === 'string') {
        complain(built);
        return null;
      }
      known.pooled = built;
    }
    const isNewTip = this.#tips.at(-1) !== tip;
    if (isNewTip) {
      this.#tips = [...this.#tips.filter((other) => other !== tip), tip].slice(
        -this.#limits.tipsKept,
      );
    }
    this.#known.push(known);
    const call = this.#announce(known, job.jobId, job.curtime);
    if (isNewTip || job.clean) this.cleanSequence = call.sequence;
    this.#prune();
    return call;
  }

  /**
   * Announces the newest job again under a new id and a later time. Null when there is none, or when it was called too often.
   */
  callAgain(nowMs: number): Call | null {
    const { newest } = this;
    if (newest === null) return null;
    const { known } = newest;
    if (known.calls >= CALLS_MAX) return null;
    const elapsed = Math.max(0, Math.floor((nowMs - known.madeAtMs) / 1000));
    const curtime = Math.max(newest.curtime + 1, known.job.curtime + elapsed);
    const id = known.job.jobId + known.calls.toString(16).padStart(2, '0');
    if (this.#calls.has(id)) return null;
    return this.#announce(known, id, curtime);
  }

  /** The call of an id as a miner sends it, or null. */
  find(id: string): Call | null {
    return this.#calls.get(id) ?? this.#calls.get(id.toLowerCase()) ?? null;
  }

  /** Whether a job builds on the newest tip. */
  isCurrent(known: KnownJob): boolean {
    return known.tip === this.#tips.at(-1);
  }

  /** The job with the payee's coinbase, or null when it cannot be built (too heavy for the template, for example). */
  compile(known: KnownJob, payee: Payee): Compiled | null {
    if (known.pooled !== null) return known.pooled;
    const key = `${known.job.jobId}:${payee.account}`;
    let compiled = this.#compiled.get(key);
    if (compiled === undefined) {
      const built = this.#build(known, payee.script);
      if (typeof built === 'string') return null;
      compiled = built;
      if (this.#compiled.size >= this.#limits.compiledCoinbasesMax) {
        for (const eldest of this.#compiled.keys()) {
          this.#compiled.delete(eldest);
          break;
        }
      }
    } else {
      this.#compiled.delete(key);
    }
    this.#compiled.set(key, compiled);
    return compiled;
  }

  /** The notify line of a call for one coinbase, made once while it is the newest. */
  line(call: Call, compiled: Compiled, clean: boolean): NotifyLine {
    const made = clean ? compiled.cleanLine : compiled.plainLine;
    if (made !== null && made.sequence === call.sequence) return made;
    const job = { ...call.known.job, jobId: call.id, curtime: call.curtime };
    const text = encodeNotify(job, compiled.parts, clean);
    const line = { sequence: call.sequence, text, bytes: Buffer.from(text, 'latin1') };
    if (clean) compiled.cleanLine = line;
    else compiled.plainLine = line;
    return line;
  }

  /** Remembers a credited header hash under its job. */
  addShare(known: KnownJob, headerHash: Uint8Array): 'added' | 'present' | 'full' {
    return this.#duplicates.add(known.job.jobId, headerHash);
  }

  #announce(known: KnownJob, id: string, curtime: number): Call {
    this.#sequence += 1;
    known.calls += 1;
    const call: Call = { sequence: this.#sequence, id, curtime, known };
    this.#calls.set(id, call);
    this.newest = call;
    return call;
  }

  #build(known: KnownJob, script: Uint8Array): Compiled | string {
    const fee = this.#payout.mode === 'solo' ? this.#payout.fee : null;
    const built = buildJobCoinbase(known.job, {
      tag: this.#coinbaseTag,
      extranonceBytes: EXTRANONCE_BYTES,
      outputs: coinbaseOutputs(script, fee, known.job.coinbaseValueSats),
    });
    if (!built.ok) return built.reason;
    const { parts } = built;
    return {
      work: compileWork(known.job, parts),
      parts,
      coinbaseBytes: parts.prefix.length + EXTRANONCE_BYTES + parts.suffix.length,
      plainLine: null,
      cleanLine: null,
    };
  }

  /** Lets go of jobs whose tip is out of the kept ones, but never below the minimum; and of the eldest over the maximum. */
  #prune(): void {
    const { jobsMin, jobsMax } = this.#limits;
    let excess = this.#known.length - jobsMin;
    if (excess <= 0) return;
    const gone = new Set<KnownJob>();
    for (const known of this.#known) {
      if (excess <= 0) break;
      if (this.#known.length - gone.size > jobsMax || !this.#tips.includes(known.tip)) {
        gone.add(known);
        excess -= 1;
      }
    }
    if (gone.size === 0) return;
    this.#known = this.#known.filter((known) => !gone.has(known));
    for (const known of gone) this.#duplicates.dropJob(known.job.jobId);
    for (const [id, call] of this.#calls) if (gone.has(call.known)) this.#calls.delete(id);
  }
}
