/**
 * One tape, two ways: through the single process (one gateway, one journal, the bus in memory), and through the stack (two gateways with
 * journals of their own, Kafka, two shareprocs of which one is killed in the middle and another started, two share logs, two payoutds).
 * Every verdict is the same, every share has the same number, and the books are the same to the satoshi.
 *
 * TAPE_SHARES: how many submissions, 5,000 unless told otherwise. TEST_SEED: another tape.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { createKafkaBus } from '../../src/adapters/bus/kafka.ts';
import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { createMemoryCache } from '../../src/adapters/cache/memory.ts';
import { createDisk } from '../../src/adapters/disk.ts';
import { type Journal, openJournal, openJournalReader } from '../../src/adapters/journal.ts';
import { decodeAddress } from '../../src/core/bitcoin/address.ts';
import type { PoolRules } from '../../src/core/ledger/rules.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import type { Job } from '../../src/core/work/job.ts';
import {
  decodeShare,
  decodeSolvedBlock,
  encodeBlockCandidate,
  encodeJob,
  encodeTemplateBody,
} from '../../src/messages/codec.ts';
import { createMeter } from '../../src/meter.ts';
import type { Bus, Cache, Db } from '../../src/ports.ts';
import { type Payoutd, startPayoutd } from '../../src/services/payoutd/payoutd.ts';
import { type ShareLog, startShareLog } from '../../src/services/payoutd/sharelog.ts';
import { startShareproc } from '../../src/services/shareproc/shareproc.ts';
import { type Shipper, startShipper } from '../../src/services/shareproc/shipper.ts';
import { listBlocks } from '../../src/store/blocks.ts';
import { auditLedger, listBalances } from '../../src/store/ledger.ts';
import { listRounds, readRound } from '../../src/store/rounds.ts';
import { POOL } from '../services/stratumd/gateway-rig.ts';
import { kafkaMissing, startTestBroker, type TestBroker } from '../tools/broker.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { createPlayer, type Player, recordTape, type Tape } from '../tools/tape.ts';

const SHARES = Number(process.env.TAPE_SHARES ?? 5_000);
const SEED = Number(process.env.TEST_SEED ?? 20_261_121);
/** So many events between two pauses, in which what was played goes its way. */
const STRIDE = 50;
const LIMIT_MS = 40_000 + SHARES * 2;
const missing = kafkaMissing();
const log = createSilentLog();

const pool: PoolRules = {
  id: 'main',
  scheme: 'pplns',
  window: { kind: 'work', factorPpm: 2_000_000n },
  feePpm: 10_000,
  feeAddress: null,
  developerFeePpm: 2_500,
  developerAddress: 'bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry',
  address: POOL,
  ruinPpmMax: 10_000,
  onRuin: 'refuse',
};

const poolScript = decodeAddress(POOL, 'regtest');
assert.ok(poolScript.ok);
const audit = {
  network: 'regtest' as const,
  coinbaseTag: '/test/',
  pools: [
    { id: 'main', coinbase: { mode: 'pool' as const, script: poolScript.script, address: POOL } },
  ],
  buildsBlocks: true,
};

/** What a world is judged by. */
type Outcome = {
  /** Of the gateways, line by line. */
  verdicts: string[];
  /** Reason and share, of those that the audit refused. */
  refused: string[];
  /** Rows of the share log by their numbers. */
  shares: string[];
  blocks: string[];
  rounds: string[];
  balances: string[];
  /** Whole blocks that were put together. */
  solved: string[];
  unaudited: number;
};

const closers: (() => unknown)[] = [];
async function close(): Promise<void> {
  for (const one of closers.splice(0).reverse()) await one();
}
after(close);

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function untilTrue(what: string, ask: () => Promise<unknown> | unknown): Promise<void> {
  const endMs = performance.now() + LIMIT_MS;
  while (!(await ask())) {
    if (performance.now() > endMs) {
      const words = log.lines.filter(({ level }) => level !== 'debug' && level !== 'info');
      throw new Error(`did not happen: ${what}\n${JSON.stringify(words.slice(-10))}`);
    }
    await pause(20);
  }
}

