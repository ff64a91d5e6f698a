/**
 * Variable difficulty, pure: shares and silences in, a new difficulty or nothing out.
 *
 * The estimate is work over time, of shares at the difficulty in force; what is in flight after a change is left out.
 * Three rules: far too fast is corrected after ten shares (a surge), silence sinks the difficulty
 * in growing steps while the miner is unknown and gently later, and everything between is looked at once in forty shares
 * with a wide dead band. Results are powers of two: exact in every firmware's float, and few distinct targets.
 *
 * One precedence of wishes, highest first:
 *   1. `fd=` in the password: fixed, vardiff off;
 *   2. `d=` or `diff=` in the password, then `+n` or `=n` behind the username: a start;
 *   3. mining.suggest_difficulty or suggest_target: a start; the first counts at once, a different one once a minute;
 *   4. what this worker had when it was last here;
 *   5. the start of its firmware profile (rentals), then of the port.
 * BIP310 minimum-difficulty is a floor under all of them. The port's bounds clamp every one, and the network's difficulty is
 * a further maximum down to the port's minimum: a miner that is told a harder share than a block keeps blocks to itself.
 */

export type VardiffPolicy = {
  /** Wanted time between two shares of one session. */
  intervalMs: number;
  /** Shares in one look. ckpool: 72 shares or 240 s. */
  lookShares: number;
  /** Outside this band around 1 a look changes the difficulty. ckpool's is as wide. */
  bandLow: number;
  bandHigh: number;
  /** Shares that show a surge, and how many times too fast they must be. */
  surgeShares: number;
  surgeRatio: number;
  /** Most that one change raises the difficulty. */
  raiseMax: number;
};

export const VARDIFF_POLICY: VardiffPolicy = {
  intervalMs: 6_000,
  lookShares: 40,
  bandLow: 0.5,
  bandHigh: 2,
  surgeShares: 10,
  surgeRatio: 4,
  raiseMax: 2_048,
};

/** Numbers only, one object per session. */
export type Vardiff = {
  /** In force with the newest job of the session. */
  difficulty: number;
  /** Decided, waiting for the next job; 0 when none. */
  pending: number;
  fixed: boolean;
  /** From BIP310 minimum-difficulty; 0 when not asked. */
  floor: number;
  /** A window had shares enough to know the miner; a single lucky share does not count. */
  settled: boolean;
  /** Steps down for silence, in a row once settled. */
  sinks: number;
  windowStartMs: number;
  /** The window's first share. */
  windowFirstMs: number;
  windowShares: number;
  windowWork: number;
  lastShareAtMs: number;
};

export type VardiffBounds = {
  min: number;
  /** Wins over `min`. */
  max: number;
};

/** How a firmware wants to be told: some truncate fractions (ESP-Miner up to 2.13), some only take powers of two. */
export type DifficultyForm = 'any' | 'integer' | 'power-of-two';

/** Expected shares without one that count as silence: e^−5 and e^−8, i.e. 0.7 % and 0.03 % by chance. */
const SILENT_NEW = 5;
const SILENT_SETTLED = 8;
const SINK_NEW = 64;
const SINK_SETTLED = 4;
/** A slow miner is corrected when it sent under a quarter of this many expected shares (0.2 % by chance at 12). */
const SLOW_EXPECTED = 12;
/** Time that a surge is taken to have lasted at least: one packet can hold ten shares. */
const SURGE_MS_MIN = 250;

/** A session's state at its start. `difficulty` is already clamped. */
export function startVardiff(difficulty: number, nowMs: number): Vardiff {
  return {
    difficulty,
    pending: 0,
    fixed: false,
    floor: 0,
    settled: false,
    sinks: 0,
    windowStartMs: nowMs,
    windowFirstMs: nowMs,
    windowShares: 0,
    windowWork: 0,
    lastShareAtMs: nowMs,
  };
}

/**
 * Counts an accepted share of `difficulty` (what it was credited at) and says what difficulty should come next, or 0 for no
 * change. The caller sets it with `proposeDifficulty`.
 */
export function noteShare(
  state: Vardiff,
  difficulty: number,
  policy: VardiffPolicy,
  nowMs: number,
): number {
  if (state.settled) state.sinks = 0;
  state.lastShareAtMs = nowMs;
  if (difficulty !== state.difficulty) {
    // Still on its way when the difficulty changed: an easier one tells how fast the line is, a harder one tells of luck.
    if (state.windowShares === 0) state.windowStartMs = nowMs;
    return 0;
  }
  if (state.windowShares === 0) state.windowFirstMs = nowMs;
  state.windowShares += 1;
  state.windowWork += difficulty;
  if (state.windowShares < policy.surgeShares) return 0;
  state.settled = true;
  if (state.fixed || state.pending !== 0) return 0;
  // From the first share on, which counts for nothing: that is exact, and free of the time the miner needed to hear of it.
  const elapsedMs = nowMs - state.windowFirstMs;
  const work = (state.windowWork * (state.windowShares - 1)) / state.windowShares;
  const isBurst = state.windowShares >= policy.surgeShares * 6;
  if (elapsedMs >= SURGE_MS_MIN || isBurst) {
    const wanted = (work * policy.intervalMs) / Math.max(elapsedMs, SURGE_MS_MIN);
    if (wanted >= state.difficulty * policy.surgeRatio) {
      return Math.min(wanted, state.difficulty * policy.raiseMax);
    }
    if (state.windowShares >= policy.lookShares) return look(state, wanted, policy, nowMs);
  }
  return 0;
}

