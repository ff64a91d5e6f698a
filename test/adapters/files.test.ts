import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readFileIfAny, replaceFile } from '../../src/adapters/files.ts';

test('a small file is replaced whole, privately, and leaves nothing beside it', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-files-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'mark');
  assert.equal(readFileIfAny(path), null);
  replaceFile(path, 'one');
  replaceFile(path, 'two\n');
  assert.equal(readFileIfAny(path), 'two\n');
  assert.deepEqual(readdirSync(directory), ['mark']);
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('half of a crashed replacement is not read', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-files-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'mark');
  replaceFile(path, 'old');
  writeFileSync(`${path}.new`, 'ne');
  assert.equal(readFileIfAny(path), 'old');
  replaceFile(path, 'new');
  assert.equal(readFileIfAny(path), 'new');
});

test('a directory that is missing is an error, not an empty file', () => {
  assert.throws(() => replaceFile(join(tmpdir(), 'headframe-none', 'mark'), 'x'), {
    code: 'ENOENT',
  });
});
