/**
 * Virtual time. While installed, `setTimeout`, `setInterval`, `Date.now` and `Atomics.waitAsync` belong to the simulation: nothing
 * waits for the wall clock or for another thread, and the order in which timers fire is decided by their due time and then by the
 * order in which they were made. Promises and `setImmediate` stay Node's own; `settle` runs them until nothing moves.
 */

/** Where every simulated world begins. */
export const START_MS = Date.UTC(2026, 0, 1);

type Timer = { id: number; dueMs: number; order: number; everyMs: number | null; run: () => void };

type Work = (...args: unknown[]) => void;
type Globals = Record<'setTimeout' | 'setInterval' | 'clearTimeout' | 'clearInterval', unknown>;

function pickGlobals({ setTimeout, setInterval, clearTimeout, clearInterval }: Globals): Globals {
  return { setTimeout, setInterval, clearTimeout, clearInterval };
}

/** What `setTimeout` hands out while virtual time is installed: enough of Node's Timeout for any caller. */
class Handle {
  readonly id: number;
  constructor(id: number) {
    this.id = id;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return false;
  }
  refresh(): this {
    return this;
  }
  [Symbol.toPrimitive](): number {
    return this.id;
  }
}

export class VirtualTime {
  nowMs: number;
  /** Bumped by every seam of the simulated world; `settle` runs until it stands still. */
  activity = 0;
  /** `activity` when the present instant began: far more since then is a loop that does not wait. */
  instantBegan = 0;
  readonly #timers = new Map<number, Timer>();
  #nextId = 1;
  #order = 0;
  readonly #waiters = new Set<{ buffer: ArrayBufferLike; index: number; wake: () => void }>();
  #restore: (() => void) | null = null;
  readonly #realImmediate = setImmediate;

  constructor(startMs: number) {
    this.nowMs = startMs;
  }

  /** Runs `work` once, `delayMs` of virtual time from now. */
  after(delayMs: number, work: () => void): number {
    return this.#add(delayMs, null, work);
  }

  cancel(id: number): void {
    this.#timers.delete(id);
  }

  /** Forgets every timer: what a killed process does. */
  clear(): void {
    this.#timers.clear();
    this.#waiters.clear();
  }

  #add(delayMs: number, everyMs: number | null, run: () => void): number {
    const id = this.#nextId++;
    const wait = Number.isFinite(delayMs) && delayMs >= 1 ? delayMs : 1;
    this.#timers.set(id, { id, dueMs: this.nowMs + wait, order: this.#order++, everyMs, run });
    return id;
  }

  /** Takes the global timers and Date.now over. */
  install(): void {
    const global = globalThis as unknown as Globals;
    const real = { ...pickGlobals(global) };
    const { now } = Date;
    const { waitAsync, notify } = Atomics;
    const clear = (handle: unknown): void => {
      if (handle instanceof Handle) this.cancel(handle.id);
    };
    Object.assign(global, {
      setTimeout: (run: Work, delayMs = 0, ...args: unknown[]) =>
        new Handle(this.#add(delayMs, null, () => run(...args))),
      setInterval: (run: Work, delayMs = 0, ...args: unknown[]) =>
        new Handle(this.#add(delayMs, Math.max(1, delayMs), () => run(...args))),
      clearTimeout: clear,
      clearInterval: clear,
    });
    Date.now = () => this.nowMs;
    const atomics = Atomics as unknown as Record<'waitAsync' | 'notify', unknown>;
    atomics.waitAsync = (view: BigInt64Array, index: number, value: bigint, timeoutMs: number) => {
      if (Atomics.load(view, index) !== value) return { async: false, value: 'not-equal' };
      const woken = new Promise<string>((resolve) => {
        const waiter = { buffer: view.buffer, index, wake: () => resolve('ok') };
        this.#waiters.add(waiter);
        this.after(timeoutMs, () => {
          if (this.#waiters.delete(waiter)) resolve('timed-out');
        });
      });
      return { async: true, value: woken };
    };
    atomics.notify = (view: BigInt64Array, index: number) => {
      let count = 0;
      for (const waiter of this.#waiters) {
        if (waiter.buffer !== view.buffer || waiter.index !== index) continue;
        this.#waiters.delete(waiter);
        this.activity += 1;
        count += 1;
        waiter.wake();
      }
      return count;
    };
    this.#restore = () => {
      Object.assign(global, real);
      Date.now = now;
      Object.assign(atomics, { waitAsync, notify });
    };
  }

  uninstall(): void {
    this.#restore?.();
    this.#restore = null;
  }

  /** Lets promises and immediates run until the simulated world has been quiet for three turns of the event loop. */
  async settle(): Promise<void> {
    let quiet = 0;
    for (let turns = 0; quiet < 3 && turns < 10_000; turns++) {
      const before = this.activity;
      await new Promise<void>((resolve) => {
        this.#realImmediate(resolve);
      });
      quiet = this.activity === before ? quiet + 1 : 0;
    }
  }

  /**
   * Moves time forward by `ms`, stopping at every due timer; settles after each instant. `each` is called after every instant.
   */
  async advance(ms: number, each: () => void = () => {}): Promise<void> {
    const untilMs = this.nowMs + ms;
    await this.settle();
    for (;;) {
      let next: Timer | null = null;
      for (const timer of this.#timers.values()) {
        if (
          next === null ||
          timer.dueMs < next.dueMs ||
          (timer.dueMs === next.dueMs && timer.order < next.order)
        ) {
          next = timer;
        }
      }
      if (next === null || next.dueMs > untilMs) break;
      this.nowMs = Math.max(this.nowMs, next.dueMs);
      if (next.everyMs === null) this.#timers.delete(next.id);
      else {
        next.dueMs = this.nowMs + next.everyMs;
        next.order = this.#order++;
      }
      this.activity += 1;
      this.instantBegan = this.activity;
      next.run();
      await this.settle();
      each();
    }
    this.nowMs = untilMs;
    await this.settle();
    each();
  }
}
