/**
 * The sessions of a gateway: who is here, who was and may come back, and which extranonce1 belongs to whom.
 */

import { ExtranonceSpace } from '../../core/work/extranonce.ts';
import { sessionKey, workerKey } from './neighbours.ts';
import type { GatewayOptions, GatewayTools } from './options.ts';
import type { Session, Terms } from './session.ts';
import type { SessionTime } from './time.ts';
import type { WorkerRecord } from './workers.ts';

const SESSION_ID_BYTES = 8;
const SESSION_ID = /^[0-9a-fA-F]{16}$/;
const REMEMBERED_MS = 86_400_000;

/** A session that is gone but may come back with its id. */
type Resumable = {
  extranonce1: number;
  terms: Terms[];
  lastSequence: number;
  difficulty: number;
  goneAtMs: number;
};

export class Roster {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time: SessionTime;
  readonly #extranonces: ExtranonceSpace;
  /** Bounded by the door's connection limit. Order is arbitrary; removal moves the last into the gap. */
  readonly sessions: Session[] = [];
  readonly #bySessionId = new Map<string, Session>();
  readonly #resumable = new Map<string, Resumable>();

  /** Throws RangeError when the extranonce options do not fit together. */
  constructor(tools: GatewayTools & { time: SessionTime }, options: GatewayOptions) {
    this.#tools = tools;
    this.#options = options;
    this.#time = tools.time;
    this.#extranonces = new ExtranonceSpace({
      prefix: options.instancePrefix,
      prefixBits: options.instancePrefixBits,
      highWater: options.extranonceHighWater,
      leaseSize: options.limits.extranonceLeaseSize,
      persistLease: (highWater) => this.#persistLease(highWater),
    });
  }

  /** Takes a new session in. */
  add(session: Session): void {
    session.index = this.sessions.length;
    this.sessions.push(session);
    this.#tools.metrics.sessionsOpened += 1;
    this.#tools.metrics.sessions = this.sessions.length;
  }

  /** Gives a session its id and extranonce1; false when no extranonce is to be had. */
  enter(session: Session): boolean {
    if (!this.renew(session)) return false;
    session.sessionId = hexOf(this.#tools.randomBytes(SESSION_ID_BYTES));
    this.#bySessionId.set(session.sessionId, session);
    return true;
  }

  /** Another extranonce1; an earlier one stays held until the session ends, jobs that carry it are still being worked on. */
  renew(session: Session): boolean {
    const extranonce1 = this.#extranonces.take();
    if (extranonce1 === null) return false;
    if (session.subscribed) {
      session.retiredExtranonces ??= [];
      session.retiredExtranonces.push(session.extranonce1);
    }
    session.extranonce1 = extranonce1;
    return true;
  }

  /** The session id that a miner names, by its form: the second parameter of subscribe, or a lone first one; empty when none. */
  idIn(params: readonly unknown[]): string {
    for (const param of [params[1], params[0]]) {
      if (typeof param === 'string' && SESSION_ID.test(param)) return param.toLowerCase();
    }
    return '';
  }

  /**
   * Restores extranonce1 and terms of an earlier session by its id: the second parameter of subscribe, or a lone first one. A
   * live session with that id is closed: its miner has just dialled again. Returns the difficulty it had, or 0 when there
   * is nothing to resume.
   */
  resume(session: Session, params: readonly unknown[]): number {
    let wanted = '';
    for (const param of [params[1], params[0]]) {
      if (typeof param !== 'string' || param.length !== 2 * SESSION_ID_BYTES) continue;
      const id = param.toLowerCase();
      if (this.#bySessionId.has(id) || this.#resumable.has(id)) {
        wanted = id;
        break;
      }
    }
    if (wanted === '') return 0;
    const live = this.#bySessionId.get(wanted);
    if (live !== undefined) {
      this.countClose('resumed elsewhere');
      live.connection.destroy('resumed elsewhere');
      this.remove(live);
    }
    const earlier = this.#resumable.get(wanted);
    if (earlier === undefined) return 0;
    this.#resumable.delete(wanted);
    session.extranonce1 = earlier.extranonce1;
    session.sessionId = wanted;
    session.terms = earlier.terms;
    const last = earlier.terms.at(-1);
    const isReshaped =
      last !== undefined &&
      (last.pool !== session.pool || last.coinbaseClass !== session.coinbaseClass);
    if (isReshaped) {
      session.resumedSequence = earlier.lastSequence;
      session.termsDue = true;
    }
    this.#bySessionId.set(wanted, session);
    this.#tools.metrics.sessionsResumed += 1;
    return earlier.difficulty;
  }

  /** Lets a session go; what it held may be resumed for a while. May be called more than once. */
  remove(session: Session): void {
    if (session.closed) return;
    session.closed = true;
    const { metrics } = this.#tools;
    const last = this.sessions.pop();
    if (last !== undefined && last !== session) {
      this.sessions[session.index] = last;
      last.index = session.index;
    }
    session.index = -1;
    metrics.sessions = this.sessions.length;
    metrics.sessionsClosed += 1;
    if (session.authorized) metrics.authorizedSessions -= 1;
    for (const { record } of session.workers) {
      record.sessions -= 1;
      if (record.sessions === 0) this.#tools.metrics.workers -= 1;
      // A silent machine sinks before it is closed: only what shares have proven is worth remembering.
      if (record.isDifficultyProven && session.vardiff.sinks === 0) {
        record.difficulty = session.vardiff.pending || session.vardiff.difficulty;
        this.remember(session, record, record.difficulty);
      }
    }
    if (!session.subscribed) return;
    this.#bySessionId.delete(session.sessionId);
    for (const retired of session.retiredExtranonces ?? []) this.#extranonces.release(retired);
    this.#resumable.set(session.sessionId, {
      extranonce1: session.extranonce1,
      terms: session.terms,
      lastSequence: Math.max(session.lastSequence, session.resumedSequence),
      difficulty: session.vardiff.difficulty,
      goneAtMs: this.#time.nowMs,
    });
    if (this.#resumable.size > this.#options.limits.resumableSessionsMax) this.#forgetEldest();
  }

  /** Tells the other gateways of a difficulty that was proven. */
  remember(session: Session, worker: WorkerRecord, difficulty: number): void {
    const { neighbours } = this.#tools;
    if (neighbours === undefined) return;
    const { account, name } = worker;
    neighbours.remember(workerKey(session.pool.id, account, name), difficulty, REMEMBERED_MS);
    neighbours.remember(
      sessionKey(session.sessionId),
      difficulty,
      this.#options.limits.resumeTimeMs,
    );
  }

  /** Counts a session that the gateway itself closed. */
  countClose(reason: string): void {
    const { closedByGateway } = this.#tools.metrics;
    closedByGateway.set(reason, (closedByGateway.get(reason) ?? 0) + 1);
  }

  /** Forgets sessions that were gone too long; their extranonces are free. */
  forgetResumable(): void {
    const { resumeTimeMs } = this.#options.limits;
    for (const earlier of this.#resumable.values()) {
      if (this.#time.nowMs - earlier.goneAtMs < resumeTimeMs) return;
      this.#forgetEldest();
    }
  }

  #forgetEldest(): void {
    for (const [sessionId, earlier] of this.#resumable) {
      this.#resumable.delete(sessionId);
      this.#extranonces.release(earlier.extranonce1);
      return;
    }
  }

  #persistLease(highWater: number): void {
    const { metrics, log } = this.#tools;
    try {
      this.#tools.persistLease(highWater);
      metrics.leasesPersisted += 1;
    } catch (error) {
      metrics.leaseFailures += 1;
      log.error('extranonce lease cannot be stored: new miners are refused', {
        reason: error instanceof Error ? error.message : String(error),
      });
      throw error;
    }
  }

  /** Does something for every session that is here now, in chunks over turns of the event loop. */
  eachInChunks(work: (session: Session) => void): void {
    const sessions = [...this.sessions];
    const next = (): void => {
      for (const session of sessions.splice(0, this.#options.limits.broadcastChunk)) {
        if (!session.closed) work(session);
      }
      if (sessions.length > 0) this.#tools.defer(next);
    };
    next();
  }
}

function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}
