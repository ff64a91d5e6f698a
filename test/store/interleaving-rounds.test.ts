/**
 * What goes with postings: rounds, the cursor of PPS, settings, accounts; two sessions at once, in every order of their steps, under READ
 * COMMITTED and under SERIALIZABLE.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts, readSettings, setSettings } from '../../src/store/accounts.ts';
import { recordOutcome } from '../../src/store/blocks.ts';
import {
  auditLedger,
  type LedgerAccount,
  listNotes,
  lockLedger,
  type Posting,
  postLedger,
  readBalance,
} from '../../src/store/ledger.ts';
import { type NewRound, readRound, recordRound, setRoundState } from '../../src/store/rounds.ts';
import { movePpsCursor, readPpsCursor } from '../../src/store/schemes.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import {
  freshQuickDatabase,
  runEveryOrder,
  type Session,
  valuesOf,
} from '../tools/interleaving.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);

type Miner = { kind: 'miner'; accountId: bigint };

function credit(key: string, to: LedgerAccount, sats: bigint): Posting {
  return {
    key,
    kind: 'credit',
    atMs: AT_MS,
    actor: 'test',
    entries: [
      { account: { kind: 'chain' }, sats: -sats },
      { account: to, sats },
    ],
  };
}

for (const kind of SERVER_KINDS) {
  describe(`rounds and settings interleaved on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    let miners: Iterator<bigint>;
    before(async () => {
      server = await kind.start();
      db = await freshQuickDatabase(server);
      const addresses = Array.from({ length: 1_000 }, (_, i) => `address${i}`);
      miners = (await db.transaction((tx) => findOrMakeAccounts(tx, addresses, AT_MS))).values();
    });
    after(async () => {
      const audit = await auditLedger(db);
      await server.stop();
      assert.deepEqual(audit.ok ? [] : audit.findings, []);
    });
    /** One that no other order has. */
    const nextMiner = (): Miner => ({ kind: 'miner', accountId: miners.next().value });
    const nextBlock = async (accountId: bigint): Promise<Uint8Array> => {
      const headerHash = Buffer.alloc(32);
      headerHash.writeBigInt64BE(accountId);
      await recordOutcome(db, {
        headerHash,
        height: 7,
        state: 'accepted',
        node: '',
        detail: '',
        confirmations: 1,
        atMs: AT_MS,
      });
      return headerHash;
    };

    test('two credit the same block', async () => {
      await runEveryOrder(db, async () => {
        const a = nextMiner();
        const blockHash = await nextBlock(a.accountId);
        const credits: Session<{ roundId: bigint; isNew: boolean }> = (own) =>
          own.transaction(async (tx) => {
            const { txSeq } = await postLedger(tx, credit(`block ${a.accountId}`, a, 50n));
            return recordRound(tx, roundOf(blockHash, a.accountId, txSeq));
          });
        return {
          sessions: [credits, credits],
          async check(outcomes) {
            const recorded = valuesOf(outcomes);
            assert.equal(recorded.filter((one) => one.isNew).length, 1);
            assert.equal(recorded[0]?.roundId, recorded[1]?.roundId);
            assert.equal((await readRound(db, blockHash))?.credits.length, 1);
            assert.equal(await readBalance(db, a), 50n);
          },
        };
      });
    });

    test('two record the same round, without a posting before it', async () => {
      await runEveryOrder(db, async () => {
        const a = nextMiner();
        const blockHash = await nextBlock(a.accountId);
        const records: Session<{ roundId: bigint; isNew: boolean }> = (own) =>
          own.transaction((tx) => recordRound(tx, roundOf(blockHash, a.accountId, null)));
        return {
          sessions: [records, records],
          async check(outcomes) {
            const recorded = valuesOf(outcomes);
            assert.equal(recorded.filter((one) => one.isNew).length, 1);
            assert.equal(recorded[0]?.roundId, recorded[1]?.roundId);
          },
        };
      });
    });

    test('one says mature, the other orphaned', async () => {
      await runEveryOrder(db, async () => {
        const [a, b] = [nextMiner(), nextMiner()];
        const blockHash = await nextBlock(a.accountId);
        const { roundId } = await db.transaction((tx) =>
          recordRound(tx, roundOf(blockHash, a.accountId, null)),
        );
        const says =
          (to: 'mature' | 'orphaned', account: Miner): Session<boolean> =>
          (own) =>
            own.transaction(async (tx) => {
              await lockLedger(tx);
              const change = { roundId, from: 'immature', to, txSeq: null } as const;
              if (!(await setRoundState(tx, change))) return false;
              await postLedger(tx, credit(`${to} ${a.accountId}`, account, 50n));
              return true;
            });
        return {
          sessions: [says('mature', a), says('orphaned', b)],
          async check(outcomes) {
            const [mature, orphaned] = valuesOf(outcomes);
            assert.notEqual(mature, orphaned);
            assert.equal(await readBalance(db, a), mature ? 50n : 0n);
            assert.equal(await readBalance(db, b), orphaned ? 50n : 0n);
          },
        };
      });
    });

    test('two move the cursor of PPS and post for it', async () => {
      await runEveryOrder(db, async () => {
        const a = nextMiner();
        const pool = `p${a.accountId}`;
        const steps =
          (through: bigint): Session<boolean> =>
          (own) =>
            own.transaction(async (tx) => {
              await lockLedger(tx);
              const fromSeq = await readPpsCursor(tx, pool);
              if (fromSeq !== null && fromSeq >= through) return false;
              const sats = through - (fromSeq ?? 0n);
              await postLedger(tx, credit(`pps:${pool}:${fromSeq}-${through}`, a, sats));
              return movePpsCursor(tx, { pool, fromSeq, throughSeq: through });
            });
        return {
          sessions: [steps(10n), steps(25n)],
          async check(outcomes) {
            assert.ok(valuesOf(outcomes)[1]);
            assert.equal(await readPpsCursor(db, pool), 25n);
            assert.equal(await readBalance(db, a), 25n);
          },
        };
      });
    });

    test('two change settings of one account', async () => {
      await runEveryOrder(db, async () => {
        const { accountId } = nextMiner();
        const base = { accountId, actor: 'op', reason: '', atMs: AT_MS };
        return {
          sessions: [
            (own) => setSettings(own, { ...base, change: { feePpm: 5 } }),
            (own) => setSettings(own, { ...base, change: { onHold: true } }),
          ],
          async check(outcomes) {
            valuesOf(outcomes);
            const settings = (await readSettings(db, [accountId])).get(accountId);
            assert.deepEqual([settings?.feePpm, settings?.onHold], [5, true]);
            const [last, first] = await listNotes(db, { limit: 2 });
            assert.deepEqual(first?.detail.now, last?.detail.before);
          },
        };
      });
    });

    test('two make the same accounts, and others, in other orders', async () => {
      await runEveryOrder(db, async () => {
        const { accountId } = nextMiner();
        const makes =
          (...names: string[]): Session<Map<string, bigint>> =>
          (own) =>
            own.transaction((tx) =>
              findOrMakeAccounts(
                tx,
                names.map((name) => name + accountId),
                AT_MS,
              ),
            );
        return {
          sessions: [makes('x', 'y', 'z'), makes('w', 'z', 'x')],
          async check(outcomes) {
            const [one, other] = valuesOf(outcomes);
            for (const name of ['x', 'z']) {
              const id = one?.get(name + accountId);
              assert.ok(id !== undefined);
              assert.equal(id, other?.get(name + accountId));
            }
          },
        };
      });
    });
  });
}

function roundOf(blockHash: Uint8Array, accountId: bigint, creditTx: bigint | null): NewRound {
  return {
    blockHash,
    generation: 0,
    pool: 'main',
    scheme: 'pplns',
    height: 7,
    rewardSats: 50n,
    operatorSats: 0n,
    developerSats: 0n,
    firstSeq: 1n,
    lastSeq: 9n,
    boundary: null,
    totalWork: 9n,
    wantedWork: null,
    afterMs: null,
    bits: 0x207fffff,
    foundAtMs: AT_MS,
    creditedAtMs: AT_MS,
    root: new Uint8Array(32),
    statementVersion: 2,
    creditTx,
    credits: [{ accountId, work: 9n, feePpm: 0, donationPpm: 0, creditSats: 50n, paidSats: null }],
  };
}
