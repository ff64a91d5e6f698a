import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { concatBytes } from '../../../src/core/bitcoin/bytes.ts';
import { dustSats } from '../../../src/core/bitcoin/dust.ts';
import { decodeTx } from '../../../src/core/bitcoin/tx.ts';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import { EXTRANONCE_BYTES } from '../../../src/core/work/job.ts';
import {
  buildPoolCoinbase,
  COINBASE_CLASSES,
  type CoinbaseRules,
  coinbaseClass,
  coinbaseOutputs,
} from '../../../src/core/work/payout.ts';
import { createJob } from '../../services/stratumd/gateway-rig.ts';

const MINER = Uint8Array.of(0, 20, ...new Array<number>(20).fill(1));
const POOL = Uint8Array.of(0, 20, ...new Array<number>(20).fill(2));
const NO_LIMIT = 1_000_000;

/** Output scripts of the five kinds, all different. */
function scriptOf(number: number): Uint8Array {
  const hash = (bytes: number) => [number >> 8, number & 0xff, ...new Array(bytes - 2).fill(7)];
  switch (number % 5) {
    case 0:
      return Uint8Array.of(0x76, 0xa9, 20, ...hash(20), 0x88, 0xac);
    case 1:
      return Uint8Array.of(0xa9, 20, ...hash(20), 0x87);
    case 2:
      return Uint8Array.of(0, 20, ...hash(20));
    case 3:
      return Uint8Array.of(0, 32, ...hash(32));
    default:
      return Uint8Array.of(0x51, 32, ...hash(32));
  }
}

const money = fc.bigInt({ min: 0n, max: 2_100_000_000_000_000n });

const plan: fc.Arbitrary<CoinbasePlan> = fc
  .array(
    fc.record({
      weight: fc.bigInt({ min: 0n, max: 2n ** 80n }),
      carrySats: fc.bigInt({ min: -(10n ** 10n), max: 10n ** 10n }),
    }),
    { maxLength: 60 },
  )
  .map((entries) => ({
    planId: '0123456789abcdef',
    pool: 'main',
    lastSeq: 7n,
    totalWeight: entries.reduce((sum, { weight }) => sum + weight, 0n),
    entries: entries.map((entry, at) => ({ ...entry, address: `a${at}`, script: scriptOf(at) })),
    createdAtMs: 1,
  }));

const finder = fc
  .array(fc.bigInt({ min: 1n, max: 10_000n }), { minLength: 1, maxLength: 8 })
  .map((weights) => weights.map((weight, at) => ({ script: scriptOf(1_000 + at), weight })));

const rules: fc.Arbitrary<CoinbaseRules> = fc.oneof(
  fc.constant({ mode: 'pool' as const, script: POOL, address: 'pool' }),
  fc.record({
    mode: fc.constantFrom('solo' as const, 'direct' as const),
    fee: fc.option(
      fc.record({ ppm: fc.integer({ min: 0, max: 1_000_000 }), script: fc.constant(POOL) }),
    ),
  }),
);

const solo = (ppm: number | null, valueSats: bigint) =>
  coinbaseOutputs(
    { mode: 'solo', fee: ppm === null ? null : { ppm, script: POOL } },
    { finder: [{ script: MINER, weight: 1n }], plan: null, outputBytesMax: NO_LIMIT },
    valueSats,
  ).outputs;

test('whatever the rules, the outputs add up to the last satoshi and each goes to somebody', () => {
  fc.assert(
    fc.property(rules, finder, fc.option(plan), money, fc.nat(4_000), (...given) => {
      const [one, parts, maybePlan, valueSats, outputBytesMax] = given;
      const payees = { finder: parts, plan: maybePlan, outputBytesMax };
      const { outputs, planId } = coinbaseOutputs(one, payees, valueSats);
      assert.equal(
        outputs.reduce((sum, output) => sum + output.valueSats, 0n),
        valueSats,
      );
      assert.ok(outputs.length > 0 && outputs.every((output) => output.valueSats >= 0n));
      assert.equal(new Set(outputs.map(({ script }) => script)).size, outputs.length);
      // The same again for the auditor, from the same facts.
      assert.deepEqual(coinbaseOutputs(one, payees, valueSats), { outputs, planId });
      if (planId === '') return;
      assert.equal(one.mode, 'direct');
      const bytes = outputs.reduce((sum, { script }) => sum + 9 + script.length, 0);
      assert.ok(bytes <= outputBytesMax, 'over the budget');
      for (const output of outputs) assert.ok(output.valueSats >= dustSats(output.script));
    }),
    { numRuns: 1_000 },
  );
});

