/**
 * The share log over a bus with partitions: whatever road each share takes, and whoever dies on the way, the log is numbered as if all
 * shares had come one after the other in the order they were accepted in; and nothing that was published is lost.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import {
  encodeBlockCandidate,
  encodeBlockOutcome,
  encodeCheckedShare,
  encodeRejectedShare,
  encodeShare,
  encodeShareMark,
} from '../../../src/messages/codec.ts';
import { markKey, type ShareRecord } from '../../../src/messages/share.ts';
import { PARTITIONS } from '../../../src/messages/topics.ts';
import type { Bus, BusRecord, Db } from '../../../src/ports.ts';
import { type ShareLog, startShareLog } from '../../../src/services/payoutd/sharelog.ts';
import { startShareproc } from '../../../src/services/shareproc/shareproc.ts';
import { listBlockEvents, listBlocks } from '../../../src/store/blocks.ts';
import { readInbox } from '../../../src/store/inbox.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { ConnectionLostError, createLossyDb } from '../../tools/lossy-db.ts';
import { type BrokerClient, createPartitionedBroker } from '../../tools/partitioned-bus.ts';
import { createRandom } from '../../tools/random.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const NOON_MS = Date.UTC(2026, 10, 21, 12);
const clock = { nowMs: () => NOON_MS };
const forced: string[] = [];
const meter = {
  count(name: string) {
    if (name === 'share_log_forced') forced.push(name);
  },
  set() {},
};
const log = createSilentLog();
const LATER_MS = NOON_MS + 3_600_000;

function shareOf(number: number, more: Partial<ShareRecord>): ShareRecord {
  // Spread over all values, so that the order of hashes is not the order of numbers.
  const headerHash = new Uint8Array(32);
  new DataView(headerHash.buffer).setUint32(0, Math.imul(number + 1, 0x9e3779b1));
  new DataView(headerHash.buffer).setUint32(4, number);
  return {
    headerHash,
    jobId: 'gone',
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: 1,
    nonce: number,
    version: 1,
    difficulty: 2 ** -40,
    shareDifficulty: 1,
    account: `account${number % 5}`,
    worker: 'rig',
    sessionId: `s${number % 17}`,
    gateway: 'a',
    height: 100,
    acceptedAtMs: NOON_MS,
    isBlock: false,
    pool: 'main',
    networkBits: 0x207fffff,
    jobValueSats: 5_000_000_000n,
    planId: '',
    coinbaseBytes: 0,
    ...more,
  };
}

function marksOf(gateway: string, throughMs: number): BusRecord[] {
  const value = encodeShareMark({ gateway, throughMs, sequence: 1 });
  return Array.from({ length: PARTITIONS }, (_, partition) => ({
    key: markKey(gateway),
    value,
    partition,
  }));
}

const closers: (() => Promise<void>)[] = [];

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

async function numbered(db: Db): Promise<string[]> {
  const rows = await db.query<{ seq: bigint; header_hash: Uint8Array }>(
    'SELECT seq, header_hash FROM shares ORDER BY seq',
  );
  for (const [at, { seq }] of rows.entries()) assert.equal(seq, BigInt(at + 1), 'a gap');
  return rows.map(({ header_hash }) => hexOf(header_hash));
}

const quietBroker = () =>
  createPartitionedBroker({ random: () => 0, publishFails: 0, batchMax: 1 });

const recordOf = (share: ShareRecord): BusRecord => ({
  key: share.sessionId,
  value: encodeShare(share),
});

async function publishValid(bus: Bus, ...calls: (readonly BusRecord[])[]): Promise<void> {
  for (const records of calls) await bus.publish('share.valid', records);
}

/** Every share once, by the moment of acceptance and then by header hash. */
function inOrder(shares: readonly ShareRecord[]): string[] {
  const distinct = new Map(shares.map((share) => [hexOf(share.headerHash), share]));
  return [...distinct.values()]
    .sort(
      (a, b) =>
        a.acceptedAtMs - b.acceptedAtMs || (hexOf(a.headerHash) < hexOf(b.headerHash) ? -1 : 1),
    )
    .map(({ headerHash }) => hexOf(headerHash));
}

