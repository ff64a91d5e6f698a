/**
 * The whole wall on one page: what services ask of the world outside the process, and the tools every service is handed.
 * Types only. A port has one implementation per way of having the thing (see `adapters/`), and a contract test that runs
 * on all of them.
 */

/** Wall-clock milliseconds since 1970. Handed in, so that the simulation can own time. */
export type Clock = { nowMs(): number };

/** One event with fields. Message first, in the plain words an operator understands. */
export type Log = {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  /** A logger whose every line carries these fields. */
  child(fields: Record<string, unknown>): Log;
};

/**
 * Named steps at which a test can kill, throw or delay (`docs/operating.md`, section "faults"). In production it is a
 * function that does nothing.
 */
export type Fault = (point: string) => void;

/** One SQL door. `$1` parameters; bigint columns come back as bigint, bytea as Uint8Array. */
export type Db = {
  /** Runs one statement and returns its rows. */
  query<Row = Record<string, unknown>>(sql: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Runs `work` inside BEGIN and COMMIT; any throw rolls back. Never call a node or a wallet inside. */
  transaction<T>(work: (tx: Pick<Db, 'query'>) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
};

/** A record on the bus: an encoded Protobuf message and the key that keeps related records in order. */
export type BusRecord = { key: string; value: Uint8Array };

/**
 * The message bus. `publish` resolves when the record is safe: in memory, when every subscriber's handler has resolved;
 * on Kafka, when all in-sync replicas have it. A handler that rejects is called again with the same batch (memory: the
 * publisher sees the rejection and repeats). Handlers must therefore be idempotent.
 */
export type Bus = {
  publish(topic: string, records: readonly BusRecord[]): Promise<void>;
  /** Batches of one topic arrive in order, one at a time. A retained topic first delivers its last record. */
  subscribe(
    topic: string,
    group: string,
    handle: (records: readonly BusRecord[]) => Promise<void>,
  ): Promise<void>;
  stop(): Promise<void>;
};
