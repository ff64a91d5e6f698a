/** A real InfluxDB 1.x for tests: `influxd` of the machine on loopback, with a directory of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './pool-process.ts';
import { endChild, findProgram } from './regtest-node.ts';

export type InfluxServer = {
  url: string;
  /** One statement of InfluxQL past the adapter under test; the answer as the server gives it. */
  ask(text: string, database?: string): Promise<Record<string, unknown>[]>;
  /** SIGSTOP and SIGCONT. */
  freeze(): void;
  thaw(): void;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** On the same port, with the same data. */
  restart(): Promise<void>;
  stop(): Promise<void>;
};

/** The program, or null: a suite that needs it says NOT FOUND in its name. `INFLUXD` names another one. */
export const INFLUXD = findProgram('INFLUXD', 'influxd');

/** Starts it, and resolves when it answers. */
export async function startInflux(program: string): Promise<InfluxServer> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-influx-'));
  const [port, backupPort] = [await freePort(), await freePort()];
  const url = `http://127.0.0.1:${port}`;
  const file = join(directory, 'influxdb.conf');
  writeFileSync(
    file,
    [
      'reporting-disabled = true',
      `bind-address = "127.0.0.1:${backupPort}"`,
      `[meta]\n  dir = "${directory}/meta"\n  logging-enabled = false`,
      `[data]\n  dir = "${directory}/data"\n  wal-dir = "${directory}/wal"\n  query-log-enabled = false`,
      '[monitor]\n  store-enabled = false',
      `[http]\n  bind-address = "127.0.0.1:${port}"\n  log-enabled = false`,
      '[logging]\n  level = "error"',
      '[continuous_queries]\n  enabled = false',
    ].join('\n'),
  );
  let child: ChildProcess;

  async function start(): Promise<void> {
    child = spawn(program, ['-config', file], { stdio: 'ignore' });
    for (let i = 0; ; i++) {
      const up = await fetch(`${url}/ping`).then(
        (response) => response.ok,
        () => false,
      );
      if (up) return;
      if (i === 300 || child.exitCode !== null) throw new Error('influxd did not start');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  await start();
  return {
    url,
    async ask(text, database = '') {
      const response = await fetch(`${url}/query`, {
        method: 'POST',
        body: new URLSearchParams({ q: text, db: database, epoch: 'u' }),
      });
      const { results } = (await response.json()) as {
        results: {
          error?: string;
          series?: { tags?: Record<string, string>; columns: string[]; values: unknown[][] }[];
        }[];
      };
      const rows: Record<string, unknown>[] = [];
      for (const { error, series = [] } of results) {
        if (error !== undefined) throw new Error(error);
        for (const { tags, columns, values } of series) {
          for (const value of values) {
            rows.push({
              ...tags,
              ...Object.fromEntries(columns.map((name, i) => [name, value[i]])),
            });
          }
        }
      }
      return rows;
    },
    freeze: () => void child.kill('SIGSTOP'),
    thaw: () => void child.kill('SIGCONT'),
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.kill('SIGKILL');
      await gone;
    },
    restart: start,
    async stop() {
      child.kill('SIGCONT');
      await endChild(child, 5_000);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
