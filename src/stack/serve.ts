/**
 * The frame of every service that runs as a process of its own: health port first, then the service, which takes its time with
 * dependencies that are not there yet; draining in reverse order. `main.ts` brings configuration, log, signals and the exit.
 *
 * A service is one function, `StartService`. It opens what it needs through the frame, and returns when it works. Until then, and
 * whenever something it needs is away, the process lives and is not ready, and `/ready` says why in plain words. What only the
 * operator can mend (wrong password, a topic of the wrong kind) ends the process with one line and exit code 78.
 */
import { bridge } from '../adapters/bus/bridge.ts';
import { createKafkaBus, type KafkaBus } from '../adapters/bus/kafka.ts';
import { UnusableKafkaError } from '../adapters/bus/kafka-topics.ts';
import type { MemoryBus } from '../adapters/bus/memory.ts';
import { type CountedCache, createMemoryCache } from '../adapters/cache/memory.ts';
import { createRedisCache } from '../adapters/cache/redis.ts';
import { readMigrations } from '../adapters/db/migrations.ts';
import { connectPostgres } from '../adapters/db/postgres.ts';
import { type Pool, type PoolTools, StartError } from '../compose.ts';
import type { Config, StackConfig } from '../config.ts';
import { createMeter, type Meter } from '../meter.ts';
import { createMetrics, type Figure, type MetricSources } from '../metrics.ts';
import type { Db, Log } from '../ports.ts';
import { THREAD_TOPICS, type ThreadData } from '../roles.ts';
import { startHealth } from '../services/status/status.ts';
import { migrate, SchemaTooNewError } from '../store/migrate.ts';
import { type KeptThread, keepThread } from '../threads.ts';
import { instanceName, type ReportDetail, startReporter } from './report.ts';

export const EX_CONFIG = 78;
const EX_SOFTWARE = 70;
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 5_000;
/** A gateway has two of them, which end one after the other: with all else that is still less than `DRAIN_MS_MAX`. */
const STOP_THREAD_MS = 3_000;
const LOOK_AT_DB_MS = 2_000;
const DB_CONNECTIONS_MAX = 6;

/** The configuration of a service. */
export type ServiceConfig = Config & { stack: StackConfig };

/** What a service is handed beside its configuration. */
export type Frame = PoolTools & {
  /** Counts of the main thread of this process, shown with the metrics. */
  meter: Meter;
  /** Aborted when the process is to end. */
  ending: AbortSignal;
  /** Remembers how to end something that was started; what was started last ends first. */
  keep(name: string, stop: () => Promise<void> | void): void;
  /**
   * Tries until it succeeds, with pauses that grow to five seconds; meanwhile the process is not ready because of `what`. A
   * `StartError` ends the process instead. Rejects when the process is to end.
   */
  until<T>(what: string, attempt: () => Promise<T>): Promise<T>;
  /** Asked at every look at `/ready`: why nothing should be sent here now; empty when all is well. */
  watch(reasons: () => string[]): void;
  /** What `/ready` says now. */
  notReady(): string[];
  /** Adds to what this process says of itself on `service.status`. */
  report(detail: () => ReportDetail): void;
  /** Further numbers for `/metrics`. */
  show(sources: MetricSources): void;
  /** Starts a worker thread and keeps it alive, its bus joined to `bus`. Its figures are shown. */
  thread(role: ThreadData['role'], bus: MemoryBus, needs: ThreadNeeds): Promise<KeptThread>;
  /** Ends the process. */
  fail(reason: string, exitCode: number): void;
};

export type ThreadNeeds = {
  /** Made anew for each start of the thread. */
  data: () => Record<string, unknown>;
  onStart?: Parameters<typeof keepThread>[1]['connect'];
};

/** A service that works. */
export type Service = {
  /** SIGHUP. */
  reload?: () => Promise<void>;
};

/** Resolves when the service works. What was opened by then is ended by the frame, also when it rejects. */
export type StartService = (frame: Frame, config: ServiceConfig) => Promise<Service>;

/** The process is to end, so nothing more is begun. */
class EndingError extends Error {}

/**
 * Opens the health port, begins the service and returns at once, so that signals are heard while it waits for others. Rejects only
 * when the health port cannot be had.
 */
