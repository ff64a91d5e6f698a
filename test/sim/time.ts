/**
 * Virtual time. While installed, `setTimeout`, `setInterval`, `setImmediate`'s timers' clock and `Date.now` belong to the
 * simulation: nothing waits for the wall clock, and the order in which timers fire is decided by their due time and then by the
 * order in which they were made. Promises and `setImmediate` stay Node's own; `settle` runs them until nothing moves.
 */

/** Where every simulated world begins. */
export const START_MS = Date.UTC(2026, 0, 1);

type Timer = { id: number; dueMs: number; order: number; everyMs: number | null; run: () => void };

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
  }

  #add(delayMs: number, everyMs: number | null, run: () => void): number {
    const id = this.#nextId++;
    const wait = Number.isFinite(delayMs) && delayMs >= 1 ? delayMs : 1;
    this.#timers.set(id, { id, dueMs: this.nowMs + wait, order: this.#order++, everyMs, run });
    return id;
  }

  /** Takes the global timers and Date.now over. */
  install(): void {
    const real = {
      setTimeout: globalThis.setTimeout,
      clearTimeout: globalThis.clearTimeout,
      setInterval: globalThis.setInterval,
      clearInterval: globalThis.clearInterval,
      now: Date.now,
    };
    const clear = (handle: unknown): void => {
      if (handle instanceof Handle) this.cancel(handle.id);
    };
    const target = globalThis as unknown as {
      setTimeout: unknown;
      setInterval: unknown;
      clearTimeout: unknown;
      clearInterval: unknown;
    };
    target.setTimeout = (run: (...args: unknown[]) => void, delayMs = 0, ...args: unknown[]) =>
      new Handle(this.#add(delayMs, null, () => run(...args)));
    target.setInterval = (run: (...args: unknown[]) => void, delayMs = 0, ...args: unknown[]) =>
      new Handle(this.#add(delayMs, Math.max(1, delayMs), () => run(...args)));
    target.clearTimeout = clear;
    target.clearInterval = clear;
    Date.now = () => this.nowMs;
    this.#restore = () => {
      Object.assign(target, {
        setTimeout: real.setTimeout,
        clearTimeout: real.clearTimeout,
        setInterval: real.setInterval,
        clearInterval: real.clearInterval,
      });
      Date.now = real.now;
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
