/**
 * The second look at a share, with the gateway's own judge: header rebuilt from job and coinbase, hashed, compared with the credited
 * difficulty. Catches what would fool one side: a wrong record, a wrong coinbase, a bug in the gateway. Refused too: a pool that
 * is none, and bits or a value that are not the job's, because shares are paid by all three.
 *
 * After a restart the job of a waiting share, or the plan its coinbase was made from, may be gone. Then the rebuilt hash cannot be
 * compared and the gateway's word is taken, but the hash it names must still meet the difficulty.
 */
import type { Network } from '../../core/bitcoin/network.ts';
import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import type { CoinbasePlan } from '../../core/ledger/plan.ts';
import { decodeAccount } from '../../core/work/account.ts';
import type { Job } from '../../core/work/job.ts';
import {
  buildPoolCoinbase,
  COINBASE_CLASSES,
  type CoinbasePool,
  type FinderPart,
} from '../../core/work/payout.ts';
import {
  compileWork,
  fillWork,
  type HashWork,
  meetsTarget,
  type PreparedTarget,
  prepareTarget,
  type Work,
} from '../../core/work/share.ts';
import type { ShareRecord } from '../../messages/share.ts';

export type AuditOptions = {
  network: Network;
  coinbaseTag: string;
  /** All pools, as the gateway has them. */
  pools: readonly CoinbasePool[];
  jobsMax?: number;
  coinbasesMax?: number;
};

export type AuditReason =
  | 'audit-account'
  | 'audit-coinbase'
  | 'audit-difficulty'
  | 'audit-hash'
  | 'audit-height'
  | 'audit-job'
  | 'audit-pool';

export type AuditVerdict =
  | { verdict: 'valid' }
  | { verdict: 'unaudited' }
  | { verdict: 'rejected'; reason: AuditReason; detail: string };

/** About 1 KiB each. A day of jobs every 30 s is 2,880. */
const JOBS_MAX = 4_096;
/** Coinbases laid out for hashing, about 1 KiB each. */
const COINBASES_MAX = 4_096;
/** The same for coinbases made from plans, up to 16 KiB each: some jobs in all their sizes. */
const PLANNED_MAX = 256;
/** Per pool, up to 64 KiB each. A plan is new every few seconds at most, and a job lives for minutes. */
const PLANS_MAX = 64;
const TARGETS_MAX = 4_096;

export type KnownJob = { job: Job; target: PreparedTarget };

/** Holds the jobs and plans it was told of, the newest of each. Everything else is derived. */
export class Auditor {
  readonly #hash: HashWork;
  readonly #options: AuditOptions;
  readonly #jobs = new Map<string, KnownJob>();
  readonly #coinbases = new Map<string, Work>();
  readonly #planned = new Map<string, Work>();
  readonly #pools: ReadonlyMap<string, CoinbasePool & { plans: Map<string, CoinbasePlan> }>;
  readonly #targets = new Map<number, PreparedTarget>();

  constructor(hash: HashWork, options: AuditOptions) {
    this.#hash = hash;
    this.#options = options;
    this.#pools = new Map(options.pools.map((pool) => [pool.id, { ...pool, plans: new Map() }]));
  }

