/**
 * Job manager and block lane against our own development chain, always, and against real full nodes on regtest: Bitcoin Core (`BITCOIND` or `bitcoind` in the PATH) and btcd (`BTCD`
 * or `btcd`). A node that is not found is named in the output; nothing is downloaded.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { createDisk } from '../../src/adapters/disk.ts';
import { createRpc } from '../../src/adapters/node/rpc.ts';
import { subscribeZmq } from '../../src/adapters/node/zmq.ts';
import { encodeHex, encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { assembleCoinbase } from '../../src/core/bitcoin/coinbase.ts';
import { sha256, sha256d } from '../../src/core/bitcoin/hash.ts';
import { hashHeader } from '../../src/core/bitcoin/header.ts';
import { foldBranch } from '../../src/core/bitcoin/merkle.ts';
import { hashToInteger } from '../../src/core/bitcoin/target.ts';
import { decodeTx, encodeTx } from '../../src/core/bitcoin/tx.ts';
import type { NodeAddress, OpenRpc } from '../../src/core/node/rpc.ts';
import { assembleBlockHeader, buildJobCoinbase, type Job } from '../../src/core/work/job.ts';
import type { BlockCandidate, BlockOutcome } from '../../src/messages/block.ts';
import { decodeBlockOutcome, decodeJob } from '../../src/messages/codec.ts';
import { startBlockLane } from '../../src/services/blocksubmit/lane.ts';
import { startDevnet } from '../../src/services/devnet/devnet.ts';
import { startJobmanager } from '../../src/services/jobmanager/jobmanager.ts';
import { freePort } from '../tools/pool-process.ts';
import { findProgram } from '../tools/regtest-node.ts';
import { createMemoryLog, until } from '../tools/waiting.ts';

/** Pay to the witness script OP_TRUE: anybody may spend it, so the test needs no keys. */
const OP_TRUE = Uint8Array.of(0x51);
const SCRIPT = Uint8Array.of(0x00, 0x20, ...sha256(OP_TRUE));
/** Until a block counts as final here. */
const CONFIRMATIONS = 12;
/** Consensus: a coinbase is spendable in the hundredth block after its own. */
const MATURITY = 100;

type RealNode = { address: NodeAddress; stop(): Promise<void> };

