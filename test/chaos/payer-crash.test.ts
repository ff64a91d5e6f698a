/** A payer killed anywhere pays everybody once: see `payer-crash.ts`, which also says how to run more of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SERVER_KINDS } from '../tools/database.ts';
import { POINTS, runPayerCrashes } from './payer-crash.ts';

const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 1_000_000));
const cases = Number(process.env.PAYER_CASES ?? 22);

test('a payer that dies at any point, with any node, alone or not, pays each due amount once', async () => {
  console.log(`TEST_SEED=${seed} PAYER_CASES=${cases}`);
  const server = await SERVER_KINDS[0]!.start();
  try {
    const report = await runPayerCrashes(await server.freshDatabase(), { seed, cases });
    if (cases >= POINTS.length)
      assert.deepEqual(
        POINTS.filter((point) => !report.deaths.has(point)),
        [],
        'every point killed somebody',
      );
    console.log(`${report.cases} cases, ${report.batches} batches, ${report.paidSats} sat`);
  } finally {
    await server.stop();
  }
});
