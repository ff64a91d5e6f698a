/**
 * Carries acknowledged shares from the journal to `share.submissions`: at least once, in order. A batch counts as shipped when the bus
 * says it is safe; until then it is repeated, more and more slowly, while the gateway goes on acknowledging into the journal.
 *
 * Where shares of several gateways meet, marks go out among them: up to this moment everything of this gateway stands before this
 * place, in every partition. A journal is in the order of acceptance, so a share that went out speaks for all accepted before it;
 * when there is nothing to ship the gateway itself says how far it is. A gateway's first mark comes before its first share.
 */
import { decodeShare, encodeShareMark } from '../../messages/codec.ts';
import { markKey } from '../../messages/share.ts';
import { GATHER_MS, PARTITIONS } from '../../messages/topics.ts';
import type { Bus, BusRecord, Log } from '../../ports.ts';

/** The slice of the journal's reader that is needed here. */
export type ShareSource = {
  next(): Promise<{
    records: readonly Uint8Array[];
    position: number;
    skippedBytes: number;
  } | null>;
  wait(timeoutMs: number): Promise<void>;
  markShipped(position: number): Promise<void>;
  lagBytes(): number;
};

export type MarkSource = {
  gateway: string;
  /**
   * A moment that the gateway is done with: what it accepted up to then stands committed in the journal, and nothing more is
   * accepted with a time up to then.
   */
  settledThroughMs(): number;
};

export type ShipperStatus = {
  shipped: number;
  /** Bytes of damage in the journal that were passed over. */
  skippedBytes: number;
  failures: number;
  /** The last try failed. */
  stalled: boolean;
  lagBytes: number;
};

export type Shipper = {
  status(): ShipperStatus;
  /** Ships what is committed, as far as that succeeds within `drainMs`, then ends. */
  stop(drainMs: number): Promise<void>;
};

const WAIT_MS = 1_000;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5_000;
/** Between two marks under load, and when there is nothing to tell but that the gateway lives. */
const MARK_MS = 500;
/** As many as are worth a request to a broker without waiting for more. */
const GATHER_RECORDS = 500;
/** Between two marks when the shipper falls idle again and again. */
const IDLE_MARK_MS = 50;

/** Starts the loop. `delay` is real time unless a simulation owns it. Without `marks` none are sent. */
export function startShipper(tools: {
  source: ShareSource;
  bus: Bus;
  log: Log;
  marks?: MarkSource;
  delay?: (ms: number, signal: AbortSignal) => Promise<void>;
}): Shipper {
  const { source, bus, log, marks } = tools;
  const delay = tools.delay ?? pause;
  const ending = new AbortController();
  const status = { shipped: 0, skippedBytes: 0, failures: 0, stalled: false };
  let draining = false;
  let retryMs = RETRY_MS_MIN;
  /** Everything accepted before this has gone out. */
  let throughMs = 0;
  let sequence = 0;
  let markedAtMs = Number.NEGATIVE_INFINITY;
  let isNews = true;

  /** Runs one step; on failure waits and answers null. Only the end of the shipper gets through. */
  async function attempt<T>(what: string, step: () => Promise<T>): Promise<T | undefined> {
    try {
      const result = await step();
      if (status.stalled) log.info('Shares are stored again.', { lagBytes: source.lagBytes() });
      status.stalled = false;
      retryMs = RETRY_MS_MIN;
      return result;
    } catch (error) {
      status.failures++;
      if (!status.stalled) {
        log.error('Shares cannot be stored. They are kept in the journal.', {
          what,
          error: error instanceof Error ? error.message : String(error),
          lagBytes: source.lagBytes(),
        });
      }
      status.stalled = true;
      await delay(retryMs, ending.signal);
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
      return undefined;
    }
  }

  /** Repeats until it is safe; false when the shipper ends before that. */
  async function publish(records: readonly BusRecord[]): Promise<boolean> {
    while (!ending.signal.aborted) {
      const done = await attempt('publish', async () => {
        await bus.publish('share.submissions', records);
        return true;
      });
      if (done) return true;
    }
    return false;
  }

  async function mark({ gateway }: MarkSource): Promise<void> {
    sequence += 1;
    const value = encodeShareMark({ gateway, throughMs, sequence });
    const key = markKey(gateway);
    const records = Array.from({ length: PARTITIONS }, (_, partition) => ({
      key,
      value,
      partition,
    }));
    if (!(await publish(records))) return;
    markedAtMs = performance.now();
    isNews = false;
  }

  /** Nothing is left to ship of what was committed when the gateway said how far it is. Answers how long to wait at most. */
  async function rest(own: MarkSource, settledMs: number): Promise<number> {
    throughMs = Math.max(throughMs, settledMs);
    const untilMs = markedAtMs + (isNews ? IDLE_MARK_MS : MARK_MS) - performance.now();
    if (untilMs > 0 && !draining) return untilMs;
    await mark(own);
    return MARK_MS;
  }

  async function run(): Promise<void> {
    if (marks !== undefined) await mark(marks);
    while (!ending.signal.aborted) {
      // Asked first: what the next read does not find is not there to be told of.
      const settledMs = marks?.settledThroughMs() ?? 0;
      const batch = await attempt('read', () => source.next());
      if (batch === undefined) continue;
      if (batch === null) {
        const waitMs = marks === undefined ? WAIT_MS : await rest(marks, settledMs);
        if (draining) return;
        await source.wait(waitMs);
        continue;
      }
      status.skippedBytes += batch.skippedBytes;
      let newestMs = 0;
      const records = batch.records.map((value) => {
        const { key, acceptedAtMs } = describe(value);
        newestMs = Math.max(newestMs, acceptedAtMs);
        return { key, value };
      });
      if (!(await publish(records))) return;
      await source.markShipped(batch.position);
      status.shipped += records.length;
      if (marks === undefined) continue;
      // Under load the next ones go together.
      if (records.length < GATHER_RECORDS && !draining) await delay(GATHER_MS, ending.signal);
      // Others of the same millisecond may follow.
      throughMs = Math.max(throughMs, newestMs - 1);
      isNews = true;
      if (performance.now() - markedAtMs >= MARK_MS) await mark(marks);
    }
  }

  const ended = run();
  return {
    status: () => ({ ...status, lagBytes: source.lagBytes() }),
    async stop(drainMs) {
      draining = true;
      const timer = setTimeout(() => ending.abort(), drainMs);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** Shares of one session stay in order; what does not decode is for the consumer to set aside. */
function describe(value: Uint8Array): { key: string; acceptedAtMs: number } {
  const decoded = decodeShare(value);
  if (!decoded.ok) return { key: '', acceptedAtMs: 0 };
  return { key: decoded.value.sessionId, acceptedAtMs: decoded.value.acceptedAtMs };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(end, ms);
    function end(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    }
    if (signal.aborted) end();
    else signal.addEventListener('abort', end);
  });
}
