/**
 * Transactions waiting for a block: Core's `PreChecks` in Core's order with Core's reasons, replacement (BIP125 as Core 28
 * applies it: every transaction is replaceable), limits on chains, and what blocks and reorganisations do to it.
 *
 * Policy that is not here: package relay, TRUC, witness standardness, the rolling minimum fee. What `script.ts` cannot
 * check is refused. At most 300 MB of transactions; a full mempool refuses ("mempool full") instead of evicting.
 */
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { type ChainTx, outpointKey } from './blocks.ts';
import type { Chain, ChainEvent, Coin } from './chain.ts';
import { formatAmount } from './json.ts';
import { checkTransaction, isCoinbase, isFinal } from './rules.ts';
import { decodePushes, kindOfScript } from './script.ts';

export type MempoolEntry = {
  entry: ChainTx;
  feeSats: bigint;
  vsize: number;
  sigopsCost: number;
  /** Seconds since 1970. */
  time: number;
  /** Height of the tip when it came in. */
  height: number;
  parents: Set<MempoolEntry>;
  children: Set<MempoolEntry>;
  /** Hex of the raw bytes, made when first asked for. */
  hex: string | null;
};

export type MempoolEvent =
  | { kind: 'added'; entry: ChainTx; sequence: bigint }
  | {
      kind: 'removed';
      entry: ChainTx;
      sequence: bigint;
      reason: 'replaced' | 'conflict' | 'reorg';
    };

export type AcceptResult =
  | { ok: true; added: MempoolEntry; replaced: MempoolEntry[] }
  | { ok: false; reason: string; debug: string; missingInputs: boolean };

export const minRelaySatsPerKvb = 1000n;
const bytesMax = 300_000_000;
const chainLimit = 25;
const chainVsizeMax = 101_000;
const standardWeightMax = 400_000;
const standardSigopsMax = 16_000;
const dataCarrierBytesMax = 83;

export class Mempool {
  readonly entries = new Map<string, MempoolEntry>();
  readonly #spentBy = new Map<string, MempoolEntry>();
  readonly #chain: Chain;
  readonly #now: () => number;
  #listeners: ((event: MempoolEvent) => void)[] = [];
  #disconnected: ChainTx[] = [];
  #bytes = 0;
  #updates = 0;
  #sequence = 1n;

