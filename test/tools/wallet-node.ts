/**
 * A Bitcoin node with one wallet, in memory and fast: a block tree with undo, a mempool with replacement, coinbase maturity, and a
 * wallet that answers the RPCs a pool pays with, in Core's words and codes (−4, −5, −6, −8, −13, −22, −25, −26, −27). Transactions and
 * PSBTs are real bytes; proof of work and signatures are not (a signature is a hash that the chain checks). Everything is decided by
 * the caller: time, which transactions a miner takes, and through `fate` what becomes of each call.
 */
import { createHash } from 'node:crypto';
import { decodeAddress, encodeAddress } from '../../src/core/bitcoin/address.ts';
import { ByteReader, ByteWriter } from '../../src/core/bitcoin/bytes.ts';
import type { Network } from '../../src/core/bitcoin/network.ts';
import { NETWORKS } from '../../src/core/bitcoin/network.ts';
import { decodeTx, encodeTx, type Tx, type TxOutput } from '../../src/core/bitcoin/tx.ts';
import type { Rpc, RpcAnswer, RpcFailure } from '../../src/core/node/rpc.ts';

/** A transaction with what is asked of it often. */
export type NodeTx = {
  /** Hex as people and RPC write it. */
  id: string;
  raw: Uint8Array;
  tx: Tx;
  /** Outpoints `txid:vout`. */
  spends: string[];
  vsize: number;
};

export type NodeBlock = {
  hashDisplay: string;
  /** Wire order. */
  hash: Uint8Array;
  /** 80 bytes. */
  header: Uint8Array;
  height: number;
  previous: NodeBlock | null;
  /** The coinbase first. */
  txs: NodeTx[];
  timeMs: number;
  /** What it spent, while it is in the best chain. */
  undo: [string, Coin][];
};

export type Coin = { valueSats: bigint; script: Uint8Array; height: number; coinbase: boolean };

/** What becomes of one call. `acted`: the node did it and the answer was lost. */
export type CallFate =
  | { kind: 'answer' }
  | { kind: 'fail'; answer: RpcFailure; acted: boolean }
  | { kind: 'error'; code: number; message: string; acted: boolean };

export type WalletNodeOptions = {
  network: Network;
  /** Height of the first block there is. */
  baseHeight: number;
  nowMs: () => number;
  /** Asked before every call; may wait, which is how an interleaving is decided. */
  fate?: (door: string, method: string, params: readonly unknown[]) => CallFate | Promise<CallFate>;
};

type WalletTx = { entry: NodeTx; abandoned: boolean; seenMs: number };
type OwnCoin = {
  key: string;
  id: string;
  vout: number;
  valueSats: bigint;
  script: Uint8Array;
  confirmations: number;
  immature: boolean;
  safe: boolean;
};

/** Core's COINBASE_MATURITY: a coinbase may be spent in the 100th block after its own. */
const COINBASE_MATURITY = 100;
const WEIGHT_MAX = 400_000;
const ADDRESSES_MAX = 100_000;
/** Deeper than any reorganisation that is simulated. */
const SETTLED_DEPTH = 500;
const DUST_RATE = 3n;
/** Outputs a node keeps no coin for. */
const OP_RETURN = 0x6a;

class RpcError extends Error {
  readonly code: number;
  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

function throwIfRefused(refusal: RpcError | null): void {
  if (refusal !== null) throw refusal;
}

/** Double SHA-256 by Node, not by the product. */
export function hashTwice(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();
}

/** Satoshi → the number Core's JSON carries. Exact in a double up to 21 million bitcoin. */
export function coinNumber(sats: bigint): number {
  const sign = sats < 0n ? '-' : '';
  const digits = (sats < 0n ? -sats : sats).toString().padStart(9, '0');
  return Number(`${sign}${digits.slice(0, -8)}.${digits.slice(-8)}`);
}

/** A decimal amount in a call → satoshi; −3 when it is none. */
function satsOf(value: unknown): bigint {
  const text =
    typeof value === 'number' ? value.toFixed(8) : typeof value === 'string' ? value : '';
  const match = /^(\d{1,8})(?:\.(\d{1,8}))?$/.exec(text);
  if (match === null) throw new RpcError(-3, 'Invalid amount');
  return BigInt(match[1]!) * 100_000_000n + BigInt((match[2] ?? '').padEnd(8, '0'));
}

/** Bytes → entry, or null. */
export function readNodeTx(raw: Uint8Array): NodeTx | null {
  const answer = decodeTx(raw);
  return answer.ok ? nodeTxOf(answer.tx) : null;
}

function nodeTxOf(tx: Tx): NodeTx {
  const raw = encodeTx(tx, { witness: true });
  const plain = encodeTx(tx, { witness: false });
  return {
    id: hashTwice(plain).reverse().toString('hex'),
    raw,
    tx,
    spends: tx.inputs.map((input) => `${displayOf(input.previousTxid)}:${input.previousIndex}`),
    vsize: Math.ceil((3 * plain.length + raw.length) / 4),
  };
}

function displayOf(hash: Uint8Array): string {
  return Buffer.from(hash).reverse().toString('hex');
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}

const scriptHexes = new WeakMap<Uint8Array, string>();

/** Of a script that never changes: every answer names the same ones again. */
function scriptHexOf(script: Uint8Array): string {
  const known = scriptHexes.get(script);
  if (known !== undefined) return known;
  const hex = hexOf(script);
  scriptHexes.set(script, hex);
  return hex;
}

/** The hash that stands where a signature would: of the unsigned transaction, the input and the script it spends. */
function sealOf(tx: Tx, at: number, script: Uint8Array): Buffer {
  const bare: Tx = {
    ...tx,
    inputs: tx.inputs.map((input) => ({ ...input, script: new Uint8Array(0), witness: [] })),
  };
  const seal = createHash('sha512')
    .update(encodeTx(bare, { witness: false }))
    .update(`:${at}:`)
    .update(script)
    .digest();
  return Buffer.concat([Buffer.of(0x30, 0x44), seal, seal.subarray(0, 5)]);
}

/** The smallest value Core relays for an output script. */
export function nodeDustSats(script: Uint8Array): bigint {
  const witness =
    script.length >= 4 && script.length <= 42 && (script[0] === 0 || script[0]! >= 0x51)
      ? script[1] === script.length - 2
      : false;
  return BigInt(8 + 1 + script.length + (witness ? 67 : 148)) * DUST_RATE;
}

export class WalletNode {
  readonly network: Network;
  /** Blocks of the best chain; `active[0]` has `baseHeight`. */
  readonly active: NodeBlock[] = [];
  readonly blocks = new Map<string, NodeBlock>();
  readonly utxo = new Map<string, Coin>();
  /** In order of arrival. */
  readonly mempool = new Map<string, NodeTx>();
  /** Set by the caller. */
  estimateSatsPerVb: number | null = 5;
  minRateSatsPerVb = 1;
  locked = false;
  readonly #mempoolSpends = new Map<string, string>();
  readonly #fees = new Map<string, bigint>();
  /** Transactions of the best chain. */
  readonly #blockOf = new Map<string, NodeBlock>();
  readonly #options: WalletNodeOptions;
  readonly #scripts = new Map<string, { change: boolean }>();
  readonly #walletTxs = new Map<string, WalletTx>();
  readonly #unsettled = new Set<WalletTx>();
  readonly #own = new Map<
    string,
    { valueSats: bigint; script: Uint8Array; id: string; vout: number }
  >();
  readonly #ownUnspent = new Set<string>();
  readonly #walletSpends = new Map<string, Set<string>>();
  readonly #lockedCoins = new Map<string, boolean>();
  readonly #addresses = new Map<string, string | null>();
  #keys = 0;
  #salt = 0;
  /** Calls answered, by method. */
  readonly calls = new Map<string, number>();

  constructor(options: WalletNodeOptions) {
    this.#options = options;
    this.network = options.network;
    const genesis = this.makeBlock({ outputs: [{ valueSats: 0n, script: Uint8Array.of(0x51) }] });
    this.submit(genesis);
  }

