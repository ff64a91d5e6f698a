/**
 * `headframe` as an operator runs it: the real program in a process of its own, on free ports and a data directory made for it, with
 * nothing of the surrounding environment but what a process needs. For end-to-end tests: its log as data, its pages, its end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePorts, type ProgramPorts, removeData } from '../../bench/tools/program.ts';
import { findFreePort } from '../../scripts/stack/server.ts';
import { until } from './waiting.ts';

export { findFreePort as freePort, freePorts, type ProgramPorts, removeData };

export type LogLine = { level: string; message: string; [field: string]: unknown };

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
/** What one start has compiled the next need not: half of the time that a start takes. Checked by Node against the sources. */
const COMPILED = fileURLToPath(new URL('../../node_modules/.cache/headframe', import.meta.url));
const LOG_LINES_MAX = 20_000;
const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 20_000;

/** A data directory of its own, open to the unprivileged user of the private database. `removeData` removes it with all that belongs to it. */
export function makeDataDir(): string {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-e2e-'));
  chmodSync(directory, 0o755);
  return directory;
}

/** Settings that keep a test's pool on loopback and on its own ports. */
export function settingsOf(dataDir: string, ports: ProgramPorts): Record<string, string> {
  return {
    DATA_DIR: dataDir,
    LISTEN_ADDR: '127.0.0.1',
    LISTEN_PORT: String(ports.stratum),
    API_ADDR: '127.0.0.1',
    API_PORT: String(ports.api),
    METRICS_PORT: String(ports.metrics),
  };
}

/** A process of the program. */
export class PoolProcess {
  readonly ports: ProgramPorts;
  /** Newest last; the oldest are forgotten beyond 20,000. */
  readonly log: LogLine[] = [];
  /** What came that is no line of the log. */
  output = '';
  exitCode: number | null = null;
  hasExited = false;
  readonly #child: ChildProcess;
  readonly #gone: Promise<void>;

  constructor(argv: readonly string[], env: Record<string, string>, ports: ProgramPorts) {
    this.ports = ports;
    const { PATH = '', HOME = '/', TMPDIR = '' } = process.env;
    this.#child = spawn(process.execPath, [MAIN, ...argv], {
      cwd: tmpdir(),
      env: {
        PATH,
        HOME,
        NODE_COMPILE_CACHE: COMPILED,
        ...(TMPDIR === '' ? {} : { TMPDIR }),
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let rest = '';
    this.#child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#take(line);
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
    });
    this.#gone = new Promise((resolve) => {
      this.#child.once('close', (code) => {
        if (rest !== '') this.#take(rest);
        this.exitCode = code;
        this.hasExited = true;
        resolve();
      });
    });
  }

  #take(line: string): void {
    try {
      this.log.push(JSON.parse(line) as LogLine);
      if (this.log.length > LOG_LINES_MAX) this.log.splice(0, LOG_LINES_MAX / 2);
    } catch {
      this.output += `${line}\n`;
    }
  }

  /** Lines of the log with this message. */
  logged(message: string): LogLine[] {
    return this.log.filter((line) => line.message === message);
  }

  /** What it wrote, for the message of a failed test. */
  tail(): string {
    const lines = this.log.slice(-40).map((line) => JSON.stringify(line));
    return `${lines.join('\n')}\n${this.output.slice(-4000)}`;
  }

  /** Waits until a condition holds; fails at once, with the log, when the program ends. */
  async until(what: string, condition: () => boolean, limitMs = 15_000): Promise<void> {
    try {
      await until(
        what,
        () => {
          if (condition()) return true;
          if (this.hasExited) throw new Error(`the program ended with ${this.exitCode}: ${what}`);
          return false;
        },
        limitMs,
      );
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.tail()}`);
    }
  }

  /** Asks a page again and again until its JSON is as wanted, and gives it. */
  async untilPage<T>(path: string, isWanted: (answer: T) => boolean, limitMs = 15_000): Promise<T> {
    const endMs = performance.now() + limitMs;
    for (;;) {
      const answer = await this.page<T>(path);
      if (isWanted(answer)) return answer;
      if (performance.now() > endMs)
        throw new Error(`${path} stayed at ${JSON.stringify(answer)}\n${this.tail()}`);
      // Below the pace of twenty requests a second that the API allows one address.
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** JSON of a page of the public port. */
  async page<T>(path: string): Promise<T> {
    return (await (await this.get('api', path)).json()) as T;
  }

  get(port: 'api' | 'metrics', path: string): Promise<Response> {
    return fetch(`http://127.0.0.1:${this.ports[port]}${path}`);
  }

  /** The value of a metric without labels, or the sum over its labels; NaN when there is none of that name. */
  async metric(name: string): Promise<number> {
    const text = await (await this.get('metrics', '/metrics')).text();
    const values = text
      .split('\n')
      .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
    return values.length === 0 ? Number.NaN : values.reduce((sum, value) => sum + value, 0);
  }

  /** SIGKILL, SIGSTOP, SIGCONT. */
  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Waits for its end. */
  async ended(limitMs = STOP_MS_MAX): Promise<number | null> {
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), limitMs);
    await this.#gone;
    clearTimeout(timer);
    return this.exitCode;
  }

  /** SIGTERM; the exit code, or null when it had to be killed. */
  stop(limitMs = STOP_MS_MAX): Promise<number | null> {
    this.#child.kill('SIGTERM');
    return this.ended(limitMs);
  }
}

/** `headframe start`, ready: miners are welcome and the pages answer. Rejects with its log when it ends before. */
export async function startPoolProcess(
  dataDir: string,
  env: Record<string, string>,
  ports?: ProgramPorts,
): Promise<PoolProcess> {
  const own = ports ?? (await freePorts());
  const pool = new PoolProcess(['start'], { ...settingsOf(dataDir, own), ...env }, own);
  try {
    await pool.until('a pool that runs', () => pool.logged('look here').length > 0, READY_MS_MAX);
  } catch (error) {
    await pool.stop(1_000);
    throw error;
  }
  return pool;
}

/** Runs a command of the program to its end. */
export async function runCommand(
  argv: readonly string[],
  env: Record<string, string>,
): Promise<{ exitCode: number | null; text: string; tookMs: number }> {
  const startedMs = performance.now();
  const running = new PoolProcess(argv, env, { stratum: 0, api: 0, metrics: 0 });
  const exitCode = await running.ended(60_000);
  return { exitCode, text: running.tail(), tookMs: performance.now() - startedMs };
}
