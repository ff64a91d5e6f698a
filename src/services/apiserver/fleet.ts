/**
 * All processes of the stack as they report themselves: who is there, who is not ready and why, who fell silent; and what the gateways
 * know together, as if they were one. Times are taken when a report comes in, so that another machine's clock does not matter.
 *
 * Bounded: 256 processes; who was silent for ten minutes is forgotten.
 */
import type {
  NodeReport,
  ServiceReport,
  StratumPortReport,
  WorkerReport,
} from '../../messages/service.ts';
import type { Clock } from '../../ports.ts';

export type ServiceState = 'ready' | 'not ready' | 'silent';

/** One process, for people. */
export type FleetMember = {
  service: string;
  instance: string;
  version: string;
  state: ServiceState;
  reasons: string[];
  startedAtMs: number;
  heardAtMs: number;
  figures: Record<string, number>;
  words: Record<string, string>;
  alarms: readonly string[];
};

/** What all gateways and job managers say, put together. */
export type FleetTotals = {
  height: number;
  networkDifficulty: number;
  /** The best of any gateway: miners of the others are told to go there. */
  work: 'fine' | 'degraded' | 'none';
  sessions: number;
  hashrate: { fiveMinutesHps: number; hourHps: number; dayHps: number };
  sharesAccepted: number;
  sharesRejected: Record<string, number>;
  journal: { state: string; unshippedBytes: number };
  nodes: NodeReport[];
  ports: StratumPortReport[];
  /** Of the payoutd that keeps the ledger; null when none does. */
  payouts: { state: string; alarms: string[] } | null;
  /** By which scheme a pool counts now, where payoutd says so. */
  countedBy: ReadonlyMap<string, string>;
};

export type Fleet = {
  take(report: ServiceReport): void;
  /** In the order in which a share passes through them. */
  members(): FleetMember[];
  /** Why the pool as a whole does not work as it should; empty when all that is needed is there. */
  faults(): string[];
  totals(): FleetTotals;
  /** Workers of all gateways; one that has sessions at several is one worker. */
  workers(): WorkerReport[];
};

/** Without one of each, something of the pool stands still. statsd is not among them: charts can wait. */
const NEEDED = ['stratumd', 'jobmanager', 'shareproc', 'blocksubmit', 'payoutd'] as const;
const ORDER: readonly string[] = [...NEEDED, 'statsd', 'apiserver'];
const MEMBERS_MAX = 256;
const SILENT_MS = 12_000;
const FORGET_MS = 600_000;

type Known = { report: ServiceReport; heardAtMs: number };

