/**
 * The simulated world: one seed, one virtual clock, one pool process that can be killed at any named point, miners, nodes, a disk
 * that forgets and a database that can be away. After every step all promises are checked (promises.ts).
 *
 * The pool is the real one: `Gateway`, judge, journal, reader, shipper, share auditing, bus and block lane, put together in pool.ts.
 * The world only owns what is outside the process, and keeps the books from there.
 */
import { type CrashDisk, createCrashDisk } from '../tools/crash-disk.ts';
import { type BreakName, breakClasses } from './breaks.ts';
import { Chain, NODE_MODES, SimNode } from './chain.ts';
import { type DatabaseMode, SimTables } from './database.ts';
import { Miner, type MinerKind, respell, type Submission } from './miner.ts';
import { doubleSha } from './oracle.ts';
import { Pool } from './pool.ts';
import {
  type Acknowledged,
  type Books,
  DISK_GRACE_MS,
  PROMISES,
  type StoredShare,
  type Win,
} from './promises.ts';
import { createRandom, type Random } from './random.ts';
import { CRASH_POINTS, makeSteps, randomOf, type Step } from './steps.ts';
import { START_MS, VirtualTime } from './time.ts';

/** Miners by kind: mostly honest, as the world is. */
const KINDS: readonly MinerKind[] = [
  'honest',
  'honest',
  'deep',
  'deep',
  'repeating',
  'late',
  'liar',
  'thief',
];
export type WorldOptions = {
  seed: number;
  steps: readonly Step[];
  /** Breaks the pool on purpose, to show that the promises can fail. */
  breaks?: ReadonlySet<BreakName>;
  /** Prints every step. */
  trace?: (text: string) => void;
};

export type RunResult = {
  failure: { promise: string; text: string; step: number } | null;
  stats: {
    virtualMs: number;
    crashes: number;
    accepted: number;
    rejected: number;
    stored: number;
    blocks: number;
    blocksReceived: number;
    /** Acknowledged blocks that a kill took before they stood on the disk (a window of milliseconds). */
    failingDiskLosses: number;
    retargets: number;
    /** Crash points that were reached while armed, by name. */
    crashedAt: Map<string, number>;
  };
};

/** A connection between a miner and one incarnation of the pool. */
export type Link = {
  id: number;
  miner: Miner;
  latencyMs: number;
  open: boolean;
  /** What the pool writes is lost: the cable is out, and neither side has noticed. */
  silent: boolean;
  source: string;
};

export class World {
  readonly seed: number;
  readonly time = new VirtualTime(START_MS);
  readonly random: Random;
  readonly disk: CrashDisk;
  readonly chain: Chain;
  readonly nodes: SimNode[];
  readonly miners: Miner[] = [];
  readonly breaks: ReadonlySet<BreakName>;
  /** Content that was synced, by path, and paths whose names are durable: what a power loss leaves. */
  readonly synced = new Map<string, Buffer>();
  readonly durableNames = new Set<string>();
  readonly links = new Map<number, Link>();
  readonly stored = new Map<string, StoredShare>();
  readonly storedTwice: string[] = [];
  readonly acknowledged: Acknowledged[] = [];
  readonly acknowledgedTwice: string[] = [];
  readonly wins = new Map<string, Win>();
  readonly findings: { promise: string; text: string }[] = [];
  readonly rejectedHonest: Books['rejectedHonest'] = [];
  readonly crashedAt = new Map<string, number>();
  pool: Pool | null = null;
  incarnation = 0;
  poolSinceMs: number | null = null;
  crashes = 0;
  rejected = 0;
  nextJob = 1;
  /** Extranonce lease, as the file on disk holds it. */
  leaseHighWater = 0;
  readonly tables = new SimTables();
  /** Infinity while the disk has orders to fail. */
  diskHealedAtMs = START_MS - 60_000;
  database: DatabaseMode = 'up';
  busFault: 'none' | 'lose' | 'repeat' | 'fail-after' = 'none';
  /** The node gives no new templates. */
  frozen = false;
  templateAtMs = START_MS;
  #armed: { point: string; countdown: number; how: 'kill' | 'power' } | null = null;
  #nextLink = 1;
  #acknowledgedNow = new Set<string>();
  readonly #everExtranonces = new Map<string, { minerId: number; incarnation: number }>();
  readonly #trace: (text: string) => void;

