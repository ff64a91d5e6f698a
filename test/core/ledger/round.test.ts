import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import { type RoundMember, settleRound } from '../../../src/core/ledger/round.ts';
import { createRandom } from '../../tools/random.ts';
import { Rational } from '../../tools/rational.ts';

const PPM = 1_000_000;
const ppm = fc.oneof(fc.constantFrom(0, 1, 10_000, PPM), fc.integer({ min: 0, max: PPM }));
const work = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n }),
  fc.bigInt({ min: 1n, max: 1n << 60n }),
  fc.bigInt({ min: 0n, max: 1n << 128n }),
);
const reward = fc.oneof(
  fc.bigInt({ min: 0n, max: 3n }),
  fc.bigInt({ min: 0n, max: 5_000_000_000n }),
  fc.bigInt({ min: 0n, max: MONEY_MAX_SATS }),
);

function membersOf(rows: readonly { work: bigint; feePpm: number; donationPpm: number }[]) {
  return rows.map(
    (row, at): RoundMember => ({
      accountId: BigInt(at + 1),
      address: `miner${at}`,
      ...row,
    }),
  );
}

const members = fc
  .array(fc.record({ work, feePpm: ppm, donationPpm: ppm }), { maxLength: 25 })
  .map(membersOf);
/** All pay the same fee, as where no account has one of its own. */
const evenMembers = fc
  .tuple(fc.array(work, { minLength: 1, maxLength: 25 }), ppm, ppm)
  .map(([works, feePpm, donationPpm]) =>
    membersOf(works.map((one) => ({ work: one, feePpm, donationPpm }))),
  );

/** Fees as sums of fractions, then the rest by fractions, a unit at a time. */
function settleOracle(rewardSats: bigint, among: readonly RoundMember[]) {
  const sum = (list: Rational[]) => list.reduce((all, one) => all.plus(one), new Rational(0n));
  const rate = (value: number) => new Rational(BigInt(value), BigInt(PPM));
  const fees = among.map((one) => new Rational(one.work).times(rate(one.feePpm)));
  const gifts = among.map((one) =>
    new Rational(one.work).times(rate(Math.min(one.donationPpm, PPM - one.feePpm))),
  );
  const total = sum(among.map((one) => new Rational(one.work)));
  const credits = new Map(among.map((one) => [one.accountId, 0n]));
  if (total.top === 0n) return { operatorSats: rewardSats, developerSats: 0n, credits };
  const part = (weights: Rational[]) =>
    new Rational(rewardSats).times(sum(weights)).over(total).floor();
  let operatorSats = part(fees);
  const developerSats = part(gifts);
  const rest = rewardSats - operatorSats - developerSats;
  const nets = among.map((one, at) => new Rational(one.work).minus(fees[at]!).minus(gifts[at]!));
  const net = sum(nets);
  if (net.top === 0n) {
    operatorSats += rest;
    return { operatorSats, developerSats, credits };
  }
  const quotas = among.map((one, at) => {
    const quota = new Rational(rest).times(nets[at]!).over(net);
    credits.set(one.accountId, quota.floor());
    return { id: one.accountId, fraction: quota.minus(new Rational(quota.floor())) };
  });
  quotas.sort((a, b) => b.fraction.compare(a.fraction));
  const given = [...credits.values()].reduce((all, one) => all + one, 0n);
  for (let at = 0; BigInt(at) < rest - given; at += 1) {
    credits.set(quotas[at]!.id, credits.get(quotas[at]!.id)! + 1n);
  }
  return { operatorSats, developerSats, credits };
}

test('a round is what fractions say, to the satoshi', () => {
  fc.assert(
    fc.property(reward, members, (rewardSats, among) => {
      const { credits, operatorSats, developerSats } = settleRound(rewardSats, among);
      const creditMap = new Map(credits.map((one) => [one.accountId, one.creditSats]));
      assert.deepEqual(
        { operatorSats, developerSats, credits: creditMap },
        settleOracle(rewardSats, among),
      );
    }),
    { numRuns: 500 },
  );
});

test('credits, operator and developer add up to the reward, and none is below zero', () => {
  fc.assert(
    fc.property(reward, members, (rewardSats, among) => {
      const { credits, operatorSats, developerSats } = settleRound(rewardSats, among);
      const amounts = [operatorSats, developerSats, ...credits.map((one) => one.creditSats)];
      assert.ok(amounts.every((sats) => sats >= 0n));
      assert.equal(
        amounts.reduce((sum, sats) => sum + sats, 0n),
        rewardSats,
      );
    }),
    { numRuns: 500 },
  );
});

test('with one fee for all, the fee is its part of the reward rounded down, and more work never pays less', () => {
  fc.assert(
    fc.property(reward, evenMembers, fc.nat(), work, (rewardSats, among, pick, more) => {
      const at = pick % among.length;
      const before = settleRound(rewardSats, among);
      const richer = among.map((one, i) => (i === at ? { ...one, work: one.work + more } : one));
      const after = settleRound(rewardSats, richer);
      assert.ok(after.credits[at]!.creditSats >= before.credits[at]!.creditSats);
      const { feePpm } = among[0]!;
      if (among.some((one) => one.work > 0n) && feePpm + among[0]!.donationPpm < PPM) {
        assert.equal(before.operatorSats, (rewardSats * BigInt(feePpm)) / BigInt(PPM));
      }
    }),
    { numRuns: 500 },
  );
});

