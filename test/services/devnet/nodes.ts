/**
 * Nodes for the tests of the development chain: a quiet devnet, a JSON-RPC caller over real HTTP, and Bitcoin Core itself
 * where `bitcoind` is found (environment variable BITCOIND, or the PATH).
 */
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { findFreePort } from '../../../scripts/stack/server.ts';
import type { Log } from '../../../src/ports.ts';
import {
  type Devnet,
  type DevnetOptions,
  startDevnet,
} from '../../../src/services/devnet/devnet.ts';

export const quietLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => quietLog,
};

export const user = 'user';
export const password = 'pass';

/** A devnet on free ports, in memory, without traffic, unless told otherwise. */
export function startQuietDevnet(options: Partial<DevnetOptions> = {}): Promise<Devnet> {
  return startDevnet(
    { clock: { nowMs: () => Date.now() }, log: quietLog },
    {
      rpcPort: 0,
      zmqPort: null,
      user,
      password,
      initialBlocks: 0,
      transactionsPerBlock: 0,
      ...options,
    },
  );
}

export type RpcReply = {
  status: number;
  text: string;
  // Tests look into answers of many shapes.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  result: any;
  error: { code: number; message: string } | null;
};

export type Caller = (method: string, params?: unknown, path?: string) => Promise<RpcReply>;

/** Calls methods by HTTP with user and password. */
export function callerOf(url: string, credentials = `${user}:${password}`): Caller {
  return (method, params = [], path = '/') =>
    post(url + path, JSON.stringify({ id: 'test', method, params }), credentials);
}

/** One raw POST. */
export async function post(
  url: string,
  body: string,
  credentials: string | null,
): Promise<RpcReply> {
  const response = await fetch(url, {
    method: 'POST',
    body,
    headers:
      credentials === null
        ? {}
        : { authorization: `Basic ${Buffer.from(credentials).toString('base64')}` },
  });
  const text = await response.text();
  let parsed: { result?: unknown; error?: RpcReply['error'] } = {};
  try {
    parsed = JSON.parse(text);
  } catch {
    // Some answers are no JSON on purpose.
  }
  return { status: response.status, text, result: parsed.result, error: parsed.error ?? null };
}

/** The path of `bitcoind`, or null. */
export function findBitcoind(): string | null {
  const named = process.env.BITCOIND;
  const candidates = named
    ? [named]
    : (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'bitcoind'));
  for (const candidate of candidates)
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not here.
    }
  return null;
}

export type Bitcoind = { call: Caller; stop(): Promise<void> };

/** Starts Bitcoin Core on a fresh regtest chain in a folder of its own. */
export async function startBitcoind(path: string): Promise<Bitcoind> {
  const folder = mkdtempSync(join(tmpdir(), 'headframe-bitcoind-'));
  const port = await findFreePort();
  const child = spawn(
    path,
    [
      '-regtest',
      `-datadir=${folder}`,
      '-listen=0',
      '-server=1',
      `-rpcport=${port}`,
      `-rpcuser=${user}`,
      `-rpcpassword=${password}`,
      '-fallbackfee=0.0002',
      '-acceptnonstdtxn=1',
      '-dnsseed=0',
      '-printtoconsole=0',
      // With one script thread Core words a bad signature differently; two is what any real machine has.
      '-par=2',
    ],
    { stdio: 'ignore' },
  );
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const call = callerOf(`http://127.0.0.1:${port}`);
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  for (let attempt = 0; attempt < 300; attempt += 1) {
    const answer = await call('getblockcount').catch(() => null);
    if (answer?.result === 0) return { call, stop };
    if (child.exitCode !== null) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await stop();
  throw new Error('bitcoind did not start');
}
