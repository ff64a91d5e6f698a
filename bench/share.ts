/**
 * What a share costs: every stage alone, then the whole server path (socket, framing, parsing, judging, journal with fdatasync,
 * answer) in a process of its own, saturated over loopback from another process. Yardsticks of the same run: a judge on
 * node:crypto's createHash, and a bare node:net server that answers every line with the same bytes and does nothing else.
 */
import { startChild } from './tools/child.ts';
import type { ConnectAnswer, LoadAnswer } from './tools/client.ts';
import type { Bench, BenchOptions, Figure } from './tools/figures.ts';
import type { ServerOptions } from './tools/server.ts';
import type { StageCosts } from './tools/stages.ts';

export const shareBench: Bench = {
  name: 'share',
  title: 'processor time and throughput of a share, stage by stage and over the whole server path',
  async run(options) {
    const figures = await runStages(options);
    const connections = options.short ? 200 : 1000;
    const durationMs = options.short ? 800 : 5000;
    for (const depth of options.short ? [8] : [8, 1]) {
      const bare = await saturate(options, 'bare-server.ts', { connections, depth, durationMs });
      const typescript = await saturate(options, 'server.ts', {
        connections,
        depth,
        durationMs,
        accelerator: false,
      });
      const pool = await saturate(options, 'server.ts', {
        connections,
        depth,
        durationMs,
        accelerator: true,
      });
      const where = `${connections} connections, ${depth} in flight each`;
      const main = depth === 8;
      figures.push(
        {
          metric: `path cost per share, depth ${depth}`,
          value: pool.microsecondsPerShare,
          unit: 'us',
          better: 'lower',
          ...(main ? { target: 15 } : {}),
          against: { name: 'bare sockets', value: bare.microsecondsPerShare },
          note: `${where}; user and system time of the server process, its sync threads included; ${pool.note}`,
        },
        {
          metric: `path shares answered, depth ${depth}`,
          value: pool.perSecond,
          unit: '/s',
          better: 'higher',
          ...(main ? { target: 70_000 } : {}),
          against: { name: 'bare sockets', value: bare.perSecond },
          note: `answers durable; p50 ${pool.p50Ms.toFixed(1)} ms, p99 ${pool.p99Ms.toFixed(1)} ms at saturation`,
        },
        {
          metric: `path cost per share, TypeScript hash, depth ${depth}`,
          value: typescript.microsecondsPerShare,
          unit: 'us',
          better: 'lower',
          against: { name: 'bare sockets', value: bare.microsecondsPerShare },
          note: `${Math.round(typescript.perSecond)} shares/s`,
        },
      );
    }
    return figures;
  },
};

async function runStages(options: BenchOptions): Promise<Figure[]> {
  options.say('stages');
  const child = startChild('stages.ts', { profileDirectory: options.profileDirectory });
  try {
    const costs = await child.ask<StageCosts>('run', { rounds: options.short ? 4000 : 60_000 });
    const figures: Figure[] = [
      { metric: 'parse line', value: costs.parse, unit: 'us', better: 'lower' },
      { metric: 'build header', value: costs.build, unit: 'us', better: 'lower' },
      {
        metric: 'hash in TypeScript',
        value: costs.hashTypescript,
        unit: 'us',
        better: 'lower',
        against: { name: 'createHash', value: costs.hashCreateHash },
        note: '45 compressions: coinbase of 250 bytes, 12 merkle steps, header',
      },
      {
        metric: 'judge in TypeScript',
        value: costs.judgeTypescript,
        unit: 'us',
        better: 'lower',
        target: 9,
        against: { name: 'createHash judge', value: costs.judgeCreateHash },
        note: 'header, hash, both targets, duplicate set, share difficulty',
      },
    ];
    if (costs.hashAccelerated !== null && costs.judgeAccelerated !== null) {
      figures.push(
        {
          metric: 'hash accelerated',
          value: costs.hashAccelerated,
          unit: 'us',
          better: 'lower',
          against: { name: 'createHash', value: costs.hashCreateHash },
          note: costs.accelerator ?? '',
        },
        {
          metric: 'judge accelerated',
          value: costs.judgeAccelerated,
          unit: 'us',
          better: 'lower',
          target: 4.5,
          against: { name: 'createHash judge', value: costs.judgeCreateHash },
        },
      );
    }
    figures.push({ metric: 'encode record', value: costs.encode, unit: 'us', better: 'lower' });
    return figures;
  } finally {
    await child.stop();
  }
}

async function saturate(
  options: BenchOptions,
  program: 'bare-server.ts' | 'server.ts',
  load: { connections: number; depth: number; durationMs: number; accelerator?: boolean },
): Promise<{
  microsecondsPerShare: number;
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  note: string;
}> {
  options.say(
    `${program} ${load.connections} x ${load.depth}${load.accelerator === false ? ' TypeScript hash' : ''}`,
  );
  const server = startChild(program, { profileDirectory: options.profileDirectory });
  const client = startChild('client.ts');
  try {
    const listen: ServerOptions = { accelerator: load.accelerator ?? true };
    const port = await server.ask<number>('listen', listen);
    const connected = await client.ask<ConnectAnswer>('connect', {
      port,
      count: load.connections,
      atOnce: 200,
      username: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
      perAddress: 50,
      timeoutMs: 15_000,
    });
    if (connected.ready < load.connections) {
      throw new Error(
        `only ${connected.ready} of ${load.connections} connected: ${connected.firstRefusal}`,
      );
    }
    const warm = await client.ask<LoadAnswer>('load', {
      mode: 'closed',
      depth: load.depth,
      perSecond: 0,
      warmupMs: 0,
      durationMs: Math.min(1500, load.durationMs),
    });
    void warm;
    const before = await server.ask<NodeJS.CpuUsage>('usage');
    const answer = await client.ask<LoadAnswer>('load', {
      mode: 'closed',
      depth: load.depth,
      perSecond: 0,
      warmupMs: 500,
      durationMs: load.durationMs,
    });
    const after = await server.ask<NodeJS.CpuUsage>('usage');
    if (answer.rejected > 0 || answer.unanswered > 0) {
      throw new Error(
        `${answer.rejected} shares refused, ${answer.unanswered} unanswered: ${answer.firstRejections[0] ?? ''}`,
      );
    }
    return {
      microsecondsPerShare:
        (after.user - before.user + after.system - before.system) / answer.acceptedInAll,
      perSecond: answer.perSecond,
      p50Ms: answer.latencyMs.p50,
      p99Ms: answer.latencyMs.p99,
      note: `client ${connected.kind}`,
    };
  } finally {
    await client.stop();
    await server.stop();
  }
}
