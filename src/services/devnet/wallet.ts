/**
 * A wallet good enough to pay miners with: addresses of four types, what of the chain and the mempool is its own, coin
 * choice, signing, replacement by fee. It follows the chain by events, so its answers are those of the tip.
 *
 * Kept on disk (when the node has a directory): seed, how many addresses were given out, labels, and its own unconfirmed
 * transactions, which are offered to the mempool again at start, as Core does. Everything else is found again in the
 * chain. No encryption, no watch-only, no descriptors.
 */
import { encodeHex } from '../../core/bitcoin/bytes.ts';
import type { Tx, TxInput, TxOutput } from '../../core/bitcoin/tx.ts';
import { type ChainBlock, type ChainTx, outpointKey, scriptKey } from './blocks.ts';
import type { BlockNode, Chain, ChainEvent } from './chain.ts';
import {
  type AddressType,
  addressTypes,
  deriveKey,
  inputWeights,
  signInput,
  type WalletKey,
} from './keys.ts';
import { dustSats, feeAt, type Mempool, type MempoolEvent } from './mempool.ts';
import { coinbaseMaturity, isCoinbase } from './rules.ts';
import type { SpentOutput } from './script.ts';

export type WalletTx = {
  entry: ChainTx;
  coinbase: boolean;
  /** Where it stands. `inactive`: neither in the chain nor waiting, nor contradicted by the chain. */
  state:
    | { kind: 'confirmed'; node: BlockNode; position: number }
    | { kind: 'mempool' }
    | { kind: 'conflicted'; node: BlockNode }
    | { kind: 'inactive'; abandoned: boolean };
  timeReceived: number;
  replacedBy: string | null;
  replaces: string | null;
  comment: string | null;
  to: string | null;
};

/** One output of the wallet that is not spent. */
export type OwnCoin = {
  key: string;
  id: string;
  index: number;
  valueSats: bigint;
  script: Uint8Array;
  walletKey: WalletKey;
  confirmations: number;
  /** Confirmed, or change of our own. */
  safe: boolean;
  immature: boolean;
};

export type SpendPlan = {
  outputs: readonly TxOutput[];
  satsPerKvb: bigint;
  /** Indexes of outputs that pay the fee, in equal parts; the remainder falls on the first. */
  subtractFrom?: readonly number[];
  /** Inputs that must be spent. */
  inputs?: readonly { id: string; index: number; sequence?: number }[];
  /** Add own coins until it suffices. Default true. */
  addInputs?: boolean;
  changeScript?: Uint8Array;
  changeType?: AddressType;
  changePosition?: number;
  /** Signals BIP125. Default true. */
  replaceable?: boolean;
  locktime?: number;
  minConfirmations?: number;
  /** Coins of unconfirmed transactions of others may be spent. */
  unsafe?: boolean;
};

export type PlannedSpend = {
  tx: Tx;
  feeSats: bigint;
  /** Position of the change output, or -1. */
  changePosition: number;
  /** What the inputs spend, in order. */
  spent: SpentOutput[];
};

export type SpendAnswer =
  | ({ ok: true } & PlannedSpend)
  | { ok: false; reason: string; insufficient: boolean };

/** What is written to disk. */
export type WalletRecord = {
  seedHex: string;
  counts: Record<string, number>;
  labels: [string, string][];
  unconfirmed: string[];
};

const addressesMax = 1_000_000;
const inputsMax = 1400;

export class Wallet {
  readonly name: string;
  readonly keys = new Map<string, WalletKey>();
  readonly transactions = new Map<string, WalletTx>();
  /** Label by script key. */
  readonly labels = new Map<string, string>();
  readonly locked = new Set<string>();
  readonly #spends = new Map<string, Set<string>>();
  readonly #own = new Map<string, { walletTx: WalletTx; index: number; key: WalletKey }>();
  readonly #counts = new Map<string, number>();
  readonly #seed: Uint8Array;
  readonly #chain: Chain;
  readonly #mempool: Mempool;
  readonly #now: () => number;
  readonly #save: (record: WalletRecord) => void;
  readonly #unsubscribe: (() => void)[];