  constructor(options: WorldOptions) {
    this.seed = options.seed;
    this.random = createRandom(options.seed);
    this.breaks = options.breaks ?? new Set();
    this.#trace = options.trace ?? (() => {});
    const diskRandom = createRandom(options.seed ^ 0xd15c);
    this.disk = createCrashDisk(() => diskRandom.bits() / 2 ** 32);
    this.chain = new Chain(createRandom(options.seed ^ 0xc4a1));
    this.nodes = ['one', 'two'].map(
      (name) => new SimNode(name, this.chain, this.time, (p) => this.fault(p)),
    );
    for (let id = 0; id < KINDS.length; id++) {
      this.miners.push(
        new Miner(id, KINDS[id]!, Pool.accountOf(id), {
          answered: (submission, error) => this.#answered(submission, error),
          told: (miner, told) => {
            if (told.difficulty <= 0) this.find('P13', `difficulty ${told.difficulty}`);
            const ageMs = this.time.nowMs - this.templateAtMs;
            if (ageMs > 601_000)
              this.find('P15', `job ${told.job.jobId} told ${ageMs} ms after its template`);
            void miner;
          },
          subscribed: (miner, extranonce1) => this.#subscribed(miner, extranonce1),
          protocolFault: (miner, text, promise) => this.find(promise, `miner ${miner.id}: ${text}`),
        }),
      );
    }
  }

  find(promise: string, text: string): void {
    this.findings.push({ promise, text });
  }

  trace(text: string): void {
    this.#trace(`${((this.time.nowMs - START_MS) / 1000).toFixed(3).padStart(9)} ${text}`);
  }

  /** Called by every seam. Kills the pool when a crash is armed here. The caller must look at `Pool.alive` afterwards. */
  fault(point: string): void {
    this.time.activity += 1;
    const armed = this.#armed;
    if (armed === null || armed.point !== point || this.pool === null) return;
    armed.countdown -= 1;
    if (armed.countdown > 0) return;
    this.#armed = null;
    this.crashedAt.set(point, (this.crashedAt.get(point) ?? 0) + 1);
    this.crash(armed.how, point);
  }

  crash(how: 'kill' | 'power', where: string): void {
    const pool = this.pool;
    if (pool === null) return;
    this.trace(`CRASH ${how} at ${where}`);
    this.#lookAtDisk();
    this.crashes += 1;
    this.pool = null;
    this.poolSinceMs = null;
    pool.alive = false;
    this.time.clear();
    if (how === 'power') this.#losePower();
    else this.disk.killProcess();
    for (const link of this.links.values()) this.#dropLink(link);
    this.links.clear();
    this.#acknowledgedNow = new Set();
    for (const win of this.wins.values()) {
      if (
        win.onDiskAtMs === null &&
        this.chain.received.get(win.submission.hashDisplay) === undefined
      ) {
        win.diedBefore = true;
        win.diedOnFailingDisk ||= this.time.nowMs - this.diskHealedAtMs <= DISK_GRACE_MS;
      }
    }
  }

