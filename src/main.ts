/**
 * The front door: `headframe start`, each service alone (`stratumd` and so on), and the tools beside them. Reads the command line, the
 * configuration and signals, and ends with an exit code that means something (docs/operating.md).
 */
import fs from 'node:fs';
import { userInfo } from 'node:os';
import { createInterface } from 'node:readline/promises';
import { parseArgs } from 'node:util';
import packageJson from '../package.json' with { type: 'json' };
import { createRpc } from './adapters/node/rpc.ts';
import {
  DRAIN_MS_MAX,
  type OpenDatabase,
  openDatabase,
  StartError,
  startPool,
  tryDatabase,
} from './compose.ts';
import { readCommand, separateSettings } from './config/command.ts';
import { readLocalFile } from './config/file.ts';
import type { ServiceName } from './config/services.ts';
import { type Config, type ConfigAnswer, readConfig, secretsOf } from './config.ts';
import type { Rpc } from './core/node/rpc.ts';
import { walletAddress } from './core/node/wallet.ts';
import { createLog, type LogOptions, type OpenLog } from './log.ts';
import type { Clock } from './ports.ts';
import { readWords } from './services/bookkeeping/conduct.ts';
import { LEDGER_COMMAND, runLedgerCommand } from './services/bookkeeping/ledger.ts';
import { PAYOUT_COMMAND, runPayoutCommand } from './services/bookkeeping/payouts.ts';
import { runVerifyRound } from './services/bookkeeping/rounds.ts';
import { startDevnet } from './services/devnet/devnet.ts';
import { runDoctor } from './services/doctor/doctor.ts';
import { startMiner } from './services/miner/miner.ts';
import { formatSwarmReport, readSwarmArguments, SWARM_USAGE } from './services/swarm/arguments.ts';
import { runSwarm } from './services/swarm/swarm.ts';
import { type StartService, serve } from './stack/serve.ts';

const EX_FAILED = 1;
const EX_USAGE = 2;
/** How long a command waits for the wallet. */
const WALLET_MS = 15_000;
/** Whoever ends a whole group sends one signal to npm as well, which passes it on: so soon it is not the second. */
const SAME_SIGNAL_MS = 1_000;

const clock: Clock = { nowMs: () => Date.now() };

await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<void> {
  const line = readCommand(argv, packageJson.version);
  if (line.kind === 'print') return print(line.text);
  if (line.kind === 'usage') return refuse(line.errors, EX_USAGE);
  switch (line.command) {
    case 'start':
      return run(null, line.argv);
    case 'doctor':
      return doctor(line.argv);
    case 'devnet':
      return devnet(line.argv);
    case 'miner':
      return miner(line.argv);
    case 'swarm':
      return swarm(line.argv);
    case 'ledger':
    case 'payout':
      return bookkeeping(line.command, line.argv);
    case 'verify-round':
      process.exitCode = await runVerifyRound({ print: printLine, complain }, line.argv);
      return;
    default:
      return run(line.command, line.argv);
  }
}

/** Runs the whole pool, or one service of it, until a signal or a fault that cannot be worked around. */
async function run(service: ServiceName | null, argv: readonly string[]): Promise<void> {
  const answer = configure(argv, service);
  if (!answer.ok) return refuse(answer.errors, answer.exitCode);
  const { config, warnings } = answer;
  const logOptions = logOptionsOf(config);
  const log = createLog(logOptions);
  for (const warning of warnings) log.warn(warning);
  catchTheUncaught(log);
  log.info('headframe starts', {
    ...(service === null ? {} : { as: service }),
    version: packageJson.version,
    node: process.version,
    network: config.network,
  });
  const tools = { clock, log, logOptions, version: packageJson.version };
  try {
    const pool =
      service === null || config.stack === null
        ? await startPool(tools, config)
        : await serve(tools, { ...config, stack: config.stack }, await findService(service));
    const stopped = untilSignal(log, (signal) => {
      if (signal === 'SIGHUP') void pool.reload();
    });
    const ending = await Promise.race([stopped, pool.failed]);
    if ('reason' in ending) log.error('the pool cannot go on', ending);
    await within(DRAIN_MS_MAX, pool.stop(), log);
    log.info('stopped');
    end(log, 'reason' in ending ? ending.exitCode : 0);
  } catch (error) {
    const { message, stack } = error as Error;
    const exitCode = (error as { exitCode?: number }).exitCode ?? EX_FAILED;
    log.error(message, error instanceof StartError ? {} : { stack });
    end(log, exitCode);
  }
}

/** The code of one service; that of the others is not even loaded. */
async function findService(service: ServiceName): Promise<StartService> {
  switch (service) {
    case 'stratumd':
      return (await import('./stack/stratumd.ts')).startStratumd;
    case 'jobmanager':
      return (await import('./stack/jobmanager.ts')).startJobmanagerd;
    case 'shareproc':
      return (await import('./stack/shareproc.ts')).startShareproc;
    case 'blocksubmit':
      return (await import('./stack/blocksubmit.ts')).startBlocksubmit;
    case 'statsd':
      return (await import('./stack/statsd.ts')).startStatsd;
    case 'payoutd':
      return (await import('./stack/payoutd.ts')).startPayoutd;
    case 'apiserver':
      return (await import('./stack/apiserver.ts')).startApiserver;
  }
}

