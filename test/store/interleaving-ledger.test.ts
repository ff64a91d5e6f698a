/**
 * Postings, two or three sessions at once, in every order of their steps, under READ COMMITTED and under SERIALIZABLE: sums and uniqueness
 * hold, and everybody comes to an end.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import {
  auditLedger,
  type LedgerAccount,
  lockLedger,
  type Posted,
  type Posting,
  postLedger,
  readBalance,
  reverseLedger,
} from '../../src/store/ledger.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import {
  errorCodes,
  freshQuickDatabase,
  ISOLATIONS,
  runEveryOrder,
  runInterleaved,
  type Session,
  valuesOf,
} from '../tools/interleaving.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);
const CHAIN: LedgerAccount = { kind: 'chain' };
const PAID: LedgerAccount = { kind: 'paid' };
/** Three sessions have 1,680 orders. */
const OF_THREE = { 'READ COMMITTED': 30, SERIALIZABLE: 12 };

type Miner = { kind: 'miner'; accountId: bigint };

function move(key: string, from: LedgerAccount, to: LedgerAccount, sats: bigint): Posting {
  return {
    key,
    kind: 'manual',
    atMs: AT_MS,
    actor: 'test',
    entries: [
      { account: from, sats: -sats },
      { account: to, sats },
    ],
  };
}

function posts(posting: Posting): Session<Posted> {
  return (db) => db.transaction((tx) => postLedger(tx, posting));
}

