/**
 * The jobs a gateway knows: all of the last three tips, whole, each with its compiled coinbases and its notify lines.
 *
 * A job can be announced more than once under different ids (a "call"): same coinbase, later time, so that a session whose
 * difficulty changed gets fresh work at once and shares in flight for the older id keep their difficulty. Sequence numbers
 * count calls; a session's terms refer to them. Shares and blocks always name the job itself.
 */

import { encodeHex } from '../../core/bitcoin/bytes.ts';
import { difficultyOfTarget } from '../../core/bitcoin/target.ts';
import type { CoinbasePlan } from '../../core/ledger/plan.ts';
import type { SessionLimits } from '../../core/stratum/limits.ts';
import { DuplicateSet } from '../../core/work/duplicates.ts';
import {
  type CoinbaseParts,
  EXTRANONCE_BYTES,
  encodeNotify,
  type Job,
} from '../../core/work/job.ts';
import {
  buildPoolCoinbase,
  type CoinbasePool,
  type CoinbaseRules,
  type FinderPart,
} from '../../core/work/payout.ts';
import {
  compileWork,
  type PreparedTarget,
  prepareTarget,
  type Work,
} from '../../core/work/share.ts';

/** A pool as the gateway knows it; one object per pool, compared by identity. */
export type Pool = { index: number; id: string; rules: CoinbaseRules };

/** Who is paid where blocks pay their finder. */
export type Finder = { account: string; parts: readonly FinderPart[] };

/** What decides the coinbase of a session beside its finder. */
export type Shape = { pool: Pool; coinbaseClass: number };

/** A job with one coinbase, ready for hashing. */
export type Compiled = {
  work: Work;
  parts: CoinbaseParts;
  /** Bytes of the whole coinbase without witness. */
  coinbaseBytes: number;
  /** The plan it follows; empty when none. */
  planId: string;
  /** What it was kept below; 0 where nothing but the template bounds it. */
  coinbaseBytesMax: number;
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
  /** Coinbases that pay one address, by index of their pool; null for all other pools. */
  pooled: readonly (Compiled | null)[];
  calls: number;
};

/** Plans by id of their pool. */
type Plans = ReadonlyMap<string, CoinbasePlan>;

/** One announcement of a job. The plans of its time hold for it, whatever comes later. */
export type Call = {
  sequence: number;
  id: string;
  curtime: number;
  known: KnownJob;
  plans: Plans;
  /** Coinbases by plan, made when first needed; null where the plan pays nobody. Shared by calls of one job and one plan. */
  planned: Map<string, Compiled | null>;
};

const CALLS_MAX = 255;

export class JobBook {
  readonly #limits: SessionLimits;
  readonly pools: readonly Pool[];
  /** Some coinbases pay their finder. */
  readonly paysFinders: boolean;
  readonly #coinbaseTag: string;
  readonly #calls = new Map<string, Call>();
  /** Oldest first. */
  #known: KnownJob[] = [];
  /** Newest last. */
  #tips: string[] = [];
  readonly #duplicates: DuplicateSet;
  #plans: Plans = new Map();
  /** Coinbases that pay their finder, by job, shape and account, least recently used first. */
  readonly #compiled = new Map<string, Compiled>();
  #sequence = 0;
  /** The call that new work is made of; null before the first job. */
  newest: Call | null = null;
  /** Calls before this one are on another tip: whoever missed it must drop its work. */
  cleanSequence = 0;

  constructor(options: {
    limits: SessionLimits;
    pools: readonly CoinbasePool[];
    coinbaseTag: string;
  }) {
    this.#limits = options.limits;
    this.pools = options.pools.map(({ id, coinbase }, index) => ({ index, id, rules: coinbase }));
    this.paysFinders = this.pools.some(({ rules }) => rules.mode !== 'pool');
    this.#coinbaseTag = options.coinbaseTag;
    this.#duplicates = new DuplicateSet({ jobsMax: options.limits.jobsMax + 1 });
  }

  get size(): number {
    return this.#known.length;
  }

  /** Throws RangeError for a pool that the options do not name: the configuration has checked them. */
  poolOf(id: string): Pool {
    const pool = this.pools.find((one) => one.id === id);
    if (pool === undefined) throw new RangeError(`no pool is called ${id}`);
    return pool;
  }

