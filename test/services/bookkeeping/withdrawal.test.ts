/** The operator takes his own out of the wallet: by hand at the wallet, then in the books, then payouts go on. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { Db } from '../../../src/ports.ts';
import type { Desk } from '../../../src/services/bookkeeping/desk.ts';
import { auditLedger, listNotes, postLedger, sumBalances } from '../../../src/store/ledger.ts';
import { listBatches, readBatch, readControl } from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { type Account, createPayerRig, HOUR_MS, type PayerRig } from '../../tools/payer-rig.ts';
import { addressOf, MAIN, type Said, sitAt } from './pool-books.ts';

const COIN = 100_000_000n;
/** Three rewards, all spendable. */
const WALLET_SATS = 150n * COIN;
const MINER_SATS = 5n * COIN;
/** Somebody's outside the wallet. */
const BANK = addressOf(42);

for (const kind of SERVER_KINDS) {
  describe(`withdrawals on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    let rig: PayerRig;
    let miner: Account;

    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    /** Books in which every coin of the wallet stands: a miner's part, and all the rest the operator's. */
    beforeEach(async () => {
      db = await server.freshDatabase();
      rig = await createPayerRig(db);
      miner = await rig.account('miner');
      await rig.credit([{ accountId: miner.accountId, sats: MINER_SATS }]);
      const rest = WALLET_SATS - MINER_SATS;
      const said = await desk().ledger('fund', 'main', `${rest} sat`, '--reason', 'begin', '--yes');
      assert.equal(said.exitCode, 0, said.faults.join());
    });
    afterEach(() => rig.stop());

    const desk = (wallet: Desk['wallet'] = rig.wallet) =>
      sitAt(db, { wallet, pools: [MAIN], clock: { nowMs: () => rig.nowMs() } });
    const withdraw = (amount: string, txid: string, ...more: string[]): Promise<Said> =>
      desk().ledger('withdraw', amount, '--txid', txid, '--reason', 'income of May', ...more);
    const spend = (btc: string): Promise<string> => rig.call('sendtoaddress', [BANK, btc]);
    const walletSats = async (): Promise<bigint> => {
      const { mine } = await rig.call('getbalances');
      const sats = (btc: number): bigint => BigInt(Math.round(btc * 1e8));
      return sats(mine.trusted) + sats(mine.untrusted_pending) + sats(mine.immature);
    };
    /** Nothing is under way: what the books say has come in and not gone out lies in the wallet, to the satoshi. */
    const agree = async (): Promise<void> => {
      const sums = await sumBalances(db);
      const booked = -(sums.chain + sums.deposit + sums.paid + sums['network-fee']);
      assert.equal(await walletSats(), booked);
      assert.equal((await auditLedger(db)).ok, true);
    };

    test('spent by hand, halted, booked, released: payouts go on, and wallet and books agree to the satoshi', async () => {
      const payer = rig.payer();
      await payer.cycle();
      await rig.mine(6);
      await payer.cycle();
      assert.equal((await listBatches(db, { limit: 1 }))[0]?.state, 'settled');
      await agree();

      const txid = await spend('1.25');
      await payer.cycle();
      assert.equal(payer.status().state, 'halted');
      assert.match((await readControl(db)).haltReason, new RegExp(txid));
      const early = await withdraw('1.25 BTC', txid, '--yes');
      assert.deepEqual([early.exitCode, /is not in a block/.test(early.faults.join())], [1, true]);
      await rig.mine(1);

      const before = await sumBalances(db);
      assert.equal((await withdraw('1.25 BTC', txid)).exitCode, 1, 'no yes');
      const wrong = await withdraw('1.24999999 BTC', txid, '--yes');
      assert.match(
        wrong.faults.join(),
        /moves 1\.25000000 BTC out of the wallet, not 1\.24999999 BTC/,
      );
      const dear = await withdraw('1.25 BTC', txid, '--fee', '1 sat', '--yes');
      assert.match(dear.faults.join(), /The network fee of [0-9a-f]{64} is 0\.0000/);
      assert.deepEqual(await sumBalances(db), before, 'nothing was booked');

      const said = await withdraw('1.25 BTC', txid.toUpperCase(), '--yes');
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      assert.match(
        said.out[0]!,
        /^Posting \d+: 1\.25000000 BTC taken out by the operator, and \d+\.\d{8} BTC left in the account "operator"/,
      );
      const now = await sumBalances(db);
      const feeSats = now['network-fee'] - before['network-fee'];
      assert.equal(now.operator, before.operator - 125_000_000n);
      assert.equal(now.paid, before.paid + 125_000_000n);
      assert.equal(now.expense, before.expense - feeSats);
      const fee = BigInt(Math.round((await rig.call('gettransaction', [txid])).fee * -1e8));
      assert.ok(fee > 0n && fee === feeSats);
      await agree();
      const [note] = await listNotes(db, { limit: 1 });
      assert.deepEqual(
        [note?.actor, note?.action, note?.detail.transaction, note?.detail.sats],
        ['operator ada', 'withdraw', txid, '125000000'],
      );

      for (const [amount, more] of [
        ['1.25 BTC', []],
        ['1.25 BTC', ['--fee', `${fee} sat`]],
      ] as const) {
        const again = await withdraw(amount, txid, '--yes', ...more);
        assert.deepEqual([again.exitCode, /booked already/.test(again.faults.join())], [1, true]);
      }
      const reworded = await desk().ledger(
        ...['withdraw', '1.25 BTC', '--txid', txid, '--reason', 'another', '--yes'],
      );
      assert.match(reworded.faults.join(), /booked already, with another/);
      assert.deepEqual(await sumBalances(db), now);

      await payer.cycle();
      assert.equal(payer.status().state, 'halted', 'a person lets them go on');
      const released = await desk().payout('release', '--reason', 'it was mine', '--yes');
      assert.equal(released.exitCode, 0);
      await rig.credit([{ accountId: miner.accountId, sats: 30_000n }]);
      // The money of this credit is the operator's, put in before.
      await db.transaction((tx) =>
        postLedger(tx, {
          key: 'test:evens',
          kind: 'manual',
          atMs: rig.nowMs(),
          actor: 'test',
          entries: [
            { account: { kind: 'operator' }, sats: -30_000n },
            { account: { kind: 'deposit' }, sats: 30_000n },
          ],
        }),
      );
      await rig.pass(HOUR_MS);
      await rig.mine(6);
      await payer.cycle();
      await rig.mine(6);
      await payer.cycle();
      assert.deepEqual(payer.status().alarms, []);
      const [last] = await listBatches(db, { limit: 1 });
      assert.deepEqual([last?.state, last?.totalSats], ['settled', 30_000n]);
      assert.equal(rig.paidTo(miner.script), MINER_SATS + 30_000n);
      await agree();
    });

    test('not more than is the operator’s, after what the pool has borne', async () => {
      const txid = await spend('144.9');
      await rig.mine(1);
      const lossSats = COIN;
      await db.transaction((tx) =>
        postLedger(tx, {
          key: 'test:loss',
          kind: 'loss',
          atMs: rig.nowMs(),
          actor: 'test',
          entries: [
            { account: { kind: 'chain' }, sats: lossSats },
            { account: { kind: 'loss' }, sats: -lossSats },
          ],
        }),
      );
      const before = await sumBalances(db);
      const said = await withdraw('144.9 BTC', txid, '--yes');
      assert.equal(said.exitCode, 1);
      assert.match(
        said.faults.join(),
        /at most 144\.00000000 BTC may be taken; nothing was booked/,
      );
      assert.match(said.faults.join(), /1\.00000000 BTC were lost/);
      assert.deepEqual(await sumBalances(db), before);
      const { fee } = await rig.call('gettransaction', [txid]);
      const missing = 90_000_000n + BigInt(Math.round(fee * -1e8));
      const fund = (sats: bigint, reason: string): Promise<Said> =>
        desk().ledger('fund', 'main', `${sats} sat`, '--reason', reason, '--yes');
      await fund(missing - 1n, 'put back');
      assert.equal(
        (await withdraw('144.9 BTC', txid, '--yes')).exitCode,
        1,
        'a satoshi is missing',
      );
      await fund(1n, 'put back');
      assert.equal((await withdraw('144.9 BTC', txid, '--yes')).exitCode, 0);
      const { operator, expense, loss } = await sumBalances(db);
      assert.equal(operator + expense + loss, 0n);
      // Whatever the expenses are: never below nothing.
      const much = await desk(null).ledger(
        ...['withdraw', '150 BTC', '--txid', 'ab'.repeat(32), '--fee', '1 sat'],
        ...['--reason', 'x', '--yes'],
      );
      assert.match(much.faults.join(), /at most 0\.00000000 BTC/);
    });

    test('what a PPS pool has earned is taken from its reserve, and not more than is in it', async () => {
      const pools = [MAIN, { ...MAIN, id: 'steady', scheme: 'pps' as const }];
      const says = (...argv: string[]): Promise<Said> =>
        sitAt(db, { wallet: rig.wallet, pools, clock: { nowMs: () => rig.nowMs() } }).ledger(
          ...argv,
        );
      const txid = await spend('3');
      await rig.mine(1);
      const take = (...more: string[]): Promise<Said> =>
        says('withdraw', '3 BTC', '--txid', txid, '--reason', 'gain', '--yes', ...more);
      assert.match((await take('--pool', 'main')).faults.join(), /pool main has no reserve/);
      assert.match((await take('--pool', 'nobody')).faults.join(), /there is no pool "nobody"/);
      const { operator } = await sumBalances(db);
      await says('fund', 'steady', '2.99999999 BTC', '--reason', 'begin', '--yes');
      const tooMuch = await take('--pool', 'steady');
      assert.equal(tooMuch.exitCode, 1);
      assert.match(tooMuch.faults.join(), /at most 2\.99999999 BTC may be taken/);
      await says('fund', 'steady', '1 BTC', '--reason', 'more', '--yes');
      const said = await take('--pool', 'steady');
      assert.equal(said.exitCode, 0, said.faults.join());
      assert.match(said.out.join(), /0\.99999999 BTC left in the reserve of pool steady/);
      const sums = await sumBalances(db);
      assert.deepEqual([sums.operator, sums.reserve], [operator, 99_999_999n]);
      assert.equal((await auditLedger(db)).ok, true);
      assert.match((await take()).faults.join(), /booked already/);
    });

    test('transactions that are none of the operator’s are refused', async () => {
      const payer = rig.payer();
      await payer.cycle();
      await rig.mine(1);
      const txid = await spend('2');
      await rig.mine(1);
      const own = (await readBatch(db, 1n))!.generations[0]!.txid!;
      const ownDisplay = Buffer.from(own).reverse().toString('hex');
      const paid = await withdraw('5 BTC', ownDisplay, '--yes');
      assert.match(paid.faults.join(), /is payout batch 1 of the pool/);
      const strange = await withdraw('2 BTC', 'ab'.repeat(32), '--yes', '--fee', '1 sat');
      assert.match(strange.faults.join(), /The wallet knows no transaction/);
      rig.devnet.fund(await rig.call('getnewaddress'), 3n * COIN);
      await rig.mine(1);
      const { transactions } = await rig.call('listsinceblock', ['', 1]);
      const received = transactions.find(
        (one: { category: string; amount: number }) =>
          one.category === 'receive' && one.amount === 3,
      );
      const got = await withdraw('3 BTC', received.txid, '--yes');
      assert.match(got.faults.join(), /moves nothing out of the wallet/);
      for (const bad of ['ab', `${'ab'.repeat(31)}zz`])
        assert.equal((await withdraw('2 BTC', bad, '--yes')).exitCode, 2);
      assert.equal((await withdraw('2', txid, '--yes')).exitCode, 2, 'no unit');
      assert.equal((await withdraw('0 BTC', txid, '--yes')).exitCode, 2);
      assert.equal((await withdraw('2 BTC', txid, '--fee', '1', '--yes')).exitCode, 2);
    });

    test('where no wallet answers, the operator names the fee, and it is booked on his word', async () => {
      const txid = await spend('2');
      await rig.mine(1);
      rig.setMood('down');
      const silent = await withdraw('2 BTC', txid, '--yes');
      assert.equal(silent.exitCode, 1);
      assert.match(silent.faults.join(), /the wallet does not answer \(down\)\. With --fee AMOUNT/);
      const none = await desk(null).ledger(
        ...['withdraw', '2 BTC', '--txid', txid, '--reason', 'x', '--yes'],
      );
      assert.match(none.faults.join(), /there is no wallet to ask/);
      rig.setMood('ok');
      const { fee } = await rig.call('gettransaction', [txid]);
      rig.setMood('down');
      const said = await withdraw('2 BTC', txid, '--fee', `${-fee} BTC`, '--yes');
      assert.deepEqual([said.exitCode, said.faults], [0, []]);
      rig.setMood('ok');
      await agree();
      const payer = rig.payer();
      await payer.cycle();
      assert.notEqual(payer.status().state, 'halted');
    });

    test('acknowledged before it is booked, and booked by two at once: once', async () => {
      const payer = rig.payer();
      await payer.cycle();
      await rig.mine(6);
      await payer.cycle();
      const txid = await spend('2');
      await rig.mine(1);
      await payer.cycle();
      assert.equal(payer.status().state, 'halted');
      await desk().payout('acknowledge', txid, '--reason', 'mine', '--yes');
      const both = await Promise.all([
        withdraw('2 BTC', txid, '--yes'),
        withdraw('2 BTC', txid, '--yes'),
      ]);
      assert.deepEqual(both.map(({ exitCode }) => exitCode).sort(), [0, 1]);
      await agree();
    });
  });
}
