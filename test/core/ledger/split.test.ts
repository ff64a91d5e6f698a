import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import { splitByWork, type WorkPart } from '../../../src/core/ledger/split.ts';
import { createRandom } from '../../tools/random.ts';
import { Rational } from '../../tools/rational.ts';

const work = fc.oneof(
  fc.bigInt({ min: 0n, max: 3n }),
  fc.bigInt({ min: 0n, max: 1n << 48n }),
  fc.bigInt({ min: 0n, max: 1n << 128n }),
);
const amount = fc.oneof(
  fc.bigInt({ min: 0n, max: 5n }),
  fc.bigInt({ min: 0n, max: MONEY_MAX_SATS }),
);
const parts = fc
  .array(work, { minLength: 1, maxLength: 40 })
  .map((works): WorkPart[] => works.map((one, at) => ({ id: BigInt(7 * at + 3), work: one })));

/** Fractions, one unit at a time to whoever has the largest part of one missing. */
function splitOracle(whole: bigint, among: readonly WorkPart[]): Map<bigint, bigint> {
  const total = among.reduce((sum, part) => sum.plus(new Rational(part.work)), new Rational(0n));
  const result = new Map(among.map((part) => [part.id, 0n]));
  if (total.top === 0n) return result;
  const missing = among.map((part) => {
    const quota = new Rational(whole).times(new Rational(part.work)).over(total);
    result.set(part.id, quota.floor());
    return { id: part.id, fraction: quota.minus(new Rational(quota.floor())) };
  });
  let left = whole - [...result.values()].reduce((sum, one) => sum + one, 0n);
  while (left > 0n) {
    let best = missing[0]!;
    for (const one of missing) {
      const order = one.fraction.compare(best.fraction);
      // Of equals the first one stays.
      if (order > 0) best = one;
    }
    result.set(best.id, result.get(best.id)! + 1n);
    missing.splice(missing.indexOf(best), 1);
    left -= 1n;
  }
  return result;
}

test('a split is what fractions say, and adds up to the amount', () => {
  fc.assert(
    fc.property(amount, parts, (whole, among) => {
      const result = splitByWork(whole, among);
      assert.deepEqual(new Map([...result].sort()), new Map([...splitOracle(whole, among)].sort()));
      const sum = [...result.values()].reduce((all, one) => all + one, 0n);
      assert.equal(sum, among.some((part) => part.work > 0n) ? whole : 0n);
    }),
    { numRuns: 400 },
  );
});

test('the order of the parts decides ties and nothing else', () => {
  const shuffled = parts.chain((among) =>
    fc.tuple(
      fc.constant(among),
      fc.shuffledSubarray(among, { minLength: among.length, maxLength: among.length }),
    ),
  );
  fc.assert(
    fc.property(amount, shuffled, (whole, [one, other]) => {
      const total = one.reduce((sum, part) => sum + part.work, 0n);
      /** What those with the same fraction get together. */
      const groups = (among: readonly WorkPart[]) => {
        const sums = new Map<bigint, bigint>();
        for (const [id, units] of splitByWork(whole, among)) {
          const part = one.find((each) => each.id === id)!;
          const fraction = total === 0n ? 0n : (whole * part.work) % total;
          sums.set(fraction, (sums.get(fraction) ?? 0n) + units);
        }
        return [...sums].sort(([x], [y]) => (x < y ? -1 : 1));
      };
      assert.deepEqual(groups(one), groups(other));
    }),
  );
});

test('more work never gets less, and never gives another more', () => {
  fc.assert(
    fc.property(amount, parts, fc.nat(), work, (whole, among, pick, more) => {
      const lucky = among[pick % among.length]!;
      const before = splitByWork(whole, among);
      const after = splitByWork(
        whole,
        among.map((part) => (part === lucky ? { ...part, work: part.work + more } : part)),
      );
      if (among.every((part) => part.work === 0n)) return;
      assert.ok(after.get(lucky.id)! >= before.get(lucky.id)!);
      const others = (result: Map<bigint, bigint>) => whole - result.get(lucky.id)!;
      assert.ok(others(after) <= others(before));
    }),
    { numRuns: 1_000 },
  );
});

test('equal work differs by at most one unit, to who stands first; no work gets nothing', () => {
  fc.assert(
    fc.property(amount, parts, (whole, among) => {
      const result = splitByWork(whole, among);
      for (const a of among) {
        if (a.work === 0n) assert.equal(result.get(a.id), 0n);
        for (const b of among) {
          if (a.work !== b.work || a.id >= b.id) continue;
          const difference = result.get(a.id)! - result.get(b.id)!;
          assert.ok(difference === 0n || difference === 1n);
        }
      }
    }),
  );
});

test('20,000 parts from 2^0 to 2^128 share one satoshi and 21 million BTC exactly', () => {
  const random = createRandom(5);
  const among = Array.from({ length: 20_000 }, (_, at) => ({
    id: BigInt(at),
    work: BigInt(random.u32()) << BigInt(random.below(97)),
  }));
  for (const whole of [0n, 1n, 19_999n, 312_500_000n, MONEY_MAX_SATS]) {
    const sum = [...splitByWork(whole, among).values()].reduce((all, one) => all + one, 0n);
    assert.equal(sum, whole);
  }
});

test('a negative amount, negative work and an id that stands twice are bugs', () => {
  assert.throws(() => splitByWork(-1n, [{ id: 1n, work: 1n }]), RangeError);
  assert.throws(() => splitByWork(1n, [{ id: 1n, work: -1n }]), RangeError);
  const twice = [
    { id: 1n, work: 1n },
    { id: 1n, work: 0n },
  ];
  assert.throws(() => splitByWork(1n, twice), RangeError);
  assert.deepEqual(splitByWork(5n, []), new Map());
});