/** A gateway's journal and what carries it to the bus. */
async function openRoad(
  directory: string,
  bus: Bus,
  clock: Player,
  gateway: string | null,
): Promise<{ journal: Journal; shipper: Shipper; settled(): boolean }> {
  const disk = createDisk();
  const journal = await openJournal({ disk, directory, log, clock, segmentBytesMax: 100_000 });
  let committed = 0;
  let appended = 0;
  journal.onCommitted = (ticket) => {
    committed = ticket;
  };
  const { append } = journal;
  journal.append = (record) => {
    const ticket = append.call(journal, record);
    assert.ok(ticket > 0);
    appended = ticket;
    return ticket;
  };
  const source = await openJournalReader({
    disk,
    directory,
    log,
    committed: journal.committedPosition,
    recordsMax: 100,
  });
  let settledMs = 0;
  const settled = () => committed === appended;
  const shipper = startShipper({
    source,
    bus,
    log,
    ...(gateway === null
      ? {}
      : {
          marks: {
            gateway,
            settledThroughMs() {
              if (settled()) settledMs = clock.nowMs() - 1;
              return settledMs;
            },
          },
        }),
  });
  closers.push(async () => {
    await shipper.stop(100);
    await source.stop();
    await journal.stop();
  });
  return { journal, shipper, settled };
}

/** Plays the whole tape; `halfway` is called in its middle. */
async function playAll(
  tape: Tape,
  player: Player,
  world: {
    bus: Bus;
    roads: readonly { journal: Journal }[];
    onJob(job: Job): Promise<void>;
    halfway(): Promise<void>;
  },
): Promise<string[]> {
  const verdicts: string[] = [];
  for (const [at, event] of tape.events.entries()) {
    const { verdict, records, candidate } = player.play(event);
    if (verdict !== null) verdicts.push(verdict);
    for (const { gateway, record } of records) world.roads[gateway]!.journal.append(record);
    if (event.kind === 'job') await world.onJob(event.job);
    if (candidate !== null) {
      const key = Buffer.from(candidate.headerHash).toString('hex');
      await world.bus.publish('block.candidates', [
        { key, value: encodeBlockCandidate(candidate) },
      ]);
    }
    if (at === tape.events.length >> 1) await world.halfway();
    if (at % STRIDE === 0) await pause(1);
  }
  return verdicts;
}

async function publishJob(bus: Bus, job: Job): Promise<void> {
  const template = encodeTemplateBody({
    jobId: job.jobId,
    height: job.height,
    previousHash: job.previousHash,
    transactionCount: 0,
    body: new Uint8Array(0),
    witness: false,
  });
  await bus.publish('mining.templates', [{ key: 'job', value: template }]);
  await bus.publish('mining.jobs', [{ key: 'job', value: encodeJob(job) }]);
}

function payoutd(
  tools: { db: Db; bus: Bus; player: Player; isShipperIdle: () => boolean },
  takeLock: () => Promise<{ lost: Promise<void>; release(): Promise<void> } | null>,
): Promise<Payoutd> {
  const { db, bus, player, isShipperIdle } = tools;
  return startPayoutd(
    {
      clock: player,
      log,
      db,
      bus,
      meter: createMeter(),
      fault: () => {},
      openRpc: (address) => player.node.openDoor(address.name),
      isShipperIdle,
      takeLock,
    },
    {
      network: 'regtest',
      nodes: [{ name: 'node', url: 'http://127.0.0.1:1/' }],
      pools: [pool],
      policy: null,
      cycleMs: 50,
    },
  );
}

