/**
 * The PostgreSQL of the simulation: private and real, with commits that do not wait for the disk. That is no part of what is simulated:
 * the server never dies here. What a power loss does to a database is for the tests of the database. With DATABASE_URL_TEST set (a role
 * that may create databases) it is that server.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../../src/adapters/db/embedded.ts';
import { readMigrations } from '../../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../../src/adapters/db/postgres.ts';
import type { Db } from '../../../src/ports.ts';
import { migrate } from '../../../src/store/migrate.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

export type MoneyServer = {
  /** Opens connections to a fresh database with the schema in it. The database goes with its `drop`. */
  fresh(): Promise<{ open(): Promise<Db>; drop(): Promise<void> }>;
  stop(): Promise<void>;
};

export async function openMoneyServer(): Promise<MoneyServer> {
  const log = createSilentLog();
  const given = process.env.DATABASE_URL_TEST;
  const folder = mkdtempSync(join(tmpdir(), 'headframe-money-'));
  const embedded =
    given === undefined ? await startEmbeddedPostgres({ dataDir: folder, log }) : null;
  const connect = (database: string | null): Promise<Db> => {
    if (embedded !== null) {
      const address = embedded.connection;
      return connectPostgres({ ...address, database: database ?? address.database, log });
    }
    const url = new URL(given!);
    if (database !== null) url.pathname = `/${database}`;
    return connectPostgres({ connectionString: url.href, log });
  };
  const admin = await connect(null);
  let made = 0;
  return {
    async fresh() {
      const database = `headframe_money_${process.pid}_${++made}`;
      await admin.query(`CREATE DATABASE ${database} TEMPLATE template0`);
      await admin.query(`ALTER DATABASE ${database} SET synchronous_commit = off`);
      const opened = [await connect(database)];
      await migrate({ db: opened[0]!, log }, readMigrations());
      return {
        async open() {
          const db = await connect(database);
          opened.push(db);
          return db;
        },
        async drop() {
          for (const db of opened) await db.stop();
          await admin.query(`DROP DATABASE ${database} WITH (FORCE)`);
        },
      };
    },
    async stop() {
      await admin.stop();
      await embedded?.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
