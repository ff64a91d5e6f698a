/**
 * The parts of one running development node, as its RPC methods see them. Built once by `startDevnet`.
 */
import type { Log } from '../../ports.ts';
import type { ChainBlock } from './blocks.ts';
import type { BlockNode, Chain } from './chain.ts';
import type { Faults } from './faults.ts';
import type { Mempool } from './mempool.ts';
import type { TemplateMaker } from './template.ts';

export type Node = {
  log: Log;
  chain: Chain;
  mempool: Mempool;
  templates: TemplateMaker;
  faults: Faults;
  nowSeconds(): number;
  startedAtSeconds: number;
  /** Bytes of blocks kept. */
  storedBytes(): number;
  /** Fee rate the estimator answers, satoshis per 1000 virtual bytes; null when it "has no data". */
  feeEstimateSatsPerKvb: bigint | null;
  /** A random push for a coinbase, so that blocks on one parent differ. */
  coinbaseExtra(): Uint8Array;
  /** Hands a block to the chain as `submitblock` does. */
  submitBlock(block: ChainBlock): string | null;
  /** Mines on the tip, one block per entry of `transactions` lists (null: from the mempool). */
  mine(options: {
    blocks: number;
    script: Uint8Array;
    attemptsMax: number;
    signal: AbortSignal;
  }): Promise<BlockNode[]>;
  /** Begins to stop the node; used by the RPC method `stop`. */
  requestStop(): void;
};
