/** Redis by the binary of the machine, on the loopback, with nothing kept on disk: nothing in it may be missed. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  findFreePort,
  findProgram,
  isListening,
  NotFoundError,
  type Started,
  startServer,
  waitFor,
} from './server.ts';

export async function startRedis(directory: string, port?: number): Promise<Started> {
  const file = findProgram('redis-server', ['/usr/bin']);
  if (file === null) throw new NotFoundError('Redis was not found: there is no redis-server');
  mkdirSync(directory, { recursive: true });
  const logFile = join(directory, 'redis.log');
  const chosen = port ?? (await findFreePort());
  const args = Object.entries({
    port: chosen,
    bind: '127.0.0.1',
    dir: directory,
    save: '',
    appendonly: 'no',
    daemonize: 'no',
  }).flatMap(([key, value]) => [`--${key}`, String(value)]);
  const child = startServer({ file, args, logFile });
  await waitFor('Redis', child, logFile, () => isListening(chosen));
  return {
    name: 'redis',
    pid: child.pid as number,
    signal: 'SIGTERM',
    logFile,
    folders: [directory],
    environment: { REDIS_URL: `redis://127.0.0.1:${chosen}` },
  };
}
