/**
 * The chance that a reserve which pays every share at its expected value is ever used up.
 *
 * Meni Rosenfeld, "Analysis of Bitcoin Pooled Mining Reward Systems" (2011, arXiv 1112.4980), appendix C: with a fee of f, a
 * reserve R and a block reward B the chance of ruin is exp(−2·f·R/B). It bounds the true chance from above: by Lundberg's
 * inequality ruin ≤ exp(−x·R/B) with x the positive root of exp(−x) = 1 − (1 − f)·x, and x = 2·f + 4·f²/3 + … > 2·f.
 *
 * A probability is no money: it is a float until it is rounded up to ppm. The satoshi on both sides are integers.
 */

const MILLION = 1_000_000;
const BILLION = 1_000_000_000;

/**
 * Bound on the chance that a reserve of `reserveSats` is ever used up, in ppm, rounded up, when a block pays `blockRewardSats`
 * and a fee of `feePpm` stays in the reserve. No fee, or nothing in the reserve: 1,000,000.
 */
export function ruinPpm(facts: {
  reserveSats: bigint;
  blockRewardSats: bigint;
  feePpm: number;
}): number {
  const { reserveSats, blockRewardSats, feePpm } = facts;
  if (reserveSats <= 0n || feePpm <= 0) return MILLION;
  if (blockRewardSats <= 0n) return 0;
  const exponentNano =
    (2n * BigInt(feePpm) * reserveSats * BigInt(BILLION)) / (blockRewardSats * BigInt(MILLION));
  return ppmOf(Number(exponentNano));
}

/** exp(−exponent) in ppm, rounded up. */
function ppmOf(exponentNano: number): number {
  return Math.ceil(MILLION * Math.exp(-exponentNano / BILLION));
}

/** The smallest reserve whose bound on ruin (`ruinPpm`) is at most `ruinPpmMax`; null when no reserve is enough. */
export function reserveNeededSats(facts: {
  ruinPpmMax: number;
  blockRewardSats: bigint;
  feePpm: number;
}): bigint | null {
  const { ruinPpmMax, blockRewardSats, feePpm } = facts;
  if (ruinPpmMax >= MILLION) return 0n;
  if (feePpm <= 0 || ruinPpmMax <= 0) return null;
  // The logarithm may be off in its last places: from there to the smallest exponent by which `ruinPpm` itself keeps the bound.
  let exponentNano = Math.floor(Math.log(MILLION / ruinPpmMax) * BILLION) - 2;
  while (ppmOf(exponentNano) > ruinPpmMax) exponentNano += 1;
  const numerator = blockRewardSats * BigInt(exponentNano) * BigInt(MILLION);
  const divisor = 2n * BigInt(feePpm) * BigInt(BILLION);
  return (numerator + divisor - 1n) / divisor;
}