async function doctor(argv: readonly string[]): Promise<void> {
  const answer = configure(argv);
  const silent = createLog({ level: 'error', format: 'text', destination: 2 });
  process.exitCode = await runDoctor(
    {
      clock,
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log: silent }),
      print: printLine,
      tryDatabase: () => (answer.ok ? tryDatabase(answer.config, silent) : Promise.resolve('')),
      openFilesMax: openFilesMax(),
    },
    answer,
  );
}

async function devnet(argv: readonly string[]): Promise<void> {
  const usage =
    'headframe devnet [--rpc-port 18443] [--zmq-port 28332] [--data-dir DIR] [--user headframe] [--password headframe]\n' +
    '                 [--blocks 110] [--block-interval SECONDS] [--transactions 20]';
  const flags = readFlags(argv, usage, {
    'rpc-port': '18443',
    'zmq-port': '28332',
    'data-dir': '',
    user: 'headframe',
    password: 'headframe',
    blocks: '110',
    'block-interval': '0',
    transactions: '20',
  });
  if (flags === null) return;
  const log = toolLog();
  const intervalMs = Number(flags['block-interval']) * 1000;
  try {
    const chain = await startDevnet(
      { clock, log },
      {
        rpcPort: Number(flags['rpc-port']),
        zmqPort: Number(flags['zmq-port']),
        dataDir: flags['data-dir'] === '' ? null : flags['data-dir']!,
        user: flags.user!,
        password: flags.password!,
        initialBlocks: Number(flags.blocks),
        transactionsPerBlock: Number(flags.transactions),
        blockIntervalMs: intervalMs > 0 ? intervalMs : null,
      },
    );
    log.info('the development chain runs', {
      rpc: chain.rpcUrl,
      zmq: chain.zmqAddress,
      network: 'regtest',
    });
    await untilSignal(log);
    await chain.stop();
    end(log, 0);
  } catch (error) {
    log.error((error as Error).message);
    end(log, EX_FAILED);
  }
}

async function miner(argv: readonly string[]): Promise<void> {
  const usage =
    'headframe miner --user ADDRESS.WORKER [--host 127.0.0.1] [--port 3333] [--password x] [--threads 1] [--tls off|insecure|verified]\n' +
    '                [--hashes-per-second 0 (no limit)]';
  const flags = readFlags(argv, usage, {
    user: '',
    host: '127.0.0.1',
    port: '3333',
    password: 'x',
    threads: '1',
    tls: 'off',
    'hashes-per-second': '0',
  });
  if (flags === null) return;
  if (flags.user === '') return refuse(['--user is missing', usage], EX_USAGE);
  if (flags.tls !== 'off' && flags.tls !== 'insecure' && flags.tls !== 'verified')
    return refuse([`--tls is off, insecure or verified`, usage], EX_USAGE);
  const log = toolLog();
  const hashesPerSecond = Number(flags['hashes-per-second']);
  const running = startMiner(
    { clock, log },
    {
      host: flags.host!,
      port: Number(flags.port),
      tls: flags.tls,
      user: flags.user!,
      password: flags.password!,
      threads: Number(flags.threads),
      ...(hashesPerSecond > 0 ? { hashesPerSecondMax: hashesPerSecond } : {}),
    },
  );
  await untilSignal(log);
  await running.stop();
  end(log, 0);
}

async function swarm(argv: readonly string[]): Promise<void> {
  if (argv.length === 0 || argv.includes('--help')) return print(SWARM_USAGE);
  const read = readSwarmArguments(argv);
  if (!read.ok) return refuse([...read.errors, SWARM_USAGE], EX_USAGE);
  try {
    const report = await runSwarm(read.options);
    print(formatSwarmReport(report));
  } catch (error) {
    refuse([(error as Error).message], EX_FAILED);
  }
}

/** `headframe ledger` and `headframe payout`: on the database of the pool, whether that runs or not. */
async function bookkeeping(command: 'ledger' | 'payout', argv: readonly string[]): Promise<void> {
  const { settings, words } = separateSettings(argv);
  // What the commands are can be read without a configuration.
  const read = readWords(
    { print: printLine, complain },
    command === 'ledger' ? LEDGER_COMMAND : PAYOUT_COMMAND,
    words,
  );
  if (!read.ok) {
    process.exitCode = read.exitCode;
    return;
  }
  const answer = configure(settings);
  if (!answer.ok) return refuse(answer.errors, answer.exitCode);
  const { config } = answer;
  const log = createLog({
    level: 'error',
    format: 'text',
    destination: 2,
    secrets: secretsOf(config),
  });
  let opened: Promise<OpenDatabase> | null = null;
  const wallet = openWallet(config, log);
  const run = command === 'ledger' ? runLedgerCommand : runPayoutCommand;
  try {
    process.exitCode = await run(
      {
        openDb() {
          opened ??= openDatabase(config, log);
          return opened.then(({ db }) => db);
        },
        print: printLine,
        complain,
        confirm,
        clock,
        network: config.network,
        pools: config.pools,
        policy: config.payouts,
        wallet,
        actor: userInfo().username,
      },
      words,
    );
  } finally {
    wallet?.stop();
    // A database that could not be opened has been told of already.
    await (opened as Promise<OpenDatabase> | null)?.then(
      (database) => database.stop(),
      () => {},
    );
  }
}

