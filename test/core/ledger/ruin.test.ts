import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import { networkWorkOfBits } from '../../../src/core/ledger/reward.ts';
import { reserveNeededSats, ruinPpm } from '../../../src/core/ledger/ruin.ts';
import { ppsCredit, ppsValue } from '../../../src/core/ledger/schemes/pps.ts';
import { createRandom } from '../../tools/random.ts';

const BLOCK = 312_500_000n;

test('the bound of Rosenfeld’s formula at known points', () => {
  // exp(−2·0.05·R/B): R = B·ln(1000)/0.1 = 69.08 blocks keeps ruin at one in a thousand.
  const feePpm = 50_000;
  const needed = reserveNeededSats({ ruinPpmMax: 1_000, blockRewardSats: BLOCK, feePpm })!;
  assert.equal((needed * 100n) / BLOCK, 6_907n);
  assert.equal(ruinPpm({ reserveSats: 10n * BLOCK, blockRewardSats: BLOCK, feePpm }), 367_880);
  assert.equal(ruinPpm({ reserveSats: 1_000n * BLOCK, blockRewardSats: BLOCK, feePpm }), 1);
});

test('no fee, no reserve or a debt: ruin is certain; nothing to lose: it cannot come', () => {
  const blockRewardSats = BLOCK;
  assert.equal(ruinPpm({ reserveSats: MONEY_MAX_SATS, blockRewardSats, feePpm: 0 }), 1_000_000);
  assert.equal(ruinPpm({ reserveSats: 0n, blockRewardSats, feePpm: 500_000 }), 1_000_000);
  assert.equal(ruinPpm({ reserveSats: -1n, blockRewardSats, feePpm: 500_000 }), 1_000_000);
  assert.equal(ruinPpm({ reserveSats: 1n, blockRewardSats: 0n, feePpm: 1 }), 0);
  assert.equal(reserveNeededSats({ ruinPpmMax: 10_000, blockRewardSats, feePpm: 0 }), null);
  assert.equal(reserveNeededSats({ ruinPpmMax: 0, blockRewardSats, feePpm: 1 }), null);
  assert.equal(reserveNeededSats({ ruinPpmMax: 1_000_000, blockRewardSats, feePpm: 0 }), 0n);
});

test('the reserve that is asked for is enough, and one satoshi less is not', () => {
  const facts = fc.record({
    ruinPpmMax: fc.integer({ min: 1, max: 999_999 }),
    blockRewardSats: fc.bigInt({ min: 1_000_000n, max: 10_000_000_000n }),
    feePpm: fc.integer({ min: 1, max: 999_999 }),
  });
  fc.assert(
    fc.property(facts, (asked) => {
      const reserveSats = reserveNeededSats(asked)!;
      assert.ok(ruinPpm({ ...asked, reserveSats }) <= asked.ruinPpmMax);
      const perMillion = ruinPpm({ ...asked, reserveSats: reserveSats - 1n });
      assert.ok(perMillion > asked.ruinPpmMax, `${perMillion}`);
    }),
    { numRuns: 5_000 },
  );
});

test('a larger reserve or fee never makes ruin more likely', () => {
  const reserve = fc.bigInt({ min: 0n, max: 1_000n * BLOCK });
  const fee = fc.integer({ min: 0, max: 1_000_000 });
  fc.assert(
    fc.property(reserve, reserve, fee, fee, (oneSats, otherSats, oneFee, otherFee) => {
      const bound = (reserveSats: bigint, feePpm: number) =>
        ruinPpm({ reserveSats, blockRewardSats: BLOCK, feePpm });
      const [low, high] = oneSats < otherSats ? [oneSats, otherSats] : [otherSats, oneSats];
      assert.ok(bound(high, oneFee) <= bound(low, oneFee));
      assert.ok(bound(low, Math.max(oneFee, otherFee)) <= bound(low, Math.min(oneFee, otherFee)));
    }),
  );
});

/**
 * How often a reserve that pays PPS by our own arithmetic is used up. Each share is a block with one chance in 500, so the
 * number of shares up to a block is geometric; a run ends in ruin, or far beyond where ruin is likely.
 */
function simulateRuin(seed: number, runs: number, feePpm: number, reserveSats: bigint): number {
  const random = createRandom(seed);
  const bits = 0x1b0404cb;
  const work = networkWorkOfBits(bits) / 500n;
  const chance = 1 / 500;
  const { creditSats } = ppsCredit({
    value: ppsValue([{ work, bits, valueSats: BLOCK }]),
    carried: 0n,
    feePpm,
    donationPpm: 0,
  });
  const safeSats = reserveSats + (BLOCK * 3_500_000n) / BigInt(feePpm);
  let ruined = 0;
  for (let run = 0; run < runs; run += 1) {
    let leftSats = reserveSats;
    while (leftSats >= 0n && leftSats < safeSats) {
      const uniform = (random.u32() + 1) / 2 ** 32;
      const shares = Math.ceil(Math.log(uniform) / Math.log1p(-chance)) || 1;
      leftSats -= BigInt(shares) * creditSats;
      if (leftSats >= 0n) leftSats += BLOCK;
    }
    if (leftSats < 0n) ruined += 1;
  }
  return Math.round((ruined / runs) * 1_000_000);
}

// With a small fee the true chance lies so close below the bound that a sample may lie above it: there, by three standard errors.
for (const [feePercent, blocks, runs, errors] of [
  [2, 25, 2_000, 3],
  [5, 20, 6_000, 0],
  [10, 5, 6_000, 0],
  [20, 6, 6_000, 0],
] as const) {
  test(`ruin comes no oftener than the bound says: fee ${feePercent} %, ${blocks} blocks of reserve`, (t) => {
    const feePpm = feePercent * 10_000;
    const reserveSats = BigInt(blocks) * BLOCK;
    const bound = ruinPpm({ reserveSats, blockRewardSats: BLOCK, feePpm });
    const seen = simulateRuin(2026 + feePercent, runs, feePpm, reserveSats);
    t.diagnostic(`${seen} ppm of ${runs} runs, at most ${bound} ppm promised`);
    const chance = bound / 1_000_000;
    const allowed = bound + errors * 1_000_000 * Math.sqrt((chance * (1 - chance)) / runs);
    assert.ok(seen <= allowed, `${seen} > ${allowed}`);
    // And the bound is no empty word: it is of the size of what is seen.
    assert.ok(seen > bound / 3, `${seen} is far below ${bound}`);
  });
}
