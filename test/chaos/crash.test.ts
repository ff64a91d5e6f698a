/** The short crash test of the suite; `node test/chaos/run.ts --minutes 60` is the long one. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crashAndCompare } from './crash.ts';

test('P01: what was acknowledged survives kill -9 of the program, once', async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
  t.diagnostic(`seed ${seed}`);
  const report = await crashAndCompare({
    seed,
    rounds: 4,
    forMs: 14_000,
    minersPerRound: 6,
    say: (text) => t.diagnostic(text),
  });
  assert.deepEqual(report.lost, [], `seed ${seed}: acknowledged and lost`);
  assert.deepEqual(report.twice, [], `seed ${seed}: stored twice`);
  assert.ok(report.kills >= 2, `only ${report.kills} kills in the time`);
  assert.ok(report.acknowledged > 50, `only ${report.acknowledged} shares were acknowledged`);
  assert.equal(report.exitCode, 0, 'the last run ends in order');
});
