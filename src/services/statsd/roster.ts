/**
 * Which workers have a line of their own in the charts. Names come from miners, and each new one costs the time series memory for
 * ever: an account has so many, all together have so many, and the rest share the name `(other)`. A name that is not seen for a day
 * makes room for another. Several processes each keep a roster of their own.
 */

export type RosterLimits = { perAccountMax: number; workersMax: number; idleMsMax: number };

export const ROSTER_LIMITS: RosterLimits = {
  perAccountMax: 1_000,
  workersMax: 50_000,
  idleMsMax: 24 * 3_600_000,
};

/** No worker can be called so: brackets are not in the alphabet of names. */
export const OTHER = '(other)';

const SWEEP_MS = 60_000;

export class Roster {
  readonly #limits: RosterLimits;
  /** By account, then by name: when it was last seen. */
  readonly #accounts = new Map<string, Map<string, number>>();
  #workers = 0;
  #newestMs = 0;
  #sweptAtMs = 0;

  constructor(limits: RosterLimits = ROSTER_LIMITS) {
    this.#limits = limits;
  }

  get workers(): number {
    return this.#workers;
  }

  /** What a share of this worker is written under. `atMs` is the share's own time. */
  place(account: string, worker: string, atMs: number): { account: string; worker: string } {
    this.#newestMs = Math.max(this.#newestMs, atMs);
    let names = this.#accounts.get(account);
    if (names?.has(worker)) {
      names.set(worker, this.#newestMs);
      return { account, worker };
    }
    if (this.#isFull(names)) {
      this.#sweep();
      names = this.#accounts.get(account);
      if (this.#isFull(names)) {
        return { account: names === undefined ? OTHER : account, worker: OTHER };
      }
    }
    if (names === undefined) {
      names = new Map();
      this.#accounts.set(account, names);
    }
    names.set(worker, this.#newestMs);
    this.#workers++;
    return { account, worker };
  }

  #isFull(names: Map<string, number> | undefined): boolean {
    const { perAccountMax, workersMax } = this.#limits;
    return this.#workers >= workersMax || (names?.size ?? 0) >= perAccountMax;
  }

  #sweep(): void {
    if (this.#newestMs - this.#sweptAtMs < SWEEP_MS) return;
    this.#sweptAtMs = this.#newestMs;
    for (const [account, names] of this.#accounts) {
      for (const [name, seenMs] of names) {
        if (this.#newestMs - seenMs <= this.#limits.idleMsMax) continue;
        names.delete(name);
        this.#workers--;
      }
      if (names.size === 0) this.#accounts.delete(account);
    }
  }
}
