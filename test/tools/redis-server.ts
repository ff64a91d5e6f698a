/** A real Redis for tests: `redis-server` of the machine on loopback, with a directory of its own, and ways to hurt it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './pool-process.ts';
import { endChild, findProgram } from './regtest-node.ts';

export type RedisServer = {
  url: string;
  port: number;
  /** One command past the cache under test; the answer as Redis writes it. */
  command(...words: string[]): Promise<string>;
  /** SIGSTOP and SIGCONT: connections stay, nobody answers. */
  freeze(): void;
  thaw(): void;
  /** SIGKILL; what was in memory is gone. */
  kill(): Promise<void>;
  /** On the same port, after `kill`. */
  restart(): Promise<void>;
  stop(): Promise<void>;
};

/** The program, or null: a suite that needs it says NOT FOUND in its name. `REDIS_SERVER` names another one. */
export const REDIS_SERVER = findProgram('REDIS_SERVER', 'redis-server');

/** Starts it, and resolves when it answers. `options` are directives: `['maxmemory', '3mb']`. */
export async function startRedis(
  program: string,
  options: readonly (readonly [string, string])[] = [],
): Promise<RedisServer> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-redis-'));
  const port = await freePort();
  let child: ChildProcess;

  async function start(): Promise<void> {
    const directives = [
      ['port', String(port)],
      ['bind', '127.0.0.1'],
      ['dir', directory],
      ['save', ''],
      ['appendonly', 'no'],
      ['daemonize', 'no'],
      ...options,
    ];
    child = spawn(
      program,
      directives.flatMap(([name, value]) => [`--${name}`, value as string]),
      { stdio: 'ignore' },
    );
    for (let i = 0; ; i++) {
      const answer = await command('PING').catch(() => '');
      // Asked for a password is up, too.
      if (/PONG|NOAUTH/.test(answer)) return;
      if (i === 200) throw new Error('redis-server did not start');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** A connection per command, so that nothing of a test is shared with what is tested. */
  function command(...words: string[]): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ host: '127.0.0.1', port });
      const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
      let text = '';
      socket.setEncoding('latin1');
      socket.on('error', reject);
      socket.on('data', (chunk: string) => {
        text += chunk;
        if (isWhole(text)) {
          socket.destroy();
          resolve(text.trimEnd());
        }
      });
      socket.write(`*${words.length}\r\n${parts.join('')}`);
    });
  }

  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    command,
    freeze: () => void child.kill('SIGSTOP'),
    thaw: () => void child.kill('SIGCONT'),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGKILL');
      await gone;
    },
    restart: start,
    async stop() {
      child.kill('SIGCONT');
      await endChild(child, 3_000);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A line, or a string whose length stands in front; lists are not asked for. */
function isWhole(text: string): boolean {
  const end = text.indexOf('\r\n');
  if (end < 0) return false;
  if (!text.startsWith('$')) return true;
  const length = Number(text.slice(1, end));
  return length < 0 || text.length >= end + 2 + length + 2;
}
