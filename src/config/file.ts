/**
 * The YAML file as flat text: path of keys → what was written, with its line. Every scalar stays text (YAML's failsafe
 * schema), so a value is read by one grammar wherever it stands: `0x0d05` is no port here either.
 *
 * Refused: more than 1 MiB, anything but a regular file, aliases and anchors, tags, keys given twice, more than one
 * document, tabs where YAML forbids them, invalid UTF-8. Faults name a line and never quote it: the file may not be ours.
 */

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { isMap, isPair, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import { printableName } from './grammar.ts';

export const FILE_BYTES_MAX = 1024 * 1024;
const DEPTH_MAX = 8;
const FAULTS_MAX = 20;

export type FileBytes =
  | { kind: 'bytes'; bytes: Uint8Array; othersMayRead: boolean }
  | { kind: 'missing' }
  | { kind: 'refused'; reason: string };

/** Reads a file whole, or says why not. Handed to `readConfig`, so that tests need no disk. */
export type ReadFile = (path: string, bytesMax: number) => FileBytes;

/** One place in the file where a value stands. */
export type Written =
  | { kind: 'text'; text: string; line: number }
  | { kind: 'list'; entries: (string | ReadonlyMap<string, string>)[]; line: number };

export type FileAnswer =
  | { ok: true; written: Map<string, Written> }
  | { ok: false; errors: string[] };

/** The real `ReadFile`: regular files only, opened without waiting (a FIFO would wait for ever), never above `bytesMax`. */
export function readLocalFile(path: string, bytesMax: number): FileBytes {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    if (code === 'ENOENT' || code === 'ENOTDIR') return { kind: 'missing' };
    if (code === 'EACCES') return { kind: 'refused', reason: 'may not be read by this user' };
    return { kind: 'refused', reason: `can not be opened (${code})` };
  }
  try {
    const facts = fstatSync(file);
    if (facts.isDirectory()) return { kind: 'refused', reason: 'is a folder' };
    if (!facts.isFile()) return { kind: 'refused', reason: 'is not a regular file' };
    if (facts.size > bytesMax)
      return { kind: 'refused', reason: `is larger than ${bytesMax} bytes` };
    const bytes = new Uint8Array(facts.size);
    let length = 0;
    while (length < bytes.length) {
      const count = readSync(file, bytes, length, bytes.length - length, null);
      if (count === 0) break;
      length += count;
    }
    return {
      kind: 'bytes',
      bytes: bytes.subarray(0, length),
      othersMayRead: (facts.mode & 0o044) !== 0,
    };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    return { kind: 'refused', reason: `can not be read (${code})` };
  } finally {
    closeSync(file);
  }
}

/**
 * Decodes the bytes of a configuration file. `recordKeys` are the paths whose value is a list of maps. Total: any bytes give
 * the values or the faults.
 */
