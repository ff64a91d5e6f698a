/**
 * Devnet against Bitcoin Core: the same blocks, the same answers. Where `bitcoind` is not found the table of broken blocks
 * is still asserted on devnet, and the test says that the other half did not run.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  type ChainBlock,
  type ChainTx,
  completeBlock,
  completeTx,
} from '../../../src/services/devnet/blocks.ts';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import { type BrokenBlock, brokenBlocks } from './brokenblocks.ts';
import {
  type Bitcoind,
  type Caller,
  callerOf,
  findBitcoind,
  type RpcReply,
  startBitcoind,
  startQuietDevnet,
} from './nodes.ts';

const path = findBitcoind();
let devnet: Devnet;
let call: Caller;
let core: Bitcoind | null = null;

before(async () => {
  devnet = await startQuietDevnet({ initialBlocks: 115, seed: 'differential' });
  call = callerOf(devnet.rpcUrl);
  if (path !== null) core = await startBitcoind(path);
});

after(async () => {
  await devnet.stop();
  await core?.stop();
});

test('Bitcoin Core takes every block devnet makes, with signed spends of all four address types', async (t) => {
  if (core === null)
    return t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  devnet.addTransactions(40);
  await devnet.generate(2);
  devnet.fillMempool();
  await devnet.generate(1);
  // What the reorganisation threw back is mined again, so that both mempools end empty.
  await devnet.reorganise(1);
  await devnet.generate(1);
  for (const node of devnet.chain.active.slice(1)) {
    const block = devnet.chain.block(node);
    assert.ok(block);
    const answer = await core.call('submitblock', [encodeHex(block.raw)]);
    assert.equal(answer.result, null, `height ${node.height}: ${answer.text}`);
  }
  assert.equal((await core.call('getbestblockhash')).result, devnet.chain.tip.id);
  await assertSameView();
});

test('devnet takes every block Bitcoin Core makes, with the spends of its wallet', async (t) => {
  if (core === null)
    return t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  await core.call('createwallet', ['core']);
  const addresses: string[] = [];
  for (const type of ['legacy', 'p2sh-segwit', 'bech32', 'bech32m']) {
    const address = (await core.call('getnewaddress', ['', type])).result;
    addresses.push(address);
    devnet.fund(address, 100_000_000n);
  }
  const [block] = await devnet.generate(1);
  await core.call('submitblock', [(await call('getblock', [block, 0])).result]);
  const target = (await core.call('getnewaddress', ['', 'bech32m'])).result;
  // Spends all four at once.
  const sent = await core.call('sendall', [[target]]);
  assert.equal(sent.error, null, sent.text);
  assert.equal(
    (
      await call('sendrawtransaction', [
        (await core.call('getrawtransaction', [sent.result.txid])).result,
      ])
    ).error,
    null,
  );
  const mined = (await core.call('generatetoaddress', [3, target])).result as string[];
  for (const id of mined) {
    const raw: string = (await core.call('getblock', [id, 0])).result;
    assert.equal((await call('submitblock', [raw])).result, null);
  }
  assert.equal(devnet.chain.tip.id, mined[2]);
  assert.equal(devnet.mempool.entries.size, 0);
  await assertSameView();
});

test('the same broken blocks get the same answers', async (t) => {
  const { ripe, green } = await openCoins();
  const blocks = brokenBlocks(devnet, ripe, green);
  const nodes: [string, Caller][] = [['devnet', call]];
  if (core === null)
    t.diagnostic(
      'bitcoind not found (set BITCOIND to its path): the table was checked on devnet only',
    );
  else nodes.push(['bitcoind', core.call]);
  for (const [name, node] of nodes)
    for (const block of blocks) {
      const hex = encodeHex(block.raw);
      const proposal = await node('getblocktemplate', [
        { mode: 'proposal', data: hex, rules: ['segwit'] },
      ]);
      assert.equal(
        outcome(proposal),
        block.proposal === undefined ? block.answer : block.proposal,
        `${name}, proposal: ${block.name}`,
      );
      assert.equal(
        outcome(await node('submitblock', [hex])),
        block.answer,
        `${name}: ${block.name}`,
      );
      assert.equal(
        outcome(await node('submitblock', [hex])),
        block.again,
        `${name}, again: ${block.name}`,
      );
    }
  assert.equal(new Set(blocks.map((block) => block.name)).size, blocks.length);
});

test('side branches, repeats, reorganisations and decisions are answered alike', async (t) => {
  if (core === null)
    t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  const nodes = core === null ? [call] : [call, core.call];
  const fork = devnet.chain.tip;
  const make = (parentId: string, mark: number) => {
    const parent = devnet.chain.index.get(parentId);
    assert.ok(parent);
    const solved = solveBlock(
      planBlock({
        parent,
        bits: 0x207fffff,
        transactions: [],
        feesSats: 0n,
        script: Uint8Array.of(0x51),
        extra: Uint8Array.of(9, 9, mark),
        timeSeconds: Math.floor(Date.now() / 1000),
      }),
      1_000_000,
    );
    assert.ok(solved);
    return { id: solved.id, hex: encodeHex(solved.raw) };
  };
  const each = async (run: (node: Caller) => Promise<unknown>, wanted: unknown): Promise<void> => {
    for (const node of nodes) assert.deepEqual(await run(node), wanted);
  };
  const submit = (hex: string) => async (node: Caller) => outcome(await node('submitblock', [hex]));
  const confirmations = (id: string) => async (node: Caller) =>
    (await node('getblockheader', [id])).result.confirmations;
  const best = async (node: Caller) => (await node('getbestblockhash')).result;

  const first = make(fork.id, 1);
  const rival = make(fork.id, 2);
  await each(submit(first.hex), null);
  await each(submit(first.hex), 'duplicate');
  await each(submit(rival.hex), 'inconclusive');
  await each(submit(rival.hex), 'duplicate');
  await each(confirmations(rival.id), -1);
  await each(async (node) => outcome(await node('preciousblock', [rival.id])), null);
  await each(best, rival.id);
  await each(confirmations(first.id), -1);
  await each(async (node) => outcome(await node('preciousblock', [first.id])), null);
  await each(best, first.id);
  const longer = make(rival.id, 3);
  await each(submit(longer.hex), null);
  await each(best, longer.id);
  await each(async (node) => outcome(await node('invalidateblock', [rival.id])), null);
  await each(best, first.id);
  // Core 28 even forgets a header here (headers is one less than blocks); ahead it must not be.
  for (const node of nodes) {
    const { blocks, headers } = (await node('getblockchaininfo')).result;
    assert.ok(headers <= blocks);
  }
  await each(submit(longer.hex), 'duplicate-invalid');
  const child = make(longer.id, 4);
  await each(submit(child.hex), 'bad-prevblk');
  const tips = async (node: Caller) =>
    (await node('getchaintips')).result
      .filter((tip: { hash: string }) => [first.id, rival.id, longer.id].includes(tip.hash))
      .map((tip: { hash: string; status: string; branchlen: number }) => [
        tip.hash,
        tip.status,
        tip.branchlen,
      ]);
  await each(tips, [
    [longer.id, 'invalid', 2],
    [first.id, 'active', 0],
  ]);
  await each(async (node) => outcome(await node('reconsiderblock', [rival.id])), null);
  await each(best, longer.id);
  await each(submit(child.hex), null);
  await assertSameView();
});

test('unusual but valid blocks are taken: no reserved value, rolled version bits, bytes after the end', async (t) => {
  if (core === null)
    t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  const nodes = core === null ? [call] : [call, core.call];
  const plan = (mark: number): ChainBlock =>
    planBlock({
      parent: devnet.chain.tip,
      bits: 0x207fffff,
      transactions: [],
      feesSats: 0n,
      script: Uint8Array.of(0x51),
      extra: Uint8Array.of(8, 8, mark),
      timeSeconds: Math.floor(Date.now() / 1000),
    });
  const submit = async (block: ChainBlock, tail = ''): Promise<void> => {
    const solved = solveBlock(block, 1_000_000);
    assert.ok(solved);
    for (const node of nodes)
      assert.equal((await node('submitblock', [encodeHex(solved.raw) + tail])).result, null);
    for (const node of nodes) assert.equal((await node('getbestblockhash')).result, solved.id);
  };
  const bare = plan(1);
  const { tx } = bare.transactions[0];
  await submit(
    completeBlock(bare.header, [completeTx({ ...tx, inputs: [{ ...tx.inputs[0], witness: [] }] })]),
  );
  for (const version of [4, 0x20000001, 0x3fffe000, 0x7fffffff]) {
    const block = plan(version & 0xff);
    await submit(completeBlock({ ...block.header, version }, block.transactions));
  }
  await submit(plan(2), '00ff');
  await assertSameView();
});

test('the same transactions are refused with the same words', async (t) => {
  if (core === null)
    return t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  const address = (await core.call('getnewaddress')).result;
  devnet.fund(address, 200_000_000n);
  const [block] = await devnet.generate(1);
  await core.call('submitblock', [(await call('getblock', [block, 0])).result]);
  const [coin] = (await core.call('listunspent', [1, 1])).result;
  const spend = async (amount: string, sequence = 0xfffffffd): Promise<string> => {
    const raw = await core?.call('createrawtransaction', [
      [{ txid: coin.txid, vout: coin.vout, sequence }],
      { [address]: amount },
    ]);
    return (await core?.call('signrawtransactionwithwallet', [raw?.result]))?.result.hex;
  };
  const same = async (hex: string, method = 'sendrawtransaction'): Promise<string> => {
    const params = method === 'testmempoolaccept' ? [[hex]] : [hex];
    const left = await call(method, params);
    const right = await core?.call(method, params);
    assert.deepEqual(left.error, right?.error, `${left.text} against ${right?.text}`);
    assert.deepEqual(left.result, right?.result);
    return left.error?.message ?? String(left.result);
  };
  const signed = await spend('1.99990000');
  assert.match(await same(`${signed.slice(0, -8)}05000000`), /mandatory-script-verify-flag-failed/);
  assert.equal(await same('00'), 'TX decode failed. Make sure the tx has at least one input.');
  assert.match(await same(await spend('2.50000000')), /bad-txns-in-belowout/);
  assert.match(await same(await spend('2.00000000')), /min relay fee not met/);
  assert.match(await same(await spend('1.00000000')), /Fee exceeds maximum/);
  await same(signed, 'testmempoolaccept');
  assert.equal((await same(signed)).length, 64);
  assert.equal((await same(signed)).length, 64);
  assert.match(await same(await spend('1.99990001')), /insufficient fee, rejecting replacement/);
  await same(await spend('1.99980000'));
  const [last] = await devnet.generate(1);
  await core.call('submitblock', [(await call('getblock', [last, 0])).result]);
  assert.match(await same(await spend('1.99980000')), /Transaction outputs already in utxo set/);
  assert.match(await same(signed), /bad-txns-inputs-missingorspent/);
});

test('PSBTs of devnet’s wallet are read, finalised and spent by Bitcoin Core', async (t) => {
  if (core === null)
    return t.diagnostic('bitcoind not found (set BITCOIND to its path): only devnet was tested');
  await call('createwallet', ['payer']);
  for (const type of ['legacy', 'p2sh-segwit', 'bech32', 'bech32m'])
    devnet.fund((await call('getnewaddress', ['', type])).result, 100_000_000n);
  const [block] = await devnet.generate(1);
  await core.call('submitblock', [(await call('getblock', [block, 0])).result]);
  const target = (await core.call('getnewaddress')).result;
  const funded = await call('walletcreatefundedpsbt', [
    [],
    { [target]: '3.9' },
    0,
    { fee_rate: 5 },
  ]);
  assert.equal(funded.error, null, funded.text);
  const ours = (await call('decodepsbt', [funded.result.psbt])).result;
  const theirs = (await core.call('decodepsbt', [funded.result.psbt])).result;
  assert.equal(theirs.fee, ours.fee);
  assert.equal(theirs.fee, funded.result.fee);
  assert.equal(theirs.tx.txid, ours.tx.txid);
  assert.equal(theirs.inputs.length, 4);
  const signed = (
    await call('walletprocesspsbt', [funded.result.psbt, true, 'DEFAULT', true, false])
  ).result;
  const ourFinal = (await call('finalizepsbt', [signed.psbt])).result;
  const theirFinal = (await core.call('finalizepsbt', [signed.psbt])).result;
  assert.equal(theirFinal.complete, true);
  assert.equal(ourFinal.hex, theirFinal.hex);
  const accepted = (await core.call('testmempoolaccept', [[ourFinal.hex]])).result[0];
  assert.equal(accepted.allowed, true, JSON.stringify(accepted));
  assert.equal((await core.call('sendrawtransaction', [ourFinal.hex])).result, accepted.txid);
  assert.equal((await call('sendrawtransaction', [ourFinal.hex])).result, accepted.txid);
  const entry = (await core.call('getmempoolentry', [accepted.txid])).result;
  const same = (await call('getmempoolentry', [accepted.txid])).result;
  for (const field of ['vsize', 'weight', 'fees', 'depends', 'spentby', 'wtxid'])
    assert.deepEqual(same[field], entry[field], field);
});

/** A mature and an immature coinbase that anyone can spend, on both nodes. */
async function openCoins(): Promise<{ ripe: ChainTx; green: ChainTx }> {
  const coinbases: ChainTx[] = [];
  for (let at = 0; at < 102; at += 1) {
    const solved = solveBlock(
      planBlock({
        parent: devnet.chain.tip,
        bits: 0x207fffff,
        transactions: [],
        feesSats: 0n,
        script: Uint8Array.of(0x51),
        extra: Uint8Array.of(1, 2, 3),
        timeSeconds: Math.floor(Date.now() / 1000) - 3000,
      }),
      1_000_000,
    );
    assert.ok(solved);
    assert.equal(devnet.submit(solved.raw), null);
    if (core !== null)
      assert.equal((await core.call('submitblock', [encodeHex(solved.raw)])).result, null);
    coinbases.push(solved.transactions[0]);
  }
  return { ripe: coinbases[0], green: coinbases[101] };
}

