/**
 * Small files that must survive a pulled plug whole: marks and leases of a few bytes. Old or new content, never half of it.
 */
import fs from 'node:fs';
import { dirname } from 'node:path';

const FILE_MODE = 0o600;

/**
 * Replaces the file's content in one step and returns once it is on stable storage: written beside it, synced, renamed, and the
 * directory synced. Blocks the thread for a few milliseconds. Throws Node's own errors (ENOSPC, EROFS …); the old content
 * stands then.
 */
export function replaceFile(path: string, text: string): void {
  const beside = `${path}.new`;
  const fd = fs.openSync(beside, 'w', FILE_MODE);
  try {
    fs.writeFileSync(fd, text);
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
  fs.renameSync(beside, path);
  // Windows cannot open a directory for this, and its file systems journal names by themselves.
  if (process.platform === 'win32') return;
  const directory = fs.openSync(dirname(path), 'r');
  try {
    fs.fsyncSync(directory);
  } finally {
    fs.closeSync(directory);
  }
}

/** The file's text, or null when there is none. Throws on anything but a missing file. */
export function readFileIfAny(path: string): string | null {
  try {
    return fs.readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return null;
    throw error;
  }
}
