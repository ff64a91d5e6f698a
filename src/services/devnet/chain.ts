/**
 * The chain of blocks: index, coins, choice of the chain with most work, reorganisations, and the verdict on a submitted
 * block, in Core's order (`AcceptBlock`, `ConnectBlock`, `ActivateBestChain`) and with Core's words. One synchronous
 * class without clock or socket: time comes in with each call, consequences go out through `onEvent`.
 *
 * Scripts are checked as far as `script.ts` can; headers obey regtest's rules, except that `requiredBits` may ask for a
 * harder fixed target above a height.
 */

import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Header } from '../../core/bitcoin/header.ts';
import { hashHeader } from '../../core/bitcoin/header.ts';
import { decodeBits, workOfTarget } from '../../core/bitcoin/target.ts';
import { hasWitness } from '../../core/bitcoin/tx.ts';
import {
  type ChainBlock,
  type ChainTx,
  completeBlock,
  completeTx,
  outpointKey,
  readBlock,
} from './blocks.ts';
import type { BlockStore, ChainDecision } from './blockstore.ts';
import {
  blockSigopsCostMax,
  checkBlock,
  checkBlockInContext,
  checkHeaderInContext,
  coinbaseMaturity,
  commitmentIndex,
  countLegacySigops,
  easiestBits,
  isCoinbase,
  isMoney,
  meetsProofOfWork,
  sequenceLocksPassed,
  subsidySats,
  witnessScale,
} from './rules.ts';
import { checkSpend, countWitnessSigops, kindOfScript } from './script.ts';

export type Coin = { valueSats: bigint; script: Uint8Array; height: number; coinbase: boolean };

/** A block in the index. Mutable: its state is what the chain decided about it so far. */
export type BlockNode = {
  id: string;
  hash: Uint8Array;
  header: Header;
  previous: BlockNode | null;
  children: BlockNode[];
  height: number;
  chainWork: bigint;
  medianTimePast: number;
  /** Order in which it and all before it were here; lower wins among equal work. `preciousblock` hands out negative ones. */
  order: number;
  /** Handle of the stored block, or -1 while only the header is known. */
  position: number;
  transactionCount: number;
  sizeBytes: number;
  /** Data of this block and of all before it is here. */
  complete: boolean;
  /** It has been connected once: scripts and coins were found good. */
  connectedOnce: boolean;
  /** Found invalid (or declared so), itself or by a block before it. */
  failed: boolean;
  failedItself: boolean;
  /** Coins it spent, in order; what a disconnect gives back. Null while it is not in the chain. */
  spent: Coin[] | null;
};

export type ChainEvent =
  | { kind: 'connected'; node: BlockNode; block: ChainBlock }
  | { kind: 'disconnected'; node: BlockNode; block: ChainBlock }
  /** The tip moved; `initiated` tells a move by blocks from one by `invalidateblock`, which Core's ZMQ does not report. */
  | { kind: 'tip'; node: BlockNode; byInvalidation: boolean };

/** A coin view for one block or one mempool: what is not overridden comes from below. */
export type CoinView = (key: string) => Coin | null;

const recentBlocksMax = 4;
const goodScriptsMax = 100_000;

export class Chain {
  readonly index = new Map<string, BlockNode>();
  readonly active: BlockNode[] = [];
  readonly #coins = new Map<string, Coin>();
  readonly #store: BlockStore;
  readonly #requiredBits: (height: number) => number;
  #candidates = new Set<BlockNode>();
  #listeners: ((event: ChainEvent) => void)[] = [];
  #nextOrder = 1;
  #nextPrecious = -1;
  #frozen = false;
  #replaying = false;
  #bestHeader: BlockNode;
  /** The last blocks that came in, decoded: each is asked for several times at once, and full ones take long to decode. */
  readonly #recentBlocks = new Map<string, ChainBlock>();
  /** Transactions whose scripts are known to be good, by wtxid; the oldest go first. */
  #goodScripts = new Set<string>();

