/**
 * The two HTTP ports. API (8080): the status page and JSON of pool, workers, blocks and money, read-only, for everybody on the network.
 * Private (9090): metrics, health, CPU profile and heap snapshot, for the operator and his monitoring.
 *
 * The numbers come from functions that are handed in; a source that fails costs its part of the answer. Limits: headers 8 KiB in
 * 5 s, request 15 s, no bodies, 20 requests/s for each address of the API. Requests that a browser makes for a foreign page get
 * nothing from the private port.
 */

import { isIP } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import type { RatePoint, RateSpan, RateSubject } from '../../core/series/rates.ts';
import type { Clock, Log } from '../../ports.ts';
import { addMoneyRoutes, type MoneySources } from './money.ts';
import { Pace } from './pace.ts';
import { renderPage } from './page.ts';
import { takeCpuProfile, takeHeapSnapshot } from './profile.ts';
import {
  type BlockView,
  blocksSchema,
  errorSchema,
  healthSchema,
  type PoolStatus,
  poolSchema,
  ratesSchema,
  type ServiceView,
  servicesSchema,
  type WorkerStatus,
  workersSchema,
} from './views.ts';

/** What the private port shows. */
export type HealthTools = {
  clock: Clock;
  log: Log;
  metrics: { contentType: string; scrape(): Promise<string> };
  /** Why no new miner should be sent here now, in plain words; empty when all is well. */
  notReady(): string[];
  /** Why this process should be started anew; empty when it lives. */
  notLive(): string[];
};

/** What the public port shows. */
export type ApiTools = Pick<HealthTools, 'clock' | 'log' | 'notReady'> & {
  pool(): PoolStatus | Promise<PoolStatus>;
  workers(): readonly WorkerStatus[] | Promise<readonly WorkerStatus[]>;
  /** The last rejections of `account.worker`, as plain JSON data, where they are kept; null when that worker is not known. */
  rejections?: (worker: string) => readonly unknown[] | null;
  /** Newest first. Rejects when the database is away. */
  blocks(limit: number): Promise<readonly BlockView[]>;
  money: MoneySources;
  /** Every process, where there are several. */
  services?: () => readonly ServiceView[];
  /** Rates by time for charts, where they are kept. Rejects when they cannot be had. */
  rates?: (subject: RateSubject, span: RateSpan) => Promise<readonly RatePoint[]>;
};

export type StatusTools = HealthTools & ApiTools;

export type StatusOptions = {
  /** Null: switched off. Port 0 takes any free one. */
  api: { host: string; port: number } | null;
  metrics: { host: string; port: number } | null;
};

export type Status = {
  /** The ports listened on, or null. */
  readonly apiPort: number | null;
  readonly metricsPort: number | null;
  /** Stops listening; answers under way are finished for at most a second. */
  stop(): Promise<void>;
};

const HEADER_BYTES_MAX = 8_192;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 15_000;
const CONNECTIONS_MAX = 512;
const PROFILE_SECONDS_MAX = 60;
const WORKERS_LISTED_MAX = 1_000;
const BLOCKS_LISTED_MAX = 500;
/** An account of several addresses, a dot, and the name of a worker. */
const WORKER_CHARS_MAX = 640;
/** As they stand in a path, with `,` as three characters. */
const PARAMETER_CHARS_MAX = 2_048;
/** Of a chart; its steps are whole minutes. */
const RATE_POINTS = 60;
const RATE_HOURS_MAX = 720;
/** Of each list, on the page. */
const LINES_SHOWN = 20;
const REASONS_SHOWN = 20;
const STOP_MS = 1_000;

/** Listens on what is asked for. Rejects with a sentence for the operator when a port can not be had. */
export async function startStatus(tools: StatusTools, options: StatusOptions): Promise<Status> {
  const api = options.api === null ? null : await startApi(tools, options.api);
  try {
    const own = options.metrics === null ? null : await startHealth(tools, options.metrics);
    return {
      apiPort: api?.port ?? null,
      metricsPort: own?.port ?? null,
      async stop() {
        await Promise.all([api?.stop(), own?.stop()]);
      },
    };
  } catch (error) {
    await api?.stop();
    throw error;
  }
}

