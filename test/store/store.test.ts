import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { workOfDifficulty } from '../../src/core/bitcoin/target.ts';
import type { BlockCandidate, BlockOutcome } from '../../src/messages/block.ts';
import type { ShareRecord } from '../../src/messages/share.ts';
import type { Db } from '../../src/ports.ts';
import {
  listBlockEvents,
  listBlocks,
  recordCandidate,
  recordOutcome,
} from '../../src/store/blocks.ts';
import { recordDeadLetters, trimDeadLetters } from '../../src/store/dead-letters.ts';
import { migrate, SchemaTooNewError } from '../../src/store/migrate.ts';
import { dropOldShares, makeSharePartitions, recordShares } from '../../src/store/shares.ts';
import { listWorkers, poolTotals, workBetween } from '../../src/store/status.ts';
import { rollShares } from '../../src/store/windows.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import { setSpanSizes } from '../tools/share-tape.ts';
import { createSilentLog } from '../tools/silent-log.ts';

const DAY_MS = 86_400_000;
const NOON_MS = Date.UTC(2026, 10, 21, 12);

function hashOf(number: number): Uint8Array {
  const hash = new Uint8Array(32).fill(0xa5);
  new DataView(hash.buffer).setUint32(0, number);
  return hash;
}

function share(number: number, more: Partial<ShareRecord> = {}): ShareRecord {
  return {
    headerHash: hashOf(number),
    jobId: '1a',
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: 1,
    nonce: number,
    version: 0x20000000,
    difficulty: 2,
    shareDifficulty: 2 + number,
    account: `address${number % 3}`,
    worker: `rig${number % 2}`,
    sessionId: 's',
    gateway: 'g',
    height: 100,
    acceptedAtMs: NOON_MS + number,
    isBlock: false,
    pool: 'main',
    networkBits: 0x1d00ffff,
    jobValueSats: 312_500_000n,
    planId: '',
    coinbaseBytes: 0,
    ...more,
  };
}

const checked = (...shares: ShareRecord[]) => shares.map((one) => ({ share: one, audited: true }));

async function sequence(db: Db): Promise<bigint[]> {
  const rows = await db.query<{ seq: bigint }>('SELECT seq FROM shares ORDER BY seq');
  return rows.map((row) => row.seq);
}

const upTo = (count: number): bigint[] => Array.from({ length: count }, (_, i) => BigInt(i + 1));

