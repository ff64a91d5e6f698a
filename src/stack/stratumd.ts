/**
 * `headframe stratumd`: a gateway on its own. Door, gateway and journal in the main thread and the block lane in its own, as in the
 * single process; a third thread has Kafka. Found blocks go from the lane to the nodes whatever Kafka does; shares stand in the journal
 * until Kafka has them; without Kafka the last job is mined on until it is too old.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { MessageChannel } from 'node:worker_threads';
import { createMemoryBus } from '../adapters/bus/memory.ts';
import { createDisk } from '../adapters/disk.ts';
import { replaceFile } from '../adapters/files.ts';
import { openJournal } from '../adapters/journal.ts';
import { loadAccelerator } from '../adapters/pow/sha256d.ts';
import { coinbaseRules, readLease, waitForLock } from '../compose.ts';
import { foldInTypescript } from '../core/work/fold.ts';
import { JobSources } from '../core/work/follow.ts';
import type { Job } from '../core/work/job.ts';
import { decodeCoinbasePlans, decodeJobNews } from '../messages/codec.ts';
import { createShareHistogram } from '../metrics.ts';
import type { LaneStatus } from '../services/blocksubmit/lane.ts';
import { createLaneClient } from '../services/blocksubmit/lane-client.ts';
import { type Door, startDoor } from '../services/stratumd/door.ts';
import { Gateway } from '../services/stratumd/gateway.ts';
import { createNeighbours } from '../services/stratumd/neighbours.ts';
import { createGatewayMetrics } from '../services/stratumd/options.ts';
import { RefusalBook } from '../services/stratumd/refusals.ts';
import type { BrokerStatus } from './broker.ts';
import { takeGatewayPrefix } from './gateway-prefix.ts';
import { describeGateway } from './gateway-report.ts';
import {
  EX_CONFIG,
  type Frame,
  kafkaFigures,
  openCache,
  type Service,
  type ServiceConfig,
} from './serve.ts';

const LOOK_MS = 250;
const REFUSALS_MS = 1_000;
/** What others wait for at most, when this gateway is idle, beside the road itself. */
const SETTLE_MS = 20;

