/**
 * Log lines: events with fields, as JSON for machines or text for people, on pino.
 *
 * What goes out is made safe here and nowhere else: fields that are named like a secret are hidden, known secrets and
 * passwords in URLs are cut out of every string, control characters are written as `\x1b`, strings of miners are cut to 64
 * characters and all others to 1,024. A log that can not be written (disk full, reader gone, terminal stopped) costs lines,
 * which are counted, and never the process.
 */

import { close, mkdirSync, openSync, write, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { type DestinationStream, pino } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { Log } from './ports.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export type LogOptions = {
  level: LogLevel;
  format: 'json' | 'text';
  /** Where lines go: a file descriptor (1 is standard output), the path of a file to append to, or a stream. */
  destination: number | string | DestinationStream;
  /** In every line, as `service`. */
  service?: string;
  /** Values that must never appear, whatever field they are in. Shorter than 6 characters are not searched for. */
  secrets?: readonly string[];
  /** Colours, for format `text`. Default false. */
  colors?: boolean;
};

/** The open log. `flush` before the process ends. */
export type OpenLog = Log & {
  /** Writes what is pending, waiting for it. Never throws. */
  flush(): void;
  /** Opens the file again, after log rotation. */
  reopen(): void;
  /** Lines lost because they could not be written. */
  dropped(): number;
};

const CLIENT_CHARS_MAX = 64;
const TEXT_CHARS_MAX = 1024;
const STACK_CHARS_MAX = 4096;
const DEPTH_MAX = 4;
const ENTRIES_MAX = 32;
const BYTES_SHOWN = 80;
/** Unwritten lines kept for a slow or full disk. */
const PENDING_CHARS_MAX = 4 * 1024 * 1024;
/** Pause when the reader of a pipe or terminal takes nothing, and how often `flush` waits for it. */
const RETRY_MS = 20;
const FLUSH_TRIES = 25;

/** Fields whose text comes from a miner. */
const CLIENT_FIELDS = new Set([
  'agent',
  'username',
  'worker',
  'account',
  'method',
  'line',
  'params',
  'id',
  'userAgent',
  'firstBytes',
]);
const SECRET_NAME =
  /pass(word|phrase)?$|secret|token|cookie$|authori[sz]ation$|credential|private_?key|^auth$|apikey/i;
const NUMBERS: Readonly<Record<LogLevel, number>> = { debug: 20, info: 30, warn: 40, error: 50 };

