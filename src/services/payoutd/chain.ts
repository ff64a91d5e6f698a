/**
 * What the nodes say about the chain, as far as money depends on it: which node to believe in this cycle, where a block of ours stands,
 * and what our coinbase in it really paid.
 *
 * Of the nodes that answer, are on our network and synced, the one with the most work is believed. Refused: a node with another first
 * block, one in its initial download, an answer of another form. A block counts as in the chain only when the node's own header says so;
 * a node that does not know it is asked what it has at that height. Coinbase outputs come from the block on the chain, never from a
 * template; where the node has pruned the block's transactions, the stored coinbase counts if its hash is the block's first.
 */
import { decodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { NETWORKS, type Network } from '../../core/bitcoin/network.ts';
import { decodeTx, type TxOutput, txid } from '../../core/bitcoin/tx.ts';
import { decodeChainState, decodeHashDisplay, decodeHeaderPlace } from '../../core/node/answers.ts';
import type { NodeAddress, OpenRpc, Rpc, RpcAnswer } from '../../core/node/rpc.ts';
import type { Log } from '../../ports.ts';

/** The node believed in this cycle, and its best chain at that moment. */
export type ChainTip = {
  node: string;
  rpc: Rpc;
  hashDisplay: string;
  height: number;
};

/** Where a block stands in the best chain of a node. */
export type Place =
  | { kind: 'in-chain'; confirmations: number; height: number }
  /** Another block has its height, and `competitorDepth` confirmations; 0: the chain does not reach that height. */
  | { kind: 'beside'; competitorDepth: number }
  /** The node could not tell. */
  | { kind: 'unknown'; reason: string };

export type CoinbaseAnswer =
  | { kind: 'outputs'; outputs: TxOutput[] }
  /** Not from the chain but from the table `blocks`, because the node no longer has the transaction; its hash was checked. */
  | { kind: 'stored'; outputs: TxOutput[]; reason: string }
  | { kind: 'unknown'; reason: string };

export type NodeReport = { name: string; usable: boolean; detail: string; height: number | null };

export type ChainReader = {
  /** The tip of the node to believe now, or null when none can be. */
  readTip(): Promise<ChainTip | null>;
  /** How each node answered when it was last asked. */
  reports(): NodeReport[];
  stop(): void;
};

const TIMEOUT_MS = 5_000;
/** Headers ahead of blocks by more than this: the node is catching up. */
const HEADERS_AHEAD_MAX = 6;
const NOT_FOUND = -5;
const OUT_OF_RANGE = -8;

/** Opens a door to each node; nothing is asked before the first `readTip`. */
export function openChainReader(
  tools: { log: Log; openRpc: OpenRpc },
  options: { nodes: readonly NodeAddress[]; network: Network },
): ChainReader {
  const { log } = tools;
  const { network } = options;
  const nodes = options.nodes.map((address) => ({
    rpc: tools.openRpc(address, { timeoutMs: TIMEOUT_MS }),
    report: {
      name: address.name,
      usable: false,
      detail: 'not asked yet',
      height: null,
    } as NodeReport,
  }));

  async function look(
    rpc: Rpc,
  ): Promise<
    { ok: true; hashDisplay: string; height: number; work: bigint } | { ok: false; detail: string }
  > {
    const first = await rpc.call('getblockhash', [0]);
    if (first.kind !== 'result') return { ok: false, detail: describeFailure(first) };
    const genesis = decodeHashDisplay(first.result);
    if (genesis !== NETWORKS[network].genesisHashDisplay) {
      const detail = `its first block is ${genesis ?? 'unreadable'}, not that of ${network}`;
      return { ok: false, detail };
    }
    const answer = await rpc.call('getblockchaininfo', []);
    if (answer.kind !== 'result') return { ok: false, detail: describeFailure(answer) };
    const state = decodeChainState(answer.result);
    if (state === null) return { ok: false, detail: 'getblockchaininfo is unreadable' };
    // A regtest chain is old or empty as a rule, and calls itself in initial download then.
    if (network !== 'regtest') {
      if (state.initialBlockDownload) return { ok: false, detail: 'it is in its initial download' };
      const behind = state.headers - state.blocks;
      if (behind > HEADERS_AHEAD_MAX)
        return { ok: false, detail: `it is ${behind} blocks behind its headers` };
    }
    const work = state.chainWork ?? BigInt(state.blocks);
    return { ok: true, hashDisplay: state.bestHashDisplay, height: state.blocks, work };
  }

  return {
    async readTip() {
      const looks = await Promise.all(nodes.map(({ rpc }) => look(rpc)));
      let best: (ChainTip & { work: bigint }) | null = null;
      for (const [at, { rpc, report }] of nodes.entries()) {
        const seen = looks[at]!;
        const detail = seen.ok ? `block ${seen.height}` : seen.detail;
        if (report.usable && !seen.ok)
          log.warn('a node cannot be believed about blocks', { node: rpc.name, reason: detail });
        report.usable = seen.ok;
        report.detail = detail;
        report.height = seen.ok ? seen.height : null;
        if (seen.ok && (best === null || seen.work > best.work)) {
          const { hashDisplay, height, work } = seen;
          best = { node: rpc.name, rpc, hashDisplay, height, work };
        }
      }
      return best;
    },
    reports: () => nodes.map(({ report }) => ({ ...report })),
    stop() {
      for (const { rpc } of nodes) rpc.stop();
    },
  };
}

/**
 * Where the block stands. `height` is what our own record says; a node that knows the block corrects it.
 */
export async function locateBlock(tip: ChainTip, hash: Uint8Array, height: number): Promise<Place> {
  const hashDisplay = encodeHexReversed(hash);
  const answer = await tip.rpc.call('getblockheader', [hashDisplay, true]);
  if (answer.kind === 'result') {
    const place = decodeHeaderPlace(answer.result);
    if (place === null) return { kind: 'unknown', reason: 'getblockheader is unreadable' };
    if (place.confirmations >= 1)
      return { kind: 'in-chain', confirmations: place.confirmations, height: place.height };
    return { kind: 'beside', competitorDepth: depthOf(tip, place.height) };
  }
  if (answer.kind !== 'error' || answer.code !== NOT_FOUND)
    return { kind: 'unknown', reason: describeFailure(answer) };
  const there = await tip.rpc.call('getblockhash', [height]);
  if (there.kind === 'error' && there.code === OUT_OF_RANGE)
    return { kind: 'beside', competitorDepth: 0 };
  if (there.kind !== 'result') return { kind: 'unknown', reason: describeFailure(there) };
  const competitor = decodeHashDisplay(there.result);
  if (competitor === null || competitor === hashDisplay)
    return { kind: 'unknown', reason: 'getblockheader and getblockhash contradict each other' };
  return { kind: 'beside', competitorDepth: depthOf(tip, height) };
}

/** Confirmations of whatever block of the best chain has this height; 0 when there is none. */
function depthOf(tip: ChainTip, height: number): number {
  return Math.max(0, tip.height - height + 1);
}

/**
 * The outputs of the block's coinbase, all of them. `stored` is the coinbase that our own record of the find holds, without witness.
 */
export async function readCoinbase(
  rpc: Rpc,
  hash: Uint8Array,
  stored: Uint8Array | null,
): Promise<CoinbaseAnswer> {
  const hashDisplay = encodeHexReversed(hash);
  const answer = await rpc.call('getblock', [hashDisplay, 1]);
  if (answer.kind !== 'result')
    return { kind: 'unknown', reason: `getblock: ${describeFailure(answer)}` };
  const first = firstTransaction(answer.result, hashDisplay);
  if (first === null) return { kind: 'unknown', reason: 'getblock is unreadable' };
  const raw = await rpc.call('getrawtransaction', [first, false, hashDisplay]);
  if (raw.kind === 'result') {
    const outputs = outputsOf(typeof raw.result === 'string' ? decodeHex(raw.result) : null, first);
    if (outputs === null)
      return { kind: 'unknown', reason: 'getrawtransaction gave another transaction' };
    return { kind: 'outputs', outputs };
  }
  const reason = `getrawtransaction: ${describeFailure(raw)}`;
  // Only a refusal says that the node will not have it later either.
  if (raw.kind !== 'error') return { kind: 'unknown', reason };
  const outputs = outputsOf(stored, first);
  if (outputs === null)
    return { kind: 'unknown', reason: `${reason}; the stored coinbase is not that of the block` };
  return { kind: 'stored', outputs, reason };
}

/** The compact bits of a block, by its verbose header; null when the node does not tell. */
export async function readBits(rpc: Rpc, hashDisplay: string): Promise<number | null> {
  const answer = await rpc.call('getblockheader', [hashDisplay, true]);
  if (answer.kind !== 'result' || typeof answer.result !== 'object' || answer.result === null)
    return null;
  const { bits } = answer.result as { bits?: unknown };
  return typeof bits === 'string' && /^[0-9a-f]{8}$/.test(bits) ? Number.parseInt(bits, 16) : null;
}

function firstTransaction(result: unknown, hashDisplay: string): string | null {
  if (typeof result !== 'object' || result === null) return null;
  const { hash, tx } = result as { hash?: unknown; tx?: unknown };
  return hash === hashDisplay && Array.isArray(tx) ? decodeHashDisplay(tx[0]) : null;
}

/** Null unless the bytes are the transaction of that id. */
function outputsOf(raw: Uint8Array | null, txidDisplay: string): TxOutput[] | null {
  if (raw === null) return null;
  const decoded = decodeTx(raw);
  if (!decoded.ok || encodeHexReversed(txid(decoded.tx)) !== txidDisplay) return null;
  return decoded.tx.outputs;
}

/** What went wrong, in a few words without credentials. */
export function describeFailure(answer: Exclude<RpcAnswer, { kind: 'result' }>): string {
  return answer.kind === 'error'
    ? `error ${answer.code}: ${answer.message}`
    : `${answer.kind}: ${answer.detail}`;
}
