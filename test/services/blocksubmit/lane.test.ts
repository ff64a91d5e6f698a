/**
 * The block lane against nodes over real HTTP and on a real disk: restarts at three points, nodes that are down, slow, hanging or
 * lying, a disk that is full or hangs, reorganisations, and a block of 3.99 MWU (promises P03 to P06, faults F-S7, F-S8, F-B1 to F-B4,
 * F-N3, F-N10, F-N11, F-X1, F-X2).
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, it } from 'node:test';
import { MessageChannel, Worker } from 'node:worker_threads';
import { createMemoryBus, type MemoryBus } from '../../../src/adapters/bus/memory.ts';
import { createDisk } from '../../../src/adapters/disk.ts';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import { decodeBlock } from '../../../src/core/bitcoin/block.ts';
import { encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { assembleCoinbase, buildCoinbase } from '../../../src/core/bitcoin/coinbase.ts';
import { sha256d } from '../../../src/core/bitcoin/hash.ts';
import { encodeHeader, hashHeader } from '../../../src/core/bitcoin/header.ts';
import { merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import { txWeight } from '../../../src/core/bitcoin/tx.ts';
import type { BlockCandidate, BlockOutcome } from '../../../src/messages/block.ts';
import {
  decodeBlockCandidate,
  decodeBlockOutcome,
  encodeTemplateBody,
} from '../../../src/messages/codec.ts';
import type { BlockDisk } from '../../../src/services/blocksubmit/files.ts';
import {
  type BlockLaneHandle,
  type BlockLaneOptions,
  startBlockLane,
} from '../../../src/services/blocksubmit/lane.ts';
import { createLaneClient } from '../../../src/services/blocksubmit/lane-client.ts';
import {
  type FakeNode,
  type FakeTransaction,
  fakeTransaction,
  fatTransactions,
  startFakeNode,
} from '../../tools/fake-node.ts';
import type { StalledMainData } from '../../tools/stalled-main.ts';
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
  const directory = await mkdtemp(join(tmpdir(), 'headframe-lane-'));
  closers.push(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

let jobs = 0;

/** A block on top of a node's tip: template and candidate. */
function makeBlock(
  node: FakeNode,
  options: { transactions?: FakeTransaction[]; previous?: string; height?: number } = {},
) {
  jobs += 1;
  const transactions = options.transactions ?? [];
  const height = options.height ?? node.tip().height + 1;
  const previous = options.previous ?? node.tip().hash;
  const built = buildCoinbase({
    height,
    tag: `/lane ${jobs}/`,
    aux: new Uint8Array(0),
    extranonceBytes: 12,
    outputs: [{ script: Uint8Array.of(0x51), valueSats: 5_000_000_000n }],
    witnessCommitment: Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed, ...new Uint8Array(32)),
  });
  assert.ok(built.ok);
  const coinbase = assembleCoinbase(built.prefix, new Uint8Array(12), built.suffix, false);
  const previousHash = Buffer.from(previous, 'hex').reverse();
  const txids = transactions.map(({ txid }) => new Uint8Array(Buffer.from(txid, 'hex').reverse()));
  const header = encodeHeader({
    version: 0x20000000,
    previousHash,
    merkleRoot: merkleRoot([sha256d(coinbase), ...txids]),
    time: 1_700_000_000,
    bits: 0x207fffff,
    nonce: jobs,
  });
  const headerHash = hashHeader(header);
  const jobId = jobs.toString(16).padStart(8, '0');
  const candidate: BlockCandidate = {
    jobId,
    headerHash,
    header,
    coinbase,
    height,
    account: 'bcrt1qminer',
    worker: 'rig',
    foundAtMs: Date.now(),
    networkDifficulty: 1,
    rewardSats: 5_000_000_000n,
    pool: 'main',
    planId: '',
  };
  const template = encodeTemplateBody({
    jobId,
    height,
    previousHash,
    transactionCount: transactions.length,
    body: Buffer.from(transactions.map(({ data }) => data).join(''), 'hex'),
    witness: true,
  });
  return { candidate, template, hash: encodeHexReversed(headerHash) };
}

