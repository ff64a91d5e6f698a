/**
 * What the operator decides about money, as data: how a pool counts shares and pays blocks, and how payouts go out. Made by the
 * configuration, read by gateway, ledger and payouts. Types only.
 */

/**
 * How a block is paid. `direct` is PPLNS paid by the coinbase itself; `pool` is no accounting: blocks pay the pool's address and
 * shares are recorded.
 */
export type Scheme = 'pplns' | 'prop' | 'pps' | 'fpps' | 'solo' | 'direct' | 'pool';

/** One pool: the rules that the shares of its ports are counted by. */
export type PoolRules = {
  /** `[a-z0-9-]{1,16}`; `main` where there is only one. */
  id: string;
  scheme: Scheme;
  /** PPLNS and direct: how much work the window holds. `factorPpm` 2,000,000 is twice the network's difficulty at the find. */
  window: { kind: 'work'; factorPpm: bigint } | { kind: 'days'; days: number };
  /** Of every block or share, in parts per million; accounts may have another in their settings. */
  feePpm: number;
  /** Fee goes to this address's account; null: it stays with the operator (ledger kind `operator`). */
  feeAddress: string | null;
  developerFeePpm: number;
  /** Null: ledger kind `developer`. */
  developerAddress: string | null;
  /** Whom coinbases pay in every scheme but solo and direct. */
  address: string | null;
  /** PPS and FPPS: bound on the chance of ruin, and what happens beyond it. */
  ruinPpmMax: number;
  onRuin: 'refuse' | 'downgrade';
};

/** How payouts leave a Bitcoin Core wallet. */
export type PayoutPolicy = {
  /** Name of the wallet at the first node. */
  wallet: string;
  /** cold: an unsigned PSBT is exported and the signed one imported. */
  signing: 'hot' | 'cold';
  /** Below this an account waits; it may ask for more, never for less. */
  minimumSats: bigint;
  schedule: { kind: 'every'; intervalMs: number } | { kind: 'daily'; minuteOfDayUtc: number };
  /** Who pays the network's fee. */
  feePolicy: 'pool' | 'miner';
  feeRateMaxSatsPerVb: number;
  /** The fee may be at most this share of what a batch pays. */
  feePpmMax: number;
  /** Blocks within which a payout should confirm. */
  confirmTarget: number;
  outputsMax: number;
  transactionMaxSats: bigint;
  /** In any 24 hours. */
  dailyMaxSats: bigint;
  /** A payout is settled this deep. */
  confirmations: number;
  /** A reward may be spent this deep; 101 on Bitcoin (100 blocks on top of it). */
  maturity: number;
  /** Unconfirmed for so long: the fee is raised. */
  bumpAfterMs: number;
};

/** Which shares a round counts, going back from its last one. */
export type WindowSpan =
  /** As much work as this; the share at the edge counts in part. */
  | { kind: 'work'; work: bigint }
  /** Accepted after this moment. */
  | { kind: 'time'; afterMs: number }
  /** All after this sequence number. */
  | { kind: 'since'; afterSeq: bigint };

/** A window as it was read from the share log. */
export type ShareWindow = {
  /** Inclusive. `firstSeq` is `lastSeq` + 1 when the window is empty. */
  firstSeq: bigint;
  lastSeq: bigint;
  /** The share at the edge when only a part of its work counts. */
  boundary: { seq: bigint; work: bigint; countedWork: bigint } | null;
  /** What was asked for; null unless the span is by work. */
  wantedWork: bigint | null;
  /** Nothing accepted at or before this moment counts; null unless the span is by time. */
  afterMs: number | null;
  /** What is there: Σ of the accounts' work. */
  totalWork: bigint;
  shares: bigint;
  /** By account id. */
  accounts: { accountId: bigint; address: string; work: bigint }[];
};

/** One share of a window as an export has it. */
export type ExportedShare = { seq: bigint; address: string; work: bigint; acceptedAtMs: number };
