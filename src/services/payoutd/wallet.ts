/**
 * The wallet as the payer asks it: one function per question, each answering a decoded value or a failure with the alarm it raises.
 * Nothing here decides, and nothing throws. Methods used: getblockchaininfo, getmempoolentry, estimatesmartfee, testmempoolaccept,
 * sendrawtransaction, validateaddress, loadwallet and finalizepsbt of the node; getwalletinfo, getbalances, getaddressinfo,
 * walletcreatefundedpsbt, walletprocesspsbt, gettransaction, listsinceblock, lockunspent and listlockunspent of the wallet.
 */
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeChainState } from '../../core/node/answers.ts';
import type { CallOptions, Rpc, RpcAnswer } from '../../core/node/rpc.ts';
import {
  decodeBalances,
  decodeFeeEstimate,
  decodeFunded,
  decodeIsMine,
  decodeLocked,
  decodeMempoolVerdict,
  decodeProcessed,
  decodeSpendsSince,
  decodeWalletInfo,
  decodeWalletTransaction,
  readSendError,
  type SendVerdict,
  type WalletSpend,
} from '../../core/node/wallet.ts';
import type { AlarmCode } from './payer.ts';

export type Failure = {
  ok: false;
  alarm: AlarmCode;
  text: string;
  /** The node's own error code; null when it did not answer. */
  rpcCode: number | null;
};
export type Got<T> = { ok: true; value: T } | Failure;

/** The doors of a wallet and of the node it belongs to. */
export type Doors = { node: Rpc; wallet: Rpc };

const NOT_FOUND = -5;
const WALLET_MISSING = -18;
const WALLET_LOCKED = -13;
const WARMING_UP = -28;

async function ask<T>(
  door: Rpc,
  method: string,
  params: readonly unknown[],
  decode: (result: unknown) => T | null,
  options?: CallOptions,
): Promise<Got<T>> {
  const answer = await door.call(method, params, options);
  if (answer.kind !== 'result') return failureOf(method, answer);
  const value = decode(answer.result);
  return value === null
    ? {
        ok: false,
        alarm: 'node-unreachable',
        text: `${method}: the answer makes no sense`,
        rpcCode: null,
      }
    : { ok: true, value };
}

function failureOf(method: string, answer: Exclude<RpcAnswer, { kind: 'result' }>): Failure {
  if (answer.kind !== 'error')
    return {
      ok: false,
      alarm: answer.kind === 'warming-up' ? 'node-syncing' : 'node-unreachable',
      text: `${method}: ${answer.kind}: ${answer.detail}`,
      rpcCode: null,
    };
  const { code } = answer;
  const message = answer.message.slice(0, 300);
  const alarm: AlarmCode =
    code === WALLET_MISSING
      ? 'wallet-missing'
      : code === WALLET_LOCKED
        ? 'wallet-locked'
        : code === WARMING_UP
          ? 'node-syncing'
          : /insufficient funds/i.test(message)
            ? 'insufficient-funds'
            : /too large|too many inputs|maximum weight/i.test(message)
              ? 'too-heavy'
              : 'refused';
  return { ok: false, alarm, text: `${method}: ${code} ${message}`, rpcCode: code };
}

export const askChain = (doors: Doors) =>
  ask(doors.node, 'getblockchaininfo', [], decodeChainState);

export const askWalletInfo = (doors: Doors) =>
  ask(doors.wallet, 'getwalletinfo', [], decodeWalletInfo);

/** Loads a wallet that the node has on disk. Already loaded is well, too. */
export async function loadWallet(doors: Doors, name: string): Promise<Got<true>> {
  const answer = await ask(doors.node, 'loadwallet', [name], () => true as const);
  return answer.ok || answer.rpcCode === -35
    ? { ok: true, value: true }
    : { ...answer, alarm: 'wallet-missing' };
}

export const askBalances = (doors: Doors) => ask(doors.wallet, 'getbalances', [], decodeBalances);

