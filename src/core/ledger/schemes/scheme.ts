/**
 * The one shape of a scheme: which shares a block's round counts, who is credited, and where the money goes. The rules
 * stand beside this file, one each. Nothing is refused here that `settleRound` does not refuse.
 */

import type { Network } from '../../bitcoin/network.ts';
import { type RoundMember, type RoundResult, settleRound } from '../round.ts';
import type { PoolRules, Scheme, WindowSpan } from '../rules.ts';

/** A block of the pool, as far as a window depends on it. */
export type Find = {
  /** Sequence number of the finding share, where the window ends. */
  seq: bigint;
  foundAtMs: number;
  /** What the block's own bits ask for (`networkWorkOfBits`). */
  networkWork: bigint;
  /** Where the window of the pool's block before this one ended; 0 for its first. */
  previousSeq: bigint;
  window: PoolRules['window'];
};

/** Σ of credits, operator, developer and reserve is the reward. */
export type SchemeResult = RoundResult & { reserveSats: bigint };

export type SchemeRule = {
  name: Scheme;
  /**
   * How the reward reaches its owners. `ledger`: credits are balances that payouts go out from. `coinbase`: the block itself has
   * paid. `reserve`: shares were paid as they came, and the block fills the reserve they were paid from. `operator`: the pool
   * keeps no accounts.
   */
  settles: 'ledger' | 'coinbase' | 'reserve' | 'operator';
  /** The shares that count, going back from the finding one; null when none do. The caller cuts at the scheme's first share. */
  span(find: Find): WindowSpan | null;
  /** From the reward and the members of the window (none where there is no window) to credits. */
  credit(rewardSats: bigint, members: readonly RoundMember[]): SchemeResult;
  /** What a block is taken to pay when its shares are paid as they come; null in schemes that pay blocks. */
  blockValueSats:
    | ((job: { height: number; jobValueSats: bigint }, network: Network) => bigint)
    | null;
};

/** The reward over the members by work, as `settleRound` splits it; nothing for a reserve. */
export function creditMembers(rewardSats: bigint, members: readonly RoundMember[]): SchemeResult {
  return { ...settleRound(rewardSats, members), reserveSats: 0n };
}
