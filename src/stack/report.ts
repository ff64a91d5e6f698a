/**
 * What a process of the stack says of itself on `service.status`, every two seconds: that it lives, whether it is ready and why not, and a
 * few numbers that the status page shows. It has a connection to Kafka of its own, so that it never waits behind shares; while Kafka is
 * away nothing is said, and silence is what the others see.
 */
import { hostname } from 'node:os';
import type { KafkaBus } from '../adapters/bus/kafka.ts';
import type { StackConfig } from '../config.ts';
import { encodeServiceReport, REPORT_LIMITS, type ServiceReport } from '../messages/service.ts';
import type { Clock, Log } from '../ports.ts';

/** What a service adds to the report of its process. */
export type ReportDetail = Partial<
  Pick<ServiceReport, 'figures' | 'words' | 'alarms' | 'nodes' | 'ports' | 'workers'>
>;

export type Reporter = {
  /** Asked each time a report is made. */
  add(detail: () => ReportDetail): void;
  /** Says a last time that this process ends in order. */
  stop(): Promise<void>;
};

export type ReporterTools = {
  clock: Clock;
  log: Log;
  bus: Pick<KafkaBus, 'publish' | 'stop'>;
  /** Why nothing should be sent to this process now. */
  notReady: () => string[];
};

export type ReporterOptions = { service: string; instance: string; version: string };

const REPORT_MS = 2_000;
/** A table of many workers takes a while to put together: that may cost the process one part in a hundred. */
const COST_PARTS = 100;
const PAUSE_MAX_MS = 5_000;
const LAST_WORD_MS = 1_000;

/** Begins to report at once. */
export function startReporter(tools: ReporterTools, options: ReporterOptions): Reporter {
  const { clock, log, bus, notReady } = tools;
  const startedAtMs = clock.nowMs();
  const details: (() => ReportDetail)[] = [];
  let timer: NodeJS.Timeout | null = null;
  let underWay: Promise<void> = Promise.resolve();
  let isStopped = false;

  function make(ended: boolean): ServiceReport {
    const report: ServiceReport = {
      ...options,
      startedAtMs,
      atMs: clock.nowMs(),
      ended,
      reasons: notReady(),
      figures: new Map(),
      words: new Map(),
      alarms: [],
      nodes: [],
      ports: [],
      workers: [],
    };
    for (const detail of details) {
      try {
        Object.assign(report, detail());
      } catch (error) {
        log.debug('a part of the report could not be made', { reason: String(error) });
      }
    }
    const { workers } = report;
    if (workers.length <= REPORT_LIMITS.workers) return report;
    const largest = [...workers].sort((a, b) => b.rates.fiveMinutesHps - a.rates.fiveMinutesHps);
    return { ...report, workers: largest.slice(0, REPORT_LIMITS.workers) };
  }

  async function say(ended: boolean): Promise<void> {
    try {
      const value = encodeServiceReport(make(ended));
      await bus.publish('service.status', [{ key: options.instance, value }]);
    } catch (error) {
      log.debug('a report could not be published', { reason: String(error) });
    }
  }

  function next(): void {
    if (isStopped) return;
    const beganAtMs = performance.now();
    underWay = say(false);
    // Up to here it ran without a break.
    const tookMs = performance.now() - beganAtMs;
    const pauseMs = Math.min(Math.max(REPORT_MS, tookMs * COST_PARTS), PAUSE_MAX_MS);
    timer = setTimeout(() => void underWay.then(next), pauseMs);
  }
  next();

  return {
    add: (detail) => void details.push(detail),
    async stop() {
      isStopped = true;
      if (timer !== null) clearTimeout(timer);
      await within(
        LAST_WORD_MS,
        underWay.then(() => say(true)),
      );
      await within(LAST_WORD_MS, bus.stop());
    },
  };
}

/**
 * The name under which a process reports: with an INSTANCE_ID the same after every start; else by the machine and the port of its health,
 * of which there is one each.
 */
export function instanceName(
  config: {
    stack: Pick<StackConfig, 'service'>;
    instance: { prefix: number; prefixBits: number };
    metrics: { port: number } | null;
  },
  at: { host: string; pid: number } = { host: hostname(), pid: process.pid },
): string {
  const { service } = config.stack;
  // SERVICE_NAME may be the same for all of them.
  if (config.instance.prefixBits > 0) return `${service}-${config.instance.prefix}`;
  const port = config.metrics?.port ?? 0;
  return `${service}@${at.host}:${port === 0 ? at.pid : port}`;
}

async function within(timeoutMs: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([
    work.catch(() => {}),
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    }),
  ]);
  clearTimeout(timer);
}