  get tip(): NodeBlock {
    return this.active[this.active.length - 1]!;
  }

  // ---- the chain

  /**
   * A block on `previous` (the tip unless given), not submitted. `txs` are taken as they are; the values of the outputs are not
   * checked against subsidy and fees.
   */
  makeBlock(options: {
    outputs: readonly TxOutput[];
    previous?: NodeBlock | null;
    txs?: readonly NodeTx[];
    bits?: number;
    commitment?: boolean;
  }): NodeBlock {
    const previous = options.previous ?? this.active[this.active.length - 1] ?? null;
    const height = previous === null ? this.#options.baseHeight : previous.height + 1;
    const salt = Buffer.alloc(12);
    salt.writeUInt32LE(height, 0);
    salt.writeUInt32LE(++this.#salt, 4);
    const witness = options.commitment === true;
    const outputs = options.outputs.map((output) => ({ ...output }));
    if (witness) {
      const script = Buffer.concat([Buffer.from('6a24aa21a9ed', 'hex'), hashTwice(salt)]);
      outputs.push({ valueSats: 0n, script: new Uint8Array(script) });
    }
    const coinbase = nodeTxOf({
      version: 2,
      inputs: [
        {
          previousTxid: new Uint8Array(32),
          previousIndex: 0xffffffff,
          script: new Uint8Array(Buffer.concat([Buffer.of(4), salt.subarray(0, 4), salt])),
          sequence: 0xffffffff,
          witness: witness ? [new Uint8Array(32)] : [],
        },
      ],
      outputs,
      locktime: 0,
    });
    const txs = [coinbase, ...(options.txs ?? [])];
    const timeMs = this.#options.nowMs();
    const header = Buffer.alloc(80);
    header.writeUInt32LE(0x20000000, 0);
    if (previous !== null) header.set(previous.hash, 4);
    header.set(hashTwice(Buffer.from(txs.map((one) => one.id).join(''), 'hex')), 36);
    header.writeUInt32LE(Math.floor(timeMs / 1000), 68);
    header.writeUInt32LE(options.bits ?? 0x1d00ffff, 72);
    header.writeUInt32LE(this.#salt, 76);
    const hash = hashTwice(header);
    return {
      hashDisplay: displayOf(hash),
      hash: new Uint8Array(hash),
      header: new Uint8Array(header),
      height,
      previous,
      txs,
      timeMs,
      undo: [],
    };
  }

  /** Adds the block; the chain follows it when it is higher than the tip. */
  submit(block: NodeBlock): void {
    this.blocks.set(block.hashDisplay, block);
    if (this.active.length > 0 && block.height <= this.tip.height) return;
    if (block.previous === (this.active[this.active.length - 1] ?? null)) {
      this.#connect(block);
      for (const one of block.txs) this.#leaveMempool(one.id);
      for (const one of block.txs) this.#evictSpendersOf(one);
      return;
    }
    const branch: NodeBlock[] = [];
    let at: NodeBlock | null = block;
    while (at !== null && !this.isActive(at)) {
      branch.unshift(at);
      at = at.previous;
    }
    const returned: NodeTx[] = [];
    while (this.tip !== at) returned.unshift(...this.#disconnect().txs.slice(1));
    for (const one of branch) this.#connect(one);
    const waiting = [...returned, ...this.mempool.values()];
    this.mempool.clear();
    this.#mempoolSpends.clear();
    for (const one of waiting) {
      if (!this.#blockOf.has(one.id)) this.#accept(one, { relay: false });
    }
  }

  isActive(block: NodeBlock): boolean {
    return this.active[block.height - this.#options.baseHeight] === block;
  }

  /** Depth in the best chain, 1 at the tip; −1 beside it. */
  confirmations(block: NodeBlock): number {
    return this.isActive(block) ? this.tip.height - block.height + 1 : -1;
  }

  /** Where a transaction stands in the best chain. */
  blockOfTx(id: string): NodeBlock | null {
    return this.#blockOf.get(id) ?? null;
  }

  /** Forgets a waiting transaction and what spends it, as a node does that restarts without its mempool or runs out of room. */
  dropFromMempool(id: string): void {
    const entry = this.mempool.get(id);
    if (entry === undefined) return;
    for (let vout = 0; vout < entry.tx.outputs.length; vout++) {
      const spender = this.#mempoolSpends.get(`${id}:${vout}`);
      if (spender !== undefined) this.dropFromMempool(spender);
    }
    this.#leaveMempool(id);
  }

  /** Locks that were not asked to persist are forgotten. */
  restart(): void {
    for (const [key, persistent] of this.#lockedCoins) {
      if (!persistent) this.#lockedCoins.delete(key);
    }
  }

  /** What a miner who wants `rate` would take now, parents first. */
  minable(rateSatsPerVb: number, countMax: number): NodeTx[] {
    const taken: NodeTx[] = [];
    const ids = new Set<string>();
    for (const one of this.mempool.values()) {
      if (taken.length >= countMax) break;
      const parentsIn = one.spends.every((key) => {
        const parent = key.slice(0, 64);
        return !this.mempool.has(parent) || ids.has(parent);
      });
      if (!parentsIn || this.feeRateOf(one) < rateSatsPerVb) continue;
      taken.push(one);
      ids.add(one.id);
    }
    return taken;
  }

  feeRateOf(entry: NodeTx): number {
    return Number(this.#fees.get(entry.id) ?? 0n) / entry.vsize;
  }

  feeOf(id: string): bigint | null {
    return this.#fees.get(id) ?? null;
  }

  #connect(block: NodeBlock): void {
    block.undo = [];
    for (const [at, entry] of block.txs.entries()) {
      if (at > 0) {
        for (const key of entry.spends) {
          const coin = this.utxo.get(key);
          if (coin === undefined)
            throw new Error(`block ${block.height} spends ${key}, which is not there`);
          this.utxo.delete(key);
          this.#ownUnspent.delete(key);
          block.undo.push([key, coin]);
        }
      }
      for (const [vout, output] of entry.tx.outputs.entries()) {
        if (output.script[0] === OP_RETURN) continue;
        this.#addCoin(`${entry.id}:${vout}`, {
          valueSats: output.valueSats,
          script: output.script,
          height: block.height,
          coinbase: at === 0,
        });
      }
      this.#blockOf.set(entry.id, block);
      this.#see(entry);
    }
    this.active.push(block);
  }

  #disconnect(): NodeBlock {
    const block = this.active.pop()!;
    for (const entry of [...block.txs].reverse()) {
      for (let vout = 0; vout < entry.tx.outputs.length; vout++) {
        this.utxo.delete(`${entry.id}:${vout}`);
        this.#ownUnspent.delete(`${entry.id}:${vout}`);
      }
      this.#blockOf.delete(entry.id);
    }
    for (const [key, coin] of block.undo.reverse()) {
      // A coin made and spent in this very block goes with it.
      if (!block.txs.some((one) => key.startsWith(one.id))) this.#addCoin(key, coin);
    }
    return block;
  }

  #addCoin(key: string, coin: Coin): void {
    this.utxo.set(key, coin);
    if (this.#scripts.has(scriptHexOf(coin.script))) this.#ownUnspent.add(key);
  }

  // ---- the mempool

  #leaveMempool(id: string): void {
    const entry = this.mempool.get(id);
    if (entry === undefined) return;
    this.mempool.delete(id);
    for (const key of entry.spends) {
      if (this.#mempoolSpends.get(key) === id) this.#mempoolSpends.delete(key);
    }
  }

  #evictSpendersOf(confirmed: NodeTx): void {
    for (const key of confirmed.spends) {
      const other = this.#mempoolSpends.get(key);
      if (other !== undefined && other !== confirmed.id) this.dropFromMempool(other);
    }
  }

  /** Value of an outpoint that can be spent, in the chain or waiting. */
  #spendable(key: string): Coin | null {
    const coin = this.utxo.get(key);
    if (coin !== undefined) return coin;
    const parent = this.mempool.get(key.slice(0, 64));
    const output = parent?.tx.outputs[Number(key.slice(65))];
    if (output === undefined) return null;
    return { ...output, height: this.tip.height + 1, coinbase: false };
  }