  constructor(store: BlockStore) {
    this.#store = store;
    const { bits, easyBlocks } = store.parameters;
    this.#requiredBits = (height) => (height <= easyBlocks ? easiestBits : bits);
    const genesis = genesisBlock();
    const node = this.#addNode(genesis.header, null);
    node.position = -2;
    node.transactionCount = 1;
    node.sizeBytes = genesis.raw.length;
    node.complete = true;
    node.connectedOnce = true;
    node.spent = [];
    // As in Core the genesis coinbase is no coin: it can never be spent.
    this.active.push(node);
    this.#bestHeader = node;
    this.#candidates.add(node);
    this.#replaying = true;
    store.replay(
      (raw, position) => this.#replayBlock(raw, position),
      (decision) => this.#replayDecision(decision),
    );
    this.#replaying = false;
  }

  get tip(): BlockNode {
    return this.active[this.active.length - 1];
  }

  get bestHeader(): BlockNode {
    return this.#bestHeader;
  }

  get coinCount(): number {
    return this.#coins.size;
  }

  /** Compact bits the block at `height` must carry. */
  requiredBits(height: number): number {
    return this.#requiredBits(height);
  }

  /** Calls `listener` for every event, in the order of subscription, until the returned function is called. */
  onEvent(listener: (event: ChainEvent) => void): () => void {
    this.#listeners.push(listener);
    return () => {
      this.#listeners = this.#listeners.filter((one) => one !== listener);
    };
  }

  coin(key: string): Coin | null {
    return this.#coins.get(key) ?? null;
  }

  /** All coins of the tip, for a wallet that looks for its own. */
  coins(): IterableIterator<[string, Coin]> {
    return this.#coins.entries();
  }

  inActive(node: BlockNode): boolean {
    return this.active[node.height] === node;
  }

  /** Core's `confirmations`: depth in the chain of the tip, -1 outside it. */
  confirmations(node: BlockNode): number {
    return this.inActive(node) ? this.tip.height - node.height + 1 : -1;
  }

