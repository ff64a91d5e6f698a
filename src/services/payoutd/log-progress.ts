/**
 * Has everything that was accepted up to a moment reached the share log? Shares come from journals that may have been held up, a
 * database that was away most of all. The log is past a moment when it holds a share accepted well after it, or when nothing has come
 * for as long.
 */
import type { Clock, Db } from '../../ports.ts';
import { readLastSeq } from '../../store/crediting.ts';
import { lastSeqAtOrBefore } from '../../store/windows.ts';

export type LogProgress = {
  /** To be called in every cycle. */
  observe(): Promise<void>;
  /** Whether shares accepted up to `atMs` can be taken to be there. */
  isPast(atMs: number): Promise<boolean>;
};

/** How long after a moment the log must have gone on, or been silent. */
const PATIENCE_MS = 60_000;

/** Nothing is known before the first `observe`. `isIdle`: says whether journals have nothing left to ship, where that is known. */
export function createLogProgress(
  tools: { clock: Clock; db: Db },
  isIdle: () => boolean,
): LogProgress {
  const { clock, db } = tools;
  let lastSeq = -1n;
  let quietSinceMs = Number.POSITIVE_INFINITY;

  return {
    async observe() {
      const now = await readLastSeq(db);
      if (now === lastSeq) return;
      lastSeq = now;
      quietSinceMs = clock.nowMs();
    },
    async isPast(atMs) {
      const nowMs = clock.nowMs();
      if (nowMs - atMs < PATIENCE_MS || !isIdle()) return false;
      if (nowMs - quietSinceMs >= PATIENCE_MS) return true;
      return (await lastSeqAtOrBefore(db, atMs + PATIENCE_MS)) < (await readLastSeq(db));
    },
  };
}
