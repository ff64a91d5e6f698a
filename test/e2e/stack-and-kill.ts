/**
 * The whole stack as an operator runs it, and every part of it taken away for a while: the servers come up by `npm run stack -- up`, a
 * Bitcoin Core on regtest, two gateways and one process of each other service with the settings that command prints; cpuminer and a
 * miner that counts what it is told on each gateway. Each process is killed with SIGKILL, stays away while mining goes on, and comes
 * back. Then the judge asks miners, gateways and the chain what has to be in the books (`test/stack/judge.ts`).
 *
 * By hand: `node test/e2e/stack-and-kill.ts --blocks 50 --away 60 [--seed S] [--only broker,payoutd] [--logs FOLDER]`, with Bitcoin Core
 * and cpuminer by `BITCOIND` and `MINERD`, else the development chain and no second miner. On regtest every share is a block.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isAlive, type Started } from '../../scripts/stack/server.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { SERVICES, type ServiceName } from '../../src/config/services.ts';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import type { Db } from '../../src/ports.ts';
import {
  complaintAfter,
  judgeBlocks,
  judgeShares,
  Load,
  type OwnBlock,
  pause,
  readOwnBlocks,
  reverseHash,
  startJudge,
} from '../stack/judge.ts';
import {
  freePort,
  freePorts,
  makeDataDir,
  PoolProcess,
  removeData,
} from '../tools/pool-process.ts';
import { createRandom } from '../tools/random.ts';
import {
  endChild,
  findProgram,
  type RegtestNode,
  startRegtestNode,
} from '../tools/regtest-node.ts';
import { createSilentLog } from '../tools/silent-log.ts';

export type StackAndKillOptions = {
  core: string | null;
  cpuminer: string | null;
  seed: number;
  /** At least so many blocks of ours are in the chain in the end. */
  blocks: number;
  awayMs: number;
  /** Which parts are taken away; null for all. */
  only: readonly string[] | null;
  /** Where the logs of all processes go; null for nowhere. */
  logs: string | null;
  say(text: string): void;
};

/** What happened while a part was away. */
export type Outage = {
  part: string;
  /** Shares that the counting miners were told are accepted. */
  acknowledged: number;
  /** The same of cpuminer, by its own log. */
  cpuminer: number;
  /** Of the acknowledged shares, all of them blocks, those that the node knew when the part came back. */
  reached: number;
  /** By how much the chain grew. */
  grew: number;
  /** Longest time without an acknowledgement on a gateway that was not killed, from the kill until everything was caught up. */
  silenceMs: number;
  /** From the command to start it, in each case: until every process was ready; until what was acknowledged by then was stored as well; */
  readyMs: number;
  storedMs: number;
  /** until the blocks that were in the chain by then were credited as well. One whose share does not count is credited after a minute. */
  caughtUpMs: number;
};

export type StackAndKillReport = {
  node: string;
  outages: Outage[];
  acknowledged: number;
  /** Shares that cpuminer was told are accepted, and how many of its shares are stored. */
  cpuminer: { accepted: number; stored: number };
  stored: number;
  blocks: number;
  /** Everything that was wrong, in words; empty when all is well. */
  faults: string[];
};

const RUN = join(import.meta.dirname, '../../scripts/run.mjs');
const SERVERS: Record<string, string> = {
  broker: 'kafka',
  database: 'postgres',
  redis: 'redis',
  influxdb: 'influx',
};
const POOL_ADDRESS = addressOf(3);
const NOBODY = addressOf(8);
const MATURITY = 101;
/** Of the counting miners: a CPU finds one in milliseconds, so they pause. */
const EASY = '0.00001';
const PACE_MS = 1_000;
/** Of cpuminer, which does not pause. */
const HARD = '0.002';
const READY_MS = 180_000;
/** A block whose share died with its gateway is credited after a minute. */
const CAUGHT_UP_MS = 240_000;
const LIMIT_MS = 300_000;
const ON_THE_WAY_MS = 5_000;
const STOP_MS = 60_000;

