/**
 * A `Db` between the product and PostgreSQL that loses things where a network would: the connection before a statement, a
 * transaction half-way, and worst of all the answer to a COMMIT that happened. What goes wrong is the caller's choice, call by call.
 */
import type { Db } from '../../src/ports.ts';

/**
 * `before`: nothing reached the server. `middle`: the statements ran, the transaction is rolled back. `after`: it is committed, and
 * whoever asked is told that the connection is gone.
 */
export type Loss = 'before' | 'middle' | 'after';

export type LossyDbOptions = {
  /** Asked once per transaction and per single statement; null lets it pass. */
  lose: (kind: 'query' | 'transaction') => Loss | null;
  /** Waits before each statement and before COMMIT, which is how an interleaving is decided. */
  gate?: (what: 'begin' | 'statement' | 'commit') => Promise<void>;
};

/** What the driver throws when the connection breaks. */
export class ConnectionLostError extends Error {
  readonly code = 'ECONNRESET';
  constructor() {
    super('Connection terminated unexpectedly');
  }
}

/** The same database with losses in front of it. `stop` stops nothing: the connection is its owner's. */
export function createLossyDb(db: Db, options: LossyDbOptions): Db {
  const gate = options.gate ?? (async () => {});
  return {
    async query<Row>(sql: string, params?: readonly unknown[]): Promise<Row[]> {
      const loss = options.lose('query');
      await gate('statement');
      if (loss === 'before' || loss === 'middle') throw new ConnectionLostError();
      const rows = await db.query<Row>(sql, params);
      if (loss === 'after') throw new ConnectionLostError();
      return rows;
    },
    async transaction(work) {
      const loss = options.lose('transaction');
      await gate('begin');
      if (loss === 'before') throw new ConnectionLostError();
      const result = await db.transaction(async (tx) => {
        const done = await work({
          async query<Row>(sql: string, params?: readonly unknown[]): Promise<Row[]> {
            await gate('statement');
            return tx.query<Row>(sql, params);
          },
        });
        if (loss === 'middle') throw new ConnectionLostError();
        await gate('commit');
        return done;
      });
      if (loss === 'after') throw new ConnectionLostError();
      return result;
    },
    async stop() {},
  };
}