  constructor(chain: Chain, nowSeconds: () => number) {
    this.#chain = chain;
    this.#now = nowSeconds;
    chain.onEvent((event) => this.#follow(event));
  }

  /** Counts every change, as Core's `GetTransactionsUpdated`: what long-poll ids carry. */
  get updates(): number {
    return this.#updates;
  }

  get sequence(): bigint {
    return this.#sequence;
  }

  /** Total virtual size. */
  get vbytes(): number {
    return this.#bytes;
  }

  /** Calls `listener` for every event, in the order of subscription, until the returned function is called. */
  onEvent(listener: (event: MempoolEvent) => void): () => void {
    this.#listeners.push(listener);
    return () => {
      this.#listeners = this.#listeners.filter((one) => one !== listener);
    };
  }

  /** The waiting transaction that spends this output, if any. */
  spender(key: string): MempoolEntry | null {
    return this.#spentBy.get(key) ?? null;
  }

  /** An output as the next block would see it, ignoring that waiting transactions may spend it. */
  coin(key: string): Coin | null {
    const coin = this.#chain.coin(key);
    if (coin !== null) return coin;
    const split = key.lastIndexOf(':');
    const output = this.entries.get(key.slice(0, split))?.entry.tx.outputs[
      Number(key.slice(split + 1))
    ];
    return output === undefined
      ? null
      : { ...output, height: this.#chain.tip.height + 1, coinbase: false };
  }

  /**
   * Takes a transaction, or says why not. `test` decides without keeping. `policy: false` skips what is not consensus
   * (standardness, minimum fee, chain limits), for tests that need unusual blocks.
   */
  accept(entry: ChainTx, options: { test?: boolean; policy?: boolean } = {}): AcceptResult {
    const policy = options.policy ?? true;
    const { tx } = entry;
    const refuse = (reason: string, debug = '', missingInputs = false): AcceptResult => ({
      ok: false,
      reason,
      debug,
      missingInputs,
    });
    const alone = checkTransaction(entry);
    if (alone !== null) return refuse(alone);
    if (isCoinbase(tx)) return refuse('coinbase');
    const nonStandard = policy ? standardReason(entry) : null;
    if (nonStandard !== null) return refuse(nonStandard);
    if (policy && entry.strippedBytes < 65) return refuse('tx-size-small');
    const tip = this.#chain.tip;
    if (!isFinal(tx, tip.height + 1, tip.medianTimePast)) return refuse('non-final');
    const same = this.entries.get(entry.id);
    if (same)
      return refuse(
        encodeHex(same.entry.wtxid) === encodeHex(entry.wtxid)
          ? 'txn-already-in-mempool'
          : 'txn-same-nonwitness-data-in-mempool',
      );
    const conflicts = new Set<MempoolEntry>();
    for (const key of entry.spends) {
      const other = this.#spentBy.get(key);
      if (other) conflicts.add(other);
    }
    for (const key of entry.spends)
      if (this.coin(key) === null) {
        const known = tx.outputs.some((_, at) => this.#chain.coin(outpointKey(entry.id, at)));
        return known
          ? refuse('txn-already-known')
          : refuse('bad-txns-inputs-missingorspent', '', true);
      }
    const inputs = this.#chain.checkInputs(entry, (key) => this.coin(key), tip.height + 1);
    if (
      inputs.ok &&
      !this.#chain.locksPassed(entry, inputs.coins, tip.height + 1, tip.medianTimePast)
    )
      return refuse('non-BIP68-final');
    if (!inputs.ok) return refuse(inputs.reason, inputs.debug);
    const sigopsCost = this.#chain.sigopsCost(entry, inputs.coins);
    if (policy && sigopsCost > standardSigopsMax)
      return refuse('bad-txns-too-many-sigops', `${sigopsCost}`);
    const vsize = Math.ceil(Math.max(entry.weight, sigopsCost * 20) / 4);
    const minFeeSats = feeAt(minRelaySatsPerKvb, vsize);
    if (policy && inputs.feeSats < minFeeSats)
      return refuse('min relay fee not met', `${inputs.feeSats} < ${minFeeSats}`);

    const parents = new Set<MempoolEntry>();
    for (const input of tx.inputs) {
      const parent = this.entries.get(encodeHexReversed(input.previousTxid));
      if (parent) parents.add(parent);
    }
    const candidate: MempoolEntry = {
      entry,
      feeSats: inputs.feeSats,
      vsize,
      sigopsCost,
      time: this.#now(),
      height: tip.height,
      parents,
      children: new Set(),
      hex: null,
    };
    if (policy) {
      const tooLong = this.#chainProblem(candidate);
      if (tooLong !== null) return refuse('too-long-mempool-chain', tooLong);
    }
    const replaced = new Set<MempoolEntry>();
    for (const conflict of conflicts) for (const each of descendants(conflict)) replaced.add(each);
    if (replaced.size > 0) {
      const problem = replacementProblem(candidate, conflicts, replaced);
      if (problem !== null) return refuse(problem.reason, problem.debug);
    }
    const script = this.#chain.checkScripts(entry, inputs.coins);
    if (script !== null) return refuse(`mandatory-script-verify-flag-failed (${script})`);
    if (this.#bytes + vsize > bytesMax) return refuse('mempool full');

    if (!options.test) {
      for (const each of replaced) this.#remove(each, 'replaced');
      this.#add(candidate);
    }
    return { ok: true, added: candidate, replaced: [...replaced] };
  }

  /** Entry and all its unconfirmed ancestors. */
  ancestors(entry: MempoolEntry): Set<MempoolEntry> {
    return closure(entry, (one) => one.parents);
  }

  /** Entry and everything unconfirmed that builds on it. */
  descendants(entry: MempoolEntry): Set<MempoolEntry> {
    return descendants(entry);
  }

  /** Forgets all it holds, as a node that starts again without its mempool file. */
  forget(): void {
    for (const entry of [...this.entries.values()])
      if (this.entries.has(entry.entry.id)) this.#remove(entry, 'reorg');
  }

  #add(added: MempoolEntry): void {
    this.entries.set(added.entry.id, added);
    for (const key of added.entry.spends) this.#spentBy.set(key, added);
    for (const parent of added.parents) parent.children.add(added);
    this.#bytes += added.vsize;
    this.#updates += 1;
    this.#emit({ kind: 'added', entry: added.entry, sequence: this.#sequence++ });
  }

  #unlink(entry: MempoolEntry): void {
    this.entries.delete(entry.entry.id);
    for (const key of entry.entry.spends)
      if (this.#spentBy.get(key) === entry) this.#spentBy.delete(key);
    for (const parent of entry.parents) parent.children.delete(entry);
    for (const child of entry.children) child.parents.delete(entry);
    this.#bytes -= entry.vsize;
    this.#updates += 1;
  }

  #remove(entry: MempoolEntry, reason: 'replaced' | 'conflict' | 'reorg'): void {
    if (!this.entries.has(entry.entry.id)) return;
    this.#unlink(entry);
    this.#emit({ kind: 'removed', entry: entry.entry, sequence: this.#sequence++, reason });
  }

  #follow(event: ChainEvent): void {
    if (event.kind === 'connected') {
      for (const entry of event.block.transactions) {
        const waiting = this.entries.get(entry.id);
        if (waiting) this.#unlink(waiting);
        for (const key of entry.spends) {
          const conflict = this.#spentBy.get(key);
          if (conflict) for (const each of descendants(conflict)) this.#remove(each, 'conflict');
        }
      }
      this.#updates += 1;
      return;
    }
    if (event.kind === 'disconnected') {
      // Blocks come off tip first, so their transactions go in front to stay in order of dependence.
      this.#disconnected.unshift(...event.block.transactions.slice(1));
      this.#updates += 1;
      return;
    }
    if (this.#disconnected.length === 0) return;
    const returning = this.#disconnected;
    this.#disconnected = [];
    for (const entry of returning) this.accept(entry, { policy: false });
    this.#dropInvalid();
  }

  /** After a reorganisation: what the new tip no longer allows goes, with everything that builds on it. */
  #dropInvalid(): void {
    const tip = this.#chain.tip;
    for (const waiting of [...this.entries.values()]) {
      if (!this.entries.has(waiting.entry.id)) continue;
      const inputs = this.#chain.checkInputs(
        waiting.entry,
        (key) => this.coin(key),
        tip.height + 1,
      );
      const good =
        inputs.ok &&
        isFinal(waiting.entry.tx, tip.height + 1, tip.medianTimePast) &&
        this.#chain.locksPassed(waiting.entry, inputs.coins, tip.height + 1, tip.medianTimePast);
      if (!good) for (const each of descendants(waiting)) this.#remove(each, 'reorg');
    }
  }

