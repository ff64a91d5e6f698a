/** The wallet a payer needs: addresses, balances, payments, PSBTs, replacement, locks, reorganisations, restarts. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { type Caller, callerOf, startQuietDevnet } from './nodes.ts';

const types = ['legacy', 'p2sh-segwit', 'bech32', 'bech32m'];
let devnet: Devnet;
let call: Caller;
/** Calls a method of the wallet `pool`. */
const pool: Caller = (method, params) => call(method, params, '/wallet/pool');

before(async () => {
  devnet = await startQuietDevnet({ initialBlocks: 120, seed: 'wallet' });
  call = callerOf(devnet.rpcUrl);
  await call('createwallet', ['pool']);
  for (const type of types)
    devnet.fund((await pool('getnewaddress', ['funding', type])).result, 500_000_000n);
  await devnet.generate(1);
});

after(() => devnet.stop());

async function freshAddress(type = 'bech32'): Promise<string> {
  return (await pool('getnewaddress', ['', type])).result;
}

test('addresses of four types are ours, differ, and are described', async () => {
  const prefixes = { legacy: /^[mn]/, 'p2sh-segwit': /^2/, bech32: /^bcrt1q/, bech32m: /^bcrt1p/ };
  for (const [type, prefix] of Object.entries(prefixes)) {
    const address = await freshAddress(type);
    assert.match(address, prefix);
    assert.notEqual(address, await freshAddress(type));
    const info = (await pool('getaddressinfo', [address])).result;
    assert.equal(info.ismine, true);
    assert.equal(info.ischange, false);
    assert.equal(info.iswitness, type.startsWith('bech32'));
  }
  const foreign = (await pool('getaddressinfo', ['bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk']))
    .result;
  assert.equal(foreign.ismine, false);
  assert.equal((await pool('getaddressinfo', ['bc1qxyz'])).error?.code, -5);
  assert.equal((await pool('getnewaddress', ['', 'p2pk'])).error?.code, -5);
});

test('balances are printed with eight decimals and add up', async () => {
  const reply = await pool('getbalances');
  assert.match(reply.text, /"trusted":20\.00000000,"untrusted_pending":0\.00000000/);
  assert.match((await pool('getbalance')).text, /"result":20\.00000000,/);
  const unspent = (await pool('listunspent')).result;
  assert.equal(unspent.length, 4);
  assert.ok(
    unspent.every(
      (coin: { amount: number; label: string }) => coin.amount === 5 && coin.label === 'funding',
    ),
  );
});

test('sendmany spends every type, pays exactly, and is seen by the wallet as it confirms', async () => {
  const amounts: Record<string, unknown> = {};
  const targets = types.map(() => '');
  for (const [at, type] of types.entries()) targets[at] = (await callNew('other', type)) as string;
  targets.forEach((address, at) => {
    amounts[address] = `0.0000${1000 + at}`;
  });
  amounts[targets[3]] = 18.5;
  const sent = await pool('sendmany', ['', amounts, 0, 'round 1', [], true, null, 'unset', 3.5]);
  assert.equal(sent.error, null, sent.text);
  let tx = (await pool('gettransaction', [sent.result, true, true])).result;
  assert.equal(tx.confirmations, 0);
  assert.equal(tx.comment, 'round 1');
  assert.equal(tx['bip125-replaceable'], 'yes');
  assert.equal(tx.details.length, 4);
  const rate = (-tx.fee * 1e8) / tx.decoded.vsize;
  assert.ok(rate >= 3.5 && rate < 3.6, `${rate} sat/vB`);
  await devnet.generate(1);
  tx = (await pool('gettransaction', [sent.result])).result;
  assert.equal(tx.confirmations, 1);
  assert.equal(tx.blockhash, devnet.chain.tip.id);
  assert.equal(tx.blockindex, 1);
  assert.match((await call('getbalances', [], '/wallet/other')).text, /"trusted":18\.50003003,/);
  const listed = (await pool('listtransactions', ['*', 4])).result;
  assert.deepEqual(
    new Set(listed.map((entry: { txid: string }) => entry.txid)),
    new Set([sent.result]),
  );
});

async function callNew(wallet: string, type: string): Promise<unknown> {
  if (!(await call('listwallets')).result.includes(wallet)) await call('createwallet', [wallet]);
  return (await call('getnewaddress', ['', type], `/wallet/${wallet}`)).result;
}

