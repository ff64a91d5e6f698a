/**
 * All services of a pool as processes of their own, as an operator runs them, over real servers of this machine: Kafka, the private
 * PostgreSQL, Redis and InfluxDB where they are found, and a node on regtest.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { SERVICES, type ServiceName } from '../../src/config/services.ts';
import type { Db } from '../../src/ports.ts';
import { startTestBroker, type TestBroker } from '../tools/broker.ts';
import { INFLUXD, type InfluxServer, startInflux } from '../tools/influx-server.ts';
import {
  freePorts,
  makeDataDir,
  PoolProcess,
  type ProgramPorts,
  removeData,
} from '../tools/pool-process.ts';
import { REDIS_SERVER, type RedisServer, startRedis } from '../tools/redis-server.ts';
import { findProgram, type RegtestNode, startRegtestNode } from '../tools/regtest-node.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { POOL_ADDRESS, untilReady } from './rig.ts';

/** One process that can be killed and started again with the same settings. */
export type Member = {
  readonly name: string;
  readonly service: ServiceName;
  readonly ports: ProgramPorts;
  /** The process of now. */
  process: PoolProcess;
  /** SIGKILL, and a new one as soon as it is gone. */
  killAndStart(): Promise<void>;
};

export type Servers = {
  broker: TestBroker;
  node: RegtestNode;
  db: Db;
  redis: RedisServer | null;
  influx: InfluxServer | null;
  /** For the services. */
  settings: Record<string, string>;
  stop(): Promise<void>;
};

/** Starts the servers, all at once. */
export async function startServers(): Promise<Servers> {
  const log = createSilentLog();
  const dataDir = makeDataDir();
  const [broker, node, postgres, redis, influx] = await Promise.all([
    startTestBroker(),
    startRegtestNode(findProgram('BITCOIND', 'bitcoind')),
    startEmbeddedPostgres({ dataDir, log }),
    REDIS_SERVER === null ? null : startRedis(REDIS_SERVER),
    INFLUXD === null ? null : startInflux(INFLUXD),
  ]);
  const { socketDirectory, port, user, database } = postgres.connection;
  const db = await connectPostgres({ ...postgres.connection, log, connectionsMax: 2 });
  const settings: Record<string, string> = {
    ...node.settings,
    POOL_ADDRESS,
    KAFKA_BROKERS: broker.brokers.join(','),
    DATABASE_URL: `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(socketDirectory)}`,
  };
  if (redis !== null) settings.REDIS_URL = redis.url;
  if (influx !== null) settings.INFLUX_URL = influx.url;
  return {
    broker,
    node,
    db,
    redis,
    influx,
    settings,
    async stop() {
      await db.stop();
      await Promise.all([
        broker.stop(),
        node.stop(),
        postgres.stop(),
        redis?.stop(),
        influx?.stop(),
      ]);
      removeData(dataDir);
    },
  };
}

/** Starts two gateways, which come first, two that may keep the ledger, and one of each other service; statsd only where there is something to write to. */
export async function startFleet(
  servers: Servers,
): Promise<{ members: Member[]; stop(): Promise<(number | null)[]> }> {
  const dataDir = makeDataDir();
  const wanted: [ServiceName, number][] = [
    ['stratumd', 1],
    ['stratumd', 2],
  ];
  for (const service of Object.keys(SERVICES) as ServiceName[]) {
    if (service === 'stratumd' || (service === 'statsd' && servers.influx === null)) continue;
    wanted.push([service, 1]);
    if (service === 'payoutd') wanted.push([service, 2]);
  }
  const members = await Promise.all(
    wanted.map(async ([service, instance]): Promise<Member> => {
      const ports = await freePorts();
      const own = join(dataDir, `${service}-${instance}`);
      mkdirSync(own);
      const begin = () =>
        new PoolProcess(
          [service],
          {
            ...servers.settings,
            // Threads write the cache of what they compiled when they end: with all of them ending at once that took up to 5 s, in
            // which they were cut off.
            NODE_DISABLE_COMPILE_CACHE: '1',
            DATA_DIR: own,
            INSTANCE_ID: String(instance),
            LISTEN_ADDR: '127.0.0.1',
            LISTEN_PORT: String(ports.stratum),
            API_ADDR: '127.0.0.1',
            API_PORT: String(ports.api),
            METRICS_PORT: String(ports.metrics),
            MIN_DIFFICULTY: '0.00001',
            INITIAL_DIFFICULTY: '0.00001',
          },
          ports,
        );
      const member: Member = {
        name: `${service}-${instance}`,
        service,
        ports,
        process: begin(),
        async killAndStart() {
          member.process.signal('SIGKILL');
          await member.process.ended();
          member.process = begin();
        },
      };
      return member;
    }),
  );
  return {
    members,
    async stop() {
      const codes = await Promise.all(members.map((member) => member.process.stop(60_000)));
      removeData(dataDir);
      return codes;
    },
  };
}

/** Resolves when every process takes what it is for. */
export async function untilAllReady(members: readonly Member[], limitMs = 120_000): Promise<void> {
  await Promise.all(
    members.map(({ name, process }) =>
      untilReady(process, true, limitMs).catch((error: Error) => {
        throw new Error(`${name}: ${error.message}`);
      }),
    ),
  );
}
