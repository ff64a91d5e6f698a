/**
 * What a benchmark hands back, and how it is judged: a figure with its unit, the target it has to reach, and a baseline taken
 * in the same run. Comparison with the stored figures (`bench/baseline.json`) uses the rule of platformatic/kafka's regression
 * suite: below 85 % of the stored speed or above 120 % of the stored cost is called a regression.
 * Pure functions; `bench/main.ts` prints and writes.
 */

/** One measured number. */
export type Figure = {
  /** Short noun phrase, unique within its benchmark; key into the stored baseline. */
  metric: string;
  value: number;
  unit: string;
  better: 'lower' | 'higher';
  /** The release target in the same unit; absent for figures that only inform. */
  target?: number;
  /** The yardstick measured in the same run. */
  against?: { name: string; value: number };
  /** Anything a reader must know to trust the number. */
  note?: string;
};

/** Stored figures of an earlier run, keyed `bench/metric`. */
export type Baseline = {
  machine: string;
  takenAt: string;
  figures: Record<string, { value: number; unit: string }>;
};

/** Options every benchmark gets from the command line. */
export type BenchOptions = {
  /** Shrinks every load so that a run takes a few seconds: shows that the benchmark works, its figures mean little. */
  short: boolean;
  /** Folder for `--cpu-prof` output of server processes, or null. */
  profileDirectory: string | null;
  /** Progress line for the person waiting. */
  say(text: string): void;
};

/** One benchmark file exports one of these. */
export type Bench = {
  name: string;
  title: string;
  run(options: BenchOptions): Promise<Figure[]>;
};

export const SPEED_KEPT_MIN = 0.85;
export const COST_GROWN_MAX = 1.2;

/**
 * Value over yardstick, as people read it: for costs and latencies "1.8x" is 1.8 times the yardstick's cost.
 * Returns null where there is no yardstick or it is zero.
 */
export function ratioOf(figure: Figure): number | null {
  if (figure.against === undefined || figure.against.value === 0) return null;
  return figure.value / figure.against.value;
}

/** Whether the target is met; null where the figure has none. */
export function targetMet(figure: Figure): boolean | null {
  if (figure.target === undefined) return null;
  return figure.better === 'lower' ? figure.value <= figure.target : figure.value >= figure.target;
}

/** Verdict against the stored figure: `same`, `better`, `worse` (beyond the two bounds), or `new` where none is stored. */
export function compareFigure(
  bench: string,
  figure: Figure,
  baseline: Baseline | null,
): { verdict: 'same' | 'better' | 'worse' | 'new'; ratio: number | null } {
  const stored = baseline?.figures[`${bench}/${figure.metric}`];
  if (stored === undefined || stored.unit !== figure.unit || stored.value === 0) {
    return { verdict: 'new', ratio: null };
  }
  const ratio = figure.value / stored.value;
  if (figure.better === 'lower') {
    if (ratio > COST_GROWN_MAX) return { verdict: 'worse', ratio };
    return { verdict: ratio < SPEED_KEPT_MIN ? 'better' : 'same', ratio };
  }
  if (ratio < SPEED_KEPT_MIN) return { verdict: 'worse', ratio };
  return { verdict: ratio > COST_GROWN_MAX ? 'better' : 'same', ratio };
}

/** Number with at most three significant digits below 1000, thousands separated above. */
export function formatValue(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US');
  if (Math.abs(value) >= 100) return value.toFixed(0);
  if (Math.abs(value) >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

/** The figures of one benchmark as aligned text lines, header first. */
export function formatTable(
  bench: string,
  figures: readonly Figure[],
  baseline: Baseline | null,
): string[] {
  const head = ['metric', 'value', 'target', 'met', 'yardstick (same run)', 'ratio', 'stored'];
  const rows = figures.map((figure) => {
    const met = targetMet(figure);
    const ratio = ratioOf(figure);
    const compared = compareFigure(bench, figure, baseline);
    const sign = figure.better === 'lower' ? '<=' : '>=';
    return [
      figure.metric,
      `${formatValue(figure.value)} ${figure.unit}`,
      figure.target === undefined ? '' : `${sign} ${formatValue(figure.target)}`,
      met === null ? '' : met ? 'yes' : 'NO',
      figure.against === undefined
        ? ''
        : `${figure.against.name}: ${formatValue(figure.against.value)}`,
      ratio === null ? '' : `${ratio.toFixed(2)}x`,
      compared.ratio === null
        ? ''
        : `${compared.ratio.toFixed(2)}x${compared.verdict === 'worse' ? ' WORSE' : compared.verdict === 'better' ? ' better' : ''}`,
    ];
  });
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length)),
  );
  const line = (cells: string[]): string =>
    cells
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd();
  const out = [line(head), widths.map((width) => '-'.repeat(width)).join('  ')];
  figures.forEach((figure, index) => {
    out.push(line(rows[index]!));
    if (figure.note !== undefined) out.push(`    ${figure.note}`);
  });
  return out;
}

/** The value at share `p` (0..1) of a sorted array; NaN for an empty one. */
export function percentile(sorted: ArrayLike<number>, p: number): number {
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(p * sorted.length) - 1))]!;
}
