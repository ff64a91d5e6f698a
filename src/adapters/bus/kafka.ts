/**
 * The bus of many processes: Kafka behind the `Bus` port. `publish` resolves when all in-sync replicas have the records; handlers are
 * called until they resolve, and only then is their offset committed.
 *
 * A broker that is away is tried for ever, with pauses that grow; nothing here ends a process. Topics are created or checked first,
 * and what they must be stands in `kafka-topics.ts`.
 */
import { Admin, type Connection, Consumer, Producer } from '@platformatic/kafka';
import { topicOf } from '../../messages/topics.ts';
import type { Bus, Log } from '../../ports.ts';
import { createKafkaHealth, isRefusal } from './kafka-health.ts';
import { type KafkaReader, type ReaderStatus, startKafkaReader } from './kafka-reader.ts';
import { connectionOptions, isNamed, type KafkaSecurity } from './kafka-security.ts';
import { createKafkaSender, type KafkaSender } from './kafka-sender.ts';
import { ensureTopics, UnusableKafkaError } from './kafka-topics.ts';

export type KafkaBus = Bus & {
  /** Resolves when the topics are as they must be; rejects with `UnusableKafkaError` for what the operator must mend. */
  ready: Promise<void>;
  status(): KafkaStatus;
};

export type KafkaStatus = {
  /** Everything that talks with a broker was answered the last time. */
  connected: boolean;
  topicsReady: boolean;
  /** Calls to a broker that failed. */
  errors: number;
  lastError: string | null;
  waitingBytes: number;
  subscriptions: ReaderStatus[];
};

export type KafkaBusOptions = {
  log: Log;
  /** `host:port`, one or more. */
  brokers: readonly string[];
  /** Absent: in the open, as nobody. */
  security?: KafkaSecurity;
  /** Groups of ours on the broker are called `<groupPrefix>.<group>.<topic>`. */
  groupPrefix: string;
  /** How the broker's own log calls us. */
  clientId: string;
  /**
   * Of this process, the same after every start and nobody else's: who comes back under it within the session has his partitions at once.
   * Absent: each start is somebody new, and the group waits for the session of the one before to end.
   */
  member?: string;
  /** A publish that is not safe by then rejects. */
  publishTimeoutMs?: number;
  /** Of one topic. */
  waitingBytesMax?: number;
  batchRecordsMax?: number;
  batchBytesMax?: number;
  /** Partitions of one subscription that are handled side by side. */
  handlersMax?: number;
  /** A member that is silent for so long loses its partitions; the broker allows 6 s to 30 min unless told otherwise. */
  sessionMs?: number;
  heartbeatMs?: number;
  /** `subscribe` waits so long for its place before it resolves and goes on by itself. */
  subscribeWaitMs?: number;
  /** Of everything: handlers, commits, leaving groups, and what is still to be published. */
  stopTimeoutMs?: number;
};

const MIB = 1024 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 3_000;
const METADATA_MAX_AGE_MS = 30_000;
/** With the same sequence numbers, hence without duplicates: for about two and a half seconds. */
const RETRIES = 6;
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 1_000;
/** What was published last has at least this long to get out at the end. */
const SEND_OUT_MS = 500;
const PAUSE_MIN_MS = 200;
const PAUSE_MAX_MS = 2_000;
/** Kafka allows 249 letters, digits, dots, dashes and underscores. */
const MEMBER_CHARS_MAX = 200;
/** Whoever comes with a wrong password too often may be locked out. */
const REFUSED_PAUSE_MAX_MS = 5_000;

