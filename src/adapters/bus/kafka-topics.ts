/**
 * The topics on the broker: what is missing is created as `messages/topics.ts` says, what is there is looked at. A topic that would
 * break a promise is refused, with the words an operator needs: too small for a block, another count of partitions (equal keys would
 * part ways), or a clean-up that loses records.
 */
import { type Admin, ConfigResourceTypes, findErrorBy } from '@platformatic/kafka';
import { TOPICS, type Topic, type TopicName } from '../../messages/topics.ts';
import type { Log } from '../../ports.ts';

/** Something over there stands in the way that only its owner can mend; waiting does not help. */
export class UnusableKafkaError extends Error {}

const MIB = 1024 * 1024;
const MINUTE_MS = 60_000;
/** Key, headers and the frame of a batch around a record of full size. */
const FRAME_BYTES = 64 * 1024;

/** The largest batch that a topic must take, in bytes: `max.message.bytes`. */
export function batchBytesMax(topic: Topic): number {
  return Math.max(MIB, topic.bytesMax) + FRAME_BYTES;
}

/**
 * Creates the topics that are missing and checks the others. Resolves when all are as they must be; rejects with
 * `UnusableKafkaError` for what the operator must mend, and with the client's own error while the broker cannot be asked.
 */
export async function ensureTopics(tools: { admin: Admin; log: Log }): Promise<void> {
  const { admin, log } = tools;
  const names = Object.keys(TOPICS) as TopicName[];
  const there = new Set(await admin.listTopics({}));
  const missing = names.filter((name) => !there.has(name));
  for (const name of missing) await createTopic(admin, name);
  if (missing.length > 0) log.info('topics were created', { topics: missing });

  const metadata = await admin.metadata({ topics: [...names], forceUpdate: true });
  const faults: string[] = [];
  for (const name of names) {
    const count = metadata.topics.get(name)?.partitionsCount;
    if (count === undefined) throw new Error(`nothing is known of topic "${name}" yet`);
    const wanted = TOPICS[name].partitions;
    if (count !== wanted)
      faults.push(`topic "${name}" has ${count} partitions and must have ${wanted}`);
  }
  for (const [name, settings] of await readSettings(admin, names, log)) {
    faults.push(...faultsOf(name, settings));
    warnOfRetention(name, settings, log);
  }
  if (faults.length > 0) throw new UnusableKafkaError(faults.join('; '));
}

async function createTopic(admin: Admin, name: TopicName): Promise<void> {
  const topic: Topic = TOPICS[name];
  try {
    await admin.createTopics({
      topics: [{ topic: name, partitions: topic.partitions }],
      configs: Object.entries(settingsOf(topic)).map(([key, value]) => ({ name: key, value })),
    });
  } catch (error) {
    // Another service was faster; it is looked at next.
    if (findErrorBy(error as Error, 'apiId', 'TOPIC_ALREADY_EXISTS') !== null) return;
    for (const refusal of ['TOPIC_AUTHORIZATION_FAILED', 'CLUSTER_AUTHORIZATION_FAILED']) {
      if (findErrorBy(error as Error, 'apiId', refusal) !== null) {
        throw new UnusableKafkaError(
          `topic "${name}" is missing, and this client may not create it`,
        );
      }
    }
    throw error;
  }
}

function settingsOf(topic: Topic): Record<string, string> {
  const size = { 'max.message.bytes': String(batchBytesMax(topic)) };
  if (topic.retentionMs !== null) {
    return { ...size, 'cleanup.policy': 'delete', 'retention.ms': String(topic.retentionMs) };
  }
  // Only closed segments are compacted: small and short ones, or megabytes of old templates would stay.
  return {
    ...size,
    'cleanup.policy': 'compact',
    'segment.bytes': String(64 * MIB),
    'segment.ms': String(10 * MINUTE_MS),
    'min.cleanable.dirty.ratio': '0.1',
    'delete.retention.ms': String(10 * MINUTE_MS),
  };
}

/** Settings by topic; empty where this client may not ask. */
async function readSettings(
  admin: Admin,
  names: readonly TopicName[],
  log: Log,
): Promise<Map<TopicName, Map<string, string>>> {
  const configurationKeys = ['max.message.bytes', 'cleanup.policy', 'retention.ms'];
  try {
    const found = await admin.describeConfigs({
      resources: names.map((resourceName) => ({
        resourceType: ConfigResourceTypes.TOPIC,
        resourceName,
        configurationKeys,
      })),
    });
    return new Map(
      found.map(({ resourceName, configs }) => [
        resourceName as TopicName,
        new Map(configs.map(({ name, value }) => [name, value ?? ''])),
      ]),
    );
  } catch (error) {
    if (findErrorBy(error as Error, 'apiId', 'TOPIC_AUTHORIZATION_FAILED') === null) throw error;
    log.warn('the settings of the topics may not be read; they are taken on trust');
    return new Map();
  }
}

function faultsOf(name: TopicName, settings: ReadonlyMap<string, string>): string[] {
  const topic: Topic = TOPICS[name];
  const faults: string[] = [];
  const bytes = Number(settings.get('max.message.bytes'));
  const wanted = batchBytesMax(topic);
  if (bytes < wanted) {
    faults.push(
      `topic "${name}" takes ${bytes} bytes at most and must take ${wanted}: set max.message.bytes on it`,
    );
  }
  const policies = (settings.get('cleanup.policy') ?? '').split(',').map((text) => text.trim());
  if (topic.retained && !policies.includes('compact')) {
    faults.push(`topic "${name}" would forget its last record: set cleanup.policy=compact on it`);
  }
  if (!topic.retained && policies.includes('compact')) {
    faults.push(
      `topic "${name}" would lose all but the last record of a key: set cleanup.policy=delete on it`,
    );
  }
  return faults;
}

function warnOfRetention(name: TopicName, settings: ReadonlyMap<string, string>, log: Log): void {
  const wantedMs = TOPICS[name].retentionMs;
  const keptMs = Number(settings.get('retention.ms') ?? -1);
  if (wantedMs === null || keptMs < 0 || keptMs >= wantedMs) return;
  log.warn('a topic keeps its records for less time than is wise', {
    topic: name,
    keptMs,
    wantedMs,
  });
}
