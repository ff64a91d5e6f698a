/**
 * The wallets of one node: made, loaded, put away, and chosen for a call as Core chooses them, by the path `/wallet/<name>`
 * or, without one, when exactly one is loaded. With a directory each wallet is one JSON file, written whole and renamed
 * into place before its effects are answered; without one wallets vanish with the process.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { readHex } from './args.ts';
import { readChainTx } from './blocks.ts';
import type { Node } from './node.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { CallContext } from './rpcserver.ts';
import { Wallet, type WalletRecord } from './wallet.ts';

const walletsMax = 100;

export type WalletShelf = {
  /** Loaded wallets by name. */
  wallets: ReadonlyMap<string, Wallet>;
  create(name: string): void;
  load(name: string): void;
  unload(name: string): void;
  /** Names of all kept wallets, loaded or not. */
  names(): string[];
  /** The wallet a call is for. Throws RpcError -18 or -19 when there is none or more than one. */
  of(context: CallContext): Wallet;
};

/** Opens the wallets kept under `dataDir` (none are loaded by themselves, as in Core). */
export function openWalletShelf(node: Node, dataDir: string | null): WalletShelf {
  const { chain, mempool } = node;
  const wallets = new Map<string, Wallet>();
  /** What a node without a directory knows of wallets that were unloaded. */
  const records = new Map<string, WalletRecord>();
  const directory = dataDir === null ? null : join(dataDir, 'wallets');

  const openWallet = (name: string, record: WalletRecord | null): Wallet => {
    const seed = record === null ? Uint8Array.from(randomBytes(32)) : readHex(record.seedHex);
    if (seed === null || seed.length !== 32)
      throw new RpcError(rpcCode.wallet, `Wallet file verification failed. ${name} is damaged.`);
    const save = (next: WalletRecord): void => {
      if (directory === null) records.set(name, next);
      else writeWallet(directory, name, next);
    };
    const wallet = new Wallet(
      { chain, mempool, nowSeconds: node.nowSeconds, save },
      { name, seed, record },
    );
    wallets.set(name, wallet);
    for (const hex of record?.unconfirmed ?? []) {
      const bytes = readHex(hex);
      const entry = bytes === null ? null : readChainTx(bytes);
      if (entry === null || wallet.transactions.has(entry.id)) continue;
      wallet.remember(entry);
      mempool.accept(entry, { policy: false });
    }
    return wallet;
  };

  const storedRecord = (name: string): WalletRecord | null => {
    if (directory === null) return records.get(name) ?? null;
    const path = walletPath(directory, name);
    if (!existsSync(path)) return null;
    const record = decodeWalletRecord(readFileSync(path, 'utf8'));
    if (record === null)
      throw new RpcError(rpcCode.wallet, `Wallet file verification failed. ${path} is damaged.`);
    return record;
  };

  const walletOf = (context: CallContext): Wallet => {
    if (context.wallet !== null) {
      const named = wallets.get(context.wallet);
      if (!named)
        throw new RpcError(
          rpcCode.walletNotFound,
          'Requested wallet does not exist or is not loaded',
        );
      return named;
    }
    if (wallets.size === 0)
      throw new RpcError(
        rpcCode.walletNotFound,
        'No wallet is loaded. Load a wallet using loadwallet or create a new one with createwallet. (Note: A default wallet is no longer automatically created)',
      );
    if (wallets.size > 1)
      throw new RpcError(
        rpcCode.walletNotSpecified,
        'Wallet file not specified (must request wallet RPC through /wallet/<filename> uri-path).',
      );
    return wallets.values().next().value as Wallet;
  };

  return {
    wallets,
    create(name) {
      checkName(name);
      if (wallets.has(name) || storedRecord(name) !== null)
        throw new RpcError(
          rpcCode.wallet,
          `Wallet file verification failed. Failed to create database path '${name}'. Database already exists.`,
        );
      if (wallets.size >= walletsMax)
        throw new RpcError(rpcCode.wallet, `At most ${walletsMax} wallets can be loaded`);
      openWallet(name, null);
    },
    load(name) {
      checkName(name);
      if (wallets.has(name))
        throw new RpcError(rpcCode.walletAlreadyLoaded, `Wallet "${name}" is already loaded.`);
      const record = storedRecord(name);
      if (record === null)
        throw new RpcError(
          rpcCode.walletNotFound,
          `Wallet file verification failed. Failed to load database path '${name}'. Path does not exist.`,
        );
      if (wallets.size >= walletsMax)
        throw new RpcError(rpcCode.wallet, `At most ${walletsMax} wallets can be loaded`);
      openWallet(name, record);
    },
    unload(name) {
      const wallet = wallets.get(name);
      if (!wallet)
        throw new RpcError(
          rpcCode.walletNotFound,
          'Requested wallet does not exist or is not loaded',
        );
      wallet.persist();
      wallet.unload();
      wallets.delete(name);
    },
    names() {
      if (directory === null) return [...records.keys()];
      if (!existsSync(directory)) return [];
      return readdirSync(directory)
        .filter((file) => file.startsWith('w') && file.endsWith('.json'))
        .map((file) => file.slice(1, -'.json'.length));
    },
    of: walletOf,
  };
}

/** The name carries a leading letter so that a wallet may be called by the empty name. */
function walletPath(directory: string, name: string): string {
  return join(directory, `w${name}.json`);
}

function writeWallet(directory: string, name: string, record: WalletRecord): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = walletPath(directory, name);
  const file = openSync(`${path}.tmp`, 'w', 0o600);
  writeSync(file, JSON.stringify(record));
  fsyncSync(file);
  closeSync(file);
  renameSync(`${path}.tmp`, path);
}

/** Reads a wallet file; null when it is not one. */
function decodeWalletRecord(text: string): WalletRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  const record = value as Partial<WalletRecord>;
  if (
    typeof record.seedHex !== 'string' ||
    typeof record.counts !== 'object' ||
    !Array.isArray(record.labels) ||
    !Array.isArray(record.unconfirmed)
  )
    return null;
  return record as WalletRecord;
}

function checkName(name: string): void {
  if (!/^[A-Za-z0-9_.-]{0,64}$/.test(name) || name.startsWith('.'))
    throw new RpcError(
      rpcCode.wallet,
      `Wallet name ${JSON.stringify(name).slice(0, 80)} is not usable`,
    );
}
