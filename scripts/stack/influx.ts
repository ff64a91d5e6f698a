/** InfluxDB 1.x by the binary of the machine (Debian: package `influxdb`), on the loopback, with one database. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  findFreePort,
  findProgram,
  NotFoundError,
  type Started,
  startServer,
  waitFor,
} from './server.ts';

const DATABASE = 'headframe';

export async function startInflux(directory: string, port?: number): Promise<Started> {
  const file = findProgram('influxd', ['/usr/bin']);
  if (file === null) throw new NotFoundError('InfluxDB was not found: there is no influxd');
  const { stdout } = spawnSync(file, ['version'], { encoding: 'utf8' });
  if (!/\bv?1\.\d/.test(stdout)) {
    throw new NotFoundError(`InfluxDB 1.x was not found: influxd says ${stdout.trim()}`);
  }
  mkdirSync(directory, { recursive: true });
  const logFile = join(directory, 'influx.log');
  const settings = join(directory, 'influxdb.conf');
  const chosen = port ?? (await findFreePort());
  const url = `http://127.0.0.1:${chosen}`;
  writeFileSync(
    settings,
    `reporting-disabled = true
bind-address = "127.0.0.1:${await findFreePort()}"
[meta]
  dir = "${directory}/meta"
[data]
  dir = "${directory}/data"
  wal-dir = "${directory}/wal"
[http]
  bind-address = "127.0.0.1:${chosen}"
  log-enabled = false
[monitor]
  store-enabled = false
`,
  );
  const child = startServer({ file, args: ['-config', settings], logFile });
  const isReady = async (): Promise<boolean> => {
    try {
      const made = await fetch(
        `${url}/query?q=${encodeURIComponent(`CREATE DATABASE ${DATABASE}`)}`,
        {
          method: 'POST',
          signal: AbortSignal.timeout(2_000),
        },
      );
      return made.ok;
    } catch {
      return false;
    }
  };
  await waitFor('InfluxDB', child, logFile, isReady);
  return {
    name: 'influx',
    pid: child.pid as number,
    signal: 'SIGTERM',
    logFile,
    folders: [directory],
    environment: { INFLUX_URL: url, INFLUX_BUCKET: DATABASE },
  };
}