describe('solo', () => {
  test('outputs add up, none is dust but the whole, and the finder comes first', () => {
    fc.assert(
      fc.property(money, fc.integer({ min: 0, max: 1_000_000 }), (valueSats, ppm) => {
        const outputs = solo(ppm, valueSats);
        const fee = outputs.find(({ script }) => script === POOL);
        if (fee !== undefined) assert.ok(fee.valueSats >= 546n);
        if (outputs.length === 2) assert.equal(outputs[0]!.script, MINER);
      }),
    );
  });

  test('one percent of 3.125 coins, rounded down in favour of the finder', () => {
    assert.deepEqual(
      solo(10_000, 312_500_099n).map(({ valueSats }) => valueSats),
      [309_375_099n, 3_125_000n],
    );
  });

  test('without a fee, or with one that would be dust, there is one output; with all of it, too', () => {
    assert.equal(solo(null, 5n).length, 1);
    assert.equal(solo(10_000, 54_599n).length, 1);
    assert.equal(solo(10_000, 54_600n).length, 2);
    assert.deepEqual(solo(1_000_000, 5_000n), [{ script: POOL, valueSats: 5_000n }]);
  });

  test('a split account is paid at every address, in proportion, after the fee', () => {
    const parts = [
      { script: scriptOf(0), weight: 1n },
      { script: scriptOf(2), weight: 3n },
    ];
    const { outputs } = coinbaseOutputs(
      { mode: 'solo', fee: { ppm: 200_000, script: POOL } },
      { finder: parts, plan: null, outputBytesMax: NO_LIMIT },
      1_000_000n,
    );
    assert.deepEqual(outputs, [
      { script: scriptOf(2), valueSats: 600_000n },
      { script: scriptOf(0), valueSats: 200_000n },
      { script: POOL, valueSats: 200_000n },
    ]);
    // So little that a part would be dust: the others have it.
    const { outputs: few } = coinbaseOutputs(
      { mode: 'solo', fee: null },
      { finder: parts, plan: null, outputBytesMax: NO_LIMIT },
      1_000n,
    );
    assert.deepEqual(few, [{ script: scriptOf(2), valueSats: 1_000n }]);
    // All of them dust: somebody must have it.
    const { outputs: least } = coinbaseOutputs(
      { mode: 'solo', fee: null },
      { finder: parts, plan: null, outputBytesMax: NO_LIMIT },
      100n,
    );
    assert.deepEqual(least, [{ script: scriptOf(0), valueSats: 100n }]);
  });
});