test('wallets are chosen by path, and amounts are exact or refused', async () => {
  const address = await callNew('other', 'bech32');
  assert.equal((await call('getbalance')).error?.code, -19);
  assert.equal((await call('getbalance', [], '/wallet/none')).error?.code, -18);
  assert.equal((await call('createwallet', ['pool'])).error?.code, -4);
  assert.equal((await call('loadwallet', ['pool'])).error?.code, -35);
  assert.equal((await call('loadwallet', ['none'])).error?.code, -18);
  assert.equal((await call('createwallet', ['../x'])).error?.code, -4);
  assert.equal((await pool('sendtoaddress', [address, '0.000000001'])).error?.code, -3);
  assert.equal((await pool('sendtoaddress', [address, -1])).error?.code, -3);
  assert.equal((await pool('sendtoaddress', [address, 0])).error?.code, -3);
  assert.equal((await pool('sendtoaddress', [address, 1e9])).error?.code, -3);
  assert.equal((await pool('sendtoaddress', [address, 1000])).error?.code, -6);
  assert.equal((await pool('sendtoaddress', ['bc1qnotregtest', 1])).error?.code, -5);
  assert.equal(
    (await pool('sendtoaddress', [address, '0.5', '', '', false, true, null, 'unset', null, 0.5]))
      .error?.code,
    -4,
  );
});

test('a PSBT goes from plan to chain: funded, locked, signed, finalised, sent twice', async () => {
  await topUp();
  const address = (await callNew('other', 'bech32m')) as string;
  const funded = await pool('walletcreatefundedpsbt', [
    [],
    [{ [address]: '0.12345678' }, { data: 'c0ffee' }],
    0,
    { fee_rate: 7, lockUnspents: true, changePosition: 0, replaceable: true },
  ]);
  assert.equal(funded.error, null, funded.text);
  assert.equal(funded.result.changepos, 0);
  const locked = (await pool('listlockunspent')).result;
  assert.ok(locked.length >= 1);
  const plan = (await pool('decodepsbt', [funded.result.psbt])).result;
  assert.equal(plan.fee, funded.result.fee);
  assert.equal(plan.tx.vout[1].value, 0.12345678);
  assert.equal(plan.tx.vout[2].scriptPubKey.type, 'nulldata');

  const unsigned = (await pool('walletprocesspsbt', [funded.result.psbt, false])).result;
  assert.equal(unsigned.complete, false);
  const half = (await pool('walletprocesspsbt', [funded.result.psbt, true, 'DEFAULT', true, false]))
    .result;
  assert.equal(half.complete, true);
  assert.equal(half.hex, undefined);
  const final = (await call('finalizepsbt', [half.psbt])).result;
  assert.equal(final.complete, true);
  const whole = (await pool('walletprocesspsbt', [funded.result.psbt])).result;
  assert.equal(whole.complete, true);
  assert.equal((await call('finalizepsbt', [whole.psbt])).result.hex, whole.hex);
  assert.equal((await call('combinepsbt', [[funded.result.psbt, half.psbt]])).error, null);

  const accepted = (await call('testmempoolaccept', [[final.hex]])).result[0];
  assert.equal(accepted.allowed, true);
  assert.equal(accepted.fees.base, funded.result.fee);
  const id = (await call('sendrawtransaction', [final.hex])).result;
  assert.equal(
    (await call('sendrawtransaction', [final.hex])).result,
    id,
    'sending again is harmless',
  );
  await devnet.generate(1);
  assert.equal((await call('sendrawtransaction', [final.hex])).error?.code, -27);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 1);
  await pool('lockunspent', [true]);
  assert.deepEqual((await pool('listlockunspent')).result, []);
});

test('PSBTs of all four input types are signed and spendable', async () => {
  await topUp();
  for (const type of types) {
    const address = await freshAddress(type);
    const funding = devnet.fund(address, 10_000_000n);
    await devnet.generate(1);
    const coin = (await pool('listunspent', [1, 999, [address]])).result[0];
    assert.equal(coin.txid, funding);
    const funded = await pool('walletcreatefundedpsbt', [
      [{ txid: coin.txid, vout: coin.vout }],
      { [await freshAddress()]: 0.1 },
      0,
      { subtractFeeFromOutputs: [0], fee_rate: 2, add_inputs: false },
    ]);
    assert.equal(funded.error, null, `${type}: ${funded.text}`);
    const signed = (await pool('walletprocesspsbt', [funded.result.psbt])).result;
    assert.equal(signed.complete, true, type);
    assert.equal((await call('sendrawtransaction', [signed.hex])).error, null, type);
  }
  await devnet.generate(1);
  assert.equal(devnet.mempool.entries.size, 0);
});

