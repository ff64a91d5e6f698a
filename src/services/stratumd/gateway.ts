/**
 * The Stratum V1 gateway without sockets, timers or a clock: lines in, lines out, time handed in. This file is the contract with
 * the door and what time does to sessions; requests are answered in `desk.ts`, shares judged in `judge.ts`, jobs sent by
 * `dispatch.ts`. Stratum V1 as slush and ckpool speak it, BIP310, NiceHash's extranonce calls.
 */

import type { CoinbasePlan } from '../../core/ledger/plan.ts';
import { printable } from '../../core/stratum/configure.ts';
import {
  encodeGetVersion,
  encodeReconnect,
  encodeSetExtranonce,
  encodeShowMessage,
  hex32,
} from '../../core/stratum/reply.ts';
import { decodeRequest } from '../../core/stratum/request.ts';
import { EXTRANONCE2_BYTES } from '../../core/stratum/submit.ts';
import type { Job } from '../../core/work/job.ts';
import { clampDifficulty, noteSilence, restartWindow } from '../../core/work/vardiff.ts';
import { Conduct } from './conduct.ts';
import { Desk } from './desk.ts';
import { Dispatch } from './dispatch.ts';
import { HeldAnswers } from './held-answers.ts';
import { JobBook } from './jobs.ts';
import { Judge, VERSION_REQUEST_ID } from './judge.ts';
import type { Connection, GatewayOptions, GatewayTools } from './options.ts';
import { Roster } from './roster.ts';
import { Session } from './session.ts';
import { SessionTime } from './time.ts';
import { type RejectionView, viewRejection, WorkerBook, type WorkerView } from './workers.ts';

/** The pool of a port that names none. */
const DEFAULT_POOL = 'main';

/** Sessions looked at in one tick: all when few, else an eighth. */
const SCAN_MIN = 512;
const SCAN_PARTS = 8;

export type GatewaySnapshot = {
  sessions: number;
  authorizedSessions: number;
  height: number;
  networkDifficulty: number;
  jobs: number;
  newestJobId: string;
  newestJobAgeMs: number;
  workState: 'fine' | 'degraded' | 'none';
  workers: WorkerView[];
};

export class Gateway {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time = new SessionTime();
  readonly #held = new HeldAnswers();
  readonly #jobs: JobBook;
  readonly #workers: WorkerBook;
  readonly #roster: Roster;
  readonly #conduct: Conduct;
  readonly #dispatch: Dispatch;
  readonly #judge: Judge;
  readonly #desk: Desk;
  #scanFrom = 0;

  /** Throws RangeError when the extranonce options do not fit together. */
  constructor(tools: GatewayTools, options: GatewayOptions) {
    this.#tools = tools;
    this.#options = options;
    const { limits, pools, coinbaseTag } = options;
    const time = this.#time;
    const held = this.#held;
    const jobs = new JobBook({ limits, pools, coinbaseTag });
    const workers = new WorkerBook(limits);
    const roster = new Roster({ ...tools, time }, options);
    const conduct = new Conduct({ ...tools, time, roster }, options);
    const dispatch = new Dispatch({ ...tools, time, roster, jobs }, options);
    const judge = new Judge(
      { ...tools, time, jobs, workers, dispatch, conduct, held, roster },
      options,
    );
    this.#desk = new Desk({ ...tools, time, roster, dispatch, conduct, judge, jobs }, options);
    this.#jobs = jobs;
    this.#workers = workers;
    this.#roster = roster;
    this.#conduct = conduct;
    this.#dispatch = dispatch;
    this.#judge = judge;
  }