test('with a fee for each, more work pays less by no more than the rounding of the fees', () => {
  const someone = members.filter((among) => among.length > 0);
  fc.assert(
    fc.property(reward, someone, fc.nat(), work, (rewardSats, among, pick, more) => {
      const at = pick % among.length;
      const richer = among.map((one, i) => (i === at ? { ...one, work: one.work + more } : one));
      const [before, after] = [settleRound(rewardSats, among), settleRound(rewardSats, richer)];
      // Two floors move by less than one each, the quota and the credit differ by less than one.
      assert.ok(after.credits[at]!.creditSats > before.credits[at]!.creditSats - 4n);
    }),
    { numRuns: 500 },
  );
});

test('credits stand in the order of the members, which decides ties and nothing else', () => {
  const shuffled = members.chain((among) =>
    fc.tuple(
      fc.constant(among),
      fc.shuffledSubarray(among, { minLength: among.length, maxLength: among.length }),
    ),
  );
  fc.assert(
    fc.property(reward, shuffled, (rewardSats, [one, other]) => {
      const [result, again] = [settleRound(rewardSats, one), settleRound(rewardSats, other)];
      for (const [members, { credits }] of [
        [one, result],
        [other, again],
      ] as const)
        assert.deepEqual(
          credits.map((credit) => credit.accountId),
          members.map((member) => member.accountId),
        );
      assert.deepEqual(
        [result.operatorSats, result.developerSats],
        [again.operatorSats, again.developerSats],
      );
      const before = new Map(again.credits.map((credit) => [credit.accountId, credit.creditSats]));
      for (const { accountId, creditSats } of result.credits) {
        const difference = creditSats - before.get(accountId)!;
        assert.ok(difference >= -1n && difference <= 1n);
      }
    }),
  );
  const twins = membersOf([
    { work: 1n, feePpm: 0, donationPpm: 0 },
    { work: 1n, feePpm: 0, donationPpm: 0 },
  ]);
  for (const among of [twins, twins.toReversed()])
    assert.deepEqual(
      settleRound(3n, among).credits.map((credit) => credit.creditSats),
      [2n, 1n],
    );
});

test('who donates more than the fee leaves donates what it leaves', () => {
  const [credit] = settleRound(
    100n,
    membersOf([{ work: 1n, feePpm: 700_000, donationPpm: PPM }]),
  ).credits;
  assert.equal(credit!.donationPpm, 300_000);
  assert.equal(credit!.creditSats, 0n);
});

test('nobody to pay: everything is the operator’s', () => {
  assert.deepEqual(settleRound(7n, []), { credits: [], operatorSats: 7n, developerSats: 0n });
  const idle = settleRound(7n, membersOf([{ work: 0n, feePpm: 0, donationPpm: PPM }]));
  assert.equal(idle.operatorSats, 7n);
  assert.equal(idle.credits[0]!.creditSats, 0n);
  const allFees = settleRound(
    7n,
    membersOf([
      { work: 1n, feePpm: PPM, donationPpm: 0 },
      { work: 2n, feePpm: 0, donationPpm: PPM },
    ]),
  );
  assert.deepEqual([allFees.operatorSats, allFees.developerSats], [3n, 4n]);
});

test('one miner and 20,000, one satoshi and a whole block, drift nothing', () => {
  const random = createRandom(11);
  for (const count of [1, 2, 20_000]) {
    const among = membersOf(
      Array.from({ length: count }, () => ({
        work: BigInt(random.u32()) << BigInt(random.below(97)),
        feePpm: random.below(20_000),
        donationPpm: random.below(20_000),
      })),
    );
    for (const rewardSats of [0n, 1n, 312_500_001n]) {
      const { credits, operatorSats, developerSats } = settleRound(rewardSats, among);
      const credited = credits.reduce((sum, one) => sum + one.creditSats, 0n);
      assert.equal(credited + operatorSats + developerSats, rewardSats);
    }
  }
});

test('negative rewards and work, and rates outside 0 to 100 %, are bugs', () => {
  const one = { work: 1n, feePpm: 0, donationPpm: 0 };
  assert.throws(() => settleRound(-1n, membersOf([one])), RangeError);
  assert.throws(() => settleRound(1n, membersOf([{ ...one, work: -1n }])), RangeError);
  for (const rate of [-1, PPM + 1, 0.5, Number.NaN]) {
    assert.throws(() => settleRound(1n, membersOf([{ ...one, feePpm: rate }])), RangeError);
    assert.throws(() => settleRound(1n, membersOf([{ ...one, donationPpm: rate }])), RangeError);
  }
  const twice = membersOf([one, one]).map((member) => ({ ...member, accountId: 1n }));
  assert.throws(() => settleRound(1n, twice), RangeError);
});