export async function serve(
  tools: PoolTools,
  config: ServiceConfig,
  start: StartService,
): Promise<Pool> {
  const { clock, log, version } = tools;
  const started: { name: string; stop: () => Promise<void> | void }[] = [];
  const ending = new AbortController();
  const waitingFor = new Set<string>();
  const watches: (() => string[])[] = [];
  const threads: KeptThread[] = [];
  const meter = createMeter();
  let sources: MetricSources = {};
  let reload: (() => Promise<void>) | undefined;
  let isStarted = false;
  let isFailing = false;
  let tellFailure: (failure: { reason: string; exitCode: number }) => void = () => {};
  const failed = new Promise<{ reason: string; exitCode: number }>((resolve) => {
    tellFailure = resolve;
  });

  function figures(): Figure[] {
    return [
      ...meter.figures(),
      ...(sources.figures?.() ?? []),
      ...threads.flatMap((thread) => [
        ...thread.figures(),
        {
          name: 'headframe_thread_restarts_total',
          help: 'Times a thread died and was started again.',
          kind: 'counter' as const,
          value: thread.restarts(),
          labels: { thread: thread.role },
        },
      ]),
    ];
  }

  function makeMetrics() {
    const workersMax = config.metrics?.workersMax ?? 0;
    return createMetrics({ ...sources, figures }, { workersMax, version });
  }
  let metrics = makeMetrics();

  function notReady(): string[] {
    const reasons = [
      ...(ending.signal.aborted ? ['the service is ending'] : []),
      ...(isStarted || waitingFor.size > 0 ? [] : ['the service is starting']),
      ...Array.from(waitingFor, (what) => `waiting for ${what}`),
      ...watches.flatMap((more) => more()),
    ];
    return [...new Set(reasons)];
  }

  const frame: Frame = {
    ...tools,
    meter,
    ending: ending.signal,
    keep: (name, stop) => void started.push({ name, stop }),
    async until(what, attempt) {
      waitingFor.add(what);
      try {
        let pauseMs = PAUSE_MIN_MS;
        for (let tries = 1; ; tries += 1) {
          if (ending.signal.aborted) throw new EndingError(`${what} is not needed any more`);
          try {
            const result = await attempt();
            if (tries > 1) log.info(`${what} is there now`, { tries });
            return result;
          } catch (error) {
            if (error instanceof StartError || ending.signal.aborted) throw error;
            const reason = error instanceof Error ? error.message : String(error);
            if (tries === 1) log.warn(`waiting for ${what}`, { reason });
            else log.debug(`still waiting for ${what}`, { reason, tries });
          }
          await pause(pauseMs, ending.signal);
          pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS);
        }
      } finally {
        waitingFor.delete(what);
      }
    },
    watch: (reasons) => void watches.push(reasons),
    notReady,
    report: (detail) => reporter.add(detail),
    show(more) {
      const before = sources.figures;
      const after = more.figures;
      sources = { ...sources, ...more };
      if (before !== undefined && after !== undefined)
        sources.figures = () => [...before(), ...after()];
      metrics = makeMetrics();
    },
    async thread(role, bus, { data, onStart }) {
      const { takes, gives } = THREAD_TOPICS[role];
      const { thread } = await keepThread(
        { log },
        {
          role,
          data: () => ({ log: tools.logOptions, ...data() }),
          connect: (port, send) => {
            void bridge(bus, port, { outgoing: takes, incoming: gives, log, peer: role });
            onStart?.(port, send);
          },
          onGivenUp: (reason, exitCode) => frame.fail(reason, exitCode),
        },
      );
      threads.push(thread);
      frame.keep(role, () => thread.stop(STOP_THREAD_MS));
      return thread;
    },
    fail(reason, exitCode) {
      if (isFailing) return;
      isFailing = true;
      tellFailure({ reason, exitCode });
    },
  };

  if (config.metrics !== null) {
    const health = await startHealth(
      {
        clock,
        log,
        metrics: { contentType: metrics.contentType, scrape: () => metrics.scrape() },
        notReady,
        notLive: () => [],
      },
      config.metrics,
    );
    frame.keep('health port', () => health.stop());
    log.info('health and metrics', { port: health.port });
  }

  const { kafka, service } = config.stack;
  const instance = instanceName(config);
  const quiet: Log = {
    ...log,
    info: log.debug,
    warn: log.debug,
    error: log.debug,
    child: () => quiet,
  };
  const reporter = startReporter(
    {
      clock,
      log,
      bus: createKafkaBus({
        // The service's own bus says what there is to say.
        log: quiet,
        clientId: `${instance} report`,
        ...kafka,
      }),
      notReady,
    },
    { service, instance, version },
  );

  const starting = start(frame, config).then(
    (service) => {
      reload = service.reload;
      isStarted = true;
    },
    (error) => {
      if (error instanceof EndingError || ending.signal.aborted) return;
      const exitCode = (error as { exitCode?: number }).exitCode ?? EX_SOFTWARE;
      if (exitCode === EX_SOFTWARE)
        log.error('the service could not start', { stack: (error as Error).stack });
      frame.fail(error instanceof Error ? error.message : String(error), exitCode);
    },
  );

  return {
    failed,
    reload: async () => reload?.(),
    async stop() {
      ending.abort();
      // Others should know at once, and no part waits for it.
      const saying = reporter.stop();
      await starting;
      for (const { name, stop } of started.splice(0).reverse()) {
        try {
          await stop();
        } catch (error) {
          log.error('a part did not end in order', { part: name, reason: String(error) });
        }
      }
      await saying;
    },
  };
}

