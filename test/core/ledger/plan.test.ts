import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import { dustSats } from '../../../src/core/bitcoin/dust.ts';
import { directCarry, writeOffDebts } from '../../../src/core/ledger/carry.ts';
import {
  type CoinbasePlan,
  makePlan,
  PLAN_ENTRIES_MAX,
  planOutputs,
} from '../../../src/core/ledger/plan.ts';
import { type RoundMember, settleRound } from '../../../src/core/ledger/round.ts';
import { createRandom } from '../../tools/random.ts';
import { Rational } from '../../tools/rational.ts';

const BLOCK = 312_500_000n;
const ROOMY = { outputsMax: 1_000, bytesMax: 100_000 };

/** A script for every address `m<number>`, of the five standard forms in turn. */
function scriptOf(address: string): Uint8Array {
  const id = Number(address.slice(1));
  const tail = [id >>> 24, (id >>> 16) & 255, (id >>> 8) & 255, id & 255];
  const hash = [...new Uint8Array(16), ...tail];
  const forms = [
    [0x00, 20, ...hash],
    [0x51, 32, ...new Uint8Array(12), ...hash],
    [0x76, 0xa9, 20, ...hash, 0x88, 0xac],
    [0xa9, 20, ...hash, 0x87],
    [0x00, 32, ...new Uint8Array(12), ...hash],
  ];
  return Uint8Array.from(forms[id % forms.length]!);
}

function member(id: number, work: bigint, feePpm = 0, donationPpm = 0): RoundMember {
  return { accountId: BigInt(id), address: `m${id}`, work, feePpm, donationPpm };
}

function planOf(
  members: readonly RoundMember[],
  carries: Iterable<readonly [string, bigint]> = [],
  valueSats = BLOCK,
): CoinbasePlan {
  return makePlan({
    pool: 'main',
    lastSeq: 1n,
    members,
    carries: new Map(carries),
    feeAddress: 'm900000',
    developerAddress: 'm900001',
    scriptOf,
    valueSats,
    createdAtMs: 0,
  });
}

const anyPlan = fc
  .array(
    fc.record({
      work: fc.oneof(fc.bigInt({ min: 0n, max: 3n }), fc.bigInt({ min: 0n, max: 1n << 128n })),
      feePpm: fc.constantFrom(0, 10_000, 1_000_000),
      carrySats: fc.oneof(
        fc.constant(0n),
        fc.bigInt({ min: -BLOCK, max: BLOCK }),
        fc.bigInt({ min: -1_000n, max: 1_000n }),
      ),
    }),
    { maxLength: 40 },
  )
  .map((rows) =>
    planOf(
      rows.map(({ work, feePpm }, at) => member(at, work, feePpm)),
      rows.map(({ carrySats }, at) => [`m${at}`, carrySats] as const),
    ),
  );
const anyValue = fc.oneof(
  fc.bigInt({ min: 0n, max: 2_000n }),
  fc.bigInt({ min: 0n, max: 2n * BLOCK }),
  fc.bigInt({ min: 0n, max: MONEY_MAX_SATS }),
);
const anyBudget = fc.record({
  outputsMax: fc.integer({ min: 0, max: 45 }),
  bytesMax: fc.integer({ min: 0, max: 2_000 }),
});

test('outputs add up to the value, none is dust or doubled, and they fit the budget', () => {
  fc.assert(
    fc.property(anyPlan, anyValue, anyBudget, (plan, valueSats, budget) => {
      const outputs = planOutputs(plan, valueSats, budget);
      if (outputs.length === 0) return;
      const sum = outputs.reduce((all, one) => all + one.valueSats, 0n);
      assert.equal(sum, valueSats);
      for (const { script, valueSats: sats } of outputs) assert.ok(sats >= dustSats(script));
      const keys = outputs.map(({ script }) => script.join());
      assert.equal(new Set(keys).size, keys.length);
      assert.ok(outputs.length <= budget.outputsMax);
      const bytes = outputs.reduce((all, one) => all + 9 + one.script.length, 0);
      assert.ok(bytes <= budget.bytesMax);
      // Only those who are due something, by fractions.
      for (const { script } of outputs) {
        const entry = plan.entries.find((one) => one.script.join() === script.join())!;
        const due = new Rational(valueSats * entry.weight, plan.totalWeight || 1n);
        assert.ok(due.plus(new Rational(entry.carrySats)).compare(new Rational(0n)) > 0);
      }
    }),
    { numRuns: 1_000 },
  );
});