type World = {
  lane: BlockLaneHandle;
  bus: MemoryBus;
  outcomes: BlockOutcome[];
  candidates: BlockCandidate[];
  log: ReturnType<typeof createMemoryLog>;
  counts: Map<string, number>;
  shelve(template: Uint8Array): Promise<void>;
  statesOf(hash: string): string[];
};

async function start(
  nodes: FakeNode[],
  dataDir: string,
  options: Partial<BlockLaneOptions> & { disk?: BlockDisk; fault?: (point: string) => void } = {},
): Promise<World> {
  const log = createMemoryLog();
  const bus = createMemoryBus({ log });
  const outcomes: BlockOutcome[] = [];
  const candidates: BlockCandidate[] = [];
  const counts = new Map<string, number>();
  await bus.subscribe('block.outcome', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockOutcome(value);
      assert.ok(decoded.ok);
      outcomes.push(decoded.value);
    }
  });
  await bus.subscribe('block.candidates', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockCandidate(value);
      assert.ok(decoded.ok);
      candidates.push(decoded.value);
    }
  });
  const { disk, fault, ...rest } = options;
  const lane = await startBlockLane(
    {
      clock: { nowMs: () => Date.now() },
      log,
      bus,
      disk: disk ?? createDisk(),
      fault,
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      meter: {
        count: (name) => void counts.set(name, (counts.get(name) ?? 0) + 1),
        set() {},
        observe() {},
      },
    },
    {
      nodes: nodes.map(({ url }, i) => ({ name: `n${i}`, url })),
      network: 'regtest',
      dataDir,
      warmMs: 60_000,
      submitTimeoutMs: 300,
      lookTimeoutMs: 200,
      ...rest,
      limits: {
        retryMinMs: 10,
        retryMaxMs: 60,
        absentRetryMaxMs: 30,
        hedgeMs: 40,
        lookMs: 20,
        deepLookMs: 30,
        finalConfirmations: 10,
        ...rest.limits,
      },
    },
  );
  let stopped = false;
  closers.push(async () => {
    if (!stopped) await lane.stop();
    stopped = true;
    await bus.stop();
  });
  return {
    lane,
    bus,
    outcomes,
    candidates,
    log,
    counts,
    shelve: (template) => bus.publish('mining.templates', [{ key: 'job', value: template }]),
    statesOf: (hash) =>
      outcomes
        .filter(({ headerHash }) => encodeHexReversed(headerHash) === hash)
        .map(({ state }) => state),
  };
}

const findsIn = (directory: string) =>
  readdirSync(join(directory, 'blocks')).filter((name) => name.endsWith('.find'));

