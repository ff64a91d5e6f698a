/** The steps of a payout batch in the database: each happens once, in order, with its posting, whoever else does the same just now. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { txid } from '../../src/core/bitcoin/tx.ts';
import type { Db } from '../../src/ports.ts';
import { completeTx } from '../../src/services/devnet/blocks.ts';
import { createPsbt } from '../../src/services/devnet/psbt.ts';
import { auditLedger, postLedger } from '../../src/store/ledger.ts';
import {
  exportBatch,
  holdPayouts,
  listBatches,
  makeBatches,
  markBroadcast,
  readBatch,
  readControl,
  readLiabilities,
  recordSightings,
  releaseBatch,
  releasePayouts,
  reserveBatch,
  runPayouts,
  settleBatch,
  storeBuilt,
  storeSigned,
  unknownSpends,
} from '../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';
import { HOUR_MS, POLICY, scriptOf } from '../tools/payer-rig.ts';

const deed = { actor: 'operator', reason: 'test', atMs: 1_000 };
const network = 'regtest' as const;
const options = { policy: POLICY, network, nowMs: 10 * HOUR_MS, slotMs: 10 * HOUR_MS };

for (const kind of SERVER_KINDS)
  for (const isolation of ['READ COMMITTED', 'SERIALIZABLE'])
    describe(`${kind.name}, ${isolation}`, () => {
      let server: TestServer;
      let db: Db;
      before(async () => {
        server = await kind.start();
      });
      after(() => server.stop());
      beforeEach(async () => {
        const plain = await server.freshDatabase();
        db = {
          ...plain,
          transaction: (work) =>
            plain.transaction(async (tx) => {
              await tx.query(`SET TRANSACTION ISOLATION LEVEL ${isolation}`);
              return work(tx);
            }),
        };
      });

      const owe = async (seed: string, sats: bigint): Promise<bigint> => {
        const address = encodeAddress(scriptOf(seed), network) as string;
        const [row] = await db.query<{ account_id: bigint }>(
          'INSERT INTO accounts (address, created_at) VALUES ($1, now()) RETURNING account_id',
          [address],
        );
        const accountId = row?.account_id as bigint;
        await db.transaction((tx) =>
          postLedger(tx, {
            key: `owe:${seed}`,
            kind: 'manual',
            atMs: 1,
            actor: 'test',
            entries: [
              { account: { kind: 'deposit' }, sats: -sats },
              { account: { kind: 'miner', accountId }, sats },
            ],
          }),
        );
        return accountId;
      };
      /** A generation that spends output `vout` of one known transaction. */
      const built = (generation: number, vouts: number[], feeSats = 500n) => {
        const previousTxid = new Uint8Array(32).fill(7);
        const tx = {
          version: 2,
          locktime: 0,
          inputs: vouts.map((vout) => ({
            previousTxid,
            previousIndex: vout,
            script: new Uint8Array(0),
            sequence: 0xffff_fffd,
            witness: [],
          })),
          outputs: [{ valueSats: 1_000n + BigInt(generation), script: scriptOf('out') }],
        };
        return {
          generation,
          psbt: createPsbt(tx, () => null),
          feeSats,
          vsize: 140,
          inputs: vouts.map((vout) => ({ txid: previousTxid, vout, valueSats: 9_000n })),
          itemFees: new Map<bigint, bigint>(),
          signed: { generation, raw: completeTx(tx).raw, txid: txid(tx), vsize: 140 },
        };
      };
      const balance = async (of: string) =>
        (await readLiabilities(db))[of as keyof Awaited<ReturnType<typeof readLiabilities>>];
      const four = <T>(work: () => Promise<T>): Promise<T[]> =>
        Promise.all([work(), work(), work(), work()]);

      test('four planners make one plan, four payers reserve, build, sign and mark once', async () => {
        await owe('a', 100_000n);
        const plans = await four(() => makeBatches(db, options));
        assert.equal(plans.filter((plan) => plan !== null).length, 1);
        assert.equal((await listBatches(db, { limit: 9 })).length, 1);
        const reserved = await four(() => reserveBatch(db, 1n, { network, atMs: 5 }));
        assert.deepEqual(
          reserved.filter((one) => one !== null),
          ['reserved'],
        );
        assert.deepEqual(await readLiabilities(db), {
          minerSats: 0n,
          developerSats: 0n,
          transitSats: 100_000n,
        });
        const one = built(1, [0]);
        assert.equal((await four(() => storeBuilt(db, 1n, one, 6))).filter(Boolean).length, 1);
        assert.equal(
          (await four(() => storeSigned(db, 1n, one.signed, 7))).filter(Boolean).length,
          1,
        );
        assert.equal((await four(() => markBroadcast(db, 1n, 1, 8))).filter(Boolean).length, 1);
        const two = built(2, [0, 1], 900n);
        assert.equal((await four(() => storeBuilt(db, 1n, two, 9))).filter(Boolean).length, 1);
        const sight = {
          generation: 1,
          confirmations: 6,
          blockHash: new Uint8Array(32).fill(1),
          inMempool: false,
        };
        await four(() => recordSightings(db, 1n, [sight], 10));
        const settled = await four(() => settleBatch(db, 1n, 1, 11, () => {}));
        assert.equal(settled.filter(Boolean).length, 1);
        const batch = await readBatch(db, 1n);
        assert.deepEqual(
          batch?.generations.map((each) => each.state),
          ['confirmed', 'superseded'],
        );
        assert.ok(batch?.inputs.every((input) => !input.active));
        assert.equal(await balance('transitSats'), 0n);
        assert.equal((await auditLedger(db)).ok, true);
        // A round of the schedule that was served is not served again; a request is.
        assert.equal(await makeBatches(db, options), null);
        await runPayouts(db, deed);
        assert.deepEqual((await makeBatches(db, options))?.batches, []);
      });

      test('a release and a build at once: one of them happens', async () => {
        for (let at = 0; at < 5; at += 1) {
          await owe(`race ${at}`, 100_000n);
          await runPayouts(db, deed);
          await makeBatches(db, { ...options, nowMs: options.nowMs + at });
          const batchId = BigInt(at + 1);
          await reserveBatch(db, batchId, { network, atMs: 5 });
          const one = built(1, [at]);
          await storeBuilt(db, batchId, one, 6);
          const [released, signed] = await Promise.all([
            releaseBatch(db, batchId, deed),
            storeSigned(db, batchId, { ...one.signed, txid: new Uint8Array(32).fill(at) }, 7),
          ]);
          assert.notEqual(released.ok, signed === true);
          const state = (await readBatch(db, batchId))?.state;
          assert.equal(state, released.ok ? 'released' : 'signed');
        }
        assert.equal((await auditLedger(db)).ok, true);
      });

      test('one coin belongs to one live batch, and a further generation shares one with each', async () => {
        await owe('a', 100_000n);
        await owe('b', 100_000n);
        await makeBatches(db, { ...options, policy: { ...POLICY, outputsMax: 1 } });
        for (const batchId of [1n, 2n]) await reserveBatch(db, batchId, { network, atMs: 5 });
        const both = await Promise.all(
          [1n, 2n].map((batchId) => storeBuilt(db, batchId, built(1, [0, Number(batchId)]), 6)),
        );
        assert.deepEqual(
          both.toSorted(),
          [true, null].toSorted(),
          'a coin that is taken is no fault',
        );
        const winner = both[0] === true ? 1n : 2n;
        const other = 3n - winner;
        assert.equal((await readBatch(db, other))?.state, 'reserved');
        assert.deepEqual(await releaseBatch(db, winner, deed), { ok: true });
        assert.equal(await storeBuilt(db, other, built(1, [0]), 7), true, 'given up: free again');
        await storeSigned(db, other, built(1, [0]).signed, 8);
        await markBroadcast(db, other, 1, 9);
        assert.equal(await storeBuilt(db, other, built(2, [5]), 10), null, 'no common coin');
        assert.equal(await storeBuilt(db, other, built(3, [0]), 10), null, 'not the next');
        assert.equal(await storeBuilt(db, other, built(2, [0, 5]), 10), true);
      });

      test('halted: nothing that brings money closer to leaving happens; what the chain shows does', async () => {
        await owe('a', 100_000n);
        await makeBatches(db, options);
        assert.equal(await holdPayouts(db, deed), true);
        assert.equal(await holdPayouts(db, { ...deed, reason: 'again' }), false);
        assert.equal((await readControl(db)).haltReason, 'test', 'the first reason is kept');
        assert.equal(await reserveBatch(db, 1n, { network, atMs: 5 }), null);
        await runPayouts(db, deed);
        assert.equal(await makeBatches(db, options), null);
        assert.equal(await releasePayouts(db, deed), true);
        await reserveBatch(db, 1n, { network, atMs: 5 });
        await holdPayouts(db, deed);
        assert.equal(await storeBuilt(db, 1n, built(1, [0]), 6), null);
        assert.ok(!(await exportBatch(db, 1n, deed)).ok);
        assert.deepEqual(await releaseBatch(db, 1n, deed), { ok: true });
      });

      test('money that is gone, or an account put on hold since the plan: released', async () => {
        const accountId = await owe('a', 100_000n);
        await makeBatches(db, options);
        await db.transaction((tx) =>
          postLedger(tx, {
            key: 'taken',
            kind: 'manual',
            atMs: 2,
            actor: 'operator',
            entries: [
              { account: { kind: 'miner', accountId }, sats: -1n },
              { account: { kind: 'operator' }, sats: 1n },
            ],
          }),
        );
        assert.equal(await reserveBatch(db, 1n, { network, atMs: 5 }), 'released');
        await runPayouts(db, deed);
        await makeBatches(db, options);
        await db.query(
          `INSERT INTO account_settings (account_id, on_hold, hold_reason, updated_at) VALUES ($1, true, 'x', now())`,
          [accountId],
        );
        assert.equal(await reserveBatch(db, 2n, { network, atMs: 5 }), 'released');
        assert.equal(await balance('minerSats'), 99_999n);
        assert.equal(await balance('transitSats'), 0n);
      });

      test('a settlement that is not committed has not happened', async () => {
        await owe('a', 100_000n);
        await makeBatches(db, options);
        await reserveBatch(db, 1n, { network, atMs: 5 });
        const one = built(1, [0]);
        await storeBuilt(db, 1n, one, 6);
        await storeSigned(db, 1n, one.signed, 7);
        await markBroadcast(db, 1n, 1, 8);
        const blockHash = new Uint8Array(32).fill(1);
        const sight = { generation: 1, confirmations: 6, blockHash, inMempool: false };
        await recordSightings(db, 1n, [sight], 9);
        const die = () => {
          throw new Error('killed');
        };
        await assert.rejects(settleBatch(db, 1n, 1, 10, die), /killed/);
        assert.equal(await balance('transitSats'), 100_000n);
        assert.equal(await settleBatch(db, 1n, 1, 11, () => {}), true);
        assert.equal(await settleBatch(db, 1n, 1, 12, () => {}), null);
        assert.deepEqual(
          (await unknownSpends(db, [one.signed.txid, blockHash])).map((one) =>
            Uint8Array.from(one),
          ),
          [blockHash],
        );
      });

      test('signed bytes, generations and events cannot be changed or removed', async () => {
        await owe('a', 100_000n);
        await makeBatches(db, options);
        await reserveBatch(db, 1n, { network, atMs: 5 });
        const one = built(1, [0]);
        await storeBuilt(db, 1n, one, 6);
        await storeSigned(db, 1n, one.signed, 7);
        for (const sql of [
          `UPDATE payout_generations SET raw = '\\x00'`,
          'UPDATE payout_generations SET raw = NULL, txid = NULL',
          `UPDATE payout_generations SET psbt = 'other'`,
          'DELETE FROM payout_generations',
          'DELETE FROM payout_events',
          `UPDATE payout_events SET detail = ''`,
        ])
          await assert.rejects(db.query(sql), /written once|are kept|append-only/, sql);
      });
    });
