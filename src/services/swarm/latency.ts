/**
 * Latencies counted in buckets: 10 µs wide up to 100 ms, 1 % wide above, so that a million of them cost 80 KiB and no
 * sample is dropped. Percentiles answer the upper edge of their bucket.
 */
const FINE_MS = 0.01;
const FINE_BUCKETS = 10_000;
const COARSE_BUCKETS = 1_200;
const GROWTH = Math.log(1.01);
const FINE_LIMIT_MS = FINE_MS * FINE_BUCKETS;

export class LatencyCounts {
  readonly #buckets = new Float64Array(FINE_BUCKETS + COARSE_BUCKETS);
  #count = 0;
  #maxMs = 0;

  /** Counts one latency in milliseconds. */
  add(ms: number): void {
    this.#count++;
    if (ms > this.#maxMs) this.#maxMs = ms;
    const at =
      ms < FINE_LIMIT_MS
        ? Math.max(0, Math.floor(ms / FINE_MS))
        : FINE_BUCKETS +
          Math.min(COARSE_BUCKETS - 1, Math.floor(Math.log(ms / FINE_LIMIT_MS) / GROWTH));
    this.#buckets[at]!++;
  }

  /** Zeros when nothing was counted. */
  percentiles(): { p50Ms: number; p99Ms: number; p999Ms: number; maxMs: number } {
    return {
      p50Ms: this.#at(0.5),
      p99Ms: this.#at(0.99),
      p999Ms: this.#at(0.999),
      maxMs: this.#maxMs,
    };
  }

  #at(share: number): number {
    if (this.#count === 0) return 0;
    let left = Math.ceil(this.#count * share);
    for (let at = 0; at < this.#buckets.length; at++) {
      left -= this.#buckets[at]!;
      if (left > 0) continue;
      const edge =
        at < FINE_BUCKETS
          ? (at + 1) * FINE_MS
          : FINE_LIMIT_MS * Math.exp((at - FINE_BUCKETS + 1) * GROWTH);
      return Math.min(edge, this.#maxMs);
    }
    return this.#maxMs;
  }
}
