/**
 * Kafka as its own program: one node that is broker and controller (KRaft), on the loopback. Its jars come by name from Maven Central,
 * once, into a folder of the user's cache; Java and Maven have to be there.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { Admin } from '@platformatic/kafka';
import {
  endProcess,
  findFreePorts,
  findProgram,
  isListening,
  NotFoundError,
  runToEnd,
  startServer,
  waitFor,
} from './server.ts';

export type KafkaServer = {
  /** `127.0.0.1:port` */
  brokers: string;
  pid(): number;
  /** Ends it: SIGTERM lets it write everything down, SIGKILL does not. Its port and data stay for `restart`. */
  kill(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
  restart(): Promise<void>;
};

export type KafkaOptions = {
  /** For data, settings and log. */
  directory: string;
  port?: number;
  /** More lines of server.properties. */
  settings?: Readonly<Record<string, string>>;
  /** Further doors beside the open one: security protocol by port, named `SASL_SSL_9093` and so on. */
  listeners?: Readonly<Record<number, 'SSL' | 'SASL_SSL' | 'SASL_PLAINTEXT'>>;
};

const POM = join(import.meta.dirname, 'kafka.pom.xml');
const VERSION = /kafka_2\.13<\/artifactId>\s*<version>([^<]+)/.exec(readFileSync(POM, 'utf8'))?.[1];
const HEAP = '384m';
const TRIES = 3;
const MAVEN_TIMEOUT_MS = 300_000;

/** The folder of the jars, which are fetched when they are not there. Throws `NotFoundError` with what is missing. */
export function findKafka(): { java: string; jars: string } {
  const java = findProgram('java');
  if (java === null)
    throw new NotFoundError('Kafka was not found: there is no Java on this machine');
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'headframe');
  const jars = process.env.KAFKA_JARS ?? join(cache, `kafka-${VERSION}`);
  if (globSync(join(jars, 'kafka_*.jar')).length > 0) return { java, jars };
  const maven = findProgram('mvn');
  if (maven === null) {
    throw new NotFoundError(
      `Kafka was not found: its jars are not in ${jars}, and there is no Maven to fetch them`,
    );
  }
  const fresh = `${jars}.${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  const fetched = spawnSync(
    maven,
    ['-q', '-B', '-f', POM, 'dependency:copy-dependencies', `-DoutputDirectory=${fresh}`],
    { encoding: 'utf8', timeout: MAVEN_TIMEOUT_MS },
  );
  if (fetched.status !== 0) {
    rmSync(fresh, { recursive: true, force: true });
    const why = `${fetched.stdout ?? ''}${fetched.stderr ?? ''}`.trim().split('\n')[0] ?? '';
    throw new NotFoundError(`Kafka was not found: Maven could not fetch its jars. ${why}`);
  }
  // Whole or not at all; another command may have been faster.
  if (existsSync(jars)) rmSync(fresh, { recursive: true, force: true });
  else renameSync(fresh, jars);
  return { java, jars };
}

/** Starts a broker and resolves when it serves. A free port may be taken by others before it listens: then with another one. */
export async function startKafka(options: KafkaOptions): Promise<KafkaServer> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await startOnce(options);
    } catch (error) {
      if (tries === TRIES || error instanceof NotFoundError) throw error;
    }
  }
}

async function startOnce(options: KafkaOptions): Promise<KafkaServer> {
  const { java, jars } = findKafka();
  const { directory } = options;
  mkdirSync(directory, { recursive: true });
  const file = join(directory, 'server.properties');
  const logFile = join(directory, 'kafka.log');
  const [freePort, controllerPort] = await findFreePorts(2);
  const port = options.port ?? (freePort as number);
  const more = Object.entries(options.listeners ?? {}).map(([at, protocol]) => ({
    name: `${protocol}_${at}`,
    at,
    protocol,
  }));
  const open = [`PLAINTEXT://127.0.0.1:${port}`];
  for (const { name, at } of more) open.push(`${name}://127.0.0.1:${at}`);
  const settings: Record<string, string> = {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    listeners: [...open, `CONTROLLER://127.0.0.1:${controllerPort}`].join(','),
    'advertised.listeners': open.join(','),
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': [
      'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
      ...more.map(({ name, protocol }) => `${name}:${protocol}`),
    ].join(','),
    'log.dirs': join(directory, 'data'),
    'offsets.topic.replication.factor': '1',
    // 50 would be as many files for a single node.
    'offsets.topic.num.partitions': '4',
    'transaction.state.log.replication.factor': '1',
    'transaction.state.log.min.isr': '1',
    'auto.create.topics.enable': 'false',
    'group.initial.rebalance.delay.ms': '0',
    // A node that died is itself again after this, not after 9 s.
    'broker.session.timeout.ms': '2000',
    'broker.heartbeat.interval.ms': '300',
    ...options.settings,
  };
  writeFileSync(
    file,
    Object.entries(settings)
      .map(([key, value]) => `${key}=${value}\n`)
      .join(''),
  );
  const run = (main: string, ...args: string[]) => ({
    file: java,
    args: [`-Xmx${HEAP}`, '-XX:TieredStopAtLevel=1', '-cp', join(jars, '*'), main, ...args],
    logFile,
  });
  if (!existsSync(join(directory, 'data', 'meta.properties'))) {
    const id = randomBytes(16).toString('base64url');
    await runToEnd(
      run('kafka.tools.StorageTool', 'format', '--ignore-formatted', '-t', id, '-c', file),
    );
  }
  let pid = 0;
  let exited: Promise<unknown> = Promise.resolve();

  async function start(): Promise<void> {
    const child = startServer(run('kafka.Kafka', file));
    pid = child.pid ?? 0;
    exited = once(child, 'exit');
    await waitFor('Kafka', child, logFile, () => answersAt(port));
  }

  await start();
  return {
    brokers: `127.0.0.1:${port}`,
    pid: () => pid,
    async kill(signal) {
      await endProcess(pid, signal);
      await exited;
    },
    restart: start,
  };
}

/** It listens long before it is ready: it must know itself as a broker that is not fenced off. */
async function answersAt(port: number): Promise<boolean> {
  if (!(await isListening(port))) return false;
  const admin = new Admin({
    clientId: 'stack',
    bootstrapBrokers: [`127.0.0.1:${port}`],
    retries: 0,
    requestTimeout: 3_000,
  });
  try {
    const { brokers } = await admin.metadata({ topics: [] });
    return brokers.size > 0;
  } catch {
    return false;
  } finally {
    await admin.close();
  }
}
