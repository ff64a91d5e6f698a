/**
 * Time series in InfluxDB 3, 2 or 1.x. Points are gathered for up to a second and sent in order, one request at a time; while the server
 * is away they wait in a bounded buffer, and what does not fit is dropped from the front and counted. Sending a point twice changes
 * nothing: it is the same series at the same time.
 *
 * Lines that the server refuses are dropped alone. Where it says that it has written the others, that is that; where it does not, the bad
 * ones are searched for by halving, and the rest is sent.
 */
import { promisify } from 'node:util';
import { constants, gzip } from 'node:zlib';
import { encodeLine, quoteName } from '../../core/series/line.ts';
import type { Log, Series } from '../../ports.ts';
import { BUFFER_LIMITS, type BufferLimits, type Chunk, countLines, LineBuffer } from './buffer.ts';
import {
  type Dialect,
  dialectOf,
  type InfluxRequest,
  pingRequest,
  queryRequest,
  readRows,
  refusedLines,
  targetOf,
  wordsOf,
  writeRequest,
} from './dialect.ts';

export type InfluxOptions = {
  /** `http://` or `https://`; user and password of a 1.x may stand in it. */
  url: string;
  /** Of a 3 or 2; `user:password` of a 1.x. */
  token?: string;
  /** Of a 2. */
  org?: string;
  /** Bucket in 2, database in 1 and 3. */
  bucket: string;
  /** `auto`: the server is asked. */
  dialect: Dialect | 'auto';
  log: Log;
  /** Bodies are compressed, off the event loop. Default true. */
  gzip?: boolean;
  limits?: Partial<BufferLimits>;
  timeoutMs?: number;
};

/** For the metrics. All but the last four only go up. */
export type SeriesCounts = {
  /** Lines that the server has taken. */
  written: number;
  /** Points lost because the server was away for too long: a gap in the charts. */
  dropped: number;
  /** Points that the server refused or that could not be written as a line. */
  refused: number;
  /** Requests that failed and were repeated. */
  failures: number;
  bufferedLines: number;
  bufferedBytes: number;
  /** 1 while the server does not take what it is sent. */
  away: number;
  dialect: Dialect | null;
};

export type InfluxSeries = Series & Required<Pick<Series, 'query'>> & { counts(): SeriesCounts };

const TIMEOUT_MS = 10_000;
const GATHER_MS = 1_000;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 15_000;
const RETRY_AFTER_MS_MAX = 60_000;
const DRAIN_MS = 3_000;
const TELL_MS = 60_000;
const GZIP_BYTES_MIN = 4_096;
const ANSWER_BYTES_MAX = 32 * 1024 * 1024;
/** Requests spent on finding the bad lines of one chunk; then what is still unclear goes with them. */
const SPLITS_MAX = 256;