  /** The block of a node whose data is here; null while only its header is. */
  block(node: BlockNode): ChainBlock | null {
    if (node.position === -1) return null;
    if (node.position === -2) return genesisBlock();
    const recent = this.#recentBlocks.get(node.id);
    if (recent) return recent;
    const block = readBlock(this.#store.readBlock(node.position));
    if (block === null) throw new Error(`stored block ${node.id} does not decode`);
    return block;
  }

  /** While frozen, blocks are taken and kept but the tip stays: a node that hangs behind. Thawing catches up. */
  freeze(frozen: boolean): void {
    this.#frozen = frozen;
    if (!frozen) this.#activate();
  }

  /** `submitblock`: null when the block is (or became part of) the best chain, else Core's BIP22 answer. */
  submit(block: ChainBlock, nowSeconds: number): string | null {
    const known = this.index.get(block.id);
    if (known?.connectedOnce && !known.failed) return 'duplicate';
    if (known?.failed) return 'duplicate-invalid';
    const parent = this.index.get(encodeHexReversed(block.header.previousHash));
    const submitted = parent ? withReservedValue(block) : block;

    if (!meetsProofOfWork(submitted.hash, submitted.header.bits)) return 'high-hash';
    const reason = checkBlock(submitted);
    if (reason !== null) return reason;
    const accepted = this.#acceptHeader(submitted.header, submitted.hash, nowSeconds);
    if (!accepted.ok) return accepted.reason;
    const { node } = accepted;
    if (node.position !== -1) return 'duplicate';
    const context = checkBlockInContext(submitted, parentOf(node));
    if (context !== null) {
      if (!context.mutated) this.#fail(node);
      return context.reason;
    }
    this.#keep(node, submitted, this.#store.appendBlock(submitted.raw));
    if (this.#recentBlocks.size >= recentBlocksMax)
      this.#recentBlocks.delete(this.#recentBlocks.keys().next().value as string);
    this.#recentBlocks.set(node.id, submitted);
    const verdicts = this.#activate();
    const verdict = verdicts.get(node);
    return verdict === undefined ? 'inconclusive' : verdict;
  }

  /** `submitheader`: null or the reject reason. */
  submitHeader(header: Header, nowSeconds: number): string | null {
    const accepted = this.#acceptHeader(header, hashHeader(header), nowSeconds);
    return accepted.ok ? null : accepted.reason;
  }

  /** `getblocktemplate` with mode proposal: null when the block would be valid on the tip, its proof of work aside. */
  propose(block: ChainBlock, nowSeconds: number): string | null {
    const known = this.index.get(block.id);
    if (known) {
      if (known.connectedOnce && !known.failed) return 'duplicate';
      return known.failed ? 'duplicate-invalid' : 'duplicate-inconclusive';
    }
    if (encodeHexReversed(block.header.previousHash) !== this.tip.id)
      return 'inconclusive-not-best-prevblk';
    const parent = parentFacts(this.tip);
    const bits = this.#requiredBits(parent.height + 1);
    return (
      checkHeaderInContext(block.header, parent, bits, nowSeconds) ??
      checkBlock(block) ??
      checkBlockInContext(block, parent)?.reason ??
      this.#checkCoins(block, parent.height + 1, parent.medianTimePast).reason
    );
  }

  /** `invalidateblock`. The genesis block cannot be invalidated: false. */
  invalidate(node: BlockNode): boolean {
    if (node.previous === null) return false;
    if (!this.#replaying) this.#store.appendDecision({ verb: 'invalidate', id: node.id });
    const moved = this.inActive(node);
    while (this.inActive(node)) this.#disconnectTip();
    this.#fail(node);
    this.#refillCandidates();
    if (moved) this.#emit({ kind: 'tip', node: this.tip, byInvalidation: true });
    this.#activate();
    return true;
  }

  /** `reconsiderblock`: the block, all before it and all after it are candidates again. */
  reconsider(node: BlockNode): void {
    if (!this.#replaying) this.#store.appendDecision({ verb: 'reconsider', id: node.id });
    const clear = (one: BlockNode): void => {
      one.failed = false;
      one.failedItself = false;
    };
    for (let at: BlockNode | null = node; at !== null; at = at.previous) clear(at);
    walk(node, clear);
    this.#findBestHeader();
    this.#refillCandidates();
    this.#activate();
  }

  /** `preciousblock`: wins against others of equal work. */
  precious(node: BlockNode): void {
    if (!this.#replaying) this.#store.appendDecision({ verb: 'precious', id: node.id });
    if (node.chainWork < this.tip.chainWork) return;
    node.order = this.#nextPrecious--;
    if (node.complete && !node.failed) this.#candidates.add(node);
    this.#activate();
  }

  /** The ends of all branches, active one first. */
  tips(): BlockNode[] {
    const tips = [...this.index.values()].filter(
      (node) => node === this.tip || (node.children.length === 0 && !this.inActive(node)),
    );
    return tips.sort((left, right) => right.height - left.height);
  }

  /** The fork point of a node with the active chain. */
  forkOf(node: BlockNode): BlockNode {
    let at = node;
    while (!this.inActive(at)) at = parentNode(at);
    return at;
  }

  /** Remembers that a transaction's scripts were checked, so that a block with it need not check them again. */
  rememberGoodScripts(wtxidHex: string): void {
    if (this.#goodScripts.size >= goodScriptsMax)
      this.#goodScripts.delete(this.#goodScripts.values().next().value as string);
    this.#goodScripts.add(wtxidHex);
  }

  /**
   * `CheckTxInputs`: spendable coins, maturity and amounts for a block of `height`. The fee, or the reject reason.
   */
  checkInputs(
    entry: ChainTx,
    view: CoinView,
    height: number,
  ): { ok: true; feeSats: bigint; coins: Coin[] } | { ok: false; reason: string; debug: string } {
    const coins: Coin[] = [];
    for (const key of entry.spends) {
      const coin = view(key);
      if (coin === null)
        return {
          ok: false,
          reason: 'bad-txns-inputs-missingorspent',
          debug: 'CheckTxInputs: inputs missing/spent',
        };
      coins.push(coin);
    }
    let inSats = 0n;
    for (const coin of coins) {
      if (coin.coinbase && height - coin.height < coinbaseMaturity)
        return {
          ok: false,
          reason: 'bad-txns-premature-spend-of-coinbase',
          debug: `tried to spend coinbase at depth ${height - coin.height}`,
        };
      inSats += coin.valueSats;
      if (!isMoney(coin.valueSats) || !isMoney(inSats))
        return { ok: false, reason: 'bad-txns-inputvalues-outofrange', debug: '' };
    }
    const outSats = entry.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
    if (inSats < outSats)
      return {
        ok: false,
        reason: 'bad-txns-in-belowout',
        debug: `value in (${moneyText(inSats)}) < value out (${moneyText(outSats)})`,
      };
    return { ok: true, feeSats: inSats - outSats, coins };
  }

  /** Checks every input's script; null or Core's script error. Good ones are remembered. */
  checkScripts(entry: ChainTx, coins: readonly Coin[]): string | null {
    const key = encodeHexReversed(entry.wtxid);
    if (this.#goodScripts.has(key)) return null;
    for (let at = 0; at < coins.length; at += 1) {
      const error = checkSpend(entry.tx, at, coins);
      if (error !== null) return error;
    }
    this.rememberGoodScripts(key);
    return null;
  }

  /** `GetTransactionSigOpCost`. */
  sigopsCost(entry: ChainTx, coins: readonly Coin[]): number {
    let cost = countLegacySigops(entry.tx) * witnessScale;
    for (let at = 0; at < coins.length; at += 1)
      cost += countWitnessSigops(entry.tx.inputs[at].script, coins[at].script);
    return cost;
  }

  /** BIP68 for a transaction that goes into the block at `height` after `medianTimePast`. */
  locksPassed(
    entry: ChainTx,
    coins: readonly Coin[],
    height: number,
    medianTimePast: number,
  ): boolean {
    return sequenceLocksPassed(
      entry.tx,
      coins.map((coin) => coin.height),
      height,
      medianTimePast,
      (at) => (this.active[at] ?? this.tip).medianTimePast,
    );
  }

  #acceptHeader(
    header: Header,
    hash: Uint8Array,
    nowSeconds: number,
  ): { ok: true; node: BlockNode } | { ok: false; reason: string } {
    const known = this.index.get(encodeHexReversed(hash));
    if (known) return known.failed ? { ok: false, reason: 'duplicate' } : { ok: true, node: known };
    if (!meetsProofOfWork(hash, header.bits)) return { ok: false, reason: 'high-hash' };
    const parent = this.index.get(encodeHexReversed(header.previousHash));
    if (!parent) return { ok: false, reason: 'prev-blk-not-found' };
    if (parent.failed) return { ok: false, reason: 'bad-prevblk' };
    const bits = this.#requiredBits(parent.height + 1);
    const reason = checkHeaderInContext(header, parentFacts(parent), bits, nowSeconds);
    if (reason !== null) return { ok: false, reason };
    return { ok: true, node: this.#addNode(header, parent) };
  }

  #addNode(header: Header, previous: BlockNode | null): BlockNode {
    const hash = hashHeader(header);
    const target = decodeBits(header.bits);
    const node: BlockNode = {
      id: encodeHexReversed(hash),
      hash,
      header,
      previous,
      children: [],
      height: previous === null ? 0 : previous.height + 1,
      chainWork: (previous?.chainWork ?? 0n) + (target === null ? 0n : workOfTarget(target)),
      medianTimePast: 0,
      order: Number.MAX_SAFE_INTEGER,
      position: -1,
      transactionCount: 0,
      sizeBytes: 0,
      complete: false,
      connectedOnce: false,
      failed: false,
      failedItself: false,
      spent: null,
    };
    node.medianTimePast = medianTimePast(node);
    this.index.set(node.id, node);
    previous?.children.push(node);
    if (this.#bestHeader === undefined || node.chainWork > this.#bestHeader.chainWork)
      this.#bestHeader = node;
    return node;
  }

  #keep(node: BlockNode, block: ChainBlock, position: number): void {
    node.position = position;
    node.transactionCount = block.transactions.length;
    node.sizeBytes = block.raw.length;
    const parent = parentNode(node);
    if (!parent.complete) return;
    // Blocks after this one may have been waiting for it.
    const waiting = [node];
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      next.complete = true;
      next.order = this.#nextOrder++;
      if (!next.failed && next.chainWork >= this.tip.chainWork) this.#candidates.add(next);
      for (const child of next.children) if (child.position !== -1) waiting.push(child);
    }
  }

  /** Moves to the best candidate. Returns what was decided about each block that was tried: null or a reject reason. */
  #activate(): Map<BlockNode, string | null> {
    const verdicts = new Map<BlockNode, string | null>();
    if (this.#frozen) return verdicts;
    const before = this.tip;
    for (;;) {
      const best = this.#bestCandidate();
      if (best === null || best === this.tip) break;
      const fork = this.forkOf(best);
      while (this.tip !== fork) this.#disconnectTip();
      const path: BlockNode[] = [];
      for (let at = best; at !== fork; at = parentNode(at)) path.push(at);
      let refused = false;
      for (const node of path.reverse()) {
        const reason = this.#connect(node);
        verdicts.set(node, reason);
        if (reason === null) continue;
        this.#fail(node);
        this.#refillCandidates();
        refused = true;
        break;
      }
      if (!refused) break;
    }
    if (this.tip !== before) {
      for (const node of this.#candidates)
        if (node.chainWork < this.tip.chainWork) this.#candidates.delete(node);
      this.#emit({ kind: 'tip', node: this.tip, byInvalidation: false });
    }
    return verdicts;
  }

  #bestCandidate(): BlockNode | null {
    let best: BlockNode | null = null;
    for (const node of this.#candidates) {
      if (node.failed) continue;
      if (
        best === null ||
        node.chainWork > best.chainWork ||
        (node.chainWork === best.chainWork && node.order < best.order)
      )
        best = node;
    }
    return best;
  }

  #refillCandidates(): void {
    this.#candidates = new Set([this.tip]);
    for (const node of this.index.values())
      if (node.complete && !node.failed && node.chainWork >= this.tip.chainWork)
        this.#candidates.add(node);
  }

  #connect(node: BlockNode): string | null {
    const block = this.block(node);
    if (block === null) throw new Error(`block ${node.id} has no data`);
    const parent = parentNode(node);
    const check = this.#checkCoins(block, node.height, parent.medianTimePast);
    if (check.reason !== null) return check.reason;
    for (const key of check.spentKeys) this.#coins.delete(key);
    for (const [key, coin] of check.created) this.#coins.set(key, coin);
    node.spent = check.spent;
    node.connectedOnce = true;
    this.active.push(node);
    this.#emit({ kind: 'connected', node, block });
    return null;
  }

  #disconnectTip(): void {
    const node = this.tip;
    const block = this.block(node);
    if (block === null || node.spent === null) throw new Error(`block ${node.id} has no data`);
    const spent = node.spent.slice();
    for (const entry of block.transactions.toReversed()) {
      for (let at = 0; at < entry.tx.outputs.length; at += 1)
        this.#coins.delete(outpointKey(entry.id, at));
      if (isCoinbase(entry.tx)) continue;
      for (const key of entry.spends.toReversed()) this.#coins.set(key, spent.pop() as Coin);
    }
    node.spent = null;
    this.active.pop();
    this.#emit({ kind: 'disconnected', node, block });
  }

  /** `ConnectBlock` without effect: the verdict, and what connecting would change. */
  #checkCoins(
    block: ChainBlock,
    height: number,
    medianTime: number,
  ): { reason: string | null; spent: Coin[]; spentKeys: Set<string>; created: Map<string, Coin> } {
    const created = new Map<string, Coin>();
    const spentKeys = new Set<string>();
    const spent: Coin[] = [];
    const refuse = (reason: string) => ({ reason, spent, spentKeys, created });
    const view: CoinView = (key) =>
      spentKeys.has(key) ? null : (created.get(key) ?? this.#coins.get(key) ?? null);
    for (const entry of block.transactions)
      for (let at = 0; at < entry.tx.outputs.length; at += 1)
        if (this.#coins.has(outpointKey(entry.id, at))) return refuse('bad-txns-BIP30');
    let feesSats = 0n;
    let sigops = 0;
    let scriptsGood = true;
    for (const entry of block.transactions) {
      if (isCoinbase(entry.tx)) sigops += countLegacySigops(entry.tx) * witnessScale;
      else {
        const inputs = this.checkInputs(entry, view, height);
        if (!inputs.ok) return refuse(inputs.reason);
        feesSats += inputs.feeSats;
        if (!isMoney(feesSats)) return refuse('bad-txns-accumulated-fee-outofrange');
        if (!this.locksPassed(entry, inputs.coins, height, medianTime))
          return refuse('bad-txns-nonfinal');
        sigops += this.sigopsCost(entry, inputs.coins);
        // A replayed block was checked before it was stored; its checksum vouches for it.
        if (!this.#replaying && scriptsGood)
          scriptsGood = this.checkScripts(entry, inputs.coins) === null;
        for (let at = 0; at < entry.spends.length; at += 1) {
          const key = entry.spends[at];
          spent.push(inputs.coins[at]);
          spentKeys.add(key);
          created.delete(key);
        }
      }
      if (sigops > blockSigopsCostMax) return refuse('bad-blk-sigops');
      const coinbase = isCoinbase(entry.tx);
      entry.tx.outputs.forEach((output, at) => {
        if (isUnspendable(output.script)) return;
        const key = outpointKey(entry.id, at);
        created.set(key, { valueSats: output.valueSats, script: output.script, height, coinbase });
      });
    }
    const paid = block.transactions[0].tx.outputs.reduce((sum, out) => sum + out.valueSats, 0n);
    if (paid > feesSats + subsidySats(height)) return refuse('bad-cb-amount');
    // Core checks scripts on other threads and asks for their verdict last.
    if (!scriptsGood) return refuse('block-validation-failed');
    return { reason: null, spent, spentKeys, created };
  }

  #fail(node: BlockNode): void {
    node.failedItself = true;
    walk(node, (one) => {
      one.failed = true;
      this.#candidates.delete(one);
    });
    if (this.#bestHeader.failed) this.#findBestHeader();
  }

  /** A header nobody may build on is no header to wait for: `headers` must not stay ahead of `blocks` because of it. */
  #findBestHeader(): void {
    this.#bestHeader = this.tip;
    for (const node of this.index.values())
      if (!node.failed && node.chainWork > this.#bestHeader.chainWork) this.#bestHeader = node;
  }

  #replayBlock(raw: Uint8Array, position: number): void {
    const block = readBlock(raw);
    const parent = block && this.index.get(encodeHexReversed(block.header.previousHash));
    if (!block || !parent) throw new Error('the block file holds a block without its parent');
    const node = this.index.get(block.id) ?? this.#addNode(block.header, parent);
    if (node.position !== -1) return;
    if (parent.failed) node.failed = true;
    this.#keep(node, block, position);
    this.#activate();
  }

  #replayDecision(decision: ChainDecision): void {
    const node = this.index.get(decision.id);
    if (!node) return;
    if (decision.verb === 'invalidate') this.invalidate(node);
    else if (decision.verb === 'reconsider') this.reconsider(node);
    else this.precious(node);
  }

  #emit(event: ChainEvent): void {
    if (this.#replaying) return;
    for (const listener of this.#listeners) listener(event);
  }
}

/** The regtest genesis block, the same as Core's. */
export function genesisBlock(): ChainBlock {
  const message = new TextEncoder().encode(
    'The Times 03/Jan/2009 Chancellor on brink of second bailout for banks',
  );
  const key =
    '04678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5f';
  const coinbase = completeTx({
    version: 1,
    inputs: [
      {
        previousTxid: new Uint8Array(32),
        previousIndex: 0xffff_ffff,
        script: Uint8Array.of(0x04, 0xff, 0xff, 0x00, 0x1d, 0x01, 0x04, message.length, ...message),
        sequence: 0xffff_ffff,
        witness: [],
      },
    ],
    outputs: [
      {
        valueSats: 5_000_000_000n,
        script: Uint8Array.of(0x41, ...Buffer.from(key, 'hex'), 0xac),
      },
    ],
    locktime: 0,
  });
  const header: Header = {
    version: 1,
    previousHash: new Uint8Array(32),
    merkleRoot: coinbase.txid,
    time: 1296688602,
    bits: easiestBits,
    nonce: 2,
  };
  return completeBlock(header, [coinbase]);
}

/** Outputs Core never adds to its coins: OP_RETURN and scripts longer than 10,000 bytes. */
export function isUnspendable(script: Uint8Array): boolean {
  return kindOfScript(script) === 'op-return' || script.length > 10_000;
}

/** `UpdateUncommittedBlockStructures`: a block that commits to witnesses may leave out the reserved value of zeros. */
function withReservedValue(block: ChainBlock): ChainBlock {
  const first = block.transactions[0];
  if (!first || commitmentIndex(first.tx) < 0 || hasWitness(first.tx)) return block;
  const inputs = first.tx.inputs.map((input, at) =>
    at === 0 ? { ...input, witness: [new Uint8Array(32)] } : input,
  );
  const coinbase = completeTx({ ...first.tx, inputs });
  return completeBlock(block.header, [coinbase, ...block.transactions.slice(1)]);
}

function medianTimePast(node: BlockNode): number {
  const times: number[] = [];
  for (let at: BlockNode | null = node; at !== null && times.length < 11; at = at.previous)
    times.push(at.header.time);
  times.sort((left, right) => left - right);
  return times[times.length >> 1];
}

function parentNode(node: BlockNode): BlockNode {
  if (node.previous === null) throw new Error('the genesis block has no parent');
  return node.previous;
}

function parentFacts(node: BlockNode): { height: number; time: number; medianTimePast: number } {
  return { height: node.height, time: node.header.time, medianTimePast: node.medianTimePast };
}

function parentOf(node: BlockNode): { height: number; time: number; medianTimePast: number } {
  return parentFacts(parentNode(node));
}

/** Calls `visit` for a node and everything built on it. */
function walk(node: BlockNode, visit: (node: BlockNode) => void): void {
  const waiting = [node];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    visit(next);
    waiting.push(...next.children);
  }
}

/** Core's `FormatMoney`: at least two decimals, no needless zeros. */
function moneyText(sats: bigint): string {
  const whole = sats / 100_000_000n;
  const fraction = (sats % 100_000_000n)
    .toString()
    .padStart(8, '0')
    .replace(/0{1,6}$/, '');
  return `${whole}.${fraction}`;
}
