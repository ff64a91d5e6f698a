/**
 * `getblocktemplate` (BIP22, BIP23, BIP145) as Core 28 answers it: transactions by fee rate of their packages up to
 * 3,992,000 weight units (Core reserves 4,000 twice), all of Core's fields, long polling with Core's ids, and proposals.
 * A template is kept until the tip moves or, five seconds on, the mempool has changed.
 */
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeBits } from '../../core/bitcoin/target.ts';
import { type ChainTx, completeTx } from './blocks.ts';
import type { BlockNode, Chain } from './chain.ts';
import { integerJson } from './json.ts';
import type { Mempool, MempoolEntry } from './mempool.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import {
  blockSigopsCostMax,
  blockWeightMax,
  commitmentScript,
  earliestTime,
  isFinal,
  subsidySats,
} from './rules.ts';

/** Weight of transactions other than the coinbase in a template. */
export const templateWeightMax = blockWeightMax - 8000;
const reservedSigopsCost = 400;
const freshSeconds = 5;
/** BIP9 with no deployment running; Core on regtest also signals its test bit for a while, which we do not have. */
const blockVersion = 0x20000000;
const failuresMax = 1000;

export type Template = {
  parent: BlockNode;
  entries: MempoolEntry[];
  feesSats: bigint;
  weight: number;
  commitment: Uint8Array;
  /** Mempool counter at the time it was made. */
  updates: number;
  madeAtSeconds: number;
};

export class TemplateMaker {
  readonly #chain: Chain;
  readonly #mempool: Mempool;
  readonly #now: () => number;
  readonly #longPoll: { firstMs: number; laterMs: number };
  #kept: { template: Template; transactions: unknown[] } | null = null;
  #waiting = new Set<() => void>();

