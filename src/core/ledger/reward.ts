/**
 * What a block is worth and what it costs: the subsidy of a height, and the work a network's target asks for, in the unit that
 * shares are counted in. Exact integers. Refused as bugs: compact bits that are no target, heights below zero.
 */

import type { Network } from '../bitcoin/network.ts';
import { DIFFICULTY_1_TARGET, decodeBits } from '../bitcoin/target.ts';

const FIRST_SUBSIDY_SATS = 5_000_000_000n;

/**
 * New coins of the block at `height`, in satoshi: 50 BTC, halved (rounded down) every 210,000 blocks, on regtest every 150.
 * Bitcoin Core's `GetBlockSubsidy`. Throws RangeError unless the height is a whole number from 0.
 */
export function subsidySats(height: number, network: Network): bigint {
  if (!Number.isSafeInteger(height) || height < 0) throw new RangeError(`no height: ${height}`);
  const halvings = Math.floor(height / (network === 'regtest' ? 150 : 210_000));
  return halvings >= 64 ? 0n : FIRST_SUBSIDY_SATS >> BigInt(halvings);
}

/**
 * Compact bits of a header → how much share work a block takes on average: floor(D · 2^48) with D the network's exact
 * difficulty, the unit of `workOfDifficulty`. Never 0. Throws RangeError when the bits are no target.
 */
export function networkWorkOfBits(bits: number): bigint {
  const target = decodeBits(bits);
  if (target === null) throw new RangeError(`compact bits ${bits.toString(16)} are no target`);
  return (DIFFICULTY_1_TARGET << 48n) / target;
}