/** Something that can be taken away and comes back. */
type Part = { name: string; kill(): Promise<void>; start(): Promise<void> };

type Service = Part & {
  readonly process: PoolProcess;
  /** Of a gateway: where cpuminer comes in. */
  readonly hardPort: number;
  /** All that it has logged, through all its lives. */
  logs(): string;
};

type Stack = { settings: Record<string, string>; parts: Part[]; down(): Promise<void> };

/** Runs it all. Rejects only when something could not be run; what is wrong with shares and blocks is in the report. */
export async function stackAndKill(options: StackAndKillOptions): Promise<StackAndKillReport> {
  const { say, awayMs } = options;
  const dataDir = makeDataDir();
  const open: (() => Promise<unknown>)[] = [async () => removeData(dataDir)];
  const closeAll = async () => {
    for (const close of open.splice(0).reverse())
      await close().catch((error: Error) => say(`while ending: ${error.message}`));
  };
  // The servers outlive whoever started them.
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void closeAll().then(() => process.exit(1)));
  try {
    const stack = await startStack(join(dataDir, 'stack'));
    open.push(stack.down);
    const node = await startRegtestNode(options.core);
    open.push(node.stop);
    const settings: Record<string, string> = {
      ...stack.settings,
      ...node.settings,
      POOL_ADDRESS,
      // Everybody who mined has a part in every block, so that a share that is missing or in the wrong place changes credits.
      PPLNS_WINDOW_DAYS: '1',
      // See `test/stack/seven.ts`.
      NODE_DISABLE_COMPILE_CACHE: '1',
    };
    const services = await Promise.all(
      (Object.keys(SERVICES) as ServiceName[])
        .flatMap((name): [ServiceName, number][] =>
          name === 'stratumd'
            ? [
                [name, 1],
                [name, 2],
              ]
            : [[name, 1]],
        )
        .map(([name, instance]) => startService(name, instance, settings, dataDir)),
    );
    open.push(async () => {
      const { logs } = options;
      if (logs === null) return;
      mkdirSync(logs, { recursive: true });
      for (const service of services)
        writeFileSync(join(logs, `${service.name}.log`), service.logs());
    });
    open.push(() => Promise.all(services.map(({ process }) => process.stop(STOP_MS))));
    const notReady = await complaintAfter(READY_MS, () => unready(services));
    if (notReady !== null) throw new Error(`${notReady}\n${tails(services)}`);
    const db = await connectPostgres({
      connectionString: settings.DATABASE_URL!,
      log: createSilentLog(),
      connectionsMax: 2,
    });
    open.push(() => db.stop());

    const gateways = services.filter(({ name }) => name.startsWith('stratumd'));
    const loads = gateways.map(
      ({ process }, at) =>
        new Load({
          port: process.ports.stratum,
          address: addressOf(20 + at),
          worker: `counter${at}`,
          paceMs: PACE_MS,
        }),
    );
    open.push(() => Promise.all(loads.map((load) => load.end())));
    const { cpuminer } = options;
    const cpuminers =
      cpuminer === null
        ? []
        : gateways.map(
            ({ hardPort }, at) =>
              new Cpuminer(cpuminer, hardPort, `${addressOf(30 + at)}.cpuminer${at}`),
          );
    open.push(() => Promise.all(cpuminers.map((miner) => miner.end())));
    const run: Run = { node, db, services, gateways, loads, cpuminers };
    const faults: string[] = [];
    const idle = await complaintAfter(READY_MS, () => {
      const counts = [
        ...loads.map(({ acknowledged }) => acknowledged.length),
        ...cpuminers.map(({ accepted }) => accepted),
      ];
      return counts.includes(0) ? 'not everybody mines' : null;
    });
    if (idle !== null) throw new Error(`${idle}\n${tails(gateways)}`);

    const random = createRandom(options.seed);
    // Of two gateways one is enough; which one is up to the seed.
    const spared = random.pick(gateways);
    const left = [...services.filter((one) => one !== spared), ...stack.parts].filter(
      ({ name }) => options.only === null || options.only.some((one) => name.startsWith(one)),
    );
    const outages: Outage[] = [];
    while (left.length > 0) {
      const part = left.splice(random.below(left.length), 1)[0]!;
      const outage = await takeAway(part, run, awayMs, faults);
      outages.push(outage);
      say(JSON.stringify(outage));
    }
    say('everything was away once');
    // Nobody else mines before it is over.
    await complaintAfter(LIMIT_MS, async () =>
      Number(await node.call('getblockcount')) > options.blocks ? null : 'too few blocks',
    );
    await Promise.all([...loads, ...cpuminers].map((one) => one.end()));
    await node.call('generatetoaddress', [MATURITY, NOBODY]);
    const judge = await startJudge(settings.KAFKA_BROKERS!.split(','));
    open.push(() => judge.bus.stop());
    const acknowledged = loads.flatMap((load) => load.acknowledged);
    const sent = new Set([...loads, ...cpuminers].flatMap((one) => [...one.sent]));
    const tools = { db, node, judge, limitMs: LIMIT_MS };
    faults.push(...(await judgeShares(tools, { acknowledged, sent })));
    const blocks = await judgeBlocks(tools, POOL_ADDRESS);
    faults.push(...blocks.faults);
    if (blocks.ours.length < options.blocks)
      faults.push(`only ${blocks.ours.length} blocks of ours are in the chain`);
    const unknown = await findUnknown(
      node,
      acknowledged.map(({ hash }) => hash),
    );
    if (unknown.length > 0) {
      const some = unknown.slice(0, 3).map(reverseHash).join(', ');
      faults.push(
        `the node never heard of ${unknown.length} blocks that were acknowledged: ${some}`,
      );
    }
    const counts = await storedByWorker(db);
    for (const { worker, accepted } of cpuminers) {
      const stored = counts.get(worker) ?? 0;
      if (stored < accepted) faults.push(`${worker}: ${accepted} accepted, ${stored} stored`);
    }
    const stored = [...counts.values()].reduce((sum, count) => sum + count, 0);
    const uncounted = await complaintAfter(LIMIT_MS, async () => {
      const counted = await countInInflux(settings);
      return counted === stored ? null : `the time series has ${counted} of ${stored} shares`;
    });
    if (uncounted !== null) faults.push(uncounted);
    const stillUnready = await complaintAfter(READY_MS, () => unready(services));
    if (stillUnready !== null) faults.push(`in the end: ${stillUnready}`);
    const codes = await Promise.all(services.map(({ process }) => process.stop(STOP_MS)));
    for (const [at, code] of codes.entries())
      if (code !== 0) faults.push(`${services[at]!.name} ended with ${code}`);
    return {
      node: node.kind,
      outages,
      acknowledged: acknowledged.length,
      cpuminer: {
        accepted: acceptedOf(cpuminers),
        stored: cpuminers.reduce((sum, { worker }) => sum + (counts.get(worker) ?? 0), 0),
      },
      stored,
      blocks: blocks.ours.length,
      faults,
    };
  } finally {
    await closeAll();
  }
}

