/** Exact fractions: the arithmetic of the judge, so that rounding is written down in one more style than the product's. */

export class Fraction {
  readonly top: bigint;
  readonly bottom: bigint;

  /** `bottom` above zero; not reduced, the numbers stay small enough. */
  constructor(top: bigint, bottom = 1n) {
    if (bottom <= 0n) throw new RangeError('a fraction needs a bottom above zero');
    this.top = top;
    this.bottom = bottom;
  }

  plus(other: Fraction): Fraction {
    return this.bottom === other.bottom
      ? new Fraction(this.top + other.top, this.bottom)
      : new Fraction(this.top * other.bottom + other.top * this.bottom, this.bottom * other.bottom);
  }

  minus(other: Fraction): Fraction {
    return this.plus(new Fraction(-other.top, other.bottom));
  }

  times(other: Fraction): Fraction {
    return new Fraction(this.top * other.top, this.bottom * other.bottom);
  }

  /** Below zero, zero or above: as this is less than, equal to or more than the other. */
  compare(other: Fraction): number {
    const difference = this.top * other.bottom - other.top * this.bottom;
    return difference < 0n ? -1 : difference > 0n ? 1 : 0;
  }

  /** The greatest integer that is not more. */
  floor(): bigint {
    const quotient = this.top / this.bottom;
    return this.top < 0n && quotient * this.bottom !== this.top ? quotient - 1n : quotient;
  }
}

/** Sum of many fractions, added by their bottoms first so that numbers do not grow. */
export function sumFractions(terms: Iterable<Fraction>): Fraction {
  const byBottom = new Map<bigint, bigint>();
  for (const { top, bottom } of terms) byBottom.set(bottom, (byBottom.get(bottom) ?? 0n) + top);
  let sum = new Fraction(0n);
  for (const [bottom, top] of byBottom) sum = sum.plus(new Fraction(top, bottom));
  return sum;
}
