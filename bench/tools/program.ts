/**
 * The whole program as an operator runs it (`src/main.ts start`), as a child process on free ports with a data directory of its own.
 * Used by the benchmarks of the whole path and by the crash test.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findFreePorts } from '../../scripts/stack/server.ts';

export type ProgramOptions = {
  dataDir: string;
  /** Settings by their environment names, over the ones set here. */
  env?: Record<string, string>;
  nodeOptions?: string[];
  /** Ports to use again after a restart. */
  ports?: ProgramPorts;
  /** How long it may take until miners can connect. */
  readyTimeoutMs?: number;
};

export type ProgramPorts = { stratum: number; metrics: number; api: number };

export type Program = {
  readonly process: ChildProcess;
  readonly ports: ProgramPorts;
  /** Milliseconds from the start until the Stratum port answered. */
  readonly readyMs: number;
  /** The last lines it wrote. */
  output(): string;
  /** kill -9, and waits until it is gone. */
  kill(): Promise<void>;
  /** SIGTERM; answers the exit code, or null when it had to be killed after `timeoutMs`. */
  stop(timeoutMs?: number): Promise<number | null>;
};

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const OUTPUT_LINES_MAX = 200;

/** Three free ports. They are free when this returns; nobody else on a test machine takes them in between. */
export async function freePorts(): Promise<ProgramPorts> {
  const [stratum, metrics, api] = (await findFreePorts(3)) as [number, number, number];
  return { stratum, metrics, api };
}

/** Starts it and waits until the Stratum port takes connections. Rejects with what it wrote when it leaves before that. */
export async function startProgram(options: ProgramOptions): Promise<Program> {
  const ports = options.ports ?? (await freePorts());
  const startedMs = performance.now();
  const environment: Record<string, string | undefined> = { ...process.env };
  // Settings of the machine's own pool, if it has one, must not reach this one.
  for (const name of Object.keys(environment)) {
    if (/^(BITCOIN_|POOL_|LISTEN_|DATABASE_URL|POSTGRES_URL|NETWORK$|DATA_DIR)/.test(name)) {
      delete environment[name];
    }
  }
  const child = spawn(process.execPath, [...(options.nodeOptions ?? []), MAIN, 'start'], {
    cwd: options.dataDir,
    env: {
      ...environment,
      DATA_DIR: options.dataDir,
      LISTEN_ADDR: '127.0.0.1',
      LISTEN_PORT: String(ports.stratum),
      METRICS_PORT: String(ports.metrics),
      API_ADDR: '127.0.0.1',
      API_PORT: String(ports.api),
      LOG_FORMAT: 'json',
      LOG_LEVEL: 'info',
      TLS_MODE: 'off',
      MIN_DIFFICULTY: '0.000000001',
      SUBMITS_PER_SECOND: '100000',
      SUBMIT_BURST: '1000000',
      MAX_CONNECTIONS: '15000',
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let lines: string[] = [];
  const take = (bytes: Buffer): void => {
    lines.push(
      ...bytes
        .toString('utf8')
        .split('\n')
        .filter((line) => line !== ''),
    );
    if (lines.length > OUTPUT_LINES_MAX) lines = lines.slice(-OUTPUT_LINES_MAX);
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  let isGone = false;
  const gone = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => {
      isGone = true;
      resolve(code);
    });
  });
  const deadlineMs = startedMs + (options.readyTimeoutMs ?? 60_000);
  while (!(await answers(ports.stratum))) {
    if (isGone)
      throw new Error(`the program left before it was ready:\n${lines.slice(-30).join('\n')}`);
    if (performance.now() > deadlineMs) {
      child.kill('SIGKILL');
      throw new Error(`the program was not ready in time:\n${lines.slice(-30).join('\n')}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return {
    process: child,
    ports,
    readyMs: performance.now() - startedMs,
    output: () => lines.join('\n'),
    async kill() {
      child.kill('SIGKILL');
      await gone;
    },
    async stop(timeoutMs = 15_000) {
      if (isGone) return gone;
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
      const code = await gone;
      clearTimeout(timer);
      return code;
    },
  };
}

/**
 * Removes a data directory with everything that belongs to it: run by root, the private PostgreSQL may live elsewhere, and says so in
 * `postgres.location`.
 */
export function removeData(directory: string): void {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('postgres.location')) continue;
    const home = readFileSync(join(directory, name), 'utf8').trim();
    if (/^\/var\/lib\/headframe\/[0-9a-f]+$/.test(home)) {
      rmSync(home, { recursive: true, force: true });
    }
  }
  rmSync(directory, { recursive: true, force: true });
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** Processor time of a process with all its threads, microseconds of user and system together; null where there is no /proc. */
export function processorMicroseconds(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    // utime and stime, in ticks of a hundredth of a second on every Linux that Node runs on.
    return (Number(fields[11]) + Number(fields[12])) * 10_000;
  } catch {
    return null;
  }
}