describe('a found block', () => {
  it('is on disk, at the node, in its chain, told, and confirmed', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const world = await start([node], directory);
    const block = makeBlock(node, {
      transactions: [fakeTransaction(0, 30), fakeTransaction(1, 0)],
    });
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    const bytes = await readFile(join(directory, 'blocks', `${block.hash}.blk`));
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    assert.equal(node.block(block.hash)!.hex, bytes.toString('hex'));
    const decoded = decodeBlock(bytes);
    assert.ok(decoded.ok);
    assert.equal(decoded.block.transactions.length, 3);
    assert.equal(decoded.block.transactions[0]!.inputs[0]!.witness.length, 1);
    assert.deepEqual(world.statesOf(block.hash).slice(0, 3), ['found', 'submitted', 'accepted']);
    assert.equal(world.candidates[0]!.account, 'bcrt1qminer');
    for (let i = 0; i < 9; i++) node.mine();
    await until('confirmed', () => world.statesOf(block.hash).includes('confirmed'));
    const done = join(directory, 'blocks', 'done');
    await until('its files put aside', () => readdirSync(done).length === 1);
    assert.match(readdirSync(done)[0]!, /^0000000001-[0-9a-f]{64}\.json$/);
    assert.deepEqual(readdirSync(join(directory, 'blocks')), ['done']);
  });

  it('is said to be deeper also when several blocks come between two looks', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    const depth = () => world.outcomes.at(-1)?.confirmations;
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    for (let i = 0; i < 4; i++) node.mine();
    await until('five deep', () => depth() === 5);
    for (let i = 0; i < 3; i++) node.mine();
    await until('eight deep', () => depth() === 8);
    assert.equal(world.statesOf(block.hash).at(-1), 'accepted');
  });

  it('given many times is one block', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    await Promise.all(Array.from({ length: 20 }, () => world.lane.submit(block.candidate)));
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    await world.lane.submit(block.candidate);
    assert.equal(node.callsOf('submitblock').length, 1);
    assert.equal(world.counts.get('blocks_found'), 1);
  });

  it('of 3.99 MWU arrives whole', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory(), { submitTimeoutMs: 3000 });
    const block = makeBlock(node, { transactions: fatTransactions(3_990_000) });
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    const { hex } = node.block(block.hash)!;
    const decoded = decodeBlock(Buffer.from(hex, 'hex'));
    assert.ok(decoded.ok);
    let weight = 320;
    for (const tx of decoded.block.transactions) weight += txWeight(tx);
    assert.ok(weight >= 3_988_000 && weight <= 4_000_000, `weight ${weight}`);
  });

  it('waits for a template that is still on its way, and whoever has it hears of the find meanwhile', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    const kept = world.lane.submit(block.candidate);
    assert.equal(world.lane.status().undelivered, 1);
    await until('told of', () => world.candidates.length === 1);
    assert.equal(encodeHexReversed(world.candidates[0]!.headerHash), block.hash);
    await world.shelve(block.template);
    await kept;
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
  });

  it('whose template never comes is settled when the second road brought it to a node', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const world = await start([node], directory, { warmMs: 20 });
    const block = makeBlock(node);
    const kept = world.lane.submit(block.candidate);
    assert.equal(world.lane.status().undelivered, 1);
    const other = await start([node], await createDirectory());
    await other.shelve(block.template);
    await other.lane.submit(block.candidate);
    await kept;
    assert.equal(world.lane.status().undelivered, 0);
    await until('its file gone', () => findsIn(directory).length === 0);
    await world.lane.submit(block.candidate);
    assert.equal(node.callsOf('submitblock').length, 1);
  });

  it('on a job two tips old still goes out', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const old = makeBlock(node);
    await world.shelve(old.template);
    for (let i = 0; i < 2; i++) {
      node.mine();
      await world.shelve(makeBlock(node).template);
    }
    await world.lane.submit(old.candidate);
    await until('it is known to the node', () => node.block(old.hash) !== undefined);
    await until('side', () => world.statesOf(old.hash).at(-1) === 'side');
  });
});

describe('nodes in trouble', () => {
  it('one node down, one slow, one hanging: the block lands on the fourth at once and on all in the end', async () => {
    const [down, slow, hanging, good] = await Promise.all([
      createNode(),
      createNode(),
      createNode(),
      createNode(),
    ]);
    const block = makeBlock(good!);
    await down!.down();
    slow!.faults.set('submitblock', { kind: 'delay', delayMs: 150 });
    hanging!.faults.set('*', { kind: 'hang' });
    const world = await start([down!, slow!, hanging!, good!], await createDirectory());
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('the good node has it', () => good!.block(block.hash) !== undefined, 1000);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    await until('the slow node has it', () => slow!.block(block.hash) !== undefined);
    hanging!.faults.clear();
    await until('the hanging node has it', () => hanging!.block(block.hash) !== undefined);
    await down!.up();
    await until('the node that was down has it', () => down!.block(block.hash) !== undefined);
  });

  it('an error after the node took the block is no loss', async () => {
    const node = await createNode();
    node.faults.set('submitblock', { kind: 'act-and-break' });
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
  });

  for (const [what, fault] of [
    ['503', { kind: 'status', status: 503, text: 'Work queue depth exceeded' }],
    ['401', { kind: 'status', status: 401, text: '' }],
    ['HTML', { kind: 'status', status: 200, text: '<html>' }],
    ['−28', { kind: 'error', code: -28, message: 'Loading' }],
    ['a lie', { kind: 'result', result: null }],
    ['"duplicate" without having it', { kind: 'result', result: 'duplicate' }],
    ['"inconclusive" without having it', { kind: 'result', result: 'inconclusive' }],
    ['an unknown parent', { kind: 'result', result: 'prev-blk-not-found' }],
    ['"time-too-new"', { kind: 'result', result: 'time-too-new' }],
  ] as const) {
    it(`answers ${what} to submitblock: sent again until it is in the chain`, async () => {
      const node = await createNode();
      node.faults.set('submitblock', fault);
      const world = await start([node], await createDirectory());
      const block = makeBlock(node);
      await world.shelve(block.template);
      await world.lane.submit(block.candidate);
      await until('several tries', () => node.callsOf('submitblock').length >= 3);
      assert.ok(!world.statesOf(block.hash).includes('accepted'));
      assert.ok(!world.statesOf(block.hash).includes('refused'));
      node.faults.clear();
      await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    });
  }

  it('a block that every node calls invalid is given up, with an alarm and its bytes kept', async () => {
    const node = await createNode();
    node.faults.set('submitblock', { kind: 'result', result: 'bad-cb-amount' });
    const directory = await createDirectory();
    const world = await start([node], directory);
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('refused', () => world.statesOf(block.hash).at(-1) === 'refused');
    await until('not watched any more', () => world.lane.status().watched === 0);
    assert.ok(
      world.log.lines.some(
        ({ level, message }) => level === 'error' && message.includes('invalid'),
      ),
    );
    assert.equal(node.callsOf('submitblock').length, 1);
    // Its files are put aside once that is told.
    const done = join(directory, 'blocks', 'done');
    await until('its bytes put aside', () => readdirSync(done).length === 2);
  });
});

