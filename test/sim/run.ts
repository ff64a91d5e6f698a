/**
 * Runs the simulation by hand.
 *
 *   node test/sim/run.ts --seed 7                    one seed, 300 steps
 *   node test/sim/run.ts --seed 1 --seeds 500        seeds 1 to 500
 *   --steps N     steps per seed (300)
 *   --trace       prints every step and what the pool logs
 *   --break NAME  breaks the pool on purpose (names: breaks.ts)
 *   --no-shrink   leaves a failing list of steps as long as it is
 */
import { parseArgs } from 'node:util';
import { BREAKS, type BreakName } from './breaks.ts';
import { makeSteps } from './steps.ts';
import { runWorld, shrinkFailure, type WorldOptions } from './world.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    steps: { type: 'string', default: '300' },
    trace: { type: 'boolean', default: false },
    break: { type: 'string', multiple: true, default: [] },
    'no-shrink': { type: 'boolean', default: false },
  },
});
for (const name of values.break) {
  if (!Object.hasOwn(BREAKS, name))
    throw new Error(`no break "${name}": ${Object.keys(BREAKS).join(', ')}`);
}
const breaks = new Set(values.break as BreakName[]);
const first = Number(values.seed);
const startedMs = performance.now();
let virtualMs = 0;
let failures = 0;
const sum = {
  crashes: 0,
  accepted: 0,
  rejected: 0,
  stored: 0,
  blocks: 0,
  blocksReceived: 0,
  failingDiskLosses: 0,
};
const crashedAt = new Map<string, number>();
for (let seed = first; seed < first + Number(values.seeds); seed++) {
  const options: WorldOptions = {
    seed,
    steps: makeSteps(seed, Number(values.steps)),
    breaks,
    ...(values.trace ? { trace: (text: string) => console.log(text) } : {}),
  };
  const { failure, stats } = await runWorld(options);
  virtualMs += stats.virtualMs;
  for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += stats[key];
  for (const [point, count] of stats.crashedAt)
    crashedAt.set(point, (crashedAt.get(point) ?? 0) + count);
  if (failure === null) continue;
  failures += 1;
  console.log(`seed ${seed} breaks ${failure.promise} at step ${failure.step}: ${failure.text}`);
  if (values['no-shrink'] || values.trace) continue;
  const fewer = await shrinkFailure(options, failure.promise, 150);
  console.log(`  shrunk to ${fewer.length} steps: ${JSON.stringify(fewer)}`);
}
const tookMs = performance.now() - startedMs;
console.log(JSON.stringify(sum));
console.log(
  [...crashedAt]
    .sort()
    .map(([point, count]) => `${point} ${count}`)
    .join(', '),
);
console.log(
  `${values.seeds} seeds, ${failures} failures, ${(virtualMs / 3_600_000).toFixed(1)} virtual hours in ${(tookMs / 1000).toFixed(1)} s ` +
    `(${Math.round(virtualMs / tookMs)} times real time)`,
);
process.exitCode = failures > 0 ? 1 : 0;
