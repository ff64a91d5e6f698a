/**
 * What a block pays to whom: from the members of a window to credits, exact to the satoshi.
 *
 *   operator   floor(reward · Σ(work · fee) / (Σ work · 10^6))
 *   developer  floor(reward · Σ(work · donation) / (Σ work · 10^6))
 *   members    all the rest, in proportion to work · (10^6 − fee − donation), largest remainder first, ties to who stands first
 *
 * With one fee for all this is floor(reward · fee / 10^6) and a split of the rest by work. Both floors favour the members. A
 * donation is at most what the fee leaves. Refused as bugs: a negative reward or work, rates outside [0, 10^6].
 */

import { splitByWork } from './split.ts';

const MILLION = 1_000_000;

export type RoundMember = {
  accountId: bigint;
  address: string;
  /** floor(difficulty · 2^48), summed over the shares that count. */
  work: bigint;
  feePpm: number;
  donationPpm: number;
};

export type RoundCredit = RoundMember & { creditSats: bigint };

/** Σ of all credits, operator and developer is the reward. */
export type RoundResult = {
  /** In the order of the members; accounts that get nothing are there, too. */
  credits: RoundCredit[];
  operatorSats: bigint;
  developerSats: bigint;
};

/**
 * Splits a reward of `rewardSats` over `members`, one per account, in the order that decides ties. Without members, or where none
 * has work, everything goes to the operator. Throws RangeError for what is refused.
 */
export function settleRound(rewardSats: bigint, members: readonly RoundMember[]): RoundResult {
  if (rewardSats < 0n) throw new RangeError(`a negative reward: ${rewardSats}`);
  const limited = members.map(limitDonation);
  let totalWork = 0n;
  let feeWork = 0n;
  let donationWork = 0n;
  for (const { work, feePpm, donationPpm } of limited) {
    totalWork += work;
    feeWork += work * BigInt(feePpm);
    donationWork += work * BigInt(donationPpm);
  }
  const divisor = totalWork * BigInt(MILLION);
  const feeSats = divisor === 0n ? 0n : (rewardSats * feeWork) / divisor;
  const developerSats = divisor === 0n ? 0n : (rewardSats * donationWork) / divisor;
  const rest = rewardSats - feeSats - developerSats;
  const shares = splitByWork(rest, limited.map(weighted));
  let creditedSats = 0n;
  const credits = limited.map((member) => {
    const creditSats = shares.get(member.accountId)!;
    creditedSats += creditSats;
    return { ...member, creditSats };
  });
  // Nobody to give the rest to (no work, or all of it goes to fees): it is the operator's.
  return { credits, operatorSats: rewardSats - developerSats - creditedSats, developerSats };
}

function weighted({ accountId, work, feePpm, donationPpm }: RoundMember) {
  return { id: accountId, work: work * BigInt(MILLION - feePpm - donationPpm) };
}

function limitDonation(member: RoundMember): RoundMember {
  const { accountId, address, work, feePpm, donationPpm } = member;
  for (const rate of [feePpm, donationPpm]) {
    if (!Number.isInteger(rate) || rate < 0 || rate > MILLION) {
      throw new RangeError(`a rate of ${rate} ppm is outside 0 to ${MILLION}`);
    }
  }
  return {
    accountId,
    address,
    work,
    feePpm,
    donationPpm: Math.min(donationPpm, MILLION - feePpm),
  };
}
