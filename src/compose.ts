/**
 * The only file that builds adapters and starts services. `headframe start` top to bottom, in the order things depend on each other:
 * lock → chain (development chain when no node is configured) → journal → database → threads → gateway → door → status → miner.
 * They stop in reverse: no new miner, answers out, journal shipped, threads, database.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { bridge } from './adapters/bus/bridge.ts';
import { createMemoryBus, type MemoryBus } from './adapters/bus/memory.ts';
import { findEmbeddedPostgres, startEmbeddedPostgres } from './adapters/db/embedded.ts';
import { lockDirectory } from './adapters/db/lock.ts';
import { readMigrations } from './adapters/db/migrations.ts';
import { connectPostgres, type PostgresAddress } from './adapters/db/postgres.ts';
import { createDisk } from './adapters/disk.ts';
import { readFileIfAny, replaceFile } from './adapters/files.ts';
import { openJournal } from './adapters/journal.ts';
import { loadAccelerator } from './adapters/pow/sha256d.ts';
import type { Config } from './config.ts';
import { decodeAddress } from './core/bitcoin/address.ts';
import type { Network } from './core/bitcoin/network.ts';
import { encodeBits } from './core/bitcoin/target.ts';
import type { PoolRules } from './core/ledger/rules.ts';
import type { NodeAddress } from './core/node/rpc.ts';
import { foldInTypescript } from './core/work/fold.ts';
import type { CoinbaseRules } from './core/work/payout.ts';
import type { LogOptions } from './log.ts';
import { decodeCoinbasePlans, decodeJob } from './messages/codec.ts';
import { createShareHistogram } from './metrics.ts';
import { overlook } from './overview.ts';
import type { Clock, Db, Log } from './ports.ts';
import { type DevnetFacts, THREAD_TOPICS, type ThreadData } from './roles.ts';
import { createLaneClient } from './services/blocksubmit/lane-client.ts';
import { startMiner } from './services/miner/miner.ts';
import { startStatus } from './services/status/status.ts';
import { type Door, startDoor } from './services/stratumd/door.ts';
import { Gateway } from './services/stratumd/gateway.ts';
import { createGatewayMetrics, type PortOptions } from './services/stratumd/options.ts';
import { migrate } from './store/migrate.ts';
import { type KeptThread, keepThread } from './threads.ts';

/**
 * How long a process takes at most from SIGTERM to its end; what is not done by then is left to the journal. Whoever ends it must not be
 * quicker: deploy/ and docs/runbook.md are held against this.
 */
export const DRAIN_MS_MAX = 9_500;

export type PoolTools = { clock: Clock; log: Log; logOptions: LogOptions; version: string };

/** A pool that runs. */
export type Pool = {
  /** Resolves when a part of it cannot be kept alive: why, and the exit code to end with. Never resolves otherwise. */
  failed: Promise<{ reason: string; exitCode: number }>;
  /** Reads certificates again. */
  reload(): Promise<void>;
  /** Drains and ends everything; what takes longer than `DRAIN_MS_MAX` is cut off. */
  stop(): Promise<void>;
};

/** A reason not to start that is nobody's bug. */
export class StartError extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

const EX_TEMPFAIL = 75;
const EX_CONFIG = 78;
/** The demo's own miner: about a tenth of a core. */
const DEMO_HPS = 200_000;
const DEMO_BLOCKS = 110;
const DEMO_SHARES_PER_BLOCK = 16;
const LOCK_WAIT_MS = 3_000;
const LOCK_LOOK_MS = 100;
const STOP_THREAD_MS = 4_000;