test('a raw transaction is drafted, signed by the wallet, and refused where keys are missing', async () => {
  await topUp();
  const coin = (await pool('listunspent')).result[0];
  const draft = (
    await call('createrawtransaction', [
      [{ txid: coin.txid, vout: coin.vout }],
      { [await freshAddress()]: (coin.amount - 0.001).toFixed(8) },
    ])
  ).result;
  const stranger = (await call('signrawtransactionwithwallet', [draft], '/wallet/other')).result;
  assert.equal(stranger.complete, false);
  assert.equal(stranger.errors.length, 1);
  const signed = (await pool('signrawtransactionwithwallet', [draft])).result;
  assert.equal(signed.complete, true);
  assert.equal((await call('sendrawtransaction', [signed.hex])).error, null);
  await devnet.generate(1);
});

test('bumpfee replaces once, pays the same outputs, and never both', async () => {
  await topUp();
  const address = (await callNew('other', 'bech32')) as string;
  const id = (await pool('sendtoaddress', [address, '0.3'])).result;
  assert.equal((await pool('bumpfee', [id, { fee_rate: 10.1 }])).error?.code, -8);
  const bumped = await pool('bumpfee', [id, { fee_rate: 40 }]);
  assert.equal(bumped.error, null, bumped.text);
  assert.ok(bumped.result.fee > bumped.result.origfee);
  assert.equal(devnet.mempool.entries.has(id), false);
  const old = (await pool('gettransaction', [id])).result;
  assert.equal(old.replaced_by_txid, bumped.result.txid);
  assert.deepEqual(old.walletconflicts, [bumped.result.txid]);
  assert.equal((await pool('bumpfee', [id])).error?.code, -4);
  const psbt = (await pool('psbtbumpfee', [bumped.result.txid])).result.psbt;
  const next = (await pool('walletprocesspsbt', [psbt])).result;
  assert.equal((await call('sendrawtransaction', [next.hex])).error, null);
  await devnet.generate(1);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, -1);
  assert.equal((await pool('gettransaction', [bumped.result.txid])).result.confirmations, -1);
  const paid = (await call('listunspent', [1, 1, [address]], '/wallet/other')).result;
  assert.equal(paid.length, 1);
  assert.equal(paid[0].amount, 0.3);
});

test('a reorganisation takes a payment back into the mempool, then confirms it again', async () => {
  await topUp();
  const id = (await pool('sendtoaddress', [await freshAddress(), '0.2'])).result;
  const [block] = await devnet.generate(1);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 1);
  await call('invalidateblock', [block]);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 0);
  assert.equal(devnet.mempool.entries.has(id), true);
  await call('reconsiderblock', [block]);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 1);
  await devnet.reorganise(1);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 0);
  await devnet.generate(1);
  assert.equal((await pool('gettransaction', [id])).result.confirmations, 1);
});

test('coinbases are immature for 100 blocks, and orphaned ones are worth nothing', async () => {
  const own = await startQuietDevnet();
  const ask = callerOf(own.rpcUrl);
  await ask('createwallet', ['miner']);
  const address = (await ask('getnewaddress')).result;
  const [first] = (await ask('generatetoaddress', [1, address])).result;
  const coinbase = (await ask('getblock', [first])).result.tx[0];
  assert.equal((await ask('getbalances')).result.mine.immature, 50);
  await own.generate(99);
  assert.equal((await ask('gettransaction', [coinbase])).result.details[0].category, 'immature');
  assert.equal((await ask('getbalance')).result, 0);
  await own.generate(1);
  assert.equal((await ask('gettransaction', [coinbase])).result.details[0].category, 'generate');
  assert.equal((await ask('getbalance')).result, 50);
  await own.reorganise(101);
  assert.equal((await ask('gettransaction', [coinbase])).result.details[0].category, 'orphan');
  assert.equal((await ask('getbalance')).result, 0);
  await own.stop();
});

test('no estimate: Core’s words, and payments need a rate', async () => {
  await topUp();
  devnet.setFeeEstimate(null);
  assert.deepEqual((await call('estimatesmartfee', [6])).result, {
    errors: ['Insufficient data or no feerate found'],
    blocks: 6,
  });
  assert.equal((await pool('sendtoaddress', [await freshAddress(), '0.1'])).error?.code, -4);
  devnet.setFeeEstimate(12_345n);
  assert.equal((await call('estimatesmartfee', [6])).result.feerate, 0.00012345);
});

