/**
 * `npm run stack -- up|down|status`: the servers of the seven services on this machine, for development and for tests: Kafka, PostgreSQL,
 * Redis and InfluxDB by their own binaries, on the loopback, with no container engine.
 *
 *   up [--dir FOLDER] [--only kafka,postgres,redis,influx] [--kafka-port N] [--postgres-port N] [--redis-port N] [--influx-port N]
 *        starts what does not run yet, prints their addresses as lines of an environment and writes them to FOLDER/stack.env
 *   status [--dir FOLDER]
 *   down [--dir FOLDER] [--wipe]        ends them by their process ids; with --wipe their data goes too
 *
 * FOLDER is data/stack. Ports are kept from one start to the next; at first they are what is free, or as given. A server whose binary is not on
 * the machine is named, and the exit code is 1; the others run.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startInflux } from './stack/influx.ts';
import { startKafka } from './stack/kafka.ts';
import { startPostgres } from './stack/postgres.ts';
import { startRedis } from './stack/redis.ts';
import { endProcess, isAlive, NotFoundError, type Started } from './stack/server.ts';

const STARTERS: Record<string, (directory: string, port?: number) => Promise<Started>> = {
  kafka: async (directory, port) => {
    const server = await startKafka({ directory, ...(port === undefined ? {} : { port }) });
    return {
      name: 'kafka',
      pid: server.pid(),
      signal: 'SIGTERM',
      logFile: join(directory, 'kafka.log'),
      folders: [directory],
      environment: { KAFKA_BROKERS: server.brokers },
    };
  },
  postgres: startPostgres,
  redis: startRedis,
  influx: startInflux,
};
const NAMES = Object.keys(STARTERS);

const say = (text: string): void => void process.stderr.write(`${text}\n`);

process.exit(await main(process.argv.slice(2)));

async function main(argv: string[]): Promise<number> {
  const [command, ...rest] = argv;
  if (!['up', 'down', 'status'].includes(command ?? '')) {
    say('npm run stack -- up|down|status [--dir FOLDER]');
    return 2;
  }
  const ports = Object.fromEntries(
    NAMES.map((name) => [`${name}-port`, { type: 'string' as const }]),
  );
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args: rest,
      options: {
        dir: { type: 'string' },
        only: { type: 'string' },
        wipe: { type: 'boolean' },
        ...ports,
      },
    }));
  } catch (error) {
    say((error as Error).message);
    return 2;
  }
  const directory = resolve(
    String(values.dir ?? join(dirname(import.meta.dirname), 'data', 'stack')),
  );
  if (command === 'up') return up(directory, values);
  if (command === 'down') return down(directory, values.wipe === true);
  return status(directory);
}

async function up(
  directory: string,
  values: Record<string, string | boolean | undefined>,
): Promise<number> {
  const wanted = typeof values.only === 'string' ? values.only.split(',') : NAMES;
  const unknown = wanted.find((name) => !NAMES.includes(name));
  if (unknown !== undefined) {
    say(`no server is called "${unknown}"; there are ${NAMES.join(', ')}`);
    return 2;
  }
  mkdirSync(directory, { recursive: true });
  const known = readState(directory);
  let exitCode = 0;
  for (const name of wanted) {
    const before = known.find((one) => one.name === name);
    if (before !== undefined && isOurs(before)) continue;
    const given = values[`${name}-port`];
    const port = typeof given === 'string' ? Number(given) : portOf(before);
    try {
      const started = await STARTERS[name]!(join(directory, name), port);
      const others = known.filter((one) => one.name !== name);
      known.splice(0, known.length, ...others, started);
      // At once: what runs must be found again, whatever happens to the next.
      writeState(directory, known);
      say(`${name} runs as process ${started.pid}`);
    } catch (error) {
      exitCode = 1;
      const reason = (error as Error).message;
      say(error instanceof NotFoundError ? reason : `${name} did not start: ${reason}`);
    }
  }
  const lines = known
    .filter(isOurs)
    .flatMap(({ environment }) => Object.entries(environment))
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');
  const file = join(directory, 'stack.env');
  writeFileSync(file, lines, { mode: 0o600 });
  process.stdout.write(lines);
  say(`these lines are in ${file}`);
  return exitCode;
}

async function down(directory: string, isWiping: boolean): Promise<number> {
  const known = readState(directory);
  for (const server of [...known].reverse()) {
    if (!isOurs(server)) continue;
    await endProcess(server.pid, server.signal);
    say(`${server.name} has ended`);
  }
  rmSync(join(directory, 'stack.env'), { force: true });
  if (isWiping) {
    for (const folder of known.flatMap(({ folders }) => folders)) {
      rmSync(folder, { recursive: true, force: true });
    }
    rmSync(stateFile(directory), { force: true });
  }
  return 0;
}

/** Exit code 0 when everything that was started runs. */
function status(directory: string): number {
  const known = readState(directory);
  if (known.length === 0) {
    say('nothing was started here');
    return 1;
  }
  for (const server of known) {
    const [address] = Object.values(server.environment);
    const where = String(address).replace(/\/\/.*@/, '//');
    process.stdout.write(
      `${server.name.padEnd(9)} ${isOurs(server) ? `runs as process ${server.pid} at ${where}` : `does not run; its log is ${server.logFile}`}\n`,
    );
  }
  return known.every(isOurs) ? 0 : 1;
}

/** A process id may be someone else's by now: ours names one of its folders or its log on the command line. */
function isOurs({ pid, folders, environment }: Started): boolean {
  if (!isAlive(pid)) return false;
  try {
    const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    const port = portIn(environment);
    return folders.some((folder) => line.includes(folder)) || line.includes(`:${port}`);
  } catch {
    // No /proc: its word is taken.
    return true;
  }
}

function portOf(server: Started | undefined): number | undefined {
  return server === undefined ? undefined : portIn(server.environment);
}

function portIn(environment: Readonly<Record<string, string>>): number {
  return Number(/:(\d+)(?:\/\w*)?$/.exec(Object.values(environment)[0] ?? '')?.[1]);
}

function stateFile(directory: string): string {
  return join(directory, 'stack.json');
}

function readState(directory: string): Started[] {
  const file = stateFile(directory);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Started[]) : [];
}

function writeState(directory: string, servers: readonly Started[]): void {
  writeFileSync(stateFile(directory), `${JSON.stringify(servers, null, 2)}\n`, { mode: 0o600 });
}