/** Starts everything in one process. Rejects with `StartError` for what the operator must mend. */
export async function startPool(tools: PoolTools, config: Config): Promise<Pool> {
  const { clock, log } = tools;
  /** What was started, to be stopped in reverse order. */
  const started: { name: string; stop: () => Promise<void> | void }[] = [];
  let fail: (failure: { reason: string; exitCode: number }) => void = () => {};
  const failed = new Promise<{ reason: string; exitCode: number }>((resolve) => {
    fail = resolve;
  });

  async function stop(): Promise<void> {
    for (const { name, stop } of started.splice(0).reverse()) {
      try {
        await stop();
      } catch (error) {
        log.error('a part did not end in order', { part: name, reason: String(error) });
      }
    }
  }

  try {
    const lock = await waitForLock(config.dataDir, log);
    started.push({ name: 'lock', stop: lock.release });

    const bus = createMemoryBus({ log });
    started.push({ name: 'bus', stop: () => bus.stop() });
    const keep = async (
      role: ThreadData['role'],
      data: () => Record<string, unknown>,
      onStart?: Parameters<typeof keepThread>[1]['connect'],
    ): Promise<{ thread: KeptThread; facts: unknown }> => {
      const kept = await keepThread(
        { log },
        {
          role,
          data: () => ({ log: tools.logOptions, ...data() }),
          connect: (port, send) => {
            void joinThread(bus, role, port, log);
            onStart?.(port, send);
          },
          onGivenUp: (reason, exitCode) => fail({ reason, exitCode }),
          // Started again it would have other ports, which nobody else knows.
          ...(role === 'devnet' ? { deathsMax: 1 } : {}),
        },
      );
      started.push({ name: role, stop: () => kept.thread.stop(STOP_THREAD_MS) });
      return kept;
    };

    const chain = await chooseChain(config, keep, log);
    const coinbases = chain.pools.map((pool) => ({
      id: pool.id,
      coinbase: coinbaseRules(pool, config.network),
    }));

    const disk = createDisk();
    const journal = await openJournal({
      disk,
      directory: config.journal.directory,
      log,
      clock,
      mode: config.journal.mode,
      unshippedBytesMax: config.journal.unshippedBytesMax,
    });
    started.push({ name: 'journal', stop: () => journal.stop() });

    const database =
      config.database.url === null
        ? await startEmbeddedPostgres({ dataDir: config.database.directory, log })
        : null;
    if (database !== null) started.push({ name: 'database', stop: () => database.stop() });
    const address: PostgresAddress = database?.connection ?? {
      connectionString: config.database.url ?? '',
    };
    const storeThread = await keep('store', () => ({
      database: address,
      journalDirectory: config.journal.directory,
      committed: journal.committedPosition,
      shareproc: {
        network: config.network,
        coinbaseTag: config.poolTag,
        pools: coinbases,
        retentionDays: config.shareRetentionDays,
      },
    }));
    // After the store: that one brings the schema up to date.
    const payoutThread = await keep('payout', () => ({
      database: address,
      committed: journal.committedPosition,
      options: {
        network: config.network,
        nodes: chain.nodes,
        pools: chain.pools,
        policy: config.payouts,
        spanRetentionDays: config.spanRetentionDays,
      },
    }));
    const db = await connectPostgres({
      ...address,
      log,
      connectionsMax: 2,
      name: 'headframe status',
    });
    started.push({ name: 'status database', stop: () => db.stop() });

    const lane = createLaneClient({ log });
    const blockThread = await keep(
      'block',
      () => ({ nodes: chain.nodes, network: config.network, dataDir: config.dataDir }),
      (_port, send) => {
        const { port1, port2 } = new MessageChannel();
        lane.attach(port1);
        send('candidates', port2);
      },
    );

    const accelerator = loadAccelerator();
    const metrics = createGatewayMetrics();
    const shareProcessing = createShareHistogram();
    const leasePath = join(config.dataDir, 'extranonce.lease');
    // The door is opened last and needs the gateway; nobody is blamed before.
    let blame: Door['blame'] = () => {};
    const gateway = new Gateway(
      {
        log,
        metrics,
        hash: accelerator?.hash ?? foldInTypescript,
        journal,
        lane,
        defer: setImmediate,
        persistLease: (highWater) => replaceFile(leasePath, `${highWater}\n`),
        randomBytes: (count) => randomBytes(count),
        blame: (remoteAddress, points) => blame(remoteAddress, points),
        stopwatch: {
          readMs: () => performance.now(),
          observe: (seconds) => shareProcessing.observe(seconds),
        },
      },
      {
        network: config.network,
        pools: coinbases,
        coinbaseTag: config.poolTag,
        gateway: config.instance.gateway,
        versionMask: config.versionMask,
        instancePrefix: config.instance.prefix,
        instancePrefixBits: config.instance.prefixBits,
        extranonceHighWater: readLease(leasePath),
        ack: config.journal.mode,
        vardiff: config.stratum.vardiff,
        limits: config.stratum.limits,
      },
    );
    journal.onCommitted = (ticket) => gateway.committed(ticket);
    await bus.subscribe('mining.jobs', 'gateway', async (records) => {
      const job = decodeJob(records.at(-1)!.value);
      if (job.ok) gateway.setJob(job.value, clock.nowMs());
      else log.error('a job could not be read', { reason: job.reason });
    });
    await bus.subscribe('mining.plans', 'gateway', async (records) => {
      const plans = decodeCoinbasePlans(records.at(-1)!.value);
      if (plans.ok) gateway.setPlans(plans.value, clock.nowMs());
      else log.error('plans of coinbases could not be read', { reason: plans.reason });
    });

    const nodeThread = await keep('node', () => ({
      options: {
        nodes: chain.nodes,
        network: config.network,
        poolTag: config.poolTag,
        pools: coinbases,
        ...config.jobs,
      },
    }));

    const door = await startDoor(
      { clock, log, gateway },
      {
        ports: chain.ports,
        trustedProxies: config.stratum.trustedProxies,
        admission: config.stratum.admission,
        tls: config.stratum.tls,
        limits: config.stratum.door,
      },
    );
    blame = door.blame.bind(door);
    started.push({ name: 'door', stop: () => door.stop() });
    log.info('miners are welcome', {
      ports: door.ports,
      pools: chain.pools.map(({ id, scheme }) => `${id} ${scheme}`),
      hash: accelerator?.name ?? 'TypeScript',
    });

    if (config.mode === 'devnet') {
      const miner = startMiner(
        { clock, log },
        {
          host: '127.0.0.1',
          port: door.ports[0]!,
          tls: 'off',
          user: `${chain.address}.demo`,
          password: 'x',
          threads: 1,
          hashesPerSecondMax: DEMO_HPS,
          shareIntervalSeconds: 1,
        },
      );
      started.push({ name: 'miner', stop: () => miner.stop() });
    }
    const status = await startStatus(
      overlook({
        clock,
        log,
        version: tools.version,
        startedAtMs: clock.nowMs(),
        config,
        chain,
        gateway,
        metrics,
        shareProcessing,
        journal,
        door,
        db,
        threads: {
          node: nodeThread.thread,
          block: blockThread.thread,
          store: storeThread.thread,
          payout: payoutThread.thread,
        },
      }),
      { api: config.api, metrics: config.metrics },
    );
    started.push({ name: 'status', stop: () => status.stop() });
    log.info('look here', {
      ...(status.apiPort === null ? {} : { page: `http://127.0.0.1:${status.apiPort}/` }),
      ...(status.metricsPort === null
        ? {}
        : { metrics: `http://127.0.0.1:${status.metricsPort}/metrics` }),
    });

    return { failed, reload: () => door.reloadCertificates(), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** A process that was just told to end may hold the directory for a moment longer. */
export async function waitForLock(directory: string, log: Log): Promise<{ release(): void }> {
  const giveUpAtMs = performance.now() + LOCK_WAIT_MS;
  for (let tries = 0; ; tries += 1) {
    const lock = lockDirectory(directory);
    if (lock.ok) return lock;
    const who = lock.holderPid === null ? 'another process' : `process ${lock.holderPid}`;
    if (performance.now() >= giveUpAtMs)
      throw new StartError(`${directory} is in use by ${who}`, EX_TEMPFAIL);
    if (tries === 0) log.info('waiting for the data folder', { directory, heldBy: who });
    await sleep(LOCK_LOOK_MS);
  }
}

/** A database for a command that ends. */
export type OpenDatabase = { db: Db; stop(): Promise<void> };

/**
 * The pool's database, for commands beside it: the configured one; or the private one, which is reached when the pool runs, and
 * started for the time being when it does not. Its schema is brought up to date first, unless `isLooking` only, or a running pool has
 * done that.
 */
export async function openDatabase(
  config: Config,
  log: Log,
  isLooking = false,
): Promise<OpenDatabase> {
  const options = { log, connectionsMax: 2, name: 'headframe command' };
  if (config.database.url !== null)
    return openAt({ connectionString: config.database.url }, async () => {});
  const running = await findEmbeddedPostgres(config.database.directory);
  if (running !== null) {
    const db = await connectPostgres({ ...running, ...options });
    return { db, stop: () => db.stop() };
  }
  const lock = lockDirectory(config.dataDir);
  if (!lock.ok) throw new Error(`${config.dataDir} is in use, and its database does not answer`);
  try {
    const server = await startEmbeddedPostgres({ dataDir: config.database.directory, log });
    return await openAt(server.connection, async () => {
      await server.stop();
      lock.release();
    });
  } catch (error) {
    lock.release();
    throw error;
  }

  async function openAt(
    address: PostgresAddress,
    close: () => Promise<void>,
  ): Promise<OpenDatabase> {
    try {
      const db = await connectPostgres({ ...address, ...options, firstConnectTimeoutMs: 5_000 });
      if (!isLooking) await migrate({ db, log }, readMigrations());
      return {
        db,
        async stop() {
          await db.stop();
          await close();
        },
      };
    } catch (error) {
      await close();
      throw error;
    }
  }
}

/** For the doctor: starts or reaches the database, answers its version, and leaves everything as it was. */
export async function tryDatabase(config: Config, log: Log): Promise<string> {
  const { db, stop } = await openDatabase(config, log, true);
  try {
    const [row] = await db.query<{ server_version: string }>('SHOW server_version');
    return `PostgreSQL ${row?.server_version ?? 'of unknown version'}`;
  } finally {
    await stop();
  }
}

/** Connects the near end of a thread's bus port: what the thread takes goes out, what it gives comes in. */
async function joinThread(
  bus: MemoryBus,
  role: ThreadData['role'],
  port: Parameters<typeof bridge>[1],
  log: Log,
): Promise<void> {
  const { takes, gives } = THREAD_TOPICS[role];
  await bridge(bus, port, { outgoing: takes, incoming: gives, log, peer: role });
}

type Chain = {
  nodes: readonly NodeAddress[];
  /** Whatever is paid to an address has one. */
  pools: readonly PoolRules[];
  /** Who the demo's own miner mines for; empty with a node of the operator's. */
  address: string;
  ports: readonly PortOptions[];
};

/** The configured nodes, or a development chain of our own with an address of its wallet to pay. */
async function chooseChain(
  config: Config,
  keep: (
    role: ThreadData['role'],
    data: () => Record<string, unknown>,
  ) => Promise<{ facts: unknown }>,
  log: Log,
): Promise<Chain> {
  const { ports } = config.stratum;
  if (config.mode === 'node') {
    return { nodes: config.nodes, pools: config.pools, address: '', ports };
  }
  log.info('no node is configured: starting a development chain and a small miner of our own', {
    hint: 'set BITCOIN_RPC_HOST and POOL_ADDRESS to mine on your own node',
  });
  const addressPath = join(config.dataDir, 'pool-address');
  const hashesPerBlock = (DEMO_HPS * config.devnet.blockTimeMs) / 1000;
  const { facts } = await keep('devnet', () => ({
    address: readFileIfAny(addressPath)?.trim() ?? null,
    options: {
      rpcPort: 0,
      zmqPort: 0,
      dataDir: join(config.dataDir, 'chain'),
      user: 'headframe',
      password: randomBytes(16).toString('hex'),
      initialBlocks: DEMO_BLOCKS,
      bits: encodeBits(2n ** 256n / BigInt(Math.round(hashesPerBlock))),
      transactionsPerBlock: 20,
    },
  }));
  const { node, address } = facts as DevnetFacts;
  replaceFile(addressPath, `${address}\n`);
  return {
    nodes: [node],
    pools: config.pools.map((pool) => ({ ...pool, address: pool.address ?? address })),
    address,
    // Some shares for every block, so that there is something to see.
    ports: ports.map((port) => ({
      ...port,
      minDifficulty: Math.min(port.minDifficulty, hashesPerBlock / 2 ** 32 / DEMO_SHARES_PER_BLOCK),
    })),
  };
}

/** Who the coinbases of a pool pay. The addresses were checked with the configuration. */
export function coinbaseRules(pool: PoolRules, network: Network): CoinbaseRules {
  const scriptOf = (address: string): Uint8Array => {
    const decoded = decodeAddress(address, network);
    if (!decoded.ok) throw new StartError(`${address}: ${decoded.reason}`, EX_CONFIG);
    return decoded.script;
  };
  if (pool.scheme === 'solo' || pool.scheme === 'direct') {
    const payee = pool.feeAddress ?? pool.address;
    const hasFee = payee !== null && pool.feePpm > 0;
    return {
      mode: pool.scheme,
      fee: hasFee ? { ppm: pool.feePpm, script: scriptOf(payee) } : null,
    };
  }
  if (pool.address === null) throw new StartError(`pool ${pool.id} has no address`, EX_CONFIG);
  return { mode: 'pool', script: scriptOf(pool.address), address: pool.address };
}

export function readLease(path: string): number {
  const text = readFileIfAny(path);
  if (text === null) return 0;
  const highWater = Number(text.trim());
  if (!Number.isSafeInteger(highWater) || highWater < 0)
    throw new StartError(`${path} is damaged: it must hold one whole number`, EX_CONFIG);
  return highWater;
}
