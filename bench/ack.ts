/**
 * How long a miner waits for a durable answer: 2,000 shares/s spread over 5,000 connections, from the client's write to the answer
 * in its hands, each answer given only after write and fdatasync of the journal. Yardstick: the same load on bare sockets.
 */
import { startChild } from './tools/child.ts';
import type { ConnectAnswer, LoadAnswer } from './tools/client.ts';
import type { Bench, BenchOptions } from './tools/figures.ts';

export const ackBench: Bench = {
  name: 'ack',
  title: 'durable acknowledgement at 2,000 shares/s over 5,000 connections',
  async run(options) {
    const pool = await measure(options, 'server.ts');
    const bare = await measure(options, 'bare-server.ts');
    return [
      {
        metric: 'acknowledgement p50',
        value: pool.latencyMs.p50,
        unit: 'ms',
        better: 'lower',
        target: 5,
        against: { name: 'bare sockets', value: bare.latencyMs.p50 },
        note: `${Math.round(pool.perSecond)} shares/s answered`,
      },
      {
        metric: 'acknowledgement p99',
        value: pool.latencyMs.p99,
        unit: 'ms',
        better: 'lower',
        target: 15,
        against: { name: 'bare sockets', value: bare.latencyMs.p99 },
      },
      {
        metric: 'acknowledgement p99.9',
        value: pool.latencyMs.p999,
        unit: 'ms',
        better: 'lower',
        against: { name: 'bare sockets', value: bare.latencyMs.p999 },
      },
      { metric: 'acknowledgement worst', value: pool.latencyMs.max, unit: 'ms', better: 'lower' },
    ];
  },
};

async function measure(
  options: BenchOptions,
  program: 'server.ts' | 'bare-server.ts',
): Promise<LoadAnswer> {
  const count = options.short ? 500 : 5000;
  options.say(`${program}, ${count} connections`);
  const server = startChild(program, { profileDirectory: options.profileDirectory });
  const client = startChild('client.ts');
  try {
    const port = await server.ask<number>('listen', {});
    const connected = await client.ask<ConnectAnswer>('connect', {
      port,
      count,
      atOnce: 500,
      username: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
      perAddress: 100,
      timeoutMs: 20_000,
    });
    if (connected.ready < count) {
      throw new Error(`only ${connected.ready} of ${count}: ${connected.firstRefusal}`);
    }
    const answer = await client.ask<LoadAnswer>('load', {
      mode: 'open',
      depth: 1,
      perSecond: 2000,
      warmupMs: options.short ? 300 : 2000,
      durationMs: options.short ? 1500 : 10_000,
    });
    if (answer.rejected > 0 || answer.unanswered > 0) {
      throw new Error(
        `${answer.rejected} refused, ${answer.unanswered} unanswered: ${answer.firstRejections[0] ?? ''}`,
      );
    }
    return answer;
  } finally {
    await client.stop();
    await server.stop();
  }
}
