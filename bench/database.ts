/**
 * Durable shares all the way: 8,000 a second from 1,000 connections through gateway, journal, shipper and audit into the private
 * PostgreSQL of the whole program, for half a minute, and how far the database is behind when the load stops. Before that the
 * journal alone and `recordShares` alone, which are the yardsticks.
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LOWEST_DIFFICULTY, LOWEST_TARGET_TOP, nodeSettings } from './block.ts';
import { type Child, startChild } from './tools/child.ts';
import type { ConnectAnswer, LoadAnswer } from './tools/client.ts';
import type { Bench, BenchOptions, Figure } from './tools/figures.ts';
import { type Program, processorMicroseconds, removeData, startProgram } from './tools/program.ts';
import { HARD_BITS, PAYOUT_ADDRESS } from './tools/sample.ts';

export const databaseBench: Bench = {
  name: 'database',
  title: '8,000 durable shares/s from the socket into PostgreSQL',
  async run(options) {
    const alone = await measureAlone(options);
    const whole = await measureWhole(options);
    const figures: Figure[] = [
      {
        metric: 'journal alone',
        value: alone.journalPerSecond,
        unit: '/s',
        better: 'higher',
        note: `${alone.journalMicroseconds.toFixed(2)} us of processor per record, ${alone.commits} commits`,
      },
      {
        metric: 'recordShares alone',
        value: alone.databasePerSecond,
        unit: '/s',
        better: 'higher',
        note: `batches of 2,000; ${alone.databaseMicroseconds.toFixed(1)} us of our processor per share, PostgreSQL's not counted`,
      },
      {
        metric: 'shares answered, whole path',
        value: whole.perSecond,
        unit: '/s',
        better: 'higher',
        target: 7_950,
        against: { name: 'recordShares alone', value: alone.databasePerSecond },
        note: `offered 8,000/s for ${whole.seconds} s; p99 of the answers ${whole.p99Ms.toFixed(1)} ms; ${whole.rejected} refused`,
      },
      {
        metric: 'time until the database had everything',
        value: whole.lagSeconds,
        unit: 's',
        better: 'lower',
        target: 2,
        note: `${whole.lagBytes} bytes of journal not yet stored when the load stopped`,
      },
      {
        metric: 'processor per share, whole process',
        value: whole.microsecondsPerShare,
        unit: 'us',
        better: 'lower',
        note: 'all threads, PostgreSQL not counted',
      },
    ];
    return figures;
  },
};

async function measureAlone(options: BenchOptions): Promise<{
  journalPerSecond: number;
  journalMicroseconds: number;
  commits: number;
  databasePerSecond: number;
  databaseMicroseconds: number;
}> {
  options.say('journal alone, recordShares alone');
  const store = startChild('store.ts', { profileDirectory: options.profileDirectory });
  try {
    const journal = await store.ask<{
      recordsPerSecond: number;
      commits: number;
      microsecondsPerRecord: number;
    }>('journal', { records: options.short ? 50_000 : 500_000 });
    const database = await store.ask<{ sharesPerSecond: number; microsecondsPerShare: number }>(
      'database',
      { shares: options.short ? 10_000 : 100_000, batch: 2000 },
    );
    return {
      journalPerSecond: journal.recordsPerSecond,
      journalMicroseconds: journal.microsecondsPerRecord,
      commits: journal.commits,
      databasePerSecond: database.sharesPerSecond,
      databaseMicroseconds: database.microsecondsPerShare,
    };
  } finally {
    await store.stop();
  }
}

async function measureWhole(options: BenchOptions): Promise<{
  perSecond: number;
  p99Ms: number;
  rejected: number;
  seconds: number;
  lagSeconds: number;
  lagBytes: number;
  microsecondsPerShare: number;
}> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-database-'));
  const node = startChild('fake-node.ts');
  let program: Program | null = null;
  let client: Child | null = null;
  const count = options.short ? 200 : 1000;
  const seconds = options.short ? 3 : 30;
  try {
    const { port } = await node.ask<{ port: number }>('listen', {
      bits: HARD_BITS,
      weight: 400_000,
    });
    options.say('starting the program');
    program = await startProgram({
      dataDir: directory,
      env: nodeSettings(port),
      nodeOptions:
        options.profileDirectory === null
          ? []
          : ['--cpu-prof', `--cpu-prof-dir=${options.profileDirectory}`],
    });
    client = startChild('client.ts');
    const connected = await client.ask<ConnectAnswer>('connect', {
      port: program.ports.stratum,
      count,
      atOnce: 200,
      username: PAYOUT_ADDRESS,
      password: `fd=${LOWEST_DIFFICULTY}`,
      perAddress: 50,
      timeoutMs: 20_000,
    });
    if (connected.ready < count) {
      throw new Error(
        `only ${connected.ready} of ${count} miners: ${connected.firstRefusal}\n${program.output()}`,
      );
    }
    options.say(`8,000 shares/s for ${seconds} s`);
    const pid = program.process.pid!;
    const before = processorMicroseconds(pid);
    const answer = await client.ask<LoadAnswer>('load', {
      mode: 'open',
      depth: 1,
      perSecond: 8000,
      warmupMs: 1000,
      durationMs: seconds * 1000,
      grind: { targetTop: LOWEST_TARGET_TOP },
    });
    const after = processorMicroseconds(pid);
    const stoppedMs = performance.now();
    const lagBytes = await unshippedBytes(program);
    let left = lagBytes;
    while (left > 0 && performance.now() - stoppedMs < 30_000) {
      await new Promise((resolve) => setTimeout(resolve, 25));
      left = await unshippedBytes(program);
    }
    if (answer.unanswered > 0) throw new Error(`${answer.unanswered} shares were never answered`);
    return {
      perSecond: answer.perSecond,
      p99Ms: answer.latencyMs.p99,
      rejected: answer.rejected,
      seconds,
      lagSeconds: left > 0 ? Number.POSITIVE_INFINITY : (performance.now() - stoppedMs) / 1000,
      lagBytes,
      microsecondsPerShare:
        before === null || after === null ? Number.NaN : (after - before) / answer.acceptedInAll,
    };
  } finally {
    await client?.stop();
    await program?.stop(12_000);
    await node.stop();
    removeData(directory);
  }
}

/** From the metrics page: bytes of the journal that are not yet in the database. */
async function unshippedBytes(program: Program): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${program.ports.metrics}/metrics`);
  const match = /^headframe_journal_unshipped_bytes (\d+)/m.exec(await response.text());
  if (match === null) throw new Error('the metrics page has no headframe_journal_unshipped_bytes');
  return Number(match[1]);
}