describe('reorganisations', () => {
  it('a side block is watched, orphaned when six deep, and comes back', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    const parent = node.genesis;
    let rival = node.mine(parent);
    rival = node.mine(rival.hash);
    await until('side', () => world.statesOf(block.hash).at(-1) === 'side');
    for (let i = 0; i < 4; i++) rival = node.mine(rival.hash);
    await until('orphaned', () => world.statesOf(block.hash).at(-1) === 'orphaned');
    let ours = node.mine(block.hash);
    for (let i = 0; i < 6; i++) ours = node.mine(ours.hash);
    await until('accepted again', () => world.statesOf(block.hash).at(-1) === 'accepted');
    for (let i = 0; i < 12; i++) rival = node.mine(rival.hash);
    await until('orphaned for good', () => world.lane.status().watched === 0);
    assert.equal(world.statesOf(block.hash).at(-1), 'orphaned');
  });

  it('a race lost by a hair: the node is asked to prefer ours', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    // The rival reaches the node while our block is on its way.
    const rival = node.mine();
    await world.lane.submit(block.candidate);
    await until('asked', () => node.callsOf('preciousblock').length === 1);
    await until('accepted', () => world.statesOf(block.hash).at(-1) === 'accepted');
    assert.equal(node.isInBestChain(rival.hash), false);
  });

  it('two of ours at one height: both are followed, neither is preferred', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const [first, second] = [makeBlock(node), makeBlock(node)];
    await world.shelve(first.template);
    await world.shelve(second.template);
    await world.lane.submit(first.candidate);
    await until('accepted', () => world.statesOf(first.hash).at(-1) === 'accepted');
    await world.lane.submit(second.candidate);
    await until('side', () => world.statesOf(second.hash).at(-1) === 'side');
    assert.equal(world.statesOf(first.hash).at(-1), 'accepted');
    assert.equal(node.callsOf('preciousblock').length, 0);
  });

  it('a race that we joined late is not contested', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    node.mine();
    await world.shelve(makeBlock(node).template);
    await world.lane.submit(block.candidate);
    await until('side', () => world.statesOf(block.hash).at(-1) === 'side');
    assert.equal(node.callsOf('preciousblock').length, 0);
  });
});