export async function startStratumd(frame: Frame, config: ServiceConfig): Promise<Service> {
  const { clock, log, keep } = frame;
  const { dataDir, network } = config;
  const lock = await waitForLock(dataDir, log);
  keep('lock', lock.release);
  const { prefix, name } = await takeGatewayPrefix(frame, config);

  const bus = createMemoryBus({ log });
  keep('bus', () => bus.stop());
  const journal = await openJournal({
    disk: createDisk(),
    directory: config.journal.directory,
    log,
    clock,
    mode: config.journal.mode,
    unshippedBytesMax: config.journal.unshippedBytesMax,
  });
  keep('journal', () => journal.stop());

  const lane = createLaneClient({ log });
  const accelerator = loadAccelerator();
  const metrics = createGatewayMetrics();
  const shareProcessing = createShareHistogram();
  const leasePath = join(dataDir, 'extranonce.lease');
  // The door is opened last and needs the gateway; nobody is blamed before.
  let blame: Door['blame'] = () => {};
  const refusals = new RefusalBook();
  /** Newest tickets of the journal: taken, and on disk. */
  let appended = 0;
  let committed = 0;
  const neighbours =
    config.stack.redisUrl === null
      ? undefined
      : createNeighbours(openCache(frame, config), () => clock.nowMs());
  const gateway = new Gateway(
    {
      log,
      metrics,
      hash: accelerator?.hash ?? foldInTypescript,
      journal: {
        state: () => journal.state(),
        append(record) {
          const ticket = journal.append(record);
          if (ticket > 0) appended = ticket;
          return ticket;
        },
      },
      lane,
      defer: setImmediate,
      persistLease: (highWater) => replaceFile(leasePath, `${highWater}\n`),
      randomBytes: (count) => randomBytes(count),
      blame: (remoteAddress, points) => blame(remoteAddress, points),
      refusals,
      ...(neighbours === undefined ? {} : { neighbours }),
      stopwatch: {
        readMs: () => performance.now(),
        observe: (seconds) => shareProcessing.observe(seconds),
      },
    },
    {
      network,
      pools: config.pools.map((pool) => ({ id: pool.id, coinbase: coinbaseRules(pool, network) })),
      coinbaseTag: config.poolTag,
      gateway: name,
      versionMask: config.versionMask,
      instancePrefix: prefix,
      instancePrefixBits: 8,
      extranonceHighWater: readLease(leasePath),
      ack: config.journal.mode,
      vardiff: config.stratum.vardiff,
      limits: config.stratum.limits,
    },
  );
  journal.onCommitted = (ticket) => {
    committed = ticket;
    gateway.committed(ticket);
  };
  // With nothing on its way to the disk, all that was accepted before this moment is there.
  const settled = new BigInt64Array(new SharedArrayBuffer(8));
  const settling = setInterval(() => {
    if (committed === appended) Atomics.store(settled, 0, BigInt(clock.nowMs() - 1));
  }, SETTLE_MS);
  keep('settling', () => clearInterval(settling));

  const sources = new JobSources();
  await bus.subscribe('mining.jobs', 'gateway', async (records) => {
    const before = sources.source;
    // Of many that come at once, after a while without Kafka, miners are told of the last.
    let wanted = null as Job | null;
    for (const { value } of records) {
      const news = decodeJobNews(value);
      if (!news.ok) {
        log.error('a job could not be read', { reason: news.reason });
        continue;
      }
      const next = sources.hear(news.value.job, news.value.origin, performance.now());
      if (next !== null) wanted = wanted?.clean ? { ...next, clean: true } : next;
    }
    if (wanted !== null) gateway.setJob(wanted, clock.nowMs());
    tellSource(before);
  });
  function tellSource(before: string | null): void {
    if (before === null || before === sources.source) return;
    log.info('work is taken from another job manager', { from: before, to: sources.source });
  }
  const looking = setInterval(() => {
    const before = sources.source;
    const wanted = sources.look(performance.now());
    if (wanted !== null) gateway.setJob(wanted, clock.nowMs());
    tellSource(before);
  }, LOOK_MS);
  keep('job managers', () => clearInterval(looking));
  await bus.subscribe('mining.plans', 'gateway', async (records) => {
    const plans = decodeCoinbasePlans(records.at(-1)!.value);
    if (plans.ok) gateway.setPlans(plans.value, clock.nowMs());
    else log.error('plans of coinbases could not be read', { reason: plans.reason });
  });

  // The lane repeats what nobody takes: while the thread with Kafka is away, nobody does.
  let isLinked = false;
  for (const topic of ['block.candidates', 'block.outcome']) {
    await bus.subscribe(topic, 'link', async () => {
      if (!isLinked) throw new Error('the thread with Kafka is being started');
    });
  }
  const brokerThread = await frame.thread('broker', bus, {
    data: () => ({
      kafka: config.stack.kafka,
      gateway: name,
      journalDirectory: config.journal.directory,
      committed: journal.committedPosition,
      settled: settled.buffer,
    }),
    onStart: (port) => {
      isLinked = true;
      port.on('close', () => {
        isLinked = false;
      });
    },
  });
  const blockThread = await frame.thread('block', bus, {
    data: () => ({ nodes: config.nodes, network, dataDir }),
    onStart: (_port, send) => {
      const { port1, port2 } = new MessageChannel();
      lane.attach(port1);
      send('candidates', port2);
    },
  });

  const broker = () => brokerThread.status() as BrokerStatus | null;
  frame.watch(() => {
    const refused = broker()?.refused ?? null;
    if (refused !== null) frame.fail(refused, EX_CONFIG);
    const reasons: string[] = [];
    if (metrics.workState === 2) {
      const { connected = false, lastError = null } = broker()?.kafka ?? {};
      const why = lastError === null ? 'no job manager has given a fresh job' : lastError;
      reasons.push(`no work: ${connected ? 'no job manager has given a fresh job' : why}`);
    }
    if (journal.state() !== 'ok')
      reasons.push(`shares cannot be stored: the journal is ${journal.state()}`);
    return reasons;
  });

  const telling = setInterval(() => {
    for (const { topic, records } of refusals.take())
      bus.publish(topic, records).catch(() => {
        refusals.dropped += records.length;
      });
  }, REFUSALS_MS);
  keep('refusals', () => clearInterval(telling));

  const door = await startDoor(
    { clock, log, gateway, ...(neighbours === undefined ? {} : { neighbours }) },
    {
      ports: config.stratum.ports,
      trustedProxies: config.stratum.trustedProxies,
      admission: config.stratum.admission,
      tls: config.stratum.tls,
      limits: config.stratum.door,
    },
  );
  blame = door.blame.bind(door);
  keep('door', () => door.stop());
  frame.show({
    gateway: () => metrics,
    shareProcessing,
    door: () => door.counters,
    journal: () => ({ ...journal.figures(), state: journal.state() }),
    lane: () => blockThread.status() as LaneStatus | null,
    workers: () =>
      gateway.snapshot(clock.nowMs()).workers.map(({ account, worker, rates }) => ({
        account,
        worker,
        hashrateHps: rates.fiveMinutesHps,
      })),
    figures: () => {
      const status = broker();
      return [
        ...(status === null ? [] : kafkaFigures(status.kafka)),
        {
          name: 'headframe_job_source_changes_total',
          help: 'Times work was taken from another job manager.',
          kind: 'counter',
          value: sources.changes,
        },
        {
          name: 'headframe_refusals_dropped_total',
          help: 'Refused submissions that other services do not hear of.',
          kind: 'counter',
          value: refusals.dropped,
        },
      ];
    },
  });
  frame.report(() =>
    describeGateway({
      snapshot: gateway.snapshot(clock.nowMs()),
      metrics,
      journalState: journal.state(),
      unshippedBytes: broker()?.shipper.lagBytes ?? journal.figures().unshippedBytes,
      ports: config.stratum.ports.map(({ tls, startDifficulty }, at) => ({
        port: door.ports[at] ?? 0,
        tls,
        startDifficulty,
      })),
    }),
  );
  log.info('miners are welcome', {
    gateway: name,
    prefix,
    ports: door.ports,
    pools: config.pools.map(({ id, scheme }) => `${id} ${scheme}`),
    hash: accelerator?.name ?? 'TypeScript',
  });
  return { reload: () => door.reloadCertificates() };
}
