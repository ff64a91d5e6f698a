/**
 * Compact bits, 256-bit targets, difficulty and work, exact: integers and rationals only, no float decides anything.
 *
 * `target` (bigint) is for decisions, `difficulty` (number) for people and for the wire of Stratum. Compact bits follow
 * Bitcoin Core's `arith_uint256::SetCompact`/`GetCompact` including sign and overflow. Refused: bits that are negative,
 * overflowing or zero (Core's CheckProofOfWork), difficulties that are not finite and above zero.
 */

/** Difficulty 1 of a pool: 0xffff · 2^208, the target of bits 0x1d00ffff. About 2^32 hashes. */
export const DIFFICULTY_1_TARGET = 0xffffn << 208n;

/** The largest 256-bit integer. */
export const TARGET_MAX = (1n << 256n) - 1n;

/** What Core's SetCompact reads from 32 bits: the magnitude and the two flags. `bits` is an unsigned 32-bit integer. */
export function readCompact(bits: number): { value: bigint; negative: boolean; overflow: boolean } {
  const size = bits >>> 24;
  let word = bits & 0x007fffff;
  if (size <= 3) word >>>= 8 * (3 - size);
  const value = size <= 3 ? BigInt(word) : BigInt(word) << BigInt(8 * (size - 3));
  const overflow =
    word !== 0 && (size > 34 || (word > 0xff && size > 33) || (word > 0xffff && size > 32));
  return {
    value: value & TARGET_MAX,
    negative: word !== 0 && (bits & 0x00800000) !== 0,
    overflow,
  };
}

/** Compact bits (unsigned 32-bit) → target, or null when no hash may be compared with it: negative, overflow or zero. */
export function decodeBits(bits: number): bigint | null {
  const { value, negative, overflow } = readCompact(bits);
  return negative || overflow || value === 0n ? null : value;
}

/** Target → compact bits (unsigned 32-bit), truncated as Core's GetCompact truncates. `target` is in [0, 2^256). */
export function encodeBits(target: bigint): number {
  if (target < 0n || target > TARGET_MAX) throw new RangeError('target outside 256 bits');
  let size = Math.ceil(bitLength(target) / 8);
  let word =
    size <= 3 ? Number(target) << (8 * (3 - size)) : Number(target >> BigInt(8 * (size - 3)));
  if ((word & 0x00800000) !== 0) {
    word >>>= 8;
    size += 1;
  }
  return (word | (size << 24)) >>> 0;
}

/**
 * The target of a difficulty: floor(DIFFICULTY_1_TARGET / difficulty), the double taken as the exact rational it is,
 * clamped to [1, 2^256 − 1]. Throws RangeError unless `difficulty` is finite and above zero.
 */
export function targetOfDifficulty(difficulty: number): bigint {
  const { mantissa, exponent } = rationalOf(difficulty);
  const target =
    exponent >= 0
      ? DIFFICULTY_1_TARGET / (mantissa << BigInt(exponent))
      : (DIFFICULTY_1_TARGET << BigInt(-exponent)) / mantissa;
  if (target < 1n) return 1n;
  return target > TARGET_MAX ? TARGET_MAX : target;
}

/** DIFFICULTY_1_TARGET / target, rounded to the nearest double (ties to even). Throws RangeError outside [1, 2^256). */
export function difficultyOfTarget(target: bigint): number {
  if (target < 1n || target > TARGET_MAX) throw new RangeError('target outside 256 bits');
  // A quotient of at least 64 bits, its lowest bit made sticky by the remainder, rounds as the true ratio does.
  const shift = Math.max(0, 64 + bitLength(target) - bitLength(DIFFICULTY_1_TARGET));
  const numerator = DIFFICULTY_1_TARGET << BigInt(shift);
  const quotient = numerator / target;
  const sticky = numerator % target === 0n ? 0n : 1n;
  return Number(quotient | sticky) / 2 ** shift;
}

/** Expected number of hashes for a block of this target: floor(2^256 / (target + 1)), as Core's GetBlockProof. */
export function workOfTarget(target: bigint): bigint {
  return (1n << 256n) / (target + 1n);
}

/**
 * What an accepted share of this difficulty is worth: floor(difficulty · 2^48), exact. A fixed-point integer, so that sums
 * over any number of shares do not depend on their order. Throws RangeError unless finite and above zero.
 */
export function workOfDifficulty(difficulty: number): bigint {
  const { mantissa, exponent } = rationalOf(difficulty);
  const shift = exponent + 48;
  return shift >= 0 ? mantissa << BigInt(shift) : mantissa >> BigInt(-shift);
}

/** The 32 bytes of a hash in wire order as the integer that is compared with a target (little-endian). */
export function hashToInteger(hash: Uint8Array): bigint {
  const view = new DataView(hash.buffer, hash.byteOffset, 32);
  return (
    (view.getBigUint64(24, true) << 192n) |
    (view.getBigUint64(16, true) << 128n) |
    (view.getBigUint64(8, true) << 64n) |
    view.getBigUint64(0, true)
  );
}

/** The double as mantissa · 2^exponent, both integers, exact. */
function rationalOf(value: number): { mantissa: bigint; exponent: number } {
  if (!Number.isFinite(value) || value <= 0) {
    throw new RangeError(`difficulty must be finite and above zero, not ${value}`);
  }
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const biased = Number(bits >> 52n);
  const fraction = bits & ((1n << 52n) - 1n);
  return biased === 0
    ? { mantissa: fraction, exponent: -1074 }
    : { mantissa: fraction | (1n << 52n), exponent: biased - 1075 };
}

function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}