type Run = {
  node: RegtestNode;
  db: Db;
  services: readonly Service[];
  gateways: readonly Service[];
  /** In the order of the gateways, like `cpuminers`. */
  loads: readonly Load[];
  cpuminers: readonly Cpuminer[];
};

/** Kills a part, lets time pass, starts it again, and waits until nothing is owed. */
async function takeAway(part: Part, run: Run, awayMs: number, faults: string[]): Promise<Outage> {
  const { node, db, services, gateways, loads, cpuminers } = run;
  const cpuminerBefore = acceptedOf(cpuminers);
  const heightBefore = Number(await node.call('getblockcount'));
  const fromMs = Date.now();
  await part.kill();
  await pause(awayMs);
  const untilMs = Date.now();
  const meanwhile = loads
    .flatMap(({ acknowledged }) => acknowledged)
    .filter(({ atMs }) => atMs >= fromMs && atMs <= untilMs)
    .map(({ hash }) => hash);
  const cpuminer = acceptedOf(cpuminers) - cpuminerBefore;
  const height = Number(await node.call('getblockcount'));
  // The answer to a share does not wait for the node's to its block.
  const askedMs = performance.now();
  let unreached = (await findUnknown(node, meanwhile)).length;
  while (unreached > 0 && performance.now() - askedMs < ON_THE_WAY_MS) {
    await pause(200);
    unreached = (await findUnknown(node, meanwhile)).length;
  }
  if (unreached > 0)
    faults.push(`${unreached} blocks did not reach the node while ${part.name} was away`);

  const returnMs = performance.now();
  await part.start();
  const owed = await owedNow(run, heightBefore);
  const stages: number[] = [];
  for (const ask of [
    () => unready(services),
    () => unstored(db, owed),
    () => uncredited(node, db, owed),
  ]) {
    const complaint = await complaintAfter(CAUGHT_UP_MS, ask);
    if (complaint !== null) faults.push(`not caught up after ${part.name} was away: ${complaint}`);
    stages.push(Math.round(performance.now() - returnMs));
  }
  const [readyMs = 0, storedMs = 0, caughtUpMs = 0] = stages;
  const endMs = Date.now();
  const alive = loads.filter((_, at) => gateways[at] !== part);
  const silenceMs = Math.max(
    ...alive.map(({ acknowledged }) => {
      const times = acknowledged.map(({ atMs }) => atMs).filter((atMs) => atMs > fromMs);
      return Math.max(...[...times, endMs].map((atMs, at) => atMs - (times[at - 1] ?? fromMs)));
    }),
  );
  for (const { acknowledged } of alive) {
    if (!acknowledged.some(({ atMs }) => atMs > fromMs && atMs <= untilMs))
      faults.push(`a gateway acknowledged nothing while ${part.name} was away`);
  }
  return {
    part: part.name,
    acknowledged: meanwhile.length,
    cpuminer,
    reached: meanwhile.length - unreached,
    grew: height - heightBefore,
    silenceMs,
    readyMs,
    storedMs,
    caughtUpMs,
  };
}

