/**
 * Total decoders for the answers of a Bitcoin Core wallet, measured on 28.1; nothing here throws. A wallet is believed about its own
 * coins and about nothing else: what a payment pays is read from the transaction itself (`core/bitcoin/psbt.ts`), never from here.
 *
 * Amounts come as JSON numbers with eight decimals, which JavaScript reads into a double. All 21 million coins are below 2^53
 * satoshi, so the double nearest to such a number prints with eight decimals as the number that was sent: `toFixed` gives the text back
 * exactly, and the satoshis are read from the text.
 */
import { decodeHexReversed } from '../bitcoin/bytes.ts';
import type { NodeAddress } from './rpc.ts';

/** No sum of coins is greater. */
const SATS_MAX = 2_100_000_000_000_000n;
/** Transactions one `listsinceblock` may tell of. */
const HISTORY_MAX = 1_000_000;

type Fields = Record<string, unknown>;

function fieldsOf(value: unknown): Fields | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Fields)
    : null;
}

/** A hash as people write it → wire order; null when it is none. */
export function decodeHash(value: unknown): Uint8Array | null {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
    ? decodeHexReversed(value)
    : null;
}

/** An amount in bitcoin, a number or a decimal text → satoshis; null when it is no exact amount of money. May be negative. */
export function decodeAmount(value: unknown): bigint | null {
  const text =
    typeof value === 'number' && Math.abs(value) <= 21_000_000
      ? value.toFixed(8)
      : typeof value === 'string' && value.length <= 20
        ? value
        : '';
  const match = /^(-?)(\d{1,8})(?:\.(\d{1,8}))?$/.exec(text);
  if (match === null) return null;
  const sats = BigInt(match[2] + (match[3] ?? '').padEnd(8, '0'));
  if (sats > SATS_MAX) return null;
  return match[1] === '' ? sats : -sats;
}

/** Satoshis → the decimal text that a wallet takes as an amount. */
export function encodeAmount(sats: bigint): string {
  const digits = sats.toString().padStart(9, '0');
  return `${digits.slice(0, -8)}.${digits.slice(-8)}`;
}

/** Satoshis per 1,000 virtual bytes → the text that `fee_rate` takes: satoshis per virtual byte, three decimals. */
export function encodeFeeRate(satsPerKvb: bigint): string {
  return `${satsPerKvb / 1000n}.${(satsPerKvb % 1000n).toString().padStart(3, '0')}`;
}

/** How to reach one wallet of a node (Core: `/wallet/<name>`, the name percent-encoded). */
export function walletAddress(node: NodeAddress, wallet: string): NodeAddress {
  const base = node.url.endsWith('/') ? node.url : `${node.url}/`;
  const url = `${base}wallet/${encodeURIComponent(wallet)}`;
  return { ...node, name: `${node.name} wallet`, url };
}

export type WalletInfo = {
  /** False: it only watches; another machine signs. */
  hasKeys: boolean;
  /** Encrypted, and its passphrase is not entered. */
  locked: boolean;
  scanning: boolean;
};

/** Decodes `getwalletinfo`. */
export function decodeWalletInfo(result: unknown): WalletInfo | null {
  const fields = fieldsOf(result);
  if (fields === null || typeof fields.walletname !== 'string') return null;
  return {
    hasKeys: fields.private_keys_enabled === true,
    locked: fields.unlocked_until === 0,
    scanning: fields.scanning !== undefined && fields.scanning !== false,
  };
}

export type WalletBalances = { trustedSats: bigint; pendingSats: bigint; immatureSats: bigint };

/** Decodes `getbalances`: the wallet's own coins. */
export function decodeBalances(result: unknown): WalletBalances | null {
  const mine = fieldsOf(fieldsOf(result)?.mine);
  if (mine === null) return null;
  const trustedSats = decodeAmount(mine.trusted);
  const pendingSats = decodeAmount(mine.untrusted_pending);
  const immatureSats = decodeAmount(mine.immature);
  if (trustedSats === null || pendingSats === null || immatureSats === null) return null;
  return { trustedSats, pendingSats, immatureSats };
}

/** Decodes `walletcreatefundedpsbt`; only the PSBT is taken, everything else is read from it. */
export function decodeFunded(result: unknown): string | null {
  const psbt = fieldsOf(result)?.psbt;
  return typeof psbt === 'string' ? psbt : null;
}

/** Decodes `walletprocesspsbt` and `finalizepsbt`: the signed transaction in hex, null inside when signatures are missing. */
export function decodeProcessed(result: unknown): { hex: string | null } | null {
  const fields = fieldsOf(result);
  if (fields === null || typeof fields.complete !== 'boolean') return null;
  if (!fields.complete) return { hex: null };
  return typeof fields.hex === 'string' ? { hex: fields.hex } : null;
}

