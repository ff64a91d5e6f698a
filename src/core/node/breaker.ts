/**
 * A circuit breaker as a pure state: after a row of failures nothing is asked for a while, then one probe decides. The pause
 * doubles from 1 s to its maximum. It protects a node that is down or drowning from a caller that polls, and the caller from
 * waiting for time-outs. The block lane does not use it.
 */

export type Breaker = { failures: number; openUntilMs: number; pauseMs: number; probing: boolean };

export type BreakerLimits = { failuresMax: number; pauseMinMs: number; pauseMaxMs: number };

export const BREAKER_LIMITS: BreakerLimits = { failuresMax: 3, pauseMinMs: 1000, pauseMaxMs: 5000 };

export function createBreaker(): Breaker {
  return { failures: 0, openUntilMs: 0, pauseMs: 0, probing: false };
}

/** May a call go out now? In the half-open state exactly one may, until its outcome is recorded. */
export function admitCall(breaker: Breaker, nowMs: number): boolean {
  if (breaker.openUntilMs === 0) return true;
  if (nowMs < breaker.openUntilMs || breaker.probing) return false;
  breaker.probing = true;
  return true;
}

/** Records how a call went. Any answer of the node, even an error, is a success here. */
export function recordCall(
  breaker: Breaker,
  succeeded: boolean,
  nowMs: number,
  limits: BreakerLimits = BREAKER_LIMITS,
): void {
  if (succeeded) {
    breaker.failures = 0;
    breaker.openUntilMs = 0;
    breaker.pauseMs = 0;
    breaker.probing = false;
    return;
  }
  breaker.failures = Math.min(breaker.failures + 1, limits.failuresMax);
  if (breaker.failures < limits.failuresMax) return;
  if (breaker.openUntilMs !== 0 && !breaker.probing) return; // A straggler from before it opened.
  breaker.pauseMs = Math.min(
    breaker.pauseMs === 0 ? limits.pauseMinMs : breaker.pauseMs * 2,
    limits.pauseMaxMs,
  );
  breaker.openUntilMs = nowMs + breaker.pauseMs;
  breaker.probing = false;
}

/** The probe ended without telling anything (aborted by us): the next call may probe. */
export function releaseProbe(breaker: Breaker): void {
  breaker.probing = false;
}
