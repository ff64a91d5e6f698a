/**
 * Seven services as processes of their own over a real Kafka and a real PostgreSQL, with Redis and InfluxDB where they are found, all on
 * this machine: how many acknowledged shares a second reach the database and how far behind it and the charts are, what each process takes of memory, how long a found block takes to the node on both
 * of its roads, with the stack there and with the stack gone, and how long a new tip takes to the miners of two gateways.
 *
 * STACK_SECONDS: how long shares are sent, a minute unless told otherwise; 600 for what is published.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startInflux } from '../scripts/stack/influx.ts';
import { findKafka, startKafka } from '../scripts/stack/kafka.ts';
import { startRedis } from '../scripts/stack/redis.ts';
import { endProcess, NotFoundError } from '../scripts/stack/server.ts';
import { startEmbeddedPostgres } from '../src/adapters/db/embedded.ts';
import { connectPostgres } from '../src/adapters/db/postgres.ts';
import type { Db, Log } from '../src/ports.ts';
import { LOWEST_DIFFICULTY, LOWEST_TARGET_TOP, nodeSettings } from './block.ts';
import { type Child, startChild } from './tools/child.ts';
import type { ConnectAnswer, LoadAnswer, WatchAnswer } from './tools/client.ts';
import type { SubmissionSeen } from './tools/fake-node.ts';
import { type Bench, type BenchOptions, type Figure, percentile } from './tools/figures.ts';
import { freePorts, type ProgramPorts, removeData } from './tools/program.ts';
import { PAYOUT_ADDRESS } from './tools/sample.ts';

/** A share in 330,000 finds a block: one a minute, while shares are sent. */
const SHARE_BITS = 0x1e0bb800;
/** One hash in 65,536 is a block, as in `block`. */
const BITS = 0x1f010000;
const TARGET_TOP = 65_536;
const LIGHT_WEIGHT = 700_000;
const FULL_WEIGHT = 3_985_000;
const PER_SECOND = 5_500;
const MINERS = 100;
const READY_MS = 120_000;
const CHARTED_MS = 120_000;
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };

type Process = {
  name: string;
  ports: ProgramPorts;
  child: ChildProcess;
  tail(): string;
  end(signal: NodeJS.Signals): Promise<void>;
};

export const stackBench: Bench = {
  name: 'stack',
  title: 'seven services over Kafka, PostgreSQL, Redis and InfluxDB on one machine',
  async run(options) {
    findKafka();
    const directory = mkdtempSync(join(tmpdir(), 'headframe-stack-'));
    const ends: (() => unknown)[] = [() => removeData(directory)];
    try {
      return await measure(options, directory, ends);
    } finally {
      for (const end of ends.reverse()) await end();
    }
  },
};

