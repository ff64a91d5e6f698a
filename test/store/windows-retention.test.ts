import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { workOfDifficulty } from '../../src/core/bitcoin/target.ts';
import type { ExportedShare, WindowSpan } from '../../src/core/ledger/rules.ts';
import type { Db } from '../../src/ports.ts';
import { migrate } from '../../src/store/migrate.ts';
import { dropOldShares, holdShares, makeSharePartitions } from '../../src/store/shares.ts';
import {
  countWindowShares,
  dropOldSpans,
  lastSeqAtOrBefore,
  newestSeq,
  readWindow,
  readWindowShares,
  rollShares,
  ShareLogGapError,
  sumForPps,
  type WindowBounds,
} from '../../src/store/windows.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import {
  countWindow,
  createTape,
  setSpanSizes,
  type Tape,
  type TapeShare,
} from '../tools/share-tape.ts';
import { createSilentLog } from '../tools/silent-log.ts';

const DAY_MS = 86_400_000;
const NOON_MS = Date.UTC(2026, 10, 21, 12);

type Request = Parameters<typeof readWindow>[1];

/** `begins`: what the database can still know, where that is less than the tape has. */
async function expectWindow(db: Db, tape: Tape, request: Request, begins = 0n): Promise<void> {
  const { accounts, ...read } = await readWindow(db, request);
  const afterSeq = request.afterSeq > begins ? request.afterSeq : begins;
  const { workOf, ...counted } = countWindow(tape.shares, { ...request, afterSeq });
  assert.deepEqual(read, counted);
  assert.deepEqual(new Map(accounts.map((one) => [one.address, one.work])), workOf);
}

/** `count` shares on each of `days` days, of three accounts in two pools. */
function makeDays(days: number, count: number, firstDay = 0): TapeShare[] {
  return Array.from({ length: days * count }, (_, i) => ({
    pool: i % 5 === 0 ? 'b' : 'main',
    address: `address${i % 3}`,
    difficulty: 1 + (i % 7),
    acceptedAtMs: NOON_MS + (firstDay + Math.floor(i / count)) * DAY_MS + (i % count) * 1_000,
  }));
}

async function makePartitions(db: Db, days: number): Promise<void> {
  await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: days });
}

async function rollAll(db: Db): Promise<void> {
  while ((await rollShares(db, { spansMax: 64 })) > 0);
}

async function readAll(db: Db, window: WindowBounds): Promise<ExportedShare[]> {
  const shares: ExportedShare[] = [];
  for await (const share of readWindowShares(db, window)) shares.push(share);
  return shares;
}

/** All requests that matter on a short log: every edge, in each kind of span. */
function requestsAt(tape: Tape, lastSeq: bigint, edge: bigint): Request[] {
  const ask = { pool: 'main', lastSeq, afterSeq: 0n };
  const since: WindowSpan = { kind: 'since', afterSeq: edge };
  const work = countWindow(tape.shares, { ...ask, span: since }).totalWork;
  return [
    { ...ask, span: since },
    { ...ask, span: { kind: 'work', work: work - 1n } },
    { ...ask, span: { kind: 'work', work } },
    { ...ask, span: { kind: 'work', work: work + 1n } },
    { ...ask, span: { kind: 'work', work: work + (1n << 90n) }, afterSeq: edge },
  ];
}

