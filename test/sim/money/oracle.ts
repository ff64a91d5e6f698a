/**
 * What everybody is owed, worked out a second time from raw facts alone: the shares that were acknowledged as stored, in order, and
 * what stands in the chain. Fractions instead of fixed point, one share after the other instead of sums, whole amounts from first
 * principles: a mistake of the ledger must not be able to hide by being made twice.
 */
import { Fraction, sumFractions } from './fraction.ts';
import { DIFFICULTIES, type Tape, type TapeShare } from './tape.ts';

const MILLION = 1_000_000n;
const TWO_48 = 1n << 48n;

/** A share's work: difficulty times 2^48. Quarters make it exact. */
const WORK: readonly bigint[] = DIFFICULTIES.map(
  (difficulty) => (BigInt(difficulty * 4) * TWO_48) / 4n,
);

/** Shares of one pool by their number in the whole log, rising. Plain arrays of numbers: there are ten million. */
type PoolLog = {
  seq: number[];
  account: number[];
  difficulty: number[];
  job: number[];
  acceptedAtMs: number[];
};

export type OracleJob = { height: number; bits: number; valueSats: bigint };

/** What a window counts. `accounts` by index of the tape. */
export type OracleWindow = {
  firstSeq: bigint;
  lastSeq: bigint;
  boundary: { seq: bigint; work: bigint; counted: bigint } | null;
  totalWork: bigint;
  accounts: Map<number, bigint>;
};

export type OracleMember = { id: bigint; work: bigint; feePpm: number; donationPpm: number };

export type OracleSplit = {
  operatorSats: bigint;
  developerSats: bigint;
  credits: Map<bigint, bigint>;
};

/** floor(difficulty-1 target · 2^48 / target): what a network asks for, by compact bits. */
export function networkWork(bits: number): bigint {
  const target = BigInt(bits & 0x7fffff) << BigInt(8 * ((bits >>> 24) - 3));
  return ((0xffffn << 208n) * TWO_48) / target;
}

export class ShareFacts {
  readonly pools: PoolLog[];
  /** How many were stored: the number of the newest. */
  count = 0;
  readonly jobs: OracleJob[] = [];
  readonly #jobIndex = new Map<string, number>();

  constructor(pools: number) {
    this.pools = Array.from({ length: pools }, () => ({
      seq: [],
      account: [],
      difficulty: [],
      job: [],
      acceptedAtMs: [],
    }));
  }

  /** The database has said that it is stored. */
  add(share: TapeShare): void {
    const { record } = share;
    let job = this.#jobIndex.get(record.jobId);
    if (job === undefined) {
      job =
        this.jobs.push({
          height: record.height,
          bits: record.networkBits,
          valueSats: record.jobValueSats,
        }) - 1;
      this.#jobIndex.set(record.jobId, job);
    }
    this.count += 1;
    const log = this.pools[share.pool]!;
    log.seq.push(this.count);
    log.account.push(share.account);
    log.difficulty.push(share.difficulty);
    log.job.push(job);
    log.acceptedAtMs.push(record.acceptedAtMs);
  }