  /** A new connection. While draining it is told to come back and closed. Throws RangeError when its port is of an unknown pool. */
  open(connection: Connection, nowMs: number): Session {
    this.#time.advance(nowMs);
    const { port } = connection;
    const session = new Session(connection, {
      limits: this.#options.limits,
      difficulty: clampDifficulty(port.startDifficulty, this.#dispatch.boundsOf(port), 'any'),
      pool: this.#jobs.poolOf(port.pool ?? DEFAULT_POOL),
      nowMs: this.#time.nowMs,
    });
    session.vardiff.fixed = port.vardiff === false;
    this.#roster.add(session);
    if (this.#desk.isClosing) this.#conduct.close(session, 'draining');
    return session;
  }

  /**
   * One line of a session, without its newline, valid UTF-8 and not over `session.lineBytesMax`. Never throws on what the
   * line holds. Answers wait for `flush`.
   */
  line(session: Session, text: string, nowMs: number): void {
    this.#time.advance(nowMs);
    if (session.closed) {
      // The session is over, but its last packet may hold a block: that alone is still looked for.
      if (session.subscribed && text.includes('mining.submit'))
        this.#judge.lastWords(session, text);
      return;
    }
    session.lastLineAtMs = this.#time.nowMs;
    const { limits } = this.#options;
    if (text.length === 0 || text.trim() === '') {
      session.emptyLines += 1;
      if (session.emptyLines > limits.emptyLinesFree) {
        this.#conduct.blame(session, 10);
        this.#conduct.close(session, 'too many empty lines');
      }
      return;
    }
    this.#tools.metrics.requests += 1;
    const request = decodeRequest(text, limits);
    if (request.kind === 'request') {
      if (request.method === 'mining.submit') this.#desk.submit(session, request, text);
      else this.#desk.call(session, request, text);
      if (request.idRefused) this.#conduct.blame(session, 5);
    } else if (request.kind === 'response') {
      this.#desk.response(session, request);
    } else {
      this.#desk.refuse(session, request);
    }
  }

  /** After the last line of a chunk: everything there is to say in at most one write, answers first, then the job. */
  flush(session: Session): void {
    this.#dispatch.flush(session);
  }

  /** The socket is gone. May be called more than once. */
  closed(session: Session, nowMs: number): void {
    this.#time.advance(nowMs);
    this.#roster.remove(session);
  }

  /** Every 250 ms: time-outs, sinking difficulties, jobs that are late or due again. */
  tick(nowMs: number): void {
    this.#time.advance(nowMs);
    this.#watchTemplate();
    this.#dispatch.repeatJob();
    this.#dispatch.flushLate();
    this.#scan();
    this.#roster.forgetResumable();
    const { metrics } = this.#tools;
    this.#held.look(this.#time.nowMs);
    metrics.heldAnswers = this.#held.count;
  }

  /**
   * A job from `mining.jobs`: becomes the newest and is told to all sessions that have a coinbase for it, in chunks. A job
   * that is known already, or has no valid coinbase, changes nothing. `nowMs` is the wall clock; without it the time of
   * the last call counts.
   */
  setJob(job: Job, nowMs: number = Math.max(this.#time.wallMs, 1)): void {
    this.#time.advance(nowMs);
    const { metrics, log } = this.#tools;
    const ageMs = Math.max(0, nowMs - job.createdAtMs);
    const call = this.#jobs.add(job, this.#time.nowMs, ageMs, (reason) => {
      metrics.jobsRefused += 1;
      log.error('job has no valid coinbase and is not handed out', { jobId: job.jobId, reason });
    });
    if (call === null) return;
    metrics.jobsReceived += 1;
    metrics.jobsKept = this.#jobs.size;
    metrics.currentHeight = job.height;
    metrics.networkDifficulty = call.known.networkDifficulty;
    this.#watchTemplate();
    this.#dispatch.broadcast();
  }

  /**
   * Plans from `mining.plans`: whom direct pools pay from the next job on. The first plan of a pool is used at once, with a new
   * call of the newest job; what was given out before stays as it was.
   */
  setPlans(plans: readonly CoinbasePlan[], nowMs: number): void {
    this.#time.advance(nowMs);
    const isFirst = this.#jobs.setPlans(plans);
    if (isFirst && this.#tools.metrics.workState !== 2) this.#dispatch.callAgain();
  }

  /** The journal has synced everything up to and including this ticket: the answers that waited for it go out. */
  committed(ticket: number): void {
    this.#held.release(ticket);
  }

  /** SIGTERM: every miner is asked to reconnect, in chunks; new ones are closed. Answers still go out until the door closes. */
  drain(nowMs: number): void {
    this.#time.advance(nowMs);
    if (this.#desk.isClosing) return;
    this.#desk.isClosing = true;
    const text = encodeReconnect(null, 0);
    this.#roster.eachInChunks((session) => {
      if (session.subscribed && session.profile.obeysReconnect) session.connection.write(text);
    });
  }

  /** What the status API shows. */
  snapshot(nowMs: number): GatewaySnapshot {
    const { newest } = this.#jobs;
    return {
      sessions: this.#roster.sessions.length,
      authorizedSessions: this.#tools.metrics.authorizedSessions,
      height: newest?.known.job.height ?? 0,
      networkDifficulty: newest?.known.networkDifficulty ?? 0,
      jobs: this.#jobs.size,
      newestJobId: newest?.id ?? '',
      newestJobAgeMs: newest === null ? 0 : this.#time.nowMs - newest.known.madeAtMs,
      workState: (['fine', 'degraded', 'none'] as const)[this.#tools.metrics.workState] ?? 'none',
      workers: this.#workers.views(nowMs),
    };
  }

  /** The last rejections of a worker (`account.worker`) in all pools, oldest first; null when nobody of that name is known. */
  rejections(worker: string): RejectionView[] | null {
    const records = this.#jobs.pools
      .map(({ id }) => this.#workers.find(id, worker))
      .filter((record) => record !== null);
    if (records.length === 0) return null;
    return records
      .flatMap((record) => record.rejections ?? [])
      .sort((a, b) => a.atMs - b.atMs)
      .map(viewRejection);
  }

  /** client.show_message to every subscribed session, in chunks. */
  showMessage(text: string): void {
    const line = encodeShowMessage(printable(text, 256));
    this.#roster.eachInChunks((session) => {
      if (session.subscribed && !session.closed) session.connection.write(line);
    });
  }

  /** client.reconnect to one session. Firmware may ignore the target, some ignore the call. */
  reconnect(
    session: Session,
    target: { host: string; port: number } | null,
    waitSeconds: number,
  ): void {
    if (!session.closed) session.connection.write(encodeReconnect(target, waitSeconds));
  }

  /** client.get_version to one session; the answer becomes its agent. */
  askVersion(session: Session): void {
    if (!session.closed) session.connection.write(encodeGetVersion(VERSION_REQUEST_ID));
  }

  /**
   * Gives a session a new extranonce1 with its next job, sent at once. Only to sessions that subscribed to it and whose
   * firmware takes it; returns whether it was done.
   */
  renewExtranonce(session: Session): boolean {
    if (session.closed || !session.extranonceSubscribed || !session.profile.extranoncePush)
      return false;
    if (!this.#roster.renew(session)) return false;
    session.say(encodeSetExtranonce(hex32(session.extranonce1), EXTRANONCE2_BYTES));
    session.termsDue = true;
    session.jobDue = true;
    this.flush(session);
    return true;
  }

  /** Old templates: a warning first, then no more work, and miners are sent to their fail-over pool. */
  #watchTemplate(): void {
    const { metrics, log } = this.#tools;
    const { limits } = this.#options;
    const { newest } = this.#jobs;
    const before = metrics.workState;
    if (newest === null) {
      metrics.workState = 2;
      return;
    }
    const ageMs = this.#time.nowMs - newest.known.madeAtMs;
    metrics.workState =
      ageMs > limits.templateDeadMs ? 2 : ageMs > limits.templateDegradedMs ? 1 : 0;
    if (metrics.workState > before) {
      const seconds = Math.round(ageMs / 1000);
      if (metrics.workState === 1)
        log.warn('no fresh template from the node', { ageSeconds: seconds });
      else
        log.error('template too old: no work is handed out, miners are sent away', {
          ageSeconds: seconds,
        });
    }
  }

  /** A slice of the sessions: time-outs and silence. Every session's turn comes within two seconds. */
  #scan(): void {
    const count = Math.min(
      this.#roster.sessions.length,
      Math.max(SCAN_MIN, Math.ceil(this.#roster.sessions.length / SCAN_PARTS)),
    );
    const isWorkGone = this.#tools.metrics.workState === 2 && this.#jobs.newest !== null;
    for (let looked = 0; looked < count && this.#roster.sessions.length > 0; looked += 1) {
      if (this.#scanFrom >= this.#roster.sessions.length) this.#scanFrom = 0;
      const session = this.#roster.sessions[this.#scanFrom]!;
      this.#scanFrom += 1;
      if (isWorkGone) this.#conduct.close(session, 'no fresh work');
      else this.#look(session);
    }
  }

  #look(session: Session): void {
    const { limits } = this.#options;
    const nowMs = this.#time.nowMs;
    if (!session.authorized || !session.subscribed) {
      if (nowMs - session.openedAtMs >= limits.authorizeTimeoutMs) {
        this.#conduct.blame(session, 5);
        this.#conduct.close(session, 'no subscribe and authorize in time');
      }
      return;
    }
    const { vardiff } = session;
    const isPatient = vardiff.fixed || vardiff.difficulty <= this.#floor(session);
    if (!session.proven) {
      const allowedMs = isPatient ? limits.firstShareTimeoutMsMax : limits.firstShareTimeoutMs;
      if (nowMs - session.authorizedAtMs >= allowedMs) {
        this.#conduct.close(session, 'no valid share in time');
        return;
      }
    }
    const idleMs = isPatient ? limits.firstShareTimeoutMsMax : limits.idleTimeoutMs;
    if (nowMs - session.lastLineAtMs >= idleMs) {
      this.#conduct.close(session, 'idle');
      return;
    }
    if (session.lastSequence < 0) return;
    const wanted = noteSilence(vardiff, this.#options.vardiff, nowMs);
    if (wanted === 0) return;
    if (!this.#dispatch.propose(session, wanted, { isWish: false })) {
      restartWindow(vardiff, nowMs);
      return;
    }
    this.#tools.metrics.retargets += 1;
    this.flush(session);
  }

  #floor(session: Session): number {
    const { min, max } = this.#dispatch.bounds(session);
    return Math.min(Math.max(min, session.vardiff.floor), max);
  }
}
