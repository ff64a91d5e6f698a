/**
 * `headframe jobmanager`: the node side on its own. Templates and jobs go to Kafka, copies of jobs to the cache. Two may run, on
 * different nodes or on the same: each says its name and its current job again and again, and gateways choose (`core/work/follow.ts`).
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createRpc } from '../adapters/node/rpc.ts';
import { subscribeZmq } from '../adapters/node/zmq.ts';
import { coinbaseRules, waitForLock } from '../compose.ts';
import type { Bus } from '../ports.ts';
import { startJobmanager } from '../services/jobmanager/jobmanager.ts';
import { openLastTransactions } from './last-transactions.ts';
import { type Frame, openBus, openCache, type Service, type ServiceConfig } from './serve.ts';

/** A third of the time after which a gateway takes a job manager for dead. */
const AGAIN_MS = 3_000;
/** Behind the name: two processes that have the same number by mistake are still two to the gateways. */
const NAME_BYTES = 5;

/** Runs the node side until the frame ends it. */
export async function startJobmanagerd(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, keep } = frame;
  const { dataDir, network } = config;
  const lock = await waitForLock(dataDir, log);
  keep('lock', lock.release);
  const { gateway: name } = config.instance;
  const source = `${name}.${randomBytes(NAME_BYTES).toString('hex')}`;
  const bus = openBus(frame, config, name);
  const cache = openCache(frame, config);
  const last = openLastTransactions(join(dataDir, 'transactions'), log);
  // Read before there is a newer job. Whoever found a block on the last one of the process before may still wait for them.
  const left = last.read();
  let isOver = false;
  keep('last transactions', () => {
    isOver = true;
    last.stop();
  });
  if (left !== null) void publishUntil(bus, left, () => isOver);
  const jobmanager = await startJobmanager(
    {
      clock,
      log,
      bus,
      cache,
      keepTransactions: last.keep,
      meter: frame.meter,
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      openHints: (address, onHint) => subscribeZmq({ log }, address, onHint),
    },
    {
      nodes: config.nodes,
      network,
      poolTag: config.poolTag,
      pools: config.pools.map((pool) => ({ id: pool.id, coinbase: coinbaseRules(pool, network) })),
      ...config.jobs,
      among: { source, againMs: AGAIN_MS },
    },
  );
  keep('jobmanager', () => jobmanager.stop());
  frame.watch(() => {
    const { state, nodes } = jobmanager.status();
    if (state === 'working') return [];
    const why = nodes.map(({ name, detail }) => `${name}: ${detail}`).join('; ');
    return [`${state === 'waiting' ? 'no job yet' : 'the job is old'}: ${why}`];
  });
  frame.show({ node: () => jobmanager.status() });
  frame.report(() => {
    const { state, height, jobAgeMs, nodes } = jobmanager.status();
    return {
      figures: new Map(Object.entries({ height, jobAgeMs })),
      words: new Map([['state', state]]),
      nodes,
    };
  });
  log.info('jobs are made', { source });
  return {};
}

async function publishUntil(bus: Bus, value: Uint8Array, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    try {
      await bus.publish('mining.templates', [{ key: 'job', value }]);
      return;
    } catch {
      await sleep(AGAIN_MS);
    }
  }
}
