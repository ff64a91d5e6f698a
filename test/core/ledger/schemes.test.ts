import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import {
  decodeBits,
  difficultyOfTarget,
  workOfDifficulty,
} from '../../../src/core/bitcoin/target.ts';
import { networkWorkOfBits, subsidySats } from '../../../src/core/ledger/reward.ts';
import type { RoundMember } from '../../../src/core/ledger/round.ts';
import type { PoolRules, Scheme, WindowSpan } from '../../../src/core/ledger/rules.ts';
import { ppsCredit, ppsValue } from '../../../src/core/ledger/schemes/pps.ts';
import type { Find } from '../../../src/core/ledger/schemes/scheme.ts';
import { SCHEMES, schemeAt } from '../../../src/core/ledger/schemes.ts';
import { Rational, rationalOfNumber } from '../../tools/rational.ts';

const BLOCK = 312_500_000n;
const MINUTE_MS = 60_000;
const NAMES = Object.keys(SCHEMES) as Scheme[];
/** Those that pay blocks by a window of many shares. */
const WINDOWED = ['pplns', 'prop', 'direct'] as const;

type Share = { seq: bigint; account: number; work: bigint; atMs: number };

/** Difficulties from 1e-9 to 1e15, all sizes alike. */
const difficulty = fc
  .tuple(fc.integer({ min: -9, max: 14 }), fc.double({ min: 1, max: 9.99, noNaN: true }))
  .map(([power, factor]) => factor * 10 ** power);
const anyShares = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 6 }), difficulty), { minLength: 1, maxLength: 40 })
  .map((rows) => logOf(rows.map(([account, one]) => ({ account, work: workOfDifficulty(one) }))));
const anyWindow: fc.Arbitrary<PoolRules['window']> = fc.oneof(
  fc
    .bigInt({ min: 1n, max: 8_000_000n })
    .map((factorPpm) => ({ kind: 'work' as const, factorPpm })),
  fc.constant({ kind: 'days' as const, days: 1 / 72 }),
);
const bits = fc.constantFrom(
  0x207fffff,
  0x1e0377ae,
  0x1d00ffff,
  0x1b0404cb,
  0x170331db,
  0x03000001,
);
const reward = fc.oneof(
  fc.bigInt({ min: 0n, max: 3n }),
  fc.bigInt({ min: 0n, max: MONEY_MAX_SATS }),
);

function logOf(rows: readonly { account: number; work: bigint }[]): Share[] {
  return rows.map(({ account, work }, at) => ({
    seq: BigInt(at + 1),
    account,
    work,
    atMs: at * MINUTE_MS,
  }));
}

function findOf(shares: readonly Share[], networkBits: number, window: PoolRules['window']): Find {
  const last = shares.at(-1)!;
  return {
    seq: last.seq,
    foundAtMs: last.atMs,
    networkWork: networkWorkOfBits(networkBits),
    previousSeq: last.seq / 3n,
    window,
  };
}

/** The window by the letter: backwards, share by share, in fractions. */
function countWindow(shares: readonly Share[], span: WindowSpan): Map<number, bigint> {
  const works = new Map<number, bigint>();
  let room = new Rational(span.kind === 'work' ? span.work : 0n);
  for (const { seq, account, work, atMs } of [...shares].reverse()) {
    if (span.kind === 'since' && seq <= span.afterSeq) continue;
    if (span.kind === 'time' && atMs <= span.afterMs) continue;
    let counted = work;
    if (span.kind === 'work') {
      if (new Rational(work).compare(room) > 0) counted = room.floor();
      room = room.minus(new Rational(counted));
    }
    works.set(account, (works.get(account) ?? 0n) + counted);
  }
  return works;
}

function membersOf(works: Map<number, bigint>, rates = { feePpm: 10_000, donationPpm: 500 }) {
  return [...works].map(
    ([account, work]): RoundMember => ({
      accountId: BigInt(account + 1),
      address: `m${account}`,
      work,
      ...rates,
    }),
  );
}

/** From a log to credits by account, the way the rules put it together. */
function payBlock(scheme: Scheme, shares: readonly Share[], find: Find, rewardSats: bigint) {
  const span = SCHEMES[scheme].span(find);
  const members = span === null ? [] : membersOf(countWindow(shares, span));
  const result = SCHEMES[scheme].credit(rewardSats, members);
  const credits = new Map(
    result.credits.filter((one) => one.creditSats > 0n).map((one) => [one.address, one.creditSats]),
  );
  return { ...result, credits };
}

