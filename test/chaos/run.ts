/** The long crash test: `node test/chaos/run.ts [--minutes 10] [--seed 1]`. Exit code 1 when anything was lost or stored twice. */
import { parseArgs } from 'node:util';
import { crashAndCompare } from './crash.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
console.log(`seed ${values.seed}`);
const report = await crashAndCompare({
  seed: Number(values.seed),
  rounds: Number.POSITIVE_INFINITY,
  forMs: Number(values.minutes) * 60_000,
  minersPerRound: 12,
  say: (text) => console.log(text),
});
console.log({ ...report, restartMs: report.restartMs.map(Math.round) });
process.exitCode = report.lost.length + report.twice.length > 0 ? 1 : 0;
