/**
 * JSON-RPC 1.0 over keep-alive HTTP or HTTPS to a Bitcoin node (Core, btcd, devnet), with user and password or Core's cookie file.
 *
 * Every way in which a call can fail is an answer, not an exception (`core/node/rpc.ts`). The node is not trusted: bodies are
 * counted while they arrive and cut off at the limit, the id must be ours, HTML and half answers are refused. No credential ever
 * stands in an answer or a log line: they name the node, the method and the host.
 */

import { lookup as lookupName } from 'node:dns';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { LookupFunction } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BreakerLimits } from '../../core/node/breaker.ts';
import { admitCall, createBreaker, recordCall, releaseProbe } from '../../core/node/breaker.ts';
import type { CallOptions, NodeAddress, Rpc, RpcAnswer } from '../../core/node/rpc.ts';
import type { Log } from '../../ports.ts';

const BODY_BYTES_MAX = 64 * 1024 * 1024;
/** Of a body that is not JSON, as much as helps the operator to see what it is. */
const EXCERPT_LENGTH = 120;
const COOKIE_BYTES_MAX = 4096;
const COOKIE_REREAD_MS = 1000;
/** Core answers 503 at once when its queue is full; the queue moves within milliseconds. */
const OVERLOAD_PAUSE_MS = 50;
const OVERLOAD_PATIENCE_MS = 1000;
/** A node's name resolves to the same address for this long; longer when the name server is down. */
const NAME_FRESH_MS = 60_000;

export type RpcOptions = NodeAddress & {
  timeoutMs: number;
  bodyBytesMax?: number;
  /** Certificate authority in PEM for https nodes with a certificate of their own. */
  ca?: string;
  /** False: never refuse to ask. */
  breaker?: boolean;
  breakerLimits?: BreakerLimits;
  log: Log;
  /** Called after each call, for metrics. */
  onCall?: (call: RpcCall) => void;
};

export type RpcCall = {
  node: string;
  method: string;
  kind: RpcAnswer['kind'];
  elapsedMs: number;
  bytes: number;
};

type Reply = { answer: RpcAnswer; status: number; bytes: number; staleSocket: boolean };

/**
 * Opens a door to one node. Nothing is connected before the first call.
 *
 * Throws only on what the configuration check must have refused: a URL that is none, or that is neither http nor https.
 */