/** Hash by hash what was put together of candidates. */
async function collectSolved(bus: Bus): Promise<Map<string, string>> {
  const solved = new Map<string, string>();
  await bus.subscribe('block.solved', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeSolvedBlock(value);
      assert.ok(decoded.ok);
      const { headerHash, block } = decoded.value;
      solved.set(hexOf(headerHash), hexOf(block));
    }
  });
  return solved;
}

/** Whole blocks come a tenth of a second behind the rest. */
async function untilQuiet(solved: ReadonlyMap<string, string>): Promise<void> {
  for (let count = -1; count !== solved.size; ) {
    count = solved.size;
    await pause(2_000);
  }
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const plain = (value: unknown): string =>
  JSON.stringify(value, (_, inner) =>
    typeof inner === 'bigint' ? `${inner}` : inner instanceof Uint8Array ? hexOf(inner) : inner,
  );

/** How many shares have to be stored in the end: every one that a gateway acknowledged, once. */
function expectedOf(tape: Tape): { stored: number; refused: number } {
  const player = createPlayer(1);
  const good = new Set<string>();
  let refused = 0;
  for (const event of tape.events) {
    const { records } = player.play(event);
    for (const { record } of records) {
      const decoded = decodeShare(record);
      if (event.kind === 'line' || (event.kind === 'damage' && event.damage === 'again')) {
        assert.ok(decoded.ok);
        good.add(hexOf(decoded.value.headerHash));
      } else refused += 1;
    }
  }
  return { stored: good.size, refused };
}

/** After the last share: time passes, the chain goes on until everything is final. */
async function conclude(db: Db, player: Player, tape: Tape, from: ReturnType<typeof expectedOf>) {
  const count = async (table: string) =>
    Number((await db.query<{ n: bigint }>(`SELECT count(*) AS n FROM ${table}`))[0]!.n);
  // The shares of the last moment are certain when it is over.
  const end = { atMs: tape.events.at(-1)!.atMs + 600_000, kind: 'damage' as const, session: -1 };
  player.play({ ...end, damage: 'again' });
  await untilTrue('every share is stored', async () => (await count('shares')) >= from.stored);
  await untilTrue('refusals are stored', async () => (await count('dead_letters')) >= from.refused);
  for (let i = 0; i < 110; i++) player.node.submit(player.node.makeBlock({ outputs: [] }));
  const blocks = tape.events.filter((event) => event.kind === 'block' && !event.isSecond).length;
  await untilTrue('every block of the chain is mature', async () => {
    const [row] = await db.query<{ n: bigint }>(
      "SELECT count(*) AS n FROM rounds WHERE state = 'mature'",
    );
    return Number(row!.n) >= blocks;
  });
}

async function outcomeOf(
  db: Db,
  verdicts: string[],
  solved: ReadonlyMap<string, string>,
): Promise<Outcome> {
  const ledger = await auditLedger(db);
  assert.ok(ledger.ok, ledger.ok ? '' : ledger.findings.join('\n'));
  const letters = await db.query<{ topic: string; reason: string; raw: Uint8Array }>(
    'SELECT topic, reason, raw FROM dead_letters',
  );
  const shares = await db.query(
    `SELECT seq, accepted_at, address, workers.name, s.difficulty, s.share_difficulty, s.work, s.height, is_block, header_hash,
       job_id, s.pool, bits, job_value_sats
     FROM shares s JOIN accounts USING (account_id) JOIN workers USING (worker_id) ORDER BY seq`,
  );
  const [unaudited] = await db.query<{ n: bigint }>(
    'SELECT count(*) AS n FROM shares WHERE NOT audited',
  );
  const rounds: string[] = [];
  for (const { roundId } of await listRounds(db, { limit: 1_000 })) {
    const {
      roundId: _,
      creditTx,
      matureTx,
      reverseTx,
      foundAtMs,
      creditedAtMs,
      ...round
    } = (await readRound(db, roundId)) as NonNullable<Awaited<ReturnType<typeof readRound>>>;
    // Who was first known by which number is nobody's business.
    const credits = round.credits.map(({ accountId, ...credit }) => plain(credit)).sort();
    rounds.push(plain({ ...round, credits }));
  }
  return {
    verdicts,
    refused: letters
      .map(({ topic, reason, raw }) => {
        const decoded = decodeShare(raw);
        const what = decoded.ok
          ? { ...decoded.value, gateway: '', sessionId: '' }
          : raw.subarray(0, 8);
        return `${topic} ${reason} ${plain(what)}`;
      })
      .sort(),
    shares: shares.map(plain),
    blocks: (await listBlocks(db, { limit: 1_000 }))
      .map(({ stateAtMs: _, ...block }) => plain(block))
      .sort(),
    rounds: rounds.sort(),
    balances: (await listBalances(db, { limit: 10_000 }))
      .map(({ kind, pool: of, address, balanceSats }) => `${kind} ${of} ${address} ${balanceSats}`)
      .sort(),
    solved: [...solved].map(([hash, block]) => `${hash} ${block}`).sort(),
    unaudited: Number(unaudited!.n),
  };
}

async function playSingle(tape: Tape, db: Db, directory: string): Promise<Outcome> {
  const player = createPlayer(1);
  const bus = createMemoryBus({ log });
  const shareLog = await startShareLog({ bus, db, log, clock: player, meter: createMeter() });
  const shareproc = await startShareproc(
    { bus, log, clock: player, hash: foldInTypescript },
    audit,
  );
  const solved = await collectSolved(bus);
  const road = await openRoad(join(directory, 'single'), bus, player, null);
  const isShipperIdle = () => road.settled() && road.shipper.status().lagBytes === 0;
  const money = await payoutd({ db, bus, player, isShipperIdle }, async () => ({
    lost: new Promise(() => {}),
    release: async () => {},
  }));
  closers.push(
    () => shareLog.stop(),
    () => shareproc.stop(),
    () => money.stop(),
  );
  const verdicts = await playAll(tape, player, {
    bus,
    roads: [road],
    onJob: (job) => publishJob(bus, job),
    halfway: async () => {},
  });
  await conclude(db, player, tape, expectedOf(tape));
  await untilQuiet(solved);
  const outcome = await outcomeOf(db, verdicts, solved);
  await close();
  return outcome;
}

async function playStack(
  tape: Tape,
  server: TestServer,
  directory: string,
  broker: TestBroker,
): Promise<Outcome & { rebalanced: { before: number; after: number } }> {
  const db = await server.freshDatabase();
  const player = createPlayer(2);
  const cache: Cache = createMemoryCache({ clock: { nowMs: () => 0 } });
  const connect = (clientId: string) =>
    createKafkaBus({
      log,
      brokers: broker.brokers,
      groupPrefix: 'tape',
      clientId,
      sessionMs: 3_000,
      heartbeatMs: 500,
    });
  const node = connect('jobs');
  closers.push(() => node.stop());
  await node.ready;
  const shareLogs: ShareLog[] = [];
  const moneys: Payoutd[] = [];
  let locked = false;
  for (let at = 0; at < 2; at++) {
    const own = at === 0 ? db : await server.reconnect();
    const bus = connect(`payoutd-${at}`);
    const shareLog = await startShareLog(
      { bus, db: own, log, clock: player, meter: createMeter() },
      { group: `sharelog-${at}` },
    );
    shareLogs.push(shareLog);
    const isShipperIdle = () => (shareLog.throughMs() ?? 0) >= player.nowMs() - 30_000;
    moneys.push(
      await payoutd({ db: own, bus, player, isShipperIdle }, async () => {
        if (locked) return null;
        locked = true;
        return {
          lost: new Promise(() => {}),
          release: async () => {
            locked = false;
          },
        };
      }),
    );
    closers.push(
      () => bus.stop(),
      () => shareLog.stop(),
      () => moneys[at]!.stop(),
    );
  }
  const startOne = async (name: string) => {
    const bus = connect(name);
    const shareproc = await startShareproc(
      { bus, log, clock: player, hash: foldInTypescript, cache },
      audit,
    );
    const end = async () => {
      await bus.stop();
      await shareproc.stop();
    };
    closers.push(end);
    return { shareproc, end };
  };
  const first = await startOne('shareproc-1');
  const second = await startOne('shareproc-2');
  let third: typeof first | null = null;
  const solved = await collectSolved(node);
  const roads = [];
  for (let at = 0; at < 2; at++) {
    const name = `stratumd-${at}`;
    const bus = connect(name);
    closers.push(() => bus.stop());
    roads.push(await openRoad(join(directory, name), bus, player, name));
  }
  const verdicts = await playAll(tape, player, {
    bus: node,
    roads,
    async onJob(job) {
      await cache.set(`job:${job.jobId}`, encodeJob(job), 3_600_000);
      await publishJob(node, job);
    },
    async halfway() {
      // With work in its hands, and more behind it.
      await untilTrue('both work', () =>
        [first, second].every(({ shareproc }) => shareproc.status().valid > 0),
      );
      void first.end();
      third = await startOne('shareproc-3');
    },
  });
  await conclude(db, player, tape, expectedOf(tape));
  await untilQuiet(solved);
  const outcome = await outcomeOf(db, verdicts, solved);
  const before = first.shareproc.status().valid;
  const rebalanced = { before, after: third!.shareproc.status().valid };
  await close();
  return { ...outcome, rebalanced };
}

/** The first difference is told, not thousands of lines. */
function assertSame(what: string, stack: Outcome[keyof Outcome], single: Outcome[keyof Outcome]) {
  if (typeof stack === 'number' || typeof single === 'number') {
    assert.equal(stack, single, what);
    return;
  }
  const at = single.findIndex((line, index) => line !== stack[index]);
  if (at >= 0) assert.equal(stack[at], single[at], `${what}, line ${at}`);
  assert.equal(stack.length, single.length, what);
}

if (missing !== null) {
  test(`a tape through Kafka: NOT FOUND, ${missing}`, () => {});
} else {
  for (const kind of SERVER_KINDS) {
    test(`the same tape through one process and through the stack gives the same books, on ${kind.name}`, async (t) => {
      const directory = mkdtempSync(join(tmpdir(), 'headframe-tape-'));
      const [server, broker] = await Promise.all([kind.start(), startTestBroker()]);
      try {
        const tape = recordTape(SEED, SHARES);
        const single = await playSingle(tape, await server.freshDatabase(), directory);
        const { rebalanced, ...stack } = await playStack(tape, server, directory, broker);
        for (const what of Object.keys(single) as (keyof Outcome)[]) {
          assertSame(`${what}, seed ${SEED}`, stack[what], single[what]);
        }
        // And it was worth playing.
        const kinds = new Set(single.verdicts);
        for (const one of ['true', '21 ', '22 ', '23 ', '24 ']) {
          assert.ok(
            [...kinds].some((verdict) => verdict.startsWith(one)),
            `no ${one}`,
          );
        }
        for (const one of ['hash', 'difficulty', 'job', 'height', 'pool']) {
          assert.ok(
            single.refused.some((letter) => letter.includes(`audit-${one}`)),
            `no ${one}`,
          );
        }
        assert.equal(single.unaudited, 0);
        assert.ok(single.rounds.length > 0);
        assert.ok(rebalanced.before > 0 && rebalanced.after > 0, plain(rebalanced));
        t.diagnostic(
          `seed ${SEED}: ${single.verdicts.length} lines, ${single.shares.length} shares, ${single.refused.length} refused by the audit, ${single.blocks.length} blocks, ${single.rounds.length} rounds; the third shareproc had ${rebalanced.after}`,
        );
      } finally {
        await close();
        await server.stop();
        await broker.stop();
        rmSync(directory, { recursive: true, force: true });
      }
    });
  }
}