/** The bus of all processes. Topics that cannot be used end the process. */
export function openBus(frame: Frame, config: ServiceConfig, clientId: string): KafkaBus {
  const bus = createKafkaBus({
    log: frame.log,
    clientId,
    member: instanceName(config),
    ...config.stack.kafka,
  });
  frame.keep('bus', () => bus.stop());
  frame.watch(() => {
    const { connected, lastError } = bus.status();
    return connected ? [] : [describeSilence(lastError)];
  });
  frame.show({ figures: () => kafkaFigures(bus.status()) });
  bus.ready.catch((error) => {
    if (error instanceof UnusableKafkaError) frame.fail(error.message, EX_CONFIG);
  });
  return bus;
}

/** For `/ready`. */
export function describeSilence(lastError: string | null): string {
  return `Kafka does not answer${lastError === null ? ' yet' : `: ${lastError}`}`;
}

/** Numbers of a Kafka bus for `/metrics`. */
export function kafkaFigures(status: ReturnType<KafkaBus['status']>): Figure[] {
  return [
    figure('kafka_connected', 'gauge', 'Whether the brokers answer.', status.connected ? 1 : 0),
    figure('kafka_errors_total', 'counter', 'Calls to a broker that failed.', status.errors),
    figure('kafka_waiting_bytes', 'gauge', 'Bytes that wait to be safe.', status.waitingBytes),
  ];
}

function figure(name: string, kind: Figure['kind'], help: string, value: number): Figure {
  return { name: `headframe_${name}`, kind, help, value };
}

/** The shared database with its schema up to date; waits for it. Not ready while it is away later. */
export async function openDb(
  frame: Frame,
  config: ServiceConfig,
  options: { name: string; connectionsMax?: number },
): Promise<Db> {
  const { url } = config.database;
  if (url === null)
    throw new StartError('POSTGRES_URL is not set: a service on its own needs it', EX_CONFIG);
  const { log } = frame;
  const db = await frame.until('PostgreSQL', async () => {
    let opened: Db | null = null;
    try {
      opened = await connectPostgres({
        connectionString: url,
        log,
        name: options.name,
        connectionsMax: options.connectionsMax ?? DB_CONNECTIONS_MAX,
      });
      await migrate({ db: opened, log }, readMigrations());
      return opened;
    } catch (error) {
      await opened?.stop();
      throw asStartError(error);
    }
  });
  let trouble: string | null = null;
  let isLooking = false;
  const timer = setInterval(() => {
    if (isLooking) return;
    isLooking = true;
    db.query('SELECT 1')
      .then(
        () => {
          trouble = null;
        },
        (error) => {
          const reason = error instanceof Error ? error.message : String(error);
          trouble = `PostgreSQL does not answer: ${reason}`;
        },
      )
      .finally(() => {
        isLooking = false;
      });
  }, LOOK_AT_DB_MS);
  frame.keep('database', async () => {
    clearInterval(timer);
    await db.stop();
  });
  frame.watch(() => (trouble === null ? [] : [trouble]));
  return db;
}

/** What only the operator can mend becomes a `StartError`; every other error stays as it is. */
export function asStartError(error: unknown): unknown {
  if (error instanceof SchemaTooNewError || WRONG_BY_CONFIG.has(codeOf(error)))
    return new StartError(`PostgreSQL: ${(error as Error).message}`, EX_CONFIG);
  return error;
}

/** Wrong user or password, no such database, no right to connect. */
const WRONG_BY_CONFIG: ReadonlySet<string> = new Set(['28P01', '28000', '3D000', '42501']);

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : '';
}

/** Redis, or without REDIS_URL the memory of this process. Never a reason not to be ready. */
export function openCache(frame: Frame, config: ServiceConfig): CountedCache {
  const { clock, log } = frame;
  const { redisUrl } = config.stack;
  const cache =
    redisUrl === null
      ? createMemoryCache({ clock })
      : createRedisCache({ url: redisUrl, prefix: `headframe:${config.network}:`, log });
  frame.keep('cache', () => cache.stop());
  frame.show({
    figures: () => {
      const { open, ...counts } = cache.counts();
      return [
        ...Object.entries(counts).map(([what, value]) => ({
          ...figure('cache_calls_total', 'counter', 'Calls to the cache.', value),
          labels: { what },
        })),
        figure('cache_circuit_open', 'gauge', 'Whether the cache is not even asked.', open),
      ];
    },
  });
  return cache;
}

/** Resolves after the time, or at once when the signal is aborted. */
function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, delayMs);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done);
  });
}
