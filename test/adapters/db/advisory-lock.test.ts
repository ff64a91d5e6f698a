/** The lock in the database on a real server: one holder, freed by every kind of end, and its loss is noticed. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { takeAdvisoryLock } from '../../../src/adapters/db/advisory-lock.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../../src/adapters/db/embedded.ts';
import { connectPostgres } from '../../../src/adapters/db/postgres.ts';
import type { Db } from '../../../src/ports.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

describe('advisory lock', () => {
  const log = createSilentLog();
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-lock-'));
  let server: EmbeddedPostgres;
  let db: Db;
  before(async () => {
    server = await startEmbeddedPostgres({ dataDir, log });
    db = await connectPostgres({ ...server.connection, log });
  });
  after(async () => {
    await db.stop();
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });
  const take = (key: bigint, more: { heartbeatMs?: number; idleMaxMs?: number } = {}) =>
    takeAdvisoryLock({ ...server.connection, log, key, heartbeatMs: 50, ...more });

  test('one holder per key; released, the next one takes it at once', async () => {
    const first = await take(1n);
    assert.ok(first);
    assert.equal(await take(1n), null);
    const other = await take(2n);
    assert.ok(other, 'another key is another lock');
    await first.release();
    await first.lost;
    const second = await take(1n);
    assert.ok(second);
    await second.release();
    await second.release();
    await other.release();
  });

  test('it is held as long as the heart beats, longer than the server suffers silence', async () => {
    const holder = await take(3n, { heartbeatMs: 20, idleMaxMs: 1_000 });
    assert.ok(holder);
    let isLost = false;
    void holder.lost.then(() => {
      isLost = true;
    });
    await db.query('SELECT pg_sleep(1.5)');
    assert.equal(isLost, false);
    assert.equal(await take(3n), null);
    await holder.release();
  });

  test('a holder that falls silent loses it', async () => {
    const holder = await take(4n, { heartbeatMs: 60_000, idleMaxMs: 100 });
    assert.ok(holder);
    await holder.lost;
    const next = await take(4n);
    assert.ok(next);
    await next.release();
  });

  test('a connection ended by the server is noticed, and the lock is free', async () => {
    const holder = await take(5n);
    assert.ok(holder);
    await db.query(
      `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5`,
    );
    await holder.lost;
    const next = await take(5n);
    assert.ok(next);
    await next.release();
  });

  test('kill -9 of the holder frees it', async () => {
    const code = `
      import { takeAdvisoryLock } from ${JSON.stringify(new URL('../../../src/adapters/db/advisory-lock.ts', import.meta.url).href)};
      const quiet = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };
      const lock = await takeAdvisoryLock({ ...${JSON.stringify(server.connection)}, log: quiet, key: 6n });
      process.stdout.write(lock === null ? 'no' : 'held');
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [said] = await once(child.stdout, 'data');
    assert.equal(String(said), 'held');
    assert.equal(await take(6n), null);
    child.kill('SIGKILL');
    await once(child, 'exit');
    let next = await take(6n);
    // The server needs a moment to see the socket close.
    while (next === null) next = await take(6n);
    await next.release();
  });

  test('a database that is not there is an error of the driver', async () => {
    await assert.rejects(
      takeAdvisoryLock({ connectionString: 'postgres://127.0.0.1:1/none', log, key: 1n }),
      { code: 'ECONNREFUSED' },
    );
  });
});
