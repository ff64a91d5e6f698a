/** What must stop payouts or make them wait: foreign spends, missing money, a wallet that cannot sign, the kill switch, two payers. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import type { Payer } from '../../../src/services/payoutd/payer.ts';
import {
  holdPayouts,
  listBatches,
  noteSpend,
  readBatch,
  readControl,
  releaseBatch,
  releasePayouts,
} from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import {
  createPayerRig,
  HOUR_MS,
  Killed,
  MINUTE_MS,
  type PayerRig,
  scriptOf,
} from '../../tools/payer-rig.ts';

const deed = { actor: 'operator', reason: 'looked at', atMs: 0 };
const thief = encodeAddress(scriptOf('thief'), 'regtest') as string;

let server: TestServer;
let db: Db;
let rig: PayerRig;

before(async () => {
  server = await SERVER_KINDS[0]!.start();
});
after(() => server.stop());
beforeEach(async () => {
  db = await server.freshDatabase();
  rig = await createPayerRig(db);
});
afterEach(() => rig.stop());

const stateOf = async (batchId = 1n): Promise<string | undefined> =>
  (await readBatch(db, batchId))?.state;
const codes = (payer: Payer): string[] => payer.status().alarms.map((one) => one.code);

async function owed(sats = 5_000_000n, seed = 'miner') {
  const account = await rig.account(seed);
  await rig.credit([{ accountId: account.accountId, sats }]);
  return account;
}

async function untilKilled(payer: Payer): Promise<void> {
  await assert.rejects(payer.cycle(), Killed);
}

/** Spends, beside the payer, the very coins a batch has. */
async function stealCoins(feeRate = 50): Promise<void> {
  const batch = await readBatch(db, 1n);
  const inputs = (batch?.inputs ?? []).map((input) => ({
    txid: Buffer.from(input.txid).reverse().toString('hex'),
    vout: input.vout,
  }));
  const { psbt } = await rig.call('walletcreatefundedpsbt', [
    inputs,
    [{ [thief]: '1.0' }],
    0,
    { add_inputs: false, fee_rate: String(feeRate) },
  ]);
  const { hex } = await rig.call('walletprocesspsbt', [psbt]);
  await rig.call('sendrawtransaction', [hex]);
}

test('a foreign spend of a payout’s coins: manual and halted; released only when it is deep, and paid anew', async () => {
  const account = await owed();
  await rig.payer().cycle();
  await untilKilled(rig.payer({}, { point: 'payout.seen' }));
  rig.devnet.forgetMempool();
  await stealCoins();
  const payer = rig.payer();
  await payer.cycle();
  assert.equal((await readControl(db)).halted, true);
  await rig.mine(1);
  await payer.cycle();
  assert.equal(await stateOf(), 'manual');
  const early = await releaseBatch(db, 1n, deed);
  assert.ok(!early.ok && /may still confirm/.test(early.reason));
  await rig.mine(5);
  await payer.cycle();
  assert.deepEqual(await releaseBatch(db, 1n, deed), { ok: true });
  assert.equal(await rig.balance('miner'), 5_000_000n);
  assert.equal(await rig.balance('transit'), 0n);
  await payer.cycle();
  assert.equal((await listBatches(db, { limit: 9 })).length, 1, 'halted: nothing is made');
  const spent = (await rig.call('listsinceblock', ['', 1])).transactions.filter(
    (one: { address: string }) => one.address === thief,
  );
  await noteSpend(db, spent[0].txid, { ...deed, reason: 'the owner took a coin' });
  await releasePayouts(db, deed);
  await rig.pass(HOUR_MS);
  await payer.cycle();
  assert.deepEqual(codes(payer), []);
  await rig.mine(6);
  await payer.cycle();
  assert.equal(await stateOf(2n), 'settled');
  assert.equal(rig.paidTo(account.script), 5_000_000n);
});

