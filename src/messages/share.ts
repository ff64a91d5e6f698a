/**
 * A share as the gateway judged and acknowledged it: the record in the journal, on `share.submissions` and in the table
 * `shares`. Its identity is `headerHash`, never the text of the miner's request.
 */

export type ShareRecord = {
  /** SHA-256d of the 80-byte header, wire order, 32 bytes. */
  headerHash: Uint8Array;
  jobId: string;
  /** 4 bytes, given by the gateway. */
  extranonce1: Uint8Array;
  /** 8 bytes, chosen by the miner. */
  extranonce2: Uint8Array;
  ntime: number;
  nonce: number;
  /** The header's version after version rolling, unsigned. */
  version: number;
  /** Announced with this job on this session: what is credited. */
  difficulty: number;
  /** What the hash really reaches. */
  shareDifficulty: number;
  /** Canonical payout address, or canonical split of several. */
  account: string;
  worker: string;
  sessionId: string;
  gateway: string;
  height: number;
  acceptedAtMs: number;
  /** The hash meets the network target of its job. */
  isBlock: boolean;
  /** By whose rules it is counted: the pool of the port it came in by. */
  pool: string;
  /** Compact bits of its job: what a share was worth in schemes that pay by the share. */
  networkBits: number;
  /** Subsidy and fees of its job, at most 2^53 − 1. */
  jobValueSats: bigint;
  /** Scheme direct: the plan its coinbase was made from. Empty: none, the finder was paid. */
  planId: string;
  /** Scheme direct: how large its coinbase was allowed to be. 0: not limited by a plan. */
  coinbaseBytes: number;
};

/** Why a share was not credited; `share` is null when the record could not be decoded, and `raw` then holds its bytes. */
export type RejectedShare = {
  share: ShareRecord | null;
  raw: Uint8Array;
  reason: string;
  detail: string;
  atMs: number;
};

/** A share that passed the audit. `audited` false: its job was no longer known, and the gateway's word was taken. */
export type CheckedShare = { share: ShareRecord; audited: boolean };

/**
 * Travels among the shares, to every partition: all shares of this gateway that were accepted at or before `throughMs` stand before it
 * in its partition. `sequence` counts the marks of one life of the gateway.
 */
export type ShareMark = { gateway: string; throughMs: number; sequence: number };

const MARK_KEY = 'mark:';

/** The key of a gateway's marks. */
export function markKey(gateway: string): string {
  return `${MARK_KEY}${gateway}`;
}

/** Whether a record on a topic of shares is a mark; sessions have no such ids. */
export function isMarkKey(key: string): boolean {
  return key.startsWith(MARK_KEY);
}
