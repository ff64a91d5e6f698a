import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import { recordOutcome } from '../../src/store/blocks.ts';
import {
  listRounds,
  type NewRound,
  RoundConflictError,
  readRound,
  recordRound,
  roundsOfBlock,
  setRoundState,
} from '../../src/store/rounds.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12, 0, 0, 123);
const hashOf = (number: number) => Buffer.alloc(32, number);

async function addBlock(db: Db, number: number): Promise<void> {
  await recordOutcome(db, {
    headerHash: hashOf(number),
    height: 100 + number,
    state: 'accepted',
    node: '',
    detail: '',
    confirmations: 1,
    atMs: AT_MS,
  });
}

function round(number: number, ids: readonly bigint[], more: Partial<NewRound> = {}): NewRound {
  return {
    blockHash: hashOf(number),
    generation: 0,
    pool: 'main',
    scheme: 'pplns',
    height: 100 + number,
    rewardSats: 312_500_007n,
    operatorSats: 3_125_000n,
    developerSats: 7n,
    firstSeq: 5n,
    lastSeq: 900n,
    boundary: { seq: 5n, work: 2n ** 90n, countedWork: 2n ** 89n },
    totalWork: 2n ** 100n,
    wantedWork: 2n ** 100n,
    afterMs: null,
    bits: 0xff7fffff,
    foundAtMs: AT_MS,
    creditedAtMs: AT_MS + 600_000,
    root: new Uint8Array(32).fill(0xee),
    statementVersion: 2,
    creditTx: null,
    credits: ids.map((accountId, i) => ({
      accountId,
      work: 2n ** 99n,
      feePpm: 10_000,
      donationPpm: i,
      creditSats: i === 0 ? 309_374_999n : 1n,
      paidSats: i === 0 ? null : 0n,
    })),
    ...more,
  };
}

