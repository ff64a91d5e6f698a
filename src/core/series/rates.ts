/**
 * What charts ask the time series for: the rate and the shares of a pool, of an account or of a worker by time, as the text of a
 * query and the reading of its rows. Rates come from accepted work alone.
 */
import { HASHES_PER_DIFFICULTY } from '../work/hashrate.ts';
import { cleanTag, quoteText } from './line.ts';

/** Whose shares: of a whole pool; with an account, of that one; with a worker, of that one alone. */
export type RateSubject =
  | { pool: string; account?: undefined; worker?: undefined }
  | { pool: string; account: string; worker?: string };

/** From the first step that begins at or after `fromMs` to the one that ends at or before `untilMs`. */
export type RateSpan = { fromMs: number; untilMs: number; stepMs: number };

export type RatePoint = {
  /** Where the step begins. */
  atMs: number;
  /** Hashes per second over the step. */
  hps: number;
  shares: number;
};

/** More than any chart has pixels. */
const POINTS_MAX = 10_000;
const STEP_MS_MIN = 10_000;

/** Shares of one status by time. `valid` is what rates are made of. A span that is none throws a RangeError. */
export function rateQuery(subject: RateSubject, span: RateSpan, status = 'valid'): string {
  const { firstMs, endMs, stepMs } = stepsOf(span);
  const { pool, account, worker } = subject;
  const conditions = [
    `time >= ${firstMs}ms`,
    `time < ${endMs}ms`,
    `pool = ${tagText(pool)}`,
    `status = ${tagText(status)}`,
  ];
  if (account !== undefined) conditions.push(`miner_address = ${tagText(account)}`);
  if (worker !== undefined) conditions.push(`worker_name = ${tagText(worker)}`);
  const measurement = account === undefined ? 'pool' : 'shares';
  return (
    `SELECT sum(difficulty) AS difficulty, sum(count) AS shares FROM ${measurement}` +
    ` WHERE ${conditions.join(' AND ')} GROUP BY time(${stepMs}ms) fill(none)`
  );
}

/** The answer to `rateQuery`: every step of the span, those without a share with zero. Rows that are none are passed over. */
export function readRates(rows: readonly Record<string, unknown>[], span: RateSpan): RatePoint[] {
  const { firstMs, endMs, stepMs } = stepsOf(span);
  const points = Array.from(
    { length: (endMs - firstMs) / stepMs },
    (_, i): RatePoint => ({ atMs: firstMs + i * stepMs, hps: 0, shares: 0 }),
  );
  for (const { time, difficulty, shares } of rows) {
    if (typeof time !== 'number') continue;
    const point = points[(time - firstMs) / stepMs];
    if (point === undefined) continue;
    point.hps = (positive(difficulty) * HASHES_PER_DIFFICULTY * 1_000) / stepMs;
    point.shares = positive(shares);
  }
  return points;
}

function stepsOf(span: RateSpan): { firstMs: number; endMs: number; stepMs: number } {
  const { fromMs, untilMs, stepMs } = span;
  if (!Number.isSafeInteger(stepMs) || stepMs < STEP_MS_MIN || stepMs % STEP_MS_MIN !== 0) {
    throw new RangeError(`a step is a multiple of ${STEP_MS_MIN} ms, not ${stepMs}`);
  }
  const firstMs = Math.ceil(fromMs / stepMs) * stepMs;
  const endMs = Math.floor(untilMs / stepMs) * stepMs;
  if (!Number.isSafeInteger(firstMs) || !Number.isSafeInteger(endMs) || firstMs < 0) {
    throw new RangeError('the span has no times');
  }
  if (endMs < firstMs) return { firstMs, endMs: firstMs, stepMs };
  if ((endMs - firstMs) / stepMs > POINTS_MAX) {
    throw new RangeError(`a span has at most ${POINTS_MAX} steps`);
  }
  return { firstMs, endMs, stepMs };
}

function positive(value: unknown): number {
  return typeof value === 'number' && value > 0 && value < Number.MAX_VALUE ? value : 0;
}

function tagText(text: string): string {
  return quoteText(cleanTag(text));
}