type Owed = { shares: string[]; accepted: [string, number][]; blocks: OwnBlock[] };

/** What has to be in the books for the pool to have caught up: what was acknowledged by now, and the blocks that are in the chain. */
async function owedNow({ node, loads, cpuminers }: Run, fromHeight: number): Promise<Owed> {
  return {
    shares: loads.flatMap(({ acknowledged }) => acknowledged.map(({ hash }) => hash)),
    accepted: cpuminers.map(({ worker, accepted }) => [worker, accepted]),
    blocks: await readOwnBlocks(node, POOL_ADDRESS, fromHeight),
  };
}

async function unstored(db: Db, owed: Owed): Promise<string | null> {
  const [found] = await db.query<{ count: bigint }>(
    `SELECT count(*) AS count FROM shares WHERE encode(header_hash, 'hex') = ANY($1::text[])`,
    [owed.shares],
  );
  const missing = owed.shares.length - Number(found!.count);
  if (missing > 0) return `${missing} shares are not stored`;
  const counts = await storedByWorker(db);
  for (const [worker, accepted] of owed.accepted) {
    const stored = counts.get(worker) ?? 0;
    if (stored < accepted) return `${accepted - stored} shares of ${worker} are not stored`;
  }
  return null;
}

async function uncredited(node: RegtestNode, db: Db, owed: Owed): Promise<string | null> {
  const credited = new Set(
    (await db.query<{ hash: string }>(`SELECT encode(block_hash, 'hex') AS hash FROM rounds`)).map(
      ({ hash }) => hash,
    ),
  );
  for (const { hash, height } of owed.blocks) {
    if (credited.has(hash)) continue;
    // One that another has pushed out meanwhile is owed nothing.
    if (reverseHash(String(await node.call('getblockhash', [height]))) === hash)
      return `block ${height} is not credited`;
  }
  return null;
}