  /** Index in the pool's log of its newest share at or before `seq`; −1 when there is none. */
  indexAt(pool: number, seq: number): number {
    const { seq: seqs } = this.pools[pool]!;
    let low = 0;
    let high = seqs.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (seqs[middle]! <= seq) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The newest share of any pool that was accepted at or before this moment; 0 when there is none. */
  newestBy(atMs: number): number {
    let newest = 0;
    for (const log of this.pools) {
      const at = log.acceptedAtMs.findLastIndex((acceptedAtMs) => acceptedAtMs <= atMs);
      newest = Math.max(newest, log.seq[at] ?? 0);
    }
    return newest;
  }

  /**
   * The shares that count, from `lastSeq` back: `wanted` work (null: no bound), nothing at or before `afterSeq`, nothing accepted at
   * or before `afterMs` (null: no bound).
   */
  window(
    pool: number,
    lastSeq: number,
    bounds: { wanted: bigint | null; afterSeq: number; afterMs: number | null },
  ): OracleWindow {
    const log = this.pools[pool]!;
    const accounts = new Map<number, bigint>();
    let left = bounds.wanted;
    let total = 0n;
    let firstSeq = BigInt(lastSeq) + 1n;
    let boundary: OracleWindow['boundary'] = null;
    // Clocks are seconds apart at most: a thousand shares in a row that are too old end the search.
    let tooOld = 0;
    for (let at = this.indexAt(pool, lastSeq); at >= 0; at--) {
      if (log.seq[at]! <= bounds.afterSeq || left === 0n || tooOld > 1_000) break;
      if (bounds.afterMs !== null && log.acceptedAtMs[at]! <= bounds.afterMs) {
        tooOld += 1;
        continue;
      }
      const work = WORK[log.difficulty[at]!]!;
      const counted = left !== null && left < work ? left : work;
      if (counted < work) boundary = { seq: BigInt(log.seq[at]!), work, counted };
      if (left !== null) left -= counted;
      total += counted;
      accounts.set(log.account[at]!, (accounts.get(log.account[at]!) ?? 0n) + counted);
      firstSeq = BigInt(log.seq[at]!);
    }
    return { firstSeq, lastSeq: BigInt(lastSeq), boundary, totalWork: total, accounts };
  }
}

/** Work of tape accounts → work of addresses: split accounts are taken apart by weight, in whole units. */
export function expandAccounts(
  tape: Tape,
  accounts: ReadonlyMap<number, bigint>,
): Map<string, bigint> {
  const byAddress = new Map<string, bigint>();
  for (const [index, work] of accounts) {
    const { parts } = tape.accounts[index]!;
    const weights = parts.reduce((sum, part) => sum + BigInt(part.weight), 0n);
    const quotas = parts.map((part, at) => ({
      id: BigInt(at),
      quota: new Fraction(work * BigInt(part.weight), weights),
    }));
    const given = hamilton(work, quotas);
    for (const [at, part] of parts.entries()) {
      byAddress.set(part.address, (byAddress.get(part.address) ?? 0n) + given.get(BigInt(at))!);
    }
  }
  return byAddress;
}

/** Largest remainder: the floor of every quota, then one each to the largest fractions, ties to the lowest id. */
function hamilton(
  amount: bigint,
  quotas: readonly { id: bigint; quota: Fraction }[],
): Map<bigint, bigint> {
  const given = new Map<bigint, bigint>();
  const rests = quotas.map(({ id, quota }) => {
    const whole = quota.floor();
    given.set(id, whole);
    return { id, rest: quota.minus(new Fraction(whole)) };
  });
  let left = amount - [...given.values()].reduce((sum, one) => sum + one, 0n);
  rests.sort((a, b) => b.rest.compare(a.rest) || (a.id < b.id ? -1 : 1));
  for (const { id } of rests) {
    if (left <= 0n) break;
    given.set(id, given.get(id)! + 1n);
    left -= 1n;
  }
  return given;
}

/** Who gets what of a block: fees and donations rounded down, the rest by work after fees to the last satoshi. */
export function splitReward(rewardSats: bigint, members: readonly OracleMember[]): OracleSplit {
  const totalWork = members.reduce((sum, member) => sum + member.work, 0n);
  if (totalWork === 0n)
    return {
      operatorSats: rewardSats,
      developerSats: 0n,
      credits: new Map(members.map(({ id }) => [id, 0n])),
    };
  const share = (member: OracleMember, ppm: number): Fraction =>
    new Fraction(rewardSats * member.work * BigInt(ppm), totalWork * MILLION);
  const donationOf = (member: OracleMember): number =>
    Math.min(member.donationPpm, 1_000_000 - member.feePpm);
  let operatorSats = sumFractions(members.map((member) => share(member, member.feePpm))).floor();
  const developerSats = sumFractions(
    members.map((member) => share(member, donationOf(member))),
  ).floor();
  const rest = rewardSats - operatorSats - developerSats;
  const nets = members.map((member) => ({
    id: member.id,
    net: member.work * (MILLION - BigInt(member.feePpm) - BigInt(donationOf(member))),
  }));
  const netWork = nets.reduce((sum, { net }) => sum + net, 0n);
  if (netWork === 0n) {
    operatorSats += rest;
    return { operatorSats, developerSats, credits: new Map(nets.map(({ id }) => [id, 0n])) };
  }
  const credits = hamilton(
    rest,
    nets.map(({ id, net }) => ({ id, quota: new Fraction(rest * net, netWork) })),
  );
  return { operatorSats, developerSats, credits };
}

/** What PPS owes, share by share, as exact fractions of a satoshi. */
export class PpsFacts {
  /** Address → bottom of the fraction → top. */
  readonly #owed = new Map<string, Map<bigint, bigint>>();
  #donated = new Map<bigint, bigint>();
  #counted = 0;
  readonly #tape: Tape;
  readonly #shares: ShareFacts;
  readonly #pool: number;
  readonly #valueOf: (job: OracleJob) => bigint;
  /** Addresses whose debt changed since they were last asked for. */
  readonly touched = new Set<string>();

  constructor(tape: Tape, shares: ShareFacts, pool: number, jobValue: (job: OracleJob) => bigint) {
    this.#tape = tape;
    this.#shares = shares;
    this.#pool = pool;
    this.#valueOf = jobValue;
  }

  /** Counts all shares up to `seq` that PPS pays, at the rates given. */
  countTo(
    seq: number,
    ratesOf: (address: string) => { feePpm: number; donationPpm: number },
    isPaid: (seq: number) => boolean,
  ): void {
    const log = this.#shares.pools[this.#pool]!;
    for (; this.#counted < log.seq.length && log.seq[this.#counted]! <= seq; this.#counted++) {
      const at = this.#counted;
      if (!isPaid(log.seq[at]!)) continue;
      const job = this.#shares.jobs[log.job[at]!]!;
      const value = this.#valueOf(job);
      const { parts } = this.#tape.accounts[log.account[at]!]!;
      const weights = parts.reduce((sum, part) => sum + part.weight, 0);
      const bottom = networkWork(job.bits) * MILLION * BigInt(weights);
      for (const part of parts) {
        const { feePpm, donationPpm } = ratesOf(part.address);
        const top = WORK[log.difficulty[at]!]! * value * BigInt(part.weight);
        const donation = BigInt(Math.min(donationPpm, 1_000_000 - feePpm));
        const owed = this.#owed.get(part.address) ?? new Map<bigint, bigint>();
        owed.set(bottom, (owed.get(bottom) ?? 0n) + top * (MILLION - BigInt(feePpm) - donation));
        this.#owed.set(part.address, owed);
        if (donation > 0n)
          this.#donated.set(bottom, (this.#donated.get(bottom) ?? 0n) + top * donation);
        this.touched.add(part.address);
      }
    }
  }

  owed(address: string): Fraction {
    return sumFractions(
      [...(this.#owed.get(address) ?? [])].map(([bottom, top]) => new Fraction(top, bottom)),
    );
  }

  donated(): Fraction {
    return sumFractions([...this.#donated].map(([bottom, top]) => new Fraction(top, bottom)));
  }

  addresses(): Iterable<string> {
    return this.#owed.keys();
  }
}
