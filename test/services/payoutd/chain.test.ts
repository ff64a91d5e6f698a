/** Which node is believed, where a block stands, and what our coinbase in it paid, whatever the nodes answer. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { encodeTx } from '../../../src/core/bitcoin/tx.ts';
import type { NodeAddress, RpcAnswer } from '../../../src/core/node/rpc.ts';
import {
  type ChainTip,
  locateBlock,
  openChainReader,
  readBits,
  readCoinbase,
} from '../../../src/services/payoutd/chain.ts';
import { decideStep } from '../../../src/services/payoutd/watch.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { type CallFate, WalletNode } from '../../tools/wallet-node.ts';
import { scriptOf } from './credit-rig.ts';

type Fate = (method: string, params: readonly unknown[]) => CallFate;
const ANSWER: CallFate = { kind: 'answer' };

function createNode(): { node: WalletNode; set(fate: Fate): void; mine(count: number): void } {
  let fate: Fate = () => ANSWER;
  const node = new WalletNode({
    network: 'regtest',
    baseHeight: 100,
    nowMs: () => 1_700_000_000_000,
    fate: (_door, method, params) => fate(method, params),
  });
  return {
    node,
    set(next) {
      fate = next;
    },
    mine(count) {
      for (let at = 0; at < count; at++)
        node.submit(node.makeBlock({ outputs: [{ valueSats: 5n, script: scriptOf('x') }] }));
    },
  };
}

const address = (name: string): NodeAddress => ({ name, url: 'http://127.0.0.1:1/' });
const log = createSilentLog();

function failing(kind: 'unreachable' | 'timeout' | 'bad-answer'): CallFate {
  return { kind: 'fail', answer: { kind, detail: 'test' }, acted: false };
}

function tipOf(node: WalletNode): ChainTip {
  const { hashDisplay, height } = node.tip;
  return { node: 'n', rpc: node.openDoor('n'), hashDisplay, height };
}

describe('the node to believe', () => {
  test('is the one with the most work of those that answer, are on our network and synced', async () => {
    const [a, b, c] = [createNode(), createNode(), createNode()];
    a.mine(3);
    b.mine(5);
    c.mine(9);
    const nodes = new Map([
      ['a', a],
      ['b', b],
      ['c', c],
    ]);
    const reader = openChainReader(
      { log, openRpc: ({ name }) => nodes.get(name)!.node.openDoor(name) },
      { nodes: [address('a'), address('b'), address('c')], network: 'regtest' },
    );
    assert.equal((await reader.readTip())?.node, 'c');
    c.set((method) => (method === 'getblockhash' ? failing('timeout') : ANSWER));
    assert.equal((await reader.readTip())?.node, 'b');
    assert.deepEqual(
      reader.reports().map(({ name, usable, height }) => [name, usable, height]),
      [
        ['a', true, 103],
        ['b', true, 105],
        ['c', false, null],
      ],
    );
    b.set(() => failing('unreachable'));
    const tip = await reader.readTip();
    assert.deepEqual(
      [tip?.node, tip?.height, tip?.hashDisplay],
      ['a', 103, a.node.tip.hashDisplay],
    );
    a.set(() => failing('bad-answer'));
    assert.equal(await reader.readTip(), null);
    c.set(() => ANSWER);
    assert.equal((await reader.readTip())?.node, 'c');
    reader.stop();
  });

  test('is none of another network, whatever it calls itself', async () => {
    const { node } = createNode();
    const reader = openChainReader(
      { log, openRpc: () => node.openDoor('n') },
      { nodes: [address('n')], network: 'signet' },
    );
    assert.equal(await reader.readTip(), null);
    assert.match(reader.reports()[0]!.detail, /first block/);
  });

  test('is none that is still downloading, except on regtest', async () => {
    const answers = new Map<string, unknown>([
      ['getblockhash', '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f'],
      [
        'getblockchaininfo',
        {
          chain: 'main',
          blocks: 10,
          headers: 10,
          bestblockhash: 'ab'.repeat(32),
          chainwork: '00'.repeat(31) + 'ff',
          initialblockdownload: true,
        },
      ],
    ]);
    const call = async (method: string): Promise<RpcAnswer> => ({
      kind: 'result',
      result: answers.get(method),
    });
    const rpc = { name: 'n', call, callEncoded: call, stop() {} };
    const reader = openChainReader(
      { log, openRpc: () => rpc },
      { nodes: [address('n')], network: 'mainnet' },
    );
    assert.equal(await reader.readTip(), null);
    const info = answers.get('getblockchaininfo') as Record<string, unknown>;
    answers.set('getblockchaininfo', { ...info, initialblockdownload: false, headers: 17 });
    assert.equal(await reader.readTip(), null);
    answers.set('getblockchaininfo', { ...info, initialblockdownload: false, headers: 16 });
    assert.equal((await reader.readTip())?.height, 10);
    for (const nonsense of [
      null,
      5,
      'x',
      {},
      { ...info, blocks: -1 },
      { ...info, bestblockhash: 'q' },
    ]) {
      answers.set('getblockchaininfo', nonsense);
      assert.equal(await reader.readTip(), null);
    }
  });
});

describe('where a block stands', () => {
  test('in the chain with its confirmations; beside it with the depth of its competitor', async () => {
    const { node, mine } = createNode();
    const fork = node.tip;
    const ours = node.makeBlock({ outputs: [{ valueSats: 5n, script: scriptOf('us') }] });
    node.submit(ours);
    assert.deepEqual(await locateBlock(tipOf(node), ours.hash, ours.height), {
      kind: 'in-chain',
      confirmations: 1,
      height: 101,
    });
    mine(9);
    assert.deepEqual(await locateBlock(tipOf(node), ours.hash, ours.height), {
      kind: 'in-chain',
      confirmations: 10,
      height: 101,
    });
    let previous = fork;
    for (let at = 0; at < 11; at++) {
      previous = node.makeBlock({
        outputs: [{ valueSats: 5n, script: scriptOf('them') }],
        previous,
      });
      node.submit(previous);
    }
    assert.deepEqual(await locateBlock(tipOf(node), ours.hash, ours.height), {
      kind: 'beside',
      competitorDepth: 11,
    });
  });

  test('a node that never had the block is asked for what it has there', async () => {
    const { node, mine, set } = createNode();
    const hash = new Uint8Array(32).fill(7);
    assert.deepEqual(await locateBlock(tipOf(node), hash, 101), {
      kind: 'beside',
      competitorDepth: 0,
    });
    mine(4);
    assert.deepEqual(await locateBlock(tipOf(node), hash, 101), {
      kind: 'beside',
      competitorDepth: 4,
    });
    set((method) => (method === 'getblockhash' ? failing('timeout') : ANSWER));
    assert.equal((await locateBlock(tipOf(node), hash, 101)).kind, 'unknown');
    // A node that contradicts itself has not decided anything.
    set((method) =>
      method === 'getblockheader'
        ? { kind: 'error', code: -5, message: 'Block not found', acted: false }
        : ANSWER,
    );
    const known = node.tip;
    assert.equal((await locateBlock(tipOf(node), known.hash, known.height)).kind, 'unknown');
  });

  test('every failure of the node is "not known", never "gone"', async () => {
    const { node, set } = createNode();
    const { hash, height } = node.tip;
    for (const kind of ['unreachable', 'timeout', 'bad-answer'] as const) {
      set(() => failing(kind));
      assert.equal((await locateBlock(tipOf(node), hash, height)).kind, 'unknown');
    }
    set(() => ({ kind: 'error', code: -1, message: 'internal', acted: false }));
    assert.equal((await locateBlock(tipOf(node), hash, height)).kind, 'unknown');
    const call = async (): Promise<RpcAnswer> => ({
      kind: 'result',
      result: { confirmations: 1.5 },
    });
    const tip = { ...tipOf(node), rpc: { name: 'n', call, callEncoded: call, stop() {} } };
    assert.equal((await locateBlock(tip, hash, height)).kind, 'unknown');
  });

  test('what follows from it, as a table', () => {
    const inChain = (confirmations: number) =>
      ({ kind: 'in-chain', confirmations, height: 1 }) as const;
    const beside = (competitorDepth: number) => ({ kind: 'beside', competitorDepth }) as const;
    const rows = [
      [inChain(1), null, 'credit'],
      [inChain(500), null, 'credit'],
      [inChain(1), 'orphaned', 'credit'],
      [inChain(100), 'immature', 'nothing'],
      [inChain(101), 'immature', 'mature'],
      [inChain(101), 'mature', 'nothing'],
      [beside(0), null, 'nothing'],
      [beside(6), null, 'nothing'],
      [beside(289), null, 'lost'],
      [beside(5), 'immature', 'nothing'],
      [beside(6), 'immature', 'orphan'],
      [beside(0), 'mature', 'left'],
      [beside(100), 'orphaned', 'nothing'],
    ] as const;
    for (const [place, state, step] of rows)
      assert.equal(decideStep(place, state, 101), step, JSON.stringify([place, state]));
  });
});

describe('what the coinbase paid', () => {
  test('comes from the block, with or without witness', async () => {
    for (const commitment of [false, true]) {
      const { node } = createNode();
      const block = node.makeBlock({
        outputs: [
          { valueSats: 5_000_000_001n, script: scriptOf('a') },
          { valueSats: 7n, script: scriptOf('b') },
        ],
        commitment,
      });
      node.submit(block);
      const answer = await readCoinbase(node.openDoor('n'), block.hash, null);
      assert.equal(answer.kind, 'outputs');
      assert.deepEqual(
        answer.kind === 'outputs' && answer.outputs.map(({ valueSats }) => valueSats),
        commitment ? [5_000_000_001n, 7n, 0n] : [5_000_000_001n, 7n],
      );
    }
  });

  test('comes from our own record when the node has pruned it, if that is the coinbase of the block', async () => {
    const { node, set } = createNode();
    const output = { valueSats: 9n, script: scriptOf('a') };
    const block = node.makeBlock({ outputs: [output], commitment: true });
    const other = node.makeBlock({ outputs: [output] });
    node.submit(block);
    const stored = encodeTx(block.txs[0]!.tx, { witness: false });
    set((method) =>
      method === 'getrawtransaction'
        ? { kind: 'error', code: -1, message: 'Block not available (pruned data)', acted: false }
        : ANSWER,
    );
    const rpc = node.openDoor('n');
    const answer = await readCoinbase(rpc, block.hash, stored);
    assert.deepEqual(answer.kind === 'stored' && answer.outputs[0], output);
    const wrong = encodeTx(other.txs[0]!.tx, { witness: false });
    for (const lie of [null, wrong, new Uint8Array(0), stored.subarray(1)])
      assert.equal((await readCoinbase(rpc, block.hash, lie)).kind, 'unknown');
    // A node that is only away has not pruned anything.
    set((method) => (method === 'getrawtransaction' ? failing('timeout') : ANSWER));
    assert.equal((await readCoinbase(rpc, block.hash, stored)).kind, 'unknown');
  });

  test('is not taken from a node that gives another transaction or another block', async () => {
    const { node } = createNode();
    const block = node.makeBlock({ outputs: [{ valueSats: 9n, script: scriptOf('a') }] });
    const other = node.makeBlock({ outputs: [{ valueSats: 8n, script: scriptOf('a') }] });
    node.submit(block);
    const real = node.openDoor('n');
    const lying = (method: string, result: unknown) => ({
      ...real,
      call: async (asked: string, params: readonly unknown[]): Promise<RpcAnswer> =>
        asked === method ? { kind: 'result', result } : real.call(asked, params),
    });
    const hex = Buffer.from(other.txs[0]!.raw).toString('hex');
    const lies: [string, unknown][] = [
      ['getrawtransaction', hex],
      ['getrawtransaction', `${hex}00`],
      ['getrawtransaction', 5],
      ['getblock', { hash: other.hashDisplay, tx: [block.txs[0]!.id] }],
      ['getblock', { hash: block.hashDisplay, tx: [] }],
      ['getblock', { hash: block.hashDisplay, tx: ['zz'] }],
      ['getblock', null],
    ];
    for (const [method, result] of lies)
      assert.equal((await readCoinbase(lying(method, result), block.hash, null)).kind, 'unknown');
    assert.equal((await readCoinbase(real, block.hash, null)).kind, 'outputs');
  });

  test('bits of the tip are eight hex digits or not known', async () => {
    const { node } = createNode();
    const rpc = node.openDoor('n');
    assert.equal(await readBits(rpc, node.tip.hashDisplay), 0x1d00ffff);
    assert.equal(await readBits(rpc, '00'.repeat(32)), null);
    for (const bits of [5, '1d00ff', 'zz00ffff', null]) {
      const call = async (): Promise<RpcAnswer> => ({ kind: 'result', result: { bits } });
      assert.equal(await readBits({ ...rpc, call }, node.tip.hashDisplay), null);
    }
  });
});
