/** The private PostgreSQL, with the schema and nothing in it, for one benchmark. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import type { Db, Log } from '../../src/ports.ts';
import { migrate } from '../../src/store/migrate.ts';
import { removeData } from './program.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };

/** Runs `measure` on a database of its own, which is gone afterwards. */
export async function withDatabase<T>(name: string, measure: (db: Db) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), `headframe-${name}-`));
  const server = await startEmbeddedPostgres({ dataDir: directory, log: quiet });
  try {
    const db = await connectPostgres({ ...server.connection, log: quiet });
    try {
      await migrate({ db, log: quiet }, readMigrations());
      return await measure(db);
    } finally {
      await db.stop();
    }
  } finally {
    await server.stop();
    removeData(directory);
  }
}
