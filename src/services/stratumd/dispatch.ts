/**
 * Jobs and difficulties on their way out: broadcasts in chunks, the job of one session, and every change of difficulty, which
 * always goes out in front of the first job it holds for, in the same write.
 */

import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import { encodeSetDifficulty } from '../../core/stratum/reply.ts';
import { type PreparedTarget, prepareTarget } from '../../core/work/share.ts';
import {
  applyDifficulty,
  clampDifficulty,
  proposeDifficulty,
  type VardiffBounds,
} from '../../core/work/vardiff.ts';
import type { Call, JobBook, NotifyLine } from './jobs.ts';
import type { GatewayOptions, GatewayTools } from './options.ts';
import type { Roster } from './roster.ts';
import type { Session } from './session.ts';
import type { SessionTime } from './time.ts';

/** Prepared targets kept; vardiff only makes powers of two, the rest are wishes. */
const TARGETS_MAX = 4_096;

/** Where blocks pay their finder every session may need a coinbase of its own, some 30 µs: fewer of them in one turn. */
const FINDER_CHUNK_PART = 5;

export class Dispatch {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time: SessionTime;
  readonly #roster: Roster;
  readonly #jobs: JobBook;
  readonly #targets = new Map<number, PreparedTarget>();
  /** Sessions that read too slowly when their job was due; only live ones. */
  readonly #late = new Set<Session>();
  /** Sessions below this place have not been told of the newest call; 0 when all have. */
  #broadcastLeft = 0;
  readonly #chunk: number;
  #isBroadcasting = false;
  #broadcastAtMs = 0;

  constructor(
    tools: GatewayTools & { time: SessionTime; roster: Roster; jobs: JobBook },
    options: GatewayOptions,
  ) {
    this.#tools = tools;
    this.#options = options;
    this.#time = tools.time;
    this.#roster = tools.roster;
    this.#jobs = tools.jobs;
    const { broadcastChunk } = options.limits;
    this.#chunk = tools.jobs.paysFinders
      ? Math.ceil(broadcastChunk / FINDER_CHUNK_PART)
      : broadcastChunk;
  }

