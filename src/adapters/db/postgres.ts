/**
 * The `Db` port on PostgreSQL, the operator's or our own, by the `pg` driver.
 *
 * int8 and integral numeric columns come back as bigint, bytea as Uint8Array, timestamps as Date. Waiting for a connection, running
 * a statement and idling inside a transaction are all bounded. Deadlocks and serialisation failures are repeated here; every other
 * error is the caller's.
 */
import pg from 'pg';
import type { Db, Log } from '../../ports.ts';

export type PostgresOptions = {
  log: Log;
  connectionsMax?: number;
  /** Longest wait for a free connection. */
  connectTimeoutMs?: number;
  statementTimeoutMs?: number;
  /** How long to wait for a database that is not there yet; 0 tries once. */
  firstConnectTimeoutMs?: number;
  /** Shown in pg_stat_activity. */
  name?: string;
} & PostgresAddress;

/** A URL, or a server's socket on this machine. */
export type PostgresAddress =
  | { connectionString: string }
  | { socketDirectory: string; port: number; user: string; database: string };

const CONNECTIONS_MAX = 6;
const CONNECT_TIMEOUT_MS = 2_000;
const STATEMENT_TIMEOUT_MS = 30_000;
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000;
const RETRIES_MAX = 5;
/** serialization_failure, deadlock_detected: PostgreSQL rolled back, the same work may succeed. */
const RETRY_CODES: ReadonlySet<string> = new Set(['40001', '40P01']);

/** Opens the pool and proves that the database answers. Rejects with the driver's error when it does not. */
export async function connectPostgres(options: PostgresOptions): Promise<Db> {
  const { log } = options;
  const address =
    'connectionString' in options
      ? { connectionString: options.connectionString }
      : {
          host: options.socketDirectory,
          port: options.port,
          user: options.user,
          database: options.database,
        };
  const statementTimeoutMs = options.statementTimeoutMs ?? STATEMENT_TIMEOUT_MS;
  const pool = new pg.Pool({
    ...address,
    max: options.connectionsMax ?? CONNECTIONS_MAX,
    connectionTimeoutMillis: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: 60_000,
    statement_timeout: statementTimeoutMs,
    // The server's clock ends the statement first; this one is for a server that no longer answers.
    query_timeout: statementTimeoutMs + 5_000,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
    keepAlive: true,
    application_name: options.name ?? 'headframe',
    types: { getTypeParser },
  });
  pool.on('error', (error) => {
    log.warn('A database connection was lost.', { error: error.message });
  });

  const db: Db = {
    async query<Row>(sql: string, params: readonly unknown[] = []): Promise<Row[]> {
      return rowsOf<Row>(await pool.query(sql, params as unknown[]));
    },

    async transaction(work) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await runTransaction(pool, work);
        } catch (error) {
          if (attempt > RETRIES_MAX || !RETRY_CODES.has(errorCode(error))) throw error;
          log.debug('A transaction is repeated.', { code: errorCode(error), attempt });
          await delay(Math.random() * 10 * 2 ** attempt);
        }
      }
    },

    async stop() {
      await pool.end();
    },
  };

  const deadline = Date.now() + (options.firstConnectTimeoutMs ?? 0);
  for (;;) {
    try {
      await db.query('SELECT 1');
      return db;
    } catch (error) {
      if (Date.now() >= deadline) {
        await pool.end();
        throw error;
      }
      await delay(200);
    }
  }
}

async function runTransaction<T>(
  pool: pg.Pool,
  work: (tx: Pick<Db, 'query'>) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  // A connection that dies between two statements says so here; the next statement rejects.
  const onError = (error: Error): void => {
    broken = error;
  };
  client.on('error', onError);
  try {
    await client.query('BEGIN');
    const result = await work({
      async query<Row>(sql: string, params: readonly unknown[] = []): Promise<Row[]> {
        return rowsOf<Row>(await client.query(sql, params as unknown[]));
      },
    });
    await client.query('COMMIT');
    return result;
  } catch (error) {
    try {
      await client.query('ROLLBACK');
    } catch (cause) {
      broken = cause instanceof Error ? cause : new Error(String(cause));
    }
    throw error;
  } finally {
    client.off('error', onError);
    client.release(broken);
  }
}

/** Several statements in one text give several results; the rows are those of the last. */
function rowsOf<Row>(result: pg.QueryResult | pg.QueryResult[]): Row[] {
  const last = Array.isArray(result) ? result.at(-1) : result;
  return (last?.rows ?? []) as Row[];
}

const INT8 = 20;
const NUMERIC = 1700;

type Parse = (text: string) => unknown;

function getTypeParser(oid: number, format?: 'text' | 'binary'): Parse {
  if (format !== 'binary') {
    if (oid === INT8) return BigInt;
    if (oid === NUMERIC) return parseNumeric;
  }
  return pg.types.getTypeParser(oid, format as 'text') as Parse;
}

/** Our own columns are integral. An average or a division in a query is not, and stays the text it came as. */
function parseNumeric(text: string): bigint | string {
  return /^-?\d+$/.test(text) ? BigInt(text) : text;
}

function errorCode(error: unknown): string {
  if (error !== null && typeof error === 'object' && 'code' in error) return String(error.code);
  return '';
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
