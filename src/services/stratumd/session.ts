/**
 * One miner's connection as the gateway sees it: numbers, short strings and two small arrays. No closures and no timers, so
 * that a session with all it owns stays near one KiB.
 */

import type { SessionLimits } from '../../core/stratum/limits.ts';
import {
  coinbaseClassOf,
  DEFAULT_PROFILE,
  type FirmwareProfile,
} from '../../core/stratum/profiles.ts';
import type { PreparedTarget } from '../../core/work/share.ts';
import { startVardiff, type Vardiff } from '../../core/work/vardiff.ts';
import type { Finder, Pool, Shape } from './jobs.ts';
import type { Connection } from './options.ts';
import type { WorkerRecord } from './workers.ts';

/** What holds for the jobs of a session from a job on: what a share is worth, which extranonce1 and coinbase are in it. */
export type Terms = Shape & {
  fromSequence: number;
  difficulty: number;
  target: PreparedTarget;
  extranonce1: number;
};

/** A username that was authorized, as it was written, and who it is. */
export type SessionWorker = { username: string; record: WorkerRecord };

/** Who asked for the session's difficulty; a lower rank does not override a higher one. */
export const HINT_RANK = {
  port: 0,
  remembered: 1,
  suggested: 2,
  username: 3,
  password: 4,
  fixed: 5,
};

export class Session {
  readonly connection: Connection;
  /** The session is over: the door need not read further lines. */
  closed = false;
  /** At least one worker is authorized. */
  authorized = false;
  /** Place in the gateway's list, −1 when over. */
  index = -1;
  /** Longest line the door may pass on: small until a worker is authorized. */
  lineBytesMax: number;

  /** 16 hex digits once subscribed, what a client resumes with; empty before. */
  sessionId = '';
  extranonce1 = 0;
  agent = '';
  profile: FirmwareProfile = DEFAULT_PROFILE;
  /** BIP310 bits granted; 0: no version rolling. */
  versionMask = 0;
  extranonceSubscribed = false;
  workers: SessionWorker[] = [];
  /** Whose rules its shares are counted by. */
  readonly pool: Pool;
  /** How large a coinbase with a choice of outputs may be for this device. */
  coinbaseClass = coinbaseClassOf(DEFAULT_PROFILE);
  /** Who is paid where blocks pay their finder; null until authorized, and where none do. */
  finder: Finder | null = null;

  vardiff: Vardiff;
  hintRank = HINT_RANK.port;
  lastSuggestion = 0;
  suggestedAtMs = 0;
  terms: Terms[] = [];
  /** Sequence of the newest job sent; −1 before the first. */
  lastSequence = -1;
  /** Resumed with another pool or device: calls up to this one keep the terms they were given with. */
  resumedSequence = -1;
  /** The next job needs terms of its own although the difficulty is the same: the extranonce changed. */
  termsDue = false;
  /** Earlier extranonces of this session, still held: jobs with them are being worked on. */
  retiredExtranonces: number[] | null = null;
  /** A job goes out at the next flush: just subscribed, or the difficulty changed. */
  jobDue = false;

  /** Text for the next write. */
  out = '';
  /** Answers that wait for the journal, each with everything that must come behind it. */
  held: string[] = [];
  heldFrom = 0;

  score = 0;
  scoreAtMs: number;
  /** A share was accepted on this session. */
  proven = false;
  accepted = 0;
  subscribes = 0;
  unknownJobs = 0;
  unknownMethods = 0;
  unknownMethodsSinceMs = 0;
  emptyLines = 0;
  oddLines = 0;
  submitTokens: number;
  submitTokensAtMs: number;
  authorizeTokens: number;
  authorizeTokensAtMs: number;
  storageBrakeAtMs = 0;

  readonly openedAtMs: number;
  authorizedAtMs = 0;
  lastLineAtMs: number;

