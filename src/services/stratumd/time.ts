/**
 * Two times from one number handed in: the wall clock for what is written down, and one that only moves forward for everything
 * that is a duration (promise P33: no jump of the clock times out a miner).
 */

/** The most that a duration grows between two calls; the gateway is called four times a second. */
const STEP_MS_MAX = 60_000;

export class SessionTime {
  /** Milliseconds since 1970 as last handed in. */
  wallMs = 0;
  /** Started at the wall clock, but never goes back and never jumps. */
  nowMs = 0;

  /** Takes the wall clock in. */
  advance(wallMs: number): void {
    if (wallMs === this.wallMs) return;
    if (this.wallMs === 0) {
      this.nowMs = wallMs;
    } else {
      const stepMs = wallMs - this.wallMs;
      if (stepMs > 0) this.nowMs += stepMs < STEP_MS_MAX ? stepMs : STEP_MS_MAX;
    }
    this.wallMs = wallMs;
  }
}
