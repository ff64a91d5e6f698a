/**
 * The development chain's own money: it receives the first blocks, pays whoever asks, keeps a trickle of real signed
 * transactions in the mempool, and fills the mempool to any weight for tests of full blocks. It holds twelve fixed keys
 * (three of each address type) and only the coins of the tip, so it does not grow with the chain.
 *
 * Filling uses outputs anyone can spend (`dropScript`), whose witnesses carry dead weight: valid for every node, free of
 * signatures, and therefore fast. They are not standard; they go into the mempool past its policy.
 */
import { randomBytes } from 'node:crypto';
import { concatBytes, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { sha256 } from '../../core/bitcoin/hash.ts';
import type { Tx, TxOutput } from '../../core/bitcoin/tx.ts';
import { type ChainTx, completeTx, outpointKey, scriptKey } from './blocks.ts';
import type { Chain, ChainEvent } from './chain.ts';
import { addressTypes, deriveKey, inputWeights, signInput, type WalletKey } from './keys.ts';
import { feeAt, type Mempool } from './mempool.ts';
import { coinbaseMaturity } from './rules.ts';
import { dropScript } from './script.ts';

type FaucetCoin = {
  key: string;
  txid: Uint8Array;
  index: number;
  valueSats: bigint;
  script: Uint8Array;
  /** 0 while unconfirmed. */
  height: number;
  coinbase: boolean;
};

const keysPerType = 3;
/** Above this many coins a transaction gathers instead of splitting. */
const coinsWanted = 400;
const gatherInputs = 8;
const smallestCoinSats = 100_000n;
const paddingItemBytes = 520;
const paddingItemsMax = 200;

export class Faucet {
  readonly #chain: Chain;
  readonly #mempool: Mempool;
  readonly #keys: WalletKey[] = [];
  readonly #byScript = new Map<string, WalletKey>();
  readonly #coins = new Map<string, FaucetCoin>();
  #randomState: number;
  /** The coins are not those of the tip: a block went away. */
  #stale = false;

  constructor(tools: { chain: Chain; mempool: Mempool }, seed: Uint8Array) {
    this.#chain = tools.chain;
    this.#mempool = tools.mempool;
    this.#randomState = new DataView(sha256(seed).buffer).getUint32(0) | 1;
    for (let index = 0; index < keysPerType; index += 1)
      for (const type of addressTypes) {
        const key = deriveKey(seed, { type, change: false, index });
        this.#keys.push(key);
        this.#byScript.set(scriptKey(key.script), key);
      }
    this.#rescan();
    this.#chain.onEvent((event) => this.#follow(event));
  }

  /** Output script for blocks the chain mines for itself (P2WPKH). */
  get script(): Uint8Array {
    return this.#keys[addressTypes.indexOf('bech32')].script;
  }

  /**
   * Pays `outputs` from mature coins at a fee rate, into the mempool. Null when the faucet has too little, which is so
   * until 101 blocks exist.
   */
  pay(outputs: readonly TxOutput[], satsPerKvb: bigint): ChainTx | null {
    const wantedSats = outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    const coins: FaucetCoin[] = [];
    let inSats = 0n;
    const sorted = this.#spendable().sort((left, right) =>
      left.valueSats > right.valueSats ? -1 : 1,
    );
    for (const coin of sorted) {
      coins.push(coin);
      inSats += coin.valueSats;
      const feeSats = feeAt(satsPerKvb, vsizeOf(coins, outputs.length + 1));
      if (inSats >= wantedSats + feeSats + smallestCoinSats) {
        const change = { valueSats: inSats - wantedSats - feeSats, script: this.script };
        return this.#send(coins, [...outputs, change]);
      }
    }
    return null;
  }

  /** Puts up to `count` signed transactions of ordinary shapes and fee rates into the mempool; the number made. */
  addTransactions(count: number): number {
    let made = 0;
    for (let attempt = 0; attempt < count; attempt += 1) {
      const spendable = this.#spendable();
      if (spendable.length === 0) break;
      // Confirmed coins first, so that chains of unconfirmed ones stay short.
      spendable.sort((left, right) => Number(left.height === 0) - Number(right.height === 0));
      const gather = this.#coins.size > coinsWanted;
      const inputs = gather
        ? spendable.slice(0, gatherInputs)
        : [spendable[this.#random(Math.max(1, Math.min(spendable.length, 20)))]];
      const inSats = inputs.reduce((sum, coin) => sum + coin.valueSats, 0n);
      const outputCount = gather ? 1 : 2 + this.#random(2);
      const satsPerKvb = BigInt(1000 + this.#random(49_000));
      const feeSats = feeAt(satsPerKvb, vsizeOf(inputs, outputCount));
      if (inSats < feeSats + smallestCoinSats * BigInt(outputCount)) continue;
      const outputs: TxOutput[] = [];
      let leftSats = inSats - feeSats;
      for (let at = 0; at < outputCount; at += 1) {
        const last = at === outputCount - 1;
        const share = last ? leftSats : (leftSats * BigInt(20 + this.#random(60))) / 100n;
        outputs.push({
          valueSats: share,
          script: this.#keys[this.#random(this.#keys.length)].script,
        });
        leftSats -= share;
      }
      if (outputs.every((output) => output.valueSats > 1000n) && this.#send(inputs, outputs))
        made += 1;
    }
    return made;
  }

  /**
   * Adds transactions of `weight` units in all to the mempool (never more, at most about 700 less), `transactions` of
   * them where that many fit. Returns what was really added. Needs one mature coin.
   */
  fillMempool(weight: number, transactions?: number): { weight: number; transactions: number } {
    const perTxMax = spendWeight(paddingItemsMax, paddingItemsMax * paddingItemBytes);
    const outputWeight = (8 + 1 + 34) * 4;
    const count = Math.max(
      1,
      transactions === undefined
        ? Math.ceil(weight / perTxMax)
        : Math.min(transactions, Math.floor(weight / (spendWeight(0, 0) + outputWeight)) - 2),
    );
    const source = this.#spendable()
      .filter((coin) => coin.height > 0)
      .sort((left, right) => (left.valueSats > right.valueSats ? -1 : 1))[0];
    if (source === undefined) return { weight: 0, transactions: 0 };
    const plans: number[] = [];
    // First a draft to learn what the funding transaction weighs, then the rest is shared out.
    const fundingWeight = (10 + 2 + 43) * 4 + 2 + inputWeights.legacy + count * outputWeight;
    let left = weight - fundingWeight;
    for (let at = 0; at < count; at += 1) {
      const padding = paddingFor(Math.floor(left / (count - at)));
      plans.push(padding);
      left -= spendWeight(itemsOf(padding), padding);
    }
    const eachSats = 200_000n;
    const feeOf = (wu: number): bigint => BigInt(Math.ceil(wu / 4)) * 2n;
    const changeSats = source.valueSats - eachSats * BigInt(count) - feeOf(fundingWeight);
    if (changeSats < smallestCoinSats) return { weight: 0, transactions: 0 };
    const funding = this.#send(
      [source],
      [
        ...plans.map((padding) => ({
          valueSats: eachSats,
          script: concatBytes(Uint8Array.of(0x00, 0x20), sha256(dropScript(itemsOf(padding)))),
        })),
        { valueSats: changeSats, script: this.script },
      ],
      false,
    );
    if (funding === null) return { weight: 0, transactions: 0 };
    let added = funding.weight;
    let made = 1;
    plans.forEach((padding, index) => {
      const items = itemsOf(padding);
      const data = randomBytes(padding);
      const witness: Uint8Array[] = [];
      for (let at = 0; at < items; at += 1)
        witness.push(data.subarray(at * paddingItemBytes, (at + 1) * paddingItemBytes));
      witness.push(dropScript(items));
      const feeSats = feeOf(spendWeight(items, padding));
      const entry = completeTx({
        version: 2,
        inputs: [
          {
            previousTxid: funding.txid,
            previousIndex: index,
            script: new Uint8Array(0),
            sequence: 0xffff_fffd,
            witness,
          },
        ],
        outputs: [{ valueSats: eachSats - feeSats, script: this.script }],
        locktime: 0,
      });
      if (!this.#mempool.accept(entry, { policy: false }).ok) return;
      this.#note(entry, 0);
      added += entry.weight;
      made += 1;
    });
    return { weight: added, transactions: made };
  }

  #send(inputs: readonly FaucetCoin[], outputs: TxOutput[], policy = true): ChainTx | null {
    const unsigned: Tx = {
      version: 2,
      inputs: inputs.map((coin) => ({
        previousTxid: coin.txid,
        previousIndex: coin.index,
        script: new Uint8Array(0),
        sequence: 0xffff_fffd,
        witness: [],
      })),
      outputs,
      locktime: 0,
    };
    const signed: Tx = {
      ...unsigned,
      inputs: unsigned.inputs.map((input, at) => {
        const key = this.#byScript.get(scriptKey(inputs[at].script));
        if (!key) throw new Error('a faucet coin without its key');
        return { ...input, ...signInput(unsigned, at, inputs, key) };
      }),
    };
    const entry = completeTx(signed);
    // Signed above; checking it here as well would double the cost. Wallets' transactions are checked.
    this.#chain.rememberGoodScripts(encodeHexReversed(entry.wtxid));
    const verdict = this.#mempool.accept(entry, { policy });
    // Refused or not, these coins are not to be tried again before the next block.
    for (const coin of inputs) this.#coins.delete(coin.key);
    if (!verdict.ok) return null;
    this.#note(entry, 0);
    return entry;
  }

  #spendable(): FaucetCoin[] {
    const height = this.#chain.tip.height + 1;
    return [...this.#coins.values()].filter(
      (coin) =>
        coin.valueSats >= smallestCoinSats &&
        (!coin.coinbase || height - coin.height >= coinbaseMaturity) &&
        this.#mempool.spender(coin.key) === null,
    );
  }

  #note(entry: ChainTx, height: number): void {
    entry.tx.outputs.forEach((output, index) => {
      if (!this.#byScript.has(scriptKey(output.script))) return;
      const key = outpointKey(entry.id, index);
      const coinbase = entry.tx.inputs[0].previousIndex === 0xffff_ffff;
      this.#coins.set(key, { ...output, key, txid: entry.txid, index, height, coinbase });
    });
  }

  #follow(event: ChainEvent): void {
    if (event.kind === 'connected')
      for (const entry of event.block.transactions) {
        for (const key of entry.spends) this.#coins.delete(key);
        this.#note(entry, event.node.height);
      }
    // Reorganisations are rare; looking through all coins once is simpler than undoing.
    else if (event.kind === 'disconnected') this.#stale = true;
    else if (this.#stale) this.#rescan();
  }

  #rescan(): void {
    this.#stale = false;
    this.#coins.clear();
    for (const waiting of this.#mempool.entries.values()) this.#note(waiting.entry, 0);
    for (const [key, coin] of this.#chain.coins()) {
      if (!this.#byScript.has(scriptKey(coin.script))) continue;
      const split = key.lastIndexOf(':');
      const txid = Uint8Array.from(Buffer.from(key.slice(0, split), 'hex')).reverse();
      this.#coins.set(key, { ...coin, key, txid, index: Number(key.slice(split + 1)) });
    }
  }

  /** Xorshift: the shapes of transactions need variety, not secrecy, and the same for the same seed. */
  #random(below: number): number {
    let state = this.#randomState;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#randomState = state;
    return (state >>> 0) % below;
  }
}

function vsizeOf(inputs: readonly FaucetCoin[], outputs: number): number {
  return Math.ceil((inputs.length * inputWeights.legacy + (outputs * 43 + 12) * 4 + 2) / 4);
}

function itemsOf(padding: number): number {
  return Math.ceil(padding / paddingItemBytes);
}

/** Weight of a transaction with one drop-script input of `items` carrying `padding` bytes, and one P2WPKH output. */
function spendWeight(items: number, padding: number): number {
  const scriptBytes = (items >> 1) + (items & 1) + 1;
  const itemHeads =
    Math.floor(padding / paddingItemBytes) * 3 +
    (padding % paddingItemBytes > 252 ? 3 : padding % paddingItemBytes > 0 ? 1 : 0);
  return (10 + 41 + 31) * 4 + 2 + 1 + itemHeads + padding + 1 + scriptBytes;
}

/** The most padding that keeps such a transaction within `weight`. */
function paddingFor(weight: number): number {
  let low = 0;
  let high = paddingItemsMax * paddingItemBytes;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (spendWeight(itemsOf(middle), middle) <= weight) low = middle;
    else high = middle - 1;
  }
  return low;
}
