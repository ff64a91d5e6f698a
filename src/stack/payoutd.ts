/**
 * `headframe payoutd`: the share log, the ledger and payouts. Several may run: each keeps the share log, which is the same whoever writes
 * it, and one of them, which holds the lock in the database, keeps the ledger and pays.
 */
import { randomUUID } from 'node:crypto';
import { createKafkaBus } from '../adapters/bus/kafka.ts';
import { takeAdvisoryLock } from '../adapters/db/advisory-lock.ts';
import { createRpc } from '../adapters/node/rpc.ts';
import type { PoolRules } from '../core/ledger/rules.ts';
import type { Db } from '../ports.ts';
import { LEDGER_LOCK } from '../roles.ts';
import { COUNTED_BY } from '../services/apiserver/fleet.ts';
import { startPayoutd as start } from '../services/payoutd/payoutd.ts';
import { type ShareLog, startShareLog } from '../services/payoutd/sharelog.ts';
import { type Frame, openBus, openDb, type Service, type ServiceConfig } from './serve.ts';

/** Gateways mark every second; marks older than this say that somebody's shares may still be on the way. */
const MARKS_MS = 30_000;

/** Keeps share log and ledger until the frame ends it. */
export async function startPayoutd(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, meter } = frame;
  const connectionString = config.database.url ?? '';
  // Money must not wait behind shares: connections of their own.
  const shareDb = await openDb(frame, config, { name: 'headframe share log', connectionsMax: 3 });
  const db = await openDb(frame, config, { name: 'headframe payout', connectionsMax: 3 });
  const bus = openBus(frame, config, config.instance.gateway);

  const shareLog = await keepShareLog(frame, config, shareDb);
  const payoutd = await start(
    {
      clock,
      log,
      db,
      bus,
      meter,
      fault: () => {},
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      isShipperIdle: () => isCaughtUp(shareLog.current(), clock.nowMs()),
      takeLock: () =>
        takeAdvisoryLock({
          connectionString,
          log,
          key: LEDGER_LOCK,
          name: 'headframe ledger lock',
        }),
    },
    {
      network: config.network,
      nodes: config.nodes,
      pools: config.pools,
      policy: config.payouts,
      spanRetentionDays: config.spanRetentionDays,
    },
  );
  frame.keep('payoutd', () => payoutd.stop());
  frame.watch(() =>
    shareLog.current()?.status().stalled === false ? [] : ['the share log cannot be written'],
  );
  frame.show({ figures: () => shareLogFigures(shareLog.current()) });
  frame.report(() => {
    const { holdsLock, alarms, payer, pools } = payoutd.status();
    const {
      stored = 0,
      duplicates = 0,
      held = 0,
      setAside = 0,
    } = shareLog.current()?.status() ?? {};
    return {
      figures: new Map(Object.entries({ stored, duplicates, held, setAside })),
      words: new Map([
        ['ledger', holdsLock ? 'kept' : 'kept by another'],
        ['payouts', payer === null ? 'off' : payer.state],
        ...pools.flatMap(({ id, countedBy }) =>
          countedBy === null || countedBy === schemeOf(config.pools, id)
            ? []
            : [[`${COUNTED_BY}${id}`, countedBy] as const],
        ),
      ]),
      alarms: [...alarms, ...(payer?.alarms.map(({ text }) => text) ?? [])],
    };
  });
  log.info('the share log is kept', { payouts: config.payouts === null ? 'off' : 'on' });
  return {};
}

function schemeOf(pools: readonly PoolRules[], id: string): string | null {
  return pools.find((pool) => pool.id === id)?.scheme ?? null;
}

/** Nothing accepted by a gateway that is alive is still on its way for long. */
function isCaughtUp(shareLog: ShareLog | null, nowMs: number): boolean {
  if (shareLog === null) return false;
  const { held, gateways, stalled } = shareLog.status();
  if (stalled) return false;
  if (gateways === 0) return held === 0;
  return (shareLog.throughMs() ?? 0) >= nowMs - MARKS_MS;
}

/**
 * A share log that is begun again, with a bus of its own, when it cannot go on: the database went back to an older state, so that Kafka
 * has to be read from there. Its group is new each time: where it reads from stands in the database, and nobody waits for the membership
 * of one that died.
 */
async function keepShareLog(
  frame: Frame,
  config: ServiceConfig,
  db: Db,
): Promise<{ current(): ShareLog | null }> {
  const { clock, log, meter, ending } = frame;
  let current: { shareLog: ShareLog; stop(): Promise<void> } | null = null;

  async function begin(): Promise<void> {
    const bus = createKafkaBus({
      log,
      clientId: `${config.instance.gateway} share log`,
      ...config.stack.kafka,
    });
    try {
      const shareLog = await startShareLog(
        { bus, db, log, clock, meter },
        { group: `sharelog-${randomUUID()}`, retentionDays: config.shareRetentionDays },
      );
      current = {
        shareLog,
        async stop() {
          await bus.stop();
          await shareLog.stop();
        },
      };
      void shareLog.failed.then((reason) => again(reason));
    } catch (error) {
      await bus.stop();
      throw error;
    }
  }

  async function again(reason: string): Promise<void> {
    if (ending.aborted) return;
    log.error('the share log is begun again', { reason });
    const old = current;
    current = null;
    await old?.stop();
    try {
      await frame.until('the share log', begin);
    } catch (error) {
      if (!ending.aborted) frame.fail(String(error), 70);
    }
  }

  await frame.until('the share log', begin);
  frame.keep('share log', () => current?.stop());
  return { current: () => current?.shareLog ?? null };
}

function shareLogFigures(shareLog: ShareLog | null) {
  if (shareLog === null) return [];
  const { stalled: _, held, gateways, ...totals } = shareLog.status();
  return [
    ...Object.entries(totals).map(([what, value]) => ({
      name: 'headframe_share_log_total',
      help: 'What the share log has made of its records.',
      kind: 'counter' as const,
      value,
      labels: { what },
    })),
    ...Object.entries({ held, gateways }).map(([what, value]) => ({
      name: 'headframe_share_log',
      help: 'Shares whose place is not certain yet, and gateways that are waited for.',
      kind: 'gauge' as const,
      value,
      labels: { what },
    })),
  ];
}
