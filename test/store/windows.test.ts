import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { workOfDifficulty } from '../../src/core/bitcoin/target.ts';
import type { ShareWindow, WindowSpan } from '../../src/core/ledger/rules.ts';
import type { Db } from '../../src/ports.ts';
import { makeSharePartitions } from '../../src/store/shares.ts';
import {
  findShareSeq,
  lastSeqAtOrBefore,
  newestSeq,
  readWindow,
  rollShares,
  ShareLogGapError,
  sumForPps,
} from '../../src/store/windows.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import { createRandom, type Random } from '../tools/random.ts';
import {
  countWindow,
  createTape,
  setSpanSizes,
  type Tape,
  type TapeShare,
  tapeHash,
} from '../tools/share-tape.ts';

const DAY_MS = 86_400_000;
const NOON_MS = Date.UTC(2026, 10, 21, 12);
const POOLS = ['main', 'solo-1', 'b'] as const;
/** Work 1, work 0, more than 64 bits, and what is usual. */
const DIFFICULTIES = [2 ** -48, 1e-16, 1e15, 1e-9, 1, 8192, 3.7, 65536.5] as const;
const SIZES = [
  [4n, 16n, 64n],
  [3n, 6n, 24n],
  [5n, 20n, 40n, 80n],
  [1n, 2n, 8n, 32n],
  [8n, 8n, 16n],
] as const;

type Request = Parameters<typeof readWindow>[1];

async function expectWindow(db: Db, tape: Tape, request: Request): Promise<ShareWindow> {
  const window = await readWindow(db, request);
  const { accounts, ...read } = window;
  const { workOf, ...counted } = countWindow(tape.shares, request);
  assert.deepEqual(read, counted);
  assert.deepEqual(new Map(accounts.map((one) => [one.address, one.work])), workOf);
  assert.ok(accounts.every((one, i) => i === 0 || accounts[i - 1]!.accountId < one.accountId));
  return window;
}

async function rollAll(db: Db): Promise<void> {
  while ((await rollShares(db, { spansMax: 64 })) > 0);
}

/** Clocks stand still, go on by moments and by days, and jump back. */
function nextMs(random: Random, ms: number): number {
  const kind = random.below(20);
  if (kind < 8) return ms;
  if (kind < 16) return ms + random.below(5_000);
  if (kind < 18) return ms + random.below(DAY_MS);
  return ms - random.below(2 * DAY_MS);
}

function makeShares(random: Random, count: number, pools: readonly string[], accounts: number) {
  let ms = NOON_MS;
  return Array.from({ length: count }, (): TapeShare => {
    ms = nextMs(random, ms);
    return {
      pool: random.pick(pools),
      address: `address${random.below(accounts)}`,
      difficulty: random.pick(DIFFICULTIES),
      acceptedAtMs: ms,
      networkBits: 0x1d00ffff + random.below(2),
      jobValueSats: 312_500_000n + BigInt(random.below(3)),
      height: 100 + random.below(2),
      isBlock: random.below(2) === 0,
    };
  });
}

function makeRequest(random: Random, tape: Tape): Request {
  const newest = tape.shares.length;
  const lastSeq = BigInt(random.below(3) === 0 ? newest : random.below(newest + 1));
  const pool = random.pick([...POOLS, 'empty']);
  const afterSeq = BigInt(random.below(3) === 0 ? random.below(newest) : 0);
  return { pool, lastSeq, afterSeq, span: makeSpan(random, tape, pool, lastSeq) };
}

function makeSpan(random: Random, tape: Tape, pool: string, lastSeq: bigint): WindowSpan {
  const kind = random.below(4);
  if (kind === 0) {
    const near = random.pick(tape.shares).acceptedAtMs;
    return { kind: 'time', afterMs: near + random.below(3) - 1 };
  }
  if (kind === 1) return { kind: 'since', afterSeq: BigInt(random.below(tape.shares.length)) };
  // Exactly what some newest shares are worth, one unit beside it, or more than there is.
  const afterSeq = BigInt(random.below(Number(lastSeq) + 1));
  const all: WindowSpan = { kind: 'since', afterSeq };
  const { totalWork } = countWindow(tape.shares, { pool, lastSeq, span: all, afterSeq: 0n });
  const work = totalWork + BigInt(random.below(3) - 1);
  return { kind: 'work', work: random.below(20) === 0 ? work + (1n << 120n) : work };
}

