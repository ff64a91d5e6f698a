/**
 * The money of a whole pool in one deterministic run: shares by the thousand, blocks that stand or fall, payouts, and everything that
 * can go wrong between. Real: the SQL on a real PostgreSQL, the store, the crediting, the payer. Simulated: time, chain, node, wallet,
 * gateway, and the moments at which processes die. The same seed gives the same run.
 */

import { decodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeTx } from '../../../src/core/bitcoin/tx.ts';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { RpcFailure } from '../../../src/core/node/rpc.ts';
import {
  COINBASE_CLASSES,
  type CoinbaseRules,
  coinbaseOutputs,
} from '../../../src/core/work/payout.ts';
import { decodeCoinbasePlans } from '../../../src/messages/codec.ts';
import type { Db, Log } from '../../../src/ports.ts';
import { findOrMakeAccounts, setSettings } from '../../../src/store/accounts.ts';
import { recordCandidate, recordOutcome } from '../../../src/store/blocks.ts';
import { auditLedger, postLedger } from '../../../src/store/ledger.ts';
import { dropOldShares, makeSharePartitions, recordShares } from '../../../src/store/shares.ts';
import { createLossyDb } from '../../tools/lossy-db.ts';
import { type CallFate, type NodeBlock, WalletNode } from '../../tools/wallet-node.ts';
import { createRandom, type Random } from '../random.ts';
import { START_MS } from '../time.ts';
import type { BreakName } from './breaks.ts';
import { bendDb, bendPolicy, payTwice } from './breaks.ts';
import {
  BrokenPromise,
  createJudge,
  type JudgeStats,
  type SimFind,
  type SimSettings,
  subsidyAt,
} from './judge.ts';
import { ShareFacts } from './oracle.ts';
import { createTurns, type KillPlan, type SimProcess, startProcess } from './process.ts';
import { type Program, startProgram } from './program.ts';
import type { MoneyServer } from './server.ts';
import { BASE_HEIGHT, makeTape, NETWORK, type TapeJob, type TapeShare } from './tape.ts';

export type MoneyOptions = {
  seed: number;
  shares: number;
  blocks: number;
  accounts: number;
  /** Processes killed in all. */
  crashes: number;
  /** Looks of the judge in all; every block when there are as many. */
  looks?: number;
  /** Reorganisations deeper than maturity happen, and an operator confirms the losses. */
  deep?: boolean;
  /** Chance of a reorganisation of one to three blocks, with each block found (0.1). */
  reorganisations?: number;
  /** Everybody who is due must be paid in so many virtual days after the last share (10). */
  drainDaysMax?: number;
  /** Pools that pay by the share have little in reserve. */
  poor?: boolean;
  breaks?: ReadonlySet<BreakName>;
  trace?: (text: string) => void;
  /** Told at every look of the judge. */
  progress?: (text: string) => void;
};

export type MoneyResult = {
  failure: { promise: string; step: number; text: string } | null;
  stats: MoneyStats;
};

export type MoneyStats = JudgeStats & {
  shares: number;
  blocks: number;
  lostBlocks: number;
  returnedBlocks: number;
  reorganisations: number;
  cycles: number;
  pairs: number;
  crashes: number;
  crashedAt: Map<string, number>;
  visited: Set<string>;
  lostCommits: number;
  badAnswers: number;
  bumps: number;
  virtualDays: number;
};

const BATCH_SHARES = 4_000;
/** Not every process that is to be killed comes to the place where it would be. */
const KILL_TRIES_MAX = 12;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const RETENTION_DAYS = 3;
/** Between two blocks of the chain. */
const BLOCK_MS = 600_000;
/** The judge calls a run stuck that has not paid everything after so many virtual days. */
const DRAIN_DAYS_MAX = 10;
/** Deep reorganisations come when so many blocks were found since the last one: some of them are mature. */
const DEEP_BLOCKS = 90;

/** One run in a database of its own. */
export async function runMoney(options: MoneyOptions, server: MoneyServer): Promise<MoneyResult> {
  const { open, drop } = await server.fresh();
  const world = new World(options, await open(), await open(), await open());
  try {
    await world.run();
    return { failure: null, stats: world.stats() };
  } catch (error) {
    if (!(error instanceof BrokenPromise)) throw error;
    const { promise, message } = error;
    return { failure: { promise, step: world.step, text: message }, stats: world.stats() };
  } finally {
    await drop();
  }
}

