/**
 * What the status page and the metrics show of a running pool, gathered from its parts. Reads only.
 */
import type { Journal } from './adapters/journal.ts';
import type { Config } from './config.ts';
import { decodeHexReversed, encodeHex, encodeHexReversed } from './core/bitcoin/bytes.ts';
import type { Network } from './core/bitcoin/network.ts';
import type { PoolRules } from './core/ledger/rules.ts';
import { encodeStatement } from './core/ledger/statement.ts';
import type { NodeAddress } from './core/node/rpc.ts';
import { createMetrics, type Histogram } from './metrics.ts';
import type { Clock, Db, Log } from './ports.ts';
import type { LaneStatus } from './services/blocksubmit/lane.ts';
import { statementOf } from './services/bookkeeping/round-views.ts';
import { encodeProof } from './services/bookkeeping/rounds.ts';
import type { JobmanagerStatus } from './services/jobmanager/jobmanager.ts';
import type { PayoutdStatus } from './services/payoutd/payoutd.ts';
import type { ShipperStatus } from './services/shareproc/shipper.ts';
import type { MoneySources } from './services/status/money.ts';
import type { StatusTools } from './services/status/status.ts';
import type { BlockView, PoolStatus, Rates } from './services/status/views.ts';
import type { Door } from './services/stratumd/door.ts';
import type { Gateway } from './services/stratumd/gateway.ts';
import type { GatewayMetrics, PortOptions } from './services/stratumd/options.ts';
import { listBlocks } from './store/blocks.ts';
import { listEarnings, listPaidBatches, readEarnings } from './store/earnings.ts';
import { listRounds, readRound } from './store/rounds.ts';
import { poolTotals } from './store/status.ts';
import type { KeptThread } from './threads.ts';

export type PoolParts = {
  clock: Clock;
  log: Log;
  version: string;
  startedAtMs: number;
  config: Config;
  chain: {
    nodes: readonly NodeAddress[];
    pools: readonly PoolRules[];
    ports: readonly PortOptions[];
  };
  gateway: Gateway;
  metrics: GatewayMetrics;
  shareProcessing: Histogram;
  journal: Journal;
  door: Door;
  db: Db;
  threads: { node: KeptThread; block: KeptThread; store: KeptThread; payout: KeptThread };
};

/** The tools of the status service. Nothing in them throws but `blocks`, when the database is away. */
export function overlook(parts: PoolParts): StatusTools {
  const { clock, log, config, chain, gateway, metrics, journal, door, db, threads } = parts;
  const node = () => threads.node.status() as JobmanagerStatus | null;
  const lane = () => threads.block.status() as LaneStatus | null;
  const payoutd = () => threads.payout.status() as PayoutdStatus | null;
  const main = chain.pools[0]!;
  const shipper = () =>
    (threads.store.status() as { shipper: ShipperStatus } | null)?.shipper ?? null;

  return {
    clock,
    log,
    metrics: createMetrics(
      {
        gateway: () => metrics,
        shareProcessing: parts.shareProcessing,
        door: () => door.counters,
        journal: () => ({ ...journal.figures(), state: journal.state() }),
        node,
        lane,
        workers: () =>
          gateway.snapshot(clock.nowMs()).workers.map(({ account, worker, rates }) => ({
            account,
            worker,
            hashrateHps: rates.fiveMinutesHps,
          })),
        figures: () =>
          Object.values(threads).flatMap((thread) => [
            ...thread.figures(),
            {
              name: 'headframe_thread_restarts_total',
              help: 'Times a thread died and was started again.',
              kind: 'counter' as const,
              value: thread.restarts(),
              labels: { thread: thread.role },
            },
          ]),
      },
      { workersMax: config.metrics?.workersMax ?? 0, version: parts.version },
    ),
    notReady() {
      const reasons: string[] = [];
      if (metrics.workState === 2)
        reasons.push('no work: no node has given a template that is fresh');
      if (journal.state() !== 'ok')
        reasons.push(`shares cannot be stored: the journal is ${journal.state()}`);
      return reasons;
    },
    notLive: () => [],
    async pool() {
      const nowMs = clock.nowMs();
      const snapshot = gateway.snapshot(nowMs);
      return {
        version: parts.version,
        network: config.network,
        payout: main.scheme,
        poolAddress: main.scheme === 'solo' || main.scheme === 'direct' ? null : main.address,
        pools: chain.pools.map((pool) =>
          describePool(pool, payoutd()?.pools.find(({ id }) => id === pool.id)?.countedBy ?? null),
        ),
        payouts: describePayouts(payoutd()),
        isDevelopment: config.mode === 'devnet',
        startedAtMs: parts.startedAtMs,
        height: snapshot.height,
        networkDifficulty: snapshot.networkDifficulty,
        work: snapshot.workState,
        sessions: snapshot.sessions,
        hashrate: addRates(snapshot.workers.map(({ rates }) => rates)),
        sharesAccepted: metrics.sharesAccepted,
        sharesRejected: Object.fromEntries(metrics.sharesRejected),
        totals: await poolTotals(db).catch(() => null),
        nodes: node()?.nodes ?? [],
        stratumPorts: chain.ports.map(({ tls, startDifficulty }, i) => ({
          port: door.ports[i] ?? 0,
          tls,
          startDifficulty,
        })),
        journal: {
          state: journal.state(),
          unshippedBytes: shipper()?.lagBytes ?? journal.figures().unshippedBytes,
        },
      };
    },
    workers: () => gateway.snapshot(clock.nowMs()).workers,
    rejections: (worker) => gateway.rejections(worker),
    blocks: (limit) => readBlocks(db, limit),
    money: readMoney(db, config.network),
  };
}