test('nobody is paid only when nobody who fits is due more than dust', () => {
  fc.assert(
    fc.property(anyPlan, anyValue, anyBudget, (plan, valueSats, budget) => {
      if (planOutputs(plan, valueSats, budget).length > 0 || budget.outputsMax === 0) return;
      for (const { script, weight, carrySats } of plan.entries) {
        if (9 + script.length > budget.bytesMax) continue;
        const share = plan.totalWeight === 0n ? 0n : (valueSats * weight) / plan.totalWeight;
        const dust = dustSats(script);
        assert.ok(share + carrySats < dust || valueSats < dust);
      }
    }),
    { numRuns: 1_000 },
  );
});

test('when all fit and nothing is carried, everybody gets his part but for what rounding leaves', () => {
  const works = fc.array(fc.bigInt({ min: 1n << 40n, max: 1n << 48n }), {
    minLength: 1,
    maxLength: 60,
  });
  fc.assert(
    fc.property(works, fc.bigInt({ min: BLOCK, max: 2n * BLOCK }), (list, valueSats) => {
      const members = list.map((work, at) => member(at, work, 10_000, 5_000));
      const outputs = planOutputs(planOf(members), valueSats, ROOMY);
      const result = settleRound(valueSats, members);
      assert.equal(outputs.length, members.length + 2);
      const earned = new Map(
        result.credits.map((one) => [scriptOf(one.address).join(), one.creditSats]),
      );
      earned.set(scriptOf('m900000').join(), result.operatorSats);
      earned.set(scriptOf('m900001').join(), result.developerSats);
      for (const { script, valueSats: sats } of outputs) {
        const difference = sats - earned.get(script.join())!;
        assert.ok(difference >= -2n && difference <= outputs.length, `${difference}`);
      }
    }),
  );
});

test('a carry is paid in the next block, and a debt is kept back', () => {
  const members = [member(0, 1n), member(1, 1n), member(2, 2n)];
  const carries = [
    ['m0', 1_000_000n],
    ['m1', -1_000_000n],
  ] as const;
  const outputs = planOutputs(planOf(members, carries), 4_000_000n, ROOMY);
  assert.deepEqual(
    new Map(outputs.map(({ script, valueSats }) => [script.join(), valueSats])),
    new Map([
      [scriptOf('m0').join(), 2_000_000n],
      [scriptOf('m2').join(), 2_000_000n],
    ]),
  );
});

test('where more is due than there is, all get the same part, and who would get dust waits', () => {
  const members = [member(0, 1n), member(5, 1n)];
  const carries = [
    ['m0', 9_000n],
    ['m5', 4_000n],
    ['m10', 100n],
    ['m15', 294n],
  ] as const;
  const outputs = planOutputs(planOf(members, carries), 2_000n, ROOMY);
  // Due are 10,000, 5,000 and 294: the last would get 38, the others share in two to one.
  assert.deepEqual(
    outputs.map(({ valueSats }) => valueSats),
    [1_333n, 667n],
  );
  // With still less the second would be dust, too.
  assert.deepEqual(
    planOutputs(planOf(members, carries), 600n, ROOMY).map(({ valueSats }) => valueSats),
    [600n],
  );
  assert.deepEqual(planOutputs(planOf(members, carries), 293n, ROOMY), []);
});

test('a script that is too long for what is left makes room for a shorter one', () => {
  // m1 is P2TR (43 bytes), m0 and m5 are P2WPKH (31).
  const members = [member(0, 5n), member(1, 4n), member(5, 3n)];
  const outputs = planOutputs(planOf(members), BLOCK, { outputsMax: 9, bytesMax: 70 });
  assert.deepEqual(
    outputs.map(({ script }) => script.join()),
    [scriptOf('m0').join(), scriptOf('m5').join()],
  );
});