/** Opens the log. Throws only when a named file can not be opened at all. */
export function createLog(options: LogOptions): OpenLog {
  const sink = openSink(options.destination);
  const isText = options.format === 'text';
  const toText = prettyFactory({
    colorize: options.colors === true,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,hostname,service,thread',
    singleLine: true,
    errorLikeObjectKeys: [],
  });
  const root = pino(
    {
      level: options.level,
      base: options.service === undefined ? {} : { service: options.service },
      messageKey: isText ? 'msg' : 'message',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    isText ? { write: (line) => sink.write(toText(line) as string) } : sink,
  );
  const secrets = [...new Set(options.secrets ?? [])].filter((secret) => secret.length >= 6);
  return {
    ...wrap(root, NUMBERS[options.level], secrets),
    flush: sink.flush,
    reopen: sink.reopen,
    dropped: sink.dropped,
  };
}

type Sink = { write(line: string): void } & Pick<OpenLog, 'flush' | 'reopen' | 'dropped'>;

/**
 * Lines to a descriptor, a file or a given stream. One write is under way at a time and never waited for: a terminal that
 * was stopped with ^S must not stop the pool. What can not be written is dropped and counted.
 */
function openSink(target: LogOptions['destination']): Sink {
  if (typeof target === 'object') {
    return { write: (line) => target.write(line), flush() {}, reopen() {}, dropped: () => 0 };
  }
  const open = () => {
    if (typeof target === 'number') return target;
    mkdirSync(dirname(target), { recursive: true });
    return openSync(target, 'a', 0o600);
  };
  let file = open();
  let pending: string[] = [];
  let pendingChars = 0;
  let isWriting = false;
  /** What the write under way has not written yet. */
  let rest: Buffer | null = null;
  let droppedLines = 0;
  let retry: NodeJS.Timeout | null = null;

  const countLines = (bytes: Buffer) =>
    bytes.reduce((lines, byte) => lines + (byte === 0x0a ? 1 : 0), 0);

  function next(): void {
    if (isWriting || retry !== null) return;
    rest ??= take();
    if (rest === null) return;
    isWriting = true;
    write(file, rest, (error, count) => {
      isWriting = false;
      if (error === null)
        rest = rest === null || count >= rest.length ? null : rest.subarray(count);
      else if (error.code === 'EAGAIN') {
        retry = setTimeout(() => {
          retry = null;
          next();
        }, RETRY_MS);
        retry.unref();
        return;
      } else {
        droppedLines += rest === null ? 0 : countLines(rest);
        rest = null;
      }
      next();
    });
  }

  function take(): Buffer | null {
    if (pending.length === 0) return null;
    const bytes = Buffer.from(pending.join(''));
    pending = [];
    pendingChars = 0;
    return bytes;
  }

  return {
    write(line) {
      if (pendingChars + line.length > PENDING_CHARS_MAX) {
        droppedLines += 1;
        return;
      }
      pending.push(line);
      pendingChars += line.length;
      if (pending.length === 1) setImmediate(next);
    },
    flush() {
      // A write under way has its bytes; the rest goes after it, in the worst case interleaved with its last line.
      const bytes = Buffer.concat([
        isWriting || rest === null ? Buffer.alloc(0) : rest,
        take() ?? Buffer.alloc(0),
      ]);
      if (!isWriting) rest = null;
      let at = 0;
      for (let tries = 0; at < bytes.length && tries < FLUSH_TRIES; tries++) {
        try {
          at += writeSync(file, bytes, at);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') break;
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
        }
      }
      if (at < bytes.length) droppedLines += countLines(bytes.subarray(at));
    },
    reopen() {
      if (typeof target === 'number') return;
      try {
        const opened = open();
        const old = file;
        file = opened;
        // A write under way may still use the old one.
        setTimeout(() => close(old, () => {}), 5_000).unref();
      } catch {
        droppedLines += 1;
      }
    },
    dropped: () => droppedLines,
  };
}

function wrap(to: pino.Logger, least: number, secrets: readonly string[]): Log {
  const write = (level: LogLevel, message: string, fields: Record<string, unknown> | undefined) => {
    if (NUMBERS[level] < least) return;
    try {
      to[level](
        fields === undefined ? {} : safeFields(fields, secrets, 0),
        safeText(message, TEXT_CHARS_MAX, secrets),
      );
    } catch {
      // A field with a getter that throws; the event itself is worth more than its fields.
      to[level](safeText(message, TEXT_CHARS_MAX, secrets));
    }
  };
  return {
    debug: (message, fields) => write('debug', message, fields),
    info: (message, fields) => write('info', message, fields),
    warn: (message, fields) => write('warn', message, fields),
    error: (message, fields) => write('error', message, fields),
    child: (fields) => wrap(to.child(safeFields(fields, secrets, 0)), least, secrets),
  };
}

/** A text for a log or an operator's eyes: control characters written out, secrets cut out, at most so long. */
export function safeText(text: string, charsMax: number, secrets: readonly string[] = []): string {
  let safe = text.length > charsMax * 4 ? text.slice(0, charsMax * 4) : text;
  for (const secret of secrets)
    if (safe.includes(secret)) safe = safe.replaceAll(secret, '[hidden]');
  if (safe.includes('@')) safe = safe.replace(/:\/\/[^/@\s]*@/g, '://[hidden]@');
  safe = safe.replace(
    /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (char) => {
      const code = char.charCodeAt(0);
      return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16)}`;
    },
  );
  if (safe.length > charsMax) safe = `${safe.slice(0, charsMax)}…`;
  return safe.isWellFormed() ? safe : safe.toWellFormed();
}

function safeFields(
  fields: Record<string, unknown>,
  secrets: readonly string[],
  depth: number,
): Record<string, unknown> {
  const safe: Record<string, unknown> = {};
  let count = 0;
  for (const [name, value] of Object.entries(fields)) {
    if (++count > ENTRIES_MAX) {
      safe.more = 'further fields left out';
      break;
    }
    const key = safeText(name, CLIENT_CHARS_MAX, secrets);
    // Assigning to this name would set the prototype.
    if (key === '__proto__') continue;
    const isHidden =
      SECRET_NAME.test(name) && value !== undefined && value !== null && typeof value !== 'boolean';
    safe[key] = isHidden ? '[hidden]' : safeValue(value, secrets, depth, CLIENT_FIELDS.has(name));
  }
  return safe;
}

function safeValue(
  value: unknown,
  secrets: readonly string[],
  depth: number,
  isClient: boolean,
): unknown {
  if (typeof value === 'string')
    return safeText(value, isClient ? CLIENT_CHARS_MAX : TEXT_CHARS_MAX, secrets);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (typeof value === 'function' || typeof value === 'symbol') return undefined;
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Error) {
    const code = (value as NodeJS.ErrnoException).code;
    return {
      type: safeText(value.name, CLIENT_CHARS_MAX),
      message: safeText(value.message, TEXT_CHARS_MAX, secrets),
      ...(typeof code === 'string' ? { code: safeText(code, CLIENT_CHARS_MAX) } : {}),
      ...(depth === 0 && value.stack !== undefined
        ? { stack: safeText(value.stack.replace(/\n\s*/g, ' | '), STACK_CHARS_MAX, secrets) }
        : {}),
    };
  }
  if (value instanceof Uint8Array) {
    const hex = Buffer.from(
      value.buffer,
      value.byteOffset,
      Math.min(value.length, BYTES_SHOWN),
    ).toString('hex');
    return value.length > BYTES_SHOWN ? `${hex}… (${value.length} bytes)` : hex;
  }
  if (value instanceof Date)
    return Number.isNaN(value.getTime()) ? 'invalid date' : value.toISOString();
  if (depth >= DEPTH_MAX) return '…';
  if (Array.isArray(value)) {
    const shown = value
      .slice(0, ENTRIES_MAX)
      .map((item) => safeValue(item, secrets, depth + 1, isClient));
    return value.length > ENTRIES_MAX ? [...shown, `… ${value.length} in all`] : shown;
  }
  if (value instanceof Map || value instanceof Set) {
    return safeValue(
      value instanceof Map ? Object.fromEntries(value) : [...value],
      secrets,
      depth + 1,
      isClient,
    );
  }
  return safeFields(value as Record<string, unknown>, secrets, depth + 1);
}
