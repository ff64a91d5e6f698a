/**
 * `npm test`: every test/**\/*.test.ts (or the files and folders named), each in a process of its own, two at a time per two
 * cores, with Node's own runner. Ends with a list of what could not be run because a real server is not on this machine, and
 * one last line `N passed, N failed`.
 *
 * A test that needs a real server says so by calling `t.skip('needs …')`; that is the only allowed reason to skip, it is
 * listed, and every other skipped or to-do test counts as failed. With HEADFRAME_REQUIRE_SERVERS=1 these fail as well.
 */
import { globSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { run } from 'node:test';

const root = dirname(import.meta.dirname);
const startedMs = performance.now();
/** A file that hangs fails by name instead of hanging the suite. */
const FILE_TIMEOUT_MS = 150_000;
const SLOW_MS = 10_000;

const files = chooseFiles(process.argv.slice(2));
let passed = 0;
let failed = 0;
const notRun: string[] = [];
const slow: string[] = [];
const failures: string[] = [];
const requiresServers = process.env.HEADFRAME_REQUIRE_SERVERS === '1';

if (files.length === 0) {
  process.stderr.write('no test file is named like that\n');
  process.exit(2);
}
process.stdout.write(`${files.length} files\n`);

const stream = run({
  files,
  concurrency: Math.max(2, Math.min(8, availableParallelism())),
  timeout: FILE_TIMEOUT_MS,
  isolation: 'process',
});
stream.on('test:pass', (event) => {
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
  failures.push(`${place(event.file)}: ${event.name}\n    ${text.replaceAll('\n', '\n    ')}`);
  process.stdout.write(`FAILED ${place(event.file)}: ${event.name}\n`);
});
// What a test file printed is worth seeing only when something is wrong with it; seeds and figures are.
stream.on('test:stdout', (event) => {
  process.stdout.write(event.message);
});
stream.on('test:stderr', (event) => {
  process.stderr.write(event.message);
});
stream.on('end', finish);
stream.resume();

function finish(): void {
  for (const failure of failures) process.stdout.write(`\n${failure}\n`);
  if (slow.length > 0)
    process.stdout.write(`\nslower than ${SLOW_MS / 1000} s:\n  ${slow.join('\n  ')}\n`);
  if (notRun.length > 0)
    process.stdout.write(
      `\nnot run, because it is not on this machine:\n  ${notRun.join('\n  ')}\n`,
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
  const text = typeof reason === 'string' ? reason : '';
  if (text.startsWith('needs ') && !requiresServers) {
    notRun.push(`${place(file)}: ${name} (${text})`);
    return;
  }
  failed += 1;
  failures.push(`${place(file)}: ${name}\n    was skipped${text === '' ? '' : `: ${text}`}`);
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
    /test\/(e2e|sim|chaos)\//.test(file) ? 0 : /test\/(contract|store|fuzz)\//.test(file) ? 1 : 2;
  return all
    .filter(
      (file) =>
        named.length === 0 || named.some((name) => file.includes(name.replace(/^\.?\//, ''))),
    )
    .sort((a, b) => weight(a) - weight(b))
    .map((file) => join(root, file))
    .filter((file) => statSync(file).isFile());
}