/** The private side alone. Rejects with a sentence for the operator when the port can not be had. */
export async function startHealth(
  tools: HealthTools,
  at: { host: string; port: number },
): Promise<{ readonly port: number; stop(): Promise<void> }> {
  const server = buildPrivate(tools);
  await listen(server, at, 'metrics', 'METRICS_PORT');
  return { port: portOf(server), stop: () => close(server) };
}

/** The public side alone. Rejects with a sentence for the operator when the port can not be had. */
export async function startApi(
  tools: ApiTools,
  at: { host: string; port: number },
): Promise<{ readonly port: number; stop(): Promise<void> }> {
  const server = buildApi(tools);
  await listen(server, at, 'the status page', 'API_PORT');
  return { port: portOf(server), stop: () => close(server) };
}

// ── The public side ──────────────────────────────────────────────────────────────────────────────────────────────────

function buildApi(tools: ApiTools): FastifyInstance {
  const { clock } = tools;
  const server = buildServer(tools);
  const pace = new Pace({ perSecond: 20, burst: 60, addressesMax: 10_000 });
  server.addHook('onRequest', async (request, reply) => {
    if (pace.take(request.ip, clock.nowMs())) return;
    return reply.code(429).header('retry-after', '1').send({ error: 'too many requests' });
  });

  server.get('/', async (request, reply) => {
    const { money } = tools;
    const [pool, workers, blocks, accounts, payouts] = await Promise.all([
      tools.pool(),
      tools.workers(),
      tools.blocks(LINES_SHOWN).catch(() => []),
      money.accounts(LINES_SHOWN).catch(() => []),
      money.payouts(LINES_SHOWN).catch(() => []),
    ]);
    const page = renderPage(
      { pool, workers, blocks, accounts, payouts, services: tools.services?.() ?? [] },
      {
        host: nameOf(request.headers.host) ?? 'this-machine',
        nowMs: clock.nowMs(),
        hasRejections: tools.rejections !== undefined,
      },
    );
    return reply.type('text/html; charset=utf-8').send(page);
  });

  server.get(
    '/health',
    { schema: { response: { 200: healthSchema, 503: healthSchema } } },
    async (_, reply) => answerHealth(reply, tools.notReady()),
  );

  server.get('/api/v1/pool', { schema: { response: { 200: poolSchema } } }, async () =>
    withoutBigints(await tools.pool()),
  );

  server.get<{ Querystring: { limit: number; offset: number } }>(
    '/api/v1/workers',
    {
      schema: {
        querystring: {
          type: 'object',
          properties: {
            limit: { type: 'integer', minimum: 1, maximum: WORKERS_LISTED_MAX, default: 100 },
            offset: { type: 'integer', minimum: 0, maximum: 10_000_000, default: 0 },
          },
        },
        response: { 200: workersSchema },
      },
    },
    async ({ query }) => {
      const workers = await tools.workers();
      return {
        total: workers.length,
        workers: workers.slice(query.offset, query.offset + query.limit),
      };
    },
  );

  const { rejections: rejectionsOf } = tools;
  if (rejectionsOf !== undefined)
    server.get<{ Params: { name: string } }>(
      '/api/v1/workers/:name/rejections',
      {
        schema: {
          params: {
            type: 'object',
            properties: { name: { type: 'string', minLength: 1, maxLength: WORKER_CHARS_MAX } },
          },
          response: { 404: errorSchema },
        },
      },
      async ({ params }, reply) => {
        const rejections = rejectionsOf(params.name);
        if (rejections === null) return reply.code(404).send({ error: 'no such worker' });
        return { rejections: withoutBigints(rejections) };
      },
    );

  server.get<{ Querystring: { limit: number } }>(
    '/api/v1/blocks',
    {
      schema: {
        querystring: {
          type: 'object',
          properties: {
            limit: { type: 'integer', minimum: 1, maximum: BLOCKS_LISTED_MAX, default: 50 },
          },
        },
        response: { 200: blocksSchema, 503: errorSchema },
      },
    },
    async ({ query }, reply) => {
      try {
        return { blocks: withoutBigints(await tools.blocks(query.limit)) };
      } catch {
        return reply.code(503).send({ error: 'the database does not answer' });
      }
    },
  );
  addMoneyRoutes(server, tools.money, withoutBigints);
  const { services, rates } = tools;
  if (services !== undefined) {
    server.get('/api/v1/services', { schema: { response: { 200: servicesSchema } } }, async () => ({
      ...healthOf(tools.notReady()),
      services: services(),
    }));
  }
  if (rates !== undefined) addRateRoute(server, rates, clock);
  return server;
}