test('a foreign spend that a reorganisation takes back: the payout comes out of manual by itself', async () => {
  const account = await owed();
  await rig.payer().cycle();
  const raw = (await readBatch(db, 1n))?.generations[0]?.raw as Uint8Array;
  rig.devnet.forgetMempool();
  await stealCoins();
  await rig.mine(1);
  const payer = rig.payer();
  await payer.cycle();
  await payer.cycle();
  assert.equal(await stateOf(), 'manual');
  await rig.devnet.reorganise(1);
  rig.devnet.forgetMempool();
  await rig.mineWith([raw]);
  await rig.mine(5);
  await payer.cycle();
  assert.equal(await stateOf(), 'settled');
  assert.equal((await readControl(db)).halted, true, 'a person has to look all the same');
  await rig.judge([account]);
});

test('a spend of the wallet that is not in the books halts; explained, payouts go on', async () => {
  const payer = rig.payer();
  await payer.cycle();
  const txid = await rig.call('sendtoaddress', [thief, '0.5']);
  await owed();
  await rig.pass(HOUR_MS);
  await payer.cycle();
  assert.equal(payer.status().state, 'halted');
  assert.match((await readControl(db)).haltReason, new RegExp(txid));
  assert.equal((await listBatches(db, { limit: 9 })).length, 0);
  assert.ok(!(await noteSpend(db, 'no such thing', deed)).ok);
  await noteSpend(db, txid, deed);
  await releasePayouts(db, deed);
  await payer.cycle();
  assert.equal(await stateOf(), 'broadcast');
});

test('what left the wallet before the first cycle is no doubt', async () => {
  await rig.call('sendtoaddress', [thief, '0.5']);
  await rig.mine(1);
  await owed();
  const payer = rig.payer();
  await payer.cycle();
  assert.equal(await stateOf(), 'broadcast');
  await payer.cycle();
  assert.equal(payer.status().state, 'ready');
});

test('more owed than the wallet has: nobody is paid a part, payouts halt, and run again when it is made good', async () => {
  await owed(16_000_000_000n);
  const payer = rig.payer();
  await payer.cycle();
  assert.deepEqual(codes(payer), ['assets-short']);
  assert.equal((await listBatches(db, { limit: 9 })).length, 0);
  await rig.pass(MINUTE_MS);
  await payer.cycle();
  assert.deepEqual(codes(payer).sort(), ['assets-short', 'halted']);
  rig.devnet.fund(await rig.call('getnewaddress'), 1_500_000_000n);
  await rig.mine(6);
  await releasePayouts(db, deed);
  await payer.cycle();
  assert.deepEqual(codes(payer), []);
  assert.equal((await readBatch(db, 1n))?.totalSats, 16_000_000_000n);
});

test('a row added to the ledger by hand halts payouts that are already reserved', async () => {
  await owed();
  await untilKilled(rig.payer({}, { point: 'payout.reserved' }));
  await owed(1_000_000_000_000n, 'forged');
  const payer = rig.payer();
  await payer.cycle();
  await rig.pass(MINUTE_MS);
  await payer.cycle();
  assert.equal(payer.status().state, 'halted');
  assert.equal(await stateOf(), 'reserved');
  assert.equal(rig.devnet.mempool.entries.size, 0);
});

test('rewards made immature by a reorganisation: payouts pause and go on, without a person', async () => {
  const payer = rig.payer();
  await payer.cycle();
  // Three rewards of 50; the last is spendable from this very block on.
  await owed(14_999_000_000n);
  await rig.devnet.reorganise(2);
  await rig.pass(HOUR_MS);
  const tip = rig.devnet.chain.tip.height;
  await rig.devnet.call('invalidateblock', [rig.devnet.chain.active[tip - 3]?.id]);
  await payer.cycle();
  assert.deepEqual(codes(payer), ['assets-short']);
  await rig.mine(8);
  await payer.cycle();
  assert.deepEqual(codes(payer), []);
  assert.equal(await stateOf(), 'broadcast');
});

test('the pool has no money of its own for the fee: an alarm, and payment in full when it has', async () => {
  const account = await owed(15_000_000_000n);
  const payer = rig.payer();
  await payer.cycle();
  assert.deepEqual(codes(payer), ['insufficient-funds']);
  assert.equal(await stateOf(), 'reserved');
  rig.devnet.fund(await rig.call('getnewaddress'), 10_000_000n);
  await rig.mine(6);
  await payer.cycle();
  await rig.mine(6);
  await payer.cycle();
  assert.equal(rig.paidTo(account.script), 15_000_000_000n);
  await rig.judge([account]);
});