  /**
   * Takes the plans that hold from the next call on. Answers whether a pool without a plan got one: the newest job should then be
   * called again, because its blocks would pay their finder alone.
   */
  setPlans(plans: readonly CoinbasePlan[]): boolean {
    const before = this.#plans;
    const isDirect = ({ pool }: CoinbasePlan) =>
      this.pools.some(({ id, rules }) => id === pool && rules.mode === 'direct');
    const after = new Map(plans.filter(isDirect).map((plan) => [plan.pool, plan]));
    const isSame =
      after.size === before.size &&
      [...after.values()].every(({ pool, planId }) => before.get(pool)?.planId === planId);
    if (isSame) return false;
    this.#plans = after;
    return [...after.keys()].some((pool) => !before.has(pool));
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
      pooled: [],
      calls: 0,
    };
    const pooled: (Compiled | null)[] = [];
    for (const pool of this.pools) {
      const built = pool.rules.mode === 'pool' ? this.#build(known, pool) : null;
      if (typeof built === 'string') {
        complain(built);
        return null;
      }
      pooled.push(built);
    }
    known.pooled = pooled;
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

  /**
   * The job of a call with the coinbase of a shape, or null when it cannot be built (too heavy for the template, for example, or
   * nobody to pay).
   */
  compile(call: Call, shape: Shape, finder: Finder | null): Compiled | null {
    const { pool, coinbaseClass } = shape;
    const pooled = call.known.pooled[pool.index];
    if (pooled !== null && pooled !== undefined) return pooled;
    if (pool.rules.mode === 'direct') {
      const planned = this.#planned(call, pool, coinbaseClass);
      if (planned !== null) return planned;
    }
    return finder === null ? null : this.#own(call.known, shape, finder);
  }

  /** Null when there is no plan, or it pays nobody. */
  #planned(call: Call, pool: Pool, coinbaseBytesMax: number): Compiled | null {
    const plan = call.plans.get(pool.id);
    if (plan === undefined) return null;
    const key = `${pool.index} ${coinbaseBytesMax}`;
    const ready = call.planned.get(key);
    if (ready !== undefined) return ready;
    const built = this.#build(call.known, pool, { plan, coinbaseBytesMax });
    const compiled = typeof built === 'string' || built.planId === '' ? null : built;
    call.planned.set(key, compiled);
    return compiled;
  }

  #own(known: KnownJob, { pool, coinbaseClass }: Shape, finder: Finder): Compiled | null {
    const coinbaseBytesMax = pool.rules.mode === 'direct' ? coinbaseClass : 0;
    const key = `${known.job.jobId} ${pool.index} ${coinbaseBytesMax} ${finder.account}`;
    let compiled = this.#compiled.get(key);
    if (compiled === undefined) {
      const built = this.#build(known, pool, { finder: finder.parts, coinbaseBytesMax });
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
    const last = this.newest;
    const isAgain = last !== null && last.known === known && last.plans === this.#plans;
    // Only the newest call is ever told of: a large coinbase would keep its line four times over.
    if (last !== null && !isAgain) for (const one of last.planned.values()) dropLines(one);
    const planned: Call['planned'] = isAgain ? last.planned : new Map();
    const call: Call = {
      sequence: this.#sequence,
      id,
      curtime,
      known,
      plans: this.#plans,
      planned,
    };
    this.#calls.set(id, call);
    this.newest = call;
    return call;
  }

  /** Or the reason why there is none. */
  #build(
    known: KnownJob,
    pool: Pool,
    payees: {
      finder?: readonly FinderPart[];
      plan?: CoinbasePlan;
      coinbaseBytesMax?: number;
    } = {},
  ): Compiled | string {
    const { finder = [], plan = null, coinbaseBytesMax = 0 } = payees;
    const built = buildPoolCoinbase(known.job, {
      tag: this.#coinbaseTag,
      rules: pool.rules,
      finder,
      plan,
      coinbaseBytesMax,
    });
    if (!built.ok) return built.reason;
    const { parts, planId } = built;
    return {
      work: compileWork(known.job, parts),
      parts,
      coinbaseBytes: parts.prefix.length + EXTRANONCE_BYTES + parts.suffix.length,
      planId,
      coinbaseBytesMax,
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

function dropLines(compiled: Compiled | null): void {
  if (compiled === null) return;
  compiled.plainLine = null;
  compiled.cleanLine = null;
}