/** Rates by time, from the first whole step to the last one that is over. */
function addRateRoute(
  server: FastifyInstance,
  rates: NonNullable<ApiTools['rates']>,
  clock: Clock,
): void {
  type Query = { pool: string; account?: string; worker?: string; hours: number };
  const name = { type: 'string', minLength: 1, maxLength: 512 };
  server.get<{ Querystring: Query }>(
    '/api/v1/rates',
    {
      schema: {
        querystring: {
          type: 'object',
          properties: {
            pool: { ...name, default: 'main' },
            account: name,
            worker: { ...name, minLength: 0 },
            hours: { type: 'integer', minimum: 1, maximum: RATE_HOURS_MAX, default: 24 },
          },
        },
        response: { 200: ratesSchema, 400: errorSchema, 503: errorSchema },
      },
    },
    async ({ query }, reply) => {
      const { pool, account, worker, hours } = query;
      if (worker !== undefined && account === undefined)
        return reply.code(400).send({ error: 'a worker is asked for together with its account' });
      const subject: RateSubject =
        account === undefined
          ? { pool }
          : worker === undefined
            ? { pool, account }
            : { pool, account, worker };
      const stepMs = Math.max(60_000, (hours * 3_600_000) / RATE_POINTS);
      const untilMs = clock.nowMs();
      try {
        const points = await rates(subject, {
          fromMs: untilMs - hours * 3_600_000,
          untilMs,
          stepMs,
        });
        return { stepMs, points };
      } catch {
        return reply.code(503).send({ error: 'the time series does not answer' });
      }
    },
  );
}

// ── The private side ─────────────────────────────────────────────────────────────────────────────────────────────────

function buildPrivate(tools: HealthTools): FastifyInstance {
  const server = buildServer(tools);
  let isProfiling = false;

  server.addHook('onRequest', async (request, reply) => {
    // A page in the operator's browser may point an image, or a name that resolves to 127.0.0.1, at this port.
    const site = request.headers['sec-fetch-site'];
    const isForeign = site !== undefined && site !== 'none' && site !== 'same-origin';
    const name = nameOf(request.headers.host);
    const isRebound =
      request.url.startsWith('/debug/') && name !== 'localhost' && isIP(name ?? '') === 0;
    if (isForeign || isRebound)
      return reply.code(403).send({ error: 'ask by address, not from a page' });
  });

  server.get('/', async (_, reply) =>
    reply
      .type('text/plain; charset=utf-8')
      .send(
        [
          'headframe, private port',
          '/metrics                   for Prometheus',
          '/health /ready /live       200 or 503, with reasons',
          '/debug/profile?seconds=10  CPU profile of the main thread (.cpuprofile)',
          '/debug/heap                heap snapshot (.heapsnapshot); holds secrets, and stops the main thread while it is made',
          '',
        ].join('\n'),
      ),
  );
  server.get('/metrics', async (_, reply) =>
    reply.type(tools.metrics.contentType).send(await tools.metrics.scrape()),
  );
  const health = { schema: { response: { 200: healthSchema, 503: healthSchema } } };
  server.get('/health', health, async (_, reply) =>
    answerHealth(reply, [...tools.notLive(), ...tools.notReady()]),
  );
  server.get('/ready', health, async (_, reply) => answerHealth(reply, tools.notReady()));
  server.get('/live', health, async (_, reply) => answerHealth(reply, tools.notLive()));

  server.get<{ Querystring: { seconds: number } }>(
    '/debug/profile',
    {
      schema: {
        querystring: {
          type: 'object',
          properties: {
            seconds: { type: 'number', minimum: 0.1, maximum: PROFILE_SECONDS_MAX, default: 10 },
          },
        },
      },
    },
    async (request, reply) => {
      if (isProfiling) return reply.code(409).send({ error: 'a profile is being taken' });
      isProfiling = true;
      const gone = new AbortController();
      reply.raw.on('close', () => gone.abort());
      try {
        const profile = await takeCpuProfile(request.query.seconds, gone.signal);
        return reply
          .header(
            'content-disposition',
            `attachment; filename="headframe-${tools.clock.nowMs()}.cpuprofile"`,
          )
          .type('application/json')
          .send(profile);
      } finally {
        isProfiling = false;
      }
    },
  );

  server.get('/debug/heap', async (_, reply) => {
    if (isProfiling) return reply.code(409).send({ error: 'a profile is being taken' });
    isProfiling = true;
    reply.raw.on('close', () => {
      isProfiling = false;
    });
    tools.log.warn('a heap snapshot is being taken; it holds everything this process knows');
    return reply
      .header(
        'content-disposition',
        `attachment; filename="headframe-${tools.clock.nowMs()}.heapsnapshot"`,
      )
      .type('application/json')
      .send(takeHeapSnapshot());
  });
  return server;
}