  constructor(
    tools: { chain: Chain; mempool: Mempool; nowSeconds: () => number },
    longPoll: { firstMs: number; laterMs: number },
  ) {
    this.#chain = tools.chain;
    this.#mempool = tools.mempool;
    this.#now = tools.nowSeconds;
    this.#longPoll = longPoll;
    this.#chain.onEvent((event) => {
      if (event.kind !== 'tip') return;
      for (const wake of this.#waiting) wake();
    });
  }

  /** Weight and count of the last template's transactions, for `getmininginfo`. */
  get last(): { weight: number; transactions: number } | null {
    const template = this.#kept?.template;
    return template ? { weight: template.weight, transactions: template.entries.length } : null;
  }

  /** Forgets the kept template, so that the next request sees the mempool as it is. */
  refresh(): void {
    this.#kept = null;
  }

  /** The best block on the tip that the mempool gives. */
  make(): Template {
    const parent = this.#chain.tip;
    const chosen = this.#choose(parent);
    return {
      parent,
      ...chosen,
      commitment: commitmentScript([dummyCoinbase, ...chosen.entries.map((one) => one.entry)]),
      updates: this.#mempool.updates,
      madeAtSeconds: this.#now(),
    };
  }

  /**
   * Waits as Core does for a long-poll id: until the tip is another one, or a minute has passed (then every ten seconds)
   * and the mempool has changed. Throws RpcError when `signal` aborts.
   */
  async waitForChange(longPollId: unknown, signal: AbortSignal): Promise<void> {
    let watched: string;
    let updates: number;
    if (typeof longPollId === 'string') {
      watched = longPollId.slice(0, 64).toLowerCase();
      if (!/^[0-9a-f]{64}$/.test(watched))
        throw new RpcError(
          rpcCode.invalidParameter,
          `longpollid must be of length 64 (not ${watched.length}, for '${watched}')`,
        );
      updates = Number.parseInt(longPollId.slice(64), 10) || 0;
    } else {
      watched = this.#chain.tip.id;
      updates = this.#kept?.template.updates ?? 0;
    }
    for (let delayMs = this.#longPoll.firstMs; this.#chain.tip.id === watched; ) {
      const woken = await this.#sleep(delayMs, signal);
      if (signal.aborted) throw new RpcError(rpcCode.notConnected, 'Shutting down');
      if (!woken && this.#mempool.updates !== updates) return;
      delayMs = this.#longPoll.laterMs;
    }
  }

  /** The answer to mode template, as JSON values ready to print. */
  answer(): Record<string, unknown> {
    const now = this.#now();
    const kept = this.#kept;
    if (
      kept === null ||
      kept.template.parent !== this.#chain.tip ||
      (kept.template.updates !== this.#mempool.updates &&
        now - kept.template.madeAtSeconds > freshSeconds)
    ) {
      const template = this.make();
      this.#kept = { template, transactions: transactionValues(template) };
    }
    const { template, transactions } = this.#kept as NonNullable<typeof kept>;
    const { parent } = template;
    const height = parent.height + 1;
    const bits = this.#chain.requiredBits(height);
    const facts = {
      height: parent.height,
      time: parent.header.time,
      medianTimePast: parent.medianTimePast,
    };
    return {
      capabilities: ['proposal'],
      version: blockVersion,
      rules: ['csv', '!segwit', 'taproot'],
      vbavailable: {},
      vbrequired: 0,
      previousblockhash: parent.id,
      transactions,
      coinbaseaux: {},
      coinbasevalue: integerJson(subsidySats(height) + template.feesSats),
      longpollid: `${parent.id}${template.updates}`,
      target: (decodeBits(bits) ?? 0n).toString(16).padStart(64, '0'),
      mintime: parent.medianTimePast + 1,
      mutable: ['time', 'transactions', 'prevblock'],
      noncerange: '00000000ffffffff',
      sigoplimit: blockSigopsCostMax,
      sizelimit: blockWeightMax,
      weightlimit: blockWeightMax,
      curtime: Math.max(now, earliestTime(facts)),
      bits: bits.toString(16).padStart(8, '0'),
      height,
      default_witness_commitment: encodeHex(template.commitment),
    };
  }

  #choose(parent: BlockNode): { entries: MempoolEntry[]; feesSats: bigint; weight: number } {
    const scored: { entry: MempoolEntry; rate: number }[] = [];
    for (const entry of this.#mempool.entries.values()) {
      let fee = entry.feeSats;
      let { vsize } = entry;
      if (entry.parents.size > 0) {
        fee = 0n;
        vsize = 0;
        for (const each of this.#mempool.ancestors(entry)) {
          fee += each.feeSats;
          vsize += each.vsize;
        }
      }
      scored.push({ entry, rate: Number(fee) / vsize });
    }
    scored.sort((left, right) => right.rate - left.rate);
    const chosen = new Set<MempoolEntry>();
    let feesSats = 0n;
    let weight = 0;
    let sigops = reservedSigopsCost;
    let failures = 0;
    for (const { entry } of scored) {
      if (chosen.has(entry)) continue;
      const together = [...this.#mempool.ancestors(entry)].filter((one) => !chosen.has(one));
      let packageWeight = 0;
      let packageSigops = 0;
      for (const one of together) {
        packageWeight += one.entry.weight;
        packageSigops += one.sigopsCost;
      }
      const fits =
        weight + packageWeight < templateWeightMax &&
        sigops + packageSigops < blockSigopsCostMax &&
        together.every((one) => isFinal(one.entry.tx, parent.height + 1, parent.medianTimePast));
      if (!fits) {
        failures += 1;
        // As Core: once nearly full, do not go through the whole mempool for the last crumbs.
        if (failures > failuresMax && weight > templateWeightMax - 4000) break;
        continue;
      }
      failures = 0;
      // Ancestors first: fewer ancestors always means earlier.
      together.sort(
        (left, right) => this.#mempool.ancestors(left).size - this.#mempool.ancestors(right).size,
      );
      for (const one of together) {
        chosen.add(one);
        feesSats += one.feeSats;
      }
      weight += packageWeight;
      sigops += packageSigops;
    }
    return { entries: [...chosen], feesSats, weight };
  }

  /** True when woken by a new tip, false when the time ran out or the signal aborted. */
  #sleep(delayMs: number, signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return Promise.resolve(false);
    return new Promise((resolve) => {
      const finish = (woken: boolean): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', giveUp);
        resolve(woken);
      };
      const wake = (): void => finish(true);
      const giveUp = (): void => finish(false);
      const timer = setTimeout(giveUp, delayMs);
      this.#waiting.add(wake);
      signal.addEventListener('abort', giveUp);
    });
  }
}

/** Stands where the coinbase will: its own hash is zero in the witness tree whatever it is. */
const dummyCoinbase: ChainTx = completeTx({
  version: 1,
  inputs: [],
  outputs: [],
  locktime: 0,
});

/** The transactions as JSON values, made once per template: for full blocks their hex is megabytes. */
function transactionValues(template: Template): unknown[] {
  const positions = new Map(template.entries.map((one, at) => [one, at + 1]));
  return template.entries.map((one) => {
    one.hex ??= encodeHex(one.entry.raw);
    const depends: number[] = [];
    for (const parent of one.parents) {
      const at = positions.get(parent);
      if (at !== undefined) depends.push(at);
    }
    return {
      data: one.hex,
      txid: one.entry.id,
      hash: encodeHexReversed(one.entry.wtxid),
      depends,
      fee: integerJson(one.feeSats),
      sigops: one.sigopsCost,
      weight: one.entry.weight,
    };
  });
}
