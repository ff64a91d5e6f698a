/**
 * `npm test`: every test/**\/*.test.ts (or the files and folders named), each in a process of its own, two at a time per two
 * cores, with Node's own runner. Ends with a list of what could not be run because a real server is not on this machine, and
 * one last line `N passed, N failed`.
 *
 * A test that would use a real server which is not on this machine says so with a diagnostic or in its name ("not found"); it is
 * listed, and with HEADFRAME_REQUIRE_SERVERS=1 it counts as failed. A test that is skipped in any other way counts as failed.
 * Seeds of random tests (`TEST_SEED=…`) are shown with what failed in the same file.
 */
import { globSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { run } from 'node:test';

const root = dirname(import.meta.dirname);
const startedMs = performance.now();
/** One test, and then its whole file: what hangs fails by name instead of hanging the suite. */
const TEST_TIMEOUT_MS = 180_000;
const FILE_TIMEOUT_MS = 300_000;
const SUITE_TIMEOUT_MS = 1_140_000;
const SLOW_MS = 10_000;

const files = chooseFiles(process.argv.slice(2));
let passed = 0;
let failed = 0;
const notRun: string[] = [];
const slow: string[] = [];
const failures: string[] = [];
const seeds = new Map<string, string>();
const requiresServers = process.env.HEADFRAME_REQUIRE_SERVERS === '1';

if (files.length === 0) {
  process.stderr.write('no test file is named like that\n');
  process.exit(2);
}
process.stdout.write(`${files.length} files\n`);

const open = new Set<string>();
setTimeout(() => {
  const names = [...open].map((file) => relative(root, file)).join(', ');
  failed += open.size;
  failures.push(`the suite takes too long: ${names}`);
  finish();
  process.exit();
}, SUITE_TIMEOUT_MS).unref();

// Whole programs, a broker and databases beside them: one at a time, or their patience tests the machine.
const isWhole = (file: string) => /^test\/(stack|chaos)\//.test(relative(root, file));
await runFiles(
  files.filter((file) => !isWhole(file)),
  Math.max(2, Math.min(8, availableParallelism())),
);
await runFiles(files.filter(isWhole), 1);
finish();

/** Runs the files, so many at once, and resolves when all are done. */
async function runFiles(party: string[], concurrency: number): Promise<void> {
  const left = party[Symbol.iterator]();
  const work = async (): Promise<void> => {
    for (const file of left) await runFile(file);
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

/** Runs one file in a process of its own, which is ended when it takes too long. */
async function runFile(file: string): Promise<void> {
  const limit = new AbortController();
  const timer = setTimeout(
    () => limit.abort(new Error(`not done after ${FILE_TIMEOUT_MS / 1000} s`)),
    FILE_TIMEOUT_MS,
  );
  open.add(file);
  const stream = run({
    files: [file],
    timeout: TEST_TIMEOUT_MS,
    isolation: 'process',
    signal: limit.signal,
  });
  stream.on('test:diagnostic', ({ message, file }) => {
    if (/\bnot found\b/i.test(message)) notRun.push(`${place(file)}: ${message}`);
    if (message.includes('TEST_SEED=') && file !== undefined) seeds.set(file, message);
  });
  stream.on('test:pass', (event) => {
    if (/\bNOT FOUND\b/.test(event.name)) notRun.push(`${place(event.file)}: ${event.name}`);
    if (event.skip !== undefined || event.todo !== undefined)
      return skipped(event.name, event.file, event.skip);
    if (event.nesting === 0 && isFile(event.name)) return;
    if (event.details.type !== 'suite') passed += 1;
    if (event.nesting === 0 && event.details.duration_ms > SLOW_MS) {
      slow.push(
        `${(event.details.duration_ms / 1000).toFixed(1)} s  ${place(event.file)}: ${event.name}`,
      );
    }
  });
  stream.on('test:fail', (event) => {
    const { error } = event.details;
    const cause = (error as { cause?: unknown }).cause;
    // A suite or file fails because of what is in it, which has been counted.
    if ((error as { failureType?: string }).failureType === 'subtestsFailed') return;
    failed += 1;
    const text =
      cause instanceof Error ? (cause.stack ?? cause.message) : String(cause ?? error.message);
    const seed = event.file === undefined ? undefined : seeds.get(event.file);
    failures.push(
      `${place(event.file ?? file)}: ${event.name}${seed === undefined ? '' : ` (${seed})`}\n    ${text.replaceAll('\n', '\n    ')}`,
    );
    process.stdout.write(`FAILED ${place(event.file ?? file)}: ${event.name}\n`);
  });
  // What a test file printed is worth seeing only when something is wrong with it; seeds and figures are.
  stream.on('test:stdout', (event) => {
    process.stdout.write(event.message);
  });
  stream.on('test:stderr', (event) => {
    process.stderr.write(event.message);
  });
  await new Promise((resolve) => {
    stream.on('end', resolve);
    stream.resume();
  });
  clearTimeout(timer);
  open.delete(file);
}

function finish(): void {
  if (requiresServers && notRun.length > 0) {
    failed += notRun.length;
    failures.push(
      `not on this machine, and HEADFRAME_REQUIRE_SERVERS=1:\n    ${notRun.join('\n    ')}`,
    );
  }
  for (const failure of failures) process.stdout.write(`\n${failure}\n`);
  if (slow.length > 0)
    process.stdout.write(`\nslower than ${SLOW_MS / 1000} s:\n  ${slow.join('\n  ')}\n`);
  if (notRun.length > 0)
    process.stdout.write(
      `\nnot run, because it is not on this machine:\n  ${[...new Set(notRun)].join('\n  ')}\n`,
    );
  process.stdout.write(
    `\n${Math.round((performance.now() - startedMs) / 1000)} s\n${passed} passed, ${failed} failed\n`,
  );
  process.exitCode = failed === 0 ? 0 : 1;
}

function skipped(
  name: string,
  file: string | undefined,
  reason: string | boolean | undefined,
): void {
  failed += 1;
  failures.push(
    `${place(file)}: ${name}\n    was skipped${typeof reason === 'string' ? `: ${reason}` : ''}`,
  );
}

/** The runner reports every file as a test of its own. */
function isFile(name: string): boolean {
  return name.endsWith('.test.ts');
}

function place(file: string | undefined): string {
  return file === undefined ? 'somewhere' : relative(root, file);
}

/** The slowest kinds first, so that the last core is not left alone with one of them. */
function chooseFiles(named: readonly string[]): string[] {
  const all = globSync('test/**/*.test.ts', { cwd: root }).sort();
  const weight = (file: string) =>
    /test\/(e2e|sim|chaos|stack)\//.test(file)
      ? 0
      : /test\/(contract|store|fuzz)\//.test(file)
        ? 1
        : 2;
  return all
    .filter(
      (file) =>
        named.length === 0 || named.some((name) => file.includes(name.replace(/^\.?\//, ''))),
    )
    .sort((a, b) => weight(a) - weight(b))
    .map((file) => join(root, file))
    .filter((file) => statSync(file).isFile());
}