  /** What is there afterwards is there for good. */
  #losePower(): void {
    this.disk.losePower();
    this.synced.clear();
    this.durableNames.clear();
    for (const path of this.disk.paths()) {
      this.durableNames.add(path);
      this.synced.set(path, Buffer.from(this.disk.contentOf(path)!));
    }
  }

  /** Whether these bytes stand in a synced file of the journal. */
  #isSynced(bytes: Buffer): boolean {
    for (const [path, content] of this.synced) {
      if (path.includes('/journal') && content.includes(bytes)) return true;
    }
    return false;
  }

  /** Whether the block is on the disk so that no kill and no power loss can take it: content and name. */
  #holdsBlock(submission: Submission): boolean {
    for (const path of this.durableNames) {
      if (!path.includes(submission.hashDisplay) || !path.includes('.blk')) continue;
      const content = this.synced.get(path);
      const live = this.disk.contentOf(path);
      if (content === undefined || live === null || content.length !== live.length) continue;
      if (doubleSha(content.subarray(0, 80)).toString('hex') === submission.hashHex) return true;
    }
    return false;
  }

  /** Notes which blocks stand on the disk. */
  #lookAtDisk(): void {
    for (const win of this.wins.values()) {
      if (win.onDiskAtMs === null && this.#holdsBlock(win.submission)) {
        win.onDiskAtMs = this.time.nowMs;
      }
    }
  }

  #dropLink(link: Link): void {
    if (!link.open) return;
    link.open = false;
    link.miner.disconnected();
  }

  /** The pool closed this connection. */
  closedByPool(link: Link): void {
    if (!link.open) return;
    this.#dropLink(link);
    this.links.delete(link.id);
    this.time.activity += 1;
  }

  async start(): Promise<void> {
    if (this.pool !== null) return;
    this.incarnation += 1;
    this.trace(`start ${this.incarnation}`);
    const pool = new Pool(this, this.incarnation);
    this.pool = pool;
    const started = pool.start().then(
      () => 'up' as const,
      (error: unknown) => {
        if (pool.alive)
          this.trace(`start failed: ${error instanceof Error ? error.stack : String(error)}`);
        return 'failed' as const;
      },
    );
    let outcome: 'up' | 'failed' | null = null;
    void started.then((value) => {
      outcome = value;
      this.time.activity += 1;
    });
    for (let i = 0; i < 200 && outcome === null && pool.alive; i++) await this.time.advance(10);
    if (!pool.alive) return;
    if (outcome !== 'up') {
      // A disk fault at start: the process leaves and a supervisor tries again.
      this.crash('kill', 'start failed');
      return;
    }
    this.poolSinceMs = this.time.nowMs;
    this.newTemplate(true);
  }

  /** A fresh template on the present tip goes to the pool as the job manager would send it. */
  newTemplate(clean: boolean): void {
    if (this.frozen || this.pool === null || this.poolSinceMs === null) return;
    const jobId = (this.nextJob++).toString(16).padStart(8, '0');
    this.templateAtMs = this.time.nowMs;
    this.pool.takeTemplate(this.chain.template(this.time.nowMs), jobId, clean);
  }

  connect(miner: Miner, random: Random): void {
    const pool = this.pool;
    if (pool === null || this.poolSinceMs === null || miner.wire !== null) return;
    const link: Link = {
      id: this.#nextLink++,
      miner,
      latencyMs: 1 + random.below(30),
      open: true,
      silent: false,
      source: `10.0.${miner.id}.1`,
    };
    this.links.set(link.id, link);
    const line = pool.open(link);
    if (line === null) {
      this.links.delete(link.id);
      link.open = false;
      return;
    }
    miner.connect(
      {
        send: (text, submission) => {
          this.time.after(link.latencyMs, () => {
            if (!link.open || !pool.alive) return;
            line(text);
            if (pool.alive && submission !== null) this.delivered(submission);
          });
        },
      },
      link.id,
      this.incarnation,
      random.chance(0.7),
    );
  }

  disconnect(link: Link): void {
    if (!link.open) return;
    this.#dropLink(link);
    this.links.delete(link.id);
    this.pool?.closed(link.id);
  }

  // ---- the books ---------------------------------------------------------------------------------------------------

  /** The gateway has been handed this line whole; from here on a block in it is owed. */
  delivered(submission: Submission): void {
    if (!submission.meetsNetwork || this.wins.has(submission.hashDisplay)) return;
    const rebuildable = this.pool?.keepsJob(submission.jobId) ?? false;
    this.wins.set(submission.hashDisplay, {
      submission,
      deliveredAtMs: this.time.nowMs,
      incarnation: this.incarnation,
      acknowledged: false,
      rebuildable,
      onDiskAtMs: null,
      diedBefore: false,
      diedOnFailingDisk: false,
    });
  }

  #answered(submission: Submission, error: { code: number; text: string } | null): void {
    if (error !== null) {
      this.rejected += 1;
      if (submission.honest) this.rejectedHonest.push({ submission, ...error });
      return;
    }
    const hash = submission.hashHex;
    if (this.#acknowledgedNow.has(hash)) this.acknowledgedTwice.push(submission.hashDisplay);
    this.#acknowledgedNow.add(hash);
    const bytes = Buffer.from(hash, 'hex');
    const durable = this.stored.has(hash) || this.#isSynced(bytes);
    this.acknowledged.push({
      submission,
      atMs: this.time.nowMs,
      incarnation: this.incarnation,
      durable,
    });
    const win = this.wins.get(submission.hashDisplay);
    if (win !== undefined) {
      win.acknowledged = true;
    }
  }

  #subscribed(miner: Miner, extranonce1: string): void {
    const before = this.#everExtranonces.get(extranonce1);
    const resumed = before?.minerId === miner.id;
    if (before !== undefined && !resumed) {
      this.find(
        'P08',
        `extranonce1 ${extranonce1} of miner ${before.minerId} (process ${before.incarnation}) given to ` +
          `miner ${miner.id} (process ${this.incarnation})`,
      );
    }
    if (resumed && before.incarnation !== this.incarnation) {
      this.find('P08', `extranonce1 ${extranonce1} given again by a later process`);
    }
    this.#everExtranonces.set(extranonce1, { minerId: miner.id, incarnation: this.incarnation });
  }

  /** A row arrived in the database; `isNew` is what its unique key said. */
  rowStored(row: StoredShare): boolean {
    if (this.stored.has(row.hashHex)) {
      if (!this.breaks.has('no-unique-key')) return false;
      this.storedTwice.push(row.hashHex);
      return true;
    }
    this.stored.set(row.hashHex, row);
    return true;
  }

  books(atRest: boolean): Books {
    const nowMs = this.time.nowMs;
    let deliverableSinceMs: number | null = null;
    if (this.poolSinceMs !== null && this.diskHealedAtMs <= this.time.nowMs) {
      for (const node of this.nodes) {
        if (node.mode !== 'up') continue;
        const since = Math.max(this.poolSinceMs, node.upSinceMs);
        deliverableSinceMs = Math.min(deliverableSinceMs ?? since, since);
      }
    }
    const live = new Map<number, string>();
    for (const link of this.links.values()) {
      const extranonce1 = link.miner.extranonce1;
      if (link.open && extranonce1 !== null) live.set(link.id, extranonce1.toString('hex'));
    }
    return {
      nowMs,
      acknowledged: this.acknowledged,
      acknowledgedTwice: this.acknowledgedTwice,
      stored: this.stored,
      storedTwice: this.storedTwice,
      wins: this.wins,
      receivedByNode: (hashDisplay) => this.chain.received.get(hashDisplay)?.atMs ?? null,
      blockFaults: this.chain.faults,
      deliverableSinceMs,
      liveExtranonces: live,
      findings: this.findings,
      rejectedHonest: this.rejectedHonest,
      atRest,
      workSums: () => this.tables.workSums(),
    };
  }

  check(atRest: boolean): { promise: string; text: string } | null {
    this.#lookAtDisk();
    for (const { open, silent, miner } of this.links.values()) {
      const sinceMs = miner.subscribedAtMs;
      if (!open || silent || sinceMs === null || this.pool?.hasFreshWork() !== true) continue;
      if (this.time.nowMs - Math.max(sinceMs, this.templateAtMs) > 50) {
        this.find(
          'P13',
          `miner ${miner.id} subscribed ${this.time.nowMs - sinceMs} ms ago and has no job`,
        );
      }
    }
    const books = this.books(atRest);
    for (const promise of PROMISES) {
      const text = promise.check(books);
      if (text !== null) return { promise: promise.id, text };
    }
    return null;
  }

  // ---- steps -------------------------------------------------------------------------------------------------------

  async take(step: Step): Promise<void> {
    const random = randomOf(step);
    // A supervisor starts the pool again, and miners dial again, without being told.
    if (this.pool === null && random.chance(0.3)) {
      // Without a database it does not start: mostly that is mended first.
      if (random.chance(0.7)) this.database = 'up';
      await this.start();
    }
    for (const miner of this.miners) {
      if (miner.wire === null && random.chance(0.3)) this.connect(miner, random);
    }
    switch (step.kind) {
      case 'mine': {
        const count = 1 + random.below(4);
        for (let i = 0; i < count; i++) this.#mine(random.pick(this.miners), random, 'share');
        break;
      }
      case 'burst': {
        // One machine much too fast for its difficulty: vardiff has to act while shares are in flight.
        const miner = random.pick(this.miners);
        for (let i = 0; i < 25; i++) {
          this.#mine(miner, random, 'share');
          if (i % 5 === 4) await this.time.advance(50);
        }
        break;
      }
      case 'block':
        this.#mine(random.pick(this.miners), random, 'block');
        break;
      case 'advance':
        await this.time.advance(1 + random.below(400));
        break;
      case 'wait':
        await this.time.advance(5_000 + random.below(120_000));
        break;
      case 'tip':
        this.chain.foreignBlock();
        this.newTemplate(true);
        break;
      case 'refresh':
        this.newTemplate(false);
        break;
      case 'rivalTip':
        this.chain.replaceTip();
        this.newTemplate(true);
        break;
      case 'connect':
        for (const miner of this.miners) if (random.chance(0.7)) this.connect(miner, random);
        break;
      case 'disconnect': {
        const link = this.#anyLink(random);
        if (link !== null) this.disconnect(link);
        break;
      }
      case 'silence': {
        const link = this.#anyLink(random);
        if (link !== null) link.silent = true;
        break;
      }
      case 'crash':
        this.crash('kill', 'any moment');
        break;
      case 'powerLoss':
        this.crash('power', 'any moment');
        break;
      case 'armCrash':
        this.#armed = {
          point: random.pick(CRASH_POINTS),
          countdown: step.at === undefined ? 1 + random.below(3) : 1,
          how: random.chance(0.5) ? 'kill' : 'power',
          ...step.at,
        };
        break;
      case 'restart':
        if (this.pool === null) await this.start();
        for (const miner of this.miners) if (random.chance(0.9)) this.connect(miner, random);
        break;
      case 'nodeMode':
        random.pick(this.nodes).setMode(random.pick(NODE_MODES));
        break;
      case 'nodesUp':
        for (const node of this.nodes) node.setMode('up');
        break;
      case 'bus':
        this.busFault = random.pick(['none', 'none', 'lose', 'repeat', 'fail-after'] as const);
        break;
      case 'database':
        this.database = random.pick(['up', 'down', 'down', 'commit-unknown'] as const);
        break;
      case 'disk':
        this.diskHealedAtMs = Number.POSITIVE_INFINITY;
        this.disk.fail({
          operation: random.pick([
            'write',
            'datasync',
            'create',
            'rename',
            'syncDirectory',
          ] as const),
          kind: random.pick(['ENOSPC', 'EIO', 'short'] as const),
          times: 1 + random.below(5),
        });
        break;
      case 'diskHeal':
        this.#healDisk();
        break;
      case 'freeze':
        this.frozen = true;
        // Past the 600 s after which no work may be handed out, or nearly.
        await this.time.advance(random.pick([30_000, 130_000, 590_000, 640_000]));
        for (const miner of this.miners) {
          if (miner.wire === null && random.chance(0.5)) this.connect(miner, random);
        }
        await this.time.advance(2_000);
        if (random.chance(0.9)) {
          this.frozen = false;
          this.newTemplate(false);
        }
        break;
    }
    await this.time.advance(1 + random.below(20));
  }

  #healDisk(): void {
    this.disk.heal();
    this.diskHealedAtMs = Math.min(this.diskHealedAtMs, this.time.nowMs);
  }

  #anyLink(random: Random): Link | null {
    const open = [...this.links.values()].filter((link) => link.open);
    return open.length === 0 ? null : random.pick(open);
  }

  #mine(miner: Miner, random: Random, want: 'share' | 'block'): void {
    if (miner.wire === null || miner.newest === null || !miner.authorized) return;
    const nowMs = this.time.nowMs;
    const jobs = [...miner.jobs.values()];
    let told = miner.newest;
    if (miner.kind === 'late' && jobs.length > 1)
      told = jobs[Math.max(0, jobs.length - 2 - random.below(3))]!;
    if (miner.kind === 'thief' && random.chance(0.5)) {
      const other = random.pick(this.miners);
      const heard = other.sent.length > 0 && other !== miner ? random.pick(other.sent) : null;
      const stolen = heard === null ? null : miner.reread(heard, nowMs);
      if (stolen !== null) miner.submit(stolen, nowMs);
      return;
    }
    if (miner.kind === 'repeating' && random.chance(0.4)) {
      const pool = [...miner.sent, ...miner.unanswered];
      const old = pool.length > 0 ? random.pick(pool) : null;
      const again = old === null ? null : miner.reread(old, nowMs);
      if (again !== null) {
        const spelled = respell(again.params, random);
        miner.submit({ ...again, params: spelled }, nowMs);
      }
      return;
    }
    const kind = miner.kind === 'liar' && want === 'share' && random.chance(0.6) ? 'low' : want;
    const found = miner.grind(random, told, kind, nowMs);
    if (found === null) return;
    if (miner.kind === 'deep') {
      const connection = miner.connection;
      this.time.after(random.below(4000), () => {
        if (miner.connection === connection && miner.wire !== null)
          miner.submit(found, this.time.nowMs);
      });
    } else miner.submit(found, nowMs);
  }

  /** Everything works again; time passes until the pool has had every chance to do what it owes. */
  async comeToRest(): Promise<void> {
    this.#armed = null;
    this.busFault = 'none';
    this.database = 'up';
    this.frozen = false;
    this.#healDisk();
    for (const node of this.nodes) node.setMode('up');
    for (let i = 0; i < 3 && this.pool === null; i++) await this.start();
    await this.time.advance(8_000);
    for (let i = 0; i < 60 && this.pool !== null && this.pool.lagBytes() > 0; i++) {
      await this.time.advance(1_000);
    }
  }
}

