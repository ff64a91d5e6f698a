/**
 * Total decoders for the answers of Bitcoin nodes that decide something: chain state, header, proposal and submitblock.
 * Measured on Bitcoin Core 28.1 and btcd 0.24.2; a node is treated as if it were hostile, so nothing here throws.
 *
 * The strings of BIP22 are not what they seem: Core answers a competitor at the same height with "inconclusive" and the very same
 * block again with "duplicate", so neither tells whether the block is in the best chain. Only the header does.
 */
import type { RpcAnswer } from './rpc.ts';

const HASH_DISPLAY = /^[0-9a-f]{64}$/;

function asRecord(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
}

/** A 64-digit lower-case hash, as `getbestblockhash` and `getblockhash` give it, or null. */
export function decodeHashDisplay(result: unknown): string | null {
  return typeof result === 'string' && HASH_DISPLAY.test(result) ? result : null;
}

export type ChainState = {
  chain: string;
  blocks: number;
  headers: number;
  bestHashDisplay: string;
  /** Total work of the best chain; null where the node does not tell (btcd). */
  chainWork: bigint | null;
  initialBlockDownload: boolean;
};

/** Decodes `getblockchaininfo`. btcd leaves out `chainwork` and `initialblockdownload`. */
export function decodeChainState(result: unknown): ChainState | null {
  const fields = asRecord(result);
  if (fields === null) return null;
  const { chain, blocks, headers, chainwork, initialblockdownload } = fields;
  const bestHashDisplay = decodeHashDisplay(fields.bestblockhash);
  if (typeof chain !== 'string' || chain.length > 32 || !isCount(blocks) || !isCount(headers))
    return null;
  if (bestHashDisplay === null) return null;
  const chainWork =
    typeof chainwork === 'string' && HASH_DISPLAY.test(chainwork) ? BigInt(`0x${chainwork}`) : null;
  return {
    chain,
    blocks,
    headers,
    bestHashDisplay,
    chainWork,
    initialBlockDownload: initialblockdownload === true,
  };
}

/** Decodes the verbose `getblockheader`: what it says about the place of the block. −1 confirmations: not in the best chain. */
export function decodeHeaderPlace(
  result: unknown,
): { confirmations: number; height: number; previousHashDisplay: string | null } | null {
  const fields = asRecord(result);
  if (fields === null) return null;
  const { confirmations, height } = fields;
  if (typeof confirmations !== 'number' || !Number.isInteger(confirmations) || confirmations < -1)
    return null;
  if (!isCount(height)) return null;
  return {
    confirmations,
    height,
    previousHashDisplay: decodeHashDisplay(fields.previousblockhash),
  };
}

export type ProposalVerdict =
  | { kind: 'accepted' }
  /** The node calls the block invalid. */
  | { kind: 'refused'; detail: string }
  /** The tip moved meanwhile, or the node could not be asked: says nothing. */
  | { kind: 'inconclusive'; detail: string }
  /** This node does not check proposals. */
  | { kind: 'unsupported'; detail: string };

/**
 * Reads the answer to `getblocktemplate` in mode "proposal" (BIP23). Only a reason in the result, or −22 (decode failed), counts
 * as refusal.
 */
export function readProposalAnswer(answer: RpcAnswer): ProposalVerdict {
  if (answer.kind === 'result') {
    if (answer.result === null) return { kind: 'accepted' };
    if (typeof answer.result !== 'string')
      return { kind: 'unsupported', detail: 'the node answered a proposal with a template' };
    const detail = answer.result.slice(0, 200);
    if (detail.startsWith('inconclusive') || detail === 'duplicate-inconclusive')
      return { kind: 'inconclusive', detail };
    if (detail === 'duplicate') return { kind: 'accepted' };
    // btcd's words for Core's inconclusive-not-best-prevblk.
    if (detail === 'bad-prevblk') return { kind: 'inconclusive', detail };
    return { kind: 'refused', detail };
  }
  if (answer.kind === 'error') {
    const detail = `${answer.code} ${answer.message}`;
    if (answer.code === -22) return { kind: 'refused', detail };
    if (answer.code === -32601 || answer.code === -8 || answer.code === -3)
      return { kind: 'unsupported', detail };
    return { kind: 'inconclusive', detail };
  }
  return { kind: 'inconclusive', detail: `${answer.kind}: ${answer.detail}` };
}

/**
 * What an answer to `submitblock` means. None of these is acceptance: only `getblockheader` is.
 * - `taken`: null, the node took it; ask for the header.
 * - `known`: it had the block already, in whatever chain; ask for the header.
 * - `side`: valid, but not better than the node's best chain.
 * - `retry`: the node could not judge now (parent missing, starting, overloaded, down); the block is not there.
 * - `later`: its time is still too far ahead; becomes valid by waiting.
 * - `unknown`: no telling whether the block arrived; ask for the header and send it again.
 * - `refused`: invalid for ever. `fault` is true when it means that the pool built a wrong block.
 */
export type SubmitVerdict = {
  kind: 'taken' | 'known' | 'side' | 'retry' | 'later' | 'unknown' | 'refused';
  detail: string;
  fault: boolean;
  /** True when nothing was listening: asking again soon costs the node nothing. */
  absent: boolean;
};

/** Classifies an answer to `submitblock`. */
export function readSubmitAnswer(answer: RpcAnswer): SubmitVerdict {
  switch (answer.kind) {
    case 'result':
      if (answer.result === null) return verdict('taken', '');
      if (typeof answer.result !== 'string') return verdict('unknown', 'answer is not a string');
      return readReason(answer.result.slice(0, 300));
    case 'error':
      return readError(answer.code, answer.message.slice(0, 300));
    case 'unreachable':
    case 'warming-up':
      return { ...verdict('retry', `${answer.kind}: ${answer.detail}`), absent: true };
    case 'overloaded':
    case 'unauthorized':
    case 'circuit-open':
      return verdict('retry', `${answer.kind}: ${answer.detail}`);
    case 'timeout':
    case 'bad-answer':
    case 'aborted':
      return verdict('unknown', `${answer.kind}: ${answer.detail}`);
  }
}

function verdict(kind: SubmitVerdict['kind'], detail: string, fault = false): SubmitVerdict {
  return { kind, detail, fault, absent: false };
}

/** A BIP22 reason, or btcd's "rejected: …" around its own sentence. */
function readReason(detail: string): SubmitVerdict {
  const reason = detail.startsWith('rejected: ') ? detail.slice('rejected: '.length) : detail;
  if (reason === 'duplicate' || reason === 'duplicate-inconclusive')
    return verdict('known', detail);
  if (reason.startsWith('already have block')) return verdict('known', detail);
  if (reason.startsWith('inconclusive')) return verdict('side', detail);
  if (
    reason === 'prev-blk-not-found' ||
    (reason.includes('previous block') && reason.includes('unknown'))
  )
    return verdict('retry', detail);
  if (reason === 'time-too-new' || reason.includes('too far in the future'))
    return verdict('later', detail);
  // Dead by the miner's or the parent's doing, not by a mistake of ours.
  if (reason === 'time-too-old' || reason.startsWith('bad-version') || reason === 'bad-prevblk')
    return verdict('refused', detail);
  return verdict('refused', detail, true);
}

function readError(code: number, message: string): SubmitVerdict {
  const detail = `${code} ${message}`;
  if (code === -22) return verdict('refused', detail, true);
  if (code === -28) return { ...verdict('retry', detail), absent: true };
  if (code === -27) return verdict('known', detail);
  return verdict('unknown', detail);
}