  /** Takes a transaction into the mempool (not with `test`). Null when it may enter, else what Core says. */
  #accept(
    entry: NodeTx,
    options: { relay: boolean; maxRateSatsPerVb?: number; test?: boolean },
  ): RpcError | null {
    const refuse = (code: number, reason: string) => new RpcError(code, reason);
    if (this.mempool.has(entry.id)) return null;
    if (entry.tx.outputs.some((_, vout) => this.utxo.has(`${entry.id}:${vout}`)))
      return refuse(-27, 'Transaction outputs already in utxo set');
    if (3 * encodeTx(entry.tx, { witness: false }).length + entry.raw.length > WEIGHT_MAX)
      return refuse(-26, 'tx-size');
    if (new Set(entry.spends).size !== entry.spends.length)
      return refuse(-26, 'bad-txns-inputs-duplicate');
    for (const { valueSats, script } of entry.tx.outputs) {
      if (script[0] !== OP_RETURN && valueSats < nodeDustSats(script)) return refuse(-26, 'dust');
    }
    let inSats = 0n;
    const conflicts = new Set<string>();
    for (const [at, key] of entry.spends.entries()) {
      const coin = this.#spendable(key);
      if (coin === null) return refuse(-25, 'bad-txns-inputs-missingorspent');
      const depth = this.tip.height + 1 - coin.height;
      if (coin.coinbase && depth < COINBASE_MATURITY)
        return refuse(
          -26,
          `bad-txns-premature-spend-of-coinbase, tried to spend coinbase at depth ${depth}`,
        );
      const [seal] = entry.tx.inputs[at]!.witness;
      if (seal === undefined || !sealOf(entry.tx, at, coin.script).equals(seal))
        return refuse(
          -26,
          'mandatory-script-verify-flag-failed (Signature must be zero for failed CHECK(MULTI)SIG operation)',
        );
      inSats += coin.valueSats;
      const other = this.#mempoolSpends.get(key);
      if (other !== undefined) conflicts.add(other);
    }
    const feeSats = inSats - entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    if (feeSats < 0n) return refuse(-26, 'bad-txns-in-belowout');
    const rate = Number(feeSats) / entry.vsize;
    if (options.relay && rate < this.minRateSatsPerVb) {
      return refuse(
        -26,
        `mempool min fee not met, ${feeSats} < ${Math.ceil(entry.vsize * this.minRateSatsPerVb)}`,
      );
    }
    if (options.maxRateSatsPerVb !== undefined && rate > options.maxRateSatsPerVb)
      return refuse(-25, 'Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)');
    if (conflicts.size > 0) {
      const evicted = new Set<string>();
      for (const id of conflicts) this.#gatherDescendants(id, evicted);
      let evictedSats = 0n;
      for (const id of evicted) evictedSats += this.#fees.get(id) ?? 0n;
      for (const key of entry.spends) {
        if (evicted.has(key.slice(0, 64)))
          return refuse(
            -26,
            `bad-txns-spends-conflicting-tx, ${entry.id} spends conflicting transaction`,
          );
      }
      const slower = [...conflicts].some((id) => this.feeRateOf(this.mempool.get(id)!) >= rate);
      if (slower || feeSats < evictedSats + BigInt(entry.vsize))
        return refuse(-26, `insufficient fee, rejecting replacement ${entry.id}`);
      if (options.test) return null;
      for (const id of evicted) this.#leaveMempool(id);
    }
    if (options.test) return null;
    this.mempool.set(entry.id, entry);
    this.#fees.set(entry.id, feeSats);
    for (const key of entry.spends) this.#mempoolSpends.set(key, entry.id);
    this.#see(entry);
    return null;
  }

