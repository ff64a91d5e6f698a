/**
 * Who gets which extranonce1. Four bytes: the instance's prefix bits on top, a counter below, never a random number (four
 * random bytes collide for one in four pools at 50,000 sessions). Numbers come from leased blocks; a lease is on disk
 * before its first number is used, so a crash leaves a gap and never a repeat. A number still held by a live or resumable
 * session is skipped when the counter comes round again.
 */

export type ExtranonceOptions = {
  /** Value of the top bits, the same for all numbers of this process. */
  prefix: number;
  /** 0 to 16. */
  prefixBits: number;
  /** The highest lease end of any earlier run, 0 when there was none. */
  highWater: number;
  /** Numbers per lease. */
  leaseSize: number;
  /** Stores the new end of the lease durably before it returns; throws when it cannot. */
  persistLease(highWater: number): void;
};

/** A counter in leased blocks over the bits below the prefix. */
export class ExtranonceSpace {
  readonly #options: ExtranonceOptions;
  /** Numbers below the prefix. */
  readonly #size: number;
  readonly #base: number;
  /** Counts for ever, as does the stored high water; the number given out is its remainder by `#size`. */
  #next: number;
  #leasedTo: number;
  readonly #held = new Set<number>();

  /** Throws RangeError on a prefix that does not fit its bits: that is a broken configuration, not a peer's doing. */
  constructor(options: ExtranonceOptions) {
    const { prefix, prefixBits, highWater, leaseSize } = options;
    if (!Number.isInteger(prefixBits) || prefixBits < 0 || prefixBits > 16) {
      throw new RangeError(`extranonce prefix of ${prefixBits} bits: 0 to 16 are possible`);
    }
    if (!Number.isInteger(prefix) || prefix < 0 || prefix >= 2 ** prefixBits) {
      throw new RangeError(`extranonce prefix ${prefix} does not fit in ${prefixBits} bits`);
    }
    if (!Number.isSafeInteger(highWater) || highWater < 0 || !(leaseSize >= 1)) {
      throw new RangeError(`extranonce high water ${highWater}, lease size ${leaseSize}`);
    }
    this.#options = options;
    this.#size = 2 ** (32 - prefixBits);
    this.#base = prefix * this.#size;
    this.#next = highWater;
    this.#leasedTo = highWater;
  }

  /** Numbers in use. */
  get heldCount(): number {
    return this.#held.size;
  }

  /**
   * Takes the next free number, 0 to 2^32−1, or null when the lease cannot be stored or every number is in use.
   */
  take(): number | null {
    if (this.#held.size >= this.#size) return null;
    for (;;) {
      if (this.#next >= this.#leasedTo && !this.#lease()) return null;
      const value = this.#base + (this.#next % this.#size);
      this.#next += 1;
      if (this.#held.has(value)) continue;
      this.#held.add(value);
      return value;
    }
  }

  /** Gives a number back. It is not handed out again before the counter has come round. */
  release(value: number): void {
    this.#held.delete(value);
  }

  #lease(): boolean {
    const end = this.#leasedTo + this.#options.leaseSize;
    try {
      this.#options.persistLease(end);
    } catch {
      return false;
    }
    this.#leasedTo = end;
    return true;
  }
}
