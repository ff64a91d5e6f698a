/**
 * Whose jobs a gateway hands out when several job managers publish them. The tip with most work is followed; on the same tip the
 * gateway stays with the job manager it has, and leaves it only when that one has been silent for too long or its tip is behind.
 * What nobody says any more is still not given up for an older tip, unless it has been silent for long. Pure: time is handed in.
 */

import { encodeHex } from '../bitcoin/bytes.ts';
import type { Job } from './job.ts';

/** Where a job comes from. */
export type JobOrigin = {
  /** The job manager's name; empty where there is only one. */
  source: string;
  /** Work of the whole chain up to the block it builds on; null when the node has not told yet. */
  tipWork: bigint | null;
  /** It was published before, and is said again: its source is alive. */
  isAgain: boolean;
};

export type FollowLimits = {
  /** A job manager that says nothing for so long is left for another. */
  silentMs: number;
  /** Changes of the job manager are at least so far apart. */
  changeMs: number;
  /** The tip of a silent job manager is held against older ones for so long. */
  heldMs: number;
  /** Job managers remembered. */
  sourcesMax: number;
};

export const FOLLOW_LIMITS: FollowLimits = {
  silentMs: 10_000,
  changeMs: 1_000,
  heldMs: 120_000,
  sourcesMax: 16,
};

type Voice = {
  source: string;
  job: Job;
  tip: string;
  tipWork: bigint | null;
  heardAtMs: number;
};

export class JobSources {
  readonly #limits: FollowLimits;
  /** By name, the one that spoke last at the end. */
  readonly #voices = new Map<string, Voice>();
  #handed: Voice | null = null;
  #changedAtMs = Number.NEGATIVE_INFINITY;
  /** Times another job manager was taken. */
  changes = 0;

  constructor(limits: FollowLimits = FOLLOW_LIMITS) {
    this.#limits = limits;
  }

  /** The job manager whose work is handed out; null before the first job. */
  get source(): string | null {
    return this.#handed?.source ?? null;
  }

  /** A job was published, or said again. Answers the job to hand out from now on, or null when that does not change. */
  hear(job: Job, origin: JobOrigin, nowMs: number): Job | null {
    const { source, tipWork } = origin;
    this.#forgiveAll(nowMs);
    const before = this.#voices.get(source);
    const isSame = before?.job.jobId === job.jobId;
    this.#voices.delete(source);
    this.#voices.set(source, {
      source,
      job: isSame ? before.job : job,
      tip: encodeHex(job.previousHash),
      tipWork: tipWork ?? (isSame ? before.tipWork : null),
      heardAtMs: nowMs,
    });
    if (this.#voices.size > this.#limits.sourcesMax) this.#forgetEldest();
    return this.look(nowMs);
  }

  /** To be asked every second or so: silence is noticed here, and a change that had to wait is made. */
  look(nowMs: number): Job | null {
    const best = this.#best(nowMs);
    const handed = this.#handed;
    if (best === null || best === handed) return null;
    if (handed !== null && best.source !== handed.source) {
      if (nowMs - this.#changedAtMs < this.#limits.changeMs && nowMs >= this.#changedAtMs)
        return null;
      this.#changedAtMs = nowMs;
      this.changes += 1;
    }
    this.#handed = best;
    const { job } = best;
    if (handed === null) return job;
    if (job.jobId === handed.job.jobId) return null;
    // On the same tip the work of the one is as good as that of the other: miners need not drop it.
    const isTakenOver = best.source !== handed.source && best.tip === handed.tip;
    return isTakenOver && job.clean ? { ...job, clean: false } : job;
  }

  #best(nowMs: number): Voice | null {
    const handed = this.#handed;
    const own = handed === null ? undefined : this.#voices.get(handed.source);
    let best: Voice | null = own !== undefined && this.#isHeard(own, nowMs) ? own : null;
    for (const voice of this.#voices.values()) {
      if (!this.#isHeard(voice, nowMs)) continue;
      if (best === null || compareVoices(voice, best) > 0) best = voice;
    }
    if (best === null || handed === null) return best;
    // Its job manager is gone and not of another opinion: an older tip is no way out.
    const isHeld =
      own !== undefined &&
      !this.#isHeard(own, nowMs) &&
      nowMs - own.heardAtMs < this.#limits.heldMs &&
      own.tip === handed.tip;
    return isHeld && compareTips(best, handed) < 0 ? null : best;
  }

  /** A clock that jumps back must not make anybody silent. */
  #isHeard({ heardAtMs }: Voice, nowMs: number): boolean {
    return nowMs - heardAtMs < this.#limits.silentMs;
  }

  /** When nobody at all was heard, it was the road to us: then nobody is silent before he had time to speak. */
  #forgiveAll(nowMs: number): void {
    for (const voice of this.#voices.values()) if (this.#isHeard(voice, nowMs)) return;
    for (const voice of this.#voices.values()) voice.heardAtMs = nowMs;
  }

  #forgetEldest(): void {
    for (const source of this.#voices.keys()) {
      if (source === this.#handed?.source) continue;
      this.#voices.delete(source);
      return;
    }
  }
}

/** Positive when `a` is to be preferred to `b`. */
function compareVoices(a: Voice, b: Voice): number {
  return compareTips(a, b) || Number(isWork(a)) - Number(isWork(b));
}

/** A job made at no time says that there is nothing to mine. */
function isWork({ job }: Voice): boolean {
  return job.createdAtMs > 0;
}

/** By work where both tell it, else by height. Another block of equal work is no better. */
function compareTips(a: Voice, b: Voice): number {
  if (a.tip === b.tip) return 0;
  if (a.tipWork !== null && b.tipWork !== null)
    return a.tipWork > b.tipWork ? 1 : a.tipWork < b.tipWork ? -1 : 0;
  return a.job.height - b.job.height;
}
