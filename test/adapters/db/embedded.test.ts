import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  EmbeddedPostgresError,
  findEmbeddedPostgres,
  startEmbeddedPostgres,
} from '../../../src/adapters/db/embedded.ts';
import { lockDirectory } from '../../../src/adapters/db/lock.ts';
import { connectPostgres } from '../../../src/adapters/db/postgres.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const CHILD = fileURLToPath(new URL('../../tools/embedded-child.ts', import.meta.url));

async function withDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-embedded-'));
  try {
    await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A child and its first line of output. */
async function startChild(
  ...args: string[]
): Promise<{ child: ChildProcess; said: Record<string, unknown>; gone: Promise<void> }> {
  const child = spawn(process.execPath, [CHILD, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const said = await new Promise<Record<string, unknown>>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', (line) =>
      resolve(JSON.parse(line)),
    );
    void gone.then(() => reject(new Error('the child said nothing')));
  });
  return { child, said, gone };
}

function postmasterPid(directory: string): number {
  const note = readFileSync(join(directory, 'postgres/cluster/postmaster.pid'), 'utf8');
  return Number(note.split('\n')[0]);
}

/** A zombie that nobody has reaped yet is not alive. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !(process.platform === 'linux' && / Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')));
  } catch {
    return false;
  }
}

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`waited in vain: ${what}`);
}

test('one directory, one process; the lock goes with the process however it ends', () =>
  withDirectory(async (directory) => {
    const first = await startChild(directory, 'lock');
    assert.deepEqual(first.said, { locked: true });
    const refused = lockDirectory(directory);
    assert.deepEqual(refused, { ok: false, holderPid: first.child.pid });
    const second = await startChild(directory, 'lock');
    assert.deepEqual(second.said, { held: first.child.pid });
    await second.gone;
    assert.equal(second.child.exitCode, 75);
    first.child.kill('SIGKILL');
    await first.gone;
    const mine = lockDirectory(directory);
    assert.ok(mine.ok);
    assert.equal(lockDirectory(directory).ok, false);
    mine.release();
    const again = lockDirectory(directory);
    assert.ok(again.ok);
    again.release();
  }));

test('the server: private, checksummed, not root, durable over kill −9 of everything, no orphan', () =>
  withDirectory(async (directory) => {
    const log = createSilentLog();
    // First life: committed rows, then everything is killed at once.
    const first = await startChild(directory);
    const connection = first.said as Parameters<typeof connectPostgres>[0] & {
      socketDirectory: string;
    };
    const db = await connectPostgres({ ...connection, log });
    const [settings] = await db.query<Record<string, string>>(
      `SELECT current_setting('data_checksums') AS checksums, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS commit, current_setting('listen_addresses') AS tcp`,
    );
    assert.deepEqual(settings, { checksums: 'on', fsync: 'on', commit: 'on', tcp: '' });
    assert.equal(statSync(connection.socketDirectory).mode & 0o777, 0o700);
    assert.notEqual(statSync(join(directory, 'postgres/cluster')).uid, 0);
    await db.query('CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1)');
    const firstServer = postmasterPid(directory);
    first.child.kill('SIGKILL');
    process.kill(firstServer, 'SIGKILL');
    await first.gone;
    await db.stop().catch(() => {});
    await until(() => !isAlive(firstServer), 'the killed server is reaped');

    // Second life in this process: recovery from a stale note. Then the server alone dies and is started again.
    assert.equal(await findEmbeddedPostgres(directory), null, 'a stale note is no server');
    const second = await startEmbeddedPostgres({ dataDir: directory, log });
    assert.deepEqual(await findEmbeddedPostgres(directory), second.connection);
    const again = await connectPostgres({ ...second.connection, log });
    assert.deepEqual(await again.query('SELECT i FROM t'), [{ i: 1 }]);
    const secondServer = postmasterPid(directory);
    process.kill(secondServer, 'SIGKILL');
    await until(async () => {
      try {
        await again.query('SELECT 1');
        return postmasterPid(directory) !== secondServer;
      } catch {
        return false;
      }
    }, 'the server is started again');
    assert.ok(log.lines.some((line) => line.message.includes('died and is started again')));
    await again.query('INSERT INTO t VALUES (2)');
    await again.stop();
    await second.stop();
    assert.ok(!existsSync(second.connection.socketDirectory));
    assert.ok(!existsSync(join(directory, 'postgres/cluster/postmaster.pid')));

    // Third life: only the parent is killed; the next start takes over at once, whether or not the watchdog was faster.
    const third = await startChild(directory);
    const orphan = postmasterPid(directory);
    third.child.kill('SIGKILL');
    await third.gone;
    const last = await startEmbeddedPostgres({ dataDir: directory, log });
    const orphanAlive = isAlive(orphan);
    const rows = await connectPostgres({ ...last.connection, log });
    assert.deepEqual(await rows.query('SELECT i FROM t ORDER BY i'), [{ i: 1 }, { i: 2 }]);
    await rows.stop();
    await last.stop();
    assert.equal(orphanAlive, false);

    // Fourth life: with nobody to take over, the orphan ends by itself.
    const fourth = await startChild(directory);
    const lonely = postmasterPid(directory);
    fourth.child.kill('SIGKILL');
    await fourth.gone;
    await until(() => !isAlive(lonely), 'the orphan ends');

    // A cluster of another version, and a directory that is none, are refused in plain words.
    const version = join(directory, 'postgres/cluster/PG_VERSION');
    writeFileSync(version, '12\n');
    await assert.rejects(
      startEmbeddedPostgres({ dataDir: directory, log }),
      (error) => error instanceof EmbeddedPostgresError && /PostgreSQL 12/.test(error.message),
    );
    rmSync(version);
    await assert.rejects(
      startEmbeddedPostgres({ dataDir: directory, log }),
      (error) => error instanceof EmbeddedPostgresError && /is not empty/.test(error.message),
    );
  }));

test('root with a data directory its user cannot enter: the cluster lives where he can', async (t) => {
  if (process.getuid?.() !== 0) {
    t.diagnostic('not root: the cluster is our own, there is nothing to move');
    return;
  }
  await withDirectory(async (directory) => {
    chmodSync(directory, 0o700);
    const dataDir = join(directory, 'closed/data');
    const log = createSilentLog();
    const server = await startEmbeddedPostgres({ dataDir, log });
    const home = readFileSync(join(dataDir, 'postgres.location'), 'utf8').trim();
    try {
      assert.match(home, /^\/var\/lib\/headframe\/[0-9a-f]{12}$/);
      assert.deepEqual(await findEmbeddedPostgres(dataDir), server.connection);
      await server.stop();
      assert.equal(await findEmbeddedPostgres(dataDir), null);
      const again = await startEmbeddedPostgres({ dataDir, log });
      await again.stop();
    } finally {
      rmSync(home, { recursive: true, force: true });
    }
  });
});