describe('restarts', () => {
  it('killed before the disk: the gateway repeats what was not acknowledged', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const client = createLaneClient({ log: createMemoryLog() });
    const block = makeBlock(node);
    client.submit(block.candidate);
    // The first lane dies before it reads its port.
    const dead = new MessageChannel();
    client.attach(dead.port1);
    dead.port2.close();
    assert.equal(client.unacknowledged(), 1);
    const world = await start([node], directory);
    await world.shelve(block.template);
    const { port1, port2 } = new MessageChannel();
    closers.push(() => port1.close());
    world.lane.attach(port2);
    client.attach(port1);
    await until('acknowledged', () => client.unacknowledged() === 0);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
  });

  it('killed after the disk, before the node: the block goes out at the start', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    await node.down();
    const first = await start([node], directory);
    const block = makeBlock(node, { transactions: [fakeTransaction(0, 10)] });
    await first.shelve(block.template);
    await first.lane.submit(block.candidate);
    await first.lane.stop();
    await node.up();
    // No template: everything comes from the disk.
    const second = await start([node], directory);
    await until('accepted', () => second.statesOf(block.hash).includes('accepted'), 1000);
    assert.equal(second.candidates[0]!.worker, 'rig');
    assert.equal(
      node.block(block.hash)!.hex.length,
      node.callsOf('submitblock')[0]!.params[0]!.toString().length,
    );
  });

  it('killed after the node took it, before that was known: found in the chain', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    let kill = () => {};
    const first = await start([node], directory, {
      fault: (point) => {
        if (point === 'block.afterSubmit') kill();
      },
    });
    kill = () => void first.lane.stop();
    const block = makeBlock(node);
    await first.shelve(block.template);
    await first.lane.submit(block.candidate);
    await until('the node has it', () => node.block(block.hash) !== undefined);
    await first.lane.stop();
    assert.ok(!first.statesOf(block.hash).includes('accepted'));
    const second = await start([node], directory);
    await until('accepted', () => second.statesOf(block.hash).includes('accepted'), 1000);
  });

  it('killed while it waits for its template: told of again, and a block as soon as the template is there', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const first = await start([node], directory);
    const block = makeBlock(node);
    void first.lane.submit(block.candidate);
    await until('on disk', () => findsIn(directory).length === 1);
    await first.lane.stop();
    const second = await start([node], directory);
    await until('told of', () => second.candidates.length === 1);
    assert.equal(second.lane.status().undelivered, 1);
    await second.shelve(block.template);
    await until('accepted', () => second.statesOf(block.hash).includes('accepted'));
    await until('its file gone', () => findsIn(directory).length === 0);
    assert.equal(second.candidates[0]!.account, 'bcrt1qminer');
  });

  it('killed when the block was on disk and the find not yet gone: one block', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const first = await start([node], directory);
    const block = makeBlock(node);
    void first.lane.submit(block.candidate);
    await until('on disk', () => findsIn(directory).length === 1);
    const find = join(directory, 'blocks', findsIn(directory)[0]!);
    const bytes = await readFile(find);
    await first.shelve(block.template);
    await until('accepted', () => first.statesOf(block.hash).includes('accepted'));
    await until('its file gone', () => findsIn(directory).length === 0);
    await first.lane.stop();
    await writeFile(find, bytes);
    const second = await start([node], directory);
    await until('its file gone', () => findsIn(directory).length === 0);
    assert.equal(second.lane.status().watched, 1);
    assert.equal(second.lane.status().undelivered, 0);
  });

  it('killed between sync and rename, and with the record lost', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    await node.down();
    const real = createDisk();
    const disk: BlockDisk = {
      ...real,
      rename: () => Promise.reject(Object.assign(new Error('killed'), { code: 'EIO' })),
    };
    const first = await start([node], directory, { disk });
    const block = makeBlock(node, {
      transactions: [fakeTransaction(0, 10), fakeTransaction(1, 0)],
    });
    await first.shelve(block.template);
    void first.lane.submit(block.candidate);
    await until('the disk failed', () => first.counts.get('block_disk_failed') === 1);
    await first.lane.stop();
    await node.up();
    const second = await start([node], directory);
    await until('accepted', () => second.statesOf(block.hash).includes('accepted'));
    assert.equal(second.candidates[0]!.height, 1);
    assert.equal(second.candidates[0]!.rewardSats, 5_000_000_000n);
  });

  it('three restarts while the node is away, then it lands within half a second', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    await node.down();
    const block = makeBlock(node);
    for (let i = 0; i < 3; i++) {
      const world = await start([node], directory);
      if (i === 0) {
        await world.shelve(block.template);
        await world.lane.submit(block.candidate);
      }
      await until('a try', () => world.counts.get('block_submits')! > 1);
      await world.lane.stop();
    }
    const world = await start([node], directory, { limits: { absentRetryMaxMs: 250 } });
    await until('tries', () => world.counts.get('block_submits')! > 2);
    await node.up();
    await until('it landed', () => node.block(block.hash) !== undefined, 1000);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
  });

  it('several blocks wait for a node: all land, in any order', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const world = await start([node], directory);
    await node.down();
    const blocks: ReturnType<typeof makeBlock>[] = [];
    let previous = node.genesis;
    for (let height = 1; height <= 5; height++) {
      const block = makeBlock(node, { previous, height });
      previous = block.hash;
      blocks.push(block);
      await world.shelve(block.template);
    }
    for (const block of blocks.slice(-3)) await world.lane.submit(block.candidate);
    // The first two are of the oldest tips and come late.
    await node.up();
    await world.shelve(blocks[1]!.template);
    await world.shelve(blocks[0]!.template);
    for (const block of blocks.slice(0, 2)) await world.lane.submit(block.candidate);
    await until('all in the chain', () => blocks.every(({ hash }) => node.isInBestChain(hash)));
  });

  it('many blocks of long ago are looked at two at a time, and a new one before them', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const first = await start([node], directory);
    const old: string[] = [];
    for (let i = 0; i < 8; i++) {
      const block = makeBlock(node);
      await first.shelve(block.template);
      await first.lane.submit(block.candidate);
      await until('in the chain', () => node.isInBestChain(block.hash));
      await until('told', () => first.statesOf(block.hash).includes('accepted'));
      old.push(block.hash);
    }
    await first.lane.stop();
    node.faults.set('getblockheader', { kind: 'delay', delayMs: 40 });
    node.calls.length = 0;
    const limits = { lookMs: 60_000, deepLookMs: 60_000 } as BlockLaneOptions['limits'];
    const world = await start([node], directory, { lookTimeoutMs: 5_000, limits });
    const looks = () =>
      node.callsOf('getblockheader').map((call) => ({ ...call, hash: String(call.params[0]) }));
    await until('looks', () => looks().length >= 2);
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('all were looked at', () => new Set(looks().map(({ hash }) => hash)).size === 9);
    const order = looks().map(({ hash }) => hash);
    assert.ok(order.indexOf(block.hash) < order.indexOf(old.at(-1)!));
    const asked = looks().filter(({ hash }) => hash !== block.hash);
    for (const { atMs } of asked) {
      const open = asked.filter((one) => one.atMs <= atMs && one.answeredAtMs > atMs);
      assert.ok(open.length <= 2, `${open.length} at a time`);
    }
  });

  it('ends at once with a hundred blocks under watch', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory(), {
      lookTimeoutMs: 5_000,
      limits: { finalConfirmations: 1_000 },
    });
    for (let i = 0; i < 100; i++) {
      const block = makeBlock(node);
      await world.shelve(block.template);
      await world.lane.submit(block.candidate);
      await until('in the chain', () => node.isInBestChain(block.hash));
    }
    node.faults.set('getblockheader', { kind: 'delay', delayMs: 300 });
    await until('a look that takes long', () => world.lane.status().watched === 100);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const startMs = performance.now();
    await world.lane.stop();
    const tookMs = performance.now() - startMs;
    assert.ok(tookMs < 1_000, `${tookMs} ms`);
  });

  it("broken files are told and stand in nobody's way", async () => {
    const node = await createNode();
    const directory = await createDirectory();
    await mkdir(join(directory, 'blocks'), { recursive: true });
    const name = 'ab'.repeat(32);
    await writeFile(join(directory, 'blocks', `${name}.json`), '{"candidate":5}');
    await writeFile(join(directory, 'blocks', `${name}.blk.part`), Buffer.alloc(500));
    await writeFile(join(directory, 'blocks', 'notes.txt'), 'hello');
    const world = await start([node], directory);
    assert.equal(world.log.lines.filter(({ level }) => level === 'error').length, 2);
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
  });
});

