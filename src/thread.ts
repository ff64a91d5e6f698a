/**
 * Entry of every worker thread (`threads.ts` starts and keeps them). Each role builds its adapters, starts its services, joins its
 * bus to the main thread's, says `ready`, reports figures every second, and ends when it is told to.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { bridge } from './adapters/bus/bridge.ts';
import { createKafkaBus } from './adapters/bus/kafka.ts';
import { createMemoryBus, type MemoryBus } from './adapters/bus/memory.ts';
import { takeAdvisoryLock } from './adapters/db/advisory-lock.ts';
import { readMigrations } from './adapters/db/migrations.ts';
import { connectPostgres } from './adapters/db/postgres.ts';
import { createDisk } from './adapters/disk.ts';
import { isAllShipped, openJournalReader } from './adapters/journal.ts';
import { createRpc } from './adapters/node/rpc.ts';
import { subscribeZmq } from './adapters/node/zmq.ts';
import { loadAccelerator } from './adapters/pow/sha256d.ts';
import type { NodeAddress, OpenRpc } from './core/node/rpc.ts';
import { foldInTypescript } from './core/work/fold.ts';
import { createLog, type OpenLog } from './log.ts';
import { decodeJobNews } from './messages/codec.ts';
import { createMeter, type Meter } from './meter.ts';
import type { Clock } from './ports.ts';
import { type DevnetFacts, LEDGER_LOCK, THREAD_TOPICS, type ThreadData } from './roles.ts';
import { startBlockLane } from './services/blocksubmit/lane.ts';
import { type Devnet, startDevnet } from './services/devnet/devnet.ts';
import { startJobmanager } from './services/jobmanager/jobmanager.ts';
import { startPayoutd } from './services/payoutd/payoutd.ts';
import { startShareLog } from './services/payoutd/sharelog.ts';
import { startShareproc } from './services/shareproc/shareproc.ts';
import { startShipper } from './services/shareproc/shipper.ts';
import { type BrokerStatus, linkKafka } from './stack/broker.ts';
import { migrate, SchemaTooNewError } from './store/migrate.ts';
import type { ThreadHears, ThreadSays } from './threads.ts';

/** What a started role gives back. */
type Running = {
  facts?: unknown;
  /** For the status page and the metrics; asked every second. */
  status?: () => unknown;
  onPort?: (name: string, port: MessagePort) => void;
  stop: () => Promise<void>;
};

const FIGURES_MS = 1_000;
const EX_SOFTWARE = 70;
const EX_CONFIG = 78;
/** What the journal holds at the end is shipped within this, or at the next start. */
const DRAIN_MS = 3_000;
const WALLET = 'headframe';

const clock: Clock = { nowMs: () => Date.now() };

await main(workerData as ThreadData & { port: MessagePort });

async function main(data: ThreadData & { port: MessagePort }): Promise<void> {
  const log = createLog(data.log);
  const says = (message: ThreadSays) => parentPort?.postMessage(message);
  const bus = createMemoryBus({ log });
  const meter = createMeter();
  try {
    const running = await startRole(data, { log, bus, meter });
    const timer = setInterval(() => {
      says({ kind: 'status', status: running.status?.() ?? null, figures: meter.figures() });
    }, FIGURES_MS);
    parentPort?.on('message', (message: ThreadHears) => {
      if (message.kind === 'port') running.onPort?.(message.name, message.port);
      else {
        clearInterval(timer);
        void stop(running, log);
      }
    });
    says({ kind: 'ready', facts: running.facts });
  } catch (error) {
    const { exitCode } = error as { exitCode?: number };
    const reason = error instanceof Error ? error.message : String(error);
    if (exitCode === undefined)
      log.error('a thread could not start', { thread: data.role, reason });
    says({ kind: 'refused', reason, exitCode: exitCode ?? EX_SOFTWARE });
  }
}

async function stop(running: Running, log: OpenLog): Promise<void> {
  try {
    await running.stop();
  } catch (error) {
    log.error('a thread did not end in order', { reason: String(error) });
  }
  log.flush();
  process.exit(0);
}