  constructor(
    tools: {
      chain: Chain;
      mempool: Mempool;
      nowSeconds: () => number;
      save: (record: WalletRecord) => void;
    },
    options: { name: string; seed: Uint8Array; record: WalletRecord | null },
  ) {
    this.name = options.name;
    this.#chain = tools.chain;
    this.#mempool = tools.mempool;
    this.#now = tools.nowSeconds;
    this.#save = tools.save;
    this.#seed = options.seed;
    if (options.record) {
      for (const [place, count] of Object.entries(options.record.counts)) {
        const [type, branch] = place.split('/');
        if (!addressTypes.includes(type as AddressType)) continue;
        for (let index = 0; index < Math.min(count, addressesMax); index += 1)
          this.#addKey(type as AddressType, branch === '1', index);
      }
      for (const [script, label] of options.record.labels) this.labels.set(script, label);
      for (const node of this.#chain.active) {
        const block = this.#chain.block(node);
        if (block) this.#connect(node, block);
      }
      for (const waiting of this.#mempool.entries.values())
        this.#see(waiting.entry, { kind: 'mempool' });
    } else this.persist();
    this.#unsubscribe = [
      this.#chain.onEvent((event) => this.#followChain(event)),
      this.#mempool.onEvent((event) => this.#followMempool(event)),
    ];
  }