export function createRpc(options: RpcOptions): Rpc {
  const url = new URL(options.url);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new Error(`node ${options.name}: the address must begin with http:// or https://`);
  }
  const secure = url.protocol === 'https:';
  const agent = new (secure ? https : http).Agent({
    keepAlive: true,
    keepAliveMsecs: 10_000,
    scheduling: 'lifo',
    maxFreeSockets: 4,
  });
  const bodyBytesMax = options.bodyBytesMax ?? BODY_BYTES_MAX;
  const credentials = createCredentials(options, url);
  const breaker = createBreaker();
  const stopping = new AbortController();
  const requestOptions: https.RequestOptions = {
    agent,
    protocol: url.protocol,
    // A URL keeps the brackets of an IPv6 address, a socket wants it bare.
    hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? (secure ? 443 : 80) : Number(url.port),
    path: url.pathname + url.search,
    method: 'POST',
    lookup: cachedLookup(),
    ...(secure && options.ca !== undefined ? { ca: options.ca } : {}),
  };
  let lastId = 0;

  /** One HTTP exchange, read to its end or cut off. Never rejects. */
  function exchange(
    body: readonly Uint8Array[],
    length: number,
    id: string,
    authorization: string | null,
    deadlineMs: number,
    call: CallOptions,
  ): Promise<Reply> {
    return new Promise((resolve) => {
      let bytes = 0;
      let status = 0;
      let settled = false;
      let request: http.ClientRequest | null = null;
      const finish = (answer: RpcAnswer, staleSocket = false) => {
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        call.signal?.removeEventListener('abort', onAbort);
        stopping.signal.removeEventListener('abort', onAbort);
        // After a whole answer the socket goes back to the agent; else it is of no more use.
        if (answer.kind === 'timeout' || answer.kind === 'aborted' || bytes > bodyBytesMax)
          request?.destroy();
        resolve({ answer, status, bytes, staleSocket });
      };
      const onAbort = () => finish({ kind: 'aborted', detail: 'ended by the caller' });
      const leftMs = Math.max(1, deadlineMs - performance.now());
      const timer = setTimeout(() => {
        finish({ kind: 'timeout', detail: `no whole answer in time (${bytes} bytes came)` });
      }, leftMs);
      call.signal?.addEventListener('abort', onAbort);
      stopping.signal.addEventListener('abort', onAbort);
      if (stopping.signal.aborted || call.signal?.aborted) {
        onAbort();
        return;
      }
      try {
        request = (secure ? https : http).request({
          ...requestOptions,
          headers: {
            'content-type': 'application/json',
            'content-length': length,
            ...(authorization === null ? {} : { authorization }),
          },
        });
      } catch (error) {
        finish({ kind: 'unreachable', detail: describeError(error) });
        return;
      }
      const sent = request;
      sent.setNoDelay(true);
      sent.on('error', (error: NodeJS.ErrnoException) => {
        const reset = error.code === 'ECONNRESET' || error.code === 'EPIPE';
        const detail = describeError(error);
        if (sent.reusedSocket && reset && status === 0) {
          finish({ kind: 'unreachable', detail }, true);
        } else if (reset || status !== 0) {
          // It may have been read and acted on before the connection broke.
          finish({ kind: 'bad-answer', detail: `connection broke: ${detail}` });
        } else finish({ kind: 'unreachable', detail });
      });
      sent.on('response', (response) => {
        status = response.statusCode ?? 0;
        const announced = Number(response.headers['content-length'] ?? 0);
        if (announced > bodyBytesMax) {
          bytes = announced;
          finish({ kind: 'bad-answer', detail: `body of ${announced} bytes is over the limit` });
          return;
        }
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > bodyBytesMax) {
            finish({ kind: 'bad-answer', detail: `body is over ${bodyBytesMax} bytes` });
            return;
          }
          chunks.push(chunk);
        });
        response.on('end', () => {
          if (settled) return;
          if (!response.complete) finish({ kind: 'bad-answer', detail: 'answer was cut off' });
          else finish(decodeReply(status, chunks, bytes, id));
        });
        response.on('error', (error) => {
          finish({ kind: 'bad-answer', detail: `answer was cut off: ${describeError(error)}` });
        });
        response.on('close', () => {
          finish({ kind: 'bad-answer', detail: 'answer was cut off' });
        });
      });
      for (const part of body) sent.write(part);
      sent.end();
    });
  }

  async function send(
    method: string,
    id: string,
    body: readonly Uint8Array[],
    call: CallOptions,
  ): Promise<RpcAnswer> {
    const startedMs = performance.now();
    if (stopping.signal.aborted || call.signal?.aborted)
      return { kind: 'aborted', detail: 'ended by the caller' };
    if (options.breaker !== false && !admitCall(breaker, startedMs))
      return { kind: 'circuit-open', detail: 'the node failed several times in a row' };
    const deadlineMs = startedMs + (call.timeoutMs ?? options.timeoutMs);
    let length = 0;
    for (const part of body) length += part.length;
    let reply: Reply;
    let repeatedStale = false;
    let repeatedCredentials = false;
    for (;;) {
      const authorization = await credentials.current();
      reply = await exchange(body, length, id, authorization, deadlineMs, call);
      const nowMs = performance.now();
      if (reply.staleSocket && !repeatedStale && call.repeatable !== false) {
        repeatedStale = true;
        continue;
      }
      if (reply.answer.kind === 'unauthorized' && !repeatedCredentials) {
        repeatedCredentials = true;
        if (await credentials.renew()) continue;
      }
      if (
        reply.answer.kind === 'overloaded' &&
        nowMs - startedMs < OVERLOAD_PATIENCE_MS &&
        nowMs + 2 * OVERLOAD_PAUSE_MS < deadlineMs &&
        !stopping.signal.aborted &&
        !call.signal?.aborted
      ) {
        await sleep(OVERLOAD_PAUSE_MS);
        continue;
      }
      break;
    }
    const { answer, bytes } = reply;
    const nowMs = performance.now();
    if (answer.kind === 'aborted') releaseProbe(breaker);
    else recordCall(breaker, !isOutage(answer), nowMs, options.breakerLimits);
    options.onCall?.({
      node: options.name,
      method,
      kind: answer.kind,
      elapsedMs: nowMs - startedMs,
      bytes,
    });
    return answer;
  }

  return {
    name: options.name,
    call(method, params, call = {}) {
      lastId = (lastId + 1) % 0x7fffffff;
      const id = `h${lastId}`;
      const text = JSON.stringify({ jsonrpc: '1.0', id, method, params });
      return send(method, id, [Buffer.from(text)], call);
    },
    callEncoded(method, id, body, call = {}) {
      return send(method, id, body, call);
    },
    stop() {
      stopping.abort();
      agent.destroy();
    },
  };
}

/** A node that answers at all, even to refuse, is up. */
function isOutage(answer: RpcAnswer): boolean {
  return answer.kind === 'unreachable' || answer.kind === 'timeout' || answer.kind === 'bad-answer';
}