async function measure(
  options: BenchOptions,
  directory: string,
  ends: (() => unknown)[],
): Promise<Figure[]> {
  const { short, say } = options;
  const node = startChild('fake-node.ts');
  ends.push(() => node.stop());
  const { port: nodePort } = await node.ask<{ port: number }>('listen', {
    bits: SHARE_BITS,
    weight: LIGHT_WEIGHT,
  });
  say('starting Kafka and PostgreSQL');
  const kafka = await startKafka({ directory: join(directory, 'kafka'), settings: {} });
  ends.push(() => kafka.kill('SIGKILL'));
  const postgres = await startEmbeddedPostgres({ dataDir: directory, log: quiet });
  ends.push(() => postgres.stop());
  const { socketDirectory, port, user, database } = postgres.connection;
  const db = await connectPostgres({ ...postgres.connection, log: quiet, connectionsMax: 1 });
  ends.push(() => db.stop());
  const settings: Record<string, string> = {
    ...nodeSettings(nodePort),
    BITCOIN_ZMQ_ADDR: 'off',
    KAFKA_BROKERS: kafka.brokers,
    DATABASE_URL: `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(socketDirectory)}`,
    TLS_MODE: 'off',
    MIN_DIFFICULTY: LOWEST_DIFFICULTY,
    SUBMITS_PER_SECOND: '100000',
    SUBMIT_BURST: '1000000',
    LOG_FORMAT: 'json',
    LOG_LEVEL: 'warn',
  };
  const others = await startOthers(options, directory, ends);
  Object.assign(settings, others.settings);
  const influxUrl = others.settings.INFLUX_URL ?? null;
  const processes: Process[] = [];
  const begin = async (name: string, instance: number, more: Record<string, string> = {}) => {
    const one = await startProcess(directory, {
      name,
      instance,
      settings: { ...settings, ...more },
    });
    ends.push(() => one.end('SIGKILL'));
    return one;
  };
  say('starting the services');
  const wanted: [string, number][] = [
    ['jobmanager', 1],
    ['shareproc', 1],
    ['payoutd', 1],
    ['blocksubmit', 1],
    ['apiserver', 1],
    ['stratumd', 1],
    ['stratumd', 2],
  ];
  if (influxUrl !== null) wanted.push(['statsd', 1]);
  for (const [name, instance] of wanted) processes.push(await begin(name, instance));
  await Promise.all(processes.map((one) => untilReady(one)));
  const gateways = processes.filter(({ name }) => name.startsWith('stratumd'));
  const clients: Child[] = [];
  for (const { ports } of gateways) clients.push(await connectMiners(ends, ports.stratum));

  const seconds = short ? 5 : Number(process.env.STACK_SECONDS ?? 60);
  const shares = await sendShares(options, { db, node, clients, processes, seconds });
  const charted = influxUrl === null ? null : await untilCharted(influxUrl, shares);
  const tips = await moveTips(options, node, clients, short ? 5 : 40);

  await node.ask('advance', { weight: FULL_WEIGHT, bits: BITS });
  await delay(2_000);
  const count = short ? 10 : 100;
  say(`${count} blocks by the gateway's own road`);
  const up = await winBlocks(node, clients[0]!, count);
  say(`${Math.ceil(count / 2)} blocks through Kafka alone`);
  // Its own road leads nowhere: nobody listens on port 1.
  const third = await begin('stratumd', 3, { BITCOIN_RPC_PORT: '1' });
  await untilReady(third);
  const far = await connectMiners(ends, third.ports.stratum);
  const throughKafka = await winBlocks(node, far, Math.ceil(count / 2), 1_000);
  say(`${count} blocks with the stack gone`);
  await Promise.all(
    [...processes, third].filter((one) => one !== gateways[0]).map((one) => one.end('SIGKILL')),
  );
  await kafka.kill('SIGKILL');
  const down = await winBlocks(node, clients[0]!, count);

  const memory = shares.memory.map(
    ({ name, startMib, endMib }) => `${name} ${startMib.toFixed(0)} → ${endMib.toFixed(0)}`,
  );
  const sum = (which: 'startMib' | 'endMib') =>
    shares.memory.reduce((total, one) => total + one[which], 0);
  const ofRoad = (road: Road, p: number) => percentile(Float64Array.from(road.times).sort(), p);
  return [
    {
      metric: 'durable shares, gateways to database',
      value: shares.perSecond,
      unit: 'shares/s',
      better: 'higher',
      target: 5_000,
      against: { name: 'acknowledged', value: shares.acknowledgedPerSecond },
      note: `${shares.stored} shares in ${seconds} s over two gateways, of ${shares.acknowledged} acknowledged; acknowledgement p50 ${shares.ackMs.p50.toFixed(1)} ms, p99 ${shares.ackMs.p99.toFixed(1)} ms; ${others.note}`,
    },
    {
      metric: 'lag of the database at the end',
      value: shares.lagMs,
      unit: 'ms',
      better: 'lower',
      target: 2_000,
      note: `worst of a look each second ${shares.worstLagMs.toFixed(0)} ms; all were stored ${shares.drainedMs.toFixed(0)} ms after the last`,
    },
    ...(charted === null
      ? []
      : [
          {
            metric: 'all shares in InfluxDB after the last',
            value: charted.afterMs,
            unit: 'ms',
            better: 'lower' as const,
            note: `${charted.shares} shares counted by statsd`,
          },
        ]),
    {
      metric: 'memory of all services at the end',
      value: sum('endMib'),
      unit: 'MiB',
      better: 'lower',
      against: { name: 'after a sixth of the time', value: sum('startMib') },
      note: memory.join(', '),
    },
    {
      metric: 'block to submitblock, own road, stack up, p99',
      value: ofRoad(up, 0.99),
      unit: 'ms',
      better: 'lower',
      target: 25,
      note: `median ${ofRoad(up, 0.5).toFixed(1)} ms, ${up.times.length} blocks of 3.99 MWU`,
    },
    {
      metric: 'block to submitblock, own road, stack gone, p99',
      value: ofRoad(down, 0.99),
      unit: 'ms',
      better: 'lower',
      target: 25,
      against: { name: 'stack up', value: ofRoad(up, 0.99) },
      note: `median ${ofRoad(down, 0.5).toFixed(1)} ms, ${down.times.length} blocks`,
    },
    {
      metric: 'block to submitblock through Kafka, p50',
      value: ofRoad(throughKafka, 0.5),
      unit: 'ms',
      better: 'lower',
      target: 20,
      note: `${throughKafka.times.length} blocks of 3.99 MWU, one a second, by gateway and blocksubmit`,
    },
    {
      metric: 'block to submitblock through Kafka, p99',
      value: ofRoad(throughKafka, 0.99),
      unit: 'ms',
      better: 'lower',
      target: 100,
    },
    {
      metric: 'blocks that did not arrive',
      value: up.missing + down.missing + throughKafka.missing,
      unit: 'blocks',
      better: 'lower',
      target: 0,
    },
    {
      metric: 'new tip to the first miner of the slower gateway, p50',
      value: percentile(tips, 0.5),
      unit: 'ms',
      better: 'lower',
      target: 25,
      note: `${tips.length} tips, from the node's answer to the long-poll; p99 ${percentile(tips, 0.99).toFixed(1)} ms`,
    },
  ];
}

