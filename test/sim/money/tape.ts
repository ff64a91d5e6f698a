/**
 * The raw facts of a run, made from a seed: pools and their rules, accounts with their wishes, jobs, and an endless tape of shares.
 * Nothing here knows how any of it is counted.
 */
import { createHash } from 'node:crypto';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import type { Network } from '../../../src/core/bitcoin/network.ts';
import { encodeBits } from '../../../src/core/bitcoin/target.ts';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { encodeSplit } from '../../../src/core/ledger/shares.ts';
import type { ShareRecord } from '../../../src/messages/share.ts';
import { createRandom, type Random } from '../random.ts';

export const NETWORK: Network = 'mainnet';
/** Where the chain of every run begins: a height with a subsidy of 3.125 BTC. */
export const BASE_HEIGHT = 900_000;
/** Difficulties that sessions have, each a whole number of quarters. */
export const DIFFICULTIES: readonly number[] = [0.25, 0.5, 1, 1.75, 2, 4, 8];

export type TapeAccount = {
  /** Canonical address, or canonical split. */
  name: string;
  parts: { address: string; script: Uint8Array; weight: number }[];
};

export type TapeJob = { id: string; height: number; bits: number; valueSats: bigint };

export type TapePool = {
  rules: PoolRules;
  /** Shares out of a thousand that come in by this pool's port. */
  permille: number;
};

export type Tape = {
  pools: TapePool[];
  accounts: TapeAccount[];
  /** Difficulty of the network in units of a share's, as compact bits, for the n-th job. */
  makeJob(height: number, subsidySats: bigint): TapeJob;
  /** The next share of any pool, at `atMs`. The hash is random: no share of its own finds a block. */
  nextShare(atMs: number, job: TapeJob, progress: number): TapeShare;
};

export type TapeShare = {
  record: ShareRecord;
  pool: number;
  account: number;
  /** Index into `DIFFICULTIES`. */
  difficulty: number;
};

const ACTIVE_ACCOUNTS = 100;
/** Pools paid by coinbases have members, not passers-by: their carries stay for weeks. */
const MEMBERS_MAX = 300;
const HEX = /../g;

/** `seed` decides everything; `sharesPerBlock` how hard the network is. */
export function makeTape(options: {
  seed: number;
  accounts: number;
  sharesPerBlock: number;
  poolAddresses: readonly string[];
}): Tape {
  const random = createRandom(options.seed ^ 0x7a9e);
  const accounts = makeAccounts(options.seed, options.accounts, random);
  const own = (at: number): string => accounts[at % accounts.length]!.parts[0]!.address;
  const pools = makePools(options.poolAddresses, own);
  // Σ permille of all pools is a thousand.
  const poolAt: number[] = pools.flatMap((pool, index) =>
    new Array<number>(pool.permille).fill(index),
  );
  const meanDifficulty =
    DIFFICULTIES.reduce((sum, difficulty) => sum + difficulty, 0) / DIFFICULTIES.length;
  let jobs = 0;
  let shares = 0;
  let bits = bitsOf(meanDifficulty * options.sharesPerBlock);
  return {
    pools,
    accounts,
    makeJob(height, subsidySats) {
      // The network's difficulty changes within windows.
      if (jobs % 40 === 0)
        bits = bitsOf(meanDifficulty * options.sharesPerBlock * (0.6 + random.below(800) / 1000));
      // Mostly ordinary fees; sometimes none, sometimes an odd satoshi.
      const feesSats = random.chance(0.1)
        ? BigInt(random.below(2))
        : BigInt(random.below(40_000_000));
      return { id: `job-${++jobs}`, height, bits, valueSats: subsidySats + feesSats };
    },
    nextShare(atMs, job, progress) {
      const pool = poolAt[random.below(poolAt.length)]!;
      const active = Math.min(ACTIVE_ACCOUNTS, accounts.length);
      const base = Math.floor(progress * (accounts.length - active));
      const skew = random.below(1 << 20) / (1 << 20);
      const passing = base + Math.floor(skew * skew * active);
      const { scheme } = pools[pool]!.rules;
      const account = scheme === 'direct' || scheme === 'solo' ? passing % MEMBERS_MAX : passing;
      const difficulty = random.below(DIFFICULTIES.length);
      const hash = Buffer.allocUnsafe(32);
      for (let at = 0; at < 28; at += 4) hash.writeUInt32LE(random.bits(), at);
      hash.writeUInt32LE(++shares, 28);
      return {
        pool,
        account,
        difficulty,
        record: {
          headerHash: hash,
          jobId: job.id,
          extranonce1: new Uint8Array(4),
          extranonce2: new Uint8Array(8),
          ntime: Math.floor(atMs / 1000),
          nonce: shares,
          version: 0x20000000,
          difficulty: DIFFICULTIES[difficulty]!,
          shareDifficulty: DIFFICULTIES[difficulty]!,
          account: accounts[account]!.name,
          worker: 'w',
          sessionId: '',
          gateway: 'g1',
          height: job.height,
          // Clocks of gateways differ, and shippers deliver out of order.
          acceptedAtMs: atMs - random.below(1_500),
          isBlock: false,
          pool: pools[pool]!.rules.id,
          networkBits: job.bits,
          jobValueSats: job.valueSats,
          planId: '',
          coinbaseBytes: 0,
        },
      };
    },
  };
}

