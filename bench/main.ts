/**
 * `npm run bench`: runs the benchmarks of this folder one after the other and prints each as a table: value, target, a
 * yardstick measured in the same run, and the ratio to the stored figures of `baseline.json`.
 *
 *   npm run bench                       all of them (about five minutes)
 *   npm run bench -- share notify       only these
 *   --short                             tiny loads: shows that they work, not how fast
 *   --cpu-prof[=folder]                 CPU profile of every server process (default: a folder of the system's temporary one)
 *   --json <file>                       also writes the figures there
 *   --keep                              stores the figures as the new baseline.json
 *   --strict                            exit code 1 when a target is missed or a figure is worse than stored
 */
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ackBench } from './ack.ts';
import { blockBench } from './block.ts';
import { databaseBench } from './database.ts';
import { ledgerBench } from './ledger.ts';
import { memoryBench } from './memory.ts';
import { notifyBench } from './notify.ts';
import { shareBench } from './share.ts';
import { stackBench } from './stack.ts';
import {
  type Baseline,
  type Bench,
  compareFigure,
  type Figure,
  formatTable,
  targetMet,
} from './tools/figures.ts';
import { windowBench } from './window.ts';

const BENCHES: readonly Bench[] = [
  shareBench,
  notifyBench,
  memoryBench,
  ackBench,
  databaseBench,
  windowBench,
  ledgerBench,
  blockBench,
  stackBench,
];
const BASELINE_FILE = fileURLToPath(new URL('baseline.json', import.meta.url));

type Arguments = {
  names: string[];
  short: boolean;
  profileDirectory: string | null;
  jsonFile: string | null;
  keep: boolean;
  strict: boolean;
};

function readArguments(argv: readonly string[]): Arguments {
  const out: Arguments = {
    names: [],
    short: false,
    profileDirectory: null,
    jsonFile: null,
    keep: false,
    strict: false,
  };
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!;
    if (word === '--short') out.short = true;
    else if (word === '--keep') out.keep = true;
    else if (word === '--strict') out.strict = true;
    else if (word === '--json') out.jsonFile = argv[++i] ?? 'bench.json';
    else if (word === '--cpu-prof')
      out.profileDirectory = mkdtempSync(join(tmpdir(), 'headframe-prof-'));
    else if (word.startsWith('--cpu-prof=')) {
      out.profileDirectory = word.slice('--cpu-prof='.length);
      mkdirSync(out.profileDirectory, { recursive: true });
    } else if (BENCHES.some((bench) => bench.name === word)) out.names.push(word);
    else {
      const known = BENCHES.map((bench) => bench.name).join(', ');
      throw new Error(`unknown word "${word}"; benchmarks: ${known}`);
    }
  }
  return out;
}

function readBaseline(): Baseline | null {
  try {
    return JSON.parse(readFileSync(BASELINE_FILE, 'utf8')) as Baseline;
  } catch {
    return null;
  }
}

function describeMachine(): string {
  const cpu = cpus();
  return `${cpu[0]?.model.trim() ?? 'unknown processor'}, ${cpu.length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform}, Node ${process.version}`;
}

async function main(): Promise<number> {
  const args = readArguments(process.argv.slice(2));
  const chosen =
    args.names.length === 0 ? BENCHES : BENCHES.filter((b) => args.names.includes(b.name));
  const baseline = readBaseline();
  const machine = describeMachine();
  console.log(machine);
  if (args.short)
    console.log('short run: the figures show that the benchmarks work, not how fast the pool is');
  if (baseline !== null) console.log(`stored figures: ${baseline.machine}, ${baseline.takenAt}`);
  const collected: Record<string, Figure[]> = {};
  const failures: string[] = [];
  for (const bench of chosen) {
    const startedMs = performance.now();
    console.log(`\n## ${bench.name}: ${bench.title}`);
    try {
      const figures = await bench.run({
        short: args.short,
        profileDirectory: args.profileDirectory,
        say: (text) => console.log(`  .. ${text}`),
      });
      collected[bench.name] = figures;
      for (const line of formatTable(bench.name, figures, baseline)) console.log(line);
      for (const figure of figures) {
        if (targetMet(figure) === false)
          failures.push(`${bench.name}/${figure.metric}: target missed`);
        if (compareFigure(bench.name, figure, baseline).verdict === 'worse') {
          failures.push(`${bench.name}/${figure.metric}: worse than stored`);
        }
      }
    } catch (error) {
      failures.push(`${bench.name}: ${error instanceof Error ? error.message : String(error)}`);
      console.log(error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
    console.log(`  (${((performance.now() - startedMs) / 1000).toFixed(1)} s)`);
  }
  const takenAt = new Date().toISOString();
  if (args.jsonFile !== null) {
    writeFileSync(
      args.jsonFile,
      `${JSON.stringify({ machine, takenAt, short: args.short, benches: collected }, null, 2)}\n`,
    );
  }
  if (args.keep) {
    const figures: Baseline['figures'] = { ...(baseline?.figures ?? {}) };
    for (const [name, list] of Object.entries(collected)) {
      for (const figure of list) {
        figures[`${name}/${figure.metric}`] = {
          value: Number(figure.value.toPrecision(4)),
          unit: figure.unit,
        };
      }
    }
    writeFileSync(BASELINE_FILE, `${JSON.stringify({ machine, takenAt, figures }, null, 2)}\n`);
  }
  if (args.profileDirectory !== null) console.log(`\nCPU profiles: ${args.profileDirectory}`);
  if (failures.length > 0) {
    console.log(`\nTo look at:\n${failures.map((text) => `  ${text}`).join('\n')}`);
  } else console.log('\nEvery target met.');
  const broken = Object.keys(collected).length < chosen.length;
  return broken || (args.strict && failures.length > 0) ? 1 : 0;
}

process.exitCode = await main();
