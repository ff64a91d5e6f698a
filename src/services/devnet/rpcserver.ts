/**
 * JSON-RPC over HTTP as Bitcoin Core 28 serves it (`src/httprpc.cpp`, `src/rpc/request.cpp`): POST only, basic
 * authorisation by user and password or by cookie file, JSON-RPC 1.0, 1.1, 2.0 and batches, HTTP 404 for an unknown
 * method, 400 for a request that is none, 500 for every other error of a 1.x request, 503 when the work queue is full.
 * Wallet methods find their wallet by the path `/wallet/<name>`. Refuses bodies above 32 MiB and more than
 * `workQueueDepth` requests at once. Request faults (`faults.ts`) are carried out here.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Log } from '../../ports.ts';
import type { Faults, RequestFault } from './faults.ts';
import { parseJson } from './json.ts';
import { RpcError, rpcCode } from './rpcerror.ts';

/** Core's MAX_SIZE, its limit for request bodies. */
const bodyBytesMax = 32 * 1024 * 1024;
const connectionsMax = 256;
const batchMax = 1000;
const unauthorizedDelayMs = 250;

/** What a method is told besides its parameters. `signal` aborts when the caller hangs up or the node stops. */
export type CallContext = { wallet: string | null; signal: AbortSignal };

export type RunMethod = (method: string, params: unknown, context: CallContext) => unknown;

export type RpcServer = {
  port: number;
  /** Writes a new cookie (and thereby invalidates the old one); null when no cookie file was asked for. */
  rotateCookie(): string | null;
  stop(): Promise<void>;
};

type Call = {
  id: unknown;
  hasId: boolean;
  version2: boolean;
  method: string;
  params: unknown;
};

