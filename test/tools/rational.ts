/** Fractions of any size, for oracles that must not share a line of arithmetic with what they judge. */

export class Rational {
  readonly top: bigint;
  readonly bottom: bigint;

  constructor(top: bigint, bottom = 1n) {
    if (bottom === 0n) throw new RangeError('nothing is divided by zero');
    const sign = bottom < 0n ? -1n : 1n;
    const divisor = greatestDivisor(top < 0n ? -top : top, bottom * sign);
    this.top = (sign * top) / divisor;
    this.bottom = (sign * bottom) / divisor;
  }

  plus(other: Rational): Rational {
    return new Rational(
      this.top * other.bottom + other.top * this.bottom,
      this.bottom * other.bottom,
    );
  }

  minus(other: Rational): Rational {
    return this.plus(new Rational(-other.top, other.bottom));
  }

  times(other: Rational): Rational {
    return new Rational(this.top * other.top, this.bottom * other.bottom);
  }

  over(other: Rational): Rational {
    return new Rational(this.top * other.bottom, this.bottom * other.top);
  }

  /** Below zero, zero or above zero, as a comparison function wants it. */
  compare(other: Rational): number {
    const difference = this.top * other.bottom - other.top * this.bottom;
    return difference < 0n ? -1 : difference > 0n ? 1 : 0;
  }

  /** The largest integer that is not above it. */
  floor(): bigint {
    const quotient = this.top / this.bottom;
    return this.top < 0n && quotient * this.bottom !== this.top ? quotient - 1n : quotient;
  }
}

/** The difficulty as the exact fraction that the double is. */
export function rationalOfNumber(value: number): Rational {
  let exponent = 0n;
  while (!Number.isInteger(value)) {
    value *= 2;
    exponent += 1n;
  }
  return new Rational(BigInt(value), 1n << exponent);
}

function greatestDivisor(a: bigint, b: bigint): bigint {
  while (b !== 0n) [a, b] = [b, a % b];
  return a === 0n ? 1n : a;
}
