/**
 * The PostgreSQL of the simulation: private and real, with commits that do not wait for the disk. That is no part of what is simulated:
 * the server never dies here. What a power loss does to a database is for the tests of the database.
 */
import type { Db } from '../../../src/ports.ts';
import { SERVER_KINDS } from '../../tools/database.ts';

export type MoneyServer = {
  /** Opens connections to a fresh database with the schema in it, one after the other. */
  fresh(): Promise<() => Promise<Db>>;
  stop(): Promise<void>;
};

/** `kind`: index in `SERVER_KINDS`. */
export async function openMoneyServer(kind = 0): Promise<MoneyServer> {
  const server = await SERVER_KINDS[kind]!.start();
  return {
    async fresh() {
      const db = await server.freshDatabase();
      await db.query(
        `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`,
      );
      return () => server.reconnect();
    },
    stop: () => server.stop(),
  };
}
