/** A small seeded generator (mulberry32) for tests that must be repeatable from one printed number. */

export type Random = {
  /** Unsigned 32-bit integer. */
  u32(): number;
  /** Integer in [0, limit). */
  below(limit: number): number;
  bytes(length: number): Uint8Array;
  pick<T>(items: readonly T[]): T;
};

export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  function u32(): number {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
  const below = (limit: number): number => u32() % limit;
  return {
    u32,
    below,
    bytes: (length) => Uint8Array.from({ length }, () => u32() & 0xff),
    pick: (items) => items[below(items.length)]!,
  };
}

/** The seed of this run: `TEST_SEED` when set, else the clock. Print it, so that a failure can be run again. */
export function chooseSeed(): number {
  const given = process.env.TEST_SEED;
  return given === undefined ? Date.now() >>> 0 : Number.parseInt(given, 10) >>> 0;
}