describe('direct', () => {
  const entries = [3n, 2n, 1n].map((weight, at) => ({
    address: `a${at}`,
    script: scriptOf(2 + 5 * at),
    weight,
    carrySats: 0n,
  }));
  const known: CoinbasePlan = {
    planId: 'feedfeedfeedfeed',
    pool: 'main',
    lastSeq: 1n,
    totalWeight: 6n,
    entries,
    createdAtMs: 0,
  };
  const direct: CoinbaseRules = { mode: 'direct', fee: { ppm: 10_000, script: POOL } };
  const self = [{ script: MINER, weight: 1n }];

  test('pays whom the plan names, which has the fee in it already', () => {
    const { outputs, planId } = coinbaseOutputs(
      direct,
      { finder: self, plan: known, outputBytesMax: NO_LIMIT },
      6_000_000n,
    );
    assert.equal(planId, known.planId);
    assert.deepEqual(
      outputs.map(({ valueSats }) => valueSats),
      [3_000_000n, 2_000_000n, 1_000_000n],
    );
  });

  test('pays the finder as solo does when there is no plan, or it pays nobody', () => {
    const expected = [
      { script: MINER, valueSats: 5_940_000n },
      { script: POOL, valueSats: 60_000n },
    ];
    const nobody = { ...known, totalWeight: 0n, entries: [] };
    for (const one of [
      null,
      nobody,
      { ...known, entries: [{ ...entries[0]!, carrySats: -(10n ** 12n) }] },
    ]) {
      const paid = coinbaseOutputs(
        direct,
        { finder: self, plan: one, outputBytesMax: NO_LIMIT },
        6_000_000n,
      );
      assert.deepEqual(paid, { outputs: expected, planId: '' });
    }
    const none = coinbaseOutputs(
      direct,
      { finder: self, plan: known, outputBytesMax: 30 },
      6_000_000n,
    );
    assert.deepEqual(none, { outputs: expected, planId: '' });
  });

  test('a coinbase is never over the size it was given, nor heavier than the template leaves', () => {
    fc.assert(
      fc.property(
        plan,
        money,
        fc.constantFrom(...COINBASE_CLASSES),
        fc.boolean(),
        fc.integer({ min: 1_200, max: 80_000 }),
        (one, coinbaseValueSats, coinbaseBytesMax, isSegwit, coinbaseWeightMax) => {
          const job = createJob({
            coinbaseValueSats,
            coinbaseWeightMax,
            witnessCommitment: isSegwit ? new Uint8Array(38) : null,
          });
          const built = buildPoolCoinbase(job, {
            tag: '/a tag of some length/',
            rules: direct,
            finder: self,
            plan: one,
            coinbaseBytesMax,
          });
          assert.ok(built.ok, built.ok ? '' : built.reason);
          const { prefix, suffix } = built.parts;
          const bytes = prefix.length + EXTRANONCE_BYTES + suffix.length;
          assert.ok(bytes <= coinbaseBytesMax, `${bytes} of ${coinbaseBytesMax}`);
          assert.ok(4 * bytes + (isSegwit ? 36 : 0) <= coinbaseWeightMax);
        },
      ),
      { numRuns: 400 },
    );
  });

  test('room is used: twice the bytes, more people', () => {
    const many: CoinbasePlan = {
      ...known,
      totalWeight: 500n,
      entries: Array.from({ length: 500 }, (_, at) => ({
        address: `a${at}`,
        script: Uint8Array.of(0, 20, at >> 8, at & 0xff, ...new Array<number>(18).fill(9)),
        weight: 1n,
        carrySats: 0n,
      })),
    };
    const job = createJob({ witnessCommitment: new Uint8Array(38) });
    const counts = COINBASE_CLASSES.map((coinbaseBytesMax) => {
      const built = buildPoolCoinbase(job, {
        tag: '/t/',
        rules: direct,
        finder: self,
        plan: many,
        coinbaseBytesMax,
      });
      assert.ok(built.ok);
      const bytes = built.parts.prefix.length + EXTRANONCE_BYTES + built.parts.suffix.length;
      // Not one more output would have fitted.
      if (coinbaseBytesMax < 16_384) assert.ok(bytes + 31 + 2 > coinbaseBytesMax);
      const { prefix, suffix } = built.parts;
      const decoded = decodeTx(concatBytes(prefix, new Uint8Array(EXTRANONCE_BYTES), suffix));
      assert.ok(decoded.ok);
      const { outputs } = decoded.tx;
      assert.equal(
        outputs.reduce((sum, { valueSats }) => sum + valueSats, 0n),
        job.coinbaseValueSats,
      );
      return outputs.length - 1;
    });
    assert.deepEqual(
      counts,
      [...counts].sort((a, b) => a - b),
    );
    assert.ok(counts[0]! >= 4 && counts.at(-1) === 500, String(counts));
  });
});

test('classes: the largest that fits, and the smallest when none does', () => {
  for (const one of COINBASE_CLASSES) {
    assert.equal(coinbaseClass(one), one);
    assert.equal(coinbaseClass(one + 1), one);
  }
  assert.equal(coinbaseClass(0), COINBASE_CLASSES[0]);
});
