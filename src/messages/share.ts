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
  /** Canonical payout address. */
  account: string;
  worker: string;
  sessionId: string;
  gateway: string;
  height: number;
  acceptedAtMs: number;
  /** The hash meets the network target of its job. */
  isBlock: boolean;
};

/** Why a share was not credited; `share` is null when the record could not be decoded, and `raw` then holds its bytes. */
export type RejectedShare = {
  share: ShareRecord | null;
  raw: Uint8Array;
  reason: string;
  detail: string;
  atMs: number;
};