/** The wallet that payouts go out from, at the first node. Nothing is connected before it is asked. */
function openWallet({ nodes: [first], payouts }: Config, log: OpenLog): Rpc | null {
  if (first === undefined || payouts === null) return null;
  return createRpc({ ...walletAddress(first, payouts.wallet), timeoutMs: WALLET_MS, log });
}

/** A question at the terminal; anything but y or yes is no, and so is the absence of a terminal. */
async function confirm(question: string): Promise<boolean> {
  if (process.stdin.isTTY !== true) return false;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `)).trim());
  } finally {
    terminal.close();
  }
}

function configure(argv: readonly string[], service: ServiceName | null = null): ConfigAnswer {
  return readConfig({
    service,
    argv,
    env: process.env,
    readFile: readLocalFile,
    isTerminal: process.stdout.isTTY === true,
    openFilesMax: openFilesMax(),
    isRoot: process.getuid?.() === 0,
  });
}

/** The soft limit on open files, which Node itself has already raised to the hard one; null where it cannot be known. */
function openFilesMax(): number | null {
  try {
    const limits = fs.readFileSync('/proc/self/limits', 'utf8');
    const match = /^Max open files\s+(\d+)/m.exec(limits);
    return match === null ? null : Number(match[1]);
  } catch {
    return null;
  }
}

function logOptionsOf(config: Config): LogOptions {
  return {
    level: config.log.level,
    format: config.log.format,
    destination: config.log.file ?? 1,
    service: config.serviceName,
    secrets: secretsOf(config),
    colors: process.stdout.isTTY === true,
  };
}

function toolLog(): OpenLog {
  const isTerminal = process.stdout.isTTY === true;
  return createLog({ level: 'info', format: 'text', destination: 1, colors: isTerminal });
}

/** Flags of the small tools: all take a value. Prints what is wrong, or the usage, and gives null. */
function readFlags<Name extends string>(
  argv: readonly string[],
  usage: string,
  defaults: Record<Name, string>,
): Record<Name, string> | null {
  try {
    const options = Object.fromEntries(
      Object.entries<string>(defaults).map(([name, value]) => [
        name,
        { type: 'string', default: value } as const,
      ]),
    );
    const { values } = parseArgs({
      args: [...argv],
      options,
      strict: true,
      allowPositionals: false,
    });
    const bad = Object.entries<string>(defaults).filter(
      ([name, value]) => /^\d+$/.test(value) && !/^\d+(\.\d+)?$/.test(String(values[name])),
    );
    if (bad.length > 0) throw new Error(bad.map(([name]) => `--${name} takes a number`).join('\n'));
    return values as Record<Name, string>;
  } catch (error) {
    refuse([(error as Error).message, usage], EX_USAGE);
    return null;
  }
}

/** Resolves at SIGTERM or SIGINT; a second one ends the process at once. */
function untilSignal(
  log: OpenLog,
  onOther?: (signal: string) => void,
): Promise<{ signal: string }> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      let seenAtMs: number | null = null;
      process.on(signal, () => {
        if (seenAtMs !== null && performance.now() - seenAtMs < SAME_SIGNAL_MS) return;
        if (seenAtMs !== null) end(log, EX_FAILED);
        seenAtMs = performance.now();
        log.info('stopping', { signal });
        resolve({ signal });
      });
    }
    process.on('SIGHUP', () => {
      log.reopen();
      onOther?.('SIGHUP');
    });
  });
}

async function within(timeoutMs: number, work: Promise<void>, log: OpenLog): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), timeoutMs);
  });
  if ((await Promise.race([work, late])) === 'late')
    log.warn('not everything ended in time; nothing acknowledged is lost by that', { timeoutMs });
  clearTimeout(timer);
}

/** A bug must not go on with half a state: the journal and the block files are made for being started again. */
function catchTheUncaught(log: OpenLog): void {
  process.on('uncaughtException', (error) => {
    log.error('an error nobody caught; the process ends and is to be started again', {
      reason: String(error),
      stack: error.stack,
    });
    end(log, EX_FAILED);
  });
  process.on('unhandledRejection', (reason) => {
    throw reason;
  });
}

/** To standard output. A reader that has seen enough (`| head`) ends the command without a word. */
function print(text: string): void {
  try {
    fs.writeSync(1, text);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0);
    throw error;
  }
}

function printLine(line: string): void {
  print(`${line}\n`);
}

function complain(line: string): void {
  fs.writeSync(2, `${line}\n`);
}

function refuse(errors: readonly string[], exitCode: number): void {
  fs.writeSync(2, errors.map((error) => `${error}\n`).join(''));
  process.exitCode = exitCode;
}

function end(log: OpenLog, exitCode: number): never {
  log.flush();
  process.exit(exitCode);
}
