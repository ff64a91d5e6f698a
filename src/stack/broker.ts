/**
 * A gateway's link to Kafka, in a thread of its own: jobs, plans and templates in; found blocks and what became of them out; refused
 * submissions out as well, if that is easily done. Shares go out from the journal (`shipper.ts`), not through here.
 */
import type { KafkaBus, KafkaStatus } from '../adapters/bus/kafka.ts';
import { UnusableKafkaError } from '../adapters/bus/kafka-topics.ts';
import type { MemoryBus } from '../adapters/bus/memory.ts';
import { decodeJobNews, decodeTemplateBody } from '../messages/codec.ts';
import type { Meter } from '../meter.ts';
import type { BusRecord, Log } from '../ports.ts';
import type { ShipperStatus } from '../services/shareproc/shipper.ts';

/** What the thread says of itself. */
export type BrokerStatus = {
  kafka: KafkaStatus;
  /** Why the topics on the broker cannot be used; null when they can. */
  refused: string | null;
  shipper: ShipperStatus;
};

const GROUP = 'gateway';
/** Templates of so many jobs are remembered by id, and so many jobs wait for theirs. */
const TEMPLATES_KNOWN_MAX = 256;
const JOBS_WAITING_MAX = 16;
/** Job managers remembered by name. */
const SOURCES_MAX = 16;

/** Joins the bus of the main thread (by `join`), that of this thread, and Kafka. Returns at once; the broker may come later. */
export async function linkKafka(tools: {
  bus: MemoryBus;
  kafka: KafkaBus;
  join: () => Promise<unknown>;
  log: Log;
  meter: Meter;
}): Promise<{ refused(): string | null }> {
  const { bus, kafka, log, meter } = tools;
  let refused: string | null = null;
  kafka.ready.catch((error) => {
    if (error instanceof UnusableKafkaError) refused = error.message;
  });

  for (const topic of ['block.candidates', 'block.outcome'] as const) {
    await bus.subscribe(topic, 'kafka', (records) => kafka.publish(topic, records));
  }
  for (const topic of ['share.rejected', 'share.stale'] as const) {
    let isBusy = false;
    await bus.subscribe(topic, 'kafka', async (records) => {
      // Nobody repeats these, and nothing waits for them.
      if (isBusy) {
        meter.add('refusals_not_published', records.length);
        return;
      }
      isBusy = true;
      kafka
        .publish(topic, records)
        .catch(() => meter.add('refusals_not_published', records.length))
        .finally(() => {
          isBusy = false;
        });
    });
  }

  // What is published without a subscriber is nobody's: first those who take what comes from there, then what brings it.
  await tools.join();
  const gate = createJobGate();
  const inbound = {
    'mining.plans': (records: readonly BusRecord[]) => bus.publish('mining.plans', records),
    'mining.templates': async (records: readonly BusRecord[]) => {
      await bus.publish('mining.templates', records);
      const ready = gate.takeTemplates(records);
      if (ready.length > 0) await bus.publish('mining.jobs', ready);
    },
    'mining.jobs': async (records: readonly BusRecord[]) => {
      const passed = gate.takeJobs(records);
      if (passed.length > 0) await bus.publish('mining.jobs', passed);
    },
  };
  for (const [topic, handle] of Object.entries(inbound)) {
    kafka.subscribe(topic, GROUP, handle).catch((error) => {
      log.error('a topic could not be read', { topic, reason: String(error) });
    });
  }
  return { refused: () => refused };
}

/**
 * Lets jobs through to the gateway. A found block cannot be put together without the template of its job, and the two come on topics of
 * their own, of which one may be read from an earlier moment than the other. So a job waits until its template was seen here, up to the
 * first of its job manager's with which that happened: jobs and templates of one job manager each keep their order, so of none that comes
 * after that one the template is missed, and each new tip's goes at once, its template on the way. A job that is only said again, or refreshes
 * the one before, goes when its template was seen here: miners do not wait for it.
 */
export function createJobGate(): {
  takeJobs(records: readonly BusRecord[]): BusRecord[];
  /** Jobs that waited for these templates. */
  takeTemplates(records: readonly BusRecord[]): BusRecord[];
} {
  /** Ids of jobs that have their template, or were let through. */
  const known = new Set<string>();
  const waiting = new Map<string, { record: BusRecord; source: string }>();
  /** Job managers of which a job and its template were seen. */
  const followed = new Set<string>();

  function know(jobId: string): void {
    known.delete(jobId);
    known.add(jobId);
    if (known.size > TEMPLATES_KNOWN_MAX) known.delete(known.values().next().value!);
  }

  function follow(source: string): void {
    followed.add(source);
    if (followed.size > SOURCES_MAX) followed.delete(followed.values().next().value!);
  }

  /** What is older than a job that goes must not come after it: of those that wait, all of its job manager's up to it. */
  function dropWaiting(source: string, last: string): void {
    for (const [jobId, job] of [...waiting]) {
      if (job.source === source) waiting.delete(jobId);
      if (jobId === last) return;
    }
  }

  return {
    takeJobs(records) {
      const passed: BusRecord[] = [];
      for (const record of records) {
        const decoded = decodeJobNews(record.value);
        // The gateway says what is wrong with it.
        if (!decoded.ok) {
          passed.push(record);
          continue;
        }
        const { jobId, clean } = decoded.value.job;
        const { source, isAgain } = decoded.value.origin;
        if (known.has(jobId)) follow(source);
        else if (isAgain || !clean || !followed.has(source)) {
          waiting.delete(jobId);
          waiting.set(jobId, { record, source });
          if (waiting.size > JOBS_WAITING_MAX) waiting.delete(waiting.keys().next().value!);
          continue;
        }
        know(jobId);
        dropWaiting(source, jobId);
        passed.push(record);
      }
      return passed;
    },
    takeTemplates(records) {
      const ready: BusRecord[] = [];
      for (const { value } of records) {
        const decoded = decodeTemplateBody(value);
        if (!decoded.ok) continue;
        const { jobId } = decoded.value;
        know(jobId);
        const job = waiting.get(jobId);
        if (job === undefined) continue;
        dropWaiting(job.source, jobId);
        follow(job.source);
        ready.push(job.record);
      }
      return ready;
    },
  };
}