class World {
  step = 0;
  readonly #options: MoneyOptions;
  readonly #random: Random;
  readonly #trace: (text: string) => void;
  readonly #breaks: ReadonlySet<BreakName>;
  /** The judge's own, and the connections of two processes. */
  readonly #admin: Db;
  readonly #doors: readonly [Db, Db];
  readonly #node: WalletNode;
  readonly #tape;
  readonly #facts: ShareFacts;
  readonly #finds: SimFind[] = [];
  readonly #settings = new Map<string, SimSettings[]>();
  readonly #policy: PayoutPolicy;
  readonly #judge;
  readonly #judgeFacts;
  #nowMs = START_MS;
  #weather: Weather = 'fair';
  #lossChance = 0;
  /** Lives on from cycle to cycle until it is killed or restarted. */
  #living: { process: SimProcess; program: Program } | null = null;
  readonly #processes = new Map<string, SimProcess>();
  #plans: CoinbasePlan[] = [];
  #pending: TapeShare[] = [];
  #recent: TapeShare[] = [];
  #late: (() => Promise<void>)[] = [];
  #visitsOfCycle = 100;
  #job: TapeJob;
  #partitionDay = -1;
  #bumps = 0;
  #bentPostings = 0;
  /** What miners ask for; who pays less waits. */
  #marketRate = 1;
  readonly #visited = new Map<string, number>();
  readonly #crashedAt = new Map<string, number>();
  readonly #counts = {
    lostBlocks: 0,
    returnedBlocks: 0,
    reorganisations: 0,
    cycles: 0,
    pairs: 0,
    crashes: 0,
    lostCommits: 0,
    badAnswers: 0,
  };

  constructor(options: MoneyOptions, admin: Db, first: Db, second: Db) {
    this.#options = options;
    this.#breaks = options.breaks ?? new Set();
    this.#random = createRandom(options.seed);
    this.#trace = options.trace ?? (() => {});
    this.#admin = admin;
    this.#doors = [first, second];
    this.#node = new WalletNode({
      network: NETWORK,
      baseHeight: BASE_HEIGHT,
      nowMs: () => this.#nowMs,
      fate: (door, method) => this.#fateOf(door, method),
    });
    const sharesPerBlock = Math.max(5, Math.round(options.shares / options.blocks));
    this.#tape = makeTape({
      seed: options.seed,
      accounts: options.accounts,
      sharesPerBlock,
      poolAddresses: [this.#node.newAddress(), this.#node.newAddress()],
    });
    this.#facts = new ShareFacts(this.#tape.pools.length);
    this.#policy = {
      wallet: 'pool',
      signing: 'hot',
      minimumSats: this.#random.pick([100_000n, 400_000n, 3_000_000n]),
      schedule: { kind: 'every', intervalMs: this.#random.pick([2, 6, 12]) * HOUR_MS },
      feePolicy: this.#random.pick(['pool', 'miner'] as const),
      feeRateMaxSatsPerVb: 60,
      feePpmMax: 20_000,
      confirmTarget: 6,
      outputsMax: this.#random.pick([20, 100, 200]),
      transactionMaxSats: 10_000_000_000n,
      dailyMaxSats: 1_000_000_000_000n,
      confirmations: 6,
      maturity: 101,
      bumpAfterMs: 3 * HOUR_MS,
    };
    this.#judgeFacts = {
      tape: this.#tape,
      shares: this.#facts,
      finds: this.#finds,
      node: this.#node,
      policy: this.#policy,
      settings: this.#settings,
      funded: { reserve: new Map<string, bigint>(), operator: 0n },
      ownSpends: new Set<string>(),
      deep: options.deep === true,
      poor: options.poor === true,
    };
    this.#judge = createJudge(admin, this.#judgeFacts);
    this.#job = this.#tape.makeJob(BASE_HEIGHT + 1, subsidyAt(BASE_HEIGHT + 1));
  }

  stats(): MoneyStats {
    return {
      ...this.#judge.stats,
      ...this.#counts,
      shares: this.#facts.count,
      blocks: this.#finds.length,
      crashedAt: this.#crashedAt,
      visited: new Set(this.#visited.keys()),
      bumps: this.#bumps,
      virtualDays: Math.round((this.#nowMs - START_MS) / DAY_MS),
    };
  }

  async run(): Promise<void> {
    const { shares, blocks, crashes } = this.#options;
    const looks = this.#options.looks ?? 100;
    await this.#prepare();
    let found = 0;
    while (found < blocks) {
      this.step += 1;
      const goal = Math.round(((found + 1) / blocks) * shares);
      const wanted = Math.max(1, goal - this.#facts.count - this.#pending.length);
      await this.#mine(wanted);
      await this.#find();
      found += 1;
      await this.#chainMoves();
      // Killed while there is something to do; what is left over is done at the end.
      const crashesDue = Math.round((found / blocks) * crashes);
      for (let tries = 0; this.#counts.crashes < crashesDue && tries < KILL_TRIES_MAX; tries++)
        await this.#cycle(this.#choosePlan());
      await this.#cycle();
      if (this.#random.chance(0.1)) await this.#pair();
      const isLook =
        Math.floor((found * looks) / blocks) > Math.floor(((found - 1) * looks) / blocks);
      if (isLook) {
        await this.#judge.look({ quiet: false });
        await this.#calm();
        await this.#judge.look({ quiet: true });
        const { crashes, lostBlocks } = this.#counts;
        this.#options.progress?.(
          `${found} of ${blocks} blocks (${lostBlocks} lost), ${this.#facts.count} shares, ${crashes} kills`,
        );
        if (this.#random.chance(0.5)) await this.#changeSettings();
      }
      if (this.#options.deep && found % DEEP_BLOCKS === 0) await this.#deepReorganisation();
      if (this.#random.chance(0.02)) await this.#redeliver();
    }
    await this.#drain();
    const [row] = await this.#admin.query<{ bumps: number }>(
      'SELECT count(*)::int AS bumps FROM payout_generations WHERE generation > 1',
    );
    this.#bumps = row?.bumps ?? 0;
    const audit = await auditLedger(this.#admin);
    if (!audit.ok) throw new BrokenPromise('audit', audit.findings.join('; '));
  }

  // ---- the start

  async #prepare(): Promise<void> {
    await makeSharePartitions(this.#admin, { nowMs: this.#nowMs, aheadDays: 2 });
    // The operator's own money: for network fees, and for the reserves of pools that pay by the share.
    const owner = this.#node.newScript();
    const amounts = this.#options.poor
      ? { operator: 20_00000000n, pps: 375_00000000n, fpps: 245_00000000n }
      : { operator: 20_00000000n, pps: 4_000_00000000n, fpps: 4_000_00000000n };
    const outputs = [amounts.operator, amounts.pps, amounts.fpps].flatMap((sats) =>
      Array.from({ length: 20 }, () => ({ valueSats: sats / 20n, script: owner })),
    );
    this.#node.submit(this.#node.makeBlock({ outputs }));
    for (let at = 0; at < 110; at++) this.#competitor(1);
    await postLedger(this.#admin, {
      key: 'fund:start',
      kind: 'fund',
      atMs: this.#nowMs,
      actor: 'operator',
      entries: [
        { account: { kind: 'deposit' }, sats: -(amounts.operator + amounts.pps + amounts.fpps) },
        { account: { kind: 'operator' }, sats: amounts.operator },
        { account: { kind: 'reserve', pool: 'pps' }, sats: amounts.pps },
        { account: { kind: 'reserve', pool: 'fpps' }, sats: amounts.fpps },
      ],
    });
    const { funded } = this.#judgeFacts;
    funded.operator = amounts.operator;
    funded.reserve.set('pps', amounts.pps).set('fpps', amounts.fpps);
    this.#newJob();
    await this.#changeSettings();
    await this.#calm();
  }

  /** The operator puts in what was missing; who pays by the share goes on where it stopped. */
  async #fillReserves(): Promise<void> {
    const sats = 5_000_00000000n;
    const owner = this.#node.newScript();
    const outputs = Array.from({ length: 50 }, () => ({ valueSats: sats / 25n, script: owner }));
    const block = this.#node.makeBlock({ outputs });
    this.#node.submit(block);
    this.#competitor(101);
    const { reserve } = this.#judgeFacts.funded;
    await postLedger(this.#admin, {
      key: 'fund:end',
      kind: 'fund',
      atMs: this.#nowMs,
      actor: 'operator',
      entries: [
        { account: { kind: 'deposit' }, sats: -2n * sats },
        { account: { kind: 'reserve', pool: 'pps' }, sats },
        { account: { kind: 'reserve', pool: 'fpps' }, sats },
      ],
    });
    for (const pool of ['pps', 'fpps']) reserve.set(pool, reserve.get(pool)! + sats);
    this.#newJob();
  }

  async #changeSettings(): Promise<void> {
    const accounts = this.#tape.accounts;
    const atMs = this.#nowMs;
    for (let count = 0; count < 8; count++) {
      const address = this.#random.pick(this.#random.pick(accounts).parts).address;
      const feePpm = this.#random.pick([null, 0, 5_000, 33_333]);
      const settings: SimSettings = {
        feePpm,
        donationPpm: this.#random.pick([0, 0, 1_000, 50_001, 966_667]),
        minimumSats: this.#random.pick([null, 1n, 5_000_000n]),
        onHold: this.#random.chance(0.1),
      };
      const ids = await findOrMakeAccounts(this.#admin, [address], atMs);
      await setSettings(this.#admin, {
        accountId: ids.get(address)!,
        change: {
          feePpm: settings.feePpm,
          donationPpm: settings.donationPpm,
          minimumPayoutSats: settings.minimumSats,
          onHold: settings.onHold,
          holdReason: settings.onHold ? 'for the test' : null,
        },
        actor: 'operator',
        reason: 'asked for',
        atMs,
      });
      const history = this.#settings.get(address) ?? [
        { feePpm: null, donationPpm: 0, minimumSats: null, onHold: false },
      ];
      history.push(settings);
      this.#settings.set(address, history);
    }
  }

  // ---- shares

  async #mine(count: number): Promise<void> {
    const stepMs = BLOCK_MS / count;
    for (let at = 0; at < count - 1; at++) {
      this.#nowMs += stepMs;
      const progress = this.#facts.count / this.#options.shares;
      const share = this.#tape.nextShare(Math.round(this.#nowMs), this.#job, Math.min(1, progress));
      this.#pending.push(share);
      if (this.#pending.length >= BATCH_SHARES) await this.#store();
    }
    this.#nowMs = Math.round(this.#nowMs);
  }

  /** To the database, again and again until it says that it has them. */
  async #store(extra: readonly TapeShare[] = []): Promise<void> {
    const day = Math.floor(this.#nowMs / DAY_MS);
    if (day !== this.#partitionDay) {
      this.#partitionDay = day;
      await makeSharePartitions(this.#admin, { nowMs: this.#nowMs, aheadDays: 2 });
      await dropOldShares(this.#admin, { nowMs: this.#nowMs, retentionDays: RETENTION_DAYS });
    }
    const batch = [...extra, ...this.#pending];
    if (batch.length === 0) return;
    const db = createLossyDb(this.#admin, {
      lose: () =>
        this.#random.chance(0.02)
          ? this.#random.pick(['before', 'middle', 'after'] as const)
          : null,
    });
    await this.#insist(() =>
      recordShares(
        db,
        batch.map(({ record }) => ({ share: record, audited: true })),
      ),
    );
    for (const share of this.#pending) {
      this.#facts.add(share);
      if (!share.record.isBlock) continue;
      const find = this.#finds.findLast(
        (one) => Buffer.compare(one.block.hash, share.record.headerHash) === 0,
      );
      if (find !== undefined) find.seq = this.#facts.count;
    }
    this.#recent = this.#pending.slice(-500);
    this.#pending = [];
  }

  /** A shipper that has lost its place sends shares again that are stored. */
  async #redeliver(): Promise<void> {
    await this.#store(this.#recent);
  }

  async #insist<T>(work: () => Promise<T>): Promise<T> {
    for (let tries = 0; ; tries++) {
      try {
        return await work();
      } catch (error) {
        if (tries >= 20 || (error as { code?: unknown }).code !== 'ECONNRESET') throw error;
        this.#counts.lostCommits += 1;
      }
    }
  }

  // ---- blocks

  async #find(): Promise<void> {
    this.#nowMs += 100;
    const progress = Math.min(1, this.#facts.count / this.#options.shares);
    const share = this.#tape.nextShare(this.#nowMs, this.#job, progress);
    const { rules } = this.#tape.pools[share.pool]!;
    const account = this.#tape.accounts[share.account]!;
    const coinbase = this.#coinbaseRules(share.pool);
    const plan = this.#plans.find((one) => one.pool === rules.id) ?? null;
    const { outputs, planId } = coinbaseOutputs(
      coinbase,
      {
        finder: account.parts.map((part) => ({ script: part.script, weight: BigInt(part.weight) })),
        plan,
        outputBytesMax: this.#random.pick(COINBASE_CLASSES) - 150,
      },
      this.#job.valueSats,
    );
    const block = this.#node.makeBlock({
      outputs,
      bits: this.#job.bits,
      commitment: this.#random.chance(0.7),
      txs: this.#node.minable(this.#marketRate, 50),
    });
    const record = {
      ...share.record,
      headerHash: block.hash,
      isBlock: true,
      acceptedAtMs: this.#nowMs,
      planId,
    };
    // A policy may refuse the share of a block, and the block stands all the same.
    const isShareLost =
      this.#finds.length > 20 && rules.scheme !== 'solo' && this.#random.chance(0.03);
    const find: SimFind = {
      block,
      pool: share.pool,
      seq: 0,
      foundAtMs: this.#nowMs,
      finder: share.account,
      isShareLost,
    };
    this.#finds.push(find);
    if (!isShareLost) this.#pending.push({ ...share, record });
    const candidate = (): Promise<void> =>
      this.#insist(() =>
        recordCandidate(this.#lossyAdmin(), {
          jobId: this.#job.id,
          headerHash: block.hash,
          header: block.header,
          coinbase: encodeTx(block.txs[0]!.tx, { witness: false }),
          height: block.height,
          account: account.name,
          worker: 'w',
          foundAtMs: find.foundAtMs,
          networkDifficulty: 1,
          rewardSats: this.#job.valueSats,
          pool: rules.id,
          planId,
        }),
      );
    const outcome = (): Promise<void> =>
      this.#insist(() =>
        recordOutcome(this.#lossyAdmin(), {
          headerHash: block.hash,
          height: block.height,
          state: 'accepted',
          node: 'n1',
          detail: '',
          confirmations: 1,
          atMs: this.#nowMs,
        }),
      );
    // The three records travel on three ways; any of them may be late.
    const ways = [
      { what: 'share', go: () => this.#store() },
      { what: 'find', go: candidate },
      { what: 'outcome', go: outcome },
    ];
    while (ways.length > 0) {
      const way = ways.splice(this.#random.below(ways.length), 1)[0]!;
      if (ways.length < 2 && this.#random.chance(0.04)) {
        this.#trace(`${this.step} the record of the ${way.what} of block ${block.height} is late`);
        this.#late.push(way.go);
      } else await way.go();
    }
    // Sometimes another block of the same height is first, and ours stands beside the chain from the start.
    if (this.#random.chance(0.02)) this.#competitor(1);
    this.#node.submit(block);
    this.#trace(
      `${this.step} block ${block.height} ${block.hashDisplay.slice(0, 12)} of ${rules.id} at share ${find.seq}, ${outputs.length} outputs`,
    );
    // Whoever accepts shares after this, their clocks say so.
    this.#nowMs += 2_000;
    this.#newJob();
  }

  #lossyAdmin(): Db {
    return createLossyDb(this.#admin, {
      lose: () =>
        this.#random.chance(0.02)
          ? this.#random.pick(['before', 'middle', 'after'] as const)
          : null,
    });
  }

  #coinbaseRules(pool: number): CoinbaseRules {
    const { rules } = this.#tape.pools[pool]!;
    const scriptOf = (address: string): Uint8Array => {
      const decoded = decodeAddress(address, NETWORK);
      if (!decoded.ok) throw new Error(decoded.reason);
      return decoded.script;
    };
    if (rules.scheme === 'solo' || rules.scheme === 'direct') {
      return {
        mode: rules.scheme,
        fee:
          rules.feeAddress === null
            ? null
            : { ppm: rules.feePpm, script: scriptOf(rules.feeAddress) },
      };
    }
    return { mode: 'pool', script: scriptOf(rules.address!), address: rules.address! };
  }

  /** Blocks of others on the tip. */
  #competitor(count: number, previous?: NodeBlock, withTxs = true): NodeBlock {
    let tip = previous ?? this.#node.tip;
    for (let at = 0; at < count; at++) {
      const onTip = tip === this.#node.tip;
      tip = this.#node.makeBlock({
        previous: tip,
        outputs: [{ valueSats: 1n, script: Uint8Array.of(0x51, this.#random.below(256)) }],
        txs: onTip && withTxs ? this.#node.minable(this.#marketRate, 50) : [],
      });
      this.#node.submit(tip);
    }
    return tip;
  }

  async #chainMoves(): Promise<void> {
    const random = this.#random;
    if (random.chance(0.5)) for (const late of this.#late.splice(0)) await late();
    if (random.chance(0.08)) this.#marketRate = random.pick([1, 2, 5, 12, 30]);
    this.#node.estimateSatsPerVb = random.chance(0.05) ? null : this.#marketRate * 1.05;
    // A full mempool asks for more than the usual least.
    this.#node.minRateSatsPerVb = random.chance(0.1) ? Math.max(1, this.#marketRate / 2) : 1;
    if (random.chance(0.5)) {
      this.#nowMs += random.below(2 * BLOCK_MS);
      this.#competitor(1 + random.below(2));
      this.#newJob();
    }
    if (random.chance(this.#options.reorganisations ?? 0.1)) this.#reorganise(1 + random.below(3));
    if (random.chance(0.03)) {
      for (const id of [...this.#node.mempool.keys()])
        if (random.chance(0.5)) this.#node.dropFromMempool(id);
    }
    if (random.chance(0.03)) this.#node.restart();
  }

  /** The last `depth` blocks are replaced; sometimes their branch wins after all. */
  #reorganise(depth: number): void {
    const node = this.#node;
    const old = node.tip;
    let fork: NodeBlock = old;
    for (let at = 0; at < depth && fork.previous !== null; at++) fork = fork.previous;
    this.#counts.reorganisations += 1;
    const ours = this.#finds.filter(
      (find) => node.isActive(find.block) && find.block.height > fork.height,
    ).length;
    const rival = this.#competitor(depth + 1, fork);
    this.#trace(
      `${this.step} reorganisation of ${depth}, ${ours} of ours lost, ${node.mempool.size} waiting`,
    );
    this.#counts.lostBlocks += ours;
    if (this.#random.chance(0.35)) {
      // It is looked at in between, sometimes long enough for the rival to be six deep.
      if (this.#random.chance(0.6)) this.#competitor(this.#random.below(7), rival, false);
      const lead = node.tip.height - old.height + 1;
      this.#late.push(async () => {
        this.#competitor(Math.max(1, lead + (node.tip.height - old.height)), old, false);
        this.#trace(`${this.step} the old branch is back`);
        this.#counts.returnedBlocks += ours;
        this.#newJob();
      });
    }
    this.#newJob();
  }

  async #deepReorganisation(): Promise<void> {
    await this.#calm();
    this.#reorganise(112 + this.#random.below(8));
    this.#late = [];
    this.#competitor(7);
    for (let times = 0; times < 4; times++) await this.#cycle();
    await this.#operatorAcceptsLosses();
    await this.#calm();
    await this.#judge.look({ quiet: false });
  }

  async #operatorAcceptsLosses(): Promise<void> {
    const { listProposedReversals, confirmReversal } = await import(
      '../../../src/store/crediting.ts'
    );
    const { releasePayouts } = await import('../../../src/store/payouts.ts');
    for (const { hash, height } of await listProposedReversals(this.#admin)) {
      const answer = await confirmReversal(this.#admin, {
        hash,
        actor: 'operator',
        reason: 'gone for good',
        atMs: this.#nowMs,
      });
      this.#trace(
        `${this.step} the operator confirms the loss of block ${height}: ${JSON.stringify(answer.ok)}`,
      );
    }
    await releasePayouts(this.#admin, {
      actor: 'operator',
      reason: 'looked at',
      atMs: this.#nowMs,
    });
  }

  #newJob(): void {
    const height = this.#node.tip.height + 1;
    this.#job = this.#tape.makeJob(height, subsidyAt(height));
  }

  // ---- processes

  /** Somewhere in this cycle. */
  #choosePlan(): KillPlan {
    return { atVisit: 1 + this.#random.below(Math.round(this.#visitsOfCycle)) };
  }

  /** Where nobody was killed yet, or seldom: a process that is started so lives until it comes there. */
  #chooseFate(): KillPlan | null {
    const rare = [...this.#visited.keys()]
      .map((name) => ({ name, times: this.#crashedAt.get(name) ?? 0 }))
      .sort((a, b) => a.times - b.times || (a.name < b.name ? -1 : 1));
    const room = this.#options.crashes - this.#counts.crashes;
    if (rare.length === 0 || room <= 0 || this.#random.chance(0.3)) return null;
    return { atPoint: rare[this.#random.below(Math.min(5, rare.length))]!.name };
  }

  #start(
    name: string,
    plan: KillPlan | null,
    turns: Parameters<typeof startProcess>[0]['turns'],
  ): SimProcess {
    const process = startProcess({
      name,
      db: bendDb(this.#doors[name === 'a' ? 0 : 1], this.#breaks, () => ++this.#bentPostings),
      random: this.#random,
      plan,
      lossChance: () => this.#lossChance,
      turns,
      onVisit: (point) => {
        this.#visited.set(point, (this.#visited.get(point) ?? 0) + 1);
      },
      onKill: (point) => {
        this.#counts.crashes += 1;
        this.#crashedAt.set(point, (this.#crashedAt.get(point) ?? 0) + 1);
        this.#trace(`${this.step} ${name} is killed at ${point}`);
      },
      onLoss: () => {
        this.#counts.lostCommits += 1;
      },
    });
    this.#processes.set(name, process);
    return process;
  }

  #launch(process: SimProcess): Program {
    return startProgram({
      clock: { nowMs: () => Math.round(this.#nowMs) },
      log: this.#log(process.name),
      db: process.db,
      fault: process.fault,
      node: this.#node.openDoor(process.name),
      pools: this.#tape.pools.map(({ rules }) => rules),
      policy: bendPolicy(this.#policy, this.#breaks),
      network: NETWORK,
      isActive: process.isAlive,
      isShipperIdle: () => this.#pending.length === 0,
      publishPlans: (bytes) => {
        const decoded = decodeCoinbasePlans(bytes);
        if (!decoded.ok) throw new Error('plans cannot be read');
        this.#plans = [...decoded.value];
      },
    });
  }

  /** One cycle. A lost connection may fail its steps; what else fails is a bug. */
  async #runOnce(process: SimProcess, program: Program): Promise<void> {
    this.#counts.cycles += 1;
    await process.run(async () => {
      for (const alarm of await program.cycle()) {
        if (!STEP_FAILED.test(alarm) || EXPECTED_FAILURE.test(alarm)) continue;
        throw new BrokenPromise('no-bug', alarm);
      }
    });
  }

  async #cycle(plan: KillPlan | null = null): Promise<void> {
    this.#weather = this.#random.chance(0.75) ? 'fair' : this.#random.pick(WEATHERS);
    this.#lossChance = this.#random.chance(0.2) ? 0.05 : 0;
    this.#node.locked = this.#weather === 'locked';
    this.#nowMs += this.#random.below(60_000);
    await this.#liveOn(plan);
    this.#node.locked = false;
    this.#weather = 'fair';
    this.#lossChance = 0;
  }

  /** One cycle of a fresh process that has a plan, or of the one that lives, or of one whose fate is left to chance. */
  async #liveOn(plan: KillPlan | null): Promise<void> {
    if (plan !== null || this.#living === null || this.#random.chance(0.05)) {
      const process = this.#start('a', plan ?? this.#chooseFate(), null);
      this.#living = { process, program: this.#launch(process) };
    }
    const { process, program } = this.#living!;
    const before = process.visits();
    await this.#runOnce(process, program);
    if (this.#breaks.has('paid-twice')) await payTwice(this.#node, this.#admin);
    if (!process.isAlive()) this.#living = null;
    else if (this.#weather === 'fair')
      this.#visitsOfCycle = Math.max(
        20,
        this.#visitsOfCycle * 0.7 + (process.visits() - before) * 0.3,
      );
  }

  /** Two processes at once; one of them may be killed. */
  async #pair(): Promise<void> {
    this.#counts.pairs += 1;
    this.#weather = this.#random.chance(0.7) ? 'fair' : 'flaky';
    this.#lossChance = this.#random.chance(0.2) ? 0.05 : 0;
    this.#nowMs += this.#random.below(60_000);
    const turns = createTurns({ db: this.#admin, random: this.#random });
    const victim = this.#random.chance(0.3) ? this.#choosePlan() : null;
    this.#living = null;
    const first = this.#start('a', victim, turns);
    const second = this.#start('b', null, turns);
    const work = Promise.all([
      this.#runOnce(first, this.#launch(first)),
      this.#runOnce(second, this.#launch(second)),
    ]);
    await turns.drive(work);
    await work;
    this.#weather = 'fair';
    this.#lossChance = 0;
  }

  /** Everything works for a while, so that what must happen happens. */
  async #calm(): Promise<void> {
    for (const late of this.#late.splice(0)) await late();
    await this.#store();
    this.#weather = 'fair';
    this.#lossChance = 0;
    this.#node.locked = false;
    const process = this.#start('a', null, null);
    this.#living = { process, program: this.#launch(process) };
    for (let times = 0; times < 3; times++) {
      this.#nowMs += 90_000;
      await this.#runOnce(process, this.#living.program);
      if (this.#breaks.has('paid-twice')) await payTwice(this.#node, this.#admin);
    }
    await this.#checkHalt();
  }

  async #checkHalt(): Promise<void> {
    const [control] = await this.#admin.query<{ halted: boolean; halt_reason: string }>(
      'SELECT halted, halt_reason FROM payout_control',
    );
    if (control?.halted && !this.#options.deep)
      throw new BrokenPromise(
        'halted',
        `payouts are stopped without a cause: ${control.halt_reason}`,
      );
  }

  #log(name: string): Log {
    const write =
      (level: string) =>
      (message: string, fields?: Record<string, unknown>): void => {
        this.#trace(
          `${this.step} ${name} ${level}: ${message} ${JSON.stringify(fields ?? {}, (_, value) => (typeof value === 'bigint' ? String(value) : value))}`,
        );
      };
    const log: Log = {
      debug: () => {},
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: () => log,
    };
    return log;
  }

  // ---- node and wallet

  async #fateOf(door: string, method: string): Promise<CallFate> {
    const process = this.#processes.get(door)!;
    const writes = WRITES.has(method);
    await process.pass(writes ? `rpc.${method}` : null);
    const fate = this.#storm(method);
    if (fate.kind !== 'answer') this.#counts.badAnswers += 1;
    return fate;
  }

  #storm(method: string): CallFate {
    const random = this.#random;
    const fail = (answer: RpcFailure, acted: boolean): CallFate => ({
      kind: 'fail',
      answer,
      acted,
    });
    switch (this.#weather) {
      case 'fair':
      case 'locked':
        return { kind: 'answer' };
      case 'down':
        return fail({ kind: 'unreachable', detail: 'refused' }, false);
      case 'slow': {
        // Late answers are no answers; whether the node acted is not known.
        if (!random.chance(0.1)) return { kind: 'answer' };
        this.#nowMs += 5_000;
        return fail({ kind: 'timeout', detail: '5000 ms' }, random.chance(0.7));
      }
      case 'deaf':
        return method === 'sendrawtransaction'
          ? fail({ kind: 'bad-answer', detail: 'truncated' }, true)
          : { kind: 'answer' };
      case 'flaky': {
        if (!random.chance(0.12)) return { kind: 'answer' };
        return random.pick<CallFate>([
          fail({ kind: 'unreachable', detail: 'reset' }, false),
          fail({ kind: 'timeout', detail: '' }, random.chance(0.5)),
          fail({ kind: 'bad-answer', detail: 'html' }, random.chance(0.5)),
          fail({ kind: 'warming-up', detail: 'loading' }, false),
          fail({ kind: 'overloaded', detail: 'queue' }, false),
          { kind: 'error', code: -32603, message: 'internal', acted: random.chance(0.5) },
        ]);
      }
    }
  }

  // ---- the end

  /** Mines on without faults until everybody who is due is paid. */
  async #drain(): Promise<void> {
    if (this.#options.poor) await this.#fillReserves();
    this.#marketRate = 1;
    this.#node.minRateSatsPerVb = 1;
    this.#policy.minimumSats = 20_000n;
    this.#policy.schedule = { kind: 'every', intervalMs: HOUR_MS };
    this.#policy.outputsMax = 200;
    // The process that lives has the old policy.
    this.#living = null;
    await this.#calm();
    const daysMax = this.#options.drainDaysMax ?? DRAIN_DAYS_MAX;
    const untilMs = this.#nowMs + daysMax * DAY_MS;
    for (let blocks = 0; ; blocks++) {
      this.#nowMs += BLOCK_MS;
      this.#node.estimateSatsPerVb = 2;
      this.#competitor(1);
      if (blocks % (blocks < 100 ? 30 : 4) !== 3) continue;
      await this.#calm();
      // The looks of a large run cost more than they find here.
      if (blocks % (this.#finds.length > 1_000 ? 48 : 8) === 3)
        await this.#judge.look({ quiet: true });
      const [open] = await this.#admin.query<{ batches: number }>(
        `SELECT count(*)::int AS batches FROM payout_batches WHERE state NOT IN ('settled', 'released')`,
      );
      if (blocks > 130 && open?.batches === 0) {
        try {
          await this.#judge.look({ quiet: true, final: true });
          return;
        } catch (error) {
          const isDue = error instanceof BrokenPromise && error.promise === 'paid-due';
          if (!isDue || this.#nowMs > untilMs) throw error;
        }
      }
      if (this.#nowMs > untilMs)
        throw new BrokenPromise(
          'paid-due',
          `${open?.batches} batches are open after ${daysMax} days`,
        );
    }
  }
}

/** An alarm of a step that threw. */
const STEP_FAILED = /^(sums of shares|schemes|shares|blocks|plans|check|payouts|figures): /;
/** What a step may throw: a connection that broke, a node that fails again and again. */
const EXPECTED_FAILURE = /: (Connection terminated unexpectedly|the node fails)/;

type Weather = 'fair' | 'down' | 'slow' | 'deaf' | 'flaky' | 'locked';
const WEATHERS: readonly Weather[] = ['down', 'slow', 'deaf', 'flaky', 'flaky', 'locked'];
/** Calls that change something; a process may die before each. After it is a fault point of the product's own. */
const WRITES: ReadonlySet<string> = new Set([
  'walletcreatefundedpsbt',
  'walletprocesspsbt',
  'sendrawtransaction',
  'lockunspent',
]);