/** What a pool can do without: takes part where it is found, and the note says which did. */
async function startOthers(
  { say }: BenchOptions,
  directory: string,
  ends: (() => unknown)[],
): Promise<{ settings: Record<string, string>; note: string }> {
  const settings: Record<string, string> = {};
  const notes: string[] = [];
  for (const [name, start] of [
    ['Redis', startRedis],
    ['InfluxDB and statsd', startInflux],
  ] as const) {
    try {
      const server = await start(join(directory, name.split(' ')[0]!.toLowerCase()));
      ends.push(() => endProcess(server.pid, server.signal));
      Object.assign(settings, server.environment);
      notes.push(`with ${name}`);
    } catch (error) {
      if (!(error instanceof NotFoundError)) throw error;
      say(error.message);
      notes.push(`without ${name}`);
    }
  }
  return { settings, note: notes.join(', ') };
}

/** Resolves when InfluxDB has all shares that were acknowledged. */
async function untilCharted(
  influxUrl: string,
  shares: { acknowledged: number; endedAtMs: number },
): Promise<{ shares: number; afterMs: number }> {
  const question = new URLSearchParams({
    db: 'headframe',
    q: "SELECT sum(count) FROM pool WHERE status = 'valid'",
  });
  for (;;) {
    const response = await fetch(`${influxUrl}/query?${question}`);
    const { results } = (await response.json()) as {
      results: { series?: { values: [unknown, number][] }[] }[];
    };
    const count = results[0]?.series?.[0]?.values[0]?.[1] ?? 0;
    const afterMs = performance.now() - shares.endedAtMs;
    if (count >= shares.acknowledged) return { shares: count, afterMs };
    if (afterMs > CHARTED_MS)
      throw new Error(`${shares.acknowledged} shares acknowledged, ${count} in InfluxDB`);
    await delay(100);
  }
}

