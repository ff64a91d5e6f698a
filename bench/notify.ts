/**
 * A new block: how long until 10,000 connections have their new job, first to last, seen by the receiver in another process
 * (epoll through libc, CLOCK_MONOTONIC on both sides), and how long the server's event loop is blocked meanwhile.
 * Yardstick of the same run: bare node:net sockets writing as many bytes to as many connections.
 */
import { startChild } from './tools/child.ts';
import type { ConnectAnswer, WatchAnswer } from './tools/client.ts';
import type { Bench, BenchOptions } from './tools/figures.ts';
import type { BroadcastAnswer } from './tools/server.ts';

type Round = {
  firstMs: number;
  p50Ms: number;
  lastMs: number;
  longestBlockMs: number;
  bytes: number;
};

export const notifyBench: Bench = {
  name: 'notify',
  title: 'a new block told to 10,000 connections',
  async run(options) {
    const count = options.short ? 1000 : 10_000;
    const rounds = options.short ? 3 : 11;
    const pool = await broadcastRounds(options, 'server.ts', { count, rounds, bytes: 0 });
    const same = { count, rounds, bytes: pool.bytes };
    const bare = await broadcastRounds(options, 'bare-server.ts', same);
    // The binding to libc is for Linux; elsewhere that row is left out.
    const raw =
      process.platform === 'linux'
        ? await broadcastRounds(options, 'bare-server.ts', { ...same, isRaw: true })
        : null;
    return [
      {
        metric: 'last connection told',
        value: pool.lastMs,
        unit: 'ms',
        better: 'lower',
        target: 65,
        against: { name: 'bare sockets', value: bare.lastMs },
        note: `median of ${rounds} rounds, ${count} connections, ${pool.bytes} bytes each; from setJob to the receiver`,
      },
      {
        metric: 'half of the connections told',
        value: pool.p50Ms,
        unit: 'ms',
        better: 'lower',
        against: { name: 'bare sockets', value: bare.p50Ms },
      },
      ...(raw === null
        ? []
        : [
            {
              metric: 'libc send() alone, last connection told',
              value: raw.lastMs,
              unit: 'ms',
              better: 'lower' as const,
              note: 'the kernel without Node: no program with one sender is faster on this machine',
            },
          ]),
      { metric: 'first connection told', value: pool.firstMs, unit: 'ms', better: 'lower' },
      {
        metric: 'longest block of the event loop',
        value: pool.longestBlockMs,
        unit: 'ms',
        better: 'lower',
        target: 10,
        against: { name: 'bare sockets', value: bare.longestBlockMs },
        note: 'worst of all rounds, longest single turn',
      },
    ];
  },
};

async function broadcastRounds(
  options: BenchOptions,
  program: 'server.ts' | 'bare-server.ts',
  load: { count: number; rounds: number; bytes: number; isRaw?: boolean },
): Promise<Round> {
  options.say(`${program}, ${load.count} connections`);
  const server = startChild(program, { profileDirectory: options.profileDirectory });
  const client = startChild('client.ts');
  try {
    const port = await server.ask<number>('listen', {});
    const connected = await client.ask<ConnectAnswer>('connect', {
      port,
      count: load.count,
      atOnce: 500,
      username: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
      perAddress: 100,
      timeoutMs: 30_000,
    });
    if (connected.ready < load.count) {
      throw new Error(
        `only ${connected.ready} of ${load.count} connected: ${connected.firstRefusal}`,
      );
    }
    const rounds: Round[] = [];
    for (let round = 0; round < load.rounds; round++) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      await client.ask('arm');
      const sent = await server.ask<BroadcastAnswer>('broadcast', {
        bytes: load.bytes,
        chunk: 500,
        isRaw: load.isRaw === true,
      });
      const watched = await client.ask<WatchAnswer>('watched', { timeoutMs: 5000 });
      if (watched.seen < load.count)
        throw new Error(`only ${watched.seen} of ${load.count} were told`);
      rounds.push({
        firstMs: watched.firstMs - sent.startedMs,
        p50Ms: watched.p50Ms - sent.startedMs,
        lastMs: watched.lastMs - sent.startedMs,
        longestBlockMs: sent.longestTurnMs,
        bytes: sent.bytes,
      });
    }
    // The first round still runs unoptimised code; a pool is warm when a block comes.
    const warm = rounds.slice(1);
    return {
      firstMs: median(warm.map((round) => round.firstMs)),
      p50Ms: median(warm.map((round) => round.p50Ms)),
      lastMs: median(warm.map((round) => round.lastMs)),
      longestBlockMs: Math.max(...warm.map((round) => round.longestBlockMs)),
      bytes: rounds[0]!.bytes,
    };
  } finally {
    await client.stop();
    await server.stop();
  }
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}
