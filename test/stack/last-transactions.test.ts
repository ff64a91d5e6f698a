/** What a job manager leaves behind for the blocks of its last job. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { encodeTemplateBody } from '../../src/messages/codec.ts';
import { openLastTransactions } from '../../src/stack/last-transactions.ts';
import { createMemoryLog } from '../tools/waiting.ts';

const body = (jobId: string, bytes = 3) =>
  encodeTemplateBody({
    jobId,
    height: 7,
    previousHash: new Uint8Array(32),
    transactionCount: 1,
    body: new Uint8Array(bytes).fill(5),
    witness: false,
  });

describe('the transactions of the last job', () => {
  let directory = '';
  let path = '';
  const log = createMemoryLog();
  const readAgain = () => openLastTransactions(path, log).read();

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'headframe-last-'));
    path = join(directory, 'transactions');
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('are found again, the newest, long after short and short after long', () => {
    const last = openLastTransactions(path, log);
    assert.equal(last.read(), null);
    for (const [at, bytes] of [3, 5_000, 4, 2, 80_000, 1].entries()) {
      last.keep(body(`a${at}`, bytes));
      assert.ok(Buffer.from(body(`a${at}`, bytes)).equals(readAgain()!));
    }
    last.stop();
    const next = openLastTransactions(path, log);
    next.keep(body('b0'));
    assert.ok(Buffer.from(body('b0')).equals(readAgain()!));
    next.stop();
  });

  it('killed in the middle of writing: those of the job before', () => {
    const last = openLastTransactions(path, log);
    last.keep(body('a1', 100));
    last.keep(body('a2', 100));
    // As a kill leaves the file that was written last: begun, and its head still empty.
    const file = openSync(`${path}.b`, 'r+');
    writeSync(file, Buffer.alloc(16), 0, 16, 0);
    closeSync(file);
    assert.ok(Buffer.from(body('a1', 100)).equals(readAgain()!));
    last.stop();
  });

  it('files that are none of ours are no transactions, and are written over', () => {
    writeFileSync(`${path}.a`, 'half');
    writeFileSync(`${path}.b`, Buffer.alloc(64, 255));
    assert.equal(readAgain(), null);
    const last = openLastTransactions(path, log);
    last.keep(body('a1'));
    last.keep(body('a2'));
    assert.ok(Buffer.from(body('a2')).equals(readAgain()!));
    last.stop();
  });

  it('a disk that takes nothing is told of once', () => {
    const nowhere = openLastTransactions(join(directory, 'no', 'such'), log);
    nowhere.keep(body('a3'));
    nowhere.keep(body('a4'));
    assert.equal(log.lines.filter(({ level }) => level === 'warn').length, 1);
    assert.equal(nowhere.read(), null);
  });
});