  /** Starts telling all sessions of the newest call. A newer one takes over the broadcast in progress. */
  broadcast(): void {
    this.#broadcastAtMs = this.#time.nowMs;
    this.#broadcastLeft = this.#roster.sessions.length;
    this.#tools.metrics.broadcasts += 1;
    if (this.#isBroadcasting) return;
    this.#isBroadcasting = true;
    this.#broadcastChunk();
  }

  /** No new job for a while: the newest goes out again with a later time, before miners think that the pool is gone. */
  repeatJob(): void {
    const { metrics } = this.#tools;
    if (metrics.workState === 2) return;
    if (this.#time.nowMs - this.#broadcastAtMs < this.#options.limits.rebroadcastMs) return;
    this.callAgain();
  }

  /** Tells all sessions of the newest job once more, under a new id and with the plans of now. */
  callAgain(): void {
    if (this.#jobs.callAgain(this.#time.nowMs) === null) return;
    this.#tools.metrics.jobVariants += 1;
    this.broadcast();
  }

  /** Everything there is to say to a session in at most one write, answers first, then the job. */
  flush(session: Session): void {
    if (session.closed) return;
    if (session.jobDue) this.#appendJob(session);
    if (session.out === '') return;
    const { out } = session;
    session.out = '';
    session.connection.write(out);
  }

  /** Tries again where a job could not go out. */
  flushLate(): void {
    if (this.#late.size === 0) return;
    const late = [...this.#late];
    this.#late.clear();
    for (const session of late) this.flush(session);
  }

  /**
   * Puts a difficulty forward; it goes out with the next job, or at the end of this chunk when that cannot wait. What people
   * and firmware wish is given as wished where the device can take it; vardiff's own results are powers of two.
   */
  propose(
    session: Session,
    wanted: number,
    options: { isUrgent?: boolean; isWish?: boolean } = {},
  ): boolean {
    const { isUrgent = true, isWish = true } = options;
    const form = isWish ? session.profile.difficultyForm : 'power-of-two';
    const isChange = proposeDifficulty(session.vardiff, wanted, this.bounds(session), form);
    if (isChange && isUrgent && session.lastSequence >= 0) session.jobDue = true;
    return isChange;
  }

  /** Between what difficulties a session may be. */
  bounds(session: Session): VardiffBounds {
    return this.boundsOf(session.connection.port);
  }

  /**
   * The same for a port. Above the network's difficulty a miner would keep blocks to itself, so that is a further maximum; but not
   * below the port's minimum: on regtest every second hash is a block, and a CPU would flood pool and node with them.
   */
  boundsOf(port: { minDifficulty: number; maxDifficulty: number }): VardiffBounds {
    const network = this.#jobs.newest?.known.networkDifficulty ?? Number.MAX_VALUE;
    const max = Math.max(port.minDifficulty, Math.min(port.maxDifficulty, network));
    return { min: port.minDifficulty, max };
  }

  /**
   * The next chunk, from the back: a session that leaves is replaced by the last one, which has been told already, and new
   * ones at the end get their job when they subscribe. So nobody is missed and nobody is told twice.
   */
  readonly #broadcastChunk = (): void => {
    let left = Math.min(this.#broadcastLeft, this.#roster.sessions.length);
    const end = Math.max(0, left - this.#chunk);
    while (left > end) {
      left -= 1;
      const session = this.#roster.sessions[left];
      if (session !== undefined) this.#tellJob(session);
    }
    this.#broadcastLeft = left;
    if (left > 0) this.#tools.defer(this.#broadcastChunk);
    else this.#isBroadcasting = false;
  };

  /** One session of a broadcast: shared bytes when nothing but the job is new. */
  #tellJob(session: Session): void {
    const call = this.#jobs.newest;
    if (call === null || !session.subscribed || session.lastSequence >= call.sequence) return;
    if (session.connection.congested === true) {
      session.jobDue = true;
      this.#late.add(session);
      return;
    }
    if (
      session.out === '' &&
      session.vardiff.pending === 0 &&
      !session.termsDue &&
      session.terms.length > 0
    ) {
      const line = this.#lineFor(session, call);
      if (line === null) return;
      const last = session.terms.at(-1)!;
      const { minDifficulty } = session.connection.port;
      if (last.difficulty <= Math.max(minDifficulty, call.known.networkDifficulty)) {
        session.lastSequence = call.sequence;
        session.jobDue = false;
        this.#tools.metrics.notifies += 1;
        session.connection.write(line.bytes);
        return;
      }
    }
    session.jobDue = true;
    this.flush(session);
  }

  #lineFor(session: Session, call: Call): NotifyLine | null {
    if (!session.isPayable) return null;
    const compiled = this.#jobs.compile(call, session, session.finder);
    if (compiled === null) return null;
    if (compiled.coinbaseBytes > session.profile.coinbaseBytesMax) {
      this.#tools.metrics.oversizedCoinbases += 1;
    }
    return this.#jobs.line(call, compiled, session.lastSequence < this.#jobs.cleanSequence);
  }

  /**
   * Adds the newest job to a session's next write, with the difficulty before it when that is new. A session that has the
   * newest job already gets it under a new id, so that what is in flight keeps its difficulty.
   */
  #appendJob(session: Session): void {
    if (!session.subscribed || !session.isPayable || this.#jobs.newest === null) {
      // Told when the job, or whom it pays, is known.
      session.jobDue = false;
      return;
    }
    if (this.#tools.metrics.workState === 2) return;
    if (session.connection.congested === true) {
      this.#late.add(session);
      return;
    }
    let call = this.#jobs.newest;
    if (Math.max(session.lastSequence, session.resumedSequence) >= call.sequence) {
      const isUnchanged =
        !session.termsDue &&
        (session.vardiff.pending || session.vardiff.difficulty) === session.vardiff.difficulty;
      if (isUnchanged) {
        session.jobDue = false;
        return;
      }
      // One new call a second serves everybody who needs one.
      const again = this.#jobs.callAgain(this.#time.nowMs);
      if (again !== null) {
        this.#tools.metrics.jobVariants += 1;
        call = again;
      } else if (session.lastSequence >= 0) {
        session.jobDue = false;
        return;
      }
    }
    const line = this.#lineFor(session, call);
    session.jobDue = false;
    if (line === null) return;
    const { vardiff } = session;
    const bounds = this.bounds(session);
    const last = session.terms.at(-1);
    applyDifficulty(vardiff, this.#time.nowMs);
    if (vardiff.difficulty > bounds.max)
      vardiff.difficulty = clampDifficulty(bounds.max, bounds, session.profile.difficultyForm);
    const isNewDifficulty =
      session.lastSequence < 0 || last === undefined || last.difficulty !== vardiff.difficulty;
    if (isNewDifficulty || session.termsDue) {
      session.addTerms(
        {
          fromSequence: call.sequence,
          difficulty: vardiff.difficulty,
          target: this.#target(vardiff.difficulty),
          extranonce1: session.extranonce1,
          pool: session.pool,
          coinbaseClass: session.coinbaseClass,
        },
        this.#options.limits.termsKept,
      );
      session.termsDue = false;
    }
    session.lastSequence = call.sequence;
    this.#tools.metrics.notifies += 1;
    const difficulty = isNewDifficulty ? encodeSetDifficulty(vardiff.difficulty) : '';
    session.out += difficulty + line.text;
  }

  #target(difficulty: number): PreparedTarget {
    let target = this.#targets.get(difficulty);
    if (target !== undefined) return target;
    if (this.#targets.size >= TARGETS_MAX) this.#targets.clear();
    target = prepareTarget(targetOfDifficulty(difficulty));
    this.#targets.set(difficulty, target);
    return target;
  }
}