async function runProgram(
  program: string,
  argumentsOf: (directory: string, rpcPort: number, zmqPort: number) => string[],
  addressOf: (directory: string, rpcPort: number, zmqPort: number) => NodeAddress,
): Promise<RealNode> {
  const directory = await mkdtemp(join(tmpdir(), 'headframe-node-'));
  const rpcPort = await freePort();
  const zmqPort = await freePort();
  const child = spawn(program, argumentsOf(directory, rpcPort, zmqPort), { stdio: 'ignore' });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  return {
    address: addressOf(directory, rpcPort, zmqPort),
    async stop() {
      child.kill('SIGTERM');
      // A node that is slow to go must not hold up the test.
      const impatience = setTimeout(() => child.kill('SIGKILL'), 3000);
      await ended;
      clearTimeout(impatience);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

function runCore(program: string): Promise<RealNode> {
  return runProgram(
    program,
    (directory, rpcPort, zmqPort) => [
      '-regtest',
      `-datadir=${directory}`,
      `-rpcport=${rpcPort}`,
      '-listen=0',
      '-server=1',
      '-printtoconsole=0',
      `-zmqpubhashblock=tcp://127.0.0.1:${zmqPort}`,
      `-zmqpubsequence=tcp://127.0.0.1:${zmqPort}`,
    ],
    (directory, rpcPort, zmqPort) => ({
      name: 'core',
      url: `http://127.0.0.1:${rpcPort}/`,
      cookieFile: join(directory, 'regtest', '.cookie'),
      zmqAddresses: [`tcp://127.0.0.1:${zmqPort}`],
    }),
  );
}

function runBtcd(program: string): Promise<RealNode> {
  return runProgram(
    program,
    (directory, rpcPort) => [
      '--regtest',
      `--datadir=${directory}`,
      `--logdir=${directory}`,
      `--configfile=${join(directory, 'none.conf')}`,
      '--rpcuser=user',
      '--rpcpass=word',
      `--rpclisten=127.0.0.1:${rpcPort}`,
      '--notls',
      '--nolisten',
    ],
    (_, rpcPort) => ({
      name: 'btcd',
      url: `http://127.0.0.1:${rpcPort}/`,
      user: 'user',
      password: 'word',
    }),
  );
}

/** Finds a nonce: regtest's target takes two tries on average. */
function solve(job: Job): BlockCandidate {
  const outputs = [{ script: SCRIPT, valueSats: job.coinbaseValueSats }];
  const built = buildJobCoinbase(job, { tag: '/Headframe/', extranonceBytes: 12, outputs });
  assert.ok(built.ok);
  const coinbase = assembleCoinbase(
    built.parts.prefix,
    new Uint8Array(12),
    built.parts.suffix,
    false,
  );
  const root = foldBranch(sha256d(coinbase), job.branch);
  for (let nonce = 0; ; nonce++) {
    const header = assembleBlockHeader(job, {
      merkleRoot: root,
      version: job.version,
      ntime: job.curtime,
      nonce,
    });
    const headerHash = hashHeader(header);
    if (hashToInteger(headerHash) > job.networkTarget) continue;
    return {
      jobId: job.jobId,
      headerHash,
      header,
      coinbase,
      height: job.height,
      account: 'bcrt1q',
      worker: 'w',
      foundAtMs: Date.now(),
      networkDifficulty: 1,
      rewardSats: job.coinbaseValueSats,
      pool: 'main',
      planId: '',
    };
  }
}

/** Spends the first output of a coinbase to the same script, less a fee. */
function spend(coinbase: Uint8Array, feeSats: bigint): Uint8Array {
  const decoded = decodeTx(coinbase);
  assert.ok(decoded.ok);
  const valueSats = decoded.tx.outputs[0]!.valueSats - feeSats;
  return encodeTx(
    {
      version: 2,
      inputs: [
        {
          previousTxid: sha256d(coinbase),
          previousIndex: 0,
          script: new Uint8Array(0),
          sequence: 0xffffffff,
          witness: [OP_TRUE],
        },
      ],
      outputs: [{ script: SCRIPT, valueSats }],
      locktime: 0,
    },
    { witness: true },
  );
}

/**
 * Mines `blocks` blocks through job manager and lane. With `spends`, transactions that spend the first coinbases are given to the node
 * then, and the block that holds them is mined too.
 */
async function mineThrough(
  node: RealNode,
  { blocks, spends }: { blocks: number; spends: number },
): Promise<void> {
  const log = createMemoryLog();
  const bus = createMemoryBus({ log });
  const directory = await mkdtemp(join(tmpdir(), 'headframe-lane-'));
  const clock = { nowMs: () => Date.now() };
  const openRpc: OpenRpc = (address, purpose) => createRpc({ ...address, ...purpose, log });
  const jobs: Job[] = [];
  const outcomes: BlockOutcome[] = [];
  const proposals: string[] = [];
  await bus.subscribe('mining.jobs', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeJob(value);
      if (decoded.ok) jobs.push(decoded.value);
    }
  });
  await bus.subscribe('block.outcome', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockOutcome(value);
      if (decoded.ok) outcomes.push(decoded.value);
    }
  });
  const lane = await startBlockLane(
    { clock, log, bus, disk: createDisk(), openRpc },
    {
      nodes: [node.address],
      network: 'regtest',
      dataDir: directory,
      limits: { finalConfirmations: CONFIRMATIONS, lookMs: 50, deepLookMs: 50 },
      warmMs: 100,
    },
  );
  const manager = await startJobmanager(
    {
      clock,
      log,
      bus,
      openRpc,
      openHints: (address, onHint) => subscribeZmq({ log }, address, onHint),
      meter: {
        count: (name, labels) => {
          if (name === 'job_proposals') proposals.push(labels?.verdict ?? '');
        },
        set() {},
      },
    },
    {
      nodes: [node.address],
      network: 'regtest',
      poolTag: '/Headframe/',
      pools: [{ id: 'main', coinbase: { mode: 'pool', script: SCRIPT, address: '' } }],
      feeCheckMs: 100,
      feeRiseSats: 1,
    },
  );
  try {
    await until('a first job', () => jobs.length > 0, 20_000).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${log.text()}`);
    });
    const hashes: string[] = [];
    const coinbases: Uint8Array[] = [];
    const mineOne = async () => {
      const candidate = solve(jobs.at(-1)!);
      const hash = encodeHexReversed(candidate.headerHash);
      hashes.push(hash);
      coinbases.push(candidate.coinbase);
      await lane.submit(candidate);
      // The same again, as after a lost acknowledgement.
      void lane.submit(candidate);
      await until(
        `a job on block ${hashes.length}`,
        () => encodeHexReversed(jobs.at(-1)!.previousHash) === hash,
        5000,
      ).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${log.text().slice(-5000)}`);
      });
      assert.equal(jobs.at(-1)!.clean, true);
    };
    for (let i = 0; i < blocks; i++) await mineOne();
    if (spends > 0) {
      const rpc = openRpc(node.address, { timeoutMs: 5000 });
      for (let i = 0; i < spends; i++) {
        const raw = encodeHex(spend(coinbases[i]!, 10_000n));
        const answer = await rpc.call('sendrawtransaction', [raw]);
        assert.equal(answer.kind, 'result', JSON.stringify(answer));
      }
      rpc.stop();
      // Core makes a new template for new transactions only every five seconds, but at once for a new tip.
      await mineOne();
      assert.equal(jobs.at(-1)!.transactionCount, spends);
      assert.equal(jobs.at(-1)!.feesSats, BigInt(spends) * 10_000n);
      await mineOne();
    }
    const isIn = (hash: string | undefined, state: BlockOutcome['state']) =>
      outcomes.some(
        (outcome) => outcome.state === state && encodeHexReversed(outcome.headerHash) === hash,
      );
    await until('the first block confirmed', () => isIn(hashes[0], 'confirmed'), 5000);
    await until('all blocks accepted', () => hashes.every((hash) => isIn(hash, 'accepted')));
    await until('the last proposal answered', () => proposals.includes('accepted'));
    assert.ok(proposals.includes('accepted'), `proposals: ${proposals.join(' ')}`);
    assert.ok(!proposals.includes('refused'), `proposals: ${proposals.join(' ')}\n${log.text()}`);
    const errors = log.lines.filter(({ level }) => level === 'error');
    assert.deepEqual(errors, []);
  } finally {
    await manager.stop();
    await lane.stop();
    await bus.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

describe('real nodes', () => {
  const core = findProgram('BITCOIND', 'bitcoind');
  const btcd = findProgram('BTCD', 'btcd');

  it('the development chain takes our blocks, full of transactions', async () => {
    const devnet = await startDevnet(
      { clock: { nowMs: () => Date.now() }, log: createMemoryLog() },
      {
        rpcPort: 0,
        zmqPort: 0,
        user: 'user',
        password: 'word',
        initialBlocks: 103,
        transactionsPerBlock: 5,
        seed: 'real-node',
      },
    );
    const address = {
      name: 'devnet',
      url: devnet.rpcUrl,
      user: devnet.user,
      password: devnet.password,
      zmqAddresses: devnet.zmqAddress === null ? [] : [devnet.zmqAddress],
    };
    try {
      await mineThrough(
        { address, stop: async () => {} },
        { blocks: 2 * CONFIRMATIONS, spends: 0 },
      );
    } finally {
      await devnet.stop();
    }
  });

  it(`Bitcoin Core takes our blocks${core === null ? ' (NOT FOUND: set BITCOIND to its path)' : ''}`, async () => {
    if (core === null) {
      console.log('bitcoind was not found: nothing was checked against Bitcoin Core');
      return;
    }
    const node = await runCore(core);
    try {
      await mineThrough(node, { blocks: MATURITY + 2, spends: 3 });
    } finally {
      await node.stop();
    }
  });

  it(`btcd takes our blocks${btcd === null ? ' (NOT FOUND: set BTCD to its path)' : ''}`, async () => {
    if (btcd === null) {
      console.log('btcd was not found: nothing was checked against btcd');
      return;
    }
    const node = await runBtcd(btcd);
    try {
      await mineThrough(node, { blocks: 2 * CONFIRMATIONS, spends: 0 });
    } finally {
      await node.stop();
    }
  });
});
