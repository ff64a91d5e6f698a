/** The connection breaks as COMMIT is said: nobody knows whether it happened. Doing it again is always right. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import { recordOutcome } from '../../src/store/blocks.ts';
import { auditLedger, postLedger, readBalance } from '../../src/store/ledger.ts';
import { listRounds, recordRound } from '../../src/store/rounds.ts';
import { openCommitCut } from '../tools/commit-cut.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);

for (const kind of SERVER_KINDS) {
  describe(`lost commits on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('a credit whose commit was lost is done once, whichever way it was lost', async () => {
      const direct = await server.freshDatabase();
      const cut = await openCommitCut(direct);
      try {
        const made = await direct.transaction((tx) => findOrMakeAccounts(tx, ['a'], AT_MS));
        const accountId = made.get('a') as bigint;
        const creditBlock = (db: Db, number: number, atMs: number) =>
          db.transaction(async (tx) => {
            const blockHash = Buffer.alloc(32, number);
            const posted = await postLedger(tx, {
              key: `credit:${number}`,
              kind: 'credit',
              atMs,
              actor: 'payoutd',
              blockHash,
              entries: [
                { account: { kind: 'chain' }, sats: -50n },
                { account: { kind: 'miner', accountId }, sats: 50n },
              ],
            });
            const round = await recordRound(tx, {
              blockHash,
              generation: 0,
              pool: 'main',
              scheme: 'prop',
              height: number,
              rewardSats: 50n,
              operatorSats: 0n,
              developerSats: 0n,
              firstSeq: 1n,
              lastSeq: 2n,
              boundary: null,
              totalWork: 5n,
              wantedWork: null,
              afterMs: null,
              bits: 0x207fffff,
              foundAtMs: AT_MS,
              creditedAtMs: atMs,
              root: new Uint8Array(32),
              statementVersion: 2,
              creditTx: posted.txSeq,
              credits: [
                { accountId, work: 5n, feePpm: 0, donationPpm: 0, creditSats: 50n, paidSats: null },
              ],
            });
            assert.equal(posted.isNew, round.isNew);
            return posted;
          });
        let number = 0;
        for (const when of ['before', 'after', 'after', 'before', 'after'] as const) {
          number++;
          await recordOutcome(direct, {
            headerHash: Buffer.alloc(32, number),
            height: number,
            state: 'accepted',
            node: '',
            detail: '',
            confirmations: 1,
            atMs: AT_MS,
          });
          cut.cutNext(when);
          await assert.rejects(creditBlock(cut.db, number, AT_MS));
          assert.equal(cut.cuts(), number);
          // The server may still be at it; whoever comes next waits for the row of the head.
          const again = await creditBlock(cut.db, number, AT_MS + 60_000);
          assert.deepEqual(again, { txSeq: BigInt(number), isNew: when === 'before' });
          assert.equal(
            await readBalance(direct, { kind: 'miner', accountId }),
            50n * BigInt(number),
          );
        }
        assert.equal((await listRounds(direct, { limit: 10 })).length, 5);
        const audit = await auditLedger(direct);
        assert.ok(audit.ok && audit.postings === 5n);
      } finally {
        await cut.stop();
      }
    });

    test('a session that is killed with its postings made and not committed leaves nothing', async () => {
      const db = await server.freshDatabase();
      await assert.rejects(
        db.transaction(async (tx) => {
          await postLedger(tx, {
            key: 'lost',
            kind: 'manual',
            atMs: AT_MS,
            actor: 'test',
            entries: [
              { account: { kind: 'chain' }, sats: -50n },
              { account: { kind: 'paid' }, sats: 50n },
            ],
          });
          const [own] = await tx.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
          await db.query('SELECT pg_terminate_backend($1)', [own?.pid]);
          await tx.query('SELECT 1');
        }),
      );
      assert.deepEqual(await auditLedger(db), {
        ok: true,
        postings: 0n,
        entries: 0n,
        headHash: Buffer.alloc(32),
      });
    });
  });
}
