/**
 * Carries acknowledged shares from the journal to `share.submissions`: at least once, in order. A batch counts as shipped when the bus
 * says it is safe; until then it is repeated, more and more slowly, while the gateway goes on acknowledging into the journal.
 */
import { decodeShare } from '../../messages/codec.ts';
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

/** Starts the loop. `delay` is real time unless a simulation owns it. */
export function startShipper(tools: {
  source: ShareSource;
  bus: Bus;
  log: Log;
  delay?: (ms: number, signal: AbortSignal) => Promise<void>;
}): Shipper {
  const { source, bus, log } = tools;
  const delay = tools.delay ?? pause;
  const ending = new AbortController();
  const status = { shipped: 0, skippedBytes: 0, failures: 0, stalled: false };
  let draining = false;
  let retryMs = RETRY_MS_MIN;

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

  async function run(): Promise<void> {
    while (!ending.signal.aborted) {
      const batch = await attempt('read', () => source.next());
      if (batch === undefined) continue;
      if (batch === null) {
        if (draining) return;
        await source.wait(WAIT_MS);
        continue;
      }
      status.skippedBytes += batch.skippedBytes;
      const records = batch.records.map(recordOf);
      while (!ending.signal.aborted) {
        const done = await attempt('publish', async () => {
          await bus.publish('share.submissions', records);
          return true;
        });
        if (done) break;
      }
      if (ending.signal.aborted) return;
      await source.markShipped(batch.position);
      status.shipped += records.length;
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
function recordOf(value: Uint8Array): BusRecord {
  const decoded = decodeShare(value);
  return { key: decoded.ok ? decoded.value.sessionId : '', value };
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
