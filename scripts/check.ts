/**
 * `npm run check`: types, core's purity as a type check, format and lint, the Protobuf schema, and the pages made from tables.
 * `--write` mends what can be mended. Prints one line per check and ends with 1 when one failed.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { settingsPage } from '../src/config/usage.ts';

const root = dirname(import.meta.dirname);
const bin = join(root, 'node_modules', '.bin');
const writes = process.argv.includes('--write');
let failed = 0;

report('types', tool('tsc', ['-p', 'tsconfig.json']));
report('types of core, without Node', tool('tsc', ['-p', 'src/core/tsconfig.json']));
report(
  'format and lint',
  tool('biome', ['check', ...(writes ? ['--write'] : []), '--error-on-warnings']),
);
report('Protobuf schema', tool('buf', ['lint']));
// What journals and topics of the version before hold must be readable; that version's schema is kept as a vector.
report(
  'Protobuf schema, against the version before',
  tool('buf', ['breaking', '--against', 'test/vectors/schema']),
);
report('docs/configuration.md', page());
process.stdout.write(failed === 0 ? 'all checks passed\n' : `${failed} checks failed\n`);
process.exitCode = failed === 0 ? 0 : 1;

/** Runs a tool of the dependencies; null when it is content, else what it said. */
function tool(name: string, args: string[]): string | null {
  const { status, stdout, stderr, error } = spawnSync(join(bin, name), args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status === 0) return null;
  return error === undefined ? `${stdout}${stderr}` : error.message;
}

function page(): string | null {
  const path = join(root, 'docs', 'configuration.md');
  if (writes) writeFileSync(path, settingsPage());
  return readFileSync(path, 'utf8') === settingsPage()
    ? null
    : 'is not what the table of settings says: npm run check -- --write';
}

function report(what: string, trouble: string | null): void {
  if (trouble !== null) failed += 1;
  process.stdout.write(`${trouble === null ? 'ok    ' : 'FAILED'} ${what}\n`);
  if (trouble !== null) process.stdout.write(`${trouble.trimEnd()}\n`);
}