test('a wallet comes back from disk with its addresses, history and unconfirmed payments', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-wallet-'));
  let own = await startQuietDevnet({ initialBlocks: 105, dataDir });
  let ask = callerOf(own.rpcUrl);
  await ask('createwallet', ['kept']);
  const address = (await ask('getnewaddress', ['mine', 'bech32m'])).result;
  own.fund(address, 100_000_000n);
  await own.generate(1);
  const sent = (await ask('sendtoaddress', [address, '0.25'])).result;
  const balance = (await ask('getbalances')).result.mine;
  await own.stop();

  own = await startQuietDevnet({ initialBlocks: 105, dataDir });
  ask = callerOf(own.rpcUrl);
  assert.deepEqual((await ask('listwalletdir')).result, { wallets: [{ name: 'kept' }] });
  assert.equal((await ask('loadwallet', ['kept'])).error, null);
  assert.deepEqual((await ask('getbalances')).result.mine, balance);
  assert.equal(own.mempool.entries.has(sent), true, 'its own payment is offered again');
  assert.deepEqual((await ask('getaddressinfo', [address])).result.labels, ['mine']);
  assert.notEqual((await ask('getnewaddress', ['', 'bech32m'])).result, address);
  assert.equal((await ask('unloadwallet')).error, null);
  assert.equal((await ask('getbalance')).error?.code, -18);
  await own.stop();
  rmSync(dataDir, { recursive: true });
});

/** Gives the pool a confirmed coin of its own. */
async function topUp(): Promise<void> {
  devnet.fund(await freshAddress(), 200_000_000n);
  await devnet.generate(1);
}

test('coins below minconf are left alone, except those that are named', async () => {
  const outputs = [{ [await freshAddress()]: '0.1' }];
  const deep = (await pool('listunspent', [1])).result;
  const most = Math.max(...deep.map((coin: { confirmations: number }) => coin.confirmations));
  const funded = await pool('walletcreatefundedpsbt', [[], outputs, 0, { minconf: most + 1 }]);
  assert.match(funded.error?.message ?? '', /Insufficient funds/);
  const named = [{ txid: deep[0].txid, vout: deep[0].vout }];
  const given = await pool('walletcreatefundedpsbt', [named, outputs, 0, { minconf: most + 1 }]);
  assert.equal(given.error, null);
  assert.equal(
    (await pool('walletcreatefundedpsbt', [[], outputs, 0, { minconf: -1 }])).error?.code,
    -8,
  );
});

test('listsinceblock tells what came since a block, also since one that left the chain', async () => {
  const tip = devnet.chain.tip.id;
  const txid = (await pool('sendtoaddress', [await freshAddress(), '0.2'])).result;
  const ids = (reply: { result: { transactions: { txid: string }[] } }) =>
    new Set(reply.result.transactions.map((one) => one.txid));
  assert.ok(ids(await pool('listsinceblock', [tip])).has(txid), 'waiting');
  const [block] = await devnet.generate(1);
  assert.deepEqual(ids(await pool('listsinceblock', [tip])), new Set([txid]));
  assert.ok(!ids(await pool('listsinceblock', [block])).has(txid));
  await devnet.reorganise(1);
  assert.ok(ids(await pool('listsinceblock', [block])).has(txid), 'from the fork on');
  const all = (await pool('listsinceblock', ['', 3])).result;
  assert.ok(all.transactions.length > 4);
  assert.equal(all.lastblock, devnet.chain.active[devnet.chain.tip.height - 2]?.id);
  assert.equal((await pool('listsinceblock', ['ab'.repeat(32)])).error?.code, -5);
  assert.equal((await pool('listsinceblock', ['', 0])).error?.code, -8);
});

test('a forgotten mempool comes back only when the transaction is sent again', async () => {
  const txid = (await pool('sendtoaddress', [await freshAddress(), '0.3'])).result;
  const { hex } = (await pool('gettransaction', [txid])).result;
  devnet.forgetMempool();
  assert.equal((await call('getmempoolentry', [txid])).error?.code, -5);
  assert.equal((await pool('gettransaction', [txid])).result.confirmations, 0);
  assert.equal((await call('sendrawtransaction', [hex])).result, txid);
  await devnet.generate(1);
  assert.equal((await pool('gettransaction', [txid])).result.confirmations, 1);
});