function outcome(reply: {
  result: unknown;
  error: { code: number } | null;
}): BrokenBlock['answer'] {
  return reply.error === null ? (reply.result as string | null) : reply.error.code;
}

/** What a pool reads about the tip must be equal, field by field. */
async function assertSameView(): Promise<void> {
  const other = core?.call;
  if (other === undefined) return;
  const tip = devnet.chain.tip.id;
  for (const [method, params] of [
    ['getblockheader', [tip]],
    ['getblock', [tip, 1]],
    ['getdifficulty', []],
    ['getblockcount', []],
  ] as const) {
    const left = await call(method, params);
    const right: RpcReply = await other(method, params);
    assert.deepEqual(left.result, right.result, method);
  }
  const left = await call('gettxoutsetinfo');
  const right: RpcReply = await other('gettxoutsetinfo', ['none']);
  assert.equal(left.result.txouts, right.result.txouts);
  assert.equal(left.result.total_amount, right.result.total_amount);
  assert.equal(devnet.mempool.entries.size, 0, 'nothing must wait when templates are compared');
  const ours = (await call('getblocktemplate', [{ rules: ['segwit'] }])).result;
  const theirs = (await other('getblocktemplate', [{ rules: ['segwit'] }])).result;
  assert.deepEqual(Object.keys(ours).sort(), Object.keys(theirs).sort());
  for (const field of [
    'capabilities',
    'rules',
    'vbrequired',
    'previousblockhash',
    'transactions',
    'coinbaseaux',
    'coinbasevalue',
    'target',
    'mintime',
    'mutable',
    'noncerange',
    'sigoplimit',
    'sizelimit',
    'weightlimit',
    'bits',
    'height',
    'default_witness_commitment',
  ])
    assert.deepEqual(ours[field], theirs[field], field);
}
