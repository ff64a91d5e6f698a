/**
 * PPS, pay per share: a share is worth its chance of being a block times the subsidy of that block, at once, out of a reserve
 * which all blocks go to. The fees of transactions and the pool's fee are the reserve's gain (Rosenfeld 2011, section 2.3).
 *
 * Shares are worth fractions of a satoshi. Values are fixed-point with 32 fractional bits; what is below a satoshi stays with
 * the account and counts next time, so that nothing is lost by when it is paid. All rounding is down, in the reserve's favour,
 * by less than 2^-32 satoshi a group. No share is paid twice: a range of the share log is paid once, and no window of another
 * scheme reaches back over a share that PPS has paid (`schemeAt` in schemes.ts).
 */

import { networkWorkOfBits, subsidySats } from '../reward.ts';
import type { SchemeRule } from './scheme.ts';

const MILLION = 1_000_000;
const FRACTION_BITS = 32n;

export const PPS: SchemeRule = {
  name: 'pps',
  settles: 'reserve',
  span: () => null,
  credit: fillReserve,
  blockValueSats: ({ height }, network) => subsidySats(height, network),
};

/** Everything that a block pays goes to the reserve its shares were paid from. */
export function fillReserve(rewardSats: bigint) {
  if (rewardSats < 0n) throw new RangeError(`a negative reward: ${rewardSats}`);
  return { credits: [], operatorSats: 0n, developerSats: 0n, reserveSats: rewardSats };
}

/** Work done under one job's bits for a block of one value. */
export type PpsGroup = { work: bigint; bits: number; valueSats: bigint };

/**
 * What work is worth before fees: Σ floor(work · value · 2^32 / network work), in units of 2^-32 satoshi. Throws RangeError for
 * bits that are no target, negative work or value.
 */
export function ppsValue(groups: readonly PpsGroup[]): bigint {
  let value = 0n;
  for (const { work, bits, valueSats } of groups) {
    if (work < 0n || valueSats < 0n) throw new RangeError('negative work or value');
    value += ((work * valueSats) << FRACTION_BITS) / networkWorkOfBits(bits);
  }
  return value;
}

/**
 * One account's part of a value: `value` and `carried` (what was left below a satoshi last time) in units of 2^-32 satoshi →
 * whole satoshi to credit now, what is left of the next one, and the donation in units of 2^-32 satoshi. The fee is what is
 * not paid. A donation is at most what the fee leaves.
 */
export function ppsCredit(facts: {
  value: bigint;
  carried: bigint;
  feePpm: number;
  donationPpm: number;
}): { creditSats: bigint; carried: bigint; donation: bigint } {
  const { value, carried, feePpm } = facts;
  const donationPpm = Math.min(facts.donationPpm, MILLION - feePpm);
  const donation = (value * BigInt(donationPpm)) / BigInt(MILLION);
  const net = (value * BigInt(MILLION - feePpm - donationPpm)) / BigInt(MILLION);
  const whole = carried + net;
  const creditSats = whole >> FRACTION_BITS;
  return { creditSats, carried: whole - (creditSats << FRACTION_BITS), donation };
}
