/**
 * Repeatable randomness for the simulation: sfc32 by Chris Doty-Humphrey, four 32-bit words, passes PractRand. Not for secrets.
 */

export type Random = {
  /** 32 random bits, unsigned. */
  bits(): number;
  /** 0 ≤ n < bound; bound ≥ 1. */
  below(bound: number): number;
  /** True with probability `p` (0..1). */
  chance(p: number): boolean;
  /** One of the list; the list is not empty. */
  pick<T>(list: readonly T[]): T;
  bytes(count: number): Uint8Array;
};

/** A generator whose whole future is decided by `seed` (any integer; only its low 32 bits count). */
export function createRandom(seed: number): Random {
  let a = seed >>> 0;
  let b = 0x9e3779b9;
  let c = 0x243f6a88;
  let counter = 1;
  const bits = (): number => {
    const out = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + out;
    return out >>> 0;
  };
  for (let i = 0; i < 12; i++) bits();
  const below = (bound: number): number => Math.floor((bits() / 2 ** 32) * bound);
  return {
    bits,
    below,
    chance: (p) => bits() < p * 2 ** 32,
    pick: (list) => list[below(list.length)]!,
    bytes: (count) => Uint8Array.from({ length: count }, () => bits() & 255),
  };
}
