/** A payer killed anywhere pays everybody once: see `payer-crash.ts`, which also says how to run more of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SERVER_KINDS } from '../tools/database.ts';
import { POINTS, runPayerCrashes } from './payer-crash.ts';

const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 1_000_000));
const cases = Number(process.env.PAYER_CASES ?? 22);
const ROUNDS_MAX = 4;

test('a payer that dies at any point, with any node, alone or not, pays each due amount once', async () => {
  console.log(`TEST_SEED=${seed} PAYER_CASES=${cases}`);
  const server = await SERVER_KINDS[0]!.start();
  try {
    // A node that is down may keep a payer from ever coming to the point that should kill it: then once more, by another seed.
    const missed = new Set<string>(POINTS);
    for (let round = 0; round < ROUNDS_MAX && (round === 0 || missed.size > 0); round += 1) {
      const report = await runPayerCrashes(await server.freshDatabase(), {
        seed: seed + round,
        cases,
      });
      for (const point of report.deaths.keys()) missed.delete(point);
      console.log(`${report.cases} cases, ${report.batches} batches, ${report.paidSats} sat`);
      if (cases < POINTS.length) return;
    }
    assert.deepEqual([...missed], [], 'every point killed somebody');
  } finally {
    await server.stop();
  }
});