/** The newest blocks first. */
export async function readBlocks(db: Db, limit: number): Promise<BlockView[]> {
  return (await listBlocks(db, { limit })).map((block) => ({
    hashDisplay: encodeHexReversed(block.hash),
    height: block.height,
    state: block.state,
    confirmations: block.confirmations,
    account: block.account,
    worker: block.worker,
    foundAtMs: block.foundAtMs,
    rewardSats: block.rewardSats,
  }));
}

/** What everybody may read about money, from the database. */
export function readMoney(db: Db, network: Network): MoneySources {
  const statementAt = async (hashDisplay: string) => {
    const round = await readRound(db, decodeHexReversed(hashDisplay)!);
    return round === null ? null : statementOf(network, round);
  };
  return {
    accounts: (limit) => listEarnings(db, { limit }),
    account: (address) => readEarnings(db, address),
    rounds: async (limit) =>
      (await listRounds(db, { limit })).map((round) => ({
        hashDisplay: encodeHexReversed(round.blockHash),
        height: round.height,
        pool: round.pool,
        scheme: round.scheme,
        state: round.state,
        rewardSats: round.rewardSats,
        foundAtMs: round.foundAtMs,
        root: encodeHex(round.root),
      })),
    async statement(hashDisplay) {
      const statement = await statementAt(hashDisplay);
      return statement === null ? null : encodeStatement(statement);
    },
    async proof(hashDisplay, address) {
      const statement = await statementAt(hashDisplay);
      return statement === null ? null : encodeProof(statement, address);
    },
    payouts: async (limit) =>
      (await listPaidBatches(db, { limit })).map(({ txid, ...batch }) => ({
        ...batch,
        txidDisplay: txid === null ? null : encodeHexReversed(txid),
      })),
  };
}

/** A pool as configured, and by which scheme it counts since that one was given up; null where it still does, or nobody knows. */
export function describePool(
  rules: PoolRules,
  countedBy: string | null,
): PoolStatus['pools'][number] {
  const { id, scheme, feePpm } = rules;
  const isGivenUp = countedBy !== null && countedBy !== scheme;
  return {
    id,
    scheme,
    feePpm,
    address: scheme === 'solo' || scheme === 'direct' ? null : rules.address,
    note: isGivenUp ? `new shares count by ${countedBy}` : '',
  };
}

function describePayouts(payoutd: PayoutdStatus | null): PoolStatus['payouts'] {
  if (payoutd === null) return null;
  const { payer, alarms, holdsLock } = payoutd;
  if (!holdsLock) return { state: 'another process keeps the ledger', alarms };
  if (payer === null) return { state: 'off', alarms };
  return { state: payer.state, alarms: [...alarms, ...payer.alarms.map(({ text }) => text)] };
}

function addRates(all: readonly Rates[]): Rates {
  const sum: Rates = { fiveMinutesHps: 0, hourHps: 0, dayHps: 0 };
  for (const rates of all) {
    sum.fiveMinutesHps += rates.fiveMinutesHps;
    sum.hourHps += rates.hourHps;
    sum.dayHps += rates.dayHps;
  }
  return sum;
}
