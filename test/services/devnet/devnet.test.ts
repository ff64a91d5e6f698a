/** The RPC contract of a development node: answers, codes, HTTP states, templates, long polls, control. Real HTTP. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { NETWORKS } from '../../../src/core/bitcoin/network.ts';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import { type Caller, callerOf, password, post, startQuietDevnet, user } from './nodes.ts';

let devnet: Devnet;
let call: Caller;

before(async () => {
  devnet = await startQuietDevnet({ initialBlocks: 110, seed: 'contract' });
  call = callerOf(devnet.rpcUrl);
});

after(() => devnet.stop());

test('the chain is regtest, with its genesis and 110 blocks ending now', async () => {
  const info = (await call('getblockchaininfo')).result;
  assert.equal(info.chain, 'regtest');
  assert.equal(info.blocks, 110);
  assert.equal(info.headers, 110);
  assert.equal(info.initialblockdownload, false);
  assert.equal(info.pruned, false);
  assert.equal((await call('getblockhash', [0])).result, NETWORKS.regtest.genesisHashDisplay);
  assert.ok(Math.abs(info.time - Date.now() / 1000) < 60);
  const genesis = (await call('getblock', [NETWORKS.regtest.genesisHashDisplay, 2])).result;
  assert.equal(genesis.tx[0].vout[0].value, 50);
  assert.equal(genesis.confirmations, 111);
});

test('headers and blocks in every verbosity', async () => {
  const tip = (await call('getbestblockhash')).result;
  const header = (await call('getblockheader', [tip])).result;
  assert.equal(header.confirmations, 1);
  assert.equal(header.nextblockhash, undefined);
  assert.equal((await call('getblockheader', [tip, false])).result.length, 160);
  const raw = (await call('getblock', [tip, 0])).result;
  assert.ok(raw.startsWith((await call('getblockheader', [tip, false])).result));
  const ids = (await call('getblock', [tip])).result;
  const full = (await call('getblock', { blockhash: tip, verbosity: 2 })).result;
  assert.deepEqual(
    full.tx.map((tx: { txid: string }) => tx.txid),
    ids.tx,
  );
  assert.equal(full.height, 110);
  assert.equal(ids.size, raw.length / 2);
});

test('errors carry the codes, texts and HTTP states of Core', async () => {
  const cases: [string, unknown, number, number, RegExp][] = [
    ['nosuchmethod', [], 404, -32601, /^Method not found$/],
    ['getblockhash', [111], 500, -8, /^Block height out of range$/],
    ['getblockhash', [], 500, -1, /getblockhash/],
    ['getblockhash', ['x'], 500, -3, /not of expected type number/],
    ['getblockhash', { hoehe: 1 }, 500, -8, /^Unknown named parameter hoehe$/],
    ['getblock', ['00'], 500, -8, /^blockhash must be of length 64 \(not 2, for '00'\)$/],
    ['getblock', ['zz'.repeat(32)], 500, -8, /must be hexadecimal string/],
    ['getblock', ['00'.repeat(32)], 500, -5, /^Block not found$/],
    ['getblocktemplate', [], 500, -8, /segwit rule set/],
    ['getblocktemplate', [{ rules: ['segwit'], mode: 'x' }], 500, -8, /^Invalid mode$/],
    ['getblocktemplate', [{ mode: 'proposal' }], 500, -3, /Missing data String key/],
    ['getblocktemplate', [{ mode: 'proposal', data: '00' }], 500, -22, /^Block decode failed$/],
    ['submitblock', ['zz'], 500, -22, /^Block decode failed$/],
    ['submitblock', ['0'], 500, -22, /^Block decode failed$/],
    ['submitheader', ['00'.repeat(80)], 500, -25, /Must submit previous header/],
    ['sendrawtransaction', ['00'], 500, -22, /TX decode failed/],
    ['getrawtransaction', ['11'.repeat(32)], 500, -5, /No such mempool transaction/],
    ['getnewaddress', [], 500, -18, /No wallet is loaded/],
    ['estimatesmartfee', [0], 500, -8, /Invalid conf_target/],
    ['generatetoaddress', [1, 'nowhere'], 500, -5, /Invalid address/],
  ];
  for (const [method, params, status, code, text] of cases) {
    const reply = await call(method, params);
    assert.equal(reply.status, status, `${method}: ${reply.text}`);
    assert.equal(reply.error?.code, code, `${method}: ${reply.text}`);
    assert.match(reply.error?.message ?? '', text);
    assert.equal(reply.result, null);
  }
});

test('the envelope: parse errors, batches, JSON-RPC 2.0, ids, paths, methods of HTTP', async () => {
  const credentials = `${user}:${password}`;
  const send = (body: string, path = '/') => post(devnet.rpcUrl + path, body, credentials);
  assert.equal((await send('{')).error?.code, -32700);
  assert.equal((await send('{')).status, 500);
  assert.equal((await send('7')).error?.code, -32700);
  assert.equal((await send('{"method":7,"id":1}')).status, 400);
  assert.equal((await send('{"id":1}')).error?.message, 'Missing method');
  assert.equal(
    (await send('{"method":"uptime","params":3,"id":1}')).error?.message,
    'Params must be an array or object',
  );
  assert.equal(JSON.parse((await send('{"method":"uptime","id":"é"}')).text).id, 'é');
  const batch = await send(
    '[{"method":"getblockcount","id":1},{"method":"nope","id":2},{"jsonrpc":"2.0","method":"getblockcount","id":3}]',
  );
  assert.equal(batch.status, 200);
  assert.deepEqual(JSON.parse(batch.text), [
    { result: 110, error: null, id: 1 },
    { result: null, error: { code: -32601, message: 'Method not found' }, id: 2 },
    { jsonrpc: '2.0', result: 110, id: 3 },
  ]);
  const version2 = await send('{"jsonrpc":"2.0","method":"nope","id":5}');
  assert.equal(version2.status, 200);
  assert.equal(version2.error?.code, -32601);
  assert.equal((await send('{"jsonrpc":"2.0","method":"uptime"}')).status, 204);
  assert.equal((await send('{"method":"uptime","id":1}', '/other')).status, 404);
  assert.equal((await fetch(devnet.rpcUrl)).status, 405);
});

test('authorisation by password and by cookie, which can be rotated', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'headframe-cookie-'));
  const cookieFile = join(folder, '.cookie');
  const own = await startQuietDevnet({ cookieFile });
  const body = '{"method":"getblockcount","id":1}';
  assert.equal((await post(own.rpcUrl, body, null)).status, 401);
  assert.equal((await post(own.rpcUrl, body, 'user:wrong')).status, 401);
  assert.equal((await post(own.rpcUrl, body, `${user}:${password}`)).status, 200);
  const first = readFileSync(cookieFile, 'utf8');
  assert.match(first, /^__cookie__:[0-9a-f]{64}$/);
  assert.equal(statSync(cookieFile).mode & 0o777, 0o600);
  assert.equal((await post(own.rpcUrl, body, first)).status, 200);
  own.rotateCookie();
  assert.equal((await post(own.rpcUrl, body, first)).status, 401);
  assert.equal((await post(own.rpcUrl, body, readFileSync(cookieFile, 'utf8'))).status, 200);
  await own.stop();
  rmSync(folder, { recursive: true });
});

test('a template has all of Core’s fields, real transactions and the fees they pay', async () => {
  devnet.addTransactions(12);
  await call('devnet.fillmempool', [50_000]);
  const reply = await call('getblocktemplate', [{ rules: ['segwit'] }]);
  const template = reply.result;
  assert.deepEqual(Object.keys(template), [
    'capabilities',
    'version',
    'rules',
    'vbavailable',
    'vbrequired',
    'previousblockhash',
    'transactions',
    'coinbaseaux',
    'coinbasevalue',
    'longpollid',
    'target',
    'mintime',
    'mutable',
    'noncerange',
    'sigoplimit',
    'sizelimit',
    'weightlimit',
    'curtime',
    'bits',
    'height',
    'default_witness_commitment',
  ]);
  assert.equal(template.height, 111);
  assert.equal(template.bits, '207fffff');
  assert.ok(template.transactions.length >= 12);
  const fees = template.transactions.reduce((sum: number, tx: { fee: number }) => sum + tx.fee, 0);
  assert.equal(template.coinbasevalue, 5_000_000_000 + fees);
  const seen: string[] = [];
  for (const tx of template.transactions) {
    for (const parent of tx.depends)
      assert.ok(parent <= seen.length, 'parents stand before children');
    seen.push(tx.txid);
    const entry = (await call('getmempoolentry', [tx.txid])).result;
    assert.equal(entry.weight, tx.weight);
    assert.equal(entry.fees.base, tx.fee / 1e8);
  }
  await devnet.generate(1);
  assert.equal(devnet.chain.tip.transactionCount, template.transactions.length + 1);
});

test('a long poll answers at once on a new tip, and on a changed mempool only after its time', async () => {
  const own = await startQuietDevnet({
    initialBlocks: 105,
    longPollMempoolMs: { firstMs: 100, laterMs: 20 },
  });
  const ask = callerOf(own.rpcUrl);
  const request = async (longpollid: string) =>
    (await ask('getblocktemplate', [{ rules: ['segwit'], longpollid }])).result;
  const first = (await ask('getblocktemplate', [{ rules: ['segwit'] }])).result;
  const waiting = request(first.longpollid);
  const [id] = await own.generate(1);
  assert.equal((await waiting).previousblockhash, id);

  const second = (await ask('getblocktemplate', [{ rules: ['segwit'] }])).result;
  let answered = false;
  const later = request(second.longpollid).then((template) => {
    answered = true;
    return template;
  });
  own.addTransactions(1);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(answered, false);
  assert.equal((await later).previousblockhash, id);

  assert.equal(
    (await ask('getblocktemplate', [{ rules: ['segwit'], longpollid: 'short' }])).error?.code,
    -8,
  );
  const last = (await ask('getblocktemplate', [{ rules: ['segwit'] }])).result;
  const cut = ask('getblocktemplate', [{ rules: ['segwit'], longpollid: last.longpollid }]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const stopped = own.stop();
  assert.equal((await cut).error?.code, -9);
  await stopped;
});

test('a full mempool makes templates and blocks of 3.99 million weight units', async () => {
  const own = await startQuietDevnet({ initialBlocks: 103 });
  const ask = callerOf(own.rpcUrl);
  const added = own.fillMempool();
  assert.ok(added.weight > 3_985_000 && added.weight < 3_992_000, `${added.weight}`);
  const template = (await ask('getblocktemplate', [{ rules: ['segwit'] }])).result;
  const weight = template.transactions.reduce(
    (sum: number, tx: { weight: number }) => sum + tx.weight,
    0,
  );
  assert.equal(weight, added.weight);
  await own.generate(1);
  const block = (await ask('getblock', [own.chain.tip.id])).result;
  assert.ok(block.weight > 3_980_000 && block.weight <= 4_000_000);
  assert.ok(block.size > 3_900_000, 'nearly all of it is witness');
  const many = own.fillMempool(2_000_000, 2000);
  assert.ok(many.transactions > 1900 && many.weight <= 2_000_000);
  await own.stop();
});

test('harder bits apply above the first blocks', async () => {
  const own = await startQuietDevnet({ initialBlocks: 3, bits: 0x1f7fffff });
  assert.equal(own.chain.tip.header.bits, 0x207fffff);
  const ask = callerOf(own.rpcUrl);
  assert.equal((await ask('getblocktemplate', [{ rules: ['segwit'] }])).result.bits, '1f7fffff');
  await own.generate(1);
  assert.equal(own.chain.tip.header.bits, 0x1f7fffff);
  const easy = planBlock({
    parent: own.chain.tip,
    bits: 0x207fffff,
    transactions: [],
    feesSats: 0n,
    script: Uint8Array.of(0x51),
    extra: Uint8Array.of(1, 2),
    timeSeconds: Math.floor(Date.now() / 1000),
  });
  const solved = solveBlock(easy, 1_000_000);
  assert.ok(solved);
  assert.equal((await ask('submitblock', [encodeHex(solved.raw)])).result, 'bad-diffbits');
  await own.stop();
});

test('generateblock, generatetoaddress, submitheader, getmininginfo, gettxout, help', async () => {
  const address = 'bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk';
  const made = (await call('generatetoaddress', [2, address])).result;
  assert.equal(made.length, 2);
  const block = (await call('getblock', [made[1], 2])).result;
  assert.equal(block.tx[0].vout[0].scriptPubKey.address, address);
  const out = (await call('gettxout', [block.tx[0].txid, 0])).result;
  assert.equal(out.confirmations, 1);
  assert.equal(out.coinbase, true);
  assert.equal((await call('gettxout', [block.tx[0].txid, 5])).result, null);
  const unsent = (await call('generateblock', [address, [], false])).result;
  assert.equal((await call('getblockheader', [unsent.hash])).error?.code, -5);
  assert.equal((await call('submitheader', [unsent.hex.slice(0, 160)])).result, null);
  assert.equal((await call('getblockheader', [unsent.hash])).result.confirmations, -1);
  assert.equal((await call('getblock', [unsent.hash])).error?.code, -1);
  const headersOnly = (await call('getchaintips')).result.find(
    (tip: { hash: string }) => tip.hash === unsent.hash,
  );
  assert.equal(headersOnly.status, 'headers-only');
  assert.equal((await call('submitblock', [unsent.hex])).result, null);
  const mining = (await call('getmininginfo')).result;
  assert.equal(mining.chain, 'regtest');
  assert.ok((await call('getnetworkhashps')).result > 0);
  assert.match((await call('help')).result, /getblocktemplate/);
  assert.match((await call('help', ['submitblock'])).result, /hexdata/);
  assert.equal((await call('validateaddress', [address])).result.isvalid, true);
  assert.equal((await call('validateaddress', ['bc1qxyz'])).result.isvalid, false);
  assert.equal((await call('getnetworkinfo')).result.version, 280100);
});

test('the work queue has an end', async () => {
  const own = await startQuietDevnet({ workQueueDepth: 2 });
  const ask = callerOf(own.rpcUrl);
  const template = (await ask('getblocktemplate', [{ rules: ['segwit'] }])).result;
  const hold = [1, 2].map(() =>
    ask('getblocktemplate', [{ rules: ['segwit'], longpollid: template.longpollid }]),
  );
  let refused = await ask('getblockcount');
  while (refused.status === 200) refused = await ask('getblockcount');
  assert.equal(refused.status, 503);
  assert.equal(refused.text, 'Work queue depth exceeded');
  await own.generate(1);
  await Promise.all(hold);
  assert.equal((await ask('getblockcount')).result, 1);
  await own.stop();
});

test('the RPC method stop ends the node; two nodes cannot share a port', async () => {
  const own = await startQuietDevnet();
  await assert.rejects(startQuietDevnet({ rpcPort: own.rpcPort }), /EADDRINUSE/);
  assert.equal((await callerOf(own.rpcUrl)('stop')).result, 'Bitcoin Core stopping');
  await own.stop();
  await assert.rejects(callerOf(own.rpcUrl)('uptime'));
});

test('joined chains agree, and the longer one wins when two that were apart meet', async () => {
  const left = await startQuietDevnet({ initialBlocks: 2 });
  const right = await startQuietDevnet();
  const part = left.connect(right);
  assert.equal(right.chain.tip.id, left.chain.tip.id);
  await right.generate(1);
  await settled();
  assert.equal(left.chain.tip.id, right.chain.tip.id);
  part();
  await left.generate(1);
  await right.generate(2);
  await settled();
  assert.notEqual(left.chain.tip.id, right.chain.tip.id);
  const again = right.connect(left);
  await settled();
  assert.equal(left.chain.tip.id, right.chain.tip.id);
  assert.equal(left.chain.tip.height, 5);
  again();
  await left.stop();
  await right.stop();
});

test('a node mines for itself and keeps transactions coming when asked to', async () => {
  const own = await startQuietDevnet({
    initialBlocks: 110,
    transactionsPerBlock: 4,
    blockIntervalMs: 20,
  });
  assert.equal(own.mempool.entries.size, 4);
  while (own.chain.tip.height < 113) await new Promise((resolve) => setTimeout(resolve, 10));
  await own.stop();
  assert.ok(own.chain.active.slice(111).some((node) => node.transactionCount > 1));
});

async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
