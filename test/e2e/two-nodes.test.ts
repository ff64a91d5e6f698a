/**
 * A pool with two nodes, of which the preferred one is in trouble all the time: hanging, answering 503, gone, coming back, silent. No
 * block may be lost to that, and work must go on from the other within seconds.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { type Devnet, type DevnetOptions, startDevnet } from '../../src/services/devnet/devnet.ts';
import {
  makeDataDir,
  type PoolProcess,
  removeData,
  startPoolProcess,
} from '../tools/pool-process.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { TestMiner } from '../tools/test-miner.ts';

const PASSWORD = 'word-of-the-test';
const POOL_ADDRESS = encodeAddress(
  Uint8Array.of(0, 20, ...new Array<number>(20).fill(3)),
  'regtest',
)!;
/** What "within seconds" may take on a machine that runs other tests. */
const SECONDS_MS = 10_000;
const NOTICED_MS = 5_000;

describe('two nodes', () => {
  let dataDir = '';
  let first: Devnet;
  let second: Devnet;
  let part: () => void = () => {};
  let pool: PoolProcess;
  let miner: TestMiner;

  const startNode = (options: Partial<DevnetOptions>): Promise<Devnet> =>
    startDevnet(
      { clock: { nowMs: () => Date.now() }, log: createSilentLog() },
      {
        rpcPort: 0,
        zmqPort: 0,
        user: 'pool',
        password: PASSWORD,
        initialBlocks: 0,
        transactionsPerBlock: 3,
        ...options,
      },
    );
  const startFirst = (rpcPort: number): Promise<Devnet> =>
    startNode({ rpcPort, initialBlocks: 103, dataDir: join(dataDir, 'first') });

  before(async () => {
    dataDir = makeDataDir();
    first = await startFirst(0);
    second = await startNode({});
    part = first.connect(second);
    assert.equal(second.chain.tip.id, first.chain.tip.id, 'joined');
    pool = await startPoolProcess(dataDir, {
      NETWORK: 'regtest',
      POOL_ADDRESS,
      BITCOIN_RPC_URL: first.rpcUrl,
      BITCOIN_RPC_USER: 'pool',
      BITCOIN_RPC_PASSWORD: PASSWORD,
      BITCOIN_ZMQ_ADDR: first.zmqAddress!,
      BITCOIN_NODES: `${second.rpcUrl};name=second;zmq=${second.zmqAddress}`,
      // Every share of this difficulty is a block of regtest: some ten milliseconds of search.
      MIN_DIFFICULTY: '0.00001',
      INITIAL_DIFFICULTY: '0.00001',
    });
    miner = await TestMiner.join({ port: pool.ports.stratum, user: `${POOL_ADDRESS}.rig` });
  });

  after(async () => {
    miner?.hangUp();
    await pool?.stop();
    part();
    await first?.stop();
    await second?.stop();
    removeData(dataDir);
  });

  const previous = (): string => encodeHexReversed(miner.job!.previousHash);

  /** Finds a block; it must become the tip of this node, and the next job must stand on it. */
  async function landBlock(on: Devnet): Promise<string> {
    const found = pool.logged('BLOCK FOUND').length;
    await miner.acceptedShare();
    await pool.until('a block', () => pool.logged('BLOCK FOUND').length > found, SECONDS_MS);
    const hash = String(pool.logged('BLOCK FOUND').at(-1)!.hash);
    await pool.until('it on the chain', () => on.chain.tip.id === hash, SECONDS_MS);
    await pool.until('a job on it', () => previous() === hash, SECONDS_MS);
    await pool.until(
      'it accepted',
      () => pool.logged('block is accepted').some((line) => line.hash === hash),
      SECONDS_MS,
    );
    return hash;
  }

  it('are both given a block', async () => {
    part();
    const hash = await landBlock(second);
    await pool.until('it on the first', () => first.chain.tip.id === hash);
    part = first.connect(second);
  });

  it('the first hangs on submitblock: the block lands by the second', async () => {
    part();
    const clear = first.fault({ kind: 'hang', method: 'submitblock' });
    const height = first.chain.tip.height;
    const hash = await landBlock(second);
    assert.equal(first.chain.tip.height, height, 'the first never took it');
    await landBlock(second);
    clear();
    part = first.connect(second);
    assert.notEqual(first.chain.tip.id, hash);
    assert.equal(first.chain.tip.id, second.chain.tip.id);
  });

  it('the first answers 503 to everything: blocks land, work comes from the second', async () => {
    first.fault({ kind: 'work-queue' });
    await landBlock(second);
    await landBlock(second);
    assert.equal(pool.logged('new block to mine on').at(-1)!.node, 'second');
    first.clearFaults();
  });

  it('the first is down: work goes on at once', async () => {
    part();
    await first.stop();
    await landBlock(second);
    const [tip] = await second.generate(1);
    await pool.until('a job on a block of others', () => previous() === tip, NOTICED_MS);
    await landBlock(second);
    assert.equal(pool.logged('new block to mine on').at(-1)!.node, 'second');
  });

  it('the first comes back while blocks are found: none is lost, and it is used again', async () => {
    const { rpcPort } = first;
    const [, hash] = await Promise.all([
      startFirst(rpcPort).then((restarted) => {
        first = restarted;
      }),
      landBlock(second),
    ]);
    part = first.connect(second);
    assert.equal(first.chain.tip.id, hash);
    await pool.until(
      'both nodes in good health',
      () => {
        const last = pool.log.findLast(
          ({ node, message }) =>
            node === 'node1' && /^node (is ready|cannot be used)/.test(message),
        );
        return last?.message === 'node is ready';
      },
      SECONDS_MS,
    );
    part();
    const next = await landBlock(second);
    await pool.until('it on the first', () => first.chain.tip.id === next, SECONDS_MS);
    part = first.connect(second);
  });

  it('ZMQ is silent: a new tip is noticed by asking', async () => {
    first.fault({ kind: 'zmq-silent' });
    second.fault({ kind: 'zmq-silent' });
    for (const node of [first, second]) {
      const [tip] = await node.generate(1);
      await pool.until('a job on the new tip', () => previous() === tip, NOTICED_MS);
    }
    // Long-poll out of the way too: nothing is left but the question for the best block.
    const clear = [first, second].map((node) =>
      node.fault({ kind: 'delay', method: 'getblocktemplate', delayMs: 300 }),
    );
    const [tip] = await second.generate(1);
    await pool.until('a job on the new tip', () => previous() === tip, NOTICED_MS);
    for (const end of clear) end();
    await landBlock(second);
  });

  it('and nothing was refused, given up or forgotten', async () => {
    const answer = await pool.untilPage<{ blocks: { hashDisplay: string; state: string }[] }>(
      '/api/v1/blocks?limit=500',
      ({ blocks }) => blocks.length >= pool.logged('BLOCK FOUND').length,
    );
    for (const { hashDisplay, state } of answer.blocks) {
      assert.match(state, /^(accepted|confirmed)$/, hashDisplay);
      assert.ok(second.chain.inActive(second.chain.index.get(hashDisplay)!));
    }
    assert.ok(!JSON.stringify(pool.log).includes(PASSWORD));
    miner.hangUp();
    assert.equal(await pool.stop(), 0);
  });
});
