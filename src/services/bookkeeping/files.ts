/**
 * Files that operator and miners hand to each other: the statement of a round, its shares, proofs, transactions to sign.
 *
 * Refused: writing over a file that is there, files larger than a bound, lines longer than a bound, anything that is not a regular file.
 */

import fs from 'node:fs';
import { StringDecoder } from 'node:string_decoder';

export type FileAnswer = { ok: true; text: string } | { ok: false; reason: string };

/** A file of lines that can not be read to its end. The message is for people and names no content. */
export class DamagedFileError extends Error {}

const CHUNK_BYTES = 1 << 20;
const LINE_CHARS_MAX = 4_096;

/** A whole file as text. Total: what the file system says comes back in words. */
export function readTextFile(path: string, bytesMax: number): FileAnswer {
  try {
    const stat = fs.statSync(path);
    if (!stat.isFile()) return { ok: false, reason: `${path} is not a regular file` };
    if (stat.size > bytesMax)
      return { ok: false, reason: `${path} is larger than ${bytesMax} bytes` };
    return { ok: true, text: fs.readFileSync(path, 'utf8') };
  } catch (error) {
    return { ok: false, reason: reasonOf(path, error) };
  }
}

/** The lines of a file of any size, one after the other, without their ends. Throws DamagedFileError. */
export function* readLines(path: string): Generator<string, void, undefined> {
  const decoder = new StringDecoder('utf8');
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let file: number;
  try {
    if (!fs.statSync(path).isFile()) throw new DamagedFileError(`${path} is not a regular file`);
    file = fs.openSync(path, 'r');
  } catch (error) {
    throw error instanceof DamagedFileError ? error : new DamagedFileError(reasonOf(path, error));
  }
  try {
    let rest = '';
    for (;;) {
      const count = fs.readSync(file, chunk);
      const lines = (
        rest + (count === 0 ? decoder.end() : decoder.write(chunk.subarray(0, count)))
      ).split('\n');
      rest = lines.pop()!;
      if (rest.length > LINE_CHARS_MAX || lines.some((line) => line.length > LINE_CHARS_MAX))
        throw new DamagedFileError(`${path} has a line that is too long`);
      yield* lines;
      if (count === 0) break;
    }
    if (rest !== '') yield rest;
  } finally {
    fs.closeSync(file);
  }
}

/** Writes a new file; it is there whole and synced, or not at all. Answers what is in the way, or null. */
export async function writeNewFile(
  path: string,
  pieces: Iterable<string> | AsyncIterable<string>,
): Promise<string | null> {
  let file: number;
  try {
    file = fs.openSync(path, 'wx', 0o644);
  } catch (error) {
    return reasonOf(path, error);
  }
  let isWhole = false;
  try {
    let pending = '';
    for await (const piece of pieces) {
      pending += piece;
      if (pending.length < CHUNK_BYTES) continue;
      fs.writeFileSync(file, pending);
      pending = '';
    }
    fs.writeFileSync(file, pending);
    fs.fsyncSync(file);
    isWhole = true;
    return null;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw error;
    return reasonOf(path, error);
  } finally {
    fs.closeSync(file);
    if (!isWhole) fs.rmSync(path, { force: true });
  }
}

function reasonOf(path: string, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
      return `${path} does not exist`;
    case 'EEXIST':
      return `${path} is there already, and is not written over`;
    case 'EACCES':
      return `${path}: not allowed`;
    case 'EISDIR':
      return `${path} is a folder`;
    case 'ENOSPC':
      return `${path}: the disk is full`;
    default:
      return `${path}: ${code ?? message}`;
  }
}