async function until(what: string, isDone: () => Promise<boolean>, limitMs = 20_000) {
  const endMs = performance.now() + limitMs;
  while (!(await isDone())) {
    if (performance.now() > endMs) throw new Error(`did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Publishes for as long as it takes, as the shipper does. */
async function publishSurely(bus: Bus, records: readonly BusRecord[]): Promise<void> {
  for (;;) {
    try {
      return await bus.publish('share.submissions', records);
    } catch {}
  }
}

for (const kind of SERVER_KINDS) {
  describe(`share log on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    before(async () => {
      server = await kind.start();
      db = await server.freshDatabase();
    });
    after(() => server.stop());
    beforeEach(() => empty(db));
    afterEach(async () => {
      for (const close of closers.splice(0).reverse()) await close();
    });

    test('any interleaving, with deaths, rebalances and redelivery, gives the log of the tape', async () => {
      const scenario = fc.record({
        seed: fc.nat(),
        gateways: fc.integer({ min: 1, max: 4 }),
        shares: fc.integer({ min: 20, max: 250 }),
        publishFails: fc.constantFrom(0, 0.05, 0.2),
        losses: fc.constantFrom(0, 0.1),
        deaths: fc.integer({ min: 0, max: 6 }),
        batchMax: fc.constantFrom(1, 7, 50),
        heldMax: fc.constantFrom(250, 10_000),
      });
      await fc.assert(
        fc.asyncProperty(scenario, (given) => roads(db, given)),
        { numRuns: 15, endOnFailure: true },
      );
    });

    test('a gateway that falls silent is waited for no longer; what it says later is stored at the end', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      let nowMs = 0;
      const monotonicMs = () => nowMs;
      const { shareLog } = await startOne(bus, db, { monotonicMs, gatewayGoneMs: 30_000 });
      const early = shareOf(1, { gateway: 'b', acceptedAtMs: NOON_MS + 1 });
      const other = shareOf(2, { gateway: 'a', acceptedAtMs: NOON_MS + 2 });
      await publishValid(bus, marksOf('a', 0), marksOf('b', NOON_MS), [recordOf(other)]);
      await publishValid(bus, marksOf('a', NOON_MS + 100));
      await until('the share came', async () => shareLog.status().held === 1);
      await until('all marks came', async () => shareLog.throughMs() === NOON_MS);
      assert.deepEqual(await numbered(db), []);
      // Only the other is heard, again and again.
      const others = [other];
      for (let second = 4; second <= 32; second += 4) {
        nowMs = second * 1_000;
        const another = shareOf(10 + second, { gateway: 'a', acceptedAtMs: NOON_MS + 2 + second });
        others.push(another);
        await publishValid(bus, marksOf('a', NOON_MS + 200), [recordOf(another)]);
        const { length } = others;
        await until('it came', async () => {
          const { held, stored } = shareLog.status();
          return held + stored === length;
        });
      }
      await until('they are stored', async () => shareLog.status().stored === others.length);
      assert.equal(shareLog.status().gateways, 1);
      await until('so much is told', async () => shareLog.throughMs() === NOON_MS + 200);
      await publishValid(bus, [recordOf(early)]);
      await until('it is stored too', async () => shareLog.status().stored === others.length + 1);
      assert.deepEqual(
        await numbered(db),
        [...others, early].map((one) => hexOf(one.headerHash)),
      );
      // A mark, and it is waited for again.
      await publishValid(bus, marksOf('b', NOON_MS + 300));
      await until('it is back', async () => shareLog.status().gateways === 2);
    });

    test('what nobody was heard for counts against no gateway: after a minute without the bus the order is kept', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      let nowMs = 0;
      const monotonicMs = () => nowMs;
      const { shareLog } = await startOne(bus, db, { monotonicMs, gatewayGoneMs: 30_000 });
      const early = shareOf(1, { gateway: 'b', acceptedAtMs: NOON_MS + 1 });
      const later = shareOf(2, { gateway: 'a', acceptedAtMs: NOON_MS + 2 });
      await publishValid(bus, marksOf('a', NOON_MS), marksOf('b', NOON_MS));
      await until('both are known', async () => shareLog.throughMs() === NOON_MS);
      // One comes back before the other.
      nowMs = 60_000;
      await publishValid(bus, marksOf('a', NOON_MS + 60), [recordOf(later)]);
      await until('the share came', async () => shareLog.status().held === 1);
      // Long enough for it to look around.
      await new Promise((resolve) => setTimeout(resolve, 2_500));
      assert.equal(shareLog.status().gateways, 2);
      await publishValid(bus, [recordOf(early)], marksOf('b', NOON_MS + 60));
      await until('both are stored', async () => shareLog.status().stored === 2);
      assert.deepEqual(
        await numbered(db),
        [early, later].map((one) => hexOf(one.headerHash)),
      );
    });

    test('after a start it waits for the same gateways as before, also for those that say nothing yet', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      const { shareLog, end } = await startOne(bus, db);
      const shares = [1, 2].map((n) => shareOf(n, { acceptedAtMs: NOON_MS + n }));
      await publishValid(bus, marksOf('a', 0), marksOf('b', 0), [recordOf(shares[0]!)]);
      await publishValid(bus, marksOf('a', NOON_MS + 1), marksOf('b', NOON_MS + 1));
      await until('the first is stored', async () => shareLog.status().stored === 1);
      await end();
      const again = broker.connect();
      const { shareLog: next } = await startOne(again, db);
      assert.equal(next.status().gateways, 2);
      await publishValid(again, [recordOf(shares[1]!)], marksOf('a', NOON_MS + 50));
      await until('the second came', async () => next.status().held === 1);
      for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
      assert.equal(next.status().held, 1);
      await publishValid(again, marksOf('b', NOON_MS + 50));
      await until('it is stored', async () => next.status().stored === 1);
    });

    test('with as many shares as it may hold it reads on only where others wait for it; nothing is lost', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      const { shareLog } = await startOne(bus, db, { heldMax: 80 });
      await publishValid(bus, marksOf('a', 0));
      await until('the gateway is known', async () => shareLog.status().gateways === 1);
      // All partitions but the first are far ahead.
      const all: ShareRecord[] = [];
      const put = async (number: number, partition: number, acceptedAtMs: number) => {
        const share = shareOf(number, { acceptedAtMs });
        all.push(share);
        await bus.publish('share.valid', [{ ...recordOf(share), partition }]);
      };
      await publishValid(bus, marksOf('a', NOON_MS - 1).slice(1));
      for (let i = 0; i < 110; i++) await put(i, 1 + (i % 11), NOON_MS + i);
      await publishValid(bus, marksOf('a', NOON_MS + 500).slice(1));
      await until('it is full', async () => shareLog.status().held >= 80);
      for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
      assert.ok(shareLog.status().held <= 80 + 11, `${shareLog.status().held} held`);
      for (let i = 0; i < 10; i++) await put(200 + i, 0, NOON_MS + 5 * i);
      await publishValid(bus, marksOf('a', NOON_MS + 500).slice(0, 1));
      await until('all are stored', async () => shareLog.status().stored === all.length);
      assert.equal((await numbered(db)).length, 120);
    });

    test('when waiting would need more room than there is, it goes on without waiting', async () => {
      const bus = quietBroker().connect();
      const { shareLog } = await startOne(bus, db, { heldMax: 10 });
      // More shares between two marks than it may hold.
      await publishValid(bus, marksOf('a', 0));
      for (let i = 0; i < 100; i++) {
        const record = recordOf(shareOf(i, { acceptedAtMs: NOON_MS + i }));
        await bus.publish('share.valid', [{ ...record, partition: i % PARTITIONS }]);
      }
      await until('some are stored', async () => shareLog.status().stored > 0);
      assert.ok(forced.splice(0).length > 0);
      await until('all are stored', async () => {
        await publishValid(bus, marksOf('a', NOON_MS + 200));
        return shareLog.status().stored === 100;
      });
      forced.splice(0);
      assert.equal((await numbered(db)).length, 100);
    });

    test('a database that forgot what it had is not written to; the next log begins where it stands', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      const { shareLog, end } = await startOne(bus, db);
      const shares = [1, 2, 3].map((n) =>
        shareOf(n, { acceptedAtMs: NOON_MS + n, sessionId: 's' }),
      );
      await publishValid(bus, marksOf('a', 0), [recordOf(shares[0]!)], marksOf('a', NOON_MS + 1));
      await until('the first is stored', async () => shareLog.status().stored === 1);
      const before = await db.query('SELECT * FROM inbox ORDER BY 1, 2');
      await publishValid(bus, [recordOf(shares[1]!)], marksOf('a', NOON_MS + 2));
      await until('the second is stored', async () => shareLog.status().stored === 2);
      // A standby that was behind takes over.
      await db.query('DELETE FROM shares WHERE seq = 2');
      await db.query('UPDATE share_sequence SET last_seq = 1');
      await db.query('TRUNCATE inbox');
      for (const row of before) {
        await db.query('INSERT INTO inbox VALUES ($1, $2, $3)', [
          row.topic,
          row.partition_number,
          row.next_offset,
        ]);
      }
      await publishValid(bus, [recordOf(shares[2]!)], marksOf('a', NOON_MS + 3));
      assert.match(await shareLog.failed, /now knows of/);
      assert.equal((await numbered(db)).length, 1);
      await end();
      const again = broker.connect();
      await startOne(again, db);
      await until('both are stored', async () => (await numbered(db)).length === 3);
      assert.deepEqual(await numbered(db), inOrder(shares));
    });

    test('blocks, their outcomes, refused shares and poison are stored with the offsets behind them', async () => {
      const broker = quietBroker();
      const bus = broker.connect();
      const { shareLog, end } = await startOne(bus, db);
      const headerHash = new Uint8Array(32).fill(7);
      const candidate = encodeBlockCandidate({
        jobId: 'j',
        headerHash,
        header: new Uint8Array(80),
        coinbase: new Uint8Array(60),
        height: 101,
        account: 'account',
        worker: 'rig',
        foundAtMs: NOON_MS,
        networkDifficulty: 1,
        rewardSats: 5_000_000_000n,
        pool: 'main',
        planId: '',
      });
      const outcome = encodeBlockOutcome({
        headerHash,
        height: 101,
        state: 'accepted',
        node: 'core',
        detail: '',
        confirmations: 1,
        atMs: NOON_MS + 5,
      });
      const poison = Uint8Array.from([255, 1]);
      for (const value of [candidate, poison, candidate]) {
        await bus.publish('block.candidates', [{ key: '', value }]);
      }
      await bus.publish('block.outcome', [{ key: '', value: outcome }]);
      const share = shareOf(1, {});
      await bus.publish('share.rejected', [
        {
          key: 's',
          value: encodeRejectedShare({
            share,
            raw: new Uint8Array(0),
            reason: 'audit-hash',
            detail: '',
            atMs: NOON_MS,
          }),
        },
      ]);
      await publishValid(bus, marksOf('a', 0), [{ key: 's', value: poison }, recordOf(share)]);
      await publishValid(bus, marksOf('a', NOON_MS));
      await until('all is stored', async () => {
        const { blocks, setAside, stored } = shareLog.status();
        return blocks === 3 && setAside === 3 && stored === 1;
      });
      assert.deepEqual(await readInbox(db, 'block.candidates'), new Map([[0, 3n]]));
      assert.deepEqual(await readInbox(db, 'block.outcome'), new Map([[0, 1n]]));
      const [block] = await listBlocks(db, { limit: 5 });
      assert.equal(block?.state, 'accepted');
      assert.equal((await listBlockEvents(db, headerHash)).length, 1);
      const letters = await db.query<{ topic: string; reason: string; raw: Uint8Array }>(
        'SELECT topic, reason, raw FROM dead_letters ORDER BY topic',
      );
      assert.deepEqual(
        letters.map(({ topic, reason, raw }) => [topic, reason, hexOf(raw)]),
        [
          ['block.candidates', 'undecodable', hexOf(poison)],
          ['share.submissions', 'audit-hash', hexOf(encodeShare(share))],
          ['share.valid', 'undecodable', hexOf(poison)],
        ],
      );
      // The group's own position is lost: the database knows better.
      await end();
      broker.forgetOffsets();
      const again = broker.connect();
      const { shareLog: next } = await startOne(again, db);
      await again.publish('block.outcome', [{ key: '', value: outcome }]);
      await until('the new one came', async () => next.status().blocks === 1);
      assert.deepEqual(await readInbox(db, 'block.outcome'), new Map([[0, 2n]]));
    });

    test('shares that were taken on the word of their gateway stay marked as such', async () => {
      const bus = quietBroker().connect();
      const { shareLog } = await startOne(bus, db);
      const records = [true, false].map((audited, n) => ({
        key: 's',
        value: encodeCheckedShare({ share: shareOf(n, {}), audited }),
      }));
      await publishValid(bus, marksOf('a', 0), records, marksOf('a', NOON_MS));
      await until('both are stored', async () => shareLog.status().stored === 2);
      const rows = await db.query('SELECT header_hash FROM shares WHERE NOT audited');
      assert.equal(rows.length, 1);
      assert.equal(shareLog.status().unaudited, 1);
    });
  });
}