export function decodeSettingsFile(bytes: Uint8Array, recordKeys: ReadonlySet<string>): FileAnswer {
  if (bytes.length > FILE_BYTES_MAX) return refuse(`is larger than ${FILE_BYTES_MAX} bytes`);
  let source: string;
  try {
    // Takes a byte order mark away and refuses damaged UTF-8.
    source = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return refuse('is not valid UTF-8');
  }
  if (/[\x00-\x08\x0b\x0c\x0e-\x1f]/.test(source)) return refuse('holds control characters');
  const deep = deepestFlow(source);
  if (deep > 64) return refuse('is nested too deeply');
  const lines = new LineCounter();
  let document: ReturnType<typeof parseDocument>;
  try {
    document = parseDocument(source, {
      schema: 'failsafe',
      uniqueKeys: true,
      prettyErrors: false,
      lineCounter: lines,
      logLevel: 'error',
      version: '1.2',
    });
  } catch {
    return refuse('can not be read as YAML');
  }
  const lineAt = (offset: number | undefined) => lines.linePos(offset ?? 0).line;
  if (document.errors.length > 0 || document.warnings.length > 0) {
    const errors = [...document.errors, ...document.warnings]
      .slice(0, FAULTS_MAX)
      .map((fault) => `line ${lineAt(fault.pos[0])}: ${reasonOf(fault.code)}`);
    return { ok: false, errors: [...new Set(errors)] };
  }
  const written = new Map<string, Written>();
  const errors: string[] = [];
  if (
    document.contents === null ||
    (isScalar(document.contents) && document.contents.source === '')
  ) {
    return { ok: true, written };
  }
  if (!isMap(document.contents)) return refuse('is not a list of settings like "network: signet"');
  walk(document.contents, '', 0);
  return errors.length > 0
    ? { ok: false, errors: errors.slice(0, FAULTS_MAX) }
    : { ok: true, written };

  function walk(node: unknown, prefix: string, depth: number): void {
    if (!isMap(node)) return;
    for (const pair of node.items) {
      if (!isPair(pair)) continue;
      const key = pair.key;
      const line = lineAt(offsetOf(key) ?? offsetOf(pair.value));
      if (
        !isScalar(key) ||
        typeof key.value !== 'string' ||
        !/^[A-Za-z0-9_-]{1,64}$/.test(key.value)
      ) {
        errors.push(`line ${line}: a key is made of letters, digits and _`);
        continue;
      }
      const path = prefix === '' ? key.value : `${prefix}.${key.value}`;
      if (isMap(pair.value)) {
        if (recordKeys.has(path))
          errors.push(`line ${line}: ${path} is a list; begin each entry with "- "`);
        else if (depth >= DEPTH_MAX) errors.push(`line ${line}: nested too deeply`);
        else walk(pair.value, path, depth + 1);
      } else if (isSeq(pair.value)) {
        const entries = readEntries(pair.value, path);
        if (entries !== null) written.set(path, { kind: 'list', entries, line });
      } else if (isScalar(pair.value) && typeof pair.value.value === 'string') {
        written.set(path, { kind: 'text', text: pair.value.value, line });
      } else if (pair.value === null) {
        written.set(path, { kind: 'text', text: '', line });
      } else {
        const isTagged = isScalar(pair.value) && pair.value.tag !== undefined;
        errors.push(`line ${line}: ${isTagged ? 'tags' : 'aliases'} are not supported`);
      }
    }
  }

  function readEntries(node: unknown, path: string): (string | Map<string, string>)[] | null {
    if (!isSeq(node)) return null;
    const entries: (string | Map<string, string>)[] = [];
    for (const item of node.items) {
      const line = lineAt(offsetOf(item));
      if (isScalar(item) && typeof item.value === 'string') entries.push(item.value);
      else if (isMap(item) && recordKeys.has(path)) {
        const fields = new Map<string, string>();
        for (const { key, value } of item.items) {
          const fits = isScalar(key) && typeof key.value === 'string';
          if (!fits || !(value === null || (isScalar(value) && typeof value.value === 'string'))) {
            errors.push(`line ${line}: an entry of ${path} is made of "name: value" lines`);
            return null;
          }
          const text = isScalar(value) ? String(value.value) : '';
          fields.set(printableName(key.value as string), text);
        }
        entries.push(fields);
      } else {
        errors.push(`line ${line}: an entry of ${path} is not a plain value`);
        return null;
      }
    }
    return entries;
  }

  function refuse(reason: string): FileAnswer {
    return { ok: false, errors: [reason] };
  }
}

/** Nesting of brackets and dashes on one line, counted before the parser recurses into them. */
function deepestFlow(source: string): number {
  let depth = 0;
  let deepest = 0;
  for (let at = 0; at < source.length; at++) {
    const code = source.charCodeAt(at);
    if (code === 0x5b || code === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (code === 0x5d || code === 0x7d) depth = Math.max(0, depth - 1);
  }
  for (const [, dashes] of source.matchAll(/^[ ]*((?:[-?:] +){2,})/gm)) {
    deepest = Math.max(deepest, dashes!.length / 2);
  }
  return deepest;
}

function offsetOf(node: unknown): number | undefined {
  const range = (node as { range?: [number, number, number] } | null)?.range;
  return range?.[0];
}

/** The parser's codes in words; its own messages quote the file. */
function reasonOf(code: string): string {
  if (code === 'DUPLICATE_KEY') return 'a key is given twice';
  if (code === 'TAB_AS_INDENT') return 'a tab where YAML wants spaces';
  if (code === 'MULTIPLE_DOCS') return 'more than one document';
  if (code === 'BAD_ALIAS' || code === 'RESOURCE_EXHAUSTION') return 'aliases are not supported';
  if (code.startsWith('TAG')) return 'tags are not supported';
  return `not valid YAML (${code.toLowerCase().replaceAll('_', ' ')})`;
}