/** Listens on `host:port` (0: any free port) and runs methods through `tools.run`. */
export async function openRpcServer(
  tools: { log: Log; faults: Faults; run: RunMethod },
  options: {
    host: string;
    port: number;
    user: string;
    password: string;
    cookieFile: string | null;
    workQueueDepth: number;
  },
): Promise<RpcServer> {
  const { log, faults, run } = tools;
  let cookie: string | null = null;
  let inFlight = 0;
  let stopped = false;
  const aborts = new Set<AbortController>();

  const rotateCookie = (): string | null => {
    if (options.cookieFile === null) return null;
    cookie = `__cookie__:${randomBytes(32).toString('hex')}`;
    const temporary = `${options.cookieFile}.tmp`;
    const file = openSync(temporary, 'w', 0o600);
    writeSync(file, cookie);
    fsyncSync(file);
    closeSync(file);
    renameSync(temporary, options.cookieFile);
    return cookie;
  };
  rotateCookie();

  const authorized = (header: string | undefined): boolean => {
    if (header === undefined || !/^basic /i.test(header)) return false;
    const given = Buffer.from(header.slice(6).trim(), 'base64').toString('utf8');
    const allowed = [`${options.user}:${options.password}`, ...(cookie === null ? [] : [cookie])];
    return allowed.some((candidate) => sameText(candidate, given));
  };

  const execute = async (call: Call, context: CallContext): Promise<string> => {
    try {
      const result = await run(call.method, call.params, context);
      return replyText(call, result === undefined ? null : result, null);
    } catch (error) {
      if (error instanceof RpcError) {
        if (!call.version2) throw error;
        return replyText(call, null, error);
      }
      log.error('a devnet method failed', {
        method: call.method,
        error: error instanceof Error ? (error.stack ?? error.message) : String(error),
      });
      const internal = new RpcError(rpcCode.misc, `internal error in ${call.method}`);
      if (!call.version2) throw internal;
      return replyText(call, null, internal);
    }
  };

  const answer = async (
    request: IncomingMessage,
    response: ServerResponse,
    body: string,
    signal: AbortSignal,
  ): Promise<void> => {
    const wallet = walletOfPath(request.url ?? '/');
    if (wallet === undefined) return reply(response, 404, '');
    let parsed: unknown;
    try {
      parsed = parseJson(body);
    } catch {
      return reply(response, 500, errorText(null, new RpcError(rpcCode.parse, 'Parse error')));
    }
    if (Array.isArray(parsed)) return answerBatch(response, parsed, { wallet, signal });
    if (typeof parsed !== 'object' || parsed === null)
      return reply(
        response,
        500,
        errorText(null, new RpcError(rpcCode.parse, 'Top-level object parse error')),
      );
    const call = decodeCall(parsed);
    if (call instanceof RpcError)
      return reply(response, 400, errorText((parsed as { id?: unknown }).id, call));

    const fault = faults.takeRequest(call.method);
    if (fault && !(await spoilBefore(fault, call, response, signal))) return;
    let text: string;
    let status = 200;
    try {
      text = await execute(call, { wallet, signal });
    } catch (error) {
      const rpcError = error as RpcError;
      status = rpcError.code === rpcCode.methodNotFound ? 404 : 500;
      text = errorText(call.id, rpcError);
    }
    if (fault?.after && !(await spoilAfter(fault, call, response, text, signal))) return;
    if (fault?.kind === 'wrong-id') text = text.replace(/"id":[^}]*\}\s*$/, '"id":"not yours"}\n');
    if (call.version2 && !call.hasId) return reply(response, 204, '');
    reply(response, status, text);
  };

  const answerBatch = async (
    response: ServerResponse,
    requests: unknown[],
    context: CallContext,
  ): Promise<void> => {
    if (requests.length > batchMax)
      return reply(
        response,
        400,
        errorText(null, new RpcError(rpcCode.invalidRequest, 'Batch too large')),
      );
    const replies: string[] = [];
    for (const request of requests) {
      const call = decodeCall(request);
      if (call instanceof RpcError) {
        replies.push(errorText((request as { id?: unknown } | null)?.id, call).trimEnd());
        continue;
      }
      let text: string;
      try {
        text = await execute(call, context);
      } catch (error) {
        text = errorText(call.id, error as RpcError);
      }
      if (call.hasId || !call.version2) replies.push(text.trimEnd());
    }
    if (replies.length === 0 && requests.length > 0) return reply(response, 204, '');
    reply(response, 200, `[${replies.join(',')}]\n`);
  };

  const server = createServer({ keepAliveTimeout: 30_000, requestTimeout: 60_000 });
  server.maxConnections = connectionsMax;
  server.on('clientError', (_error, socket) => {
    if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
    else socket.destroy();
  });
  server.on('request', (request, response) => {
    response.on('error', () => {});
    const finish = (status: number, text: string): void => {
      // The body is not read, so the connection cannot be used again.
      response.setHeader('Connection', 'close');
      reply(response, status, text);
    };
    if (request.method !== 'POST') return finish(405, 'JSONRPC server handles only POST requests');
    if (!authorized(request.headers.authorization)) {
      // Core waits as well, against guessing; only a wrong header is worth the wait.
      const delayMs = request.headers.authorization === undefined ? 0 : unauthorizedDelayMs;
      setTimeout(() => {
        response.setHeader('WWW-Authenticate', 'Basic realm="jsonrpc"');
        finish(401, '');
      }, delayMs).unref();
      return;
    }
    if (inFlight >= options.workQueueDepth) return finish(503, 'Work queue depth exceeded');
    inFlight += 1;
    const abort = new AbortController();
    aborts.add(abort);
    response.on('close', () => {
      inFlight -= 1;
      aborts.delete(abort);
      abort.abort();
    });
    const chunks: Buffer[] = [];
    let received = 0;
    request.on('error', () => {});
    request.on('data', (chunk: Buffer) => {
      received += chunk.length;
      if (received > bodyBytesMax) {
        request.pause();
        finish(413, '');
      } else chunks.push(chunk);
    });
    request.on('end', () => {
      if (received > bodyBytesMax || stopped) return;
      answer(request, response, Buffer.concat(chunks).toString('utf8'), abort.signal).catch(
        (error) => {
          log.error('a devnet answer failed', { error: String(error) });
          response.destroy();
        },
      );
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, () => {
      server.off('error', reject);
      server.on('error', (error) =>
        log.error('the devnet RPC port failed', { error: String(error) }),
      );
      resolve();
    });
  });

  return {
    port: (server.address() as AddressInfo).port,
    rotateCookie,
    async stop() {
      if (stopped) return;
      stopped = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const abort of aborts) abort.abort();
      // Long polls answer "Shutting down" on the next turn; whoever has not answered by then is cut off.
      setTimeout(() => server.closeAllConnections(), 50);
      server.closeIdleConnections();
      await closed;
      if (options.cookieFile !== null) rmSync(options.cookieFile, { force: true });
    },
  };
}