  constructor(
    connection: Connection,
    options: { limits: SessionLimits; difficulty: number; pool: Pool; nowMs: number },
  ) {
    const { limits, nowMs } = options;
    this.connection = connection;
    this.pool = options.pool;
    this.lineBytesMax = limits.lineBytesBeforeAuthorize;
    this.vardiff = startVardiff(options.difficulty, nowMs);
    this.openedAtMs = nowMs;
    this.lastLineAtMs = nowMs;
    this.scoreAtMs = nowMs;
    this.submitTokens = limits.submitBurst;
    this.submitTokensAtMs = nowMs;
    this.authorizeTokens = limits.authorizeBurst;
    this.authorizeTokensAtMs = nowMs;
  }

  get subscribed(): boolean {
    return this.sessionId !== '';
  }

  /** Whom its coinbases pay is known. */
  get isPayable(): boolean {
    return this.finder !== null || this.pool.rules.mode === 'pool';
  }

  /** Answers that wait for the journal. */
  get heldCount(): number {
    return this.held.length - this.heldFrom;
  }

  /** The terms of a job by its sequence, or null when it is older than what the session was told or remembers. */
  termsOf(sequence: number): Terms | null {
    const { terms } = this;
    for (let index = terms.length - 1; index >= 0; index -= 1) {
      if (terms[index]!.fromSequence <= sequence) return terms[index]!;
    }
    return null;
  }

  /** Adds terms for the jobs from `terms.fromSequence` on; the oldest are forgotten. */
  addTerms(terms: Terms, termsKept: number): void {
    this.terms.push(terms);
    if (this.terms.length > termsKept) this.terms.shift();
  }

  /** Queues text: behind the last held answer when there is one, so that answers keep their order. */
  say(text: string): void {
    if (this.heldFrom < this.held.length) this.held[this.held.length - 1] += text;
    else this.out += text;
  }

  /** Queues an answer that must wait for the journal. */
  hold(text: string): void {
    this.held.push(text);
  }

  /** Moves the oldest held answer, and what waits behind it, to the next write. */
  release(): void {
    if (this.heldFrom >= this.held.length) return;
    this.out += this.held[this.heldFrom]!;
    this.held[this.heldFrom] = '';
    this.heldFrom += 1;
    if (this.heldFrom === this.held.length) {
      this.held.length = 0;
      this.heldFrom = 0;
    } else if (this.heldFrom >= 64) {
      this.held = this.held.slice(this.heldFrom);
      this.heldFrom = 0;
    }
  }

  /** Adds points to the ban score after its decay; returns the score. */
  addScore(points: number, decayPerMinute: number, nowMs: number): number {
    const decayed = this.score - ((nowMs - this.scoreAtMs) * decayPerMinute) / 60_000;
    this.score = Math.max(0, decayed) + points;
    if (this.score < 0) this.score = 0;
    this.scoreAtMs = nowMs;
    return this.score;
  }

  /** Takes one submit from the bucket; false when it is empty. */
  takeSubmit(limits: SessionLimits, nowMs: number): boolean {
    const filled =
      this.submitTokens + ((nowMs - this.submitTokensAtMs) * limits.submitsPerSecond) / 1000;
    this.submitTokens = Math.min(limits.submitBurst, filled);
    this.submitTokensAtMs = nowMs;
    if (this.submitTokens < 1) return false;
    this.submitTokens -= 1;
    return true;
  }

  /** Takes one authorize from the bucket; false when it is empty. */
  takeAuthorize(limits: SessionLimits, nowMs: number): boolean {
    const filled =
      this.authorizeTokens +
      ((nowMs - this.authorizeTokensAtMs) * limits.authorizesPerSecond) / 1000;
    this.authorizeTokens = Math.min(limits.authorizeBurst, filled);
    this.authorizeTokensAtMs = nowMs;
    if (this.authorizeTokens < 1) return false;
    this.authorizeTokens -= 1;
    return true;
  }
}