  addJob(job: Job): void {
    remember(this.#jobs, this.#options.jobsMax ?? JOBS_MAX, job.jobId, {
      job,
      target: prepareTarget(job.networkTarget),
    });
  }

  /** The job with its network target, or null when it is not known (any more). */
  jobOf(jobId: string): KnownJob | null {
    return this.#jobs.get(jobId) ?? null;
  }

  /** Remembers what coinbases are made from; a plan of no pool of ours is nobody's business. */
  addPlans(plans: readonly CoinbasePlan[]): void {
    for (const plan of plans) {
      const pool = this.#pools.get(plan.pool);
      if (pool !== undefined) remember(pool.plans, PLANS_MAX, plan.planId, plan);
    }
  }

  audit(share: ShareRecord): AuditVerdict {
    const credited = this.#target(share.difficulty);
    const pool = this.#pools.get(share.pool);
    if (pool === undefined) return rejected('audit-pool', `no pool is called "${share.pool}"`);
    const known = this.#jobs.get(share.jobId);
    if (known === undefined) return this.#onWord(share);
    const { job } = known;
    if (share.networkBits !== job.bits || share.jobValueSats !== job.coinbaseValueSats) {
      const stated = `bits ${share.networkBits}, value ${share.jobValueSats}`;
      return rejected(
        'audit-job',
        `${stated}: job ${job.jobId} has ${job.bits} and ${job.coinbaseValueSats}`,
      );
    }
    if (share.height !== job.height) {
      return rejected('audit-height', `job ${job.jobId} is for height ${job.height}`);
    }
    const isPlanGone = pool.coinbase.mode === 'direct' && !pool.plans.has(share.planId);
    if (share.planId !== '' && isPlanGone) return this.#onWord(share);
    const work = this.#work(job, pool, share);
    if ('verdict' in work) return work;
    fillWork(work, {
      extranonce1: readU32(share.extranonce1, 0),
      extranonce2High: readU32(share.extranonce2, 0),
      extranonce2Low: readU32(share.extranonce2, 4),
      ntime: share.ntime,
      nonce: share.nonce,
      version: share.version,
    });
    this.#hash(work);
    if (!sameHash(work.hash, share.headerHash)) {
      return rejected('audit-hash', 'the rebuilt header has another hash');
    }
    // A block is credited at the network's difficulty when its session's is higher; rounding must not cost it that.
    const isBlock = meetsTarget(work.hash, known.target);
    if (!isBlock && !meetsTarget(work.hash, credited)) return tooEasy(share);
    return { verdict: 'valid' };
  }

  /** The header cannot be rebuilt: the gateway's word is taken, but the hash it names must be good enough. */
  #onWord(share: ShareRecord): AuditVerdict {
    const isGood = share.isBlock || meetsTarget(share.headerHash, this.#target(share.difficulty));
    return isGood ? { verdict: 'unaudited' } : tooEasy(share);
  }

  /** The job with the coinbase that the share was found on. Its plan is known. */
  #work(
    job: Job,
    pool: CoinbasePool & { plans: ReadonlyMap<string, CoinbasePlan> },
    share: ShareRecord,
  ): Work | AuditVerdict {
    const { account, planId, coinbaseBytes } = share;
    const { network, coinbaseTag, coinbasesMax } = this.#options;
    const { mode } = pool.coinbase;
    if (mode === 'direct' ? !COINBASE_CLASSES.includes(coinbaseBytes) : coinbaseBytes !== 0) {
      return rejected('audit-coinbase', `no coinbase of mode ${mode} is up to ${coinbaseBytes}`);
    }
    if (planId !== '' && mode !== 'direct') {
      return rejected('audit-coinbase', `mode ${mode} has no plans`);
    }
    const payees = mode === 'pool' ? '' : planId === '' ? account : `plan ${planId}`;
    const key = `${job.jobId} ${pool.id} ${coinbaseBytes} ${payees}`;
    const coinbases = planId === '' ? this.#coinbases : this.#planned;
    const ready = coinbases.get(key);
    if (ready !== undefined) return ready;
    let finder: readonly FinderPart[] = [];
    if (mode !== 'pool' && planId === '') {
      const decoded = decodeAccount(account, network);
      if (!decoded.ok) return rejected('audit-account', decoded.reason);
      finder = decoded.parts;
    }
    const built = buildPoolCoinbase(job, {
      tag: coinbaseTag,
      rules: pool.coinbase,
      finder,
      plan: pool.plans.get(planId) ?? null,
      coinbaseBytesMax: coinbaseBytes,
    });
    if (!built.ok) return rejected('audit-coinbase', built.reason);
    const work = compileWork(job, built.parts);
    const max = planId === '' ? (coinbasesMax ?? COINBASES_MAX) : PLANNED_MAX;
    remember(coinbases, max, key, work);
    return work;
  }

  #target(difficulty: number): PreparedTarget {
    const ready = this.#targets.get(difficulty);
    if (ready !== undefined) return ready;
    const target = prepareTarget(targetOfDifficulty(difficulty));
    remember(this.#targets, TARGETS_MAX, difficulty, target);
    return target;
  }
}

/** Puts it last; the first one goes when there are too many. */
function remember<K, V>(map: Map<K, V>, max: number, key: K, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > max) map.delete(map.keys().next().value as K);
}

function rejected(reason: AuditReason, detail: string): AuditVerdict {
  return { verdict: 'rejected', reason, detail };
}

function tooEasy(share: ShareRecord): AuditVerdict {
  return rejected('audit-difficulty', `the hash does not reach difficulty ${share.difficulty}`);
}

function sameHash(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < 32; i++) if (a[i] !== b[i]) return false;
  return true;
}

function readU32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] as number) << 24) |
      ((bytes[at + 1] as number) << 16) |
      ((bytes[at + 2] as number) << 8) |
      (bytes[at + 3] as number)) >>>
    0
  );
}
