/**
 * One process per data directory. The lock is the operating system's own, on the file `lock`, taken through SQLite's exclusive
 * transaction because Node has no door to flock: it vanishes with the process, whatever killed it, and holds between containers
 * that share the directory. No process id is trusted: they come again.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

export type DirectoryLock =
  | { ok: true; release(): void }
  /** Another process has it; its id when it could be read. The right exit code is 75, "try again later" in sysexits.h. */
  | { ok: false; holderPid: number | null };

/** Takes the lock of `directory`, which is made when missing. Throws only when the directory cannot be written. */
export function lockDirectory(directory: string): DirectoryLock {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const holderPath = join(directory, 'lock.pid');
  const database = new DatabaseSync(join(directory, 'lock'), { timeout: 0 });
  try {
    // Without a rollback journal beside it, nothing is left behind by a kill.
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (!isBusy(error)) throw error;
    return { ok: false, holderPid: readHolder(holderPath) };
  }
  writeFileSync(holderPath, `${process.pid}\n`);
  return {
    ok: true,
    release() {
      rmSync(holderPath, { force: true });
      database.close();
    },
  };
}

const SQLITE_BUSY = 5;

function isBusy(error: unknown): boolean {
  return (
    error instanceof Error &&
    'errcode' in error &&
    typeof error.errcode === 'number' &&
    (error.errcode & 0xff) === SQLITE_BUSY
  );
}

function readHolder(path: string): number | null {
  try {
    const text = readFileSync(path, 'utf8').trim();
    return /^\d{1,10}$/.test(text) ? Number(text) : null;
  } catch {
    return null;
  }
}