/**
 * The same without a share, called now and then: the difficulty that silence or slowness asks for, or 0.
 */
export function noteSilence(state: Vardiff, policy: VardiffPolicy, nowMs: number): number {
  if (state.fixed || state.pending !== 0) return 0;
  const elapsedMs = nowMs - state.windowStartMs;
  const expected = elapsedMs / policy.intervalMs;
  if (!state.settled && state.windowShares === 0) {
    if (expected < SILENT_NEW) return 0;
    state.sinks += 1;
    return state.difficulty / SINK_NEW ** Math.min(state.sinks, 4);
  }
  if (
    state.settled &&
    nowMs - state.lastShareAtMs >= SILENT_SETTLED * policy.intervalMs &&
    expected >= SILENT_SETTLED
  ) {
    state.sinks += 1;
    return state.difficulty / SINK_SETTLED;
  }
  if (expected < SLOW_EXPECTED) return 0;
  const wanted = (state.windowWork * policy.intervalMs) / elapsedMs;
  if (wanted < state.difficulty / 4) {
    // Some shares did come: the next silence is taken less seriously.
    if (!state.settled && state.sinks > 0) state.sinks -= 1;
    return Math.max(wanted, state.difficulty / 64);
  }
  if (expected >= policy.lookShares) return look(state, wanted, policy, nowMs);
  return 0;
}

/**
 * Puts a difficulty forward: clamped, in the firmware's form, vardiff's own results as powers of two. Returns true when it
 * differs from what is in force (and then waits in `pending` for the next job), false when nothing is to be told.
 */
export function proposeDifficulty(
  state: Vardiff,
  wanted: number,
  bounds: VardiffBounds,
  form: DifficultyForm,
): boolean {
  const next = clampDifficulty(
    wanted,
    { min: Math.max(bounds.min, state.floor), max: bounds.max },
    form,
  );
  if (next === state.difficulty) {
    state.pending = 0;
    return false;
  }
  state.pending = next;
  return true;
}

/** The pending difficulty goes out with a job: a new window begins. */
export function applyDifficulty(state: Vardiff, nowMs: number): void {
  if (state.pending !== 0) {
    state.difficulty = state.pending;
    state.pending = 0;
  }
  restartWindow(state, nowMs);
}

/** Forgets what was measured, e.g. after a decision that turned out to change nothing. */
export function restartWindow(state: Vardiff, nowMs: number): void {
  state.windowStartMs = nowMs;
  state.windowShares = 0;
  state.windowWork = 0;
}

/**
 * Brings any number into the bounds and form. Not finite, zero and negative become the minimum. The maximum wins over the
 * minimum and over the form: integer firmware on a network with difficulty below 1 gets the fraction.
 */
export function clampDifficulty(
  wanted: number,
  { min, max }: VardiffBounds,
  form: DifficultyForm,
): number {
  if (!(wanted > 0)) wanted = min;
  let difficulty = Math.min(Math.max(wanted, min), max);
  if (form === 'power-of-two') {
    difficulty = nearestPowerOfTwo(difficulty);
    if (difficulty < min) difficulty *= 2;
    if (difficulty > max) difficulty /= 2;
  } else if (form === 'integer') {
    difficulty = Math.max(1, Math.round(difficulty));
  }
  return difficulty > max || !(difficulty > 0) ? max : difficulty;
}

/** The power of two nearest on the logarithmic scale, for any positive finite number. */
export function nearestPowerOfTwo(value: number): number {
  return 2 ** Math.min(1023, Math.max(-1022, Math.round(Math.log2(value))));
}

/** End of a regular look: a change when outside the band; else the window is halved, so that it slides. */
function look(state: Vardiff, wanted: number, policy: VardiffPolicy, nowMs: number): number {
  const ratio = wanted / state.difficulty;
  if (ratio < policy.bandLow || ratio > policy.bandHigh) {
    return Math.min(wanted, state.difficulty * policy.raiseMax);
  }
  state.windowStartMs = nowMs - (nowMs - state.windowStartMs) / 2;
  state.windowFirstMs = nowMs - (nowMs - state.windowFirstMs) / 2;
  state.windowShares = Math.floor(state.windowShares / 2);
  state.windowWork /= 2;
  return 0;
}