async function startRole(
  data: ThreadData & { port: MessagePort },
  tools: { log: OpenLog; bus: MemoryBus; meter: Meter },
): Promise<Running> {
  const { log, bus, meter } = tools;
  const { takes, gives } = THREAD_TOPICS[data.role];
  const joinMain = () =>
    bridge(bus, data.port, { incoming: takes, outgoing: gives, log, peer: 'main' });
  switch (data.role) {
    case 'node': {
      // Joined first: the first job is published as soon as there is one.
      await joinMain();
      const jobmanager = await startJobmanager(
        {
          clock,
          log,
          bus,
          meter,
          openRpc: openRpcWith(log),
          openHints: (address, onHint) => subscribeZmq({ log }, address, onHint),
        },
        data.options,
      );
      return { status: () => jobmanager.status(), stop: () => jobmanager.stop() };
    }
    case 'block': {
      const lane = await startBlockLane(
        { clock, log, bus, meter, disk: createDisk(), openRpc: openRpcWith(log) },
        { nodes: data.nodes, network: data.network, dataDir: data.dataDir },
      );
      await bus.subscribe('mining.jobs', 'lane', async (records) => {
        for (const { value } of records) {
          const news = decodeJobNews(value);
          if (news.ok) lane.expectTemplate(news.value.job);
        }
      });
      await joinMain();
      return {
        status: () => lane.status(),
        onPort: (name, port) => {
          if (name === 'candidates') lane.attach(port);
        },
        stop: () => lane.stop(),
      };
    }
    case 'store': {
      const db = await connectPostgres({ ...data.database, log, name: 'headframe store' });
      try {
        await migrate({ db, log }, readMigrations());
      } catch (error) {
        throw error instanceof SchemaTooNewError
          ? Object.assign(error, { exitCode: EX_CONFIG })
          : error;
      }
      const hash = loadAccelerator()?.hash ?? foldInTypescript;
      const { retentionDays, ...audit } = data.shareproc;
      const shareLog = await startShareLog(
        { bus, db, log, clock, meter },
        retentionDays === undefined ? {} : { retentionDays },
      );
      const shareproc = await startShareproc({ bus, log, clock, hash }, audit);
      await joinMain();
      const source = await openJournalReader({
        disk: createDisk(),
        directory: data.journalDirectory,
        log,
        committed: data.committed,
      });
      const shipper = startShipper({ source, bus, log });
      return {
        status: () => ({
          shipper: shipper.status(),
          shareproc: shareproc.status(),
          shareLog: shareLog.status(),
        }),
        stop: async () => {
          await shipper.stop(DRAIN_MS);
          await source.stop();
          await shareproc.stop();
          await shareLog.stop();
          await db.stop();
        },
      };
    }
    case 'payout': {
      // Its own connections: money must not wait behind shares.
      const db = await connectPostgres({
        ...data.database,
        log,
        connectionsMax: 3,
        name: 'headframe payout',
      });
      await joinMain();
      const payoutd = await startPayoutd(
        {
          clock,
          log,
          db,
          bus,
          meter,
          fault: () => {},
          openRpc: openRpcWith(log),
          isShipperIdle: () => isAllShipped(data.committed),
          takeLock: () =>
            takeAdvisoryLock({
              ...data.database,
              log,
              key: LEDGER_LOCK,
              name: 'headframe ledger lock',
            }),
        },
        data.options,
      );
      return {
        status: () => payoutd.status(),
        stop: async () => {
          await payoutd.stop();
          await db.stop();
        },
      };
    }
    case 'broker': {
      const kafka = createKafkaBus({ log, clientId: data.gateway, ...data.kafka });
      const link = await linkKafka({ bus, kafka, join: joinMain, log, meter });
      const source = await openJournalReader({
        disk: createDisk(),
        directory: data.journalDirectory,
        log,
        committed: data.committed,
      });
      const settled = new BigInt64Array(data.settled);
      const shipper = startShipper({
        source,
        bus: kafka,
        log,
        marks: { gateway: data.gateway, settledThroughMs: () => Number(Atomics.load(settled, 0)) },
      });
      return {
        status: (): BrokerStatus => ({
          kafka: kafka.status(),
          refused: link.refused(),
          shipper: shipper.status(),
        }),
        stop: async () => {
          await shipper.stop(DRAIN_MS);
          await source.stop();
          await kafka.stop();
        },
      };
    }
    case 'devnet': {
      const devnet = await startDevnet({ clock, log }, data.options);
      const address = data.address ?? (await makeAddress(devnet));
      const node: NodeAddress = {
        name: 'devnet',
        url: devnet.rpcUrl,
        user: devnet.user,
        password: devnet.password,
        ...(devnet.zmqAddress === null ? {} : { zmqAddresses: [devnet.zmqAddress] }),
      };
      return { facts: { node, address } satisfies DevnetFacts, stop: () => devnet.stop() };
    }
  }
}

/** An address of the development chain's own wallet, which is made when there is none. */
async function makeAddress(devnet: Devnet): Promise<string> {
  await devnet.call('createwallet', [WALLET]).catch(() => devnet.call('loadwallet', [WALLET]));
  return String(await devnet.call('getnewaddress', ['pool', 'bech32'], WALLET));
}

function openRpcWith(log: OpenLog): OpenRpc {
  return (address, purpose) => createRpc({ ...address, ...purpose, log });
}
