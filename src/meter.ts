/**
 * Counts of a worker thread, sent to the main thread every second, where the metrics page is made. Names are those the services
 * use (`jobs_withdrawn`, `block_to_submit_ms`); `figures` gives them the form of the page.
 */
import type { Figure } from './metrics.ts';

type Labels = Readonly<Record<string, string>>;

export type Meter = {
  count(name: string, labels?: Labels): void;
  /** Counts several at once. */
  add(name: string, amount: number, labels?: Labels): void;
  set(name: string, value: number, labels?: Labels): void;
  /** A duration or size: its count, sum and greatest are kept. */
  observe(name: string, value: number, labels?: Labels): void;
  figures(): Figure[];
};

/** Series per thread; labels are names of nodes and closed words, so that only a mistake gets here. */
const SERIES_MAX = 1_000;

/** A meter with nothing counted yet. Series over the maximum are dropped. */
export function createMeter(): Meter {
  const series = new Map<string, Figure>();

  function of(name: string, kind: Figure['kind'], labels: Labels): Figure | null {
    const key = JSON.stringify([name, labels]);
    const known = series.get(key);
    if (known !== undefined) return known;
    if (series.size >= SERIES_MAX) return null;
    const figure: Figure = { name, kind, value: 0, labels, help: name.replaceAll('_', ' ') };
    series.set(key, figure);
    return figure;
  }

  function add(name: string, value: number, labels: Labels): void {
    const figure = of(`headframe_${name}_total`, 'counter', labels);
    if (figure !== null) figure.value += value;
  }

  return {
    count: (name, labels = {}) => add(name, 1, labels),
    add: (name, amount, labels = {}) => add(name, amount, labels),
    set(name, value, labels = {}) {
      const figure = of(`headframe_${name}`, 'gauge', labels);
      if (figure !== null) figure.value = value;
    },
    observe(name, value, labels = {}) {
      add(`${name}_count`, 1, labels);
      add(`${name}_sum`, value, labels);
      const greatest = of(`headframe_${name}_max`, 'gauge', labels);
      if (greatest !== null) greatest.value = Math.max(greatest.value, value);
    },
    figures: () => [...series.values()],
  };
}
