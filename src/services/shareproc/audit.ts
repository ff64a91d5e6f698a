/**
 * The second look at a share, with the gateway's own judge: header rebuilt from job and coinbase, hashed, compared with the credited
 * difficulty. Catches what would fool one side: a wrong record, a wrong coinbase, a bug in the gateway.
 *
 * After a restart the job of a waiting share may be gone. Then the rebuilt hash cannot be compared and the gateway's word is
 * taken, but the hash it names must still meet the difficulty.
 */
import { decodeAddress } from '../../core/bitcoin/address.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import { buildJobCoinbase, EXTRANONCE_BYTES, type Job } from '../../core/work/job.ts';
import { coinbaseOutputs } from '../../core/work/payout.ts';
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

/** pool: every coinbase pays one script. solo: the finder's own address, less the fee. As the gateway has it. */
export type AuditPayout =
  | { mode: 'pool'; script: Uint8Array }
  | { mode: 'solo'; fee: { ppm: number; script: Uint8Array } | null };

export type AuditOptions = {
  network: Network;
  coinbaseTag: string;
  payout: AuditPayout;
  jobsMax?: number;
  coinbasesMax?: number;
};

export type AuditReason =
  | 'audit-account'
  | 'audit-coinbase'
  | 'audit-difficulty'
  | 'audit-hash'
  | 'audit-height';

export type AuditVerdict =
  | { verdict: 'valid' }
  | { verdict: 'unaudited' }
  | { verdict: 'rejected'; reason: AuditReason; detail: string };

/** About 1 KiB each. A day of jobs every 30 s is 2,880. */
const JOBS_MAX = 4_096;
/** Coinbases laid out for hashing, about 1 KiB each. */
const COINBASES_MAX = 4_096;
const TARGETS_MAX = 4_096;

type KnownJob = { job: Job; target: PreparedTarget };

/** Holds the jobs it was told of, the newest `jobsMax`. Everything else is derived. */
export class Auditor {
  readonly #hash: HashWork;
  readonly #options: AuditOptions;
  readonly #jobs = new Map<string, KnownJob>();
  readonly #coinbases = new Map<string, Work>();
  readonly #targets = new Map<number, PreparedTarget>();

  constructor(hash: HashWork, options: AuditOptions) {
    this.#hash = hash;
    this.#options = options;
  }

  addJob(job: Job): void {
    remember(this.#jobs, this.#options.jobsMax ?? JOBS_MAX, job.jobId, {
      job,
      target: prepareTarget(job.networkTarget),
    });
  }

  audit(share: ShareRecord): AuditVerdict {
    const credited = this.#target(share.difficulty);
    const known = this.#jobs.get(share.jobId);
    if (known === undefined) {
      if (!share.isBlock && !meetsTarget(share.headerHash, credited)) return tooEasy(share);
      return { verdict: 'unaudited' };
    }
    const { job } = known;
    if (share.height !== job.height) {
      return rejected('audit-height', `job ${job.jobId} is for height ${job.height}`);
    }
    const work = this.#work(job, share.account);
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

  #work(job: Job, account: string): Work | AuditVerdict {
    const { payout, network, coinbaseTag, coinbasesMax } = this.#options;
    const key = payout.mode === 'pool' ? job.jobId : `${job.jobId} ${account}`;
    const ready = this.#coinbases.get(key);
    if (ready !== undefined) return ready;
    let script: Uint8Array;
    if (payout.mode === 'pool') {
      script = payout.script;
    } else {
      const address = decodeAddress(account, network);
      if (!address.ok) return rejected('audit-account', address.reason);
      script = address.script;
    }
    const built = buildJobCoinbase(job, {
      tag: coinbaseTag,
      extranonceBytes: EXTRANONCE_BYTES,
      outputs: coinbaseOutputs(
        script,
        payout.mode === 'solo' ? payout.fee : null,
        job.coinbaseValueSats,
      ),
    });
    if (!built.ok) return rejected('audit-coinbase', built.reason);
    const work = compileWork(job, built.parts);
    remember(this.#coinbases, coinbasesMax ?? COINBASES_MAX, key, work);
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
