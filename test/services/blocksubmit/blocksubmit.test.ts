/** Solved blocks from the bus, against nodes over real HTTP and on a real disk. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { createDisk, type Disk } from '../../../src/adapters/disk.ts';
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
import { decodeBits, hashToInteger } from '../../../src/core/bitcoin/target.ts';
import type { Job } from '../../../src/core/work/job.ts';
import type { BlockCandidate } from '../../../src/messages/block.ts';
import {
  decodeBlockOutcome,
  encodeBlockCandidate,
  encodeJob,
  encodeSolvedBlock,
  encodeTemplateBody,
} from '../../../src/messages/codec.ts';
import type { Bus } from '../../../src/ports.ts';
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
  const work = {
    version: 0x20000000,
    previousHash: Buffer.from(previous, 'hex').reverse(),
    merkleRoot: merkleRoot([sha256d(coinbase), txid]),
    time: 1_700_000_000,
    bits: 0x207fffff,
    nonce: nonce * 1_000,
  };
  // Every other hash is good on regtest.
  while (hashToInteger(hashHeader(encodeHeader(work))) > decodeBits(work.bits)!) work.nonce += 1;
  const header = encodeHeader(work);
  const block = assembleBlock({
    header,
    coinbase: addCoinbaseWitness(coinbase),
    transactionCount: 1,
    body: Buffer.from(transaction.data, 'hex'),
  });
  const headerHash = hashHeader(header);
  const value = encodeSolvedBlock({ headerHash, height: height + 1, block });
  const previousHash = new Uint8Array(Buffer.from(previous, 'hex').reverse());
  const job: Job = {
    jobId: `a${nonce}`,
    height: height + 1,
    version: 0x20000000,
    previousHash,
    bits: 0x207fffff,
    networkTarget: decodeBits(0x207fffff)!,
    curtime: 1_700_000_000,
    mintime: 1_600_000_000,
    branch: [txid],
    coinbaseValueSats: 5_000_000_000n,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: null,
    coinbaseWeightMax: 4_000,
    feesSats: 0n,
    transactionCount: 1,
    clean: true,
    createdAtMs: 0,
  };
  const candidate: BlockCandidate = {
    jobId: job.jobId,
    headerHash,
    header,
    coinbase,
    height: height + 1,
    account: 'someone',
    worker: 'w',
    foundAtMs: 1,
    networkDifficulty: 1,
    rewardSats: 5_000_000_000n,
    pool: 'main',
    planId: '',
  };
  const template = {
    jobId: job.jobId,
    height: height + 1,
    previousHash,
    transactionCount: 1,
    body: new Uint8Array(Buffer.from(transaction.data, 'hex')),
    witness: true,
  };
  const hash = encodeHexReversed(headerHash);
  return { block, hash, job, candidate, template, record: { key: 'k', value } };
}

async function start(nodes: FakeNode[], dataDir: string, disk: Disk = createDisk()) {
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
      disk,
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

  it('is at the node while the disk still writes, and counts as read when it is written', async () => {
    const node = await createNode();
    const disk = createDisk();
    const writes = Promise.withResolvers<void>();
    const slow: Disk = {
      ...disk,
      async open(path, how) {
        const file = await disk.open(path, how);
        return {
          ...file,
          async write(bytes, position) {
            await writes.promise;
            await file.write(bytes, position);
          },
        };
      },
    };
    const world = await start([node], await createDirectory(), slow);
    const { hash, record } = solve(node);
    let isRead = false;
    const reading = world.bus.publish('block.solved', [record]).then(() => {
      isRead = true;
    });
    await until('accepted', () => world.states.get(hash)?.includes('accepted') ?? false);
    assert.equal(isRead, false);
    writes.resolve();
    await reading;
  });

  it('that came a moment before the end is on disk at the end', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const world = await start([node], directory);
    const { hash, record } = solve(node);
    const reading = world.bus.publish('block.solved', [record]);
    await until('at the node', () => node.callsOf('submitblock').length > 0);
    const startMs = performance.now();
    await world.stop();
    await reading;
    assert.ok(performance.now() - startMs < 1_000);
    assert.ok(readdirSync(join(directory, 'blocks')).includes(`${hash}.blk`));
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

describe('the record of a find', () => {
  /** Job and template, as jobmanager tells them. */
  async function tell(bus: Bus, { job, template }: ReturnType<typeof solve>): Promise<void> {
    await bus.publish('mining.jobs', [{ key: 'job', value: encodeJob(job) }]);
    await bus.publish('mining.templates', [{ key: 'job', value: encodeTemplateBody(template) }]);
  }
  const recordOf = (candidate: BlockCandidate) => ({
    key: 'k',
    value: encodeBlockCandidate(candidate),
  });

  it('is a block at once with the template at hand; the whole one that follows is no news', async () => {
    const nodes = [await createNode(), await createNode()];
    const directory = await createDirectory();
    const world = await start(nodes, directory);
    const solved = solve(nodes[0]!);
    await tell(world.bus, solved);
    await world.bus.publish('block.candidates', [recordOf(solved.candidate)]);
    await until('at both', () => nodes.every((node) => node.callsOf('submitblock').length > 0));
    assert.equal(nodes[0]!.block(solved.hash)?.hex, Buffer.from(solved.block).toString('hex'));
    await until(
      'on disk',
      () =>
        readdirSync(join(directory, 'blocks')).filter((name) => name.endsWith('.blk')).length > 0,
    );
    await world.bus.publish('block.solved', [solved.record]);
    await until('accepted', () => world.states.get(solved.hash)?.includes('accepted') ?? false);
    assert.deepEqual(
      nodes.map((node) => node.callsOf('submitblock').length),
      [1, 1],
    );
    assert.deepEqual(world.others, ['k']);
    const { assembled, received } = world.service.status();
    assert.deepEqual({ assembled, received }, { assembled: 1, received: 1 });
  });

  it('that is early waits for its job and its template', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const solved = solve(node);
    await world.bus.publish('block.candidates', [recordOf(solved.candidate)]);
    assert.equal(world.service.status().assembled, 0);
    await tell(world.bus, solved);
    await until('accepted', () => world.states.get(solved.hash)?.includes('accepted') ?? false);
    assert.equal(node.callsOf('submitblock').length, 1);
  });

  it('is not pushed out by what gateways tell again of blocks that are known', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const [early, known] = [solve(node, 1), solve(node, 2)];
    await world.bus.publish('block.candidates', [recordOf(early.candidate)]);
    await world.bus.publish('block.solved', [known.record]);
    const again = Array.from({ length: 300 }, () => recordOf(known.candidate));
    await world.bus.publish('block.candidates', again);
    await tell(world.bus, early);
    await until('assembled', () => world.service.status().assembled === 1);
  });

  it('without its job or its template, or that belongs to neither, is left to the whole block', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const [known, ofNoTemplate, ofNoJob] = [solve(node, 1), solve(node, 2), solve(node, 3)];
    await tell(world.bus, known);
    await world.bus.publish('mining.jobs', [{ key: 'job', value: encodeJob(ofNoTemplate.job) }]);
    await world.bus.publish('mining.templates', [
      { key: 'job', value: encodeTemplateBody(ofNoJob.template) },
    ]);
    await world.bus.publish('block.candidates', [
      { key: 'k', value: Uint8Array.of(255, 1, 2) },
      recordOf({ ...known.candidate, coinbase: Uint8Array.of(1) }),
      recordOf({ ...known.candidate, jobId: 'ffff' }),
      recordOf(ofNoTemplate.candidate),
      recordOf(ofNoJob.candidate),
    ]);
    assert.deepEqual([world.service.status().assembled, world.service.status().watched], [0, 0]);
    await world.bus.publish('block.solved', [ofNoJob.record]);
    await until('accepted', () => world.states.get(ofNoJob.hash)?.includes('accepted') ?? false);
    assert.equal(node.callsOf('submitblock').length, 1);
    // It takes part again with the next one.
    await world.bus.publish('block.candidates', [recordOf(known.candidate)]);
    await until('the next one', () => node.callsOf('submitblock').length === 2);
  });
});
