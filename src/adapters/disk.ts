/**
 * The few things the journal asks of a disk, so that a test can hand it one that loses unsynced data, fills up or fails.
 * Everything runs on the thread pool. Errors are Node's own, with `code` (ENOSPC, EIO, ENOENT …).
 */
import fs from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

export type DiskFile = {
  /** Writes all of `bytes` at `position`; a short write is carried on until done or failed. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  /** Returns once the content is on stable storage. After a rejection nothing is known about it: do not believe a second call. */
  datasync(): Promise<void>;
  /** Up to `length` bytes from `position`; fewer at the end of the file. */
  read(position: number, length: number): Promise<Uint8Array>;
  size(): Promise<number>;
  truncate(size: number): Promise<void>;
  close(): Promise<void>;
};

export type Disk = {
  /** Makes the directory and its parents, durably; one that exists is left alone. */
  makeDirectory(path: string): Promise<void>;
  /** Names in the directory, sorted. */
  list(path: string): Promise<string[]>;
  /** `create` refuses a file that exists; `update` and `read` one that does not. */
  open(path: string, how: 'create' | 'update' | 'read'): Promise<DiskFile>;
  /** Replaces `to` in one step. */
  rename(from: string, to: string): Promise<void>;
  /** A file that is already gone is no error. */
  remove(path: string): Promise<void>;
  /** Makes creations, renames and removals in the directory durable. */
  syncDirectory(path: string): Promise<void>;
};

const openFile = promisify(fs.open);
const closeFile = promisify(fs.close);
const writeFile = promisify(fs.write);
const readFile = promisify(fs.read);
const datasyncFile = promisify(fs.fdatasync);
const syncFile = promisify(fs.fsync);
const truncateFile = promisify(fs.ftruncate);
const statFile = promisify(fs.fstat);

const FLAGS = { create: 'wx+', update: 'r+', read: 'r' } as const;
/** Only the operator and root read what miners did. */
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

/** The machine's own disk. */
export function createDisk(): Disk {
  return {
    async makeDirectory(path) {
      const first = await fs.promises.mkdir(path, { recursive: true, mode: DIRECTORY_MODE });
      if (first !== undefined) await syncDirectory(join(first, '..'));
    },
    async list(path) {
      return (await fs.promises.readdir(path)).sort();
    },
    async open(path, how) {
      return fileOf(await openFile(path, FLAGS[how], FILE_MODE));
    },
    async rename(from, to) {
      await fs.promises.rename(from, to);
    },
    async remove(path) {
      await fs.promises.rm(path, { force: true });
    },
    syncDirectory,
  };
}

function fileOf(fd: number): DiskFile {
  return {
    async write(bytes, position) {
      let done = 0;
      while (done < bytes.length) {
        const { bytesWritten } = await writeFile(
          fd,
          bytes,
          done,
          bytes.length - done,
          position + done,
        );
        done += bytesWritten;
      }
    },
    async datasync() {
      await datasyncFile(fd);
    },
    async read(position, length) {
      const bytes = Buffer.allocUnsafeSlow(length);
      let done = 0;
      while (done < length) {
        const { bytesRead } = await readFile(fd, bytes, done, length - done, position + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return bytes.subarray(0, done);
    },
    async size() {
      return (await statFile(fd)).size;
    },
    async truncate(size) {
      await truncateFile(fd, size);
    },
    async close() {
      await closeFile(fd);
    },
  };
}

/** Windows cannot open a directory for this, and its file systems journal names by themselves. */
async function syncDirectory(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const fd = await openFile(path, 'r');
  try {
    await syncFile(fd);
  } finally {
    await closeFile(fd);
  }
}