const MISSING = /"error":\s*"[^"]*\b(?:database|bucket|table|measurement)\b[^"]*not found/i;

type Answer = { status: number; body: string; retryAfterMs: number; version: string | null };
type Outcome =
  | { kind: 'done' }
  /** So many lines were refused, and all others were written. */
  | { kind: 'partial'; refused: number; reason: string }
  /** The lines are at fault, and none of them may be written. */
  | { kind: 'bad'; reason: string }
  | { kind: 'retry'; reason: string; waitMs: number };

const compress = promisify(gzip);

/** Begins to send at once, and never rejects for a server that is away. An address that is none throws. */
export function openInflux(options: InfluxOptions): InfluxSeries {
  const { log, timeoutMs = TIMEOUT_MS } = options;
  const target = targetOf(options);
  const buffer = new LineBuffer({ ...BUFFER_LIMITS, ...options.limits });
  const ending = new AbortController();
  const counts = { written: 0, dropped: 0, refused: 0, failures: 0 };
  const toldAtMs = new Map<string, number>();
  let dialect: Dialect | null = options.dialect === 'auto' ? null : options.dialect;
  let isDatabaseMade = false;
  let isAway = false;
  let retryMs = RETRY_MS_MIN;
  let waiters: { line: number; resolve: () => void; reject: (error: Error) => void }[] = [];
  let wake = (): void => {};
  let isBackingOff = false;

  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        wake = () => {};
        resolve();
      };
      const timer = setTimeout(end, ms);
      wake = end;
    });
  }

  async function ask(
    request: InfluxRequest,
    body?: string | Uint8Array<ArrayBuffer>,
  ): Promise<Answer> {
    const response = await fetch(request.url, {
      method: request.method,
      headers: request.headers,
      body: body ?? request.body ?? null,
      redirect: 'error',
      signal: AbortSignal.any([ending.signal, AbortSignal.timeout(timeoutMs)]),
    });
    const seconds = Number(response.headers.get('retry-after') ?? 0);
    return {
      status: response.status,
      body: await readBody(response),
      retryAfterMs: seconds > 0 ? Math.min(seconds * 1_000, RETRY_AFTER_MS_MAX) : 0,
      version: response.headers.get('x-influxdb-version'),
    };
  }

  /** Rejects when nobody says what it is. */
  async function findDialect(): Promise<Dialect> {
    if (dialect !== null) return dialect;
    const ping = await ask(pingRequest(target, 'ping'));
    let found = dialectOf(ping.version, ping.body);
    if (found === null) {
      const health = await ask(pingRequest(target, 'health'));
      found = dialectOf(health.version, health.body);
      if (found === null) {
        throw new Error(
          `the server does not say which InfluxDB it is (ping ${ping.status}, health ${health.status})`,
        );
      }
    }
    log.info('InfluxDB found.', { generation: found });
    dialect = found;
    return found;
  }

  /** A 1.x has no database until one is made; where that is not allowed, the operator has made it. */
  async function makeDatabase(): Promise<void> {
    isDatabaseMade = true;
    const text = `CREATE DATABASE ${quoteName(target.bucket)}`;
    const answer = await ask(queryRequest(target, '1', text));
    if (answer.status !== 200) {
      log.debug('The database was not made.', { answer: wordsOf(answer.body) });
    }
  }

  async function send(lines: readonly string[]): Promise<Outcome> {
    let answer: Answer;
    try {
      const spoken = await findDialect();
      if (spoken === '1' && !isDatabaseMade) await makeDatabase();
      const request = writeRequest(target, spoken);
      const text = lines.join('\n');
      if (options.gzip !== false && text.length >= GZIP_BYTES_MIN) {
        request.headers['content-encoding'] = 'gzip';
        const packed = await compress(text, { level: constants.Z_BEST_SPEED });
        answer = await ask(request, new Uint8Array(packed));
      } else {
        answer = await ask(request, text);
      }
    } catch (error) {
      return { kind: 'retry', reason: wordsOfError(error), waitMs: 0 };
    }
    const { status } = answer;
    if (status >= 200 && status < 300) return { kind: 'done' };
    const reason = `${status} ${wordsOf(answer.body)}`;
    if (status === 400 || status === 413 || status === 422) {
      const refused = refusedLines(answer.body, lines.length);
      return refused === null ? { kind: 'bad', reason } : { kind: 'partial', refused, reason };
    }
    if (status === 404) {
      isDatabaseMade = false;
      // Perhaps it is another generation now.
      if (options.dialect === 'auto') dialect = null;
    }
    return { kind: 'retry', reason, waitMs: answer.retryAfterMs };
  }

  /** Sends all pieces of a chunk, as far as the server goes along. */
  async function sendChunk(chunk: Chunk): Promise<Outcome> {
    for (let piece = chunk.pieces[0]; piece !== undefined; piece = chunk.pieces[0]) {
      const outcome = await send(piece);
      if (outcome.kind === 'retry') return outcome;
      chunk.pieces.shift();
      if (outcome.kind === 'done') {
        counts.written += piece.length;
      } else if (outcome.kind === 'partial') {
        counts.written += piece.length - outcome.refused;
        refuse(piece, outcome.refused, outcome.reason);
      } else if (piece.length > 1 && chunk.splits < SPLITS_MAX) {
        chunk.splits++;
        const middle = piece.length >> 1;
        chunk.pieces.unshift(piece.slice(0, middle), piece.slice(middle));
      } else {
        refuse(piece, piece.length, outcome.reason);
      }
    }
    return { kind: 'done' };
  }

  function refuse(piece: readonly string[], points: number, answer: string): void {
    counts.refused += points;
    const first = points < piece.length ? {} : { first: piece[0]?.slice(0, 300) };
    tell('Points were refused by the time series.', { points, ...first, answer });
  }

  function drop(chunks: readonly Chunk[]): void {
    if (chunks.length === 0) return;
    const points = chunks.reduce((sum, { pieces }) => sum + countLines(pieces), 0);
    counts.dropped += points;
    tell('Time series have a gap: points were dropped, the oldest first.', {
      points,
      droppedSoFar: counts.dropped,
    });
    for (const { first } of chunks) {
      rejectWaiters(({ line }) => line >= first, 'points were dropped');
    }
    resolveWaiters();
  }

  async function run(): Promise<void> {
    while (!ending.signal.aborted) {
      const nowMs = performance.now();
      drop(buffer.trim(nowMs));
      const since = buffer.openSinceMs;
      if (since !== null && (waiters.length > 0 || nowMs - since >= GATHER_MS)) buffer.close();
      const chunk = buffer.head();
      if (chunk === null) {
        await pause(since === null ? TELL_MS : GATHER_MS - (nowMs - since));
        continue;
      }
      chunk.isBusy = true;
      const outcome = await sendChunk(chunk);
      chunk.isBusy = false;
      if (ending.signal.aborted) return;
      if (outcome.kind === 'done') {
        buffer.remove(chunk);
        retryMs = RETRY_MS_MIN;
        resolveWaiters();
        if (isAway) log.info('Time series are written again.', { dropped: counts.dropped });
        isAway = false;
        continue;
      }
      if (outcome.kind === 'retry') await holdOff(outcome.reason, outcome.waitMs);
    }
  }

  async function holdOff(reason: string, waitMs: number): Promise<void> {
    counts.failures++;
    if (!isAway) {
      log.warn('Time series can not be written. They are kept for a while.', { error: reason });
    }
    isAway = true;
    rejectWaiters(() => true, reason);
    isBackingOff = true;
    // Several writers do not come back at the same moment.
    await pause(Math.max(waitMs, retryMs * (0.75 + Math.random() / 2)));
    isBackingOff = false;
    retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
  }

  function resolveWaiters(): void {
    const { settledLine } = buffer;
    for (const { line, resolve } of waiters) if (line <= settledLine) resolve();
    waiters = waiters.filter(({ line }) => line > settledLine);
  }

  function rejectWaiters(which: (waiter: { line: number }) => boolean, reason: string): void {
    for (const waiter of waiters.filter(which)) waiter.reject(new Error(reason));
    waiters = waiters.filter((waiter) => !which(waiter));
  }

  /** The same thing at most once a minute. */
  function tell(what: string, fields: Record<string, unknown>): void {
    const nowMs = performance.now();
    if (nowMs - (toldAtMs.get(what) ?? Number.NEGATIVE_INFINITY) < TELL_MS) return;
    toldAtMs.set(what, nowMs);
    log.warn(what, fields);
  }

  function flush(): Promise<void> {
    if (buffer.lastLine === buffer.settledLine) return Promise.resolve();
    if (ending.signal.aborted) return Promise.reject(new Error('the time series is stopped'));
    return new Promise((resolve, reject) => {
      waiters.push({ line: buffer.lastLine, resolve, reject });
      wake();
    });
  }

  const ended = run();

  return {
    write(points) {
      if (ending.signal.aborted) return;
      const nowMs = performance.now();
      const wasEmpty = buffer.openSinceMs === null;
      let closed = false;
      for (const point of points) {
        const line = encodeLine(point);
        if (line === null) counts.refused++;
        else if (buffer.add(line, nowMs)) closed = true;
      }
      if (closed) drop(buffer.trim(nowMs));
      if (!isBackingOff && (closed || wasEmpty)) wake();
    },

    async query(text) {
      const answer = await ask(queryRequest(target, await findDialect(), text));
      // Before the first write there may be no database, and then there is nothing in it.
      if (answer.status === 404 || MISSING.test(answer.body)) return [];
      if (answer.status !== 200) throw new Error(`${answer.status} ${wordsOf(answer.body)}`);
      return readRows(answer.body);
    },

    flush,

    counts: () => ({
      ...counts,
      bufferedLines: buffer.lines,
      bufferedBytes: buffer.bytes,
      away: isAway ? 1 : 0,
      dialect,
    }),

    async stop() {
      let timer: NodeJS.Timeout | undefined;
      const impatience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, DRAIN_MS);
      });
      await Promise.race([flush().catch(() => {}), impatience]);
      clearTimeout(timer);
      ending.abort();
      wake();
      await ended;
      rejectWaiters(() => true, 'the time series is stopped');
    },
  };
}

async function readBody(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of response.body ?? []) {
    bytes += part.length;
    if (bytes > ANSWER_BYTES_MAX) throw new Error('the answer is too large');
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

function wordsOfError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // fetch hides the reason behind its own words.
  return error.cause instanceof Error ? error.cause.message || error.cause.name : error.message;
}
