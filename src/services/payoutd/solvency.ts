/**
 * May a pool go on paying shares out of its reserve? The bound on the chance of ruin (core/ledger/ruin.ts) against what the operator takes.
 *
 * The reserve counts as it is spendable: immature blocks are no help while shares must be paid. The fee is what the pool really keeps:
 * accounts with a fee of their own and donations weigh in with their work, on top of one block's worth at the configured fee, so that one
 * share of a fee-free account decides nothing.
 */
import { ruinPpm } from '../../core/ledger/ruin.ts';
import type { PoolRules } from '../../core/ledger/rules.ts';

const MILLION = 1_000_000n;
/** Older work weighs less once this many blocks' worth was paid. */
const BLOCKS_REMEMBERED = 100n;

/** What was paid for shares lately, before fees, and how much of it the pool kept. Units are the caller's, the same for both. */
export type KeptFees = { gross: bigint; kept: bigint };

/** Adds a range of shares to what was kept; `blockValue` in the same unit. */
export function addKept(known: KeptFees, range: KeptFees, blockValue: bigint): KeptFees {
  const gross = known.gross + range.gross;
  const kept = known.kept + range.kept;
  const isMuch = blockValue > 0n && gross > BLOCKS_REMEMBERED * blockValue;
  return isMuch ? { gross: gross / 2n, kept: kept / 2n } : { gross, kept };
}

/** The bound on the chance of ruin, in ppm, of a pool with this reserve. `fees` in the unit of `blockValue`. */
export function assessReserve(facts: {
  rules: PoolRules;
  reserveSats: bigint;
  blockRewardSats: bigint;
  fees: KeptFees;
  /** A block's reward in the unit of `fees`. */
  blockValue: bigint;
}): { ruinPpm: number; isSolvent: boolean } {
  const { rules, fees, blockValue } = facts;
  const gross = fees.gross + blockValue;
  const kept = fees.kept + (blockValue * BigInt(rules.feePpm)) / MILLION;
  // Rounded down: the reserve grows by no more than this.
  const feePpm = gross <= 0n ? rules.feePpm : Number((kept * MILLION) / gross);
  const chance = ruinPpm({
    reserveSats: facts.reserveSats,
    blockRewardSats: facts.blockRewardSats,
    feePpm,
  });
  return { ruinPpm: chance, isSolvent: chance <= rules.ruinPpmMax };
}
