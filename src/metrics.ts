/**
 * Metrics in the text form of Prometheus, on prom-client. The parts of the pool count into plain fields (a nanosecond each);
 * everything is read from there when somebody asks, so a share pays nothing for being watched.
 *
 * The nine `stratum_*` names are those of the Stratum server document, exactly. Everything else begins with `headframe_`,
 * `process_` or `nodejs_`. Labels come from closed lists, except `worker`, of which only the largest so many are shown.
 */

import { collectDefaultMetrics, Registry } from 'prom-client';
import type { JournalFigures, JournalState } from './adapters/journal.ts';
import { safeText } from './log.ts';
import type { LaneStatus } from './services/blocksubmit/lane.ts';
import type { JobmanagerStatus } from './services/jobmanager/jobmanager.ts';
import type { DoorCounters } from './services/stratumd/door.ts';
import type { GatewayMetrics, RejectReason } from './services/stratumd/options.ts';

/** One number of a part that has no place of its own here, e.g. of another thread. */
export type Figure = {
  /** `headframe_` and lower case with underscores; counters end in `_total`. */
  name: string;
  help: string;
  kind: 'counter' | 'gauge';
  value: number;
  labels?: Readonly<Record<string, string>>;
};

/** Where the numbers are. Null, or left out: that part does not run or has said nothing yet. */
export type MetricSources = {
  gateway?: () => GatewayMetrics;
  door?: () => DoorCounters | null;
  journal?: () => (JournalFigures & { state: JournalState }) | null;
  node?: () => JobmanagerStatus | null;
  lane?: () => LaneStatus | null;
  /** Every worker with its hashrate; asked once per scrape. */
  workers?: () => Iterable<{ account: string; worker: string; hashrateHps: number }>;
  /** Made before the page, where shares are judged. */
  shareProcessing?: Histogram;
  /** Further numbers; those with the same name must have the same help and kind. */
  figures?: () => Iterable<Figure>;
};

export type Metrics = {
  contentType: string;
  /** The whole page. */
  scrape(): Promise<string>;
  /** Time from a submit line to its verdict, in seconds. */
  shareProcessing: Histogram;
};

/** Counts in fixed buckets. `observe` is a few additions: it may be called for every share. */
export class Histogram {
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;

