/**
 * From a winning share to the node: the whole program with a fake node that hands out a template of 3.99 MWU and takes the time of
 * the first byte of every `submitblock`. The clock starts in the miner's process, just before it writes the share, so that the way
 * in is part of the figure. In the second run the main thread is stopped for a second the moment it has handed a block over: the
 * lane must not notice (promise P36).
 */
import { randomBytes } from 'node:crypto';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Child, startChild } from './tools/child.ts';
import type { ConnectAnswer, LoadAnswer } from './tools/client.ts';
import type { SubmissionSeen } from './tools/fake-node.ts';
import { type Bench, type BenchOptions, type Figure, percentile } from './tools/figures.ts';
import { type Program, removeData, startProgram } from './tools/program.ts';
import { PAYOUT_ADDRESS } from './tools/sample.ts';

/** Target 2^240: one hash in 65,536 is a block, so a hundred are found beforehand in seconds and hardly one by chance. */
const BITS = 0x1f010000;
const TARGET_TOP = 65_536;
/** Difficulty 1e-9, the lowest that can be configured, in the upper 32 bits of its target. */
export const LOWEST_DIFFICULTY = '0.000000001';
export const LOWEST_TARGET_TOP = 999_984_740;
const WEIGHT = 3_985_000;
const STALL_MS = 1000;

type Measured = {
  toFirstByteMs: number[];
  toLastByteMs: number[];
  missing: number;
  load: LoadAnswer;
};

export const blockBench: Bench = {
  name: 'block',
  title: 'winning share to the first byte of submitblock, 3.99 MWU, 2,000 shares/s beside it',
  async run(options) {
    const directory = mkdtempSync(join(tmpdir(), 'headframe-block-'));
    const node = startChild('fake-node.ts');
    let program: Program | null = null;
    let client: Child | null = null;
    try {
      const { port, blockBytes } = await node.ask<{ port: number; blockBytes: number }>('listen', {
        bits: BITS,
        weight: WEIGHT,
      });
      options.say(`block of ${(blockBytes / 1e6).toFixed(2)} MB; starting the program`);
      program = await startProgram({
        dataDir: directory,
        env: nodeSettings(port),
        nodeOptions: [
          '--inspect=127.0.0.1:0',
          ...(options.profileDirectory === null
            ? []
            : ['--cpu-prof', `--cpu-prof-dir=${options.profileDirectory}`]),
        ],
      });
      // Now: the log of a hundred blocks pushes it out of what is kept.
      const inspector = findInspector(program);
      client = startChild('client.ts');
      const connected = await client.ask<ConnectAnswer>('connect', {
        port: program.ports.stratum,
        count: 200,
        atOnce: 100,
        username: PAYOUT_ADDRESS,
        password: `fd=${LOWEST_DIFFICULTY}`,
        perAddress: 20,
        timeoutMs: 20_000,
      });
      if (connected.ready < 200) {
        throw new Error(
          `only ${connected.ready} of 200 miners: ${connected.firstRefusal}\n${program.output()}`,
        );
      }
      const plain = await winBlocks(options, node, client, {
        count: options.short ? 10 : 120,
        everyMs: 100,
        perSecond: 2000,
      });
      await stallMainThread(inspector, STALL_MS);
      const stalled = await winBlocks(options, node, client, {
        count: options.short ? 2 : 10,
        everyMs: STALL_MS + 400,
        // At 2,000/s one or two of the shares are blocks by chance, and stall the thread when the next one is sent.
        perSecond: 10,
      });
      return figuresOf(plain, stalled, writeAlone(directory, blockBytes));
    } finally {
      await client?.stop();
      await program?.stop(5000);
      await node.stop();
      removeData(directory);
    }
  },
};

/** Settings that point the program at a fake node. */
export function nodeSettings(port: number): Record<string, string> {
  return {
    NETWORK: 'regtest',
    BITCOIN_RPC_HOST: '127.0.0.1',
    BITCOIN_RPC_PORT: String(port),
    BITCOIN_RPC_USER: 'bench',
    BITCOIN_RPC_PASSWORD: 'bench',
    POOL_ADDRESS: PAYOUT_ADDRESS,
    INITIAL_DIFFICULTY: LOWEST_DIFFICULTY,
    JOB_REFRESH: '2m',
  };
}

