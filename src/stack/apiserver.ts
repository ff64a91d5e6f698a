/**
 * `headframe apiserver`: the status page and its JSON for a pool of many processes. Reads only: money and blocks from PostgreSQL, what
 * happens now from what the services say of themselves, charts from InfluxDB. Answers are kept for a few seconds in Redis, so that any
 * number of these may run.
 */
import { rateQuery, readRates } from '../core/series/rates.ts';
import { decodeServiceReport } from '../messages/service.ts';
import { describePool, readBlocks, readMoney } from '../overview.ts';
import type { Db, Series } from '../ports.ts';
import { createFleet, type Fleet } from '../services/apiserver/fleet.ts';
import { createRemember, type Remember } from '../services/apiserver/remember.ts';
import { joinWorkers } from '../services/apiserver/workers.ts';
import type { MoneySources } from '../services/status/money.ts';
import { type ApiTools, startApi } from '../services/status/status.ts';
import type { PoolStatus } from '../services/status/views.ts';
import { listWorkers, type PoolTotals, poolTotals } from '../store/status.ts';
import {
  type Frame,
  openBus,
  openCache,
  openDb,
  type Service,
  type ServiceConfig,
} from './serve.ts';
import { openSeries } from './statsd.ts';

const SHORT_MS = 2_000;
const LONG_MS = 5_000;
const CHART_MS = 30_000;
/** Of those that the database knows and no gateway has now. */
const STORED_WORKERS = 1_000;

/** Answers until the frame ends it. Listens at once: what the database has not given yet is answered with 503. */
export async function startApiserver(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log } = frame;
  const remember = createRemember({ cache: openCache(frame, config) });
  const series = openSeries(frame, config);
  const bus = openBus(frame, config, config.instance.gateway);
  const fleet = createFleet({ clock });
  const later = createLaterDb();
  if (config.api !== null) {
    const overview = { config, fleet, startedAtMs: clock.nowMs(), version: frame.version };
    const api = await startApi(
      {
        clock,
        log,
        notReady: () => [...frame.notReady(), ...fleet.faults()],
        services: () => fleet.members(),
        async pool() {
          const totals = await remember('totals', SHORT_MS, () => poolTotals(later.db)).catch(
            () => null,
          );
          return describe(overview, totals);
        },
        async workers() {
          const stored = await remember('workers', LONG_MS, () =>
            listWorkers(later.db, { limit: STORED_WORKERS }),
          ).catch(() => []);
          return joinWorkers(fleet.workers(), stored);
        },
        blocks: (limit) => remember(`blocks:${limit}`, SHORT_MS, () => readBlocks(later.db, limit)),
        money: rememberMoney(readMoney(later.db, config.network), remember),
        ...(series === null ? {} : { rates: rememberRates(series, remember) }),
      },
      config.api,
    );
    frame.keep('status page', () => api.stop());
    log.info('look here', { page: `http://127.0.0.1:${api.port}/` });
  }
  await bus.subscribe('service.status', 'apiserver', async (records) => {
    for (const { value } of records) {
      const report = decodeServiceReport(value);
      if (report.ok) fleet.take(report.value);
      else log.warn('what a service says of itself could not be read', { reason: report.reason });
    }
  });
  later.set(await openDb(frame, config, { name: 'headframe apiserver', connectionsMax: 5 }));
  return {};
}

/** A database that may not be there yet; until then every call rejects. */
function createLaterDb(): { db: Db; set(db: Db): void } {
  let found: Db | null = null;
  const reach = (): Db => {
    if (found === null) throw new Error('the database was not reached yet');
    return found;
  };
  return {
    db: {
      query: async (sql, params) => reach().query(sql, params),
      transaction: async (work) => reach().transaction(work),
      // It is the frame's.
      stop: async () => {},
    },
    set(db) {
      found = db;
    },
  };
}

function rememberMoney(money: MoneySources, remember: Remember): MoneySources {
  return {
    accounts: (limit) => remember(`accounts:${limit}`, LONG_MS, () => money.accounts(limit)),
    account: (address) => remember(`account:${address}`, SHORT_MS, () => money.account(address)),
    rounds: (limit) => remember(`rounds:${limit}`, LONG_MS, () => money.rounds(limit)),
    statement: (hash) => remember(`statement:${hash}`, LONG_MS, () => money.statement(hash)),
    proof: (hash, address) =>
      remember(`proof:${hash}:${address}`, LONG_MS, () => money.proof(hash, address)),
    payouts: (limit) => remember(`payouts:${limit}`, LONG_MS, () => money.payouts(limit)),
  };
}

/** Charts of the same subject and length are the same until the next step begins. */
function rememberRates(
  series: Required<Pick<Series, 'query'>>,
  remember: Remember,
): NonNullable<ApiTools['rates']> {
  return (subject, { fromMs, untilMs, stepMs }) => {
    const step = Math.floor(untilMs / stepMs);
    const span = { fromMs: step * stepMs - (untilMs - fromMs), untilMs: step * stepMs, stepMs };
    const key = `rates:${JSON.stringify([subject.pool, subject.account, subject.worker, span.fromMs, stepMs, step])}`;
    return remember(key, CHART_MS, async () =>
      readRates(await series.query(rateQuery(subject, span)), span),
    );
  };
}

/** The pool as configured here, and as the services say it is. */
function describe(
  overview: { config: ServiceConfig; fleet: Fleet; startedAtMs: number; version: string },
  totals: PoolTotals | null,
): PoolStatus {
  const { config, fleet, startedAtMs, version } = overview;
  const now = fleet.totals();
  const main = config.pools[0]!;
  return {
    version,
    network: config.network,
    payout: main.scheme,
    poolAddress: main.scheme === 'solo' || main.scheme === 'direct' ? null : main.address,
    pools: config.pools.map((pool) => describePool(pool, now.countedBy.get(pool.id) ?? null)),
    payouts: now.payouts,
    isDevelopment: false,
    startedAtMs,
    height: now.height,
    networkDifficulty: now.networkDifficulty,
    work: now.work,
    sessions: now.sessions,
    hashrate: now.hashrate,
    sharesAccepted: now.sharesAccepted,
    sharesRejected: now.sharesRejected,
    totals,
    nodes: now.nodes,
    stratumPorts: now.ports,
    journal: now.journal,
  };
}