describe('a disk in trouble', () => {
  it('full: the block goes out, and is safe once a node has it', async () => {
    const node = await createNode();
    const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
    const disk: BlockDisk = { ...createDisk(), open: () => Promise.reject(full) };
    const world = await start([node], await createDirectory(), { disk });
    const block = makeBlock(node);
    await world.shelve(block.template);
    await world.lane.submit(block.candidate);
    assert.ok(node.block(block.hash) !== undefined);
    assert.ok(
      world.log.lines.some(({ level, fields }) => level === 'error' && fields.reason === 'ENOSPC'),
    );
  });

  it('full while no node is there: the block is written once there is space, and a restart finds it', async () => {
    const node = await createNode();
    const directory = await createDirectory();
    const real = createDisk();
    const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
    let isFull = true;
    const disk: BlockDisk = {
      ...real,
      open: (path, how) => (isFull ? Promise.reject(full) : real.open(path, how)),
    };
    const block = makeBlock(node);
    await node.down();
    const first = await start([node], directory, { disk });
    await first.shelve(block.template);
    const kept = first.lane.submit(block.candidate);
    await until('the disk has failed', () =>
      first.log.lines.some(({ level }) => level === 'error'),
    );
    isFull = false;
    await kept;
    await first.lane.stop();
    await node.up();
    await start([node], directory);
    await until('the node has it', () => node.block(block.hash) !== undefined);
  });

  it('hanging: the block goes out all the same', async () => {
    const node = await createNode();
    const real = createDisk();
    const releases: (() => void)[] = [];
    const disk: BlockDisk = {
      ...real,
      open: async (path, how) => {
        const file = await real.open(path, how);
        const datasync = () => new Promise<void>((resolve) => releases.push(resolve));
        return { ...file, datasync };
      },
    };
    const world = await start([node], await createDirectory(), { disk, diskPatienceMs: 20 });
    const block = makeBlock(node);
    await world.shelve(block.template);
    void world.lane.submit(block.candidate);
    await until('accepted', () => world.statesOf(block.hash).includes('accepted'));
    assert.ok(!world.log.text().includes('cannot be written'));
    const timer = setInterval(() => {
      for (const release of releases.splice(0)) release();
    }, 1);
    closers.push(() => clearInterval(timer));
    await world.lane.stop();
  });

  it('a bus that refuses everything changes nothing for the block, and hears of it later', async () => {
    const node = await createNode();
    const world = await start([node], await createDirectory());
    const block = makeBlock(node);
    await world.shelve(block.template);
    const publish = world.bus.publish;
    world.bus.publish = () => Promise.reject(new Error('no bus'));
    await world.lane.submit(block.candidate);
    await until('in the chain', () => node.isInBestChain(block.hash));
    world.bus.publish = publish;
    await until('told', () => world.statesOf(block.hash).includes('accepted'));
    assert.equal(world.candidates.length, 1);
  });
});