/** Carries out a fault that comes before the method runs. True: go on and run it. */
async function spoilBefore(
  fault: RequestFault,
  call: Call,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<boolean> {
  if (fault.delayMs > 0 && !(await pause(fault.delayMs, signal))) return false;
  if (fault.after || fault.kind === 'delay' || fault.kind === 'wrong-id') return true;
  return spoilAfter(fault, call, response, replyText(call, null, null), signal);
}

/** Spoils the answer `text`. True: nothing was sent yet, send the answer. */
async function spoilAfter(
  fault: RequestFault,
  call: Call,
  response: ServerResponse,
  text: string,
  signal: AbortSignal,
): Promise<boolean> {
  switch (fault.kind) {
    case 'work-queue':
      reply(response, 503, 'Work queue depth exceeded');
      return false;
    case 'unauthorized':
      response.setHeader('WWW-Authenticate', 'Basic realm="jsonrpc"');
      reply(response, 401, '');
      return false;
    case 'warming-up':
      reply(response, 500, errorText(call.id, new RpcError(rpcCode.warmup, fault.message)));
      return false;
    case 'rpc-error':
      reply(response, 500, errorText(call.id, new RpcError(fault.code, fault.message)));
      return false;
    case 'html':
      response.setHeader('Content-Type', 'text/html');
      response.statusCode = 200;
      response.end('<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n');
      return false;
    case 'truncated': {
      const bytes = Buffer.from(text);
      response.setHeader('Content-Type', 'application/json');
      response.setHeader('Content-Length', String(bytes.length));
      response.write(bytes.subarray(0, bytes.length >> 1), () => response.destroy());
      return false;
    }
    case 'oversized':
      await writeOversized(response, fault.bodyBytes, signal);
      return false;
    case 'hang':
      // The response stays open; the caller's own time limit or the node's end closes it.
      return false;
    case 'drop':
      response.socket?.resetAndDestroy();
      return false;
    case 'delay':
    case 'wrong-id':
      return true;
  }
}

/** Streams a valid JSON answer of `bodyBytes` whose result is one long string, without ever holding it. */
async function writeOversized(
  response: ServerResponse,
  bodyBytes: number,
  signal: AbortSignal,
): Promise<void> {
  response.setHeader('Content-Type', 'application/json');
  response.write('{"result":"');
  const chunk = Buffer.alloc(256 * 1024, 0x61);
  for (let left = bodyBytes; left > 0 && !signal.aborted; left -= chunk.length)
    if (!response.write(left < chunk.length ? chunk.subarray(0, left) : chunk))
      await new Promise<void>((resolve) => {
        const done = (): void => {
          signal.removeEventListener('abort', done);
          response.off('drain', done);
          resolve();
        };
        response.once('drain', done);
        signal.addEventListener('abort', done);
      });
  if (!signal.aborted) response.end('","error":null,"id":0}');
}

function pause(delayMs: number, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(true), delayMs);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve(false);
    });
  });
}

function decodeCall(value: unknown): Call | RpcError {
  const invalid = (message: string): RpcError => new RpcError(rpcCode.invalidRequest, message);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return invalid('Invalid Request object');
  const request = new Map<string, unknown>(Object.entries(value));
  const version = request.get('jsonrpc') ?? null;
  if (version !== null && typeof version !== 'string')
    return invalid('jsonrpc field must be a string');
  // Core accepts any text below 2.0 it knows; "1.1" was never one of them, but old clients send it.
  if (version !== null && !['1.0', '1.1', '2.0'].includes(version))
    return invalid('JSON-RPC version not supported');
  const method = request.get('method') ?? null;
  if (method === null) return invalid('Missing method');
  if (typeof method !== 'string') return invalid('Method must be a string');
  const params = request.get('params') ?? [];
  if (typeof params !== 'object') return invalid('Params must be an array or object');
  return {
    id: request.get('id') ?? null,
    hasId: request.has('id'),
    version2: version === '2.0',
    method,
    params,
  };
}

function replyText(call: Call, result: unknown, error: RpcError | null): string {
  const id = JSON.stringify(call.id);
  if (call.version2)
    return error
      ? `{"jsonrpc":"2.0","error":${errorJson(error)},"id":${id}}\n`
      : `{"jsonrpc":"2.0","result":${JSON.stringify(result)},"id":${id}}\n`;
  return `{"result":${JSON.stringify(result)},"error":null,"id":${id}}\n`;
}

function errorText(id: unknown, error: RpcError): string {
  return `{"result":null,"error":${errorJson(error)},"id":${JSON.stringify(id ?? null)}}\n`;
}

function errorJson(error: RpcError): string {
  return JSON.stringify({ code: error.code, message: error.message });
}

function reply(response: ServerResponse, status: number, text: string): void {
  if (response.destroyed || response.headersSent) return;
  response.statusCode = status;
  if (text.startsWith('{') || text.startsWith('['))
    response.setHeader('Content-Type', 'application/json');
  const bytes = Buffer.from(text);
  if (status !== 204) response.setHeader('Content-Length', String(bytes.length));
  response.end(bytes);
}

/** `/` → null, `/wallet/x` → `x`, any other path → undefined (HTTP 404). */
function walletOfPath(path: string): string | null | undefined {
  const bare = path.split('?', 1)[0];
  if (bare === '/' || bare === '') return null;
  if (!bare.startsWith('/wallet/')) return undefined;
  try {
    return decodeURIComponent(bare.slice('/wallet/'.length));
  } catch {
    return undefined;
  }
}

function sameText(left: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(left), digest(right));
}