/** Finds `count` blocks on the present job, then sends one every `everyMs` beside a steady load of shares. */
async function winBlocks(
  options: BenchOptions,
  node: Child,
  client: Child,
  load: { count: number; everyMs: number; perSecond: number },
): Promise<Measured> {
  options.say(`finding ${load.count} blocks, then one every ${load.everyMs} ms`);
  await client.ask('findBlocks', { count: load.count, targetTop: TARGET_TOP });
  await node.ask('submissions');
  const running = client.ask<LoadAnswer>('load', {
    mode: 'open',
    depth: 1,
    perSecond: load.perSecond,
    warmupMs: 500,
    durationMs: load.count * load.everyMs + 500,
    grind: { targetTop: LOWEST_TARGET_TOP },
  });
  // Seen again below; without this a client that dies meanwhile would end the whole run.
  running.catch(() => {});
  await delay(700);
  const sent: { headerHex: string; sentMs: number }[] = [];
  for (let index = 0; index < load.count; index++) {
    const block = await client.ask<{ headerHex: string; sentMs: number } | null>('sendBlock');
    if (block !== null) sent.push(block);
    await delay(load.everyMs);
  }
  const answer = await running;
  await delay(500);
  const seen = new Map<string, SubmissionSeen>();
  for (const submission of await node.ask<SubmissionSeen[]>('submissions')) {
    if (!seen.has(submission.headerHex)) seen.set(submission.headerHex, submission);
  }
  const arrived = sent.flatMap((block) => {
    const submission = seen.get(block.headerHex);
    return submission === undefined ? [] : [{ block, submission }];
  });
  return {
    toFirstByteMs: arrived.map(({ block, submission }) => submission.firstByteMs - block.sentMs),
    toLastByteMs: arrived.map(({ block, submission }) => submission.lastByteMs - block.sentMs),
    missing: sent.length - arrived.length,
    load: answer,
  };
}

function figuresOf(plain: Measured, stalled: Measured, writeMs: number): Figure[] {
  const first = Float64Array.from(plain.toFirstByteMs).sort();
  const last = Float64Array.from(plain.toLastByteMs).sort();
  const stalledFirst = Float64Array.from(stalled.toFirstByteMs).sort();
  return [
    {
      metric: 'first byte of submitblock p50',
      value: percentile(first, 0.5),
      unit: 'ms',
      better: 'lower',
      against: { name: 'writing and syncing such a file', value: writeMs },
      note: `${first.length} blocks; written and synced to disk before; from the miner's write`,
    },
    {
      metric: 'first byte of submitblock p99',
      value: percentile(first, 0.99),
      unit: 'ms',
      better: 'lower',
      target: 25,
      note: `${Math.round(plain.load.perSecond)} shares/s answered beside it, p99 ${plain.load.latencyMs.p99.toFixed(1)} ms`,
    },
    {
      metric: 'whole block at the node p99',
      value: percentile(last, 0.99),
      unit: 'ms',
      better: 'lower',
    },
    {
      metric: 'first byte, main thread stopped, worst',
      value: percentile(stalledFirst, 1),
      unit: 'ms',
      better: 'lower',
      target: 250,
      against: { name: 'not stopped, p99', value: percentile(first, 0.99) },
      note: `${stalledFirst.length} blocks, the main thread blocked for ${STALL_MS} ms right after each hand-over`,
    },
    {
      metric: 'blocks that did not arrive',
      value: plain.missing + stalled.missing,
      unit: 'blocks',
      better: 'lower',
      target: 0,
    },
  ];
}

/** Median milliseconds to write a file as large as the block and sync it, on the same disk. */
function writeAlone(directory: string, bytes: number): number {
  const content = randomBytes(bytes);
  const path = join(directory, 'yardstick');
  const times: number[] = [];
  for (let round = 0; round < 9; round++) {
    const startedMs = performance.now();
    const fd = openSync(path, 'w');
    writeSync(fd, content);
    fdatasyncSync(fd);
    closeSync(fd);
    times.push(performance.now() - startedMs);
    rmSync(path);
  }
  return times.sort((a, b) => a - b)[4]!;
}

function findInspector(program: Program): string {
  const url = /ws:\/\/127\.0\.0\.1:\d+\/[0-9a-f-]+/.exec(program.output())?.[0];
  if (url === undefined) throw new Error('the program did not open its inspector');
  return url;
}

/** Through the inspector: every hand-over of a candidate to the lane's thread is followed by a loop that blocks the main thread. */
async function stallMainThread(url: string, stallMs: number): Promise<void> {
  const expression = `(() => {
    const { postMessage } = MessagePort.prototype;
    MessagePort.prototype.postMessage = function (message, transfer) {
      const result = postMessage.call(this, message, transfer);
      if (message?.kind === 'candidate') {
        const until = performance.now() + ${stallMs};
        while (performance.now() < until);
      }
      return result;
    };
  })()`;
  const socket = new WebSocket(url);
  await new Promise<void>((resolve, reject) => {
    socket.addEventListener('error', () => reject(new Error('no answer from the inspector')));
    socket.addEventListener('open', () => {
      socket.send(JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } }));
    });
    socket.addEventListener('message', () => resolve());
  });
  socket.close();
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