export type WalletSpend = {
  /** Depth; 0: not in the chain; below 0: a transaction at that depth makes it impossible. */
  confirmations: number;
  /** Wire order; null while not in the chain. */
  blockHash: Uint8Array | null;
  /** The block up to which the wallet had read when it answered, in display order; null where it does not tell. */
  asOf: string | null;
};

/** Decodes `gettransaction`. */
export function decodeWalletTransaction(result: unknown): WalletSpend | null {
  const fields = fieldsOf(result);
  if (fields === null) return null;
  const { confirmations } = fields;
  if (typeof confirmations !== 'number' || !Number.isInteger(confirmations)) return null;
  const blockHash = confirmations > 0 ? decodeHash(fields.blockhash) : null;
  if (confirmations > 0 && blockHash === null) return null;
  const asOf = fieldsOf(fields.lastprocessedblock)?.hash;
  return { confirmations, blockHash, asOf: typeof asOf === 'string' ? asOf : null };
}

/**
 * Decodes `listsinceblock`: the transactions by which money left the wallet, once each, and the block to go on from. Those that a
 * block has made impossible are left out.
 */
export function decodeSpendsSince(
  result: unknown,
): { spends: Uint8Array[]; lastBlock: Uint8Array } | null {
  const fields = fieldsOf(result);
  const lastBlock = decodeHash(fields?.lastblock);
  const list = fields?.transactions;
  if (lastBlock === null || !Array.isArray(list) || list.length > HISTORY_MAX) return null;
  const spends = new Map<string, Uint8Array>();
  for (const value of list) {
    const entry = fieldsOf(value);
    if (entry === null || typeof entry.category !== 'string') return null;
    if (entry.category !== 'send') continue;
    const txid = decodeHash(entry.txid);
    if (txid === null || typeof entry.confirmations !== 'number') return null;
    if (entry.confirmations >= 0 && entry.abandoned !== true) spends.set(String(entry.txid), txid);
  }
  return { spends: [...spends.values()], lastBlock };
}

/** Decodes `estimatesmartfee`: satoshis per 1,000 virtual bytes; null when the node cannot tell. */
export function decodeFeeEstimate(result: unknown): bigint | null {
  const rate = decodeAmount(fieldsOf(result)?.feerate);
  return rate !== null && rate > 0n ? rate : null;
}

/** Decodes `getaddressinfo`: whether the wallet calls the address its own, with keys or watching. */
export function decodeIsMine(result: unknown): boolean | null {
  const fields = fieldsOf(result);
  if (fields === null || typeof fields.ismine !== 'boolean') return null;
  return fields.ismine || fields.iswatchonly === true;
}

/** Decodes `testmempoolaccept` of one transaction: null inside when the node would take it, else its reason. */
export function decodeMempoolVerdict(result: unknown): { reason: string | null } | null {
  const fields = Array.isArray(result) ? fieldsOf(result[0]) : null;
  if (fields === null || typeof fields.allowed !== 'boolean') return null;
  if (fields.allowed) return { reason: null };
  const reason = fields['reject-reason'];
  return { reason: typeof reason === 'string' ? reason.slice(0, 200) : 'refused' };
}

/** Decodes `listlockunspent`. */
export function decodeLocked(result: unknown): { txid: string; vout: number }[] | null {
  if (!Array.isArray(result) || result.length > HISTORY_MAX) return null;
  const locked: { txid: string; vout: number }[] = [];
  for (const value of result) {
    const fields = fieldsOf(value);
    if (fields === null || decodeHash(fields.txid) === null || typeof fields.vout !== 'number')
      return null;
    locked.push({ txid: String(fields.txid), vout: fields.vout });
  }
  return locked;
}

/** What a node's answer to `sendrawtransaction` means for a transaction that was signed by us. */
export type SendVerdict =
  /** It has it: in its mempool, or in a block already. */
  | { kind: 'taken' }
  /** A coin it spends is gone, or promised to another transaction: the chain must be asked who has it. */
  | { kind: 'conflict'; detail: string }
  /** Not now: too cheap for this mempool, too early. The same bytes may be taken later. */
  | { kind: 'refused'; detail: string }
  /** Nobody knows whether it arrived; the same bytes again do no harm. */
  | { kind: 'unknown'; detail: string };

/** Classifies the JSON-RPC error of `sendrawtransaction` (Core's codes −25, −26, −27 and the reasons behind them). */
export function readSendError(code: number, message: string): SendVerdict {
  const detail = `${code} ${message}`.slice(0, 300);
  if (code === -27 || /txn-already-(known|in-mempool)/.test(message)) return { kind: 'taken' };
  if (
    /missingorspent|missing inputs|txn-mempool-conflict|conflicting|insufficient fee|too many potential replacements|replacement/i.test(
      message,
    )
  )
    return { kind: 'conflict', detail };
  if (code === -25 || code === -26 || code === -22) return { kind: 'refused', detail };
  return { kind: 'unknown', detail };
}
