/**
 * A node on regtest for end-to-end tests: Bitcoin Core where it is found (`BITCOIND`, or `bitcoind` in the PATH), else our own
 * development chain, which speaks the same RPC. Wallets included.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createRpc } from '../../src/adapters/node/rpc.ts';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { startDevnet } from '../../src/services/devnet/devnet.ts';
import { freePort } from './pool-process.ts';
import { createSilentLog } from './silent-log.ts';

export type RegtestNode = {
  kind: 'core' | 'devnet';
  url: string;
  user: string;
  password: string;
  /** The settings that a pool needs to mine on it: address, user, password, ZMQ. */
  settings: Record<string, string>;
  /** One RPC call, of a wallet when one is named. Rejects with the node's words. */
  call(method: string, params?: unknown[], wallet?: string): Promise<unknown>;
  stop(): Promise<void>;
};

const NOBODY = encodeAddress(Uint8Array.of(0, 20, ...new Array<number>(20).fill(9)), 'regtest')!;

/** The program an environment variable names, or the one of that name in the PATH, or null. */
export function findProgram(variable: string, name: string): string | null {
  const named = process.env[variable];
  const places = named
    ? [named]
    : (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, name));
  for (const place of places) {
    try {
      accessSync(place, constants.X_OK);
      return place;
    } catch {}
  }
  return null;
}

/** SIGTERM, and SIGKILL for a child that is slow to go. */
export async function endChild(child: ChildProcess, impatienceMs: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), impatienceMs);
  await ended;
  clearTimeout(timer);
}

/** Bitcoin Core when its program is given, else the development chain; ready, and out of its initial download. */
export function startRegtestNode(core: string | null): Promise<RegtestNode> {
  return core === null ? startOwnNode() : startCore(core);
}

async function startCore(program: string): Promise<RegtestNode> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-core-'));
  const [rpcPort, zmqPort] = [await freePort(), await freePort()];
  const zmqAddress = `tcp://127.0.0.1:${zmqPort}`;
  const url = `http://127.0.0.1:${rpcPort}/`;
  const child = spawn(
    program,
    [
      '-regtest',
      `-datadir=${directory}`,
      `-rpcport=${rpcPort}`,
      '-rpcuser=pool',
      '-rpcpassword=word',
      '-listen=0',
      '-server=1',
      '-printtoconsole=0',
      '-fallbackfee=0.00002',
      `-zmqpubhashblock=${zmqAddress}`,
    ],
    { stdio: 'ignore' },
  );
  const call = callerOf(url, 60_000);
  for (let i = 0; ; i++) {
    try {
      await call.rpc('getblockchaininfo');
      break;
    } catch (error) {
      if (i === 150) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  // A chain with nothing but its genesis is from 2011: Core is in its initial download until there is a block of today.
  await call.rpc('generatetoaddress', [1, NOBODY]);
  return {
    kind: 'core',
    url,
    user: 'pool',
    password: 'word',
    settings: settingsOf(rpcPort, zmqAddress),
    call: call.rpc,
    async stop() {
      call.stop();
      await endChild(child, 5_000);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function startOwnNode(): Promise<RegtestNode> {
  const devnet = await startDevnet(
    { clock: { nowMs: () => Date.now() }, log: createSilentLog() },
    {
      rpcPort: 0,
      zmqPort: 0,
      user: 'pool',
      password: 'word',
      initialBlocks: 103,
      transactionsPerBlock: 5,
    },
  );
  return {
    kind: 'devnet',
    url: devnet.rpcUrl,
    user: 'pool',
    password: 'word',
    settings: settingsOf(devnet.rpcPort, devnet.zmqAddress!),
    call: (method, params = [], wallet) => devnet.call(method, params, wallet),
    stop: () => devnet.stop(),
  };
}

function settingsOf(rpcPort: number, zmqAddress: string): Record<string, string> {
  return {
    NETWORK: 'regtest',
    BITCOIN_RPC_HOST: '127.0.0.1',
    BITCOIN_RPC_PORT: String(rpcPort),
    BITCOIN_RPC_USER: 'pool',
    BITCOIN_RPC_PASSWORD: 'word',
    BITCOIN_ZMQ_ADDR: zmqAddress,
  };
}

function callerOf(url: string, timeoutMs: number): { rpc: RegtestNode['call']; stop: () => void } {
  const doors = new Map<string, ReturnType<typeof createRpc>>();
  return {
    async rpc(method, params = [], wallet = '') {
      const path = wallet === '' ? url : `${url}wallet/${encodeURIComponent(wallet)}`;
      let door = doors.get(path);
      if (door === undefined) {
        const log = createSilentLog();
        door = createRpc({
          name: 'node',
          url: path,
          user: 'pool',
          password: 'word',
          timeoutMs,
          log,
        });
        doors.set(path, door);
      }
      const answer = await door.call(method, params);
      if (answer.kind === 'result') return answer.result;
      throw new Error(`${method}: ${JSON.stringify(answer)}`);
    },
    stop() {
      for (const door of doors.values()) door.stop();
    },
  };
}
