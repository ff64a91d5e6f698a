/**
 * `headframe jobmanager`: the node side on its own. Templates and jobs go to Kafka, copies of jobs to the cache. Two may run, on
 * different nodes or on the same: each says its name and its current job again and again, and gateways choose (`core/work/follow.ts`).
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { readFileIfAny, replaceFile } from '../adapters/files.ts';
import { createRpc } from '../adapters/node/rpc.ts';
import { subscribeZmq } from '../adapters/node/zmq.ts';
import { coinbaseRules, StartError, waitForLock } from '../compose.ts';
import { JOB_INSTANCES } from '../services/jobmanager/job-ids.ts';
import { startJobmanager } from '../services/jobmanager/jobmanager.ts';
import {
  EX_CONFIG,
  type Frame,
  openBus,
  openCache,
  type Service,
  type ServiceConfig,
} from './serve.ts';

/** A third of the time after which a gateway takes a job manager for dead. */
const AGAIN_MS = 3_000;
/** INSTANCE_ID takes the numbers below. */
const DRAWN_MIN = 256;

/** Runs the node side until the frame ends it. */
export async function startJobmanagerd(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, keep } = frame;
  const { dataDir, network } = config;
  const lock = await waitForLock(dataDir, log);
  keep('lock', lock.release);
  const instance = readInstance(config);
  const source =
    config.instance.prefixBits > 0
      ? config.instance.gateway
      : `${config.serviceName}-${instance.toString(16)}`;
  const bus = openBus(frame, config, source);
  const cache = openCache(frame, config);
  const markPath = join(dataDir, 'job-ids.mark');
  const jobmanager = await startJobmanager(
    {
      clock,
      log,
      bus,
      cache,
      meter: frame.meter,
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      openHints: (address, onHint) => subscribeZmq({ log }, address, onHint),
      mark: {
        read: async () => readFileIfAny(markPath),
        write: async (text) => replaceFile(markPath, text),
      },
    },
    {
      nodes: config.nodes,
      network,
      poolTag: config.poolTag,
      pools: config.pools.map((pool) => ({ id: pool.id, coinbase: coinbaseRules(pool, network) })),
      ...config.jobs,
      among: { source, instance, againMs: AGAIN_MS },
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

/** INSTANCE_ID, or a number drawn once for the data directory. */
function readInstance(config: ServiceConfig): number {
  if (config.instance.prefixBits > 0) return config.instance.prefix;
  const path = join(config.dataDir, 'jobmanager.instance');
  const text = readFileIfAny(path);
  if (text === null) {
    const drawn = randomInt(DRAWN_MIN, JOB_INSTANCES);
    replaceFile(path, `${drawn}\n`);
    return drawn;
  }
  const instance = Number(text.trim());
  if (!Number.isInteger(instance) || instance < 0 || instance >= JOB_INSTANCES)
    throw new StartError(`${path} is damaged: delete it, and another number is drawn`, EX_CONFIG);
  return instance;
}
