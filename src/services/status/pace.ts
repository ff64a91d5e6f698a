/** How often one address may ask: a bucket of tokens per address, in a table of limited size. Pure; time is handed in. */

export class Pace {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #addressesMax: number;
  /** Least recently used first. */
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(options: { perSecond: number; burst: number; addressesMax: number }) {
    this.#perSecond = options.perSecond;
    this.#burst = options.burst;
    this.#addressesMax = options.addressesMax;
  }

  /** True when this request is within the pace. A clock that jumps back costs nobody anything. */
  take(address: string, nowMs: number): boolean {
    const known = this.#buckets.get(address);
    const bucket = known ?? { tokens: this.#burst, atMs: nowMs };
    const elapsedMs = Math.max(0, nowMs - bucket.atMs);
    bucket.tokens = Math.min(this.#burst, bucket.tokens + (elapsedMs / 1000) * this.#perSecond);
    bucket.atMs = nowMs;
    this.#buckets.delete(address);
    if (this.#buckets.size >= this.#addressesMax) {
      this.#buckets.delete(this.#buckets.keys().next().value!);
    }
    this.#buckets.set(address, bucket);
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }
}
