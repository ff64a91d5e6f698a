/**
 * The service that turns found blocks and shares into money: credits, matures, reverses, plans direct coinbases, pays out. One process
 * works, the one that holds the lock in the database; others stand by and take over. The lock saves double work and is no guard: every
 * step is right even when two run at once (the keys of postings, compare-and-swap in the database).
 */
import type { Log } from '../../ports.ts';
import { type CycleOptions, type CycleStatus, type CycleTools, createCycle } from './cycle.ts';

export type PayoutdTools = CycleTools & {
  /** Takes the one lock of all payoutds; null while another holds it. Rejects when the database is away. */
  takeLock: () => Promise<Lock | null>;
};

export type Lock = {
  /** Resolves once the lock is no longer held. */
  lost: Promise<void>;
  release(): Promise<void>;
};

export type PayoutdOptions = CycleOptions & {
  /** Pause between two passes. */
  cycleMs?: number;
};

export type PayoutdStatus = CycleStatus & {
  /** False: another process works, or the database is away. */
  holdsLock: boolean;
};

export type Payoutd = { status(): PayoutdStatus; stop(): Promise<void> };

const CYCLE_MS = 2_000;
/** How often one that stands by looks whether it may work. */
const STANDBY_MS = 2_000;

/** Starts the service; it works as soon as it gets the lock. Never rejects for a database or a node that is away. */
export async function startPayoutd(tools: PayoutdTools, options: PayoutdOptions): Promise<Payoutd> {
  const cycleMs = options.cycleMs ?? CYCLE_MS;
  const standbyMs = Math.min(STANDBY_MS, cycleMs);
  let cycle = createCycle(tools, options);
  let tenures = 0;
  const pause = createPause();
  let stopped = false;
  let lock: Lock | null = null;

  async function holdAndWork(held: Lock): Promise<void> {
    let isHeld = true;
    lock = held;
    // Another may have worked meanwhile: nothing remembered holds.
    if (tenures > 0) {
      cycle.stop();
      cycle = createCycle(tools, options);
    }
    tenures += 1;
    void held.lost.then(() => {
      isHeld = false;
      pause.wake();
    });
    tools.log.info('this process keeps the ledger and pays');
    const isActive = (): boolean => isHeld && !stopped;
    while (isActive()) {
      await cycle.run(isActive);
      if (isActive()) await pause.wait(cycleMs);
    }
    lock = null;
    await held.release();
    if (!stopped) tools.log.warn('the lock of the ledger is lost; this process stands by');
  }

  async function live(): Promise<void> {
    let isTold = false;
    while (!stopped) {
      const held = await takeOrNull(tools);
      if (held !== null) {
        isTold = false;
        await holdAndWork(held);
      } else {
        if (!isTold) tools.log.info('another process keeps the ledger, or the database is away');
        isTold = true;
        if (!stopped) await pause.wait(standbyMs);
      }
    }
  }

  const life = live().finally(() => cycle.stop());

  return {
    status: () => ({ ...cycle.status(), holdsLock: lock !== null }),
    async stop() {
      stopped = true;
      pause.wake();
      await life;
    },
  };
}

async function takeOrNull(tools: {
  takeLock: PayoutdTools['takeLock'];
  log: Log;
}): Promise<Lock | null> {
  try {
    return await tools.takeLock();
  } catch (error) {
    tools.log.debug('the lock of the ledger cannot be taken', { reason: String(error) });
    return null;
  }
}

/** A pause that can be cut short. */
function createPause(): { wait(ms: number): Promise<void>; wake(): void } {
  let wake = (): void => {};
  return {
    wait: (ms) =>
      new Promise((resolve) => {
        const timer = setTimeout(resolve, ms);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      }),
    wake: () => wake(),
  };
}
