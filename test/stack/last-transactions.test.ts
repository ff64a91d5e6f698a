/** What a job manager leaves behind for the blocks of its last job. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { encodeTemplateBody } from '../../src/messages/codec.ts';
import { openLastTransactions } from '../../src/stack/jobmanager.ts';
import { createMemoryLog } from '../tools/waiting.ts';

it('the newest transactions are found again; what is none, or cannot be written, is no trouble', () => {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-last-'));
  try {
    const log = createMemoryLog();
    const path = join(directory, 'transactions.last');
    const first = openLastTransactions(path, log);
    assert.equal(first.read(), null);
    const body = (jobId: string) =>
      encodeTemplateBody({
        jobId,
        height: 7,
        previousHash: new Uint8Array(32),
        transactionCount: 1,
        body: Uint8Array.of(1, 2, 3),
        witness: false,
      });
    first.keep(body('a1'));
    first.keep(body('a2'));
    assert.ok(Buffer.from(body('a2')).equals(openLastTransactions(path, log).read()!));
    writeFileSync(path, 'half');
    assert.equal(first.read(), null);
    const nowhere = openLastTransactions(join(directory, 'no', 'such'), log);
    nowhere.keep(body('a3'));
    nowhere.keep(body('a4'));
    assert.equal(log.lines.filter(({ level }) => level === 'warn').length, 1);
    assert.equal(nowhere.read(), null);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