/** The compact bits whose difficulty is next to `difficulty`. */
function bitsOf(difficulty: number): number {
  return encodeBits(((0xffffn << 208n) * 1_000n) / BigInt(Math.round(difficulty * 1_000)));
}

function makePools(poolAddresses: readonly string[], own: (at: number) => string): TapePool[] {
  const custody = (at: number): string => poolAddresses[at % poolAddresses.length]!;
  const pool = (
    permille: number,
    rules: Partial<PoolRules> & Pick<PoolRules, 'id' | 'scheme'>,
  ): TapePool => ({
    permille,
    rules: {
      window: { kind: 'work', factorPpm: 2_000_000n },
      feePpm: 10_000,
      feeAddress: null,
      developerFeePpm: 0,
      developerAddress: null,
      address: null,
      ruinPpmMax: 10_000,
      onRuin: 'downgrade',
      ...rules,
    },
  });
  return [
    pool(450, { id: 'main', scheme: 'pplns', address: custody(0), developerFeePpm: 2_500 }),
    pool(120, {
      id: 'named',
      scheme: 'pplns',
      address: custody(1),
      window: { kind: 'work', factorPpm: 700_000n },
      feePpm: 17_777,
      feeAddress: own(3),
      developerFeePpm: 333,
      developerAddress: own(5),
    }),
    pool(120, {
      id: 'direct',
      scheme: 'direct',
      feeAddress: own(7),
      developerAddress: own(8),
      feePpm: 5_000,
    }),
    pool(110, { id: 'prop', scheme: 'prop', address: custody(0), feePpm: 0 }),
    pool(100, { id: 'pps', scheme: 'pps', address: custody(1), feePpm: 20_000 }),
    pool(50, {
      id: 'fpps',
      scheme: 'fpps',
      address: custody(0),
      feePpm: 30_001,
      onRuin: 'refuse',
    }),
    pool(30, {
      id: 'solo',
      scheme: 'solo',
      feePpm: 5_000,
      feeAddress: own(9),
      developerAddress: own(8),
    }),
    pool(20, {
      id: 'days',
      scheme: 'pplns',
      address: custody(1),
      window: { kind: 'days', days: 1 },
      feePpm: 1,
    }),
  ];
}

function makeAccounts(seed: number, count: number, random: Random): TapeAccount[] {
  const made: TapeAccount[] = [];
  let scripts = 0;
  const fresh = (): { address: string; script: Uint8Array } => {
    const digest = createHash('sha256').update(`${seed} account ${scripts++}`).digest();
    const script = scriptOf(random.below(10), digest);
    return { address: encodeAddress(script, NETWORK)!, script };
  };
  for (let at = 0; at < count; at++) {
    if (at % 25 !== 24) {
      const part = { ...fresh(), weight: 1 };
      made.push({ name: part.address, parts: [part] });
      continue;
    }
    // Shares of two or three, one of them somebody who mines himself as well.
    const neighbour = made[at - 1 - random.below(12)]!.parts[0]!;
    const parts = [
      { ...neighbour, weight: 1 + random.below(99) },
      { ...fresh(), weight: 1 + random.below(99) },
      ...(random.chance(0.5) ? [{ ...fresh(), weight: 1 + random.below(99) }] : []),
    ];
    const name = encodeSplit(parts);
    if (name === null) throw new Error('a split account has no name');
    const weights = new Map(name.split(',').map((piece) => piece.split('*') as [string, string]));
    made.push({
      name,
      parts: parts
        .map((part) => ({ ...part, weight: Number(weights.get(part.address)) }))
        .sort((a, b) => (a.address < b.address ? -1 : 1)),
    });
  }
  return made;
}

/** Six in ten P2WPKH, and one each of the other kinds that can be paid. */
function scriptOf(kind: number, digest: Buffer): Uint8Array {
  const bytes = (hex: string): number[] =>
    (hex.match(HEX) ?? []).map((pair) => Number.parseInt(pair, 16));
  const half = [...digest.subarray(0, 20)];
  const shape =
    kind === 0
      ? [...bytes('76a914'), ...half, ...bytes('88ac')]
      : kind === 1
        ? [...bytes('a914'), ...half, ...bytes('87')]
        : kind === 2
          ? [...bytes('0020'), ...digest]
          : kind === 3
            ? [...bytes('5120'), ...digest]
            : [...bytes('0014'), ...half];
  return Uint8Array.from(shape);
}
