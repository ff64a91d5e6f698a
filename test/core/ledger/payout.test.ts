/** Plans of payouts: who is paid, who waits and why, and that no cap is ever passed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { dustSats } from '../../../src/core/bitcoin/dust.ts';
import {
  type DueAccount,
  PAYOUT_OUTPUTS_WEIGHT_MAX,
  type PlanFacts,
  type PlanRules,
  payableScript,
  planPayout,
  scheduledAtMs,
} from '../../../src/core/ledger/payout.ts';

const scripts = [
  (id: number) => Uint8Array.of(0x00, 0x14, ...bytes(20, id)),
  (id: number) => Uint8Array.of(0x76, 0xa9, 0x14, ...bytes(20, id), 0x88, 0xac),
  (id: number) => Uint8Array.of(0xa9, 0x14, ...bytes(20, id), 0x87),
  (id: number) => Uint8Array.of(0x00, 0x20, ...bytes(32, id)),
];
const facts: PlanFacts = {
  network: 'regtest',
  feePolicy: 'pool',
  paidInDaySats: 0n,
  feeSatsPerKvb: null,
};
const rules: PlanRules = {
  minimumSats: 1n,
  outputsMax: 200,
  transactionMaxSats: 10n ** 15n,
  dailyMaxSats: 10n ** 16n,
  feePpmMax: 20_000,
};

function bytes(length: number, id: number): number[] {
  return Array.from({ length }, (_, at) => (id >> (8 * (at % 4))) & 0xff || 1);
}

function account(id: number, balanceSats: bigint, more: Partial<DueAccount> = {}): DueAccount {
  return {
    accountId: BigInt(id),
    address: encodeAddress(scripts[id % 4]!(id), 'regtest') as string,
    balanceSats,
    minimumSats: null,
    onHold: false,
    quarantined: false,
    lastPaidAtMs: null,
    ...more,
  };
}

test('dust of each script type is never paid, and the next satoshi is', () => {
  for (const [id, make] of scripts.entries()) {
    const dust = dustSats(make(id));
    assert.equal(planPayout([account(id, dust - 1n)], rules, facts).batches.length, 0);
    assert.equal(planPayout([account(id, dust)], rules, facts).totalSats, dust);
    // Where the miner pays the fee, as much again must be there for it.
    const miner = { ...facts, feePolicy: 'miner' as const };
    assert.equal(planPayout([account(id, 2n * dust - 1n)], rules, miner).batches.length, 0);
    assert.equal(planPayout([account(id, 2n * dust)], rules, miner).totalSats, 2n * dust);
  }
});

test('the minimum is the greatest of the pool’s, the account’s own, and dust', () => {
  const least = (own: bigint | null, pool: bigint) => {
    for (let sats = 0n; ; sats += 1n) {
      const plan = planPayout(
        [account(4, sats, { minimumSats: own })],
        { ...rules, minimumSats: pool },
        facts,
      );
      if (plan.batches.length > 0) return sats;
    }
  };
  assert.equal(least(null, 1n), 294n);
  assert.equal(least(500n, 1n), 500n);
  assert.equal(least(10n, 600n), 600n);
  assert.equal(least(700n, 600n), 700n);
});

test('who cannot be paid is named with the reason', () => {
  const good = account(1, 1_000_000n);
  const plan = planPayout(
    [
      good,
      account(2, 1_000_000n, { onHold: true }),
      account(3, 1_000_000n, { quarantined: true }),
      account(4, 1_000_000n, { address: 'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4' }),
      account(5, 1_000_000n, { address: `${good.address}*60,${account(6, 0n).address}*40` }),
      account(6, 10n),
    ],
    rules,
    facts,
  );
  assert.deepEqual(
    plan.skipped.map((one) => [one.accountId, one.reason]),
    [
      [2n, 'on-hold'],
      [3n, 'quarantined'],
      [4n, 'bad-address'],
      [5n, 'split-address'],
      [6n, 'below-minimum'],
    ],
  );
  assert.deepEqual(
    plan.batches[0]?.items.map((item) => item.accountId),
    [1n],
  );
  const split = payableScript('a*1,b*2', 'regtest');
  assert.ok(!split.ok && split.reason === 'split-address');
});

test('more than a cap allows is paid in parts; who waited longest comes first', () => {
  const whale = account(1, 5_000_000n);
  const plan = planPayout(
    [whale, account(2, 100_000n, { lastPaidAtMs: 5 }), account(3, 100_000n, { lastPaidAtMs: 4 })],
    { ...rules, transactionMaxSats: 3_000_000n, dailyMaxSats: 3_100_000n },
    facts,
  );
  assert.deepEqual(
    plan.batches.flatMap((batch) => batch.items.map((item) => [item.accountId, item.amountSats])),
    [
      [1n, 3_000_000n],
      [3n, 100_000n],
    ],
  );
  assert.deepEqual(
    plan.skipped.map((one) => [one.accountId, one.reason]),
    [[2n, 'daily-cap']],
  );
  const tight = planPayout([whale], { ...rules, dailyMaxSats: 3_000_000n }, facts);
  assert.equal(tight.totalSats, 3_000_000n);
  const spent = { ...facts, paidInDaySats: 9n * 10n ** 16n };
  assert.equal(planPayout([whale], rules, spent).batches.length, 0);
  const narrow = planPayout([whale], { ...rules, transactionMaxSats: 100n }, facts);
  assert.equal(narrow.skipped[0]?.reason, 'transaction-cap');
});

test('a batch whose fee would be above its cap is not made', () => {
  const one = [account(4, 10_000n)];
  const at = (feeSatsPerKvb: bigint) => planPayout(one, rules, { ...facts, feeSatsPerKvb });
  assert.equal(at(1_000n).batches.length, 1);
  assert.deepEqual(
    at(2_000n).skipped.map((left) => left.reason),
    ['fee-cap'],
  );
});

test('any accounts, any caps: sums agree, caps hold, everybody is paid once or named once', () => {
  const arbitrary = fc.record({
    accounts: fc.uniqueArray(
      fc.record({
        id: fc.integer({ min: 1, max: 50_000 }),
        sats: fc.bigInt({ min: 0n, max: 10n ** 12n }),
        own: fc.option(fc.bigInt({ min: 0n, max: 10n ** 12n })),
        paid: fc.option(fc.integer({ min: 0, max: 10 })),
        onHold: fc.boolean(),
      }),
      { selector: (one) => one.id, maxLength: 60 },
    ),
    minimumSats: fc.bigInt({ min: 0n, max: 10n ** 9n }),
    outputsMax: fc.integer({ min: 0, max: 600 }),
    transactionMaxSats: fc.bigInt({ min: 1n, max: 10n ** 13n }),
    dailyMaxSats: fc.bigInt({ min: 0n, max: 10n ** 14n }),
    paidInDaySats: fc.bigInt({ min: 0n, max: 10n ** 13n }),
    feeSatsPerKvb: fc.option(fc.bigInt({ min: 1_000n, max: 10n ** 6n })),
    feePolicy: fc.constantFrom('pool' as const, 'miner' as const),
    turn: fc.integer(),
  });
  fc.assert(
    fc.property(arbitrary, (given) => {
      const due = given.accounts.map((one) =>
        account(one.id, one.sats, {
          minimumSats: one.own,
          lastPaidAtMs: one.paid,
          onHold: one.onHold,
        }),
      );
      const limits = { ...rules, ...given };
      const situation = { ...facts, ...given };
      const plan = planPayout(due, limits, situation);
      const turned = [...due.slice(given.turn % 7), ...due.slice(0, given.turn % 7)];
      const same = new Map(turned.map((one) => [one.accountId, one]));
      assert.deepEqual(planPayout([...same.values()].reverse(), limits, situation), plan);
      const seen = new Map<bigint, bigint>();
      for (const batch of plan.batches) {
        assert.ok(batch.items.length > 0 && batch.items.length <= 500);
        assert.ok(batch.items.length <= Math.max(1, given.outputsMax));
        assert.ok(batch.totalSats <= given.transactionMaxSats);
        assert.equal(
          batch.items.reduce((sum, item) => sum + item.amountSats, 0n),
          batch.totalSats,
        );
        const weight = batch.items.reduce((sum, item) => sum + 4 * (9 + item.script.length), 0);
        assert.ok(weight <= PAYOUT_OUTPUTS_WEIGHT_MAX);
        for (const item of batch.items) {
          const from = due.find((one) => one.accountId === item.accountId);
          assert.ok(from && !seen.has(item.accountId) && !from.onHold);
          assert.ok(item.amountSats <= from.balanceSats);
          assert.ok(item.amountSats >= dustSats(item.script));
          assert.ok(item.amountSats >= given.minimumSats);
          assert.ok(item.amountSats >= (from.minimumSats ?? 0n));
          seen.set(item.accountId, item.amountSats);
        }
      }
      assert.equal(
        [...seen.values()].reduce((sum, sats) => sum + sats, 0n),
        plan.totalSats,
      );
      if (plan.totalSats > 0n)
        assert.ok(plan.totalSats + given.paidInDaySats <= given.dailyMaxSats);
      assert.equal(seen.size + plan.skipped.length, due.length);
      for (const one of plan.skipped) assert.ok(!seen.has(one.accountId));
    }),
    { numRuns: 500 },
  );
});

test('the schedule names the last moment that has passed', () => {
  const day = Date.UTC(2026, 5, 1);
  assert.equal(scheduledAtMs({ kind: 'every', intervalMs: 3_600_000 }, day + 5), day);
  const daily = { kind: 'daily' as const, minuteOfDayUtc: 180 };
  assert.equal(scheduledAtMs(daily, day + 180 * 60_000), day + 180 * 60_000);
  assert.equal(scheduledAtMs(daily, day + 180 * 60_000 - 1), day - 86_400_000 + 180 * 60_000);
});