/** A log without a share; blocks stay, they are append-only. */
async function empty(db: Db): Promise<void> {
  await db.query('TRUNCATE shares, inbox, share_gateways, dead_letters');
  await db.query('UPDATE share_sequence SET last_seq = 0');
}

type Given = {
  seed: number;
  gateways: number;
  shares: number;
  publishFails: number;
  losses: number;
  deaths: number;
  batchMax: number;
  heldMax: number;
};

/** Sends one tape through the bus and compares what was stored with the tape. */
async function roads(db: Db, given: Given): Promise<void> {
  await empty(db);
  const { u32 } = createRandom(given.seed);
  const random = (): number => u32() / 2 ** 32;
  const broker = createPartitionedBroker({ random, ...given });
  const lossy = createLossyDb(db, {
    lose: (what) => {
      if (what !== 'transaction' || random() >= given.losses) return null;
      return (['before', 'middle', 'after'] as const)[Math.floor(random() * 3)] ?? null;
    },
  });
  const dbOf = (which: number): Db => (which === 0 ? db : lossy);
  const names = Array.from({ length: given.gateways }, (_, i) => `gateway${i}`);
  const producer = broker.connect();
  const procs: BrokerClient[] = [];
  const logs: RunningLog[] = [];
  try {
    for (const name of names) await publishSurely(producer, marksOf(name, 0));
    for (const which of [0, 1]) {
      procs.push(await startProc(broker.connect()));
      logs.push(await startLog(broker.connect(), dbOf(which), given.heldMax));
    }
    // Each has to know whom it waits for, as it would of gateways that run.
    await until('all gateways are known', async () =>
      logs.every(({ log: one }) => one.status().gateways === names.length),
    );

    const tape: ShareRecord[] = [];
    const producing = names.map(async (gateway, which) => {
      let acceptedAtMs = NOON_MS;
      for (let i = 0; i < given.shares / given.gateways; i++) {
        acceptedAtMs += Math.floor(random() * 3);
        const share = shareOf(which * 1_000 + i, { gateway, acceptedAtMs });
        tape.push(share);
        const record = { key: share.sessionId, value: encodeShare(share) };
        await publishSurely(producer, random() < 0.1 ? [record, record] : [record]);
        // Another share of this millisecond may follow.
        if (random() < 0.2) await publishSurely(producer, marksOf(gateway, acceptedAtMs - 1));
      }
    });
    const dying = (async () => {
      for (let i = 0; i < given.deaths; i++) {
        await new Promise((resolve) => setTimeout(resolve, random() * 30));
        const at = random() < 0.5 ? 0 : 1;
        const what = random();
        if (what < 0.3) broker.rebalance();
        else if (what < 0.4) broker.forgetOffsets();
        else if (what < 0.7) {
          procs[at]?.kill();
          procs[at] = await startProc(broker.connect());
        } else {
          await logs[at]?.kill();
          logs[at] = await startLog(broker.connect(), dbOf(at), given.heldMax);
        }
      }
    })();
    await Promise.all([...producing, dying]);
    const expected = inOrder(tape);
    await until('everything is stored', async () => {
      // Gateways that live go on marking.
      for (const name of names) await publishSurely(producer, marksOf(name, LATER_MS));
      const [row] = await db.query<{ n: bigint }>('SELECT count(*) AS n FROM shares');
      return row?.n === BigInt(expected.length);
    });
    for (const one of logs) await one.kill();
    assert.deepEqual(forced, []);
    assert.deepEqual(await numbered(db), expected);
    assert.ok((await readInbox(db, 'share.valid')).size > 0);
    for (const { log: one } of logs) assert.equal(one.status().setAside, 0);
  } finally {
    for (const one of logs) await one.kill();
    for (const client of [...procs, producer]) client.kill();
  }
}

