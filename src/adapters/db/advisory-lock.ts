/**
 * One holder at a time, among all processes that share a database: PostgreSQL's advisory lock of a session, on a connection of its own.
 * The holder's death frees it, because the server sees the connection end; a holder that stands still, or whose network is gone, loses
 * it when the server has heard nothing for `idleMaxMs`. The holder notices a lost connection by a small query every `heartbeatMs`.
 *
 * Between the loss and its notice two may believe they hold it: what they do must be right all the same. It is a convenience against
 * double work, never the guard of money. Needs a session: a pooler that hands connections out per transaction (PgBouncer) will not do.
 */
import pg from 'pg';
import type { Log } from '../../ports.ts';
import type { PostgresAddress } from './postgres.ts';

export type AdvisoryLock = {
  /** Resolves once the lock is no longer held, for whatever reason. Never rejects. */
  lost: Promise<void>;
  /** Gives the lock back; harmless when it is lost already. */
  release(): Promise<void>;
};

export type AdvisoryLockOptions = PostgresAddress & {
  log: Log;
  /** What is locked; any 64-bit signed integer. */
  key: bigint;
  /** Shown in pg_stat_activity. */
  name?: string;
  heartbeatMs?: number;
  /** The server ends a session that has been silent for so long. */
  idleMaxMs?: number;
  connectTimeoutMs?: number;
};

const HEARTBEAT_MS = 2_000;
const IDLE_MAX_MS = 8_000;
const CONNECT_TIMEOUT_MS = 2_000;

/**
 * Takes the lock if it is free. Null: another holds it. Rejects with the driver's error when the database cannot be reached.
 */
export async function takeAdvisoryLock(options: AdvisoryLockOptions): Promise<AdvisoryLock | null> {
  const { log, key } = options;
  const heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS;
  const address =
    'connectionString' in options
      ? { connectionString: options.connectionString }
      : {
          host: options.socketDirectory,
          port: options.port,
          user: options.user,
          database: options.database,
        };
  const client = new pg.Client({
    ...address,
    connectionTimeoutMillis: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
    // A server that no longer answers is a lost lock.
    query_timeout: heartbeatMs,
    keepAlive: true,
    application_name: options.name ?? 'headframe lock',
  });
  let markLost = (): void => {};
  const lost = new Promise<void>((resolve) => {
    markLost = resolve;
  });
  let isOver = false;
  let timer: NodeJS.Timeout | null = null;

  function end(reason: string | null): void {
    if (isOver) return;
    isOver = true;
    if (timer !== null) clearTimeout(timer);
    if (reason !== null) log.warn('The lock in the database was lost.', { reason });
    markLost();
  }
  client.on('error', (error) => end(error.message));
  client.on('end', () => end('the connection ended'));

  function beatLater(): void {
    timer = setTimeout(() => {
      client.query('SELECT 1').then(
        () => {
          if (!isOver) beatLater();
        },
        (error: Error) => {
          end(error.message);
          void closeHard(client);
        },
      );
    }, heartbeatMs);
    timer.unref();
  }

  try {
    await client.connect();
    await client.query(`SET idle_session_timeout = ${options.idleMaxMs ?? IDLE_MAX_MS}`);
    const answer = await client.query<{ taken: boolean }>(
      'SELECT pg_try_advisory_lock($1::bigint) AS taken',
      [key],
    );
    if (answer.rows[0]?.taken !== true) {
      isOver = true;
      await closeHard(client);
      return null;
    }
  } catch (error) {
    isOver = true;
    await closeHard(client);
    throw error;
  }
  if (!isOver) beatLater();
  return {
    lost,
    async release() {
      end(null);
      // The end of the session is the end of the lock.
      await closeHard(client);
    },
  };
}

/** Ends the session; a server that does not answer is not waited for longer than a second. */
async function closeHard(client: pg.Client): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, 1_000);
    timer.unref();
  });
  await Promise.race([client.end().catch(() => {}), patience]);
  clearTimeout(timer);
}