for (const kind of SERVER_KINDS) {
  describe(`postings interleaved on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    let miners: Iterator<bigint>;
    before(async () => {
      server = await kind.start();
      db = await freshQuickDatabase(server);
      const addresses = Array.from({ length: 2_000 }, (_, i) => `address${i}`);
      miners = (await db.transaction((tx) => findOrMakeAccounts(tx, addresses, AT_MS))).values();
    });
    after(async () => {
      const audit = await auditLedger(db);
      await server.stop();
      assert.deepEqual(audit.ok ? [] : audit.findings, []);
    });
    /** One that no other order has. */
    const nextMiner = (): Miner => ({ kind: 'miner', accountId: miners.next().value });

    for (const count of [2, 3]) {
      test(`the same posting by ${count}`, async () => {
        await runEveryOrder(
          db,
          async () => {
            const a = nextMiner();
            const posting = move(`same ${a.accountId}`, CHAIN, a, 5n);
            return {
              sessions: Array.from({ length: count }, () => posts(posting)),
              async check(outcomes) {
                const posted = valuesOf(outcomes);
                assert.equal(posted.filter((one) => one.isNew).length, 1);
                assert.equal(new Set(posted.map((one) => one.txSeq)).size, 1);
                assert.equal(await readBalance(db, a), 5n);
              },
            };
          },
          OF_THREE,
        );
      });
    }

    test('one key for two different things: one of them is told', async () => {
      await runEveryOrder(db, async () => {
        const [a, b] = [nextMiner(), nextMiner()];
        const key = `different ${a.accountId}`;
        return {
          sessions: [posts(move(key, CHAIN, a, 5n)), posts(move(key, CHAIN, b, 6n))],
          async check(outcomes) {
            assert.equal(outcomes.filter(({ result }) => result.ok).length, 1);
            const sum = (await readBalance(db, a)) + (await readBalance(db, b));
            assert.ok(sum === 5n || sum === 6n);
          },
        };
      });
    });

    test('overlapping accounts, named the other way round', async () => {
      await runEveryOrder(
        db,
        async () => {
          const [a, b] = [nextMiner(), nextMiner()];
          const key = `overlap ${a.accountId}`;
          await posts(move(`${key} a`, CHAIN, a, 100n))(db);
          await posts(move(`${key} b`, CHAIN, b, 100n))(db);
          return {
            sessions: [
              posts(move(`${key} ab`, a, b, 30n)),
              posts(move(`${key} ba`, b, a, 7n)),
              posts(move(`${key} out`, b, PAID, 50n)),
            ],
            async check(outcomes) {
              const seqs = valuesOf(outcomes).map((one) => Number(one.txSeq));
              assert.equal(new Set(seqs).size, 3);
              assert.equal(Math.max(...seqs) - Math.min(...seqs), 2);
              assert.equal(await readBalance(db, a), 77n);
              assert.equal(await readBalance(db, b), 73n);
            },
          };
        },
        OF_THREE,
      );
    });

    test('a credit and two reservations that drain the same balance', async () => {
      await runEveryOrder(
        db,
        async () => {
          const a = nextMiner();
          const transit: LedgerAccount = { kind: 'transit', accountId: a.accountId };
          const key = `drain ${a.accountId}`;
          await posts(move(`${key} first`, CHAIN, a, 100n))(db);
          return {
            sessions: [
              posts(move(`${key} r1`, a, transit, 100n)),
              posts(move(`${key} r2`, a, transit, 100n)),
              posts(move(`${key} credit`, CHAIN, a, 60n)),
            ],
            async check(outcomes) {
              assert.deepEqual(errorCodes(outcomes), ['23514']);
              assert.equal(await readBalance(db, a), 60n);
              assert.equal(await readBalance(db, transit), 100n);
            },
          };
        },
        OF_THREE,
      );
    });

    test('who reads a balance behind the lock may take all of it', async () => {
      const drains =
        (key: string, a: Miner): Session<bigint> =>
        (own) =>
          own.transaction(async (tx) => {
            await lockLedger(tx);
            const all = await readBalance(tx, a);
            if (all > 0n) await postLedger(tx, move(key, a, PAID, all));
            return all;
          });
      await runEveryOrder(db, async () => {
        const a = nextMiner();
        const key = `all ${a.accountId}`;
        await posts(move(`${key} first`, CHAIN, a, 100n))(db);
        return {
          sessions: [drains(`${key} 1`, a), drains(`${key} 2`, a)],
          async check(outcomes) {
            assert.deepEqual(valuesOf(outcomes).sort(), [0n, 100n]);
            assert.equal(await readBalance(db, a), 0n);
          },
        };
      });
    });

    for (const other of ['the same key', 'another key']) {
      test(`a posting is taken back once, by two with ${other}`, async () => {
        await runEveryOrder(db, async () => {
          const a = nextMiner();
          const { txSeq } = await posts(move(`back ${a.accountId}`, CHAIN, a, 9n))(db);
          const reverses =
            (key: string): Session<Posted> =>
            (own) =>
              own.transaction((tx) =>
                reverseLedger(tx, { txSeq, key, kind: 'orphan', atMs: AT_MS, actor: 'test' }),
              );
          const key = `back ${a.accountId} by the same key`;
          return {
            sessions: [reverses(key), reverses(`back ${a.accountId} by ${other}`)],
            async check(outcomes) {
              if (other === 'the same key') {
                assert.equal(valuesOf(outcomes).filter((one) => one.isNew).length, 1);
              } else {
                // Whoever comes second overdraws the account, or is told that the posting was taken back already.
                assert.match(errorCodes(outcomes).join(), /^(23514|23505)$/);
              }
              assert.equal(await readBalance(db, a), 0n);
            },
          };
        });
      });
    }

    test('locks taken in a circle are broken, and both get through', async () => {
      const a = nextMiner();
      await db.query('CREATE TABLE own (n int); INSERT INTO own VALUES (0)');
      for (const isolation of ISOLATIONS) {
        const posting = (number: number) => move(`circle ${isolation} ${number}`, CHAIN, a, 1n);
        const outcomes = await runInterleaved<void>(
          db,
          [
            (own) =>
              own.transaction(async (tx) => {
                await tx.query('UPDATE own SET n = n + 1');
                await postLedger(tx, posting(1));
              }),
            (own) =>
              own.transaction(async (tx) => {
                await postLedger(tx, posting(2));
                await tx.query('UPDATE own SET n = n + 1');
              }),
          ],
          { order: [0, 1, 0, 1, 0, 1, 0, 1], isolation },
        );
        valuesOf(outcomes);
        assert.ok(outcomes.some((outcome) => outcome.attempts > 1));
      }
      assert.equal(await readBalance(db, a), 4n);
      assert.deepEqual(await db.query('SELECT n FROM own'), [{ n: 4 }]);
    });
  });
}