test('who only has a carry is paid it; with nobody else there, all goes to who has one', () => {
  const plan = planOf([], [['m0', 3_000n]] as const);
  assert.deepEqual(planOutputs(plan, BLOCK, ROOMY), [{ script: scriptOf('m0'), valueSats: BLOCK }]);
  assert.deepEqual(planOutputs(planOf([]), BLOCK, ROOMY), []);
});

test('a plan does not depend on the order of its facts, and its id on nothing but them', () => {
  fc.assert(
    fc.property(
      fc.array(fc.bigInt({ min: 0n, max: 5n }), { minLength: 2, maxLength: 30 }),
      fc.nat(),
      (works, turn) => {
        const members = works.map((work, at) => member(at, work, 20_000));
        const carries = works.map((work, at) => [`m${at}`, (work - 2n) * 1_000n] as const);
        const cut = turn % works.length;
        const turned = [...members.slice(cut), ...members.slice(0, cut)];
        const plan = planOf(members, carries);
        assert.deepEqual(planOf(turned, [...carries].reverse()), plan);
        assert.match(plan.planId, /^[0-9a-f]{16}$/);
        if (plan.entries.length === 0) return;
        const more = carries.map(([address, sats]) => [address, sats + 1n] as const);
        assert.notEqual(planOf(members, more).planId, plan.planId);
      },
    ),
  );
  const facts = {
    pool: 'main',
    lastSeq: 1n,
    members: [member(0, 1n)],
    carries: new Map<string, bigint>(),
    feeAddress: null,
    developerAddress: null,
    scriptOf,
    valueSats: BLOCK,
    createdAtMs: 0,
  };
  const { planId } = makePlan(facts);
  assert.equal(makePlan({ ...facts, createdAtMs: 9 }).planId, planId);
  assert.notEqual(makePlan({ ...facts, pool: 'other' }).planId, planId);
  assert.notEqual(makePlan({ ...facts, lastSeq: 2n }).planId, planId);
});

test('20,000 members: the most due stand in the plan, and it pays within its budget', () => {
  const random = createRandom(3);
  const members = Array.from({ length: 20_000 }, (_, at) => member(at, BigInt(random.u32() + 1)));
  const carries = members.map(({ address }) => [address, BigInt(random.below(100_000))] as const);
  const plan = planOf(members, carries);
  assert.equal(plan.entries.length, PLAN_ENTRIES_MAX);
  const taken = new Set(plan.entries.map(({ address }) => address));
  const dues = members.map(({ address, work }, at) => ({
    address,
    sats: (BLOCK * work * 1_000_000n) / plan.totalWeight + carries[at]![1],
  }));
  dues.sort((a, b) => (a.sats > b.sats ? -1 : 1));
  const least = dues[PLAN_ENTRIES_MAX - 1]!.sats;
  for (const { address, sats } of dues) if (sats > least) assert.ok(taken.has(address), address);
  const outputs = planOutputs(plan, BLOCK, { outputsMax: 200, bytesMax: 5_000 });
  assert.ok(outputs.length > 100);
  assert.equal(
    outputs.reduce((sum, one) => sum + one.valueSats, 0n),
    BLOCK,
  );
});

test('an address nobody can pay has no entry, and its part is not given away by weight', () => {
  const plan = makePlan({
    pool: 'main',
    lastSeq: 1n,
    members: [member(0, 1n), member(1, 1n)],
    carries: new Map(),
    feeAddress: null,
    developerAddress: null,
    scriptOf: (address) => (address === 'm1' ? null : scriptOf(address)),
    valueSats: BLOCK,
    createdAtMs: 0,
  });
  assert.deepEqual(
    plan.entries.map(({ address }) => address),
    ['m0'],
  );
  assert.equal(plan.totalWeight, 2_000_000n);
});

test('fees without an address are a bug', () => {
  const facts = {
    pool: 'main',
    lastSeq: 1n,
    carries: new Map<string, bigint>(),
    feeAddress: null,
    developerAddress: null,
    scriptOf,
    valueSats: BLOCK,
    createdAtMs: 0,
  };
  assert.throws(() => makePlan({ ...facts, members: [member(0, 1n, 1)] }), RangeError);
  assert.throws(() => makePlan({ ...facts, members: [member(0, 1n, 0, 1)] }), RangeError);
});