describe('a main thread that stands still', () => {
  it('does not hold up a block that it has handed over', async () => {
    const directory = await createDirectory();
    const submits = new SharedArrayBuffer(4);
    const spawn = (workerData: StalledMainData): Promise<[Worker, unknown]> => {
      const worker = new Worker(new URL('../../tools/stalled-main.ts', import.meta.url), {
        workerData,
      });
      closers.push(async () => void (await worker.terminate()));
      return new Promise((resolve, reject) => {
        worker.once('message', (said: unknown) => resolve([worker, said]));
        worker.once('error', reject);
      });
    };
    const [, url] = await spawn({ kind: 'node', submits });
    const block = makeBlock(await createNode());
    const [lane] = await spawn({
      kind: 'lane',
      url: String(url),
      dataDir: directory,
      template: block.template,
    });
    const client = createLaneClient({ log: createMemoryLog() });
    const { port1, port2 } = new MessageChannel();
    closers.push(() => port1.close());
    lane.postMessage(port2, [port2]);
    client.attach(port1);
    client.submit(block.candidate);
    // From here on this thread runs nothing at all until the node has been asked.
    const woken = Atomics.wait(new Int32Array(submits), 0, 0, 4000);
    assert.notEqual(woken, 'timed-out');
    assert.equal(new Int32Array(submits)[0], 1);
  });
});