// ── Both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

function buildServer({ log }: Pick<HealthTools, 'log'>): FastifyInstance {
  const server = fastify({
    logger: false,
    bodyLimit: 1_024,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: 5_000,
    maxRequestsPerSocket: 10_000,
    forceCloseConnections: true,
    exposeHeadRoutes: true,
    routerOptions: { maxParamLength: PARAMETER_CHARS_MAX },
    http: { maxHeaderSize: HEADER_BYTES_MAX, headersTimeout: HEADERS_TIMEOUT_MS },
    ajv: { customOptions: { coerceTypes: true, removeAdditional: false } },
  });
  server.server.maxConnections = CONNECTIONS_MAX;
  server.addHook('onSend', async (_, reply) => {
    reply.header('x-content-type-options', 'nosniff');
    reply.header('x-frame-options', 'DENY');
    reply.header('referrer-policy', 'no-referrer');
    reply.header('cache-control', 'no-store');
    reply.header('cross-origin-resource-policy', 'same-origin');
    reply.header(
      'content-security-policy',
      "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
  });
  server.setNotFoundHandler((_, reply) => {
    void reply.code(404).send({ error: 'there is nothing here' });
  });
  server.setErrorHandler(
    (error: Error & { statusCode?: number; validation?: unknown }, request, reply) => {
      const code = error.statusCode ?? 500;
      if (code === 503) {
        void reply.code(503).send({ error: error.message });
      } else if (code >= 500) {
        log.error('a status request failed', { method: request.method, path: request.url, error });
        void reply.code(500).send({ error: 'internal error' });
      } else {
        void reply
          .code(code)
          .send({ error: error.validation === undefined ? 'bad request' : error.message });
      }
    },
  );
  return server;
}

async function listen(
  server: FastifyInstance,
  at: { host: string; port: number },
  what: string,
  setting: string,
): Promise<void> {
  try {
    await server.listen({ host: at.host, port: at.port });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reason =
      code === 'EADDRINUSE'
        ? 'another program has it'
        : code === 'EACCES'
          ? 'ports below 1024 are for root'
          : code === 'EADDRNOTAVAIL'
            ? 'this machine has no such address'
            : String(code ?? error);
    throw new Error(
      `${what} can not listen on ${at.host} port ${at.port}: ${reason} (setting ${setting})`,
    );
  }
}

async function close(server: FastifyInstance): Promise<void> {
  const timer = setTimeout(() => server.server.closeAllConnections(), STOP_MS);
  try {
    await server.close();
  } finally {
    clearTimeout(timer);
  }
}

function portOf(server: FastifyInstance): number {
  const address = server.server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function answerHealth(reply: FastifyReply, reasons: readonly string[]): FastifyReply {
  return reply.code(reasons.length === 0 ? 200 : 503).send(healthOf(reasons));
}

function healthOf(reasons: readonly string[]): { status: string; reasons: readonly string[] } {
  return {
    status: reasons.length === 0 ? 'ok' : 'unavailable',
    reasons: reasons.slice(0, REASONS_SHOWN),
  };
}

/** The name in a Host header, without the port; null when there is none that could be one. */
function nameOf(host: string | undefined): string | null {
  const match = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?$/.exec(host ?? '');
  return match === null ? null : match[1]!.replace(/^\[(.*)\]$/, '$1');
}

/** The same data with every bigint as text. */
function withoutBigints(value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Uint8Array)
    return Buffer.from(value.buffer, value.byteOffset, value.length).toString('hex');
  if (Array.isArray(value)) return value.map(withoutBigints);
  if (value instanceof Map) return withoutBigints(Object.fromEntries(value));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, withoutBigints(inner)]),
  );
}