  #chainProblem(candidate: MempoolEntry): string | null {
    const ancestors = closure(candidate, (one) => one.parents);
    if (ancestors.size > chainLimit) return `too many unconfirmed ancestors [limit: ${chainLimit}]`;
    let vsize = 0;
    for (const each of ancestors) vsize += each.vsize;
    if (ancestors.size > 1 && vsize > chainVsizeMax)
      return `exceeds ancestor size limit [limit: ${chainVsizeMax}]`;
    for (const each of ancestors)
      if (each !== candidate && descendants(each).size + 1 > chainLimit)
        return `too many descendants for tx ${each.entry.id} [limit: ${chainLimit}]`;
    return null;
  }

  #emit(event: MempoolEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

/** Fee of `vsize` at a rate per 1000 virtual bytes, rounded up as Core's `CFeeRate::GetFee`. */
export function feeAt(satsPerKvb: bigint, vsize: number): bigint {
  return (satsPerKvb * BigInt(vsize) + 999n) / 1000n;
}

/** BIP125 opt-in signal of the transaction itself. */
export function signalsReplacement(entry: ChainTx): boolean {
  return entry.tx.inputs.some((input) => input.sequence <= 0xffff_fffd);
}

/** The smallest amount an output of this script may carry at Core's default dust rate of 3000 sats per 1000 vB. */
export function dustSats(script: Uint8Array): bigint {
  const kind = kindOfScript(script);
  if (kind === 'op-return') return 0n;
  const output = 8 + (script.length < 0xfd ? 1 : 3) + script.length;
  const witness = kind === 'p2wpkh' || kind === 'p2wsh' || kind === 'p2tr';
  return BigInt((output + (witness ? 67 : 148)) * 3);
}