  /** `bounds` are the upper bounds, rising, in seconds. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  observe(seconds: number): void {
    let at = 0;
    while (at < this.#bounds.length && seconds > this.#bounds[at]!) at++;
    this.#counts[at]! += 1;
    this.#sum += seconds;
  }

  /** Cumulative counts per upper bound, their total and the sum of what was observed. */
  read(): { buckets: { le: string; count: number }[]; count: number; sum: number } {
    const buckets: { le: string; count: number }[] = [];
    let count = 0;
    for (const [at, own] of this.#counts.entries()) {
      count += own;
      buckets.push({ le: at < this.#bounds.length ? String(this.#bounds[at]) : '+Inf', count });
    }
    return { buckets, count, sum: this.#sum };
  }
}

/** The Stratum server document's buckets: ten, from 0.1 ms, doubling. */
const SHARE_SECONDS = Array.from({ length: 10 }, (_, at) => 0.0001 * 2 ** at);
/** Its words for what became of a share, from our reasons. Every reason not here is `invalid`. */
const STATUS_OF: Partial<Record<RejectReason, 'stale' | 'duplicate' | 'low_diff'>> = {
  stale: 'stale',
  'unknown-job': 'stale',
  duplicate: 'duplicate',
  'low-difficulty': 'low_diff',
};
const STATUSES = ['valid', 'stale', 'duplicate', 'invalid', 'low_diff'] as const;
const WORKER_CHARS_MAX = 160;

type Sample = { value: number; labels?: Readonly<Record<string, string>> };

/** Counts share times in the buckets of `stratum_share_processing_seconds`. */
export function createShareHistogram(): Histogram {
  return new Histogram(SHARE_SECONDS);
}

/** Makes the page. Nothing is listened on here. */
export function createMetrics(
  sources: MetricSources,
  options: { workersMax: number; version: string },
): Metrics {
  const registry = new Registry();
  const shareProcessing = sources.shareProcessing ?? createShareHistogram();

  /** A family of numbers read when it is scraped. A source that throws leaves its numbers out, not the page. */
  function family(
    kind: 'counter' | 'gauge',
    name: string,
    help: string,
    read: () => Iterable<Sample> | number | null | undefined,
  ): void {
    const get = async () => {
      let samples: Iterable<Sample> = [];
      try {
        const answer = read();
        if (typeof answer === 'number') samples = [{ value: answer }];
        else if (answer !== null && answer !== undefined) samples = answer;
      } catch {
        // Left out; the scrape itself must work when a part is in trouble.
      }
      const values = Array.from(samples, ({ value, labels }) => ({ value, labels: labels ?? {} }));
      return { name, help, type: kind, values, aggregator: 'sum' };
    };
    registry.registerMetric({ name, help, get, reset() {} } as never);
  }

  function histogram(name: string, help: string, source: Histogram): void {
    const get = async () => {
      const { buckets, count, sum } = source.read();
      const values = [
        ...buckets.map(({ le, count: below }) => ({
          value: below,
          labels: { le },
          metricName: `${name}_bucket`,
        })),
        { value: sum, labels: {}, metricName: `${name}_sum` },
        { value: count, labels: {}, metricName: `${name}_count` },
      ];
      return { name, help, type: 'histogram', values, aggregator: 'sum' };
    };
    registry.registerMetric({ name, help, get, reset() {} } as never);
  }

  addStratum({ family, histogram }, sources, options.workersMax, shareProcessing);
  addGateway(family, sources);
  addDoor(family, sources);
  addBack(family, sources);
  family('gauge', 'headframe_info', 'Always 1; the version is the label.', () => [
    { value: 1, labels: { version: options.version, node: process.version } },
  ]);
  collectDefaultMetrics({ register: registry });
  return {
    contentType: registry.contentType,
    async scrape() {
      return `${await registry.metrics()}${figuresText(sources.figures)}`;
    },
    shareProcessing,
  };
}

type Family = (
  kind: 'counter' | 'gauge',
  name: string,
  help: string,
  read: () => Iterable<Sample> | number | null | undefined,
) => void;

/** The nine names of the Stratum server document. */
function addStratum(
  {
    family,
    histogram,
  }: { family: Family; histogram: (name: string, help: string, source: Histogram) => void },
  { gateway, workers }: MetricSources,
  workersMax: number,
  shareProcessing: Histogram,
): void {
  family(
    'gauge',
    'stratum_active_connections',
    'Miners connected now.',
    () => gateway?.().sessions,
  );
  family(
    'counter',
    'stratum_total_connections',
    'Miners connected since the start.',
    () => gateway?.().sessionsOpened,
  );
  family('counter', 'stratum_shares_total', 'Shares answered, by what became of them.', () => {
    if (gateway === undefined) return null;
    const { sharesAccepted, sharesRejected } = gateway();
    const counts = new Map<string, number>(STATUSES.map((status) => [status, 0]));
    counts.set('valid', sharesAccepted);
    for (const [reason, count] of sharesRejected) {
      const status = STATUS_OF[reason] ?? 'invalid';
      counts.set(status, counts.get(status)! + count);
    }
    return Array.from(counts, ([status, value]) => ({ value, labels: { status } }));
  });
  histogram(
    'stratum_share_processing_seconds',
    'From a submit line to its verdict.',
    shareProcessing,
  );
  family('counter', 'stratum_blocks_found_total', 'Blocks found.', () => gateway?.().blocksFound);
  family(
    'gauge',
    'stratum_active_workers',
    'Workers with a session now.',
    () => gateway?.().workers,
  );
  family(
    'gauge',
    'stratum_worker_hashrate',
    'Hashes per second from accepted shares; the largest workers only.',
    () => {
      if (workers === undefined) return null;
      const largest = Array.from(workers())
        .filter((worker) => worker.hashrateHps > 0)
        .sort((a, b) => b.hashrateHps - a.hashrateHps)
        .slice(0, workersMax);
      const byName = new Map<string, number>();
      for (const { account, worker, hashrateHps } of largest) {
        const name = safeText(worker === '' ? account : `${account}.${worker}`, WORKER_CHARS_MAX);
        byName.set(name, (byName.get(name) ?? 0) + hashrateHps);
      }
      return Array.from(byName, ([name, value]) => ({ value, labels: { worker: name } }));
    },
  );
  family(
    'gauge',
    'stratum_current_block_height',
    'Height of the block being mined.',
    () => gateway?.().currentHeight,
  );
  family(
    'counter',
    'stratum_jobs_generated_total',
    'Jobs made for miners.',
    () => gateway?.().jobsReceived,
  );
}

function addGateway(family: Family, { gateway }: MetricSources): void {
  if (gateway === undefined) return;
  family('counter', 'headframe_shares_rejected_total', 'Shares refused, by reason.', () =>
    Array.from(gateway().sharesRejected, ([reason, value]) => ({ value, labels: { reason } })),
  );
  family(
    'counter',
    'headframe_work_accepted_total',
    'Sum of the difficulty of accepted shares.',
    () => gateway().workAccepted,
  );
  family(
    'gauge',
    'headframe_sessions_authorized',
    'Miners that have logged in.',
    () => gateway().authorizedSessions,
  );
  family(
    'counter',
    'headframe_sessions_resumed_total',
    'Miners that got their old session back.',
    () => gateway().sessionsResumed,
  );
  family(
    'counter',
    'headframe_sessions_closed_total',
    'Sessions that ended.',
    () => gateway().sessionsClosed,
  );
  family(
    'counter',
    'headframe_sessions_ended_by_pool_total',
    'Sessions that the pool ended, by reason.',
    () =>
      Array.from(gateway().closedByGateway, ([reason, value]) => ({
        value,
        labels: { reason: safeText(reason, 64) },
      })),
  );
  family('counter', 'headframe_requests_total', 'Stratum requests.', () => gateway().requests);
  family(
    'counter',
    'headframe_parse_errors_total',
    'Lines that were no request.',
    () => gateway().parseErrors,
  );
  family(
    'counter',
    'headframe_unknown_methods_total',
    'Requests for a method that there is not.',
    () => gateway().unknownMethods,
  );
  family(
    'counter',
    'headframe_tolerated_total',
    'Deviations of firmware that were tolerated, by kind.',
    () =>
      Array.from(gateway().quirks, ([quirk, value]) => ({
        value,
        labels: { quirk: safeText(quirk, 64) },
      })),
  );
  family(
    'gauge',
    'headframe_network_difficulty',
    'Difficulty of the network.',
    () => gateway().networkDifficulty,
  );
  family(
    'gauge',
    'headframe_answers_held',
    'Accepted shares whose answer waits for the disk.',
    () => gateway().heldAnswers,
  );
  family(
    'gauge',
    'headframe_jobs_kept',
    'Jobs for which shares are judged.',
    () => gateway().jobsKept,
  );
  family(
    'gauge',
    'headframe_work_state',
    '0: fresh work. 1: work older than two minutes. 2: none is handed out.',
    () => gateway().workState,
  );
  family(
    'counter',
    'headframe_job_variants_total',
    'Coinbases made for jobs.',
    () => gateway().jobVariants,
  );
  family(
    'counter',
    'headframe_notifies_total',
    'Jobs sent, one for each miner.',
    () => gateway().notifies,
  );
  family(
    'counter',
    'headframe_broadcasts_total',
    'Jobs sent to all miners.',
    () => gateway().broadcasts,
  );
  family(
    'counter',
    'headframe_retargets_total',
    'Changes of difficulty.',
    () => gateway().retargets,
  );
  family(
    'counter',
    'headframe_oversized_coinbases_total',
    'Coinbases too large for a miner’s firmware.',
    () => gateway().oversizedCoinbases,
  );
  family(
    'counter',
    'headframe_extranonce_leases_total',
    'Stretches of extranonces reserved on disk.',
    () => gateway().leasesPersisted,
  );
  family(
    'counter',
    'headframe_extranonce_lease_failures_total',
    'Stretches that could not be reserved.',
    () => gateway().leaseFailures,
  );
}

function addDoor(family: Family, { door }: MetricSources): void {
  if (door === undefined) return;
  family(
    'gauge',
    'headframe_connections',
    'Sockets open on the Stratum ports.',
    () => door()?.connections,
  );
  family(
    'gauge',
    'headframe_tls_handshakes_pending',
    'TLS handshakes under way.',
    () => door()?.handshakesPending,
  );
  family(
    'counter',
    'headframe_connections_accepted_total',
    'Sockets accepted.',
    () => door()?.accepted,
  );
  family('counter', 'headframe_connections_refused_total', 'Sockets turned away, by reason.', () =>
    Object.entries(door()?.refused ?? {}).map(([reason, value]) => ({ value, labels: { reason } })),
  );
  family(
    'counter',
    'headframe_connections_delayed_total',
    'Sockets made to wait because too many came at once.',
    () => door()?.delayed(),
  );
  family('counter', 'headframe_bans_total', 'Addresses banned for a while.', () => door()?.bans());
  family(
    'counter',
    'headframe_tls_connections_total',
    'Connections over TLS.',
    () => door()?.tlsConnections,
  );
  family(
    'counter',
    'headframe_tls_failures_total',
    'TLS handshakes that failed.',
    () => door()?.tlsFailures,
  );
  family(
    'counter',
    'headframe_proxied_total',
    'Connections with a believed PROXY header.',
    () => door()?.proxied,
  );
  family(
    'counter',
    'headframe_spoofed_proxies_total',
    'PROXY headers from addresses that are not listed.',
    () => door()?.spoofedProxies,
  );
  family(
    'counter',
    'headframe_foreign_protocols_total',
    'Connections that spoke another protocol, by name.',
    () =>
      Array.from(door()?.foreign ?? [], ([protocol, value]) => ({ value, labels: { protocol } })),
  );
  family(
    'counter',
    'headframe_stream_faults_total',
    'Connections that could not be read on, by reason.',
    () => Array.from(door()?.faults ?? [], ([reason, value]) => ({ value, labels: { reason } })),
  );
  family(
    'counter',
    'headframe_slow_readers_total',
    'Connections cut because they took nothing.',
    () => door()?.slowReaders,
  );
  family(
    'counter',
    'headframe_timeouts_total',
    'Connections cut because they said nothing.',
    () => door()?.timeouts,
  );
  family(
    'counter',
    'headframe_accept_errors_total',
    'Errors of the listening sockets, such as too many open files.',
    () => door()?.acceptErrors,
  );
  family(
    'counter',
    'headframe_exceptions_total',
    'Connections ended by a fault of ours. Should stay 0.',
    () => door()?.exceptions,
  );
}

/** What stands behind the gateway: journal, node, block lane. */
function addBack(family: Family, { journal, node, lane }: MetricSources): void {
  if (journal !== undefined) {
    family(
      'gauge',
      'headframe_journal_ok',
      '1: shares are taken. 0: the journal is full or its disk fails.',
      () => {
        const state = journal()?.state;
        return state === undefined ? null : state === 'ok' ? 1 : 0;
      },
    );
    family(
      'counter',
      'headframe_journal_records_total',
      'Shares written.',
      () => journal()?.appends,
    );
    family(
      'counter',
      'headframe_journal_refusals_total',
      'Shares the journal did not take.',
      () => journal()?.refusals,
    );
    family(
      'counter',
      'headframe_journal_commits_total',
      'Times the journal was synced to disk.',
      () => journal()?.commits,
    );
    family(
      'counter',
      'headframe_journal_failures_total',
      'Times the disk refused.',
      () => journal()?.failures,
    );
    family(
      'gauge',
      'headframe_journal_commit_seconds',
      'Duration of the last write and sync.',
      () => {
        const figures = journal();
        return figures === null ? null : figures.lastCommitMs / 1000;
      },
    );
    family(
      'gauge',
      'headframe_journal_pending_bytes',
      'Shares not yet on disk.',
      () => journal()?.pendingBytes,
    );
    family(
      'gauge',
      'headframe_journal_unshipped_bytes',
      'Shares on disk that are not yet in the database.',
      () => journal()?.unshippedBytes,
    );
  }
  if (node !== undefined) {
    const healthy = (health: string) => (health === 'ok' ? 1 : 0);
    family(
      'gauge',
      'headframe_node_up',
      '1: the node answers, is on our network and is in step.',
      () =>
        node()?.nodes.map(({ name, health }) => ({
          value: healthy(health),
          labels: { node: name },
        })),
    );
    family('gauge', 'headframe_node_blocks', 'Height of the node’s best block.', () =>
      node()?.nodes.map(({ name, blocks }) => ({ value: blocks, labels: { node: name } })),
    );
    family('gauge', 'headframe_job_age_seconds', 'Age of the newest job.', () => {
      const status = node();
      return status?.jobId == null ? null : status.jobAgeMs / 1000;
    });
  }
  if (lane !== undefined) {
    family(
      'gauge',
      'headframe_blocks_undelivered',
      'Found blocks that no node has yet. Should be 0.',
      () => lane()?.undelivered,
    );
    family(
      'gauge',
      'headframe_blocks_watched',
      'Found blocks that are not final yet.',
      () => lane()?.watched,
    );
    family(
      'gauge',
      'headframe_block_lane_node_up',
      '1: the node is reachable from the block lane.',
      () =>
        lane()?.nodes.map(({ name, reachable }) => ({
          value: reachable ? 1 : 0,
          labels: { node: name },
        })),
    );
  }
}

/** Numbers of other parts, written out by the same rules. A wrong name is left out. */
function figuresText(read: MetricSources['figures']): string {
  const families = new Map<string, Figure[]>();
  try {
    for (const figure of read?.() ?? []) {
      if (!/^headframe_[a-z0-9_]{1,80}$/.test(figure.name) || !Number.isFinite(figure.value))
        continue;
      const known = families.get(figure.name);
      if (known === undefined) families.set(figure.name, [figure]);
      else if (known.length < 1_000) known.push(figure);
    }
  } catch {
    return '';
  }
  let text = '';
  for (const [name, figures] of families) {
    const { help, kind } = figures[0]!;
    text += `\n# HELP ${name} ${help.replace(/\\/g, '\\\\').replace(/\n/g, '\\n')}\n# TYPE ${name} ${kind}\n`;
    for (const { value, labels } of figures) {
      const written = Object.entries(labels ?? {})
        .map(
          ([label, of]) =>
            `${label}="${safeText(of, 160).replace(/\\/g, '\\\\').replace(/"/g, '\\"')}"`,
        )
        .join(',');
      text += `${name}${written === '' ? '' : `{${written}}`} ${value}\n`;
    }
  }
  return text;
}
