/**
 * What is said about blocks: the body that goes with a job, the record of a find, the whole block, and what became of it.
 * Hashes are in wire order, amounts in satoshi, times in milliseconds since 1970.
 */

export type TemplateBody = {
  jobId: string;
  height: number;
  previousHash: Uint8Array;
  /** Coinbase not counted. */
  transactionCount: number;
  /** All transactions of the template, raw with witnesses, one after the other. */
  body: Uint8Array;
  /** The coinbase of this block carries the witness reserved value. */
  witness: boolean;
};

export type BlockCandidate = {
  jobId: string;
  headerHash: Uint8Array;
  /** 80 bytes. */
  header: Uint8Array;
  /** Serialised without witness. */
  coinbase: Uint8Array;
  height: number;
  account: string;
  worker: string;
  foundAtMs: number;
  networkDifficulty: number;
  /** Value of all outputs of our coinbase together. */
  rewardSats: bigint;
  /** The pool whose rules it is paid by. */
  pool: string;
  /** Scheme direct: the plan its coinbase was made from. Empty: none. */
  planId: string;
};

export type SolvedBlock = {
  headerHash: Uint8Array;
  height: number;
  block: Uint8Array;
};

/**
 * found (on disk) → submitted (a node has been asked) → accepted (in a node's best chain) → confirmed (100 deep).
 * `side`: known to a node, beside its best chain. `orphaned`: another block has its height for good. `refused`: every node calls
 * it invalid.
 */
export type BlockState =
  | 'found'
  | 'submitted'
  | 'accepted'
  | 'side'
  | 'confirmed'
  | 'orphaned'
  | 'refused';

export type BlockOutcome = {
  headerHash: Uint8Array;
  height: number;
  state: BlockState;
  /** The node that told it; empty when it is the pool's own conclusion. */
  node: string;
  /** The node's own words. */
  detail: string;
  /** −1 when the block is not in the node's best chain. */
  confirmations: number;
  atMs: number;
};