async function startProc(bus: BrokerClient): Promise<BrokerClient> {
  await startShareproc(
    { bus, log, clock, hash: foldInTypescript },
    {
      network: 'regtest',
      coinbaseTag: '',
      pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
    },
  );
  return bus;
}

/** Ends by itself with its test. */
async function startOne(
  bus: BrokerClient,
  db: Db,
  own: { monotonicMs?: () => number; heldMax?: number; gatewayGoneMs?: number } = {},
): Promise<{ shareLog: ShareLog; end: () => Promise<void> }> {
  const { monotonicMs = () => performance.now(), ...options } = own;
  const tools = { bus, db, log, clock, meter, monotonicMs };
  const shareLog = await startShareLog(tools, { group: 'log', ...options });
  const end = async (): Promise<void> => {
    bus.kill();
    await shareLog.stop();
  };
  closers.push(end);
  return { shareLog, end };
}

type RunningLog = { log: ShareLog; kill(): Promise<void> };

async function startLog(bus: BrokerClient, db: Db, heldMax: number): Promise<RunningLog> {
  for (;;) {
    try {
      const group = `log ${Math.random()}`;
      const shareLog = await startShareLog({ bus, db, log, clock, meter }, { group, heldMax });
      return {
        log: shareLog,
        async kill() {
          bus.kill();
          await shareLog.stop();
        },
      };
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) throw error;
    }
  }
}
