/** The payer on the development chain: the plain way, and every way in which payouts must wait, stop, or go again. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import type { Payer } from '../../../src/services/payoutd/payer.ts';
import {
  liftQuarantine,
  listBatches,
  planPayouts,
  readBatch,
  readControl,
} from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import {
  createPayerRig,
  HOUR_MS,
  MINUTE_MS,
  type PayerRig,
  POLICY,
} from '../../tools/payer-rig.ts';

for (const kind of SERVER_KINDS)
  describe(`the payer on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    let rig: PayerRig;

    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    beforeEach(async () => {
      db = await server.freshDatabase();
      rig = await createPayerRig(db);
    });
    afterEach(() => rig.stop());

    test(`${kind.name}: miners are paid, and the books agree with the chain`, async () => {
      const accounts = await Promise.all(
        [0, 1, 2, 3, 4].map((at) => rig.account(`plain ${at}`, at)),
      );
      await rig.credit(
        accounts.map(({ accountId }, at) => ({ accountId, sats: 100_000n * BigInt(at + 1) })),
      );
      const payer = rig.payer();
      await payer.cycle();
      assert.deepEqual(payer.status().alarms, []);
      const [batch] = await listBatches(db, { limit: 10 });
      assert.equal(batch?.state, 'broadcast');
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'seen');
      await rig.mine(1);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'confirmed');
      await rig.mine(5);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'settled');
      await rig.judge(accounts);
      assert.equal(await rig.balance('miner'), 0n);
      const detail = await readBatch(db, batch?.batchId as bigint);
      assert.deepEqual(
        detail?.events.map((one) => one.event),
        ['planned', 'reserved', 'built', 'signed', 'broadcast', 'seen', 'confirmed', 'settled'],
      );
      assert.equal((await readControl(db)).halted, false);
      await rig.pass(2 * HOUR_MS + MINUTE_MS);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 10 })).length, 1);
    });

    const stateOf = async (batchId = 1n): Promise<string | undefined> =>
      (await readBatch(db, batchId))?.state;
    const codes = (payer: Payer): string[] => payer.status().alarms.map((one) => one.code);

    /** One account with `sats`, and a payer that has sent its payout. */
    async function sentPayout(policy: Partial<PayoutPolicy> = {}, sats = 5_000_000n) {
      const account = await rig.account('miner');
      await rig.credit([{ accountId: account.accountId, sats }]);
      const payer = rig.payer(policy);
      await payer.cycle();
      assert.equal(await stateOf(), 'broadcast');
      return { account, payer };
    }
    const rawOf = async (generation: number): Promise<Uint8Array> => {
      const raw = (await readBatch(db, 1n))?.generations[generation - 1]?.raw;
      assert.ok(raw);
      return raw;
    };

    for (const winner of [1, 2, 3])
      test(`${kind.name}: of three generations, generation ${winner} is mined: paid once, fee as mined`, async () => {
        const { account, payer } = await sentPayout({ bumpAfterMs: HOUR_MS });
        for (const count of [2, 3]) {
          await rig.pass(HOUR_MS + 1);
          await payer.cycle();
          assert.equal((await readBatch(db, 1n))?.generations.length, count);
        }
        await rig.mineWith([await rawOf(winner)]);
        await payer.cycle();
        assert.equal(await stateOf(), 'confirmed');
        await rig.mine(5);
        await payer.cycle();
        assert.equal(await stateOf(), 'settled');
        assert.equal((await readBatch(db, 1n))?.generations[winner - 1]?.state, 'confirmed');
        assert.equal(
          await rig.balance('expense'),
          -((await readBatch(db, 1n))?.generations[winner - 1]?.feeSats as bigint),
        );
        await rig.judge([account]);
      });

    test(`${kind.name}: generation 1 is mined, its block is reorganised away, generation 2 is mined instead`, async () => {
      const { account, payer } = await sentPayout({ bumpAfterMs: HOUR_MS });
      await rig.pass(HOUR_MS + 1);
      await payer.cycle();
      await rig.mineWith([await rawOf(1)]);
      await rig.mine(2);
      await payer.cycle();
      assert.equal(await stateOf(), 'confirmed');
      await rig.devnet.reorganise(3);
      await payer.cycle();
      assert.notEqual(await stateOf(), 'confirmed');
      await rig.mineWith([await rawOf(2)]);
      await rig.mine(5);
      await payer.cycle();
      assert.equal(await stateOf(), 'settled');
      assert.equal((await readBatch(db, 1n))?.generations[1]?.state, 'confirmed');
      await rig.judge([account]);
    });

    test(`${kind.name}: dropped from the mempool, the same bytes are sent again`, async () => {
      const { account, payer } = await sentPayout();
      await payer.cycle();
      assert.equal(await stateOf(), 'seen');
      const before = await rawOf(1);
      rig.forgetMempool();
      await payer.cycle();
      assert.equal(rig.devnet.mempool.entries.size, 1);
      await payer.cycle();
      assert.equal(await stateOf(), 'seen');
      assert.deepEqual(await rawOf(1), before);
      await rig.mine(6);
      await payer.cycle();
      assert.deepEqual(codes(payer), []);
      await rig.judge([account]);
    });

    test(`${kind.name}: the pool's minimum, the account's own, a hold, a bad address, a split`, async () => {
      const plain = await rig.account('plain');
      const modest = await rig.account('modest');
      const held = await rig.account('held');
      const small = await rig.account('small');
      const odd: bigint[] = [];
      for (const address of ['bc1qnonsense', `${plain.address}*60,${modest.address}*40`]) {
        const [row] = await db.query<{ account_id: bigint }>(
          'INSERT INTO accounts (address, created_at) VALUES ($1, now()) RETURNING account_id',
          [address],
        );
        odd.push(row?.account_id as bigint);
      }
      await db.query(
        `INSERT INTO account_settings (account_id, minimum_payout_sats, on_hold, hold_reason, updated_at)
       VALUES ($1, 500000, false, '', now()), ($2, NULL, true, 'asked', now())`,
        [modest.accountId, held.accountId],
      );
      await rig.credit([
        { accountId: plain.accountId, sats: 10_000n },
        { accountId: modest.accountId, sats: 499_999n },
        { accountId: held.accountId, sats: 500_000n },
        { accountId: small.accountId, sats: 9_999n },
        ...odd.map((accountId) => ({ accountId, sats: 70_000n })),
      ]);
      const policy = { ...POLICY, feePpmMax: 1_000_000 };
      const plan = await planPayouts(db, { policy, network: 'regtest', nowMs: rig.nowMs() });
      assert.deepEqual(
        new Map(plan.skipped.map((one) => [one.accountId, one.reason])),
        new Map([
          [modest.accountId, 'below-minimum'],
          [held.accountId, 'on-hold'],
          [small.accountId, 'below-minimum'],
          [odd[0], 'bad-address'],
          [odd[1], 'split-address'],
        ]),
      );
      assert.equal((await listBatches(db, { limit: 9 })).length, 0, 'a plan changes nothing');
      const payer = rig.payer(policy);
      await payer.cycle();
      assert.deepEqual(
        (await readBatch(db, 1n))?.items.map((item) => [item.accountId, item.amountSats]),
        [[plain.accountId, 10_000n]],
      );
      await rig.credit([{ accountId: modest.accountId, sats: 1n }]);
      await rig.pass(HOUR_MS);
      await payer.cycle();
      assert.deepEqual(
        (await readBatch(db, 2n))?.items.map((item) => [item.accountId, item.amountSats]),
        [[modest.accountId, 500_000n]],
      );
    });

    test(`${kind.name}: caps of transaction, outputs and day; what does not fit is paid later`, async () => {
      const accounts = await Promise.all(
        Array.from({ length: 7 }, (_, at) => rig.account(`cap ${at}`)),
      );
      await rig.credit(accounts.map(({ accountId }) => ({ accountId, sats: 1_000_000n })));
      const whale = await rig.account('whale');
      await rig.credit([{ accountId: whale.accountId, sats: 5_500_000n }]);
      const payer = rig.payer({
        outputsMax: 3,
        transactionMaxSats: 2_500_000n,
        dailyMaxSats: 6_000_000n,
      });
      for (
        let hour = 0;
        hour < 100 && (await rig.balance('miner')) + (await rig.balance('transit')) > 0n;
        hour += 1
      ) {
        await payer.cycle();
        await rig.mine(2);
        await rig.pass(HOUR_MS);
      }
      const batches = await listBatches(db, { limit: 100 });
      for (const { batchId, totalSats } of batches) {
        assert.ok(totalSats <= 2_500_000n);
        assert.ok(((await readBatch(db, batchId))?.items.length ?? 9) <= 3);
      }
      for (const one of batches) {
        const inDay = batches.filter(
          (other) =>
            other.createdAtMs <= one.createdAtMs &&
            other.createdAtMs > one.createdAtMs - 24 * HOUR_MS,
        );
        assert.ok(inDay.reduce((sum, other) => sum + other.totalSats, 0n) <= 6_000_000n);
      }
      assert.equal(rig.paidTo(whale.script), 5_500_000n);
      await rig.judge([...accounts, whale]);
    });

    test(`${kind.name}: an address that only the wallet refuses is left out, the others are paid`, async () => {
      const good = await rig.account('good');
      const bad = await rig.account('bad', 4);
      await rig.credit([good, bad].map(({ accountId }) => ({ accountId, sats: 300_000n })));
      rig.refuseAddress(bad.address);
      const payer = rig.payer();
      await payer.cycle();
      await payer.cycle();
      assert.equal(await stateOf(1n), 'released');
      assert.deepEqual(
        (await readBatch(db, 2n))?.items.map((item) => item.address),
        [good.address],
      );
      assert.deepEqual(codes(payer), ['quarantine']);
      await rig.mine(6);
      await payer.cycle();
      assert.equal(await rig.balance('miner', bad.accountId), 300_000n);
      await rig.judge([good, bad]);
      assert.ok(
        await liftQuarantine(db, bad.accountId, { actor: 'op', reason: 'new wallet', atMs: 0 }),
      );
      rig.refuseAddress(null);
      await rig.pass(HOUR_MS);
      await payer.cycle();
      await rig.mine(6);
      await payer.cycle();
      await rig.judge([good, bad]);
      assert.equal(await rig.balance('miner'), 0n);
    });

    test(`${kind.name}: the miners pay the fee in equal parts, and the pool what a bump costs above it`, async () => {
      const accounts = await Promise.all([0, 1, 2].map((at) => rig.account(`fee ${at}`, at)));
      await rig.credit(accounts.map(({ accountId }) => ({ accountId, sats: 2_000_000n })));
      const payer = rig.payer({ feePolicy: 'miner', bumpAfterMs: HOUR_MS });
      await payer.cycle();
      await rig.pass(HOUR_MS + 1);
      await payer.cycle();
      await rig.mine(6);
      await payer.cycle();
      const batch = await readBatch(db, 1n);
      const [first, second] = batch?.generations ?? [];
      assert.equal(second?.state, 'confirmed');
      const fees = batch?.items.map((item) => item.feeSats) ?? [];
      assert.equal(
        fees.reduce((sum, fee) => sum + fee, 0n),
        first?.feeSats,
      );
      assert.ok(fees.every((fee) => fee - (fees.at(-1) as bigint) <= 2n));
      assert.equal(
        await rig.balance('expense'),
        -((second?.feeSats ?? 0n) - (first?.feeSats ?? 0n)),
      );
      await rig.judge(accounts);
    });
  });