for (const kind of SERVER_KINDS) {
  describe(`windows on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('every window of random logs is what counting all shares says', async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), async (seed) => {
          const random = createRandom(seed);
          const db = await server.freshDatabase();
          await setSpanSizes(db, random.pick(SIZES));
          if (random.below(3) > 0) await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 4 });
          const tape = createTape();
          const pools = POOLS.slice(0, 1 + random.below(POOLS.length));
          const shares = makeShares(random, 40 + random.below(300), pools, random.pick([1, 3, 50]));
          for (let at = 0; at < shares.length; ) {
            const size = 1 + random.below(60);
            await tape.record(db, shares.slice(at, at + size));
            at += size;
            const spansMax = random.pick([0, 1, 2, 7, 64]);
            if (spansMax > 0) await rollShares(db, { spansMax });
          }
          for (let i = 0; i < 40; i++) await expectWindow(db, tape, makeRequest(random, tape));
          await expectLookups(db, tape, random);
          await expectPps(db, tape, random);
        }),
        { numRuns: 8, endOnFailure: true },
      );
    });

    async function expectLookups(db: Db, tape: Tape, random: Random): Promise<void> {
      for (const pool of [...POOLS, 'empty']) {
        const last = tape.shares.findLastIndex((share) => share.pool === pool);
        assert.equal(await newestSeq(db, pool), BigInt(last + 1));
      }
      for (let i = 0; i < 8; i++) {
        const seq = 1 + random.below(tape.shares.length);
        const share = tape.shares[seq - 1]!;
        const atMs = share.acceptedAtMs + random.below(3) - 1;
        const newest = tape.shares.findLastIndex((one) => one.acceptedAtMs <= atMs) + 1;
        assert.equal(await lastSeqAtOrBefore(db, atMs), BigInt(newest));
        const found = await findShareSeq(db, tapeHash(seq), share.acceptedAtMs + DAY_MS);
        if (share.isBlock !== true) {
          assert.equal(found, null);
          continue;
        }
        assert.equal(found?.seq, BigInt(seq));
        assert.equal(found?.pool, share.pool);
        assert.equal(found?.networkBits, share.networkBits);
        assert.equal(found?.jobValueSats, share.jobValueSats);
        assert.equal(found?.acceptedAtMs, share.acceptedAtMs);
      }
      assert.equal(await lastSeqAtOrBefore(db, NOON_MS - 900 * DAY_MS), 0n);
      assert.equal(await findShareSeq(db, new Uint8Array(32), NOON_MS), null);
    }

    async function expectPps(db: Db, tape: Tape, random: Random): Promise<void> {
      for (let i = 0; i < 5; i++) {
        const afterSeq = random.below(tape.shares.length);
        const throughSeq = afterSeq + random.below(tape.shares.length - afterSeq + 1);
        const pool = random.pick(POOLS);
        const wanted = new Map<string, bigint>();
        for (const share of tape.shares.slice(afterSeq, throughSeq)) {
          if (share.pool !== pool) continue;
          const key = `${share.address} ${share.networkBits} ${share.jobValueSats} ${share.height}`;
          wanted.set(key, (wanted.get(key) ?? 0n) + workOfDifficulty(share.difficulty));
        }
        const range = { pool, afterSeq: BigInt(afterSeq), throughSeq: BigInt(throughSeq) };
        const groups = await sumForPps(db, range);
        const read = groups.map((one): [string, bigint] => [
          `${one.address} ${one.bits} ${one.valueSats} ${one.height}`,
          one.work,
        ]);
        assert.deepEqual(new Map(read), wanted);
        assert.equal(read.length, wanted.size);
      }
    }

    test('the edge at every share of a log: a unit before it, on it, a unit after it', async () => {
      const db = await server.freshDatabase();
      await setSpanSizes(db, [4n, 16n, 64n]);
      await makeSharePartitions(db, { nowMs: NOON_MS, aheadDays: 4 });
      const tape = createTape();
      const random = createRandom(7);
      const shares = makeShares(random, 230, ['main', 'b'], 9);
      for (const share of shares.slice(220)) Object.assign(share, { pool: 'main', difficulty: 2 });
      await tape.record(db, shares);
      await rollAll(db);
      const heads = await db.query('SELECT spans FROM share_span_heads ORDER BY level');
      assert.deepEqual(heads, [{ spans: 57n }, { spans: 14n }, { spans: 3n }]);
      const seen = new Set<string>();
      for (let seq = 1n; seq <= 230n; seq += seq < 100n ? 3n : 1n) {
        const since: WindowSpan = { kind: 'since', afterSeq: seq - 1n };
        const ask = { pool: 'main', lastSeq: 230n, afterSeq: 0n };
        const { totalWork } = await expectWindow(db, tape, { ...ask, span: since });
        for (const work of [totalWork - 1n, totalWork, totalWork + 1n]) {
          const window = await expectWindow(db, tape, { ...ask, span: { kind: 'work', work } });
          if (window.boundary !== null) seen.add(levelOf(window.boundary.seq));
        }
      }
      // Of 230 shares, spans of 64 hold 192, of 16 up to 224, of 4 up to 228; two are in none.
      assert.deepEqual([...seen].sort(), ['level 0', 'level 1', 'level 2', 'open']);
    });

    test('a window cannot end after the newest share', async () => {
      const db = await server.freshDatabase();
      const tape = createTape();
      const ask = { pool: 'main', afterSeq: 0n, span: { kind: 'work', work: 5n } } as const;
      assert.deepEqual(await readWindow(db, { ...ask, lastSeq: 0n }), {
        firstSeq: 1n,
        lastSeq: 0n,
        boundary: null,
        wantedWork: 5n,
        afterMs: null,
        totalWork: 0n,
        shares: 0n,
        accounts: [],
      });
      await tape.record(db, makeShares(createRandom(1), 3, ['main'], 1));
      await assert.rejects(readWindow(db, { ...ask, lastSeq: 4n }), ShareLogGapError);
      const range = { pool: 'main', afterSeq: 0n, throughSeq: 4n };
      await assert.rejects(sumForPps(db, range), ShareLogGapError);
    });

    test('shares of records without a pool count for the first one', async () => {
      const db = await server.freshDatabase();
      const tape = createTape();
      const shares = makeShares(createRandom(2), 10, ['', 'main', 'b'], 2);
      await tape.record(db, shares);
      const span: WindowSpan = { kind: 'since', afterSeq: 0n };
      const request = { pool: 'main', lastSeq: 10n, afterSeq: 0n, span };
      const window = await expectWindow(db, tape, request);
      assert.ok(window.shares > 0n && window.shares < 10n);
    });

    test('readers see the same window while shares are written and closed by two', async () => {
      const db = await server.freshDatabase();
      const other = await server.reconnect();
      await setSpanSizes(db, [4n, 16n, 64n]);
      const tape = createTape();
      const random = createRandom(11);
      const shares = makeShares(random, 900, ['main', 'b'], 5);
      await tape.record(db, shares.slice(0, 300));
      const requests = Array.from({ length: 12 }, () => makeRequest(random, tape));
      let isWriting = true;
      const write = async () => {
        for (let at = 300; at < 900; at += 30) await tape.record(db, shares.slice(at, at + 30));
        isWriting = false;
      };
      const roll = async (through: Db) => {
        let closed = 0;
        while (isWriting) closed += await rollShares(through, { spansMax: 3 });
        return closed;
      };
      const read = async () => {
        let reads = 0;
        for (; isWriting || reads < 24; reads++) {
          await expectWindow(other, tape, requests[reads % requests.length]!);
        }
      };
      const [, one, two] = await Promise.all([write(), roll(db), roll(other), read(), read()]);
      let rest = 0;
      for (let closed = -1; closed !== 0; rest += closed) {
        closed = await rollShares(db, { spansMax: 5 });
      }
      assert.equal(one! + two! + rest, 225);
      const [sums] = await db.query<{ shares: bigint; parts: bigint }>(
        `SELECT (SELECT sum(shares) FROM share_span_totals WHERE level = 0) AS shares,
           (SELECT sum(shares) FROM share_spans WHERE level = 0) AS parts`,
      );
      assert.deepEqual(sums, { shares: 900n, parts: 900n });
      for (const request of requests) await expectWindow(db, tape, request);
    });
  });
}

/** What the share with this number lies in, where the log of 230 shares is closed in spans of 4, 16 and 64. */
function levelOf(seq: bigint): string {
  if (seq > 228n) return 'open';
  if (seq > 224n) return 'level 0';
  return seq > 192n ? 'level 1' : 'level 2';
}
