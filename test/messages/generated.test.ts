import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { generateMessages } from '../../scripts/generate-messages.ts';
import { TOPICS, topicOf } from '../../src/messages/topics.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

test('the committed code is what the schema generates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'headframe-generated-'));
  try {
    generateMessages(folder);
    for (const name of ['pool.js', 'pool.d.ts']) {
      assert.equal(
        readFileSync(join(folder, name), 'utf8'),
        readFileSync(join(root, 'src/messages/generated', name), 'utf8'),
        `${name} is stale: run scripts/generate-messages.ts`,
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('the schema passes buf lint', () => {
  execFileSync(join(root, 'node_modules/.bin/buf'), ['lint'], { cwd: root, stdio: 'pipe' });
});

test('topics are looked up by own name only', () => {
  assert.equal(topicOf('mining.templates'), TOPICS['mining.templates']);
  assert.equal(topicOf('toString'), null);
  assert.equal(topicOf('nothing'), null);
});