  /** After `unloadwallet` the wallet hears nothing any more. */
  unload(): void {
    for (const stop of this.#unsubscribe) stop();
  }

  /** A fresh address' key. Its place is on disk before it is returned. */
  newKey(type: AddressType, label: string | null, change: boolean): WalletKey {
    const place = `${type}/${change ? 1 : 0}`;
    const index = this.#counts.get(place) ?? 0;
    if (index >= addressesMax) throw new RangeError('the wallet has given out a million addresses');
    const key = this.#addKey(type, change, index);
    if (label !== null) this.labels.set(scriptKey(key.script), label);
    this.persist();
    return key;
  }

  keyOf(script: Uint8Array): WalletKey | null {
    return this.keys.get(scriptKey(script)) ?? null;
  }

  /** Core's `confirmations`: depth, 0 when waiting or inactive, minus the depth of what contradicts it. */
  confirmations(walletTx: WalletTx): number {
    const { state } = walletTx;
    if (state.kind === 'confirmed') return this.#chain.confirmations(state.node);
    if (state.kind === 'conflicted') return -this.#chain.confirmations(state.node);
    return 0;
  }

  /** Own unspent outputs. Locked ones are included; callers that spend leave them out. */
  coins(): OwnCoin[] {
    const found: OwnCoin[] = [];
    for (const [key, own] of this.#own) {
      const { walletTx } = own;
      const active = walletTx.state.kind === 'confirmed' || walletTx.state.kind === 'mempool';
      if (!active || this.#isSpent(key)) continue;
      const confirmations = this.confirmations(walletTx);
      const output = walletTx.entry.tx.outputs[own.index];
      found.push({
        key,
        id: walletTx.entry.id,
        index: own.index,
        valueSats: output.valueSats,
        script: output.script,
        walletKey: own.key,
        confirmations,
        safe: this.trusted(walletTx),
        immature: walletTx.coinbase && confirmations <= coinbaseMaturity,
      });
    }
    return found;
  }

  balances(): { trustedSats: bigint; pendingSats: bigint; immatureSats: bigint } {
    let trustedSats = 0n;
    let pendingSats = 0n;
    let immatureSats = 0n;
    for (const coin of this.coins())
      if (coin.immature) immatureSats += coin.valueSats;
      else if (coin.safe) trustedSats += coin.valueSats;
      else pendingSats += coin.valueSats;
    return { trustedSats, pendingSats, immatureSats };
  }

  /** Confirmed, or waiting and made entirely from our own trusted coins. */
  trusted(walletTx: WalletTx): boolean {
    if (walletTx.state.kind === 'confirmed') return true;
    if (walletTx.state.kind !== 'mempool') return false;
    return walletTx.entry.spends.every((key) => {
      const own = this.#own.get(key);
      return own !== undefined && this.trusted(own.walletTx);
    });
  }

  /** Satoshis of ours that this transaction spends. */
  debitSats(entry: ChainTx): bigint {
    let total = 0n;
    for (const key of entry.spends) {
      const own = this.#own.get(key);
      if (own) total += own.walletTx.entry.tx.outputs[own.index].valueSats;
    }
    return total;
  }

  /** Satoshis this transaction pays to us. */
  creditSats(entry: ChainTx): bigint {
    let total = 0n;
    for (const output of entry.tx.outputs) if (this.keyOf(output.script)) total += output.valueSats;
    return total;
  }

  /** The output an own outpoint names, spent or not. */
  ownOutput(key: string): { output: TxOutput; walletKey: WalletKey; entry: ChainTx } | null {
    const own = this.#own.get(key);
    if (!own) return null;
    const { entry } = own.walletTx;
    return { output: entry.tx.outputs[own.index], walletKey: own.key, entry };
  }

  /** Ids of wallet transactions that spend one of the same outputs. */
  conflictsOf(entry: ChainTx): string[] {
    const ids = new Set<string>();
    for (const key of entry.spends) for (const id of this.#spends.get(key) ?? []) ids.add(id);
    ids.delete(entry.id);
    return [...ids];
  }

  /** Chooses coins and change for a payment. Changes nothing except that a change address may be given out. */
  plan(plan: SpendPlan): SpendAnswer {
    const refuse = (reason: string, insufficient = false): SpendAnswer => ({
      ok: false,
      reason,
      insufficient,
    });
    const subtractFrom = plan.subtractFrom ?? [];
    const outSats = plan.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const sequence = plan.replaceable === false ? 0xffff_fffe : 0xffff_fffd;
    const chosen: { input: TxInput; spent: SpentOutput; weight: number }[] = [];
    const choose = (
      id: string,
      index: number,
      spent: SpentOutput,
      type: AddressType,
      at: number,
    ): void => {
      chosen.push({
        input: {
          previousTxid: wireTxid(id),
          previousIndex: index,
          script: new Uint8Array(0),
          sequence: at,
          witness: [],
        },
        spent,
        weight: inputWeights[type],
      });
    };
    const preset = new Set<string>();
    for (const wanted of plan.inputs ?? []) {
      const key = outpointKey(wanted.id, wanted.index);
      const own = this.ownOutput(key);
      if (own === null) return refuse('Not solvable pre-selected input ' + key);
      preset.add(key);
      choose(wanted.id, wanted.index, own.output, own.walletKey.type, wanted.sequence ?? sequence);
    }
    const changeType = plan.changeType ?? 'bech32';
    const changeBytes = plan.changeScript?.length ?? scriptBytes[changeType];
    const changeWeight = (8 + 1 + changeBytes) * 4;
    // Version, lock time, both counts, and the two bytes that mark a witness.
    let baseWeight = (4 + 4 + 3 + varintBytes(plan.outputs.length + 1)) * 4 + 2;
    for (const output of plan.outputs)
      baseWeight += (8 + varintBytes(output.script.length) + output.script.length) * 4;
    const feeOf = (withChange: boolean): bigint => {
      let weight = baseWeight + (withChange ? changeWeight : 0);
      for (const one of chosen) weight += one.weight;
      return feeAt(plan.satsPerKvb, Math.ceil(weight / 4));
    };
    let inSats = chosen.reduce((sum, one) => sum + one.spent.valueSats, 0n);
    const needed = (): bigint => (subtractFrom.length > 0 ? outSats : outSats + feeOf(false));
    if (plan.addInputs ?? true) {
      const candidates = this.coins()
        .filter(
          (coin) =>
            !coin.immature &&
            !preset.has(coin.key) &&
            !this.locked.has(coin.key) &&
            (coin.safe || plan.unsafe === true) &&
            coin.confirmations >= (plan.minConfirmations ?? 0),
        )
        .sort(byUsefulness);
      for (const coin of candidates) {
        if (inSats >= needed() && chosen.length > 0) break;
        if (chosen.length >= inputsMax) return refuse('Transaction too large');
        choose(coin.id, coin.index, coin, coin.walletKey.type, sequence);
        inSats += coin.valueSats;
      }
    }
    if (inSats < needed() || chosen.length === 0)
      return preset.size > 0 && plan.addInputs === false
        ? refuse(
            'The preselected coins total amount does not cover the transaction target. Please allow other inputs to be automatically selected or include more coins manually',
          )
        : refuse('Insufficient funds', true);
    const changeKeyScript = (): Uint8Array =>
      plan.changeScript ?? this.newKey(changeType, null, true).script;
    const outputs = plan.outputs.map((output) => ({ ...output }));
    let feeSats: bigint;
    let changeSats: bigint;
    if (subtractFrom.length > 0) {
      changeSats = inSats - outSats;
      feeSats = feeOf(changeSats > 0n);
      const each = feeSats / BigInt(subtractFrom.length);
      subtractFrom.forEach((at, order) => {
        outputs[at].valueSats -= each + (order === 0 ? feeSats % BigInt(subtractFrom.length) : 0n);
      });
      if (subtractFrom.some((at) => outputs[at].valueSats < dustSats(outputs[at].script)))
        return refuse(
          'The transaction amount is too small to send after the fee has been deducted',
        );
    } else {
      feeSats = feeOf(true);
      changeSats = inSats - outSats - feeSats;
    }
    let changePosition = -1;
    if (changeSats >= 294n) {
      const script = changeKeyScript();
      changePosition = plan.changePosition ?? outputs.length;
      if (changePosition < 0 || changePosition > outputs.length)
        return refuse('changePosition out of bounds');
      outputs.splice(changePosition, 0, { valueSats: changeSats, script });
    } else feeSats = inSats - outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    return {
      ok: true,
      tx: {
        version: 2,
        inputs: chosen.map((one) => one.input),
        outputs,
        locktime: plan.locktime ?? 0,
      },
      feeSats,
      changePosition,
      spent: chosen.map((one) => one.spent),
    };
  }

  /** Signs every input the wallet has a key for. `spent` in the order of the inputs; null where unknown. */
  sign(tx: Tx, spent: readonly (SpentOutput | null)[]): { tx: Tx; complete: boolean } {
    const known = spent.map((output) => output ?? { valueSats: 0n, script: new Uint8Array(0) });
    let complete = true;
    const inputs = tx.inputs.map((input, at) => {
      const output = spent[at];
      const key = output ? this.keyOf(output.script) : null;
      // BIP341 signs all spent outputs: with one missing, taproot inputs cannot be signed.
      const signable = key && (key.type !== 'bech32m' || spent.every((one) => one !== null));
      if (!key || !signable) {
        if (input.witness.length === 0 && input.script.length === 0) complete = false;
        return input;
      }
      return { ...input, ...signInput(tx, at, known, key) };
    });
    return { tx: { ...tx, inputs }, complete };
  }

  /** Notes an own transaction before it is sent, so that it survives a restart. */
  remember(
    entry: ChainTx,
    facts: Partial<Pick<WalletTx, 'replaces' | 'comment' | 'to'>> = {},
  ): WalletTx {
    const walletTx = this.#see(entry, { kind: 'inactive', abandoned: false });
    if (walletTx === null) throw new Error('the transaction does not touch this wallet');
    Object.assign(walletTx, facts);
    // Spent otherwise while the wallet was away: the chain has decided already.
    for (const id of this.conflictsOf(entry)) {
      const other = this.transactions.get(id);
      if (other?.state.kind === 'confirmed') this.#contradict(entry.id, other.state.node);
    }
    this.persist();
    return walletTx;
  }

  /** `abandontransaction`: only what is neither in the chain nor waiting. */
  abandon(walletTx: WalletTx): boolean {
    if (walletTx.state.kind !== 'inactive' && walletTx.state.kind !== 'conflicted') return false;
    walletTx.state = { kind: 'inactive', abandoned: true };
    this.persist();
    return true;
  }

  /** Writes what must survive. */
  persist(): void {
    const unconfirmed: string[] = [];
    for (const walletTx of this.transactions.values())
      if (
        (walletTx.state.kind === 'mempool' ||
          (walletTx.state.kind === 'inactive' && !walletTx.state.abandoned)) &&
        this.debitSats(walletTx.entry) > 0n
      )
        unconfirmed.push(encodeHex(walletTx.entry.raw));
    this.#save({
      seedHex: encodeHex(this.#seed),
      counts: Object.fromEntries(this.#counts),
      labels: [...this.labels],
      unconfirmed,
    });
  }

  #addKey(type: AddressType, change: boolean, index: number): WalletKey {
    const key = deriveKey(this.#seed, { type, change, index });
    this.keys.set(scriptKey(key.script), key);
    this.#counts.set(`${type}/${change ? 1 : 0}`, index + 1);
    return key;
  }

  #isSpent(key: string): boolean {
    for (const id of this.#spends.get(key) ?? []) {
      const state = this.transactions.get(id)?.state;
      if (!state) continue;
      if (state.kind === 'confirmed' || state.kind === 'mempool') return true;
      if (state.kind === 'inactive' && !state.abandoned) return true;
    }
    return false;
  }

  #followChain(event: ChainEvent): void {
    if (event.kind === 'connected') this.#connect(event.node, event.block);
    else if (event.kind === 'disconnected') this.#disconnect(event.node);
  }

  #connect(node: BlockNode, block: ChainBlock): void {
    block.transactions.forEach((entry, position) => {
      this.#see(entry, { kind: 'confirmed', node, position });
      for (const key of entry.spends)
        for (const id of this.#spends.get(key) ?? [])
          if (id !== entry.id) this.#contradict(id, node);
    });
  }

  #disconnect(node: BlockNode): void {
    for (const walletTx of this.transactions.values())
      if (
        (walletTx.state.kind === 'confirmed' || walletTx.state.kind === 'conflicted') &&
        walletTx.state.node === node
      )
        // A coinbase that left the chain is nothing any more; Core marks it abandoned.
        walletTx.state = { kind: 'inactive', abandoned: walletTx.coinbase };
  }

