/**
 * One table of everything that travels on the bus. The names are public: other programs read them from Kafka.
 */

export type Topic = {
  /** What the key of a record is: records of one key stay in order. */
  key: 'constant' | 'session' | 'hash' | 'place' | 'instance';
  /** A late subscriber first gets the last record. On Kafka: a compacted topic. */
  retained: boolean;
  /** Records over this are refused by the publisher. */
  bytesMax: number;
  /** On Kafka. Topics of equal count put equal keys into the same partition. */
  partitions: number;
  /**
   * On Kafka: under load a reader lets so many bytes gather before it is answered, within `GATHER_MS`. Thousands of small records a second
   * cost broker and services several times less so. 1: each record goes at once.
   */
  gatherBytes: number;
  /** On Kafka, how long a record is kept at least; null: the last one of a key for ever. */
  retentionMs: number | null;
};

const KIB = 1024;
const MIB = 1024 * KIB;
const DAY_MS = 24 * 3_600_000;
/** A block is at most 4,000,000 weight units, hence bytes; 16 MiB leaves room for any chain that raises it. */
const BLOCK_BYTES_MAX = 16 * MIB;
/** Of each topic of shares, so that what shareproc makes of a submission stays in the partition it came from. */
export const PARTITIONS = 12;

/** What a share waits for others at most, on each of its ways through Kafka. */
export const GATHER_MS = 25;

const latest = {
  key: 'constant',
  retained: true,
  partitions: 1,
  gatherBytes: 1,
  retentionMs: null,
} as const;
const shares = {
  key: 'session',
  retained: false,
  partitions: PARTITIONS,
  gatherBytes: 64 * KIB,
  retentionMs: 7 * DAY_MS,
} as const;
/** Blocks are rare, and whoever was away must find them: one partition, a month. */
const blocks = {
  key: 'hash',
  retained: false,
  partitions: 1,
  gatherBytes: 1,
  retentionMs: 30 * DAY_MS,
} as const;

export const TOPICS = {
  'mining.jobs': { ...latest, bytesMax: 64 * KIB },
  'mining.templates': { ...latest, bytesMax: BLOCK_BYTES_MAX },
  'mining.plans': { ...latest, bytesMax: MIB },
  'share.submissions': { ...shares, bytesMax: 64 * KIB },
  'share.valid': { ...shares, bytesMax: 64 * KIB },
  'share.rejected': { ...shares, bytesMax: 128 * KIB },
  'share.stale': { ...shares, bytesMax: 64 * KIB },
  'block.candidates': { ...blocks, bytesMax: BLOCK_BYTES_MAX },
  'block.solved': { ...blocks, bytesMax: BLOCK_BYTES_MAX },
  'block.outcome': { ...blocks, bytesMax: 64 * KIB },
  /** How each process of the stack is, said every two seconds. */
  'service.status': { ...latest, key: 'instance', bytesMax: 2 * MIB },
  /** What nobody could read, byte for byte; the key says `topic/partition/offset`. */
  'dead.letters': { ...blocks, key: 'place', bytesMax: BLOCK_BYTES_MAX },
} as const satisfies Record<string, Topic>;

export type TopicName = keyof typeof TOPICS;

/** The table's row for a name, or null for a topic that does not exist. */
export function topicOf(name: string): Topic | null {
  return Object.hasOwn(TOPICS, name) ? TOPICS[name as TopicName] : null;
}
