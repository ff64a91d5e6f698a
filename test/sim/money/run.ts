/**
 * Runs the simulation of money by hand.
 *
 *   node test/sim/money/run.ts --seed 7                 one seed: 20,000 shares, 40 blocks, 60 accounts, 60 kills
 *   node test/sim/money/run.ts --seed 1 --seeds 50      seeds 1 to 50
 *   --shares N --blocks N --accounts N --crashes N      size of each run
 *   --looks N     how often the judge looks (100)
 *   --deep        reorganisations deeper than maturity
 *   --poor        pools that pay by the share have little in reserve
 *   --trace       every step and what the processes log
 *   --break NAME  breaks the product on purpose (names: breaks.ts)
 *
 * PostgreSQL is real and private. Its commits are not synced to the disk: it is never killed here, the processes are.
 */
import { parseArgs } from 'node:util';
import { BREAKS, type BreakName } from './breaks.ts';
import { openMoneyServer } from './server.ts';
import { runMoney } from './world.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    seeds: { type: 'string', default: '1' },
    shares: { type: 'string', default: '20000' },
    blocks: { type: 'string', default: '40' },
    accounts: { type: 'string', default: '60' },
    crashes: { type: 'string', default: '60' },
    looks: { type: 'string', default: '100' },
    deep: { type: 'boolean', default: false },
    poor: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
    break: { type: 'string', multiple: true, default: [] },
  },
});
for (const name of values.break) {
  if (!Object.hasOwn(BREAKS, name))
    throw new Error(`no break "${name}": ${Object.keys(BREAKS).join(', ')}`);
}

/** What takes longer says how far it is. */
const QUIET_MS = 60_000;
const server = await openMoneyServer();
let failures = 0;
try {
  const first = Number(values.seed);
  for (let seed = first; seed < first + Number(values.seeds); seed++) {
    const startedMs = performance.now();
    const { failure, stats } = await runMoney(
      {
        seed,
        shares: Number(values.shares),
        blocks: Number(values.blocks),
        accounts: Number(values.accounts),
        crashes: Number(values.crashes),
        looks: Number(values.looks),
        deep: values.deep,
        poor: values.poor,
        breaks: new Set(values.break as BreakName[]),
        ...(values.trace ? { trace: (text: string) => console.log(text) } : {}),
        progress: (text) => {
          if (performance.now() - startedMs > QUIET_MS) console.log(`seed ${seed}: ${text}`);
        },
      },
      server,
    );
    const tookS = ((performance.now() - startedMs) / 1000).toFixed(1);
    const { crashedAt, visited, ...numbers } = stats;
    console.log(
      `seed ${seed}: ${tookS} s ${JSON.stringify(numbers, (_, value) => (typeof value === 'bigint' ? String(value) : value))}`,
    );
    const points = [...visited].sort().map((point) => `${point} ${crashedAt.get(point) ?? 0}`);
    if (Number(values.seeds) === 1) console.log(`killed at: ${points.join(', ')}`);
    if (failure === null) continue;
    failures += 1;
    console.log(
      `seed ${seed} breaks "${failure.promise}" at step ${failure.step}: ${failure.text}`,
    );
    console.log(`replay: node test/sim/money/run.ts ${replay(seed)} --trace`);
  }
} finally {
  await server.stop();
}
console.log(`${values.seeds} seeds, ${failures} failures`);
process.exitCode = failures > 0 ? 1 : 0;

function replay(seed: number): string {
  const size = (['shares', 'blocks', 'accounts', 'crashes', 'looks'] as const).map(
    (name) => `--${name} ${values[name]}`,
  );
  const breaks = values.break.map((name) => `--break ${name}`);
  return [
    `--seed ${seed}`,
    ...size,
    ...(values.deep ? ['--deep'] : []),
    ...(values.poor ? ['--poor'] : []),
    ...breaks,
  ].join(' ');
}
