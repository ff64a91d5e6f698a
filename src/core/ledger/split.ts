/**
 * The one division of the ledger: an amount over parts in proportion to their work, exact to the last unit. Everybody gets the
 * floor of his quota; what is left, less than one unit for each part, goes one unit each to the largest fractions, ties to the
 * part that stands first (largest remainder, also called Hamilton's method). Refused as bugs: negative amounts or work, an id twice.
 *
 * A part whose work grows while the others' stays never gets less.
 */

export type WorkPart = { id: bigint; work: bigint };

/**
 * `amount` (satoshi, or any other unit, ≥ 0) over `parts` → what each id gets; adds up to exactly `amount` whenever any part
 * has work. Parts without work get 0. With no work at all nobody gets anything. Throws RangeError for what is refused.
 */
export function splitByWork(amount: bigint, parts: readonly WorkPart[]): Map<bigint, bigint> {
  if (amount < 0n) throw new RangeError(`a negative amount cannot be split: ${amount}`);
  let totalWork = 0n;
  for (const { work } of parts) {
    if (work < 0n) throw new RangeError(`negative work: ${work}`);
    totalWork += work;
  }
  const result = new Map<bigint, bigint>();
  const fractions: { id: bigint; fraction: bigint }[] = [];
  let left = amount;
  for (const { id, work } of parts) {
    const scaled = totalWork === 0n ? 0n : amount * work;
    const floor = totalWork === 0n ? 0n : scaled / totalWork;
    const fraction = totalWork === 0n ? 0n : scaled % totalWork;
    result.set(id, floor);
    left -= floor;
    if (fraction > 0n) fractions.push({ id, fraction });
  }
  if (result.size !== parts.length) throw new RangeError('an id stands twice among the parts');
  if (totalWork === 0n || left === 0n) return result;
  // Sorting keeps the order of equals.
  fractions.sort((a, b) => compare(b.fraction, a.fraction));
  // The floors fall short by the sum of the fractions, so there are more fractions than units left.
  for (const { id } of fractions.slice(0, Number(left))) result.set(id, result.get(id)! + 1n);
  return result;
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