for (const kind of SERVER_KINDS) {
  describe(`retention of shares on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('a day goes only when spans hold all its shares and nobody needs them', async () => {
      const db = await server.freshDatabase();
      await setSpanSizes(db, [4n, 16n, 64n]);
      await makePartitions(db, 6);
      const tape = createTape();
      await tape.record(db, makeDays(5, 30));
      const drop = () => dropOldShares(db, { nowMs: NOON_MS + 9 * DAY_MS, retentionDays: 5 });
      const ends = await lastSeqAtOrBefore(db, NOON_MS + 60 * DAY_MS);
      assert.equal(ends, 150n);
      // The day before the first share is empty and goes at once.
      assert.equal(await drop(), 1);
      // 13 spans end within the second day, so that the first alone is closed.
      await rollShares(db, { spansMax: 13 });
      assert.equal(await drop(), 1);
      assert.equal(await drop(), 0);
      await rollAll(db);
      await holdShares(db, { name: 'pps:b', afterSeq: 89n });
      await holdShares(db, { name: 'pps:main', afterSeq: 400n });
      assert.equal(await drop(), 1);
      await holdShares(db, { name: 'pps:b', afterSeq: 90n });
      assert.equal(await drop(), 1);
      await holdShares(db, { name: 'pps:b', afterSeq: null });
      assert.equal(await drop(), 1);
      // The last day begins after the limit.
      const kept = await readAll(db, { pool: 'main', firstSeq: 1n, lastSeq: 150n });
      assert.equal(kept[0]?.seq, 122n);
    });

    test('windows reach over removed shares as far as whole spans do', async () => {
      const db = await server.freshDatabase();
      await setSpanSizes(db, [4n, 16n, 64n]);
      await makePartitions(db, 12);
      const tape = createTape();
      await tape.record(db, makeDays(5, 30));
      await rollAll(db);
      await dropOldShares(db, { nowMs: NOON_MS + 9 * DAY_MS, retentionDays: 5 });
      // Numbers 1 to 120, whole spans, have no raw share any more: an edge among them moves to the end of its span.
      for (let edge = 0n; edge < 150n; edge += edge < 80n ? 3n : 1n) {
        for (const request of requestsAt(tape, 150n, edge)) {
          const { afterSeq, span } = request;
          const { firstSeq, totalWork } = countWindow(tape.shares, request);
          let begins = 0n;
          if (span.kind === 'since') begins = span.afterSeq;
          else if (afterSeq > 0n) begins = afterSeq;
          else if (span.kind === 'work' && totalWork === span.work) begins = firstSeq;
          if (begins < 121n) begins += (4n - (begins % 4n)) % 4n;
          if (span.kind === 'work' && begins > 120n) begins = afterSeq;
          await expectWindow(db, tape, request, begins);
        }
      }
      // Who pays by the share is told.
      const range = { pool: 'b', afterSeq: 119n, throughSeq: 150n };
      await assert.rejects(sumForPps(db, range), ShareLogGapError);
      assert.ok((await sumForPps(db, { ...range, afterSeq: 120n })).length > 0);
      const bounds = { pool: 'main', firstSeq: 1n, lastSeq: 150n };
      assert.equal(await countWindowShares(db, bounds), 24n);
      assert.equal(await lastSeqAtOrBefore(db, NOON_MS + DAY_MS), 28n);
    });

    test('old spans go, the log begins after them and goes on', async () => {
      const db = await server.freshDatabase();
      await setSpanSizes(db, [4n, 16n, 64n]);
      await makePartitions(db, 12);
      const tape = createTape();
      await tape.record(db, makeDays(5, 30));
      await rollAll(db);
      const drop = (day: number) =>
        dropOldSpans(db, { nowMs: NOON_MS + day * DAY_MS - 3_600_000, spanRetentionDays: 7 });
      assert.equal(await drop(7), 0);
      // Share 31 is the first of the second day; its span, and the one before it, stay.
      assert.equal(await drop(8), 7);
      assert.equal(await drop(8), 0);
      for (let edge = 0n; edge < 150n; edge += 7n) {
        for (const request of requestsAt(tape, 150n, edge))
          await expectWindow(db, tape, request, 28n);
      }
      assert.equal(await drop(11), 22);
      await tape.record(db, makeDays(4, 30, 5));
      for (let closed = -1; closed !== 0; ) {
        closed = await rollShares(db, { spansMax: 3 });
        for (let edge = 0n; edge < 240n; edge += 59n) {
          for (const request of requestsAt(tape, 243n, edge)) {
            await expectWindow(db, tape, request, 116n);
          }
        }
      }
      assert.equal(await newestSeq(db, 'main'), 270n);
      assert.equal(await drop(60), 37);
      const span: WindowSpan = { kind: 'since', afterSeq: 0n };
      const request = { pool: 'main', lastSeq: 270n, afterSeq: 0n, span };
      await expectWindow(db, tape, request, 264n);
    });

    test('a log from before there were spans: counted at once, and the same when they are closed', async () => {
      const log = createSilentLog();
      const db = await server.freshDatabase({ empty: true });
      const steps = readMigrations();
      await migrate({ db, log }, steps.slice(0, 1));
      const tape = createTape();
      const gone = { pool: 'gone', address: '', difficulty: 1, acceptedAtMs: 0 };
      tape.shares.push(...Array.from({ length: 5_000 }, () => gone));
      for (let seq = 5_001; seq <= 14_000; seq++) {
        tape.shares.push({
          pool: '',
          address: `address${seq % 7}`,
          difficulty: 1 + (seq % 5),
          acceptedAtMs: NOON_MS + seq * 20_000,
        });
      }
      await db.query(
        `INSERT INTO accounts (address, created_at)
         SELECT 'address' || n, now() FROM generate_series(0, 6) AS n;
         SELECT make_share_partition(day::date) FROM generate_series('2026-11-22', '2026-11-24', interval '1 day') AS day`,
      );
      await db.query(
        `INSERT INTO shares (seq, accepted_at, account_id, worker_id, difficulty, share_difficulty, work,
                             height, is_block, audited, header_hash, job_id, gateway)
         SELECT seq, to_timestamp($1::bigint / 1000.0 + seq * 20), account_id, 1, 1 + seq % 5, 1,
           (1 + seq % 5) * $2::numeric, 1, false, true, sha256(int8send(seq)), '', ''
         FROM generate_series(5001, 14000) AS seq JOIN accounts ON address = 'address' || seq % 7`,
        [NOON_MS, workOfDifficulty(1)],
      );
      await db.query('UPDATE share_sequence SET last_seq = 14000');
      await migrate({ db, log }, steps);
      const edges = [0n, 5_000n, 5_001n, 7_777n, 8_192n, 8_193n, 12_288n, 12_289n, 13_999n];
      const expectAll = async () => {
        for (const lastSeq of [5_000n, 6_000n, 8_192n, 8_193n, 14_000n]) {
          for (const edge of edges) {
            for (const request of requestsAt(tape, lastSeq, edge)) {
              await expectWindow(db, tape, request, 5_000n);
            }
          }
        }
        assert.equal(await newestSeq(db, 'main'), 14_000n);
        assert.equal(await lastSeqAtOrBefore(db, NOON_MS + 8_500 * 20_000 + 1), 8_500n);
        assert.equal(await lastSeqAtOrBefore(db, NOON_MS + 6_000 * 20_000), 6_000n);
        assert.equal(await lastSeqAtOrBefore(db, NOON_MS), 5_000n);
      };
      await expectAll();
      assert.equal(await rollShares(db, { spansMax: 64 }), 1);
      await expectAll();
    });

    test('an export has every share of the window in order, over several pages', async () => {
      const db = await server.freshDatabase();
      await makePartitions(db, 6);
      const tape = createTape();
      const shares = makeDays(5, 2_700);
      // Clocks jump, and numbers decide.
      for (const [i, share] of shares.entries()) if (i % 97 === 0) share.acceptedAtMs -= 2 * DAY_MS;
      for (let at = 0; at < shares.length; at += 2_700) {
        await tape.record(db, shares.slice(at, at + 2_700));
      }
      for (const afterMs of [null, NOON_MS + DAY_MS]) {
        const window = { pool: 'main', firstSeq: 5n, lastSeq: 13_400n, afterMs };
        const wanted = shares.flatMap((share, i): ExportedShare[] => {
          const isIn = share.pool === 'main' && i >= 4 && i < 13_400;
          if (!isIn || (afterMs !== null && share.acceptedAtMs <= afterMs)) return [];
          const { address, acceptedAtMs } = share;
          return [
            { seq: BigInt(i + 1), address, work: workOfDifficulty(share.difficulty), acceptedAtMs },
          ];
        });
        assert.deepEqual(await readAll(db, window), wanted);
        assert.equal(await countWindowShares(db, window), BigInt(wanted.length));
      }
    });

    test('of sixty days, a window looks into those at its edges', async () => {
      const db = await server.freshDatabase();
      await setSpanSizes(db, [8n, 32n, 128n]);
      await makePartitions(db, 60);
      const tape = createTape();
      await tape.record(db, makeDays(60, 12));
      await rollAll(db);
      const looks: { sql: string; params: readonly unknown[] }[] = [];
      const watched: Db = {
        ...db,
        transaction: (work) =>
          db.transaction((tx) =>
            work({
              async query<Row>(sql: string, params: readonly unknown[] = []): Promise<Row[]> {
                if (/FROM shares\b/.test(sql)) looks.push({ sql, params });
                return tx.query<Row>(sql, params);
              },
            }),
          ),
      };
      for (const request of requestsAt(tape, 715n, 303n)) await readWindow(watched, request);
      await sumForPps(watched, { pool: 'b', afterSeq: 300n, throughSeq: 310n });
      assert.ok(looks.length > 10);
      for (const { sql, params } of looks) {
        const [row] = await db.query<Record<string, unknown>>(
          `EXPLAIN (FORMAT JSON) ${sql}`,
          params,
        );
        const plan = JSON.stringify(row);
        const partitions = new Set(plan.match(/"shares_\d{8}"/g));
        assert.ok(partitions.size >= 1 && partitions.size <= 3, `${partitions.size} for ${sql}`);
        assert.doesNotMatch(plan, /shares_default"/);
      }
    });
  });
}