async function startProcess(
  directory: string,
  given: { name: string; instance: number; settings: Record<string, string> },
): Promise<Process> {
  const name = `${given.name}-${given.instance}`;
  const ports = await freePorts();
  const dataDir = join(directory, name);
  mkdirSync(dataDir);
  const { PATH = '', HOME = '/' } = process.env;
  const child = spawn(process.execPath, [MAIN, given.name], {
    cwd: dataDir,
    env: {
      PATH,
      HOME,
      ...given.settings,
      DATA_DIR: dataDir,
      INSTANCE_ID: String(given.instance),
      LISTEN_ADDR: '127.0.0.1',
      LISTEN_PORT: String(ports.stratum),
      API_ADDR: '127.0.0.1',
      API_PORT: String(ports.api),
      METRICS_PORT: String(ports.metrics),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  const take = (bytes: Buffer): void => {
    text = (text + bytes.toString('utf8')).slice(-8_000);
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  let isGone = false;
  const gone = new Promise<void>((resolve) =>
    child.once('exit', () => {
      isGone = true;
      resolve();
    }),
  );
  return {
    name,
    ports,
    child,
    tail: () => text,
    async end(signal) {
      if (!isGone) child.kill(signal);
      await gone;
    },
  };
}

async function untilReady({ name, ports, tail }: Process): Promise<void> {
  const endMs = performance.now() + READY_MS;
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${ports.metrics}/ready`).catch(() => null);
    if (answer?.ok) return;
    if (performance.now() > endMs) throw new Error(`${name} was not ready in time:\n${tail()}`);
    await delay(100);
  }
}

async function connectMiners(ends: (() => unknown)[], port: number): Promise<Child> {
  const client = startChild('client.ts');
  ends.push(() => client.stop());
  const connected = await client.ask<ConnectAnswer>('connect', {
    port,
    count: MINERS,
    atOnce: 50,
    username: PAYOUT_ADDRESS,
    password: `fd=${LOWEST_DIFFICULTY}`,
    perAddress: 20,
    timeoutMs: 20_000,
  });
  if (connected.ready < MINERS) {
    throw new Error(`only ${connected.ready} of ${MINERS} miners: ${connected.firstRefusal}`);
  }
  return client;
}

/** Sends shares to all gateways for so long, with a new tip each minute, and looks at the database each second. */
async function sendShares(
  options: BenchOptions,
  given: {
    db: Db;
    node: Child;
    clients: readonly Child[];
    processes: readonly Process[];
    seconds: number;
  },
) {
  const { db, node, clients, processes, seconds } = given;
  options.say(`${PER_SECOND} shares/s for ${seconds} s`);
  const count = async () => {
    const [row] = await db.query<{ last_seq: bigint }>('SELECT last_seq FROM share_sequence');
    return Number(row!.last_seq);
  };
  const lag = async () => {
    const [row] = await db.query<{ at: Date | null }>(
      'SELECT accepted_at AS at FROM shares WHERE seq = (SELECT last_seq FROM share_sequence)',
    );
    return row?.at == null ? 0 : Date.now() - row.at.getTime();
  };
  const before = await count();
  const warmupMs = options.short ? 1_000 : 5_000;
  const loads = clients.map((client) =>
    client.ask<LoadAnswer>('load', {
      mode: 'open',
      depth: 1,
      perSecond: PER_SECOND / clients.length,
      warmupMs,
      durationMs: seconds * 1_000,
      grind: { targetTop: LOWEST_TARGET_TOP },
    }),
  );
  for (const load of loads) load.catch(() => {});
  await delay(warmupMs);
  const startMs = performance.now();
  const first = await count();
  let startMib: number[] | null = null;
  let worstLagMs = 0;
  let lagMs = 0;
  while (performance.now() - startMs < seconds * 1_000 - 500) {
    await delay(1_000);
    lagMs = await lag();
    worstLagMs = Math.max(worstLagMs, lagMs);
    const passedS = Math.round((performance.now() - startMs) / 1_000);
    if (passedS % 60 === 0) {
      const mib = processes.reduce((sum, one) => sum + memoryMib(one), 0);
      options.say(`${passedS} s: lag ${lagMs.toFixed(0)} ms, memory ${mib.toFixed(0)} MiB`);
      // A gateway remembers the shares of its last tips, 40 bytes each: on one tip for ever its memory would grow for ever.
      await node.ask('advance', { weight: LIGHT_WEIGHT });
    }
    if (startMib === null && performance.now() - startMs > (seconds * 1_000) / 6)
      startMib = processes.map(memoryMib);
  }
  const last = await count();
  const spanMs = performance.now() - startMs;
  const endMib = processes.map(memoryMib);
  const answers = await Promise.all(loads);
  const acknowledged = answers.reduce((sum, one) => sum + one.acceptedInAll, 0);
  const drainFromMs = performance.now();
  while ((await count()) - before < acknowledged) {
    if (performance.now() - drainFromMs > 120_000) {
      throw new Error(`${acknowledged} shares acknowledged, ${(await count()) - before} stored`);
    }
    await delay(20);
  }
  return {
    stored: last - first,
    acknowledged,
    perSecond: ((last - first) * 1_000) / spanMs,
    acknowledgedPerSecond: answers.reduce((sum, one) => sum + one.perSecond, 0),
    ackMs: {
      p50: Math.max(...answers.map(({ latencyMs }) => latencyMs.p50)),
      p99: Math.max(...answers.map(({ latencyMs }) => latencyMs.p99)),
    },
    lagMs,
    worstLagMs,
    drainedMs: performance.now() - drainFromMs,
    endedAtMs: drainFromMs,
    memory: processes.map(({ name }, at) => ({
      name,
      startMib: (startMib ?? endMib)[at]!,
      endMib: endMib[at]!,
    })),
  };
}

/** Resident memory, where there is a /proc. */
function memoryMib({ child }: Process): number {
  try {
    const text = readFileSync(`/proc/${child.pid}/status`, 'utf8');
    return Number(/VmRSS:\s*(\d+)/.exec(text)?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** Milliseconds from the node's word to the first miner of the gateway that was later. */
async function moveTips(
  options: BenchOptions,
  node: Child,
  clients: readonly Child[],
  count: number,
): Promise<Float64Array> {
  options.say(`${count} new tips`);
  const times: number[] = [];
  for (let at = 0; at <= count; at++) {
    await delay(400);
    await Promise.all(clients.map((client) => client.ask('arm', 'asleep')));
    const { toldMs } = await node.ask<{ toldMs: number }>('advance', { weight: LIGHT_WEIGHT });
    const seen = await Promise.all(
      clients.map((client) => client.ask<WatchAnswer>('watched', { timeoutMs: 5_000 })),
    );
    if (seen.some((one) => one.seen === 0)) throw new Error('a tip did not reach the miners');
    // The first one still runs unoptimised code.
    if (at > 0) times.push(Math.max(...seen.map(({ firstMs }) => firstMs - toldMs)));
  }
  return Float64Array.from(times).sort();
}

type Road = { times: number[]; missing: number };

/**
 * Finds blocks on the present job and sends one at a time. Through Kafka a block is on its way long after it has reached the node, with its
 * four megabytes in four processes: the next one waits until that is over, as it would in any chain.
 */
async function winBlocks(node: Child, client: Child, count: number, pauseMs = 500): Promise<Road> {
  await client.ask('findBlocks', { count, targetTop: TARGET_TOP });
  await node.ask('submissions');
  const sent: { headerHex: string; sentMs: number }[] = [];
  for (let at = 0; at < count; at++) {
    const block = await client.ask<{ headerHex: string; sentMs: number } | null>('sendBlock');
    if (block !== null) sent.push(block);
    await delay(pauseMs);
  }
  const seen = new Map<string, number>();
  const giveUpMs = performance.now() + 20_000;
  do {
    await delay(200);
    for (const { headerHex, firstByteMs } of await node.ask<SubmissionSeen[]>('submissions')) {
      seen.set(headerHex, Math.min(firstByteMs, seen.get(headerHex) ?? Number.POSITIVE_INFINITY));
    }
  } while (sent.some(({ headerHex }) => !seen.has(headerHex)) && performance.now() < giveUpMs);
  const arrived = sent.filter(({ headerHex }) => seen.has(headerHex));
  return {
    times: arrived.map(({ headerHex, sentMs }) => seen.get(headerHex)! - sentMs),
    missing: sent.length - arrived.length,
  };
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