for (const kind of SERVER_KINDS) {
  describe(`store on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('two starters migrate at once; a newer schema is refused; a broken step leaves nothing', async () => {
      const log = createSilentLog();
      const db = await server.freshDatabase({ empty: true });
      const other = await server.reconnect();
      const steps = readMigrations();
      await Promise.all([migrate({ db, log }, steps), migrate({ db: other, log }, steps)]);
      const versions = await db.query('SELECT version FROM schema_version');
      assert.equal(versions.length, steps.length);
      const next = steps.length + 1;
      const broken = { version: next, name: 'x', sql: 'CREATE TABLE half (); SELECT 1/0' };
      await assert.rejects(migrate({ db, log }, [...steps, broken]), { code: '22012' });
      const [row] = await db.query<{ half: unknown }>("SELECT to_regclass('half') AS half");
      assert.equal(row?.half, null);
      await db.query("INSERT INTO schema_version (version, name) VALUES (999, 'future')");
      await assert.rejects(migrate({ db, log }, steps), SchemaTooNewError);
    });

    test('a share stored under the old key of a day is known under the new one', async () => {
      const log = createSilentLog();
      const db = await server.freshDatabase({ empty: true });
      const steps = readMigrations();
      await migrate({ db, log }, steps.slice(0, 9));
      await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 1 });
      await db.query(
        `INSERT INTO accounts (address, created_at) VALUES ('old', now());
         INSERT INTO workers (account_id, name, created_at, last_share_at) SELECT account_id, 'w', now(), now() FROM accounts`,
      );
      const old = share(1);
      await db.query(
        `INSERT INTO shares (seq, accepted_at, account_id, worker_id, difficulty, share_difficulty, work, height, is_block, audited,
                             header_hash, job_id, gateway, pool, bits, job_value_sats)
         SELECT 1, to_timestamp($1::bigint / 1000.0), account_id, worker_id, 2, 2, 2, 1, false, true, $2, $3, 'g', 'main', 1, 1 FROM workers`,
        [old.acceptedAtMs, old.headerHash, old.jobId],
      );
      await db.query('UPDATE share_sequence SET last_seq = 1');
      await migrate({ db, log }, steps);
      const indexes = await db.query<{ name: string }>(
        `SELECT indexname AS name FROM pg_indexes WHERE indexname ~ '_(job|header)_hash$' ORDER BY 1`,
      );
      const day = (offset: number) =>
        new Date(NOON_MS + offset * 86_400_000).toISOString().slice(0, 10).replaceAll('-', '');
      assert.deepEqual(
        indexes.map(({ name }) => name),
        [
          `shares_${day(-1)}_job_hash`,
          `shares_${day(0)}_header_hash`,
          `shares_${day(1)}_job_hash`,
          'shares_default_job_hash',
        ],
      );
      const again = { ...old, acceptedAtMs: old.acceptedAtMs + 60_000 };
      const tomorrow = share(2, { acceptedAtMs: NOON_MS + 86_400_000 });
      assert.equal((await recordShares(db, checked(again, share(3), tomorrow))).duplicates, 1);
      const third = await recordShares(
        db,
        checked(share(3), { ...tomorrow, acceptedAtMs: NOON_MS }),
      );
      assert.equal(third.duplicates, 2);
      assert.deepEqual(await sequence(db), upTo(3));
    });

    test('shares are numbered without gaps and counted for worker and pool', async () => {
      const db = await server.freshDatabase();
      const shares = Array.from({ length: 60 }, (_, i) => share(i));
      const first = await recordShares(db, checked(...shares.slice(0, 25)));
      assert.deepEqual(first, { stored: 25, duplicates: 0, tooOld: [] });
      await recordShares(db, checked(...shares.slice(25)));
      assert.deepEqual(await sequence(db), upTo(60));
      const totals = await poolTotals(db);
      assert.equal(totals.shares, 60n);
      assert.equal(totals.work, 60n * workOfDifficulty(2));
      assert.equal(totals.bestDifficulty, 61);
      assert.equal(totals.workers, 6);
      const workers = await listWorkers(db, { limit: 100 });
      assert.equal(workers.length, 6);
      assert.equal(workers[0]?.lastShareAtMs, NOON_MS + 59);
      assert.ok(workers.every((worker) => worker.shares === 10n));
      assert.equal(
        workers.reduce((sum, worker) => sum + worker.work, 0n),
        60n * workOfDifficulty(2),
      );
      assert.equal((await listWorkers(db, { limit: 100, account: 'address1' })).length, 2);
      assert.equal((await listWorkers(db, { limit: 2, offset: 5 })).length, 1);
      const between = await workBetween(db, { fromMs: NOON_MS + 10, untilMs: NOON_MS + 20 });
      assert.deepEqual(between, { shares: 10n, work: 10n * workOfDifficulty(2) });
    });

    test('redelivery, in whole, in part, in one batch, at another time, stores nothing twice', async () => {
      const db = await server.freshDatabase();
      await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 2 });
      const shares = Array.from({ length: 20 }, (_, i) => share(i));
      await recordShares(db, checked(...shares));
      assert.deepEqual(await recordShares(db, checked(...shares)), {
        stored: 0,
        duplicates: 20,
        tooOld: [],
      });
      const mixed = await recordShares(
        db,
        checked(...shares.slice(15), share(20), share(20), share(21)),
      );
      assert.deepEqual(mixed, { stored: 2, duplicates: 6, tooOld: [] });
      // The same work accepted again a day later, beyond the border of a partition.
      const again = await recordShares(db, checked(share(3, { acceptedAtMs: NOON_MS + DAY_MS })));
      assert.deepEqual(again, { stored: 0, duplicates: 1, tooOld: [] });
      assert.deepEqual(await sequence(db), upTo(22));
      assert.equal((await poolTotals(db)).shares, 22n);
    });

    test('two writers at once leave no gap and no double', async () => {
      const db = await server.freshDatabase();
      const batches = Array.from({ length: 12 }, (_, i) =>
        checked(...Array.from({ length: 30 }, (_, j) => share((i >> 1) * 20 + j))),
      );
      await Promise.all(batches.map((batch) => recordShares(db, batch)));
      assert.deepEqual(await sequence(db), upTo(5 * 20 + 30));
    });

    test('a batch that fails leaves no number behind', async () => {
      const db = await server.freshDatabase();
      await recordShares(db, checked(share(1)));
      await assert.rejects(
        recordShares(db, checked(share(2), share(3, { headerHash: new Uint8Array(31) }))),
      );
      await recordShares(db, checked(share(4)));
      assert.deepEqual(await sequence(db), upTo(2));
    });

    test('texts and numbers at their limits are stored', async () => {
      const db = await server.freshDatabase();
      const result = await recordShares(
        db,
        checked(
          share(1, { worker: 'a\0b\ud800', account: 'x\0y\nz', jobId: 'j'.repeat(500) }),
          share(2, { difficulty: 5e-324, worker: '😀'.repeat(100) }),
          share(3, { difficulty: 1e300, shareDifficulty: 1e308, height: 2 ** 31 - 1 }),
          share(4, { acceptedAtMs: 0 }),
          share(5, { acceptedAtMs: 2 ** 53 - 1 - 10 * DAY_MS }),
        ),
      );
      assert.equal(result.stored, 5);
      const workers = await listWorkers(db, { limit: 10 });
      assert.ok(workers.some((worker) => worker.worker === 'a\ufffdb\ufffd'));
    });

    test('a share keeps its pool, the bits and the value of its job; a split is an account of its own', async () => {
      const db = await server.freshDatabase();
      const split = Array.from({ length: 8 }, (_, i) => `bc1q${'z'.repeat(40)}${i}*10${i}`).join(
        ',',
      );
      await recordShares(
        db,
        checked(
          share(1, { pool: 'b', networkBits: 0xffffffff, jobValueSats: 2n ** 53n - 1n }),
          share(2, { pool: '', networkBits: 0, jobValueSats: 0n, account: split }),
          share(3, { account: `${split}1` }),
        ),
      );
      const rows = await db.query(
        `SELECT pool, bits, job_value_sats AS value, address FROM shares JOIN accounts USING (account_id)
         ORDER BY seq`,
      );
      assert.deepEqual(rows, [
        { pool: 'b', bits: 0xffffffffn, value: 2n ** 53n - 1n, address: 'address1' },
        { pool: 'main', bits: 0n, value: 0n, address: split },
        {
          pool: 'main',
          bits: BigInt(share(3).networkBits),
          value: share(3).jobValueSats,
          address: `${split}1`,
        },
      ]);
    });

    test('partitions are made ahead, take what the default holds, and are removed in time', async () => {
      const db = await server.freshDatabase();
      await recordShares(db, checked(share(1), share(2, { acceptedAtMs: NOON_MS - 40 * DAY_MS })));
      const inDefault = async () => {
        const [row] = await db.query<{ n: bigint }>('SELECT count(*) AS n FROM shares_default');
        return row?.n;
      };
      assert.equal(await inDefault(), 2n);
      assert.equal(await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 3 }), 5);
      assert.equal(await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 3 }), 0);
      assert.equal(await inDefault(), 1n);
      assert.equal((await recordShares(db, checked(share(1)))).duplicates, 1);
      const drop = () => dropOldShares(db, { nowMs: NOON_MS + DAY_MS, retentionDays: 1 });
      assert.equal(await drop(), 1);
      // A share that no span holds yet is needed.
      assert.equal(await inDefault(), 1n);
      await setSpanSizes(db, [1n, 2n, 4n]);
      await rollShares(db, { spansMax: 64 });
      assert.equal(await drop(), 0);
      assert.equal(await inDefault(), 0n);
      const late = share(7, { acceptedAtMs: NOON_MS - 40 * DAY_MS });
      const result = await recordShares(db, checked(late, share(8)));
      assert.equal(result.stored, 1);
      assert.deepEqual(result.tooOld, [late]);
      assert.equal((await poolTotals(db)).shares, 3n);
    });

    test('a block and its outcomes may come in any order and more than once', async () => {
      const db = await server.freshDatabase();
      const candidate: BlockCandidate = {
        jobId: '1a',
        headerHash: hashOf(1),
        header: new Uint8Array(80),
        coinbase: new Uint8Array(100),
        height: 100,
        account: 'address0',
        worker: 'rig',
        foundAtMs: NOON_MS,
        networkDifficulty: 1e12,
        rewardSats: 312_500_000n,
        pool: 'main',
        planId: '',
      };
      const outcome = (
        state: BlockOutcome['state'],
        atMs: number,
        confirmations = 0,
      ): BlockOutcome => ({
        headerHash: hashOf(1),
        height: 100,
        state,
        node: 'core',
        detail: '',
        confirmations,
        atMs,
      });
      await recordOutcome(db, outcome('accepted', NOON_MS + 5, 1));
      await recordOutcome(db, outcome('submitted', NOON_MS + 2));
      await recordCandidate(db, candidate);
      await recordCandidate(db, { ...candidate, worker: 'other' });
      await recordOutcome(db, outcome('accepted', NOON_MS + 5, 1));
      // Another block at the same height.
      await recordCandidate(db, { ...candidate, headerHash: hashOf(2), foundAtMs: NOON_MS + 9 });
      const blocks = await listBlocks(db, { limit: 10 });
      assert.equal(blocks.length, 2);
      const first = blocks.find((block) => Buffer.compare(block.hash, hashOf(1)) === 0);
      assert.deepEqual(
        { ...first, hash: null },
        {
          hash: null,
          height: 100,
          state: 'accepted',
          stateAtMs: NOON_MS + 5,
          confirmations: 1,
          account: 'address0',
          worker: 'rig',
          jobId: '1a',
          foundAtMs: NOON_MS,
          networkDifficulty: 1e12,
          rewardSats: 312_500_000n,
          pool: 'main',
          planId: '',
        },
      );
      const events = await listBlockEvents(db, hashOf(1));
      assert.deepEqual(
        events.map((event) => event.state),
        ['submitted', 'accepted'],
      );
      // A reorganisation takes it away and gives it back.
      await recordOutcome(db, outcome('orphaned', NOON_MS + 100, -1));
      assert.equal((await poolTotals(db)).blocksLost, 1);
      await recordOutcome(db, outcome('accepted', NOON_MS + 200, 3));
      await recordOutcome(db, outcome('confirmed', NOON_MS + 200, 100));
      assert.equal((await poolTotals(db)).blocksConfirmed, 1);
      await assert.rejects(db.query("UPDATE block_events SET detail = 'forged'"), /append-only/);
      await assert.rejects(db.query('DELETE FROM block_events'), /append-only/);
    });

    test('the same dead letter is kept once', async () => {
      const db = await server.freshDatabase();
      const letter = {
        topic: 'share.submissions',
        reason: 'undecodable',
        detail: 'bad\0text',
        raw: new Uint8Array(100_000),
        atMs: NOON_MS,
      };
      await recordDeadLetters(db, [letter]);
      await recordDeadLetters(db, [letter, { ...letter, raw: new Uint8Array(1) }]);
      await recordDeadLetters(db, []);
      await trimDeadLetters(db);
      const rows = await db.query<{ size: number }>(
        'SELECT octet_length(raw) AS size FROM dead_letters ORDER BY letter_id',
      );
      assert.deepEqual(rows, [{ size: 65_536 }, { size: 1 }]);
    });
  });
}