/** Reads one whole HTTP answer. */
function decodeReply(status: number, chunks: Buffer[], bytes: number, id: string): RpcAnswer {
  if (status === 401 || status === 403) {
    return { kind: 'unauthorized', detail: `the node refused the credentials (${status})` };
  }
  // One copy when the answer came in several pieces, none when it came in one.
  const body = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, bytes);
  const text = body.toString('utf8');
  let reply: unknown;
  try {
    reply = JSON.parse(text);
  } catch {
    // A full queue answers with a sentence, not with JSON.
    if (status === 503 || status === 429 || text.startsWith('Work queue depth exceeded'))
      return { kind: 'overloaded', detail: excerpt(text) };
    return { kind: 'bad-answer', detail: `not JSON (status ${status}): ${excerpt(text)}` };
  }
  if (typeof reply !== 'object' || reply === null || Array.isArray(reply))
    return { kind: 'bad-answer', detail: `not a JSON-RPC answer (status ${status})` };
  const fields = reply as { id?: unknown; result?: unknown; error?: unknown };
  if (fields.id !== id) {
    if (status === 503 || status === 429) return { kind: 'overloaded', detail: excerpt(text) };
    return { kind: 'bad-answer', detail: 'the answer belongs to another request' };
  }
  if (fields.error !== undefined && fields.error !== null) {
    if (fields.result !== undefined && fields.result !== null)
      return { kind: 'bad-answer', detail: 'both a result and an error' };
    return readError(fields.error);
  }
  if (fields.result === undefined)
    return { kind: 'bad-answer', detail: 'neither a result nor an error' };
  if (status !== 200) return { kind: 'bad-answer', detail: `a result with status ${status}` };
  return { kind: 'result', result: fields.result };
}

function readError(error: unknown): RpcAnswer {
  if (typeof error !== 'object' || Array.isArray(error))
    return { kind: 'bad-answer', detail: 'the error is not an object' };
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (typeof code !== 'number' || !Number.isInteger(code))
    return { kind: 'bad-answer', detail: 'the error has no code' };
  const words = typeof message === 'string' ? excerpt(message) : '';
  if (code === -28) return { kind: 'warming-up', detail: words };
  return { kind: 'error', code, message: words };
}

/** Printable, short, one line. */
function excerpt(text: string): string {
  return text
    .slice(0, EXCERPT_LENGTH)
    .replace(/[^\x20-\x7e]+/g, ' ')
    .trim();
}

function describeError(error: unknown): string {
  const { code, errors } = error as { code?: unknown; errors?: unknown };
  if (typeof code === 'string') return code;
  // Happy eyeballs: one error per address tried.
  if (Array.isArray(errors) && errors.length > 0) return describeError(errors[0]);
  return error instanceof Error ? excerpt(error.message) : 'unknown error';
}

/**
 * Where the Authorization header comes from. A cookie file is read when first needed and again, at most once per second, when the
 * node refuses what it said: Core writes a new one at each start.
 */
function createCredentials(options: RpcOptions, url: URL) {
  const user = options.user ?? decodeURIComponent(url.username);
  const password = options.password ?? decodeURIComponent(url.password);
  const { cookieFile, log } = options;
  const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`;
  let header: string | null = null;
  let readAtMs = Number.NEGATIVE_INFINITY;
  let reading: Promise<boolean> | null = null;
  const fixed = user !== '' || password !== '';
  if (fixed) header = basic(`${user}:${password}`);

  /** True when the file says something new. */
  async function readCookie(file: string): Promise<boolean> {
    readAtMs = performance.now();
    try {
      const text = (await readFile(file, 'utf8')).trim();
      if (text === '' || text.length > COOKIE_BYTES_MAX || !text.includes(':')) {
        log.warn('cookie file of the node is not a cookie', { node: options.name });
        return false;
      }
      const next = basic(text);
      if (next === header) return false;
      header = next;
      return true;
    } catch (error) {
      log.debug('cookie file of the node cannot be read', {
        node: options.name,
        reason: (error as NodeJS.ErrnoException).code ?? 'unknown',
      });
      return false;
    }
  }

  async function renew(): Promise<boolean> {
    if (fixed || cookieFile === undefined || cookieFile === '') return false;
    if (reading !== null) return reading;
    if (performance.now() - readAtMs < COOKIE_REREAD_MS) return false;
    reading = readCookie(cookieFile).finally(() => {
      reading = null;
    });
    return reading;
  }

  return {
    async current(): Promise<string | null> {
      if (header === null) await renew();
      return header;
    },
    renew,
  };
}

/** Name look-ups, remembered, so that a dead name server does not stand between a found block and its node. */
function cachedLookup(): LookupFunction {
  let kept: { host: string; atMs: number; address: string; family: number } | null = null;
  return (host, options, callback) => {
    const give = (address: string, family: number) => {
      if (options.all) callback(null, [{ address, family }]);
      else callback(null, address, family);
    };
    if (kept !== null && kept.host === host && performance.now() - kept.atMs < NAME_FRESH_MS) {
      give(kept.address, kept.family);
      return;
    }
    lookupName(host, { ...options, all: true }, (error, found) => {
      if (error !== null || found.length === 0) {
        if (kept !== null && kept.host === host) give(kept.address, kept.family);
        else callback(error ?? new Error('no address'), []);
        return;
      }
      const first = found[0]!;
      // Of several addresses only the one that last worked is worth keeping; with one there is no doubt.
      if (found.length === 1) kept = { host, atMs: performance.now(), ...first };
      if (options.all) callback(null, found);
      else callback(null, first.address, first.family);
    });
  };
}