async function storedByWorker(db: Db): Promise<Map<string, number>> {
  const rows = await db.query<{ name: string; count: bigint }>(
    'SELECT name, count(*) AS count FROM shares JOIN workers USING (worker_id) GROUP BY name',
  );
  return new Map(rows.map(({ name, count }) => [name, Number(count)]));
}

/** Those of these blocks that the node does not know, in its chain or beside it. */
async function findUnknown(node: RegtestNode, hashes: readonly string[]): Promise<string[]> {
  const unknown: string[] = [];
  for (const hash of hashes) {
    const known = await node.call('getblockheader', [reverseHash(hash)]).catch(() => null);
    if (known === null) unknown.push(hash);
  }
  return unknown;
}

async function countInInflux({
  INFLUX_URL,
  INFLUX_BUCKET,
}: Record<string, string>): Promise<number> {
  const query = `SELECT sum("count") FROM "pool" WHERE status = 'valid'`;
  const answer = await fetch(
    `${INFLUX_URL}/query?db=${INFLUX_BUCKET}&q=${encodeURIComponent(query)}`,
  );
  const { results } = (await answer.json()) as {
    results: { series?: { values: [string, number][] }[] }[];
  };
  return results[0]?.series?.[0]?.values[0]?.[1] ?? 0;
}

/** Which of the processes is not ready, and why; null when all are. */
async function unready(services: readonly Service[]): Promise<string | null> {
  for (const { name, process } of services) {
    if (process.hasExited) return `${name} has ended with ${process.exitCode}`;
    const answer = await process.get('metrics', '/ready').catch(() => null);
    if (answer === null) return `${name} does not answer`;
    if (!answer.ok) return `${name} is not ready: ${(await answer.text()).slice(0, 200)}`;
  }
  return null;
}

function tails(services: readonly Service[]): string {
  return services.map(({ name, process }) => `${name}: ${process.tail().slice(-1_000)}`).join('\n');
}

