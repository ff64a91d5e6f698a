/**
 * One table of everything that travels on the bus. The names are public: other programs read them from Kafka.
 */

export type Topic = {
  /** What the key of a record is: records of one key stay in order. */
  key: 'constant' | 'session' | 'hash';
  /** A late subscriber first gets the last record. On Kafka: a compacted topic. */
  retained: boolean;
  /** Records over this are refused by the publisher. */
  bytesMax: number;
};

const KIB = 1024;
const MIB = 1024 * KIB;
/** A block is at most 4,000,000 weight units, hence bytes; 16 MiB leaves room for any chain that raises it. */
const BLOCK_BYTES_MAX = 16 * MIB;

export const TOPICS = {
  'mining.jobs': { key: 'constant', retained: true, bytesMax: 64 * KIB },
  'mining.templates': { key: 'constant', retained: true, bytesMax: BLOCK_BYTES_MAX },
  'mining.plans': { key: 'constant', retained: true, bytesMax: MIB },
  'share.submissions': { key: 'session', retained: false, bytesMax: 64 * KIB },
  'share.valid': { key: 'session', retained: false, bytesMax: 64 * KIB },
  'share.rejected': { key: 'session', retained: false, bytesMax: 128 * KIB },
  'share.stale': { key: 'session', retained: false, bytesMax: 64 * KIB },
  'block.candidates': { key: 'hash', retained: false, bytesMax: BLOCK_BYTES_MAX },
  'block.solved': { key: 'hash', retained: false, bytesMax: BLOCK_BYTES_MAX },
  'block.outcome': { key: 'hash', retained: false, bytesMax: 64 * KIB },
} as const satisfies Record<string, Topic>;

export type TopicName = keyof typeof TOPICS;

/** The table's row for a name, or null for a topic that does not exist. */
export function topicOf(name: string): Topic | null {
  return Object.hasOwn(TOPICS, name) ? TOPICS[name as TopicName] : null;
}
