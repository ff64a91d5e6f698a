/**
 * A real Kafka for tests, started by the same code as the developer's stack: one per test file, fresh. With KAFKA_BROKERS_TEST set, that
 * one is used instead, and what would stop it is left out.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Admin } from '@platformatic/kafka';
import { findKafka, startKafka } from '../../scripts/stack/kafka.ts';
import { isAlive } from '../../scripts/stack/server.ts';

export type TestBroker = {
  brokers: string[];
  /** Stops it for a while and lets it go on, with all its connections. Null for a broker that is not ours. */
  control: null | {
    pause(): void;
    resume(): void;
    kill(): Promise<void>;
    restart(): Promise<void>;
    /** After a test that failed half-way: it runs, whatever was done to it. */
    mend(): Promise<void>;
  };
  stop(): Promise<void>;
};

/** Why there is no Kafka to test on, or null. Fetches the jars when they are not there yet. */
export function kafkaMissing(): string | null {
  if (process.env.KAFKA_BROKERS_TEST !== undefined) return null;
  try {
    findKafka();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

export async function startTestBroker(
  settings: Readonly<Record<string, string>> = {},
): Promise<TestBroker> {
  const given = process.env.KAFKA_BROKERS_TEST;
  if (given !== undefined)
    return { brokers: given.split(','), control: null, stop: async () => {} };
  const directory = mkdtempSync(join(tmpdir(), 'headframe-kafka-'));
  const server = await startKafka({
    directory,
    settings: {
      // Tests do not wait for members that died longer than they have to.
      'group.min.session.timeout.ms': '1000',
      'log.flush.interval.messages': '9223372036854775807',
      ...settings,
    },
  });
  let watch = watchOver(server.pid(), directory);
  async function kill(): Promise<void> {
    watch();
    await server.kill('SIGKILL');
  }
  async function restart(): Promise<void> {
    await server.restart();
    watch = watchOver(server.pid(), directory);
  }
  return {
    brokers: [server.brokers],
    control: {
      pause: () => void process.kill(server.pid(), 'SIGSTOP'),
      resume: () => void process.kill(server.pid(), 'SIGCONT'),
      kill,
      restart,
      async mend() {
        if (!isAlive(server.pid())) await restart();
        process.kill(server.pid(), 'SIGCONT');
      },
    },
    async stop() {
      watch();
      await server.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A test that is killed takes its broker with it. Returns what ends the watch. */
export function watchOver(pid: number, directory: string): () => void {
  const script =
    'while kill -0 "$1" 2>/dev/null; do sleep 1; done; kill -9 "$2" 2>/dev/null; rm -rf "$3"';
  const child = spawn('sh', ['-c', script, 'sh', String(process.pid), String(pid), directory], {
    stdio: 'ignore',
    detached: true,
  });
  child.unref();
  return () => void child.kill('SIGKILL');
}

/** Work with the broker's own administration, as its operator would. */
export async function withAdmin<T>(
  brokers: readonly string[],
  work: (admin: Admin) => Promise<T>,
): Promise<T> {
  const admin = new Admin({ clientId: 'test-operator', bootstrapBrokers: [...brokers] });
  try {
    return await work(admin);
  } finally {
    await admin.close();
  }
}