  /** Marks a transaction, and what spends it, as contradicted by a block. */
  #contradict(id: string, node: BlockNode): void {
    const waiting = [id];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const walletTx = this.transactions.get(next);
      if (!walletTx || walletTx.state.kind === 'conflicted') continue;
      walletTx.state = { kind: 'conflicted', node };
      for (let at = 0; at < walletTx.entry.tx.outputs.length; at += 1)
        waiting.push(...(this.#spends.get(outpointKey(next, at)) ?? []));
    }
  }

  #followMempool(event: MempoolEvent): void {
    if (event.kind === 'added') {
      this.#see(event.entry, { kind: 'mempool' });
      return;
    }
    const walletTx = this.transactions.get(event.entry.id);
    if (walletTx?.state.kind === 'mempool') walletTx.state = { kind: 'inactive', abandoned: false };
  }

  /** Takes note of a transaction if it pays us or spends ours. */
  #see(entry: ChainTx, state: WalletTx['state']): WalletTx | null {
    const known = this.transactions.get(entry.id);
    if (known) {
      known.state = state;
      return known;
    }
    const mine =
      entry.tx.outputs.some((output) => this.keyOf(output.script)) ||
      entry.spends.some((key) => this.#own.has(key));
    if (!mine) return null;
    const walletTx: WalletTx = {
      entry,
      coinbase: isCoinbase(entry.tx),
      state,
      timeReceived: state.kind === 'confirmed' ? state.node.header.time : this.#now(),
      replacedBy: null,
      replaces: null,
      comment: null,
      to: null,
    };
    this.transactions.set(entry.id, walletTx);
    entry.tx.outputs.forEach((output, index) => {
      const key = this.keyOf(output.script);
      if (key) this.#own.set(outpointKey(entry.id, index), { walletTx, index, key });
    });
    if (!walletTx.coinbase)
      for (const key of entry.spends) {
        const ids = this.#spends.get(key) ?? new Set();
        ids.add(entry.id);
        this.#spends.set(key, ids);
      }
    return walletTx;
  }
}

const scriptBytes: Readonly<Record<AddressType, number>> = {
  legacy: 25,
  'p2sh-segwit': 23,
  bech32: 22,
  bech32m: 34,
};

/** Confirmed before waiting, then large before small: few inputs, short chains of unconfirmed change. */
function byUsefulness(left: OwnCoin, right: OwnCoin): number {
  const leftConfirmed = left.confirmations > 0;
  if (leftConfirmed !== right.confirmations > 0) return leftConfirmed ? -1 : 1;
  if (left.valueSats !== right.valueSats) return left.valueSats > right.valueSats ? -1 : 1;
  return left.key < right.key ? -1 : 1;
}

function wireTxid(display: string): Uint8Array {
  return Uint8Array.from(Buffer.from(display, 'hex')).reverse();
}

function varintBytes(count: number): number {
  return count < 0xfd ? 1 : count <= 0xffff ? 3 : 5;
}