test('every scheme gives away the reward, exactly and to nobody less than nothing', () => {
  fc.assert(
    fc.property(anyShares, bits, anyWindow, reward, (shares, networkBits, window, rewardSats) => {
      const find = findOf(shares, networkBits, window);
      for (const name of NAMES) {
        const { credits, ...rest } = payBlock(name, shares, find, rewardSats);
        const amounts = [...credits.values(), rest.operatorSats, rest.developerSats];
        amounts.push(rest.reserveSats);
        assert.ok(amounts.every((sats) => sats >= 0n));
        assert.equal(
          amounts.reduce((sum, sats) => sum + sats, 0n),
          rewardSats,
          name,
        );
      }
    }),
    { numRuns: 300 },
  );
});

test('every account’s credit is its part of the window, by fractions, within a satoshi', () => {
  fc.assert(
    fc.property(anyShares, bits, anyWindow, (shares, networkBits, window) => {
      const find = findOf(shares, networkBits, window);
      for (const name of [...WINDOWED, 'solo'] as const) {
        const works = countWindow(shares, SCHEMES[name].span(find)!);
        const total = [...works.values()].reduce((sum, work) => sum + work, 0n);
        if (total === 0n) continue;
        const { credits } = payBlock(name, shares, find, BLOCK);
        for (const [account, work] of works) {
          // 1 % and 0.05 % go to operator and developer; the rest is all theirs.
          const exact = new Rational(BLOCK * work * 989_500n, total * 1_000_000n);
          const off = new Rational(credits.get(`m${account}`) ?? 0n).minus(exact);
          assert.ok(off.compare(new Rational(3n)) < 0 && off.compare(new Rational(-1n)) > 0, name);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test('the order of shares inside a window does not matter', () => {
  const turned = anyShares.chain((shares) =>
    fc.tuple(
      fc.constant(shares),
      fc.shuffledSubarray(shares, { minLength: shares.length, maxLength: shares.length }),
    ),
  );
  fc.assert(
    fc.property(turned, bits, reward, ([shares, other], networkBits, rewardSats) => {
      // A window that holds the whole log, so that no share stands at its edge.
      const find = { ...findOf(shares, networkBits, { kind: 'days', days: 365 }), previousSeq: 0n };
      const again = other.map(({ account, work }, at) => ({ ...shares[at]!, account, work }));
      for (const name of WINDOWED) {
        assert.deepEqual(
          payBlock(name, shares, find, rewardSats),
          payBlock(name, again, find, rewardSats),
        );
      }
    }),
    { numRuns: 200 },
  );
});

test('splitting a share into two, or merging two into one, changes nothing', () => {
  fc.assert(
    fc.property(
      fc.tuple(
        anyShares,
        fc.nat(),
        fc.nat(),
        bits,
        fc.bigInt({ min: 1n, max: 8_000_000n }),
        reward,
      ),
      ([shares, pick, cut, networkBits, factorPpm, rewardSats]) => {
        const at = pick % shares.length;
        const { account, work } = shares[at]!;
        const first = (work * BigInt(cut % 1_000)) / 1_000n;
        const rows = shares.flatMap((one, i) =>
          i === at
            ? [
                { account, work: first },
                { account, work: work - first },
              ]
            : [one],
        );
        const window = { kind: 'work', factorPpm } as const;
        const before = findOf(shares, networkBits, window);
        const log = logOf(rows);
        const after = { ...findOf(log, networkBits, window) };
        // The block before this one ended at the same share, by its new number.
        after.previousSeq = before.previousSeq + (BigInt(at) < before.previousSeq ? 1n : 0n);
        for (const name of WINDOWED) {
          assert.deepEqual(
            payBlock(name, log, after, rewardSats),
            payBlock(name, shares, before, rewardSats),
            name,
          );
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('a share with more work never pays its account less', () => {
  fc.assert(
    fc.property(
      fc.tuple(anyShares, fc.nat(), difficulty, bits, anyWindow, reward),
      ([shares, pick, more, networkBits, window, rewardSats]) => {
        const at = pick % shares.length;
        const { account } = shares[at]!;
        const richer = shares.map((one, i) =>
          i === at ? { ...one, work: one.work + workOfDifficulty(more) } : one,
        );
        const find = findOf(shares, networkBits, window);
        for (const name of WINDOWED) {
          const before = payBlock(name, shares, find, rewardSats).credits.get(`m${account}`) ?? 0n;
          const after = payBlock(name, richer, find, rewardSats).credits.get(`m${account}`) ?? 0n;
          // In a window by work, more of one share can push an older one of the same account over the edge, never more than it adds.
          assert.ok(after >= before, `${name}: ${before} before, ${after} after`);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('the window of PPLNS is the factor times the network’s difficulty, by fractions', () => {
  fc.assert(
    fc.property(bits, fc.bigInt({ min: 1n, max: 100_000_000n }), (networkBits, factorPpm) => {
      const find = findOf(logOf([{ account: 0, work: 1n }]), networkBits, {
        kind: 'work',
        factorPpm,
      });
      for (const name of ['pplns', 'direct'] as const) {
        const span = SCHEMES[name].span(find);
        assert.ok(span?.kind === 'work');
        const exact = rationalOfNumber(difficultyOfTarget(decodeBits(networkBits)!))
          .times(new Rational(factorPpm << 48n, 1_000_000n))
          .floor();
        const off = span.work - exact;
        // A double knows the difficulty to 53 bits, and a window is never empty.
        const slack = (exact >> 52n) + factorPpm / 1_000_000n + 2n;
        assert.ok(span.work > 0n && off <= slack && -off <= slack, `${span.work} ${exact}`);
      }
    }),
  );
});

test('the smallest factor at the smallest difficulty still asks for one unit of work', () => {
  const shares = logOf([{ account: 0, work: 9n }]);
  const find = findOf(shares, 0x207fffff, { kind: 'work', factorPpm: 1n });
  assert.deepEqual(SCHEMES.pplns.span(find), { kind: 'work', work: 1n });
});

test('a window by days begins so long before the find, PROP’s after the block before, SOLO’s is one share', () => {
  const find: Find = {
    seq: 90n,
    foundAtMs: 1_000 * 86_400_000,
    networkWork: 1n << 48n,
    previousSeq: 40n,
    window: { kind: 'days', days: 7 },
  };
  const afterMs = 993 * 86_400_000;
  assert.deepEqual(SCHEMES.pplns.span(find), { kind: 'time', afterMs });
  assert.deepEqual(SCHEMES.direct.span(find), { kind: 'time', afterMs });
  assert.deepEqual(SCHEMES.prop.span(find), { kind: 'since', afterSeq: 40n });
  assert.deepEqual(SCHEMES.solo.span(find), { kind: 'since', afterSeq: 89n });
  for (const name of ['pps', 'fpps', 'pool'] as const) assert.equal(SCHEMES[name].span(find), null);
});

test('SOLO pays the finder, PPS and FPPS the reserve, POOL the operator', () => {
  const shares = logOf([
    { account: 0, work: 5n },
    { account: 1, work: 1n },
  ]);
  const find = findOf(shares, 0x1d00ffff, { kind: 'work', factorPpm: 2_000_000n });
  const solo = payBlock('solo', shares, find, 1_000_000n);
  assert.deepEqual(solo.credits, new Map([['m1', 989_500n]]));
  assert.deepEqual([solo.operatorSats, solo.developerSats], [10_000n, 500n]);
  for (const name of ['pps', 'fpps'] as const) {
    const result = payBlock(name, shares, find, 1_000_000n);
    assert.equal(result.reserveSats, 1_000_000n);
    assert.equal(SCHEMES[name].settles, 'reserve');
  }
  assert.equal(payBlock('pool', shares, find, 1_000_000n).operatorSats, 1_000_000n);
  for (const name of NAMES) {
    assert.equal(SCHEMES[name].name, name);
    assert.throws(() => SCHEMES[name].credit(-1n, []), RangeError, name);
  }
});

test('PPS takes a block for its subsidy, FPPS for what the job’s coinbase pays', () => {
  const job = { height: 840_000, jobValueSats: 350_000_000n };
  assert.equal(SCHEMES.pps.blockValueSats!(job, 'mainnet'), 312_500_000n);
  assert.equal(SCHEMES.fpps.blockValueSats!(job, 'mainnet'), 350_000_000n);
  const unknown = { height: 300, jobValueSats: 0n };
  assert.equal(SCHEMES.fpps.blockValueSats!(unknown, 'regtest'), subsidySats(300, 'regtest'));
  for (const name of ['pplns', 'prop', 'solo', 'direct', 'pool'] as const) {
    assert.equal(SCHEMES[name].blockValueSats, null);
  }
});

const groups = fc.array(
  fc.record({
    work: fc.oneof(difficulty.map(workOfDifficulty), fc.bigInt({ min: 0n, max: 1n << 128n })),
    bits,
    valueSats: fc.bigInt({ min: 0n, max: 10_000_000_000n }),
  }),
  { minLength: 1, maxLength: 20 },
);

test('a share is worth its part of a block, by fractions, down to 2^-32 satoshi', () => {
  fc.assert(
    fc.property(groups, (list) => {
      const exact = list.reduce((sum, { work, bits: networkBits, valueSats }) => {
        const chance = new Rational(work).over(new Rational(networkWorkOfBits(networkBits)));
        return sum.plus(chance.times(new Rational(valueSats << 32n)));
      }, new Rational(0n));
      const short = exact.minus(new Rational(ppsValue(list)));
      assert.ok(short.compare(new Rational(0n)) >= 0);
      assert.ok(short.compare(new Rational(BigInt(list.length))) < 0);
      assert.equal(ppsValue([...list].reverse()), ppsValue(list));
    }),
    { numRuns: 300 },
  );
  // All of the work of a block is worth the block.
  const whole = { work: networkWorkOfBits(0x1b0404cb), bits: 0x1b0404cb, valueSats: BLOCK };
  assert.equal(ppsValue([whole]), BLOCK << 32n);
  assert.throws(() => ppsValue([{ ...whole, work: -1n }]), RangeError);
  assert.throws(() => ppsValue([{ ...whole, valueSats: -1n }]), RangeError);
  assert.throws(() => ppsValue([{ ...whole, bits: 0 }]), RangeError);
});

test('more work is never worth less, and work paid in pieces no more than in one', () => {
  fc.assert(
    fc.property(groups, fc.nat(), (list, cut) => {
      const one = list[0]!;
      const first = (one.work * BigInt(cut % 1_000)) / 1_000n;
      const pieces = [
        { ...one, work: first },
        { ...one, work: one.work - first },
      ];
      const [whole, split] = [ppsValue([one]), ppsValue(pieces)];
      assert.ok(split <= whole && whole - split <= 1n);
      assert.ok(ppsValue([{ ...one, work: first }]) <= whole);
    }),
  );
});

test('what is paid over many ranges is what is due in all, less than a satoshi short', () => {
  const rates = fc.record({
    feePpm: fc.integer({ min: 0, max: 1_000_000 }),
    donationPpm: fc.integer({ min: 0, max: 1_000_000 }),
  });
  fc.assert(
    fc.property(groups, rates, (list, { feePpm, donationPpm }) => {
      let carried = 0n;
      let paidSats = 0n;
      let donations = 0n;
      let values = 0n;
      for (const group of list) {
        const value = ppsValue([group]);
        const {
          creditSats,
          carried: left,
          donation,
        } = ppsCredit({
          value,
          carried,
          feePpm,
          donationPpm,
        });
        assert.ok(left >= 0n && left < 1n << 32n && creditSats >= 0n && donation >= 0n);
        carried = left;
        paidSats += creditSats;
        donations += donation;
        values += value;
      }
      const given = Math.min(donationPpm, 1_000_000 - feePpm);
      const exact = (ppm: number) => new Rational(values * BigInt(ppm), 1_000_000n);
      const short = (sum: bigint, ppm: number) => exact(ppm).minus(new Rational(sum));
      const limit = new Rational(BigInt(list.length));
      for (const off of [
        short((paidSats << 32n) + carried, 1_000_000 - feePpm - given),
        short(donations, given),
      ]) {
        assert.ok(off.compare(new Rational(0n)) >= 0 && off.compare(limit) < 0);
      }
    }),
    { numRuns: 300 },
  );
});

test('a change of scheme cuts the windows behind it, but PPLNS and direct count alike', () => {
  const history = [
    { fromSeq: 1n, scheme: 'pps' },
    { fromSeq: 100n, scheme: 'pplns' },
    { fromSeq: 200n, scheme: 'direct' },
    { fromSeq: 300n, scheme: 'prop' },
    { fromSeq: 400n, scheme: 'pplns' },
    { fromSeq: 450n, scheme: 'pplns' },
  ] as const;
  const expected: [bigint, Scheme, bigint][] = [
    [1n, 'pps', 0n],
    [99n, 'pps', 0n],
    // Downgraded: no share that PPS has paid counts again.
    [100n, 'pplns', 99n],
    [199n, 'pplns', 99n],
    [250n, 'direct', 99n],
    [300n, 'prop', 299n],
    [999n, 'pplns', 399n],
  ];
  for (const [seq, scheme, afterSeq] of expected) {
    assert.deepEqual(schemeAt(history, seq), { scheme, afterSeq }, `${seq}`);
    assert.deepEqual(schemeAt([...history].reverse(), seq), { scheme, afterSeq }, `${seq}`);
  }
  assert.equal(schemeAt(history, 0n), null);
  assert.equal(schemeAt([], 5n), null);
});
