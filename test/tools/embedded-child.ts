/** Starts the private PostgreSQL in the folder given and says where it listens; waits to be killed. */
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { lockDirectory } from '../../src/adapters/db/lock.ts';
import { createSilentLog } from './silent-log.ts';

const dataDir = process.argv[2] as string;
const lock = lockDirectory(dataDir);
if (!lock.ok) {
  console.log(JSON.stringify({ held: lock.holderPid }));
  process.exit(75);
}
if (process.argv[3] === 'lock') {
  console.log(JSON.stringify({ locked: true }));
  setInterval(() => {}, 1_000);
} else {
  const server = await startEmbeddedPostgres({ dataDir, log: createSilentLog() });
  console.log(JSON.stringify(server.connection));
  process.on('SIGTERM', () => {
    void server.stop().then(() => process.exit(0));
  });
}