/**
 * A pool over many blocks: the plan comes from the window before, miners' work changes from block to block, one in five blocks
 * somebody is replaced by somebody else; each block pays by the plan and earns by its own window.
 */
function livePool(world: { seed: number; miners: number; outputsMax: number; blocks: number }) {
  const random = createRandom(world.seed);
  const feeId = 900_000;
  let nextId = world.miners;
  const newcomer = (id: number) => ({ id, rate: 2 ** random.below(12) });
  const miners = Array.from({ length: world.miners }, (_, id) => newcomer(id));
  const window = () =>
    miners.map(({ id, rate }) => member(id, BigInt(rate * (8_000 + random.below(4_000))), 10_000));
  const carries = new Map<string, bigint>();
  const carryMax = (sign: bigint) =>
    [...carries.values()].reduce((most, sats) => (sats * sign > most ? sats * sign : most), 0n);
  const add = (accountId: bigint, sats: bigint) => {
    const address = `m${accountId}`;
    const sum = (carries.get(address) ?? 0n) + sats;
    if (sum === 0n) carries.delete(address);
    else carries.set(address, sum);
  };
  let [earnedSats, paidSats] = [0n, 0n];
  const highest = { early: 0n, late: 0n, debt: 0n };
  let planned = window();
  for (let block = 0; block < world.blocks; block += 1) {
    if (block % 5 === 4) miners[random.below(miners.length)] = newcomer(nextId++);
    const members = window();
    const plan = planOf(planned, carries);
    const valueSats = BLOCK + BigInt(random.below(20_000_000));
    const outputs = planOutputs(plan, valueSats, { outputsMax: world.outputsMax, bytesMax: 1e6 });
    const result = settleRound(valueSats, members);
    const earnings = [
      ...result.credits.map((one) => ({ ...one, earnedSats: one.creditSats })),
      { accountId: BigInt(feeId), address: `m${feeId}`, earnedSats: result.operatorSats },
      ...plan.entries.map(({ address }) => ({
        accountId: BigInt(address.slice(1)),
        address,
        earnedSats: 0n,
      })),
    ].map(({ accountId, address, earnedSats: sats }) => ({
      accountId,
      script: scriptOf(address),
      earnedSats: sats,
    }));
    const answer = directCarry(earnings, outputs);
    assert.ok(answer.ok);
    for (const row of answer.rows) {
      earnedSats += row.earnedSats;
      paidSats += row.paidSats;
      add(row.accountId, row.carrySats);
    }
    const here = new Set([...miners.map(({ id }) => `m${id}`), `m${feeId}`]);
    const balances = [...carries].map(([address, carrySats]) => ({
      accountId: BigInt(address.slice(1)),
      carrySats,
      hasLeft: !here.has(address),
    }));
    for (const { accountId, sats } of writeOffDebts(balances)) add(accountId, sats);
    const phase = block < world.blocks / 2 ? 'early' : 'late';
    if (carryMax(1n) > highest[phase]) highest[phase] = carryMax(1n);
    if (carryMax(-1n) > highest.debt) highest.debt = carryMax(-1n);
    planned = members;
  }
  assert.equal(paidSats, earnedSats);
  assert.equal(
    [...carries.values()].reduce((sum, sats) => sum + sats, 0n),
    0n,
  );
  return highest;
}

for (const world of [
  { seed: 1, miners: 60, outputsMax: 100, blocks: 400 },
  { seed: 2, miners: 60, outputsMax: 15, blocks: 600 },
  { seed: 3, miners: 25, outputsMax: 1, blocks: 800 },
]) {
  const { miners, outputsMax, blocks } = world;
  test(`over ${blocks} blocks of ${miners} miners with room for ${outputsMax}, no carry grows without bound`, () => {
    const { early, late, debt } = livePool(world);
    assert.ok(early > 0n, 'carries were needed');
    assert.ok(late < 2n * early, `${early} in the first half, ${late} in the second`);
    assert.ok(late < BLOCK && debt < BLOCK, `${late} and ${debt}`);
  });
}
