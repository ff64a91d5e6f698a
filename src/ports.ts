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
export type BusRecord = {
  key: string;
  value: Uint8Array;
  /**
   * Publishing: the partition it must go to, for what everybody has to see; left out, the key decides. Received: the partition
   * it came from. The memory bus has no partitions and leaves it as it is.
   */
  partition?: number;
};

/** A record as a subscriber gets it. */
export type ReceivedRecord = BusRecord & {
  /** Its place in its partition; on the memory bus there is none. All records of one batch are of one partition. */
  offset?: bigint;
};

export type SubscribeOptions = {
  /**
   * For an owner that keeps its position itself, in the same transaction as its effects: the next offset it wants of a partition.
   * Asked whenever the partition is taken up; null: where the group left off, and a new group begins at the beginning.
   */
  from?: (partition: number) => Promise<bigint | null>;
};

/**
 * The message bus. `publish` resolves when the record is safe: in memory, when every subscriber's handler has resolved;
 * on Kafka, when all in-sync replicas have it. A handler that rejects is called again with the same batch (memory: the
 * publisher sees the rejection and repeats). Handlers must therefore be idempotent.
 */
export type Bus = {
  /** Records of one key, and of one call, keep their order. Rejects after a while when they are not safe: repeat. */
  publish(topic: string, records: readonly BusRecord[]): Promise<void>;
  /**
   * Batches of one partition (memory: of one topic) arrive in order, one at a time. A retained topic first delivers its last
   * record, and then everything to every subscriber, whatever its group.
   */
  subscribe(
    topic: string,
    group: string,
    handle: (records: readonly ReceivedRecord[]) => Promise<void>,
    options?: SubscribeOptions,
  ): Promise<void>;
  stop(): Promise<void>;
};

/**
 * What may be forgotten at any moment: copies of what is kept elsewhere, counts that only limit. No call rejects, and none takes
 * longer than 100 ms: what is away, slow or of a wrong kind reads as absent.
 */
export type Cache = {
  get(key: string): Promise<Uint8Array | null>;
  set(key: string, value: Uint8Array | string, ttlMs: number): Promise<void>;
  /** Adds one and returns the sum; the first one starts the time to live. Null: nobody counts now, the caller decides alone. */
  increment(key: string, ttlMs: number): Promise<number | null>;
  stop(): Promise<void>;
};

/** One point of a time series. A bigint is written as an integer, a number as a float. */
export type SeriesPoint = {
  measurement: string;
  /** Of bounded variety: each new combination costs the server memory for ever. */
  tags: Readonly<Record<string, string>>;
  fields: Readonly<Record<string, number | bigint | string | boolean>>;
  atMs: number;
};

/** Time series for charts. Never the only place of anything that is worth money. */
export type Series = {
  /** Takes points at once, into a bounded buffer; when it is full the oldest go, and are counted. */
  write(points: readonly SeriesPoint[]): void;
  /** Rows of one query in the dialect of the server; rejects when it does not answer. Left out where nothing can be asked. */
  query?(text: string): Promise<Record<string, unknown>[]>;
  /** Resolves when what was written so far is with the server, or rejects with why it is not. */
  flush(): Promise<void>;
  stop(): Promise<void>;
};