test('coins that are not deep yet are waited for, without an alarm', async () => {
  const payer = rig.payer();
  await payer.cycle();
  const spare = await rig.call('getnewaddress');
  const txid = await rig.call('sendtoaddress', [spare, '149.9']);
  await noteSpend(db, txid, { ...deed, reason: 'gathered' });
  await rig.mine(1);
  const account = await owed();
  await rig.pass(HOUR_MS);
  await payer.cycle();
  assert.deepEqual(codes(payer), []);
  assert.equal(await stateOf(), 'reserved');
  assert.match((await readBatch(db, 1n))?.reason ?? '', /not deep enough/);
  await rig.mine(5);
  await payer.cycle();
  assert.equal(await stateOf(), 'broadcast');
  await rig.mine(6);
  await payer.cycle();
  assert.equal(rig.paidTo(account.script), 5_000_000n);
});

test('a wallet that is not loaded is loaded; one that is gone, locked, or only watches is an alarm', async () => {
  await owed();
  const payer = rig.payer();
  await rig.call('unloadwallet', []);
  await payer.cycle();
  assert.equal(await stateOf(), 'broadcast');
  await rig.mine(6);
  await payer.cycle();
  await owed();
  await rig.pass(HOUR_MS);
  const info = await rig.call('getwalletinfo');
  for (const [fields, code] of [
    [{ unlocked_until: 0 }, 'wallet-locked'],
    [{ private_keys_enabled: false }, 'wallet-without-keys'],
    [{ scanning: { duration: 3, progress: 0.5 } }, 'wallet-scanning'],
  ] as const) {
    rig.answer('getwalletinfo', () => ({ kind: 'result', result: { ...info, ...fields } }));
    await payer.cycle();
    assert.deepEqual(codes(payer), [code]);
  }
  rig.answer('getwalletinfo', () => ({ kind: 'error', code: -18, message: 'not loaded' }));
  await payer.cycle();
  assert.deepEqual(codes(payer), ['wallet-missing']);
  rig.answer('getwalletinfo', null);
  rig.answer('walletprocesspsbt', () => ({ kind: 'error', code: -13, message: 'passphrase' }));
  await payer.cycle();
  assert.deepEqual(codes(payer), ['wallet-locked']);
  assert.equal(await stateOf(2n), 'built');
  rig.answer('walletprocesspsbt', null);
  rig.answer('getblockchaininfo', () => ({ kind: 'unreachable', detail: 'down' }));
  await payer.cycle();
  assert.deepEqual(codes(payer), ['node-unreachable']);
  rig.answer('getblockchaininfo', null);
  await payer.cycle();
  assert.deepEqual(codes(payer), []);
  assert.equal(await stateOf(2n), 'broadcast');
});

test('a wallet that makes something else than was asked is refused', async () => {
  await owed();
  const payer = rig.payer();
  const other = await rig.call('walletcreatefundedpsbt', [[], [{ [thief]: '0.05' }], 0, {}]);
  const double = await rig.call('walletcreatefundedpsbt', [
    [],
    [{ [(await rig.account('miner')).address]: '0.05' }, { [thief]: '0.01' }],
    0,
    { changePosition: 2 },
  ]);
  for (const lie of [other, double, { psbt: 'cHNidP8=' }, { psbt: 7 }]) {
    rig.answer('walletcreatefundedpsbt', () => ({ kind: 'result', result: lie }));
    await payer.cycle();
    assert.equal(await stateOf(), 'reserved');
    assert.equal(codes(payer).length, 1);
  }
  rig.answer('walletcreatefundedpsbt', null);
  await payer.cycle();
  assert.equal(await stateOf(), 'broadcast');
});

test('a fee above its cap: given back and planned again when it is fair', async () => {
  const account = await owed(200_000n);
  rig.devnet.setFeeEstimate(80_000n);
  const payer = rig.payer();
  await payer.cycle();
  assert.equal((await listBatches(db, { limit: 9 })).length, 0);
  // It was fair when it was planned, and is not when it is built.
  rig.devnet.setFeeEstimate(20_000n);
  await rig.pass(HOUR_MS);
  await untilKilled(rig.payer({}, { point: 'payout.planned' }));
  rig.devnet.setFeeEstimate(40_000n);
  await payer.cycle();
  assert.deepEqual(codes(payer), ['fee-too-high']);
  assert.equal(await stateOf(), 'released');
  assert.equal(await rig.balance('miner'), 200_000n);
  rig.devnet.setFeeEstimate(1_000n);
  await rig.pass(HOUR_MS);
  await payer.cycle();
  await rig.mine(6);
  await payer.cycle();
  assert.equal(rig.paidTo(account.script), 200_000n);
  await rig.judge([account]);
});