  #gatherDescendants(id: string, into: Set<string>): void {
    if (into.has(id)) return;
    into.add(id);
    const entry = this.mempool.get(id);
    for (let vout = 0; vout < (entry?.tx.outputs.length ?? 0); vout++) {
      const spender = this.#mempoolSpends.get(`${id}:${vout}`);
      if (spender !== undefined) this.#gatherDescendants(spender, into);
    }
  }

  // ---- the wallet

  /** A fresh P2WPKH script of the wallet. */
  newScript(change = false): Uint8Array {
    const hash = createHash('ripemd160')
      .update(`wallet ${++this.#keys}`)
      .digest();
    const script = new Uint8Array(Buffer.concat([Buffer.of(0, 20), hash]));
    this.#scripts.set(hexOf(script), { change });
    return script;
  }

  newAddress(change = false): string {
    return encodeAddress(this.newScript(change), this.network)!;
  }

  ownsScript(script: Uint8Array): boolean {
    return this.#scripts.has(hexOf(script));
  }

  isOwnOutpoint(key: string): boolean {
    return this.#own.has(key);
  }

  /** Somebody with the wallet's keys signs `tx` elsewhere: what a thief or another program would do. */
  signElsewhere(tx: Tx): NodeTx {
    return this.#sign(tx).entry;
  }

  /** Sends as another program would; throws what Core says. */
  send(entry: NodeTx): void {
    throwIfRefused(this.#accept(entry, { relay: true }));
  }

  /** Own coins that can be spent now. */
  spendableCoins(): OwnCoin[] {
    return this.#coins().filter(
      (coin) => !coin.immature && coin.safe && !this.#lockedCoins.has(coin.key),
    );
  }

  #see(entry: NodeTx): void {
    if (this.#walletTxs.has(entry.id)) return;
    const pays = entry.tx.outputs.some((output) => this.#scripts.has(scriptHexOf(output.script)));
    const spends = entry.spends.some((key) => this.#own.has(key));
    if (!pays && !spends) return;
    const walletTx = { entry, abandoned: false, seenMs: this.#options.nowMs() };
    this.#walletTxs.set(entry.id, walletTx);
    this.#unsettled.add(walletTx);
    for (const [vout, output] of entry.tx.outputs.entries()) {
      if (!this.#scripts.has(scriptHexOf(output.script))) continue;
      this.#own.set(`${entry.id}:${vout}`, { ...output, id: entry.id, vout });
    }
    for (const key of entry.spends) {
      if (!this.#own.has(key)) continue;
      const set = this.#walletSpends.get(key) ?? new Set();
      set.add(entry.id);
      this.#walletSpends.set(key, set);
    }
  }

  /** Wallet transactions above a height or in no block, oldest first. */
  #recentTxs(aboveHeight: number): WalletTx[] {
    const found: WalletTx[] = [];
    for (const one of this.#unsettled) {
      const block = this.#blockOf.get(one.entry.id);
      if (block === undefined || block.height > aboveHeight) found.push(one);
      // Nobody asks about what is this deep again.
      else if (block.height < this.tip.height - SETTLED_DEPTH) this.#unsettled.delete(one);
    }
    return found;
  }

  #stateOf(walletTx: WalletTx): 'confirmed' | 'mempool' | 'conflicted' | 'abandoned' | 'inactive' {
    const { entry } = walletTx;
    if (this.#blockOf.has(entry.id)) return 'confirmed';
    if (this.mempool.has(entry.id)) return 'mempool';
    for (const key of entry.spends) {
      for (const other of this.#walletSpends.get(key) ?? []) {
        if (other !== entry.id && this.#blockOf.has(other)) return 'conflicted';
      }
    }
    return walletTx.abandoned ? 'abandoned' : 'inactive';
  }

  #isSpent(key: string): boolean {
    for (const id of this.#walletSpends.get(key) ?? []) {
      const state = this.#stateOf(this.#walletTxs.get(id)!);
      if (state === 'confirmed' || state === 'mempool' || state === 'inactive') return true;
    }
    return false;
  }

  /** Ours, in the chain or in the mempool, and spent by nothing there: what `#coins` lists. */
  #isUnspent(key: string): boolean {
    if (!this.#own.has(key) || this.#isSpent(key)) return false;
    return this.#ownUnspent.has(key) || this.mempool.has(key.slice(0, 64));
  }

  #isTrusted(id: string): boolean {
    if (this.#blockOf.has(id)) return true;
    const entry = this.mempool.get(id);
    if (entry === undefined) return false;
    return entry.spends.every((key) => this.#own.has(key) && this.#isTrusted(key.slice(0, 64)));
  }

  #coins(): OwnCoin[] {
    const found: OwnCoin[] = [];
    const add = (key: string): void => {
      if (this.#isSpent(key)) return;
      const own = this.#own.get(key)!;
      const coin = this.utxo.get(key);
      const confirmations = coin === undefined ? 0 : this.tip.height - coin.height + 1;
      found.push({
        key,
        id: own.id,
        vout: own.vout,
        valueSats: own.valueSats,
        script: own.script,
        confirmations,
        immature: coin?.coinbase === true && confirmations <= COINBASE_MATURITY,
        safe: this.#isTrusted(own.id),
      });
    };
    for (const key of this.#ownUnspent) add(key);
    for (const entry of this.mempool.values()) {
      for (const [vout, output] of entry.tx.outputs.entries()) {
        if (this.#scripts.has(scriptHexOf(output.script))) add(`${entry.id}:${vout}`);
      }
    }
    return found;
  }

  #balances(): { trusted: bigint; pending: bigint; immature: bigint } {
    const sums = { trusted: 0n, pending: 0n, immature: 0n };
    for (const coin of this.#coins()) {
      sums[coin.immature ? 'immature' : coin.safe ? 'trusted' : 'pending'] += coin.valueSats;
    }
    return sums;
  }

  #sign(tx: Tx): { entry: NodeTx; complete: boolean } {
    let complete = true;
    const bare = tx.inputs.map((input) => ({ ...input, script: new Uint8Array(0), witness: [] }));
    const inputs = tx.inputs.map((input, at) => {
      const own = this.#own.get(`${displayOf(input.previousTxid)}:${input.previousIndex}`);
      if (own === undefined) {
        complete = false;
        return input;
      }
      const seal = new Uint8Array(sealOf({ ...tx, inputs: bare }, at, own.script));
      return { ...input, witness: [seal, new Uint8Array(33).fill(2)] };
    });
    return { entry: nodeTxOf({ ...tx, inputs }), complete };
  }

  /** Chooses coins and change for `outputs`. */
  #fund(request: {
    outputs: TxOutput[];
    preset: { id: string; vout: number; sequence?: number }[];
    addInputs: boolean;
    rateSatsPerVb: number;
    subtractFrom: number[];
    changeScript: Uint8Array | null;
    changePosition: number | null;
    locktime: number;
    replaceable: boolean;
    minConfirmations: number;
    unsafe: boolean;
  }): { tx: Tx; feeSats: bigint; changePosition: number } {
    const sequence = request.replaceable ? 0xfffffffd : 0xfffffffe;
    const chosen: { id: string; vout: number; valueSats: bigint; sequence: number }[] = [];
    for (const one of request.preset) {
      const own = this.#own.get(`${one.id}:${one.vout}`);
      if (own === undefined)
        throw new RpcError(
          -4,
          `Not solvable pre-selected input COutPoint(${one.id.slice(0, 10)}, ${one.vout})`,
        );
      chosen.push({
        id: one.id,
        vout: one.vout,
        valueSats: own.valueSats,
        sequence: one.sequence ?? sequence,
      });
    }
    const outSats = request.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const txOf = (change: TxOutput | null): Tx => {
      const outputs = request.outputs.map((output) => ({ ...output }));
      if (change !== null) outputs.splice(request.changePosition ?? outputs.length, 0, change);
      return {
        version: 2,
        inputs: chosen.map((one) => ({
          previousTxid: new Uint8Array(Buffer.from(one.id, 'hex').reverse()),
          previousIndex: one.vout,
          script: new Uint8Array(0),
          sequence: one.sequence,
          witness: [],
        })),
        outputs,
        locktime: request.locktime,
      };
    };
    // One input as this wallet signs it: 41 bytes, and 109 of witness.
    const feeOf = (change: TxOutput | null): bigint => {
      const plain = encodeTx(txOf(change), { witness: false }).length;
      const vsize = plain + Math.ceil((2 + 109 * chosen.length) / 4);
      return BigInt(Math.ceil(vsize * request.rateSatsPerVb));
    };
    const changeScript = request.changeScript ?? this.newScript(true);
    const changeOf = (valueSats: bigint): TxOutput => ({ valueSats, script: changeScript });
    let inSats = chosen.reduce((sum, one) => sum + one.valueSats, 0n);
    const needed = (): bigint =>
      outSats + (request.subtractFrom.length > 0 ? 0n : feeOf(changeOf(0n)));
    if (request.addInputs) {
      const taken = new Set(chosen.map((one) => `${one.id}:${one.vout}`));
      const candidates = this.#coins()
        .filter(
          (coin) =>
            !coin.immature &&
            (coin.safe || request.unsafe) &&
            coin.confirmations >= request.minConfirmations &&
            !taken.has(coin.key) &&
            !this.#lockedCoins.has(coin.key),
        )
        .sort((a, b) =>
          a.valueSats === b.valueSats
            ? a.key < b.key
              ? -1
              : 1
            : a.valueSats > b.valueSats
              ? -1
              : 1,
        );
      for (const coin of candidates) {
        if (inSats >= needed() && chosen.length > 0) break;
        chosen.push({ id: coin.id, vout: coin.vout, valueSats: coin.valueSats, sequence });
        inSats += coin.valueSats;
      }
    }
    if (chosen.length === 0 || inSats < needed()) {
      if (!request.addInputs)
        throw new RpcError(
          -4,
          'The preselected coins total amount does not cover the transaction target. Please allow other inputs to be automatically selected or include more coins manually',
        );
      throw new RpcError(-4, 'Insufficient funds');
    }
    if (request.subtractFrom.length > 0) {
      const changeSats = inSats - outSats;
      const change = changeSats >= 294n ? changeOf(changeSats) : null;
      const feeSats = feeOf(change);
      const each = feeSats / BigInt(request.subtractFrom.length);
      const first = feeSats - each * BigInt(request.subtractFrom.length);
      request.subtractFrom.forEach((at, order) => {
        request.outputs[at]!.valueSats -= each + (order === 0 ? first : 0n);
      });
      const tx = txOf(change);
      const paid = tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
      return {
        tx,
        feeSats: inSats - paid,
        changePosition: change === null ? -1 : (request.changePosition ?? tx.outputs.length - 1),
      };
    }
    const feeSats = feeOf(changeOf(0n));
    const changeSats = inSats - outSats - feeSats;
    const change = changeSats >= 294n ? changeOf(changeSats) : null;
    const tx = txOf(change);
    const paid = tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    return {
      tx,
      feeSats: inSats - paid,
      changePosition: change === null ? -1 : (request.changePosition ?? tx.outputs.length - 1),
    };
  }

  // ---- the doors

  /** A door that speaks as `name`; node and wallet methods are the same at all of them. */
  openDoor(name: string): Rpc {
    const call = async (method: string, params: readonly unknown[]): Promise<RpcAnswer> => {
      const fate = (await this.#options.fate?.(name, method, params)) ?? { kind: 'answer' };
      if (fate.kind !== 'answer' && !fate.acted)
        return fate.kind === 'fail'
          ? fate.answer
          : { kind: 'error', code: fate.code, message: fate.message };
      const answer = this.ask(method, params);
      if (fate.kind === 'fail') return fate.answer;
      return fate.kind === 'error'
        ? { kind: 'error', code: fate.code, message: fate.message }
        : answer;
    };
    return {
      name,
      call,
      callEncoded: (_method, _id, body) => {
        const request = JSON.parse(Buffer.concat(body).toString()) as {
          method: string;
          params: unknown[];
        };
        return call(request.method, request.params);
      },
      stop() {},
    };
  }

  /** One call, answered at once. Methods are `this.methods`. */
  ask(method: string, params: readonly unknown[]): RpcAnswer {
    this.calls.set(method, (this.calls.get(method) ?? 0) + 1);
    const run = this.#methods[method];
    if (run === undefined) return { kind: 'error', code: -32601, message: 'Method not found' };
    try {
      return { kind: 'result', result: run(params) };
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
      return { kind: 'error', code: error.code, message: error.message };
    }
  }

  readonly #methods: Record<string, (params: readonly unknown[]) => unknown> = {
    getblockchaininfo: () => ({
      chain: NETWORKS[this.network].chainName,
      blocks: this.tip.height,
      headers: this.tip.height,
      bestblockhash: this.tip.hashDisplay,
      difficulty: 1,
      time: Math.floor(this.tip.timeMs / 1000),
      mediantime: Math.floor(this.tip.timeMs / 1000),
      verificationprogress: 1,
      initialblockdownload: false,
      chainwork: this.tip.height.toString(16).padStart(64, '0'),
      size_on_disk: 1,
      pruned: false,
      warnings: [],
    }),
    getblockcount: () => this.tip.height,
    getbestblockhash: () => this.tip.hashDisplay,
    getblockhash: ([height]) => {
      const block = this.active[Number(height) - this.#options.baseHeight];
      if (block !== undefined) return block.hashDisplay;
      // Blocks below the base are of no interest, but a chain has them: block 0 tells the network.
      if (height === 0) return NETWORKS[this.network].genesisHashDisplay;
      throw new RpcError(-8, 'Block height out of range');
    },
    getblockheader: ([hash, verbose]) => {
      const block = this.#blockOrThrow(hash);
      return verbose === false ? hexOf(block.header) : this.#headerJson(block);
    },
    getblock: ([hash, verbosity]) => {
      const block = this.#blockOrThrow(hash);
      if (verbosity === 0 || verbosity === false) {
        const writer = new ByteWriter().bytes(block.header).varint(block.txs.length);
        for (const entry of block.txs) writer.bytes(entry.raw);
        return hexOf(writer.take());
      }
      const whole = verbosity === 2 || verbosity === 3;
      return {
        ...this.#headerJson(block),
        size: 1_000,
        weight: 4_000,
        tx: block.txs.map((entry) =>
          whole ? { ...this.#txJson(entry), hex: hexOf(entry.raw) } : entry.id,
        ),
      };
    },
    getrawtransaction: ([id, verbosity, hash]) => {
      const txid = this.#txidOrThrow(id);
      let entry = this.mempool.get(txid);
      let block: NodeBlock | null = null;
      if (typeof hash === 'string') {
        block = this.blocks.get(hash) ?? null;
        if (block === null) throw new RpcError(-5, 'Block hash not found');
        entry = block.txs.find((one) => one.id === txid);
        if (entry === undefined)
          throw new RpcError(
            -5,
            'No such transaction found in the provided block. Use gettransaction for wallet transactions.',
          );
      }
      if (entry === undefined)
        throw new RpcError(
          -5,
          'No such mempool transaction. Use -txindex or provide a block hash to enable blockchain transaction queries. Use gettransaction for wallet transactions.',
        );
      if (verbosity === undefined || verbosity === false || verbosity === 0)
        return hexOf(entry.raw);
      return {
        ...this.#txJson(entry),
        hex: hexOf(entry.raw),
        ...(block === null
          ? {}
          : {
              blockhash: block.hashDisplay,
              confirmations: Math.max(0, this.confirmations(block)),
            }),
      };
    },
    decoderawtransaction: ([hex]) => this.#txJson(this.#entryOrThrow(hex)),
    sendrawtransaction: ([hex, maxFeeRate]) => {
      const entry = this.#entryOrThrow(hex);
      // BTC/kvB; Core's default is 0.10, 0 means any.
      const max =
        maxFeeRate === undefined || maxFeeRate === null ? 10_000 : Number(maxFeeRate) * 100_000;
      throwIfRefused(
        this.#accept(entry, { relay: true, ...(max > 0 ? { maxRateSatsPerVb: max } : {}) }),
      );
      return entry.id;
    },
    testmempoolaccept: ([list]) =>
      (list as unknown[]).map((hex) => {
        const entry = this.#entryOrThrow(hex);
        const head = { txid: entry.id, wtxid: entry.id };
        if (this.mempool.has(entry.id))
          return { ...head, allowed: false, 'reject-reason': 'txn-already-in-mempool' };
        const refusal = this.#accept(entry, { relay: true, test: true });
        if (refusal !== null) {
          const reason =
            refusal.code === -25
              ? 'missing-inputs'
              : refusal.code === -27
                ? 'txn-already-known'
                : refusal.message.split(',')[0];
          return { ...head, allowed: false, 'reject-reason': reason };
        }
        const inSats = entry.spends.reduce(
          (sum, key) => sum + (this.#spendable(key)?.valueSats ?? 0n),
          0n,
        );
        const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
        return {
          ...head,
          allowed: true,
          vsize: entry.vsize,
          fees: { base: coinNumber(inSats - outSats) },
        };
      }),
    getmempoolinfo: () => ({
      loaded: true,
      size: this.mempool.size,
      bytes: 0,
      mempoolminfee: coinNumber(BigInt(Math.ceil(this.minRateSatsPerVb * 1000))),
      minrelaytxfee: 0.00001,
      incrementalrelayfee: 0.00001,
    }),
    getrawmempool: () => [...this.mempool.keys()],
    getmempoolentry: ([id]) => {
      const entry = this.mempool.get(this.#txidOrThrow(id));
      if (entry === undefined) throw new RpcError(-5, 'Transaction not in mempool');
      return {
        vsize: entry.vsize,
        time: Math.floor((this.#walletTxs.get(entry.id)?.seenMs ?? 0) / 1000),
        fees: { base: coinNumber(this.#fees.get(entry.id) ?? 0n) },
        depends: entry.spends.map((key) => key.slice(0, 64)).filter((one) => this.mempool.has(one)),
        'bip125-replaceable': true,
      };
    },
    gettxout: ([id, vout, withMempool]) => {
      const key = `${this.#txidOrThrow(id)}:${Number(vout)}`;
      if (withMempool !== false && this.#mempoolSpends.has(key)) return null;
      const coin = withMempool === false ? (this.utxo.get(key) ?? null) : this.#spendable(key);
      if (coin === null) return null;
      return {
        bestblock: this.tip.hashDisplay,
        confirmations: Math.max(0, this.tip.height - coin.height + 1),
        value: coinNumber(coin.valueSats),
        scriptPubKey: this.#scriptJson(coin.script),
        coinbase: coin.coinbase,
      };
    },
    gettxspendingprevout: ([list]) =>
      (list as { txid: string; vout: number }[]).map(({ txid, vout }) => {
        const spender = this.#mempoolSpends.get(`${txid}:${vout}`);
        return { txid, vout, ...(spender === undefined ? {} : { spendingtxid: spender }) };
      }),
    estimatesmartfee: ([target]) =>
      this.estimateSatsPerVb === null
        ? { errors: ['Insufficient data or no feerate found'], blocks: target }
        : {
            feerate: coinNumber(BigInt(Math.round(this.estimateSatsPerVb * 1000))),
            blocks: target,
          },
    validateaddress: ([text]) => {
      const address = decodeAddress(String(text), this.network);
      if (!address.ok) return { isvalid: false, error_locations: [], error: address.reason };
      return { isvalid: true, address: address.canonical, scriptPubKey: hexOf(address.script) };
    },

    listwallets: () => ['pool'],
    loadwallet: () => {
      throw new RpcError(-35, 'Wallet "pool" is already loaded.');
    },
    getwalletinfo: () => {
      const balances = this.#balances();
      return {
        walletname: 'pool',
        walletversion: 169900,
        format: 'sqlite',
        balance: coinNumber(balances.trusted),
        unconfirmed_balance: coinNumber(balances.pending),
        immature_balance: coinNumber(balances.immature),
        txcount: this.#walletTxs.size,
        keypoolsize: 1000,
        paytxfee: 0,
        private_keys_enabled: true,
        avoid_reuse: false,
        scanning: false,
        descriptors: true,
        external_signer: false,
        blank: false,
        ...(this.locked ? { unlocked_until: 0 } : {}),
        lastprocessedblock: { hash: this.tip.hashDisplay, height: this.tip.height },
      };
    },
    getbalances: () => {
      const balances = this.#balances();
      return {
        mine: {
          trusted: coinNumber(balances.trusted),
          untrusted_pending: coinNumber(balances.pending),
          immature: coinNumber(balances.immature),
        },
        lastprocessedblock: { hash: this.tip.hashDisplay, height: this.tip.height },
      };
    },
    getbalance: () => coinNumber(this.#balances().trusted),
    getnewaddress: () => this.newAddress(),
    getrawchangeaddress: () => this.newAddress(true),
    getaddressinfo: ([text]) => {
      const address = decodeAddress(String(text), this.network);
      if (!address.ok) throw new RpcError(-5, address.reason);
      const own = this.#scripts.get(hexOf(address.script));
      return {
        address: address.canonical,
        scriptPubKey: hexOf(address.script),
        ismine: own !== undefined,
        solvable: own !== undefined,
        iswatchonly: false,
        ischange: own?.change === true,
        labels: own?.change === false ? [''] : [],
      };
    },
    listunspent: ([minimum, maximum, addresses, unsafe, query]) => {
      const least = minimum === undefined || minimum === null ? 1 : Number(minimum);
      const most = maximum === undefined || maximum === null ? 9_999_999 : Number(maximum);
      const immature =
        (query as { include_immature_coinbase?: boolean } | undefined)
          ?.include_immature_coinbase === true;
      const wanted = new Set((addresses as string[] | undefined) ?? []);
      return this.#coins()
        .filter(
          (coin) =>
            coin.confirmations >= least &&
            coin.confirmations <= most &&
            (immature || !coin.immature) &&
            (unsafe !== false || coin.safe) &&
            !this.#lockedCoins.has(coin.key) &&
            (wanted.size === 0 || wanted.has(this.#addressOf(coin.script)!)),
        )
        .map((coin) => ({
          txid: coin.id,
          vout: coin.vout,
          address: this.#addressOf(coin.script),
          scriptPubKey: hexOf(coin.script),
          amount: coinNumber(coin.valueSats),
          confirmations: coin.confirmations,
          spendable: true,
          solvable: true,
          safe: coin.safe,
        }));
    },
    lockunspent: ([unlock, list, persistent]) => {
      if (list === undefined || list === null) {
        if (unlock === true) this.#lockedCoins.clear();
        return true;
      }
      const keys = (list as { txid: string; vout: number }[]).map(({ txid, vout }) => {
        const key = `${txid}:${vout}`;
        const known = this.#walletTxs.get(txid);
        if (known === undefined) throw new RpcError(-8, 'Invalid parameter, unknown transaction');
        if (vout >= known.entry.tx.outputs.length)
          throw new RpcError(-8, 'Invalid parameter, vout index out of bounds');
        if (!this.#isUnspent(key))
          throw new RpcError(-8, 'Invalid parameter, expected unspent output');
        if (unlock === true && !this.#lockedCoins.has(key))
          throw new RpcError(-8, 'Invalid parameter, expected locked output');
        if (unlock !== true && this.#lockedCoins.has(key) && persistent !== true)
          throw new RpcError(-8, 'Invalid parameter, output already locked');
        return key;
      });
      for (const key of keys) {
        if (unlock === true) this.#lockedCoins.delete(key);
        else this.#lockedCoins.set(key, persistent === true);
      }
      return true;
    },
    listlockunspent: () =>
      [...this.#lockedCoins.keys()].map((key) => ({
        txid: key.slice(0, 64),
        vout: Number(key.slice(65)),
      })),
    gettransaction: ([id]) => {
      const walletTx = this.#walletTxs.get(this.#txidOrThrow(id));
      if (walletTx === undefined) throw new RpcError(-5, 'Invalid or non-wallet transaction id');
      return {
        ...this.#historyJson(walletTx),
        hex: hexOf(walletTx.entry.raw),
        lastprocessedblock: { hash: this.tip.hashDisplay, height: this.tip.height },
      };
    },
    listtransactions: ([, count, skip]) =>
      [...this.#walletTxs.values()]
        .slice(Math.max(0, this.#walletTxs.size - Number(count ?? 10) - Number(skip ?? 0)))
        .map((one) => ({ ...this.#historyJson(one), category: this.#categoryOf(one) })),
    listsinceblock: ([hash, target]) => {
      const from = typeof hash === 'string' && hash !== '' ? this.#blockOrThrow(hash) : null;
      let fork = from;
      while (fork !== null && !this.isActive(fork)) fork = fork.previous;
      const transactions = [];
      for (const one of this.#recentTxs(fork?.height ?? -1)) {
        transactions.push({ ...this.#historyJson(one), category: this.#categoryOf(one) });
      }
      const last = this.active[Math.max(0, this.active.length - Number(target ?? 1))]!;
      return { transactions, removed: [], lastblock: last.hashDisplay };
    },
    abandontransaction: ([id]) => {
      const walletTx = this.#walletTxs.get(this.#txidOrThrow(id));
      if (walletTx === undefined) throw new RpcError(-5, 'Invalid or non-wallet transaction id');
      const state = this.#stateOf(walletTx);
      if (state === 'confirmed' || state === 'mempool')
        throw new RpcError(-5, 'Transaction not eligible for abandonment');
      walletTx.abandoned = true;
      return null;
    },
    walletcreatefundedpsbt: ([inputs, outputs, locktime, options]) => {
      const given = (options ?? {}) as Record<string, unknown>;
      const preset = this.#outpointsOf(inputs);
      const planned = this.#fund({
        outputs: this.#outputsOf(outputs),
        preset,
        addInputs: typeof given.add_inputs === 'boolean' ? given.add_inputs : preset.length === 0,
        rateSatsPerVb: this.#rateOf(given),
        subtractFrom: (given.subtractFeeFromOutputs ??
          given.subtract_fee_from_outputs ??
          []) as number[],
        changeScript: this.#changeScriptOf(given),
        changePosition: (given.changePosition ?? given.change_position ?? null) as number | null,
        locktime: Number(locktime ?? 0),
        replaceable: given.replaceable !== false,
        minConfirmations: Number(given.minconf ?? 0),
        unsafe: given.include_unsafe === true,
      });
      if (given.lockUnspents === true || given.lock_unspents === true) {
        for (const input of planned.tx.inputs)
          this.#lockedCoins.set(`${displayOf(input.previousTxid)}:${input.previousIndex}`, false);
      }
      return {
        psbt: this.#psbtOf(planned.tx, false),
        fee: coinNumber(planned.feeSats),
        changepos: planned.changePosition,
      };
    },
    createpsbt: ([inputs, outputs, locktime, replaceable]) =>
      this.#psbtOf(this.#draft(inputs, outputs, locktime, replaceable), false),
    createrawtransaction: ([inputs, outputs, locktime, replaceable]) =>
      hexOf(encodeTx(this.#draft(inputs, outputs, locktime, replaceable), { witness: true })),
    utxoupdatepsbt: ([psbt]) =>
      this.#psbtOf(this.#unsignedOf(psbt).tx, this.#unsignedOf(psbt).signed),
    walletprocesspsbt: ([psbt, sign]) => {
      const { tx, signed } = this.#unsignedOf(psbt);
      if (sign !== false && this.locked)
        throw new RpcError(
          -13,
          'Error: Please enter the wallet passphrase with walletpassphrase first.',
        );
      const own = tx.inputs.every((input) =>
        this.#own.has(`${displayOf(input.previousTxid)}:${input.previousIndex}`),
      );
      const complete = own && (sign !== false || signed);
      return {
        psbt: this.#psbtOf(tx, complete),
        complete,
        ...(complete ? { hex: hexOf(this.#sign(tx).entry.raw) } : {}),
      };
    },
    finalizepsbt: ([psbt, extract]) => {
      const { tx, signed } = this.#unsignedOf(psbt);
      if (!signed) return { psbt, complete: false };
      return extract === false
        ? { psbt, complete: true }
        : { hex: hexOf(this.#sign(tx).entry.raw), complete: true };
    },
    decodepsbt: ([psbt]) => {
      const { tx, signed } = this.#unsignedOf(psbt);
      const entry = nodeTxOf(tx);
      let inSats: bigint | null = 0n;
      const inputs = entry.spends.map((key) => {
        const own = this.#own.get(key);
        if (own === undefined) inSats = null;
        else if (inSats !== null) inSats += own.valueSats;
        return {
          ...(own === undefined
            ? {}
            : {
                witness_utxo: {
                  amount: coinNumber(own.valueSats),
                  scriptPubKey: this.#scriptJson(own.script),
                },
              }),
          ...(signed ? { final_scriptwitness: ['00'] } : {}),
        };
      });
      const outSats = tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
      return {
        tx: this.#txJson(entry),
        global_xpubs: [],
        psbt_version: 0,
        proprietary: [],
        unknown: {},
        inputs,
        outputs: tx.outputs.map(() => ({})),
        ...(inSats === null ? {} : { fee: coinNumber(inSats - outSats) }),
      };
    },
    analyzepsbt: ([psbt]) => ({ next: this.#unsignedOf(psbt).signed ? 'extractor' : 'signer' }),
    psbtbumpfee: ([id, options]) => {
      const { walletTx, planned, oldFeeSats } = this.#planBump(id, options);
      return {
        psbt: this.#psbtOf(planned.tx, false),
        origfee: coinNumber(oldFeeSats),
        fee: coinNumber(planned.feeSats),
        errors: walletTx === null ? ['unknown'] : [],
      };
    },
    signrawtransactionwithwallet: ([hex]) => {
      if (this.locked)
        throw new RpcError(
          -13,
          'Error: Please enter the wallet passphrase with walletpassphrase first.',
        );
      const { entry, complete } = this.#sign(this.#entryOrThrow(hex).tx);
      return { hex: hexOf(entry.raw), complete };
    },
  };

  #planBump(id: unknown, options: unknown) {
    const walletTx = this.#walletTxs.get(this.#txidOrThrow(id));
    if (walletTx === undefined) throw new RpcError(-5, 'Invalid or non-wallet transaction id');
    const { entry } = walletTx;
    if (this.#blockOf.has(entry.id) || this.#stateOf(walletTx) === 'conflicted')
      throw new RpcError(
        -4,
        'Transaction has been mined, or is conflicted with a mined transaction',
      );
    for (let vout = 0; vout < entry.tx.outputs.length; vout++) {
      if (this.#walletSpends.has(`${entry.id}:${vout}`))
        throw new RpcError(-8, 'Transaction has descendants in the wallet');
    }
    const inSats = entry.spends.reduce(
      (sum, key) => sum + (this.#own.get(key)?.valueSats ?? 0n),
      0n,
    );
    const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const oldFeeSats = inSats - outSats;
    const given = (options ?? {}) as Record<string, unknown>;
    const rate =
      given.fee_rate === undefined ? Number(oldFeeSats) / entry.vsize + 5 : this.#rateOf(given);
    if (rate * entry.vsize < Number(oldFeeSats) + entry.vsize)
      throw new RpcError(
        -8,
        `Insufficient total fee ${coinNumber(BigInt(Math.ceil(rate * entry.vsize)))}, must be at least more`,
      );
    const change = entry.tx.outputs.findIndex(
      (output) => this.#scripts.get(hexOf(output.script))?.change === true,
    );
    const planned = this.#fund({
      outputs: entry.tx.outputs.filter((_, at) => at !== change),
      preset: entry.spends.map((key) => ({ id: key.slice(0, 64), vout: Number(key.slice(65)) })),
      addInputs: true,
      rateSatsPerVb: rate,
      subtractFrom: [],
      changeScript: change < 0 ? null : entry.tx.outputs[change]!.script,
      changePosition: change < 0 ? null : change,
      locktime: entry.tx.locktime,
      replaceable: true,
      minConfirmations: 1,
      unsafe: false,
    });
    return { walletTx, planned, oldFeeSats };
  }

  #blockOrThrow(hash: unknown): NodeBlock {
    const block = this.blocks.get(String(hash));
    if (block === undefined) throw new RpcError(-5, 'Block not found');
    return block;
  }

  #txidOrThrow(id: unknown): string {
    if (typeof id !== 'string' || !/^[0-9a-f]{64}$/.test(id))
      throw new RpcError(
        -8,
        `parameter 1 must be of length 64 (not ${String(id).length}, for '${String(id).slice(0, 80)}')`,
      );
    return id;
  }

  #entryOrThrow(hex: unknown): NodeTx {
    const entry =
      typeof hex === 'string' && /^(?:[0-9a-f]{2})+$/.test(hex)
        ? readNodeTx(new Uint8Array(Buffer.from(hex, 'hex')))
        : null;
    if (entry === null)
      throw new RpcError(-22, 'TX decode failed. Make sure the tx has at least one input.');
    return entry;
  }

  #outpointsOf(value: unknown): { id: string; vout: number; sequence?: number }[] {
    return ((value ?? []) as { txid: string; vout: number; sequence?: number }[]).map((one) => ({
      id: this.#txidOrThrow(one.txid),
      vout: one.vout,
      ...(one.sequence === undefined ? {} : { sequence: one.sequence }),
    }));
  }

  #outputsOf(value: unknown): TxOutput[] {
    const seen = new Set<string>();
    return (Array.isArray(value) ? value : [value]).flatMap((part) =>
      Object.entries(part as Record<string, unknown>).map(([text, amount]) => {
        const address = decodeAddress(text, this.network);
        if (!address.ok) throw new RpcError(-5, `Invalid Bitcoin address: ${text}`);
        if (seen.has(text))
          throw new RpcError(-8, `Invalid parameter, duplicated address: ${text}`);
        seen.add(text);
        return { valueSats: satsOf(amount), script: address.script };
      }),
    );
  }

  #changeScriptOf(options: Record<string, unknown>): Uint8Array | null {
    const text = options.changeAddress ?? options.change_address;
    if (typeof text !== 'string') return null;
    const address = decodeAddress(text, this.network);
    if (!address.ok) throw new RpcError(-5, 'Change address must be a valid bitcoin address');
    return address.script;
  }

  #rateOf(options: Record<string, unknown>): number {
    const rate =
      options.fee_rate !== undefined
        ? Number(options.fee_rate)
        : options.feeRate !== undefined
          ? Number(options.feeRate) * 100_000
          : this.estimateSatsPerVb;
    if (rate === null)
      throw new RpcError(
        -4,
        'Fee estimation failed. Fallbackfee is disabled. Wait a few blocks or enable -fallbackfee.',
      );
    if (!Number.isFinite(rate) || rate < 1)
      throw new RpcError(
        -4,
        `Fee rate (${rate} sat/vB) is lower than the minimum fee rate setting (1.000 sat/vB)`,
      );
    return rate;
  }

  #draft(inputs: unknown, outputs: unknown, locktime: unknown, replaceable: unknown): Tx {
    return {
      version: 2,
      inputs: this.#outpointsOf(inputs).map((one) => ({
        previousTxid: new Uint8Array(Buffer.from(one.id, 'hex').reverse()),
        previousIndex: one.vout,
        script: new Uint8Array(0),
        sequence: one.sequence ?? (replaceable === false ? 0xffffffff : 0xfffffffd),
        witness: [],
      })),
      outputs: this.#outputsOf(outputs),
      locktime: Number(locktime ?? 0),
    };
  }

  /** BIP174, version 0: the unsigned transaction, each input's coin, and its witness when it is signed. */
  #psbtOf(tx: Tx, signed: boolean): string {
    const bare: Tx = { ...tx, inputs: tx.inputs.map((input) => ({ ...input, witness: [] })) };
    const writer = new ByteWriter().bytes(Uint8Array.of(0x70, 0x73, 0x62, 0x74, 0xff));
    const put = (key: number, value: Uint8Array): void => {
      writer.varbytes(Uint8Array.of(key)).varbytes(value);
    };
    put(0x00, encodeTx(bare, { witness: false }));
    writer.u8(0);
    const done = signed ? this.#sign(bare).entry.tx : null;
    for (const [at, input] of bare.inputs.entries()) {
      const own = this.#own.get(`${displayOf(input.previousTxid)}:${input.previousIndex}`);
      if (own !== undefined)
        put(0x01, new ByteWriter().u64(own.valueSats).varbytes(own.script).take());
      if (done !== null) {
        const witness = new ByteWriter();
        witness.varint(done.inputs[at]!.witness.length);
        for (const item of done.inputs[at]!.witness) witness.varbytes(item);
        put(0x08, witness.take());
      }
      writer.u8(0);
    }
    for (let at = 0; at < bare.outputs.length; at++) writer.u8(0);
    return Buffer.from(writer.take()).toString('base64');
  }

  #unsignedOf(psbt: unknown): { tx: Tx; signed: boolean } {
    try {
      const reader = new ByteReader(new Uint8Array(Buffer.from(String(psbt), 'base64')));
      if (Buffer.from(reader.bytes(5)).toString('hex') !== '70736274ff')
        throw new RangeError('magic');
      const readMap = (): Map<number, Uint8Array> => {
        const map = new Map<number, Uint8Array>();
        for (let length = reader.varint(); length !== 0; length = reader.varint()) {
          const key = reader.bytes(length);
          map.set(key[0]!, reader.varbytes());
        }
        return map;
      };
      const answer = decodeTx(readMap().get(0) ?? new Uint8Array(0));
      if (!answer.ok) throw new RangeError(answer.reason);
      let signed = answer.tx.inputs.length > 0;
      for (let at = 0; at < answer.tx.inputs.length; at++) signed = readMap().has(0x08) && signed;
      return { tx: answer.tx, signed };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new RpcError(-22, `TX decode failed ${error.message}`);
    }
  }

  /** Encoding an address takes longer than all the rest of an answer. */
  #addressOf(script: Uint8Array): string | null {
    const hex = scriptHexOf(script);
    const known = this.#addresses.get(hex);
    if (known !== undefined) return known;
    const address = encodeAddress(script, this.network);
    if (this.#addresses.size >= ADDRESSES_MAX) this.#addresses.clear();
    this.#addresses.set(hex, address);
    return address;
  }

  #scriptJson(script: Uint8Array): unknown {
    const address = this.#addressOf(script);
    return { asm: '', hex: hexOf(script), ...(address === null ? {} : { address }), type: 'any' };
  }

  #headerJson(block: NodeBlock): Record<string, unknown> {
    const next = this.isActive(block)
      ? this.active[block.height + 1 - this.#options.baseHeight]
      : undefined;
    return {
      hash: block.hashDisplay,
      confirmations: this.confirmations(block),
      height: block.height,
      version: 0x20000000,
      versionHex: '20000000',
      merkleroot: displayOf(block.header.subarray(36, 68)),
      time: Math.floor(block.timeMs / 1000),
      mediantime: Math.floor(block.timeMs / 1000),
      nonce: Buffer.from(block.header).readUInt32LE(76),
      bits: Buffer.from(block.header).readUInt32LE(72).toString(16).padStart(8, '0'),
      difficulty: 1,
      chainwork: block.height.toString(16).padStart(64, '0'),
      nTx: block.txs.length,
      ...(block.previous === null ? {} : { previousblockhash: block.previous.hashDisplay }),
      ...(next === undefined ? {} : { nextblockhash: next.hashDisplay }),
    };
  }

  #txJson(entry: NodeTx): Record<string, unknown> {
    return {
      txid: entry.id,
      hash: entry.id,
      version: entry.tx.version,
      size: entry.raw.length,
      vsize: entry.vsize,
      weight: entry.vsize * 4,
      locktime: entry.tx.locktime,
      vin: entry.tx.inputs.map((input, at) => ({
        txid: entry.spends[at]!.slice(0, 64),
        vout: input.previousIndex,
        scriptSig: { asm: '', hex: hexOf(input.script) },
        ...(input.witness.length > 0 ? { txinwitness: input.witness.map(hexOf) } : {}),
        sequence: input.sequence,
      })),
      vout: entry.tx.outputs.map((output, n) => ({
        value: coinNumber(output.valueSats),
        n,
        scriptPubKey: this.#scriptJson(output.script),
      })),
    };
  }

  #categoryOf(walletTx: WalletTx): string {
    if (walletTx.entry.spends.some((key) => this.#own.has(key))) return 'send';
    if (walletTx.entry.tx.inputs[0]!.previousIndex !== 0xffffffff) return 'receive';
    const block = this.#blockOf.get(walletTx.entry.id);
    if (block === undefined) return 'orphan';
    return this.confirmations(block) <= COINBASE_MATURITY ? 'immature' : 'generate';
  }

  #historyJson(walletTx: WalletTx): Record<string, unknown> {
    const { entry } = walletTx;
    const block = this.#blockOf.get(entry.id);
    const debit = entry.spends.reduce(
      (sum, key) => sum + (this.#own.get(key)?.valueSats ?? 0n),
      0n,
    );
    const credit = entry.tx.outputs.reduce(
      (sum, output) =>
        sum + (this.#scripts.has(scriptHexOf(output.script)) ? output.valueSats : 0n),
      0n,
    );
    const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const conflicts = new Set<string>();
    for (const key of entry.spends)
      for (const id of this.#walletSpends.get(key) ?? []) conflicts.add(id);
    conflicts.delete(entry.id);
    let confirmations = block === undefined ? 0 : this.confirmations(block);
    if (this.#stateOf(walletTx) === 'conflicted') {
      for (const id of conflicts) {
        const other = this.#blockOf.get(id);
        if (other !== undefined)
          confirmations = Math.min(confirmations, -this.confirmations(other));
      }
    }
    const feeSats = debit > 0n ? outSats - debit : 0n;
    return {
      amount: coinNumber(credit - debit - feeSats),
      ...(debit > 0n ? { fee: coinNumber(feeSats) } : {}),
      confirmations,
      ...(entry.tx.inputs[0]!.previousIndex === 0xffffffff ? { generated: true } : {}),
      ...(block === undefined
        ? { trusted: this.#isTrusted(entry.id) }
        : {
            blockhash: block.hashDisplay,
            blockheight: block.height,
            blockindex: 1,
            blocktime: Math.floor(block.timeMs / 1000),
          }),
      txid: entry.id,
      wtxid: entry.id,
      walletconflicts: [...conflicts],
      mempoolconflicts: [],
      time: Math.floor(walletTx.seenMs / 1000),
      timereceived: Math.floor(walletTx.seenMs / 1000),
      'bip125-replaceable': block === undefined && this.mempool.has(entry.id) ? 'yes' : 'no',
      abandoned: walletTx.abandoned,
      details: entry.tx.outputs.map((output, vout) => ({
        address: this.#addressOf(output.script),
        category: debit > 0n ? 'send' : 'receive',
        amount: coinNumber(debit > 0n ? -output.valueSats : output.valueSats),
        vout,
        abandoned: walletTx.abandoned,
      })),
    };
  }
}
