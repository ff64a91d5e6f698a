/** A partition of a subscription while it is ours: how far it was fetched, what waits, how far it was handled. */
import type { ReceivedRecord } from '../../ports.ts';

export type Tenure = {
  partition: number;
  isOver: boolean;
  /** Next offset to fetch; null until it is known. */
  next: bigint | null;
  /** Everything before it was handled. */
  handled: bigint;
  committed: bigint;
  /** End of the partition, as the broker last said. */
  end: bigint;
  queue: ReceivedRecord[];
  queueBytes: number;
  /** Handed to the handler, and not handled yet. */
  batch: ReceivedRecord[] | null;
  attempts: number;
  retryTimer: NodeJS.Timeout | null;
};

/** A partition of which nothing is known yet. */
export function createTenure(partition: number): Tenure {
  return {
    partition,
    isOver: false,
    next: null,
    handled: 0n,
    committed: 0n,
    end: 0n,
    queue: [],
    queueBytes: 0,
    batch: null,
    attempts: 0,
    retryTimer: null,
  };
}

/** It begins here: what lies before is done with. */
export function settleTenure(tenure: Tenure, offset: bigint): void {
  tenure.next = offset;
  tenure.handled = offset;
  tenure.committed = offset;
}

/** It is somebody else's; a handler that runs may end. */
export function endTenure(tenure: Tenure): void {
  tenure.isOver = true;
  tenure.queue = [];
  tenure.queueBytes = 0;
  if (tenure.retryTimer !== null) clearTimeout(tenure.retryTimer);
}

/** The first records of the queue, at least one, within both limits. */
export function takeBatch(
  tenure: Tenure,
  limits: { recordsMax: number; bytesMax: number },
): ReceivedRecord[] {
  let bytes = 0;
  let count = 0;
  for (const { key, value } of tenure.queue) {
    const size = key.length + value.length;
    if (count > 0 && (count >= limits.recordsMax || bytes + size > limits.bytesMax)) break;
    bytes += size;
    count += 1;
  }
  tenure.queueBytes = count === tenure.queue.length ? 0 : tenure.queueBytes - bytes;
  return tenure.queue.splice(0, count);
}