test('the kill switch holds at every step, and nothing is lost by it', async () => {
  const points = [
    'payout.planning',
    'payout.planned',
    'payout.reserved',
    'payout.funded',
    'payout.built',
    'payout.signedInMemory',
    'payout.signed',
  ];
  for (const [at, point] of points.entries()) {
    const account = await owed(1_000_000n, `halt ${at}`);
    await rig.pass(HOUR_MS);
    // Thrown by the switch itself at that very moment: what runs on must not get through.
    const batchesBefore = (await listBatches(db, { limit: 99 })).length;
    const halting = rig.payer({}, { point });
    await untilKilled(halting);
    await holdPayouts(db, { actor: 'operator', reason: 'stop', atMs: rig.nowMs() });
    for (const payer of [rig.payer(), rig.payer()]) {
      await payer.cycle();
      assert.equal(payer.status().state, 'halted');
    }
    await rig.mine(1);
    assert.equal(rig.paidTo(account.script), 0n, point);
    assert.ok((await listBatches(db, { limit: 99 })).length <= batchesBefore + 1);
    await releasePayouts(db, deed);
    const payer = rig.payer();
    await payer.cycle();
    await rig.mine(6);
    await payer.cycle();
    assert.equal(rig.paidTo(account.script), 1_000_000n, point);
  }
});

test('the switch is thrown while a step is on its way: the mark that would send is not made', async () => {
  const account = await owed();
  const policy: Partial<PayoutPolicy> = {};
  await untilKilled(rig.payer(policy, { point: 'payout.signed' }));
  const payer = rig.payer();
  rig.answer('listlockunspent', () => {
    void holdPayouts(db, { actor: 'operator', reason: 'stop', atMs: rig.nowMs() });
    return { kind: 'error', code: -1, message: 'busy' };
  });
  await payer.cycle();
  await payer.cycle();
  assert.equal(await stateOf(), 'signed');
  assert.equal(rig.paidTo(account.script), 0n);
  assert.equal(rig.devnet.mempool.entries.size, 0);
});

test('released by the operator before it was signed: the money is back, the coins are free', async () => {
  await owed();
  await untilKilled(rig.payer({}, { point: 'payout.locked' }));
  assert.equal((await rig.call('listlockunspent')).length, 1);
  assert.deepEqual(await releaseBatch(db, 1n, deed), { ok: true });
  assert.equal(await rig.balance('miner'), 5_000_000n);
  const again = await releaseBatch(db, 1n, deed);
  assert.ok(!again.ok);
  const payer = rig.payer();
  await payer.cycle();
  assert.equal((await rig.call('listlockunspent')).length, 0);
  await rig.pass(HOUR_MS);
  await payer.cycle();
  assert.equal(await stateOf(2n), 'broadcast');
  const sent = await releaseBatch(db, 2n, deed);
  assert.ok(!sent.ok && /may be out there/.test(sent.reason));
});

test('two payers who both believe to be alone', async () => {
  const accounts = [];
  for (let round = 0; round < 6; round += 1) {
    accounts.push(await owed(3_000_000n, `both ${round}`));
    await rig.pass(HOUR_MS);
    const payers = [rig.payer({ bumpAfterMs: 1 }), rig.payer({ bumpAfterMs: 1 })];
    for (let turn = 0; turn < 4; turn += 1) {
      await Promise.all(payers.map((payer) => payer.cycle()));
      await rig.pass(MINUTE_MS);
    }
    await rig.mine(6);
    await Promise.all(payers.map((payer) => payer.cycle()));
  }
  await rig.payer().cycle();
  assert.equal(await rig.balance('miner'), 0n);
  assert.equal((await readControl(db)).halted, false);
  await rig.judge(accounts);
});