/** Satoshis per 1,000 virtual bytes; null when the node has seen too little to tell. */
export function askFeeRate(
  doors: Doors,
  confirmTarget: number,
): Promise<Got<{ satsPerKvb: bigint | null }>> {
  return ask(doors.node, 'estimatesmartfee', [confirmTarget], (result) => ({
    satsPerKvb: decodeFeeEstimate(result),
  }));
}

/** The wallet chooses coins and change; the PSBT in base64. */
export const fundPsbt = (
  doors: Doors,
  inputs: readonly { txid: string; vout: number; sequence: number }[],
  outputs: readonly Record<string, string>[],
  options: Record<string, unknown>,
) =>
  ask(doors.wallet, 'walletcreatefundedpsbt', [inputs, outputs, 0, options], decodeFunded, {
    repeatable: false,
  });

/** Signs what it can; the hex inside is null when signatures are missing. */
export const signPsbt = (doors: Doors, psbt: string) =>
  ask(doors.wallet, 'walletprocesspsbt', [psbt], decodeProcessed);

/** Puts the signatures of an imported PSBT together. */
export const finishPsbt = (doors: Doors, psbt: string) =>
  ask(doors.node, 'finalizepsbt', [psbt], decodeProcessed);

export const askIsMine = (doors: Doors, address: string) =>
  ask(doors.wallet, 'getaddressinfo', [address], decodeIsMine);

/** Whether the node takes the text for an address of its network. */
export const askIsValid = (doors: Doors, address: string) =>
  ask(doors.node, 'validateaddress', [address], (result) => {
    const valid = (result as { isvalid?: unknown } | null)?.isvalid;
    return typeof valid === 'boolean' ? { valid } : null;
  });

/** Null inside when the node would take the transaction. */
export const testTransaction = (doors: Doors, raw: Uint8Array) =>
  ask(doors.node, 'testmempoolaccept', [[encodeHex(raw)]], decodeMempoolVerdict);

/** Sends signed bytes. The same bytes any number of times do no harm. */
export async function sendTransaction(doors: Doors, raw: Uint8Array): Promise<SendVerdict> {
  const answer = await doors.node.call('sendrawtransaction', [encodeHex(raw)]);
  if (answer.kind === 'result') return { kind: 'taken' };
  if (answer.kind === 'error') return readSendError(answer.code, answer.message);
  return { kind: 'unknown', detail: `${answer.kind}: ${answer.detail}` };
}

/** What the wallet knows of a transaction; null inside when it never heard of it. */
export async function askTransaction(
  doors: Doors,
  txid: Uint8Array,
): Promise<Got<WalletSpend | null>> {
  const answer = await ask(
    doors.wallet,
    'gettransaction',
    [encodeHexReversed(txid), true],
    decodeWalletTransaction,
  );
  return !answer.ok && answer.rpcCode === NOT_FOUND ? { ok: true, value: null } : answer;
}

/** Whether the node's mempool has it. */
export async function askInMempool(doors: Doors, txid: Uint8Array): Promise<Got<boolean>> {
  const answer = await ask(
    doors.node,
    'getmempoolentry',
    [encodeHexReversed(txid)],
    () => true as const,
  );
  return !answer.ok && answer.rpcCode === NOT_FOUND ? { ok: true, value: false } : answer;
}

/** Spends of the wallet since a block (null: ever), and the block at `depth` to go on from. */
export const askSpendsSince = (doors: Doors, block: Uint8Array | null, depth: number) =>
  ask(
    doors.wallet,
    'listsinceblock',
    [block === null ? '' : encodeHexReversed(block), depth, true],
    decodeSpendsSince,
    { timeoutMs: 60_000 },
  );

/** Keeps the wallet's other users off these coins, also over a restart of the node. Coins that are spent already are no failure. */
export async function lockCoins(
  doors: Doors,
  coins: readonly { txid: Uint8Array; vout: number }[],
  unlock: boolean,
): Promise<void> {
  for (const coin of coins) {
    const params = [{ txid: encodeHexReversed(coin.txid), vout: coin.vout }];
    await doors.wallet.call('lockunspent', unlock ? [true, params] : [false, params, true]);
  }
}

export const askLocked = (doors: Doors) => ask(doors.wallet, 'listlockunspent', [], decodeLocked);