/** An empty fleet. */
export function createFleet(tools: { clock: Clock }): Fleet {
  const { clock } = tools;
  const known = new Map<string, Known>();

  function forget(): void {
    const nowMs = clock.nowMs();
    for (const [instance, { heardAtMs }] of known)
      if (nowMs - heardAtMs > FORGET_MS) known.delete(instance);
  }

  function stateOf({ report, heardAtMs }: Known): ServiceState {
    if (clock.nowMs() - heardAtMs > SILENT_MS) return 'silent';
    return report.reasons.length === 0 ? 'ready' : 'not ready';
  }

  function reasonsOf(one: Known): string[] {
    if (stateOf(one) !== 'silent') return [...one.report.reasons];
    const seconds = Math.round((clock.nowMs() - one.heardAtMs) / 1_000);
    return [`nothing was heard of it for ${seconds} s`];
  }

  function list(): Known[] {
    forget();
    return [...known.values()].sort(
      (a, b) =>
        placeOf(a.report.service) - placeOf(b.report.service) ||
        (a.report.instance < b.report.instance ? -1 : 1),
    );
  }

  /** Those that are heard of. */
  function live(service: string): ServiceReport[] {
    return list()
      .filter((one) => one.report.service === service && stateOf(one) !== 'silent')
      .map(({ report }) => report);
  }

  return {
    take(report) {
      const { instance } = report;
      const before = known.get(instance);
      if (report.ended) {
        known.delete(instance);
        return;
      }
      const nowMs = clock.nowMs();
      // The first one may be what is left of a process that died long ago.
      const heardAtMs = before === undefined ? Math.min(nowMs, report.atMs) : nowMs;
      known.delete(instance);
      known.set(instance, { report, heardAtMs });
      if (known.size > MEMBERS_MAX) known.delete(known.keys().next().value!);
    },

    members: () =>
      list().map((one) => ({
        service: one.report.service,
        instance: one.report.instance,
        version: one.report.version,
        state: stateOf(one),
        reasons: reasonsOf(one),
        startedAtMs: one.report.startedAtMs,
        heardAtMs: one.heardAtMs,
        figures: Object.fromEntries(one.report.figures),
        words: Object.fromEntries(one.report.words),
        alarms: one.report.alarms,
      })),

    faults() {
      const all = list();
      const faults: string[] = [];
      for (const service of NEEDED) {
        const ones = all.filter(({ report }) => report.service === service);
        if (ones.some((one) => stateOf(one) === 'ready')) continue;
        if (ones.length === 0) faults.push(`no ${service} was heard of`);
        for (const one of ones) {
          faults.push(`${one.report.instance}: ${reasonsOf(one).join('; ')}`);
        }
      }
      const keepers = live('payoutd');
      if (keepers.length > 0 && !keepers.some(holdsLedger))
        faults.push('no payoutd keeps the ledger');
      return faults;
    },

    totals() {
      const gateways = live('stratumd');
      const figure = (report: ServiceReport, name: string) => report.figures.get(name) ?? 0;
      const sum = (name: string) =>
        gateways.reduce((total, report) => total + figure(report, name), 0);
      const newest = gateways.reduce<ServiceReport | null>(
        (best, report) =>
          best === null || figure(report, 'height') > figure(best, 'height') ? report : best,
        null,
      );
      const works = gateways.map((report) => report.words.get('work'));
      const journals = gateways.map((report) => report.words.get('journal') ?? 'ok');
      const keeper = live('payoutd').find(holdsLedger) ?? null;
      const rejected = new Map<string, number>();
      for (const { figures } of gateways) {
        for (const [name, value] of figures) {
          if (!name.startsWith(REJECTED)) continue;
          const reason = name.slice(REJECTED.length);
          rejected.set(reason, (rejected.get(reason) ?? 0) + value);
        }
      }
      const nodes = new Map<string, NodeReport>();
      for (const report of live('jobmanager')) {
        for (const node of report.nodes) {
          const before = nodes.get(node.name);
          if (before === undefined || before.blocks < node.blocks) nodes.set(node.name, node);
        }
      }
      const ports = new Map<string, StratumPortReport>();
      for (const report of gateways) {
        for (const port of report.ports) ports.set(`${port.port} ${port.tls}`, port);
      }
      return {
        height: newest === null ? 0 : figure(newest, 'height'),
        networkDifficulty: newest === null ? 0 : figure(newest, 'networkDifficulty'),
        work: works.includes('fine') ? 'fine' : works.includes('degraded') ? 'degraded' : 'none',
        sessions: sum('sessions'),
        hashrate: {
          fiveMinutesHps: sum('fiveMinutesHps'),
          hourHps: sum('hourHps'),
          dayHps: sum('dayHps'),
        },
        sharesAccepted: sum('sharesAccepted'),
        sharesRejected: Object.fromEntries(rejected),
        journal: {
          state: journals.find((state) => state !== 'ok') ?? (gateways.length > 0 ? 'ok' : ''),
          unshippedBytes: sum('unshippedBytes'),
        },
        nodes: [...nodes.values()],
        ports: [...ports.values()].sort((a, b) => a.port - b.port),
        payouts:
          keeper === null
            ? null
            : { state: keeper.words.get('payouts') ?? '', alarms: [...keeper.alarms] },
        countedBy: new Map(
          Array.from(keeper?.words ?? [])
            .filter(([name]) => name.startsWith(COUNTED_BY))
            .map(([name, scheme]) => [name.slice(COUNTED_BY.length), scheme]),
        ),
      };
    },

    workers() {
      const merged = new Map<string, WorkerReport>();
      for (const { workers } of live('stratumd')) {
        for (const worker of workers) {
          const key = `${worker.pool} ${worker.account}.${worker.worker}`;
          const before = merged.get(key);
          merged.set(key, before === undefined ? worker : join(before, worker));
        }
      }
      return [...merged.values()];
    },
  };
}

/** How figures of refused shares are called, before the reason. */
export const REJECTED = 'rejected.';
/** How words about the scheme that a pool counts by are called, before its id. */
export const COUNTED_BY = 'countedBy.';

function holdsLedger(report: ServiceReport): boolean {
  return report.words.get('ledger') === 'kept';
}

function placeOf(service: string): number {
  const place = ORDER.indexOf(service);
  return place < 0 ? ORDER.length : place;
}

/** One worker of what two gateways say of it; what is not a sum is taken from where it was seen last. */
function join(a: WorkerReport, b: WorkerReport): WorkerReport {
  const latest = a.lastShareAtMs >= b.lastShareAtMs ? a : b;
  const rejected = new Map(Object.entries(a.rejected));
  for (const [reason, count] of Object.entries(b.rejected))
    rejected.set(reason, (rejected.get(reason) ?? 0) + count);
  return {
    ...latest,
    sessions: a.sessions + b.sessions,
    accepted: a.accepted + b.accepted,
    workAccepted: a.workAccepted + b.workAccepted,
    rejected: Object.fromEntries(rejected),
    bestDifficulty: Math.max(a.bestDifficulty, b.bestDifficulty),
    blocks: a.blocks + b.blocks,
    rates: {
      fiveMinutesHps: a.rates.fiveMinutesHps + b.rates.fiveMinutesHps,
      hourHps: a.rates.hourHps + b.rates.hourHps,
      dayHps: a.rates.dayHps + b.rates.dayHps,
    },
  };
}
