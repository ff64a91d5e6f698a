/**
 * A PostgreSQL for tests: one private server per test file, a fresh database per test. With DATABASE_URL_TEST set (a role that
 * may create databases), every suite runs on that server as well.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import type { Db } from '../../src/ports.ts';
import { migrate } from '../../src/store/migrate.ts';
import { createSilentLog } from './silent-log.ts';

export type TestServer = {
  name: string;
  /** A new database with the schema in it, or an empty one. */
  freshDatabase(options?: { empty?: boolean }): Promise<Db>;
  /** Another connection to the database last made. */
  reconnect(): Promise<Db>;
  stop(): Promise<void>;
};

/** All servers there are to test on: the private one, and the one named in the environment. */
export const SERVER_KINDS: readonly { name: string; start(): Promise<TestServer> }[] = [
  { name: 'embedded', start: startEmbedded },
  ...(process.env.DATABASE_URL_TEST
    ? [
        {
          name: 'DATABASE_URL_TEST',
          start: () => startGiven(process.env.DATABASE_URL_TEST as string),
        },
      ]
    : []),
];

async function startEmbedded(): Promise<TestServer> {
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-db-'));
  const server = await startEmbeddedPostgres({ dataDir, log: createSilentLog() });
  return serverOf(
    'embedded',
    (database) => connectPostgres({ ...server.connection, database, log: createSilentLog() }),
    server.connection.database,
    async () => {
      await server.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  );
}

async function startGiven(url: string): Promise<TestServer> {
  const connect = (database: string): Promise<Db> => {
    const target = new URL(url);
    target.pathname = `/${database}`;
    return connectPostgres({ connectionString: target.href, log: createSilentLog() });
  };
  return serverOf('given', connect, new URL(url).pathname.slice(1) || 'postgres', async () => {});
}

async function serverOf(
  name: string,
  connect: (database: string) => Promise<Db>,
  adminDatabase: string,
  stop: () => Promise<void>,
): Promise<TestServer> {
  const admin = await connect(adminDatabase);
  const open: Db[] = [];
  const made: string[] = [];
  const log = createSilentLog();
  const create = async (template: string): Promise<string> => {
    const database = `headframe_test_${process.pid}_${made.length}`;
    made.push(database);
    await admin.query(`CREATE DATABASE ${database} TEMPLATE ${template}`);
    return database;
  };
  const template = await create('template0');
  const first = await connect(template);
  await migrate({ db: first, log }, readMigrations());
  await first.stop();
  return {
    name,
    async freshDatabase(options = {}) {
      const db = await connect(await create(options.empty ? 'template0' : template));
      open.push(db);
      return db;
    },
    async reconnect() {
      const db = await connect(made.at(-1) as string);
      open.push(db);
      return db;
    },
    async stop() {
      for (const db of open) await db.stop();
      // The private server goes with all its files.
      if (name !== 'embedded') {
        for (const database of made) await admin.query(`DROP DATABASE ${database} WITH (FORCE)`);
      }
      await admin.stop();
      await stop();
    },
  };
}