/** The servers by the developer's command, in a folder of their own. */
async function startStack(directory: string): Promise<Stack> {
  const command = (...args: string[]) =>
    new Promise<string>((resolve, reject) => {
      execFile(
        process.execPath,
        [RUN, '--stack', ...args, '--dir', directory],
        (error, stdout, stderr) =>
          error === null ? resolve(stdout) : reject(new Error(`${args.join(' ')}: ${stderr}`)),
      );
    });
  const down = () => command('down', '--wipe');
  try {
    const lines = await command('up');
    const settings = Object.fromEntries(
      lines
        .trim()
        .split('\n')
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
    const parts = Object.entries(SERVERS).map(
      ([name, server]): Part => ({
        name,
        async kill() {
          const running = JSON.parse(
            readFileSync(join(directory, 'stack.json'), 'utf8'),
          ) as Started[];
          const { pid } = running.find((one) => one.name === server)!;
          process.kill(pid, 'SIGKILL');
          while (isAlive(pid)) await pause(10);
        },
        async start() {
          const again = await command('up');
          if (again !== lines && sorted(again) !== sorted(lines))
            throw new Error(`the addresses have changed: ${again}`);
        },
      }),
    );
    return { settings, parts, down: async () => void (await down()) };
  } catch (error) {
    await down().catch(() => {});
    throw error;
  }
}

const sorted = (lines: string): string => lines.split('\n').sort().join('\n');

async function startService(
  name: ServiceName,
  instance: number,
  settings: Readonly<Record<string, string>>,
  dataDir: string,
): Promise<Service> {
  const ports = await freePorts();
  const hardPort = await freePort();
  const own = join(dataDir, `${name}-${instance}`);
  mkdirSync(own);
  const lives: PoolProcess[] = [];
  const begin = () =>
    lives.push(
      new PoolProcess(
        [name],
        {
          ...settings,
          DATA_DIR: own,
          INSTANCE_ID: String(instance),
          LISTEN_ADDR: '127.0.0.1',
          LISTEN_PORT: String(ports.stratum),
          LISTEN_PORTS: `${hardPort};difficulty=${HARD};min=${HARD}`,
          API_ADDR: '127.0.0.1',
          API_PORT: String(ports.api),
          METRICS_PORT: String(ports.metrics),
          MIN_DIFFICULTY: EASY,
          INITIAL_DIFFICULTY: EASY,
        },
        ports,
      ),
    );
  begin();
  const last = () => lives.at(-1)!;
  return {
    name: name === 'stratumd' ? `${name}-${instance}` : name,
    hardPort,
    get process() {
      return last();
    },
    async kill() {
      last().signal('SIGKILL');
      await last().ended();
    },
    start: async () => void begin(),
    logs: () =>
      lives
        .map(
          ({ log, output }) => `${log.map((line) => JSON.stringify(line)).join('\n')}\n${output}`,
        )
        .join('\n--- killed ---\n'),
  };
}

/** cpuminer on one gateway; what it found and what was accepted, by its own log. */
class Cpuminer {
  readonly worker: string;
  /** Header hashes in wire order. */
  readonly sent = new Set<string>();
  accepted = 0;
  readonly #child: ChildProcess;

  constructor(program: string, port: number, user: string) {
    this.worker = user.slice(user.indexOf('.') + 1);
    this.#child = spawn(
      program,
      // -D: the hash of what it sends. -R: seconds between tries to connect.
      [
        '-a',
        'sha256d',
        '-o',
        `stratum+tcp://127.0.0.1:${port}`,
        '-u',
        user,
        '-p',
        'x',
        '-t',
        '1',
        '-R',
        '1',
        '-D',
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      let rest = '';
      stream.setEncoding('utf8').on('data', (text: string) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) this.#take(line);
      });
    }
  }

  #take(line: string): void {
    if (line.includes('(yay!!!)')) this.accepted += 1;
    const display = /Hash:\s+([0-9a-f]{64})/.exec(line)?.[1];
    if (display !== undefined) this.sent.add(reverseHash(display));
  }

  end(): Promise<void> {
    return endChild(this.#child, 2_000);
  }
}

const acceptedOf = (cpuminers: readonly Cpuminer[]): number =>
  cpuminers.reduce((sum, { accepted }) => sum + accepted, 0);

function addressOf(byte: number): string {
  return encodeAddress(Uint8Array.of(0, 20, ...new Array<number>(20).fill(byte)), 'regtest')!;
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({
    options: {
      blocks: { type: 'string', default: '50' },
      away: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      only: { type: 'string' },
      logs: { type: 'string' },
    },
  });
  console.log(`seed ${values.seed}`);
  const startedMs = performance.now();
  const { outages, ...report } = await stackAndKill({
    core: findProgram('BITCOIND', 'bitcoind'),
    cpuminer: findProgram('MINERD', 'minerd'),
    seed: Number(values.seed),
    blocks: Number(values.blocks),
    awayMs: Number(values.away) * 1_000,
    only: values.only?.split(',') ?? null,
    logs: values.logs ?? null,
    say: (text) => console.log(`${Math.round((performance.now() - startedMs) / 1_000)} s: ${text}`),
  });
  console.table(outages);
  console.log(report);
  process.exitCode = report.faults.length > 0 ? 1 : 0;
}