/** A bus over these brokers. Opens no connection before it returns, and none of its calls needs a broker to be there. */
export function createKafkaBus(options: KafkaBusOptions): KafkaBus {
  const { log, groupPrefix, brokers, security } = options;
  const publishTimeoutMs = options.publishTimeoutMs ?? 10_000;
  const sessionMs = options.sessionMs ?? 10_000;
  const stopTimeoutMs = options.stopTimeoutMs ?? 5_000;
  const subscribeWaitMs = options.subscribeWaitMs ?? 3_000;
  /** A group that changes waits this long for its members; a member that drains must be back before. */
  const rebalanceMs = sessionMs + 5_000;
  const joinMs = rebalanceMs + REQUEST_TIMEOUT_MS;
  const member = options.member?.replace(/[^A-Za-z0-9._-]/g, '.').slice(-MEMBER_CHARS_MAX);
  const client = {
    clientId: options.clientId,
    bootstrapBrokers: [...brokers],
    ...(security === undefined ? {} : connectionOptions(security, brokers, log)),
    connectTimeout: CONNECT_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    metadataMaxAge: METADATA_MAX_AGE_MS,
    // What fails is tried again by us, who know whether it still matters.
    retries: 0,
  };
  const health = createKafkaHealth(log);
  const senders = new Map<string, KafkaSender>();
  const readers = new Map<string, KafkaReader>();
  let topicsReady = false;
  let checking: Promise<void> | null = null;
  let isStopping = false;
  let isStopped = false;
  let wake: () => void = () => {};

  /**
   * A broker that refuses a certificate says so when the connection stands already; and one that refuses a password may cut it off when
   * the client does not listen any more.
   */
  function listened<Client extends Admin | Consumer | Producer>(made: Client): Client {
    const hear = (error: Error): void => health.overhear(error);
    const listen = ({ connection }: { connection?: Connection }): void => {
      connection?.off('error', hear);
      connection?.on('error', hear);
    };
    made.on('client:broker:sasl:handshake', listen);
    made.on('client:broker:connect', listen);
    return made;
  }

  /** Until the broker has answered; again when something failed, for a broker may come back without topics. */
  function checkTopics(): Promise<void> {
    checking ??= checkUntilAnswered().finally(() => {
      checking = null;
    });
    return checking;
  }

  async function checkUntilAnswered(): Promise<void> {
    for (let pauseMs = PAUSE_MIN_MS; !isStopping; ) {
      const admin = listened(new Admin(client));
      let pauseMaxMs = PAUSE_MAX_MS;
      try {
        if (client.tlsServerName) await checkNames(admin);
        await ensureTopics({ admin, log });
        topicsReady = true;
        health.fine('topics');
        return;
      } catch (error) {
        topicsReady = false;
        health.failed('topics', error);
        if (error instanceof UnusableKafkaError) throw error;
        if (isRefusal(error)) pauseMaxMs = REFUSED_PAUSE_MAX_MS;
      } finally {
        admin.close().catch(() => {});
      }
      if (isStopping) break;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, pauseMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      pauseMs = Math.min(pauseMs * 2, pauseMaxMs);
    }
    throw new Error('the bus is stopped');
  }

  /** Over TLS the client tells every broker its name, and can not where that is a number. */
  async function checkNames(admin: Admin): Promise<void> {
    const found = await admin.metadata({ topics: [] });
    const numbered = Array.from(found.brokers.values(), ({ host, port }) => `${host}:${port}`);
    const first = numbered.find((one) => !isNamed(one));
    if (first === undefined) return;
    throw new UnusableKafkaError(
      `the broker calls itself ${first}, and KAFKA_BROKERS gives names: over TLS both must be names, or both addresses`,
    );
  }

  const ready = checkTopics();
  ready.catch(() => {});

  function onTrouble(): void {
    if (topicsReady && !isStopping) checkTopics().catch(() => {});
  }

  function openProducer(): Producer {
    const producer = listened(
      new Producer({
        ...client,
        idempotent: true,
        retries: RETRIES,
        retryDelay: (_client, _operation, attempt) =>
          Math.min(RETRY_MIN_MS * 2 ** Math.min(attempt, 10), RETRY_MAX_MS),
        timeout: publishTimeoutMs,
        // Less than the time of a publish: a broker that hangs is left, and asked again over a new connection.
        requestTimeout: Math.ceil(publishTimeoutMs / 2),
      }),
    );
    (producer as NodeJS.EventEmitter).on('error', () => {});
    return producer;
  }

  function openFetcher(): Consumer {
    return listened(new Consumer({ ...client, groupId: groupPrefix, autocommit: false }));
  }

  function openMember(groupId: string, beforeJoin: () => Promise<void>): Consumer {
    return listened(
      new Consumer({
        ...client,
        groupId,
        ...(member === undefined ? {} : { groupInstanceId: member }),
        autocommit: false,
        sessionTimeout: sessionMs,
        rebalanceTimeout: rebalanceMs,
        heartbeatInterval: options.heartbeatMs ?? 1_000,
        // A join is answered when all members have joined.
        requestTimeout: joinMs,
        protocols: [{ name: 'roundrobin', version: 1 }],
        // The one place where the client waits ahead of a join.
        protocolsMetadata: async () => {
          await beforeJoin();
          return Buffer.alloc(0);
        },
      }),
    );
  }

  return {
    ready,

    async publish(topic, records) {
      if (isStopped) throw new Error('the bus is stopped');
      const row = topicOf(topic);
      if (row === null) throw new RangeError(`unknown topic "${topic}"`);
      let sender = senders.get(topic);
      if (sender === undefined) {
        sender = createKafkaSender(
          { ready, openProducer, health, onTrouble },
          {
            name: topic,
            topic: row,
            timeoutMs: publishTimeoutMs,
            waitingBytesMax: options.waitingBytesMax ?? 64 * MIB,
          },
        );
        senders.set(topic, sender);
      }
      await sender.publish(records);
    },

    async subscribe(topic, group, handle, { from } = {}) {
      if (isStopping) throw new Error('the bus is stopped');
      const row = topicOf(topic);
      if (row === null) throw new RangeError(`unknown topic "${topic}"`);
      const name = `${groupPrefix}.${group}.${topic}`;
      if (readers.has(name)) throw new Error(`group "${group}" already reads "${topic}"`);
      const reader = startKafkaReader(
        {
          log,
          health,
          ready,
          openFetcher,
          openMember: (beforeJoin) => openMember(name, beforeJoin),
          onTrouble,
        },
        {
          topic,
          group: row.retained ? null : name,
          ...(from === undefined ? {} : { from }),
          gatherBytes: row.gatherBytes,
          batchRecordsMax: options.batchRecordsMax ?? 1_000,
          batchBytesMax: options.batchBytesMax ?? 4 * MIB,
          handlersMax: options.handlersMax ?? 4,
          drainMs: sessionMs / 2,
          groupPatienceMs: 2 * joinMs,
        },
        handle,
      );
      readers.set(name, reader);
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        reader.placed,
        new Promise((resolve) => {
          timer = setTimeout(resolve, subscribeWaitMs);
        }),
      ]);
      clearTimeout(timer);
    },

    status() {
      const subscriptions = [...readers.values()].map((reader) => reader.status());
      return {
        connected: topicsReady && health.isConnected(),
        topicsReady,
        errors: health.errors(),
        lastError: health.lastError(),
        waitingBytes: [...senders.values()].reduce((sum, one) => sum + one.waitingBytes(), 0),
        subscriptions,
      };
    },

    async stop() {
      if (isStopping) return;
      isStopping = true;
      wake();
      const endMs = performance.now() + stopTimeoutMs;
      // Handlers publish what they make of records: readers first.
      await Promise.all([...readers.values()].map((reader) => reader.stop(stopTimeoutMs)));
      isStopped = true;
      const leftMs = Math.max(SEND_OUT_MS, endMs - performance.now());
      await Promise.all([...senders.values()].map((sender) => sender.stop(leftMs)));
    },
  };
}
