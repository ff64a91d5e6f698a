/** Seeded random values for the fuzz targets. */
export type Random = ReturnType<typeof createRandom>;

const ODD_NUMBERS = [
  0,
  -0,
  1,
  -1,
  0.5,
  1e-300,
  1e300,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  Number.MAX_VALUE,
  65_536,
];
const ODD_CHARACTERS = [
  '\u0000',
  '\u202e',
  '\ud800',
  '"',
  '\\',
  '{',
  '[',
  '}',
  ']',
  ',',
  ':',
  '%',
  '.',
  '+',
  '=',
  'é',
  '\n',
  ' ',
];

/** xorshift32; every value is a function of the seed. */
export function createRandom(seed: number) {
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  const next = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 4_294_967_296;
  };
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    below,
    chance: (part: number): boolean => next() < part,
    pick: <T>(values: readonly T[]): T => values[below(values.length)]!,
    number: (): number =>
      next() < 0.5 ? ODD_NUMBERS[below(ODD_NUMBERS.length)]! : next() * 10 ** (below(40) - 20),
    hex: (digits: number): string =>
      Array.from({ length: digits }, () => '0123456789abcdefABCDEF'[below(22)]).join(''),
    text: (length: number): string =>
      Array.from({ length }, () =>
        next() < 0.3
          ? ODD_CHARACTERS[below(ODD_CHARACTERS.length)]!
          : String.fromCharCode(32 + below(95)),
      ).join(''),
  };
}
