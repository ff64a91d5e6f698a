/** Solved blocks from the bus, against nodes over real HTTP and on a real disk. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { createDisk } from '../../../src/adapters/disk.ts';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import { assembleBlock } from '../../../src/core/bitcoin/block.ts';
import { encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import {
  addCoinbaseWitness,
  assembleCoinbase,
  buildCoinbase,
} from '../../../src/core/bitcoin/coinbase.ts';
import { sha256d } from '../../../src/core/bitcoin/hash.ts';
import { encodeHeader, hashHeader } from '../../../src/core/bitcoin/header.ts';
import { merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import { decodeBlockOutcome, encodeSolvedBlock } from '../../../src/messages/codec.ts';
import { startBlocksubmit } from '../../../src/services/blocksubmit/blocksubmit.ts';
import { type FakeNode, fakeTransaction, startFakeNode } from '../../tools/fake-node.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function createNode(): Promise<FakeNode> {
  const node = await startFakeNode();
  closers.push(() => node.stop());
  return node;
}

async function createDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'headframe-submit-'));
  closers.push(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A whole block on a node's tip, as it travels. */
function solve(node: FakeNode, nonce = 1) {
  const { height, hash: previous } = node.tip();
  const transaction = fakeTransaction(0, 30);
  const built = buildCoinbase({
    height: height + 1,
    tag: '/solved/',
    aux: new Uint8Array(0),
    extranonceBytes: 12,
    outputs: [{ script: Uint8Array.of(0x51), valueSats: 5_000_000_000n }],
    witnessCommitment: Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed, ...new Uint8Array(32)),
  });
  assert.ok(built.ok);
  const coinbase = assembleCoinbase(built.prefix, new Uint8Array(12), built.suffix, false);
  const txid = new Uint8Array(Buffer.from(transaction.txid, 'hex').reverse());
  const header = encodeHeader({
    version: 0x20000000,
    previousHash: Buffer.from(previous, 'hex').reverse(),
    merkleRoot: merkleRoot([sha256d(coinbase), txid]),
    time: 1_700_000_000,
    bits: 0x207fffff,
    nonce,
  });
  const block = assembleBlock({
    header,
    coinbase: addCoinbaseWitness(coinbase),
    transactionCount: 1,
    body: Buffer.from(transaction.data, 'hex'),
  });
  const headerHash = hashHeader(header);
  const value = encodeSolvedBlock({ headerHash, height: height + 1, block });
  return { block, hash: encodeHexReversed(headerHash), record: { key: 'k', value } };
}

async function start(nodes: FakeNode[], dataDir: string) {
  const log = createMemoryLog();
  const bus = createMemoryBus({ log });
  const states = new Map<string, string[]>();
  const others: string[] = [];
  const poison: Uint8Array[] = [];
  await bus.subscribe('block.outcome', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockOutcome(value);
      assert.ok(decoded.ok);
      const hash = encodeHexReversed(decoded.value.headerHash);
      states.set(hash, [...(states.get(hash) ?? []), decoded.value.state]);
    }
  });
  await bus.subscribe('block.candidates', 'test', async (records) => {
    for (const { key } of records) others.push(key);
  });
  await bus.subscribe('dead.letters', 'test', async (records) => {
    for (const { value } of records) poison.push(value);
  });
  const service = await startBlocksubmit(
    {
      clock: { nowMs: () => Date.now() },
      log,
      bus,
      disk: createDisk(),
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
    },
    {
      nodes: nodes.map(({ url }, i) => ({ name: `n${i}`, url })),
      network: 'regtest',
      dataDir,
      warmMs: 60_000,
      submitTimeoutMs: 300,
      lookTimeoutMs: 200,
      limits: {
        retryMinMs: 10,
        retryMaxMs: 60,
        absentRetryMaxMs: 30,
        hedgeMs: 40,
        lookMs: 20,
        deepLookMs: 30,
        finalConfirmations: 10,
      },
    },
  );
  let stopped = false;
  const stop = async () => {
    if (!stopped) await service.stop();
    stopped = true;
    await bus.stop();
  };
  closers.push(stop);
  return { service, bus, states, others, poison, stop };
}

describe('a solved block', () => {
  it('is handed to every node, followed, and confirmed; nobody is told of the find again', async () => {
    const nodes = [await createNode(), await createNode()];
    const directory = await createDirectory();
    const world = await start(nodes, directory);
    const { block, hash, record } = solve(nodes[0]!);
    await world.bus.publish('block.solved', [record]);
    await until('accepted', () => world.states.get(hash)?.includes('accepted') ?? false);
    await until('at both', () => nodes.every((node) => node.callsOf('submitblock').length > 0));
    assert.equal(nodes[0]!.block(hash)?.hex, Buffer.from(block).toString('hex'));
    for (let i = 0; i < 9; i++) nodes[0]!.mine();
    await until('confirmed', () => world.states.get(hash)?.includes('confirmed') ?? false);
    assert.deepEqual(world.others, []);
    assert.equal(world.service.status().received, 1);
  });

  it('that a node has had from elsewhere, and one that comes many times, is no news to it', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const { hash, record } = solve(node);
    await Promise.all(
      Array.from({ length: 5 }, () => world.bus.publish('block.solved', [record, record])),
    );
    await until('accepted', () => world.states.get(hash)?.includes('accepted') ?? false);
    assert.equal(node.callsOf('submitblock').length, 1);
    await world.stop();
    // Another blocksubmit, with a disk of its own.
    const other = await start([node], await createDirectory());
    await other.bus.publish('block.solved', [record]);
    await until('accepted too', () => other.states.get(hash)?.includes('accepted') ?? false);
  });

  it('is on disk when its record counts as read, and is taken up again after a death', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const { hash, record } = solve(node);
    await node.stop();
    const world = await start([node], directory);
    await world.bus.publish('block.solved', [record]);
    assert.deepEqual(
      readdirSync(join(directory, 'blocks')).filter((name) => name.endsWith('.blk')),
      [`${hash}.blk`],
    );
    assert.equal(world.service.status().undelivered, 1);
    await world.stop();
    const back = await startFakeNode();
    closers.push(() => back.stop());
    const next = await start([back], directory);
    await until('submitted', () => back.callsOf('submitblock').length > 0);
    assert.deepEqual(next.others, []);
  });

  it('that is none goes to the dead letters, byte for byte, and stops nothing', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const good = solve(node);
    const broken = good.block.slice();
    broken[broken.length - 1] = (broken.at(-1) as number) ^ 1;
    const wrongTransactions = encodeSolvedBlock({
      headerHash: new Uint8Array(32),
      height: 1,
      block: broken,
    });
    const bytes = Uint8Array.from([1, 2, 3]);
    await world.bus.publish('block.solved', [
      { key: 'k', value: bytes },
      { key: 'k', value: wrongTransactions },
      good.record,
    ]);
    await until('accepted', () => world.states.get(good.hash)?.includes('accepted') ?? false);
    const hex = (all: Uint8Array[]) => all.map((one) => Buffer.from(one).toString('hex')).sort();
    assert.deepEqual(hex(world.poison), hex([bytes, wrongTransactions]));
    assert.equal(world.service.status().unreadable, 2);
  });
});