for (const kind of SERVER_KINDS) {
  describe(`rounds on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    async function prepare(): Promise<{ db: Db; ids: [bigint, bigint] }> {
      const db = await server.freshDatabase();
      const made = await db.transaction((tx) => findOrMakeAccounts(tx, ['alice', 'bob'], AT_MS));
      for (const number of [1, 2, 3]) await addBlock(db, number);
      return { db, ids: [made.get('alice') as bigint, made.get('bob') as bigint] };
    }
    const record = (db: Db, one: NewRound) => db.transaction((tx) => recordRound(tx, one));

    test('what goes in comes out, once', async () => {
      const { db, ids } = await prepare();
      const first = round(1, ids);
      const made = await record(db, first);
      assert.ok(made.isNew);
      assert.deepEqual(await record(db, { ...first, creditedAtMs: AT_MS + 999_999 }), {
        roundId: made.roundId,
        isNew: false,
      });
      const stored = await readRound(db, hashOf(1));
      assert.deepEqual(stored, {
        ...first,
        root: Buffer.from(first.root),
        roundId: made.roundId,
        state: 'immature',
        matureTx: null,
        reverseTx: null,
        credits: first.credits.map((credit, i) => ({ ...credit, address: ['alice', 'bob'][i] })),
      });
      assert.deepEqual(await readRound(db, made.roundId), stored);
      assert.equal(await readRound(db, hashOf(2)), null);
      assert.equal(await readRound(db, 99n), null);
      const empty = round(2, [], {
        scheme: 'fpps',
        operatorSats: 0n,
        developerSats: 0n,
        boundary: null,
        wantedWork: null,
        totalWork: 0n,
        firstSeq: 901n,
      });
      await record(db, empty);
      assert.deepEqual((await readRound(db, hashOf(2)))?.credits, []);
      assert.equal((await readRound(db, hashOf(2)))?.boundary, null);
      const byTime = round(3, ids, {
        boundary: null,
        wantedWork: null,
        afterMs: AT_MS - 86_400_001,
      });
      await record(db, byTime);
      assert.equal((await readRound(db, hashOf(3)))?.afterMs, AT_MS - 86_400_001);
    });

    test('what a program of before writes is a round of version 1', async () => {
      const { db, ids } = await prepare();
      await record(db, round(1, ids));
      await db.query(
        `INSERT INTO rounds (block_hash, pool, scheme, height, reward_sats, operator_sats, developer_sats, first_seq, last_seq,
           total_work, bits, found_at, credited_at, root)
         SELECT $1, pool, scheme, height, reward_sats, operator_sats, developer_sats, first_seq, last_seq,
           total_work, bits, found_at, credited_at, root FROM rounds`,
        [hashOf(2)],
      );
      const old = await readRound(db, hashOf(2));
      assert.deepEqual([old?.statementVersion, old?.afterMs], [1, null]);
    });

    test('the same block and generation with something else in it is refused', async () => {
      const { db, ids } = await prepare();
      await record(db, round(1, ids));
      for (const other of [
        { pool: 'other' },
        { scheme: 'prop' },
        { rewardSats: 312_500_008n },
        { operatorSats: 1n },
        { developerSats: 8n },
        { firstSeq: 6n },
        { lastSeq: 901n },
        { totalWork: 1n },
        { root: new Uint8Array(32) },
      ] as const) {
        await assert.rejects(record(db, round(1, ids, other)), RoundConflictError);
      }
      await assert.rejects(record(db, round(1, ids, { generation: 1 })), { code: '23505' });
      assert.equal((await listRounds(db, { limit: 10 })).length, 1);
    });

    test('credits that are not the reward are refused, whoever writes them', async () => {
      const { db, ids } = await prepare();
      const good = round(1, ids);
      const [credit, other] = good.credits as [NewRound['credits'][0], NewRound['credits'][0]];
      const wrong: [string, NewRound, string][] = [
        ['a satoshi too few', { ...good, credits: [credit] }, '23000'],
        [
          'a satoshi too many',
          { ...good, credits: [credit, { ...other, creditSats: 2n }] },
          '23000',
        ],
        ['nobody', { ...good, credits: [credit, { ...other, accountId: 99n }] }, '23000'],
        [
          'one twice',
          { ...good, credits: [credit, { ...other, accountId: credit.accountId }] },
          '23505',
        ],
        [
          'negative',
          {
            ...good,
            credits: [
              { ...credit, creditSats: credit.creditSats + 2n },
              { ...other, creditSats: -1n },
            ],
          },
          '23514',
        ],
        ['more fees than reward', { ...good, operatorSats: 312_500_007n, credits: [] }, '23514'],
        ['an unknown block', { ...good, blockHash: hashOf(9) }, '23503'],
        ['a window that ends before it begins', { ...good, firstSeq: 902n }, '23514'],
        [
          'more counted than there is',
          { ...good, boundary: { seq: 5n, work: 5n, countedWork: 5n } },
          '23514',
        ],
        ['an unknown posting', { ...good, creditTx: 5n }, '23503'],
        ['by work and by time', { ...good, afterMs: AT_MS }, '23514'],
        [
          'by time in a statement that cannot say so',
          { ...good, boundary: null, wantedWork: null, afterMs: AT_MS, statementVersion: 1 },
          '23514',
        ],
      ];
      for (const [what, one, code] of wrong) {
        await assert.rejects(record(db, one), { code }, what);
      }
      assert.deepEqual(await listRounds(db, { limit: 10 }), []);
      const { roundId } = await record(db, good);
      for (const [code, statement] of [
        [
          '23000',
          `INSERT INTO round_credits VALUES (${roundId}, ${ids[0]} + 1000, 1, 0, 0, 5, NULL)`,
        ],
        ['23000', 'INSERT INTO round_credits VALUES (77, 1, 1, 0, 0, 5, NULL)'],
        ['23001', 'UPDATE round_credits SET credit_sats = 5'],
        ['23001', 'UPDATE rounds SET reward_sats = reward_sats + 1'],
        ['23001', "UPDATE rounds SET root = sha256('')"],
        ['23001', 'UPDATE rounds SET boundary_counted = 1'],
        ['23001', 'DELETE FROM rounds'],
        ['23001', 'TRUNCATE rounds, round_credits'],
      ] as const) {
        await assert.rejects(db.query(statement), { code }, statement);
      }
    });

    test('the state goes forward only, by compare-and-swap; a block that comes back has a new generation', async () => {
      const { db, ids } = await prepare();
      const set = (
        roundId: bigint,
        from: 'immature' | 'mature' | 'orphaned',
        to: 'mature' | 'orphaned',
      ) => db.transaction((tx) => setRoundState(tx, { roundId, from, to, txSeq: null }));
      const { roundId } = await record(db, round(1, ids));
      assert.equal(await set(roundId, 'mature', 'orphaned'), false);
      assert.equal(await set(roundId, 'immature', 'mature'), true);
      assert.equal(await set(roundId, 'immature', 'mature'), false);
      assert.equal(await set(roundId, 'mature', 'orphaned'), true);
      await assert.rejects(set(roundId, 'orphaned', 'mature'), { code: '23001' });
      await assert.rejects(db.query("UPDATE rounds SET state = 'immature'"), { code: '23001' });
      const again = await record(db, round(1, ids, { generation: 1 }));
      assert.equal(await set(again.roundId, 'immature', 'orphaned'), true);
      assert.deepEqual(
        (await roundsOfBlock(db, hashOf(1))).map((one) => [one.generation, one.state]),
        [
          [0, 'orphaned'],
          [1, 'orphaned'],
        ],
      );
      assert.equal((await readRound(db, hashOf(1)))?.generation, 1);
    });

    test('rounds are listed newest first, by pool and state, in pages', async () => {
      const { db, ids } = await prepare();
      const made: bigint[] = [];
      for (const [number, pool] of [
        [1, 'main'],
        [2, 'other'],
        [3, 'main'],
      ] as const) {
        made.push((await record(db, round(number, ids, { pool }))).roundId);
      }
      await db.transaction((tx) =>
        setRoundState(tx, { roundId: made[2]!, from: 'immature', to: 'orphaned', txSeq: null }),
      );
      const list = async (options: Parameters<typeof listRounds>[1]) =>
        (await listRounds(db, options)).map((one) => one.roundId);
      assert.deepEqual(await list({ limit: 10 }), made.toReversed());
      assert.deepEqual(await list({ limit: 1, beforeId: made[2]! }), [made[1]]);
      assert.deepEqual(await list({ limit: 10, pool: 'main' }), [made[2], made[0]]);
      assert.deepEqual(await list({ limit: 10, state: 'immature', pool: 'main' }), [made[0]]);
    });
  });
}
