import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { coinbaseOutputs } from '../../../src/core/work/payout.ts';

const MINER = Uint8Array.of(0x51);
const POOL = Uint8Array.of(0x52);

test('outputs add up to the reward, none is dust but the whole, and the finder comes first', () => {
  fc.assert(
    fc.property(
      fc.bigInt({ min: 0n, max: 2_100_000_000_000_000n }),
      fc.integer({ min: 0, max: 1_000_000 }),
      (valueSats, ppm) => {
        const outputs = coinbaseOutputs(MINER, { ppm, script: POOL }, valueSats);
        assert.equal(
          outputs.reduce((sum, output) => sum + output.valueSats, 0n),
          valueSats,
        );
        const fee = outputs.find(({ script }) => script === POOL);
        if (fee !== undefined) assert.ok(fee.valueSats >= 546n);
        if (outputs.length === 2) assert.equal(outputs[0]!.script, MINER);
      },
    ),
  );
});

test('one percent of 3.125 coins, rounded down in favour of the finder', () => {
  const outputs = coinbaseOutputs(MINER, { ppm: 10_000, script: POOL }, 312_500_099n);
  assert.deepEqual(
    outputs.map(({ valueSats }) => valueSats),
    [309_375_099n, 3_125_000n],
  );
});

test('without a fee, or with one that would be dust, there is one output', () => {
  assert.equal(coinbaseOutputs(MINER, null, 5n).length, 1);
  assert.equal(coinbaseOutputs(MINER, { ppm: 10_000, script: POOL }, 54_599n).length, 1);
  assert.equal(coinbaseOutputs(MINER, { ppm: 10_000, script: POOL }, 54_600n).length, 2);
});