/** Runs the steps and answers what broke, if anything did. */
export async function runWorld(options: WorldOptions): Promise<RunResult> {
  const world = new World(options);
  world.time.install();
  const mend = breakClasses(world.breaks);
  // What ends a real process ends this one: it is a crash, and a finding when the pool was alive.
  const onUnhandled = (reason: unknown): void => {
    world.time.activity += 1;
    if (world.pool === null) return;
    world.find(
      'crash',
      `nobody caught: ${reason instanceof Error ? reason.stack : String(reason)}`,
    );
  };
  process.on('unhandledRejection', onUnhandled);
  let failure: RunResult['failure'] = null;
  const note = (step: number, atRest: boolean): boolean => {
    if (failure === null) {
      const broken = world.check(atRest);
      if (broken !== null) failure = { ...broken, step };
    }
    return failure !== null;
  };
  try {
    await world.start();
    const first = createRandom(options.seed ^ 1);
    for (const miner of world.miners) world.connect(miner, first);
    await world.time.advance(100);
    for (let index = 0; index < options.steps.length; index++) {
      const step = options.steps[index]!;
      world.trace(`step ${index} ${step.kind}`);
      await world.take(step);
      if (note(index, false)) break;
    }
    if (failure === null) {
      await world.comeToRest();
      note(options.steps.length, true);
    }
    await world.pool?.stop();
  } finally {
    if (world.pool !== null) world.pool.alive = false;
    world.time.uninstall();
    mend();
    process.off('unhandledRejection', onUnhandled);
  }
  return {
    failure,
    stats: {
      virtualMs: world.time.nowMs - START_MS,
      crashes: world.crashes,
      accepted: world.acknowledged.length,
      rejected: world.rejected,
      stored: world.stored.size,
      blocks: world.wins.size,
      blocksReceived: world.chain.received.size,
      failingDiskLosses: [...world.wins.values()].filter(
        (win) =>
          win.diedOnFailingDisk &&
          world.chain.received.get(win.submission.hashDisplay) === undefined,
      ).length,
      retargets: world.pool?.retargets ?? 0,
      crashedAt: world.crashedAt,
    },
  };
}

/**
 * The shortest list of steps (found by leaving out halves, then quarters, and so on) that still breaks the same promise.
 * `triesMax` bounds the work.
 */
export async function shrinkFailure(
  options: WorldOptions,
  promise: string,
  triesMax: number,
): Promise<readonly Step[]> {
  let steps = options.steps;
  let tries = 0;
  for (let size = Math.ceil(steps.length / 2); size >= 1; ) {
    let removed = false;
    for (let from = 0; from < steps.length && tries < triesMax; ) {
      const fewer = [...steps.slice(0, from), ...steps.slice(from + size)];
      tries += 1;
      const { failure } = await runWorld({ ...options, steps: fewer, trace: undefined });
      if (failure !== null && failure.promise === promise) {
        steps = fewer;
        removed = true;
      } else from += size;
    }
    if (tries >= triesMax) break;
    if (size === 1 && !removed) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
  }
  return steps;
}

export { makeSteps };
