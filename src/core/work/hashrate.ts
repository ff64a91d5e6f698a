/**
 * Hash rate from accepted work alone. A miner's own claims never enter. Exponentially decaying sums over three spans, with
 * the bias of the first minutes taken out, so that a new worker's rate is right from its first shares on.
 */

/** Hashes behind one unit of difficulty on average. */
export const HASHES_PER_DIFFICULTY = 4_294_967_296;

const SPANS_MS = [300_000, 3_600_000, 86_400_000] as const;
/** Work is folded into the sums at most once a second: three exponentials per share would show in the profile. */
const FOLD_MS = 1_000;

/** Rates in hashes per second. */
export type Rates = { fiveMinutesHps: number; hourHps: number; dayHps: number };

export class HashrateMeter {
  #startedAtMs: number;
  #foldedAtMs: number;
  #fresh = 0;
  #short = 0;
  #middle = 0;
  #long = 0;

  constructor(nowMs: number) {
    this.#startedAtMs = nowMs;
    this.#foldedAtMs = nowMs;
  }

  /** Adds the credited difficulty of one accepted share; anything not finite and positive is refused. */
  add(difficulty: number, nowMs: number): void {
    if (!(difficulty > 0 && difficulty < Number.MAX_VALUE)) return;
    this.#fresh += difficulty;
    if (nowMs - this.#foldedAtMs >= FOLD_MS) this.#fold(nowMs);
  }

  /** The rates now. A clock that went backwards gives the rates of the last fold. */
  rates(nowMs: number): Rates {
    this.#fold(nowMs);
    const ageMs = Math.max(nowMs - this.#startedAtMs, FOLD_MS);
    return {
      fiveMinutesHps: rate(this.#short, SPANS_MS[0], ageMs),
      hourHps: rate(this.#middle, SPANS_MS[1], ageMs),
      dayHps: rate(this.#long, SPANS_MS[2], ageMs),
    };
  }

  #fold(nowMs: number): void {
    const elapsedMs = Math.max(0, nowMs - this.#foldedAtMs);
    this.#short = this.#short * Math.exp(-elapsedMs / SPANS_MS[0]) + this.#fresh;
    this.#middle = this.#middle * Math.exp(-elapsedMs / SPANS_MS[1]) + this.#fresh;
    this.#long = this.#long * Math.exp(-elapsedMs / SPANS_MS[2]) + this.#fresh;
    this.#fresh = 0;
    if (elapsedMs > 0) this.#foldedAtMs = nowMs;
  }
}

/** A decayed sum of difficulty over one span as hashes per second; the divisor is the weight of the time seen so far. */
function rate(sum: number, spanMs: number, ageMs: number): number {
  const weightMs = spanMs * (1 - Math.exp(-ageMs / spanMs));
  return (sum * HASHES_PER_DIFFICULTY * 1000) / weightMs;
}