function standardReason(entry: ChainTx): string | null {
  const { tx } = entry;
  if (tx.version < 1 || tx.version > 3) return 'version';
  if (entry.weight > standardWeightMax) return 'tx-size';
  for (const input of tx.inputs) {
    if (input.script.length > 1650) return 'scriptsig-size';
    if (decodePushes(input.script) === null) return 'scriptsig-not-pushonly';
  }
  let dataOutputs = 0;
  for (const output of tx.outputs) {
    const kind = kindOfScript(output.script);
    if (kind === 'nonstandard' || kind === 'op-true') return 'scriptpubkey';
    if (kind === 'op-return') {
      dataOutputs += 1;
      if (output.script.length > dataCarrierBytesMax) return 'scriptpubkey';
    } else if (output.valueSats < dustSats(output.script)) return 'dust';
  }
  return dataOutputs > 1 ? 'multi-op-return' : null;
}

function replacementProblem(
  candidate: MempoolEntry,
  conflicts: Set<MempoolEntry>,
  replaced: Set<MempoolEntry>,
): { reason: string; debug: string } | null {
  const { id } = candidate.entry;
  for (const parent of candidate.parents)
    if (replaced.has(parent))
      return {
        reason: 'bad-txns-spends-conflicting-tx',
        debug: `${id} spends conflicting transaction ${parent.entry.id}`,
      };
  for (const conflict of conflicts)
    if (candidate.feeSats * BigInt(conflict.vsize) <= conflict.feeSats * BigInt(candidate.vsize))
      return {
        reason: 'insufficient fee',
        debug: `rejecting replacement ${id}; new feerate ${rateText(candidate)} <= old feerate ${rateText(conflict)}`,
      };
  if (replaced.size > 100)
    return {
      reason: 'too many potential replacements',
      debug: `rejecting replacement ${id}; too many potential replacements (${replaced.size} > 100)`,
    };
  const conflictParents = new Set<MempoolEntry>();
  for (const conflict of conflicts) for (const each of conflict.parents) conflictParents.add(each);
  const index = candidate.entry.tx.inputs.findIndex((_, at) =>
    [...candidate.parents].some(
      (parent) =>
        candidate.entry.spends[at].startsWith(parent.entry.id) && !conflictParents.has(parent),
    ),
  );
  if (index >= 0)
    return {
      reason: 'replacement-adds-unconfirmed',
      debug: `replacement ${id} adds unconfirmed input, idx ${index}`,
    };
  let oldFeesSats = 0n;
  for (const each of replaced) oldFeesSats += each.feeSats;
  if (candidate.feeSats < oldFeesSats)
    return {
      reason: 'insufficient fee',
      debug: `rejecting replacement ${id}, less fees than conflicting txs; ${shortMoney(candidate.feeSats)} < ${shortMoney(oldFeesSats)}`,
    };
  const additional = candidate.feeSats - oldFeesSats;
  const needed = feeAt(minRelaySatsPerKvb, candidate.vsize);
  if (additional < needed)
    return {
      reason: 'insufficient fee',
      debug: `rejecting replacement ${id}, not enough additional fees to relay; ${shortMoney(additional)} < ${shortMoney(needed)}`,
    };
  return null;
}

function descendants(entry: MempoolEntry): Set<MempoolEntry> {
  return closure(entry, (one) => one.children);
}

function closure(
  entry: MempoolEntry,
  next: (entry: MempoolEntry) => Set<MempoolEntry>,
): Set<MempoolEntry> {
  const found = new Set([entry]);
  for (const one of found) for (const each of next(one)) found.add(each);
  return found;
}

function rateText(entry: MempoolEntry): string {
  return `${formatAmount((entry.feeSats * 1000n) / BigInt(entry.vsize))} BTC/kvB`;
}

function shortMoney(sats: bigint): string {
  return formatAmount(sats).replace(/0{1,6}$/, '');
}
