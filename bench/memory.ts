/**
 * What 10,000 miners weigh, and how fast they are back after all of them lost their connection in the same moment. Every one is
 * subscribed, authorised and holds a job. Yardstick: the same connections on a bare node:net server.
 */
import { startChild } from './tools/child.ts';
import type { ConnectAnswer } from './tools/client.ts';
import type { Bench, BenchOptions } from './tools/figures.ts';
import type { ServerMemory } from './tools/memory.ts';

type Weighed = { rssKib: number; heapKib: number; stormMs: number; refused: number; p99Ms: number };

export const memoryBench: Bench = {
  name: 'memory',
  title: 'memory of 10,000 miners, and their reconnect storm',
  async run(options) {
    const count = options.short ? 1000 : 10_000;
    const pool = await weigh(options, 'server.ts', count);
    const bare = await weigh(options, 'bare-server.ts', count);
    return [
      {
        metric: 'resident memory per connection',
        value: pool.rssKib,
        unit: 'KiB',
        better: 'lower',
        target: 8,
        against: { name: 'bare sockets', value: bare.rssKib },
        note: `${count} miners over the idle process, after collection; session included`,
      },
      {
        metric: 'heap per connection',
        value: pool.heapKib,
        unit: 'KiB',
        better: 'lower',
        against: { name: 'bare sockets', value: bare.heapKib },
      },
      {
        metric: 'reconnect storm until the last miner works',
        value: pool.stormMs / 1000,
        unit: 's',
        better: 'lower',
        target: 5,
        against: { name: 'bare sockets', value: bare.stormMs / 1000 },
        note: `${count} dial at once; p99 of one miner ${(pool.p99Ms / 1000).toFixed(2)} s`,
      },
      {
        metric: 'refused in the storm',
        value: pool.refused,
        unit: 'miners',
        better: 'lower',
        target: 0,
      },
    ];
  },
};

async function weigh(
  options: BenchOptions,
  program: 'server.ts' | 'bare-server.ts',
  count: number,
): Promise<Weighed> {
  options.say(`${program}, ${count} connections`);
  const server = startChild(program, { profileDirectory: options.profileDirectory });
  const client = startChild('client.ts');
  const dial = (atOnce: number): Promise<ConnectAnswer> =>
    client.ask<ConnectAnswer>('connect', {
      port,
      count,
      atOnce,
      username: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
      perAddress: 100,
      timeoutMs: 30_000,
    });
  let port = 0;
  try {
    port = await server.ask<number>('listen', {});
    const idle = await settledMemory(() => server.ask<ServerMemory>('memory'));
    const first = await dial(500);
    if (first.ready < count)
      throw new Error(`only ${first.ready} of ${count}: ${first.firstRefusal}`);
    const full = await settledMemory(() => server.ask<ServerMemory>('memory'));
    await client.ask('disconnect');
    await new Promise((resolve) => setTimeout(resolve, 500));
    const storm = await dial(count);
    return {
      rssKib: (full.rss - idle.rss) / count / 1024,
      heapKib: (full.heapUsed - idle.heapUsed) / count / 1024,
      stormMs: storm.lastReadyMs - storm.startedMs,
      refused: count - storm.ready,
      p99Ms: storm.answersP99Ms,
    };
  } finally {
    await client.stop();
    await server.stop();
  }
}

/** Lowest of five readings a little apart: the allocator gives pages back late. */
async function settledMemory(read: () => Promise<ServerMemory>): Promise<ServerMemory> {
  let best = await read();
  for (let i = 0; i < 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    const again = await read();
    if (again.rss < best.rss) best = again;
  }
  return best;
}
