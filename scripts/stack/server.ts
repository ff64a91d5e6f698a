/**
 * What all servers of the stack have in common: a child process of its own with a log file, a port nobody has, waiting until it
 * answers, and ending it by its process id.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PORT_MIN = 10_000;
/** Where the kernel's own range begins by default. */
const PORT_END = 32_768;
const TRIES_MAX = 10_000;
/** Not given a second time by this process: who asked may not have opened it yet. */
const given = new Set<number>();

/** Why a server cannot be had on this machine, in words for who asked for it. */
export class NotFoundError extends Error {}

/** A server that runs. */
export type Started = {
  name: string;
  pid: number;
  /** What it takes as the word to end in order. */
  signal: NodeJS.Signals;
  logFile: string;
  /** What it left on the disk. */
  folders: string[];
  /** How the program is told of it. */
  environment: Record<string, string>;
};

export type Command = {
  file: string;
  args: readonly string[];
  /** Its output is added to this file. */
  logFile: string;
  environment?: Readonly<Record<string, string>>;
  /** Someone to be instead of us. */
  uid?: number;
  gid?: number;
  directory?: string;
};

/** Starts a server in a process group of its own, so that a Ctrl-C at the terminal is not for it; it outlives us. */
export function startServer(command: Command): ChildProcess {
  const log = openSync(command.logFile, 'a');
  const child = spawn(command.file, command.args, {
    stdio: ['ignore', log, log],
    detached: true,
    env: { ...process.env, ...command.environment },
    ...(command.directory === undefined ? {} : { cwd: command.directory }),
    ...(command.uid === undefined ? {} : { uid: command.uid }),
    ...(command.gid === undefined ? {} : { gid: command.gid }),
  });
  closeSync(log);
  child.on('error', () => {});
  return child;
}

/** Runs a program to its end; rejects with the last lines of its log when it fails. */
export async function runToEnd(command: Command): Promise<void> {
  const child = startServer(command);
  const code = await new Promise<number | null>((resolve) => {
    child.once('exit', resolve);
    child.once('error', () => resolve(null));
  });
  if (code !== 0) throw new Error(`${command.file} failed\n${lastLines(command.logFile)}`);
}

/** Resolves when `answers` does; rejects with the last lines of the log when the process ends first or takes too long. */
export async function waitFor(
  name: string,
  child: ChildProcess,
  logFile: string,
  answers: () => Promise<boolean>,
  timeoutMs = 60_000,
): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!(await answers())) {
    const isGone = child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
    if (isGone || performance.now() > endMs) {
      if (!isGone) child.kill('SIGKILL');
      throw new Error(`${name} ${isGone ? 'ended' : 'does not answer'}\n${lastLines(logFile)}`);
    }
    await sleep(50);
  }
}

/** True when something listens there. */
export function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', timeout: 1_000 });
    const end = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
    socket.once('timeout', () => end(false));
  });
}

/**
 * Ports of the loopback that nobody had a moment ago, each another one. They lie outside the range from which the kernel gives ports to
 * connections and to whoever does not care: a server that is killed finds its own free when it comes back.
 */
export async function findFreePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  for (let tries = 0; ports.length < count; tries += 1) {
    if (tries === TRIES_MAX) throw new Error('no port is free');
    const port = randomInt(PORT_MIN, portEnd());
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    ports.push(port);
  }
  return ports;
}

/** The first port of the kernel's own range. */
function portEnd(): number {
  try {
    const first = Number(
      readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split('\t')[0],
    );
    return first > 2 * PORT_MIN ? first : PORT_END;
  } catch {
    return PORT_END;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

export async function findFreePort(): Promise<number> {
  const [port] = await findFreePorts(1);
  return port as number;
}

/** A program on the path, or null. */
export function findProgram(name: string, folders: readonly string[] = []): string | null {
  const all = [...folders, ...(process.env.PATH ?? '').split(delimiter)];
  return all.map((folder) => join(folder, name)).find((file) => existsSync(file)) ?? null;
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // A child that ended and was not asked for yet is still listed.
    return !/^\d+ \(.*\) Z /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Asks a process to end, and ends it when it does not. */
export async function endProcess(
  pid: number,
  signal: NodeJS.Signals = 'SIGTERM',
  timeoutMs = 10_000,
): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  // One that is stopped would not hear it.
  for (const each of [signal, 'SIGCONT'] as const) {
    try {
      process.kill(pid, each);
    } catch {
      return;
    }
  }
  while (isAlive(pid)) {
    if (performance.now() > endMs) {
      process.kill(pid, 'SIGKILL');
      return;
    }
    await sleep(20);
  }
}

export function lastLines(file: string, count = 15): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
  } catch {
    return '';
  }
}
