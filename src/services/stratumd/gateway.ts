/**
 * The Stratum V1 gateway without sockets, timers or a clock: lines in, lines out, time handed in. It runs the sessions, hands
 * out jobs, judges shares and acknowledges them. Stratum V1 as slush and ckpool speak it, BIP310, NiceHash's extranonce calls.
 *
 * A submission goes one way only: canonical values → header → hash → the network target of its own job; a header that meets
 * it is handed to the block lane before anything else is asked. Then the policies decide the answer, the accepted share goes
 * to the journal, and `true` is said when the journal has it on disk.
 */

import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import {
  countBits,
  decodeConfigure,
  encodeConfigured,
  grantMask,
  printable,
} from '../../core/stratum/configure.ts';
import { STRATUM_ERRORS, type StratumErrorName } from '../../core/stratum/errors.ts';
import { findMethod } from '../../core/stratum/methods.ts';
import { findProfile } from '../../core/stratum/profiles.ts';
import {
  encodeError,
  encodeGetVersion,
  encodeReconnect,
  encodeResult,
  encodeSetDifficulty,
  encodeSetExtranonce,
  encodeSetVersionMask,
  encodeShowMessage,
  encodeSubscribed,
  encodeTrue,
  hex32,
} from '../../core/stratum/reply.ts';
import { decodeRequest, type Request, type RequestId } from '../../core/stratum/request.ts';
import { createSubmitFields, decodeSubmit, EXTRANONCE2_BYTES } from '../../core/stratum/submit.ts';
import { decodeSuggestedDifficulty, decodeSuggestedTarget } from '../../core/stratum/suggest.ts';
import { decodePassword, decodeUsername } from '../../core/stratum/username.ts';
import { ExtranonceSpace } from '../../core/work/extranonce.ts';
import type { Job } from '../../core/work/job.ts';
import {
  type Chosen,
  checkNtime,
  checkVersionBits,
  coinbaseOf,
  difficultyOfHash,
  fillWork,
  headerOf,
  meetsTarget,
  type PreparedTarget,
  prepareTarget,
  rollVersion,
  versionOutsideMask,
} from '../../core/work/share.ts';
import {
  applyDifficulty,
  clampDifficulty,
  noteShare,
  noteSilence,
  proposeDifficulty,
  restartWindow,
  type VardiffBounds,
} from '../../core/work/vardiff.ts';
import { encodeShare } from '../../messages/codec.ts';
import type { ShareRecord } from '../../messages/share.ts';
import { type Call, type Compiled, JobBook, type KnownJob, type Payee } from './jobs.ts';
import type { Connection, GatewayOptions, GatewayTools, RejectReason } from './options.ts';
import { HINT_RANK, Session, type Terms } from './session.ts';
import {
  type RejectionView,
  viewRejection,
  WorkerBook,
  type WorkerRecord,
  type WorkerView,
} from './workers.ts';

/** Subscriptions per extranonce lease: one synced write of some milliseconds in so many. */
const LEASE_SIZE = 65_536;
/** Prepared targets kept; vardiff only makes powers of two, the rest are wishes. */
const TARGETS_MAX = 4_096;
/** The most that time moves between two calls: a jump of the wall clock must not time out a farm. */
const STEP_MS_MAX = 60_000;
/** Our one request to a miner, client.get_version, carries this id. */
const VERSION_REQUEST_ID = 2_147_480_001;
/** An ntime this far from the job's was not rolled, it was made up. */
const NTIME_ABSURD_SECONDS = 86_400;
/** Sessions looked at in one tick: all when few, else an eighth. */
const SCAN_MIN = 512;
const SCAN_PARTS = 8;

const EMPTY: readonly unknown[] = [];

/** A session that is gone but may come back with its id. */
type Resumable = {
  extranonce1: number;
  terms: Terms[];
  difficulty: number;
  lastSequence: number;
  goneAtMs: number;
};

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
  readonly #jobs: JobBook;
  readonly #workers: WorkerBook;
  readonly #extranonces: ExtranonceSpace;
  readonly #poolPayee: Payee | null;

  /** Bounded by the door's connection limit. Order is arbitrary; removal moves the last into the gap. */
  readonly #sessions: Session[] = [];
  readonly #bySessionId = new Map<string, Session>();
  readonly #resumable = new Map<string, Resumable>();
  readonly #targets = new Map<number, PreparedTarget>();
  /** Sessions whose job could not go out when it was due: congested, or their id was too fresh. */
  readonly #late = new Set<Session>();

  /** Sessions with held answers, in the order of the journal's tickets. */
  #heldSessions: Session[] = [];
  #heldTickets: number[] = [];
  #heldFrom = 0;

  /** Sessions below this place have not been told of the newest call; 0 when all have. */
  #broadcastLeft = 0;
  #isBroadcasting = false;
  #scanFrom = 0;
  #isDraining = false;
  #rejectedJobs = 0;

  /** Wall clock as last handed in, and a time that only moves forward for everything that is a duration. */
  #wallMs = 0;
  #nowMs = 0;
  #broadcastAtMs = 0;

  // Scratch of the one submission in progress: valid within a call, carries nothing over.
  readonly #fields = createSubmitFields();
  readonly #chosen: Chosen = {
    extranonce1: 0,
    extranonce2High: 0,
    extranonce2Low: 0,
    ntime: 0,
    nonce: 0,
    version: 0,
  };
  readonly #extranonce2 = new Uint8Array(EXTRANONCE2_BYTES);
  readonly #extranonce2View = new DataView(this.#extranonce2.buffer);
  readonly #record: ShareRecord;

  /** Throws RangeError when the extranonce options do not fit together. */
  constructor(tools: GatewayTools, options: GatewayOptions) {
    this.#tools = tools;
    this.#options = options;
    const { limits, payout, coinbaseTag } = options;
    this.#jobs = new JobBook({ limits, payout, coinbaseTag });
    this.#workers = new WorkerBook(limits);
    this.#poolPayee =
      payout.mode === 'pool' ? { account: payout.address, script: payout.script } : null;
    this.#extranonces = new ExtranonceSpace({
      prefix: options.instancePrefix,
      prefixBits: options.instancePrefixBits,
      highWater: options.extranonceHighWater,
      leaseSize: LEASE_SIZE,
      persistLease: (highWater) => this.#persistLease(highWater),
    });
    this.#record = {
      headerHash: this.#extranonce2,
      jobId: '',
      extranonce1: this.#extranonce2,
      extranonce2: this.#extranonce2,
      ntime: 0,
      nonce: 0,
      version: 0,
      difficulty: 0,
      shareDifficulty: 0,
      account: '',
      worker: '',
      sessionId: '',
      gateway: options.gateway,
      height: 0,
      acceptedAtMs: 0,
      isBlock: false,
    };
  }

  // ---- the contract with the door ----------------------------------------------------------------------------------

  /** A new connection. While draining it is told to come back and closed. */
  open(connection: Connection, nowMs: number): Session {
    this.#advance(nowMs);
    const { port } = connection;
    const session = new Session(connection, {
      limits: this.#options.limits,
      difficulty: clampDifficulty(port.startDifficulty, this.#boundsOf(port), 'any'),
      payee: this.#poolPayee,
      nowMs: this.#nowMs,
    });
    session.vardiff.fixed = port.vardiff === false;
    session.index = this.#sessions.length;
    this.#sessions.push(session);
    this.#tools.metrics.sessionsOpened += 1;
    this.#tools.metrics.sessions = this.#sessions.length;
    if (this.#isDraining) this.#close(session, 'draining');
    return session;
  }

  /**
   * One line of a session, without its newline, valid UTF-8 and not over `session.lineBytesMax`. Never throws on what the
   * line holds. Answers wait for `flush`.
   */
  line(session: Session, text: string, nowMs: number): void {
    this.#advance(nowMs);
    if (session.closed) {
      // The session is over, but its last packet may hold a block: that alone is still looked for.
      if (session.subscribed && text.includes('mining.submit')) this.#lastWords(session, text);
      return;
    }
    session.lastLineAtMs = this.#nowMs;
    const { limits } = this.#options;
    if (text.length === 0 || text.trim() === '') {
      session.emptyLines += 1;
      if (session.emptyLines > limits.emptyLinesFree) {
        this.#blame(session, 10);
        this.#close(session, 'too many empty lines');
      }
      return;
    }
    this.#tools.metrics.requests += 1;
    const request = decodeRequest(text, limits);
    if (request.kind === 'request') {
      if (request.method === 'mining.submit') this.#submit(session, request, text);
      else this.#call(session, request, text);
      if (request.idRefused) this.#blame(session, 5);
    } else if (request.kind === 'response') {
      this.#response(session, request);
    } else {
      this.#refuse(session, request);
    }
  }

  /** After the last line of a chunk: everything there is to say in at most one write, answers first, then the job. */
  flush(session: Session): void {
    if (session.closed) return;
    if (session.jobDue) this.#appendJob(session);
    if (session.out === '') return;
    const { out } = session;
    session.out = '';
    session.connection.write(out);
  }

  /** The socket is gone. May be called more than once. */
  closed(session: Session, nowMs: number): void {
    this.#advance(nowMs);
    this.#remove(session);
  }

  /** Every 250 ms: time-outs, sinking difficulties, jobs that are late or due again. */
  tick(nowMs: number): void {
    this.#advance(nowMs);
    this.#watchTemplate();
    this.#repeatJob();
    if (this.#late.size > 0) {
      for (const session of [...this.#late]) {
        this.#late.delete(session);
        if (!session.closed) this.flush(session);
      }
    }
    this.#scan();
    this.#forgetResumable();
    const { metrics } = this.#tools;
    metrics.heldAnswers = this.#heldSessions.length - this.#heldFrom;
    metrics.workers = this.#workers.size;
  }

  /**
   * A job from `mining.jobs`: becomes the newest and is told to all sessions that have a coinbase for it, in chunks. A job
   * that is known already, or has no valid coinbase, changes nothing. `nowMs` is the wall clock; without it the time of
   * the last call counts.
   */
  setJob(job: Job, nowMs: number = Math.max(this.#wallMs, 1)): void {
    this.#advance(nowMs);
    const { metrics, log } = this.#tools;
    const ageMs = Math.max(0, nowMs - job.createdAtMs);
    const call = this.#jobs.add(job, this.#nowMs, ageMs, (reason) => {
      this.#rejectedJobs += 1;
      log.error('job has no valid coinbase and is not handed out', { jobId: job.jobId, reason });
    });
    if (call === null) return;
    metrics.jobsReceived += 1;
    metrics.jobsKept = this.#jobs.size;
    metrics.currentHeight = job.height;
    metrics.networkDifficulty = call.known.networkDifficulty;
    this.#watchTemplate();
    this.#broadcast();
  }

  /** A node refused this job: no further work from it. Sessions get the newest other job of the same tip, when there is one. */
  withdrawJob(jobId: string, nowMs: number): void {
    this.#advance(nowMs);
    const wasNewest = this.#jobs.newest?.known.job.jobId === jobId;
    const call = this.#jobs.withdraw(jobId, this.#nowMs);
    if (call !== null) this.#broadcast();
    else if (wasNewest) this.#watchTemplate();
  }

  /** The journal has synced everything up to and including this ticket: the answers that waited for it go out. */
  committed(ticket: number): void {
    const sessions = this.#heldSessions;
    const tickets = this.#heldTickets;
    let from = this.#heldFrom;
    const first = from;
    while (from < tickets.length && tickets[from]! <= ticket) {
      sessions[from]!.release();
      from += 1;
    }
    for (let index = first; index < from; index += 1) {
      const session = sessions[index]!;
      if (session.out !== '' && !session.closed) {
        const { out } = session;
        session.out = '';
        session.connection.write(out);
      }
    }
    this.#heldFrom = from;
    if (from === tickets.length) {
      sessions.length = 0;
      tickets.length = 0;
      this.#heldFrom = 0;
    } else if (from > 65_536) {
      this.#heldSessions = sessions.slice(from);
      this.#heldTickets = tickets.slice(from);
      this.#heldFrom = 0;
    }
  }

  /** SIGTERM: every miner is asked to reconnect, in chunks; new ones are closed. Answers still go out until the door closes. */
  drain(nowMs: number): void {
    this.#advance(nowMs);
    if (this.#isDraining) return;
    this.#isDraining = true;
    const text = encodeReconnect(null, 0);
    this.#eachInChunks([...this.#sessions], (session) => {
      if (session.subscribed && session.profile.obeysReconnect) session.connection.write(text);
    });
  }

  // ---- for the operator and the status page ------------------------------------------------------------------------

  /** What the status API shows. */
  snapshot(nowMs: number): GatewaySnapshot {
    const { newest } = this.#jobs;
    return {
      sessions: this.#sessions.length,
      authorizedSessions: this.#tools.metrics.authorizedSessions,
      height: newest?.known.job.height ?? 0,
      networkDifficulty: newest?.known.networkDifficulty ?? 0,
      jobs: this.#jobs.size,
      newestJobId: newest?.id ?? '',
      newestJobAgeMs: newest === null ? 0 : this.#nowMs - newest.known.madeAtMs,
      workState: (['fine', 'degraded', 'none'] as const)[this.#tools.metrics.workState] ?? 'none',
      workers: this.#workers.views(nowMs),
    };
  }

  /** The last rejections of a worker (`account.worker`), oldest first; empty when there are none. */
  rejections(worker: string): RejectionView[] {
    return (this.#workers.find(worker)?.rejections ?? []).map(viewRejection);
  }

  /** client.show_message to every subscribed session, in chunks. */
  showMessage(text: string): void {
    const line = encodeShowMessage(printable(text, 256));
    this.#eachInChunks([...this.#sessions], (session) => {
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
    const extranonce1 = this.#extranonces.take();
    if (extranonce1 === null) return false;
    // The old number stays held until the session ends: jobs that carry it are still being worked on.
    session.retiredExtranonces.push(session.extranonce1);
    setExtranonce(session, extranonce1);
    session.say(encodeSetExtranonce(hex32(extranonce1), EXTRANONCE2_BYTES));
    session.termsDue = true;
    session.jobDue = true;
    this.flush(session);
    return true;
  }

  // ---- requests other than submit ----------------------------------------------------------------------------------

  #call(session: Session, request: Request, text: string): void {
    const found = findMethod(request.method);
    const params = request.params ?? EMPTY;
    switch (found?.method) {
      case 'subscribe':
        this.#subscribe(session, request.id, params);
        return;
      case 'authorize':
        this.#authorize(session, request.id, params, text);
        return;
      case 'configure':
        this.#configure(session, request.id, params);
        return;
      case 'suggest-difficulty':
        this.#suggest(
          session,
          request.id,
          decodeSuggestedDifficulty(
            found.argument ?? params[0] ?? (request.params === null ? 0 : null),
          ),
        );
        return;
      case 'suggest-target':
        this.#suggest(session, request.id, decodeSuggestedTarget(params[0]));
        return;
      case 'extranonce-subscribe':
        session.extranonceSubscribed = true;
        session.say(encodeTrue(request.id));
        return;
      case 'ping':
        session.say(encodeResult(request.id, '"pong"'));
        return;
      case 'pong':
        return;
      case 'transactions':
        // The real list would be four megabytes for one line of request.
        session.say(encodeResult(request.id, '[]'));
        return;
      case 'accepted':
        session.say(encodeTrue(request.id));
        return;
      case 'term':
        this.#close(session, 'client hung up');
        return;
      case 'backwards':
        this.#fail(session, request.id, 'method-backwards');
        return;
      case 'submit':
        this.#submit(session, request, text);
        return;
      case undefined:
        this.#unknownMethod(session, request);
        return;
    }
  }

  #subscribe(session: Session, id: RequestId, params: readonly unknown[]): void {
    const { limits } = this.#options;
    session.subscribes += 1;
    if (session.subscribes > limits.subscribesPerSessionMax) {
      this.#fail(session, id, 'subscribed-often');
      this.#close(session, 'subscribed too often');
      return;
    }
    if (this.#isDraining) {
      this.#fail(session, id, 'draining');
      return;
    }
    if (!session.subscribed) {
      if (typeof params[0] === 'string' && params[0].length > limits.agentCharsMax)
        this.#blame(session, 1);
      session.agent = printable(params[0], limits.agentCharsMax);
      session.profile = findProfile(session.agent);
      const resumed = this.#resume(session, params);
      if (!resumed) {
        const extranonce1 = this.#extranonces.take();
        if (extranonce1 === null) {
          this.#fail(session, id, 'no-extranonce');
          return;
        }
        setExtranonce(session, extranonce1);
        session.sessionId = hexOf(this.#tools.randomBytes(8));
      }
      this.#bySessionId.set(session.sessionId, session);
      this.#applyProfile(session);
      session.jobDue = true;
    }
    session.say(
      encodeSubscribed(id, {
        sessionId: session.sessionId,
        extranonce1: hex32(session.extranonce1),
        extranonce2Bytes: EXTRANONCE2_BYTES,
      }),
    );
  }

  /**
   * Restores extranonce1 and difficulty of an earlier session by its id: the second parameter, or a lone first one. A live
   * session with that id is closed: its miner has just dialled again.
   */
  #resume(session: Session, params: readonly unknown[]): boolean {
    let wanted = '';
    for (const param of [params[1], params[0]]) {
      if (typeof param === 'string' && param.length === 16) {
        wanted = param.toLowerCase();
        if (this.#bySessionId.has(wanted) || this.#resumable.has(wanted)) break;
      }
    }
    if (wanted === '') return false;
    const live = this.#bySessionId.get(wanted);
    if (live !== undefined) {
      this.#countClose('resumed elsewhere');
      live.connection.destroy('resumed elsewhere');
      this.#remove(live);
    }
    const earlier = this.#resumable.get(wanted);
    if (earlier === undefined) return false;
    this.#resumable.delete(wanted);
    setExtranonce(session, earlier.extranonce1);
    session.sessionId = wanted;
    session.terms = earlier.terms;
    if (session.hintRank <= HINT_RANK.remembered) {
      session.hintRank = HINT_RANK.remembered;
      this.#propose(session, earlier.difficulty);
    }
    this.#tools.metrics.sessionsResumed += 1;
    return true;
  }

  #applyProfile(session: Session): void {
    const { profile, vardiff } = session;
    if (session.versionMask !== 0)
      session.versionMask = (session.versionMask & profile.versionMaskMax) >>> 0;
    if (profile.floorDifficulty > vardiff.floor) vardiff.floor = profile.floorDifficulty;
    if (session.hintRank === HINT_RANK.port) {
      this.#propose(session, profile.startDifficulty || session.connection.port.startDifficulty);
    }
  }

  #authorize(session: Session, id: RequestId, params: readonly unknown[], text: string): void {
    const { limits, network } = this.#options;
    if (!session.takeAuthorize(limits, this.#nowMs)) {
      this.#fail(session, id, 'slow-down');
      return;
    }
    const username = decodeUsername(params[0], network, limits);
    if (!username.ok) {
      this.#failed(session, id, username.error, null, text);
      return;
    }
    const written = params[0] as string;
    if (this.#poolPayee === null) {
      if (session.payee !== null && session.payee.account !== username.account) {
        this.#fail(session, id, 'address-second');
        return;
      }
      session.payee ??= { account: username.account, script: username.script };
    }
    let worker = session.workers.find((one) => one.username === written)?.record;
    const isFirst = session.workers.length === 0;
    if (worker === undefined) {
      if (session.workers.length >= limits.workersPerSessionMax) {
        this.#fail(session, id, 'workers-many');
        return;
      }
      worker = this.#addWorker(session, written, username.account, username.worker);
    }
    this.#hint(session, worker, username.difficulty, params[1]);
    session.say(encodeTrue(id));
    if (!isFirst) return;
    session.authorized = true;
    session.authorizedAtMs = this.#nowMs;
    session.lineBytesMax = limits.lineBytesMax;
    this.#tools.metrics.authorizedSessions += 1;
    if (session.subscribed && session.lastSequence < 0) session.jobDue = true;
  }

  #addWorker(session: Session, username: string, account: string, name: string): WorkerRecord {
    const record = this.#workers.take(account, name, this.#wallMs);
    if (session.agent !== '') record.agent = session.agent;
    record.sessions += 1;
    session.workers.push({ username, record });
    return record;
  }

  /** Wishes of username and password, and what is remembered, by the precedence of `core/work/vardiff.ts`. */
  #hint(session: Session, worker: WorkerRecord, inUsername: number, password: unknown): void {
    const options = decodePassword(password, this.#options.limits);
    const { vardiff } = session;
    if (options.fixedDifficulty > 0) {
      session.hintRank = HINT_RANK.fixed;
      this.#propose(session, options.fixedDifficulty);
      vardiff.fixed = true;
    } else if (options.difficulty > 0 && session.hintRank <= HINT_RANK.password) {
      session.hintRank = HINT_RANK.password;
      this.#propose(session, options.difficulty);
    } else if (inUsername > 0 && session.hintRank <= HINT_RANK.username) {
      session.hintRank = HINT_RANK.username;
      this.#propose(session, inUsername);
    } else if (worker.isDifficultyProven && session.hintRank < HINT_RANK.remembered) {
      session.hintRank = HINT_RANK.remembered;
      this.#propose(session, worker.difficulty);
    }
  }

  #configure(session: Session, id: RequestId, params: readonly unknown[]): void {
    const asked = decodeConfigure(params);
    const granted = grantMask(asked, this.#options.versionMask & session.profile.versionMaskMax);
    session.say(encodeResult(id, encodeConfigured(asked, granted)));
    if (asked.extensions.includes('version-rolling')) {
      if (granted !== 0 && countBits(granted) < asked.versionBitsMin)
        this.#quirk('few-version-bits');
      // Shares in flight were rolled under the old mask; the wider of the two stays allowed.
      const isChange = granted !== session.versionMask;
      session.versionMask = granted;
      if (granted !== 0 && isChange && session.profile.versionMaskPush) {
        session.say(encodeSetVersionMask(granted));
      }
    }
    if (asked.extensions.includes('minimum-difficulty') && asked.minimumDifficulty !== null) {
      const { vardiff } = session;
      vardiff.floor = Math.max(asked.minimumDifficulty, session.profile.floorDifficulty);
      if ((vardiff.pending || vardiff.difficulty) < vardiff.floor)
        this.#propose(session, vardiff.floor);
    }
    if (asked.extensions.includes('subscribe-extranonce')) session.extranonceSubscribed = true;
    if (asked.info !== '' && session.agent === '') session.agent = asked.info;
  }

  #suggest(
    session: Session,
    id: RequestId,
    suggestion: ReturnType<typeof decodeSuggestedDifficulty>,
  ): void {
    if (suggestion.kind === 'wrong') {
      this.#fail(session, id, 'suggest-type');
      return;
    }
    session.say(encodeTrue(id));
    if (suggestion.kind === 'none' || session.hintRank > HINT_RANK.suggested) return;
    // NerdMiner repeats its wish every 30 s as a keep-alive: that must not undo what vardiff found.
    if (suggestion.difficulty === session.lastSuggestion) return;
    const { limits } = this.#options;
    if (
      session.lastSuggestion !== 0 &&
      this.#nowMs - session.suggestedAtMs < limits.suggestIntervalMs
    ) {
      this.#blame(session, 1);
      return;
    }
    session.lastSuggestion = suggestion.difficulty;
    session.suggestedAtMs = this.#nowMs;
    session.hintRank = HINT_RANK.suggested;
    this.#propose(session, suggestion.difficulty);
  }

  #response(session: Session, response: Request): void {
    if (response.id === VERSION_REQUEST_ID) {
      const version = printable(response.result, this.#options.limits.agentCharsMax);
      if (version !== '') {
        session.agent = version;
        for (const worker of session.workers) worker.record.agent = version;
      }
      return;
    }
    this.#blame(session, 1);
  }

  #unknownMethod(session: Session, request: Request): void {
    this.#tools.metrics.unknownMethods += 1;
    if (this.#nowMs - session.unknownMethodsSinceMs > 60_000) {
      session.unknownMethodsSinceMs = this.#nowMs;
      session.unknownMethods = 0;
    }
    session.unknownMethods += 1;
    if (request.hasId || request.idRefused) this.#fail(session, request.id, 'method-unknown');
    else this.#blame(session, STRATUM_ERRORS['method-unknown'].points);
    if (session.unknownMethods > this.#options.limits.unknownMethodsPerMinute) {
      this.#close(session, 'too many unknown methods');
    }
  }

  /** A line that is no request: answered, scored, and the second one of the hopeless kind ends the session. */
  #refuse(session: Session, request: Request): void {
    const error = request.error ?? 'parse-error';
    this.#fail(session, request.id, error);
    if (error === 'parse-error') {
      this.#tools.metrics.parseErrors += 1;
      this.#close(session, 'parse error');
    } else if (error === 'object-expected') {
      session.oddLines += 1;
      if (session.oddLines > 1) this.#close(session, 'no Stratum');
    }
  }

  // ---- judging -----------------------------------------------------------------------------------------------------

  #submit(session: Session, request: Request, text: string): void {
    const { limits } = this.#options;
    const { id } = request;
    const fields = this.#fields;
    if (!session.subscribed) {
      this.#failed(session, id, 'not-subscribed', 'not-subscribed', text);
      return;
    }
    const problem = decodeSubmit(request.params ?? EMPTY, limits.jobIdCharsMax, fields);
    if (problem !== null) {
      this.#failed(session, id, problem, 'malformed', text);
      return;
    }
    if (fields.isShort) this.#quirk('short-hex');
    if (fields.isPrefixed) this.#quirk('hex-prefix');
    const isWithinRate = session.takeSubmit(limits, this.#nowMs);
    const call = this.#jobs.find(fields.jobId);
    if (call === null) {
      this.#unknownJob(session, id, text);
      return;
    }
    const compiled = session.payee === null ? null : this.#jobs.compile(call.known, session.payee);
    if (compiled === null) {
      const error = session.payee === null ? 'unauthorized' : 'no-work';
      this.#failed(session, id, error, session.payee === null ? 'unauthorized' : 'no-work', text);
      return;
    }

    const { known } = call;
    const terms = session.termsOf(call.sequence);
    const { work } = compiled;
    const versionProblem = this.#hash(session, known, compiled, terms);
    const isBlock = meetsTarget(work.hash, known.networkTarget);
    if (isBlock) this.#found(session, known, compiled);

    // From here on only the answer is decided.
    const worker = this.#workerOf(session, fields.username);
    let error: StratumErrorName | null = null;
    let reason: RejectReason = 'malformed';
    if (!isWithinRate) {
      error = 'rate';
      reason = 'rate';
    } else if (worker === null) {
      error = session.authorized ? 'worker-unknown' : 'unauthorized';
      reason = 'unauthorized';
    } else if (!this.#jobs.isCurrent(known)) {
      error = 'stale';
      reason = 'stale';
    } else if (terms === null) {
      error = 'job-unknown-free';
      reason = 'unknown-job';
    } else if (versionProblem !== null) {
      error = versionProblem;
      reason = 'version-mask';
    } else if (checkNtime(fields.ntime, known.job, Math.floor(this.#wallMs / 1000)) !== 'ok') {
      error = isAbsurd(fields.ntime, known.job) ? 'ntime-absurd' : 'ntime-range';
      reason = 'ntime';
    } else if (!isBlock && !meetsTarget(work.hash, terms.target)) {
      error = 'low-difficulty';
      reason = 'low-difficulty';
    } else if (this.#tools.journal.state() !== 'ok' || session.heldCount >= limits.heldAnswersMax) {
      error = 'storage';
      reason = 'storage';
      this.#brake(session);
    } else {
      const added = this.#jobs.addShare(known, work.hash);
      if (added === 'added') {
        this.#accept(session, id, { known, compiled, terms, worker, isBlock });
        return;
      }
      error = added === 'present' ? 'duplicate' : 'storage';
      reason = added === 'present' ? 'duplicate' : 'storage';
    }
    this.#reject(session, { id, error, reason, text, worker, known, compiled, terms });
  }

  /**
   * Puts the submission's header together and hashes it; leaves the fields in `#chosen` and the hash in the work. Where
   * firmware differs in how it writes version bits, the forms are tried until one meets the share's target. Returns what is
   * wrong with the version bits, or null.
   */
  #hash(
    session: Session,
    known: KnownJob,
    compiled: Compiled,
    terms: Terms | null,
  ): StratumErrorName | null {
    const fields = this.#fields;
    const chosen = this.#chosen;
    const base = known.job.version;
    const mask = session.versionMask;
    const bits = fields.versionBits;
    chosen.extranonce1 = terms === null ? session.extranonce1 : terms.extranonce1;
    chosen.extranonce2High = fields.extranonce2High;
    chosen.extranonce2Low = fields.extranonce2Low;
    chosen.ntime = fields.ntime;
    chosen.nonce = fields.nonce;
    if (!fields.hasVersion || (mask === 0 && (bits === 0 || bits === base))) {
      chosen.version = base;
      this.#hashChosen(compiled);
      // Negotiated, but no bits sent: by BIP310 they are zero, by most firmware they are the job's.
      if (mask !== 0 && (base & mask) !== 0) this.#tryVersion(known, compiled, terms, base & ~mask);
      return null;
    }
    if (mask !== 0 && checkVersionBits(base, mask, bits) === 'ok') {
      chosen.version = rollVersion(base, mask, bits);
      this.#hashChosen(compiled);
      if ((bits & ~mask) !== 0) this.#quirk('full-version');
      // ESP-Miner sends the difference to the job's version: not the same once the job has bits inside the mask.
      else if ((base & mask) !== 0) this.#tryVersion(known, compiled, terms, base ^ bits);
      return null;
    }
    const poolMask = this.#options.versionMask;
    chosen.version =
      checkVersionBits(base, poolMask, bits) === 'ok'
        ? rollVersion(base, poolMask, bits)
        : versionOutsideMask(base, bits);
    this.#hashChosen(compiled);
    if (mask !== 0) this.#tryVersion(known, compiled, null, rollVersion(base, mask, bits));
    return mask === 0 ? 'version-unasked' : 'version-mask';
  }

  #hashChosen(compiled: Compiled): void {
    fillWork(compiled.work, this.#chosen);
    this.#tools.hash(compiled.work);
  }

  /** Another reading of the version bits, kept only when it meets a target that the first one missed. */
  #tryVersion(known: KnownJob, compiled: Compiled, terms: Terms | null, version: number): void {
    const { work } = compiled;
    const chosen = this.#chosen;
    const first = chosen.version;
    if (version >>> 0 === first || meetsTarget(work.hash, known.networkTarget)) return;
    if (terms !== null && meetsTarget(work.hash, terms.target)) return;
    chosen.version = version >>> 0;
    this.#hashChosen(compiled);
    if (meetsTarget(work.hash, known.networkTarget)) return;
    if (terms !== null && meetsTarget(work.hash, terms.target)) return;
    chosen.version = first;
    this.#hashChosen(compiled);
  }

  /** A header that meets its job's network target: to the lane at once, whatever is said to the miner later. */
  #found(session: Session, known: KnownJob, compiled: Compiled): void {
    const { metrics, lane, log } = this.#tools;
    const { work } = compiled;
    const worker = this.#workerOf(session, this.#fields.username);
    const { job } = known;
    lane.submit({
      jobId: job.jobId,
      headerHash: work.hash.slice(),
      header: headerOf(work),
      coinbase: coinbaseOf(work),
      height: job.height,
      account: worker?.account ?? session.payee?.account ?? '',
      worker: worker?.name ?? '',
      foundAtMs: this.#wallMs,
      networkDifficulty: known.networkDifficulty,
      rewardSats: job.coinbaseValueSats,
    });
    metrics.blocksFound += 1;
    if (worker !== null) worker.blocks += 1;
    log.info('block found', { height: job.height, jobId: job.jobId, worker: worker?.name ?? '' });
  }

  #accept(
    session: Session,
    id: RequestId,
    share: {
      known: KnownJob;
      compiled: Compiled;
      terms: Terms;
      worker: WorkerRecord;
      isBlock: boolean;
    },
  ): void {
    const { known, compiled, terms, worker, isBlock } = share;
    const { metrics, journal } = this.#tools;
    const chosen = this.#chosen;
    const { hash } = compiled.work;
    const shareDifficulty = difficultyOfHash(hash);
    // A block is worth a share however hard the session's difficulty; never more than a block is.
    const difficulty =
      isBlock && terms.difficulty > known.networkDifficulty
        ? known.networkDifficulty
        : terms.difficulty;
    this.#extranonce2View.setUint32(0, chosen.extranonce2High);
    this.#extranonce2View.setUint32(4, chosen.extranonce2Low);
    const record = this.#record;
    record.headerHash = hash;
    record.jobId = known.job.jobId;
    record.extranonce1 = extranonceBytes(session, terms.extranonce1);
    record.ntime = chosen.ntime;
    record.nonce = chosen.nonce;
    record.version = chosen.version;
    record.difficulty = difficulty;
    record.shareDifficulty = shareDifficulty;
    record.account = worker.account;
    record.worker = worker.name;
    record.sessionId = session.sessionId;
    record.height = known.job.height;
    record.acceptedAtMs = this.#wallMs;
    record.isBlock = isBlock;
    const ticket = journal.append(encodeShare(record));
    if (ticket < 0) {
      this.#brake(session);
      metrics.sharesRejected.set('storage', (metrics.sharesRejected.get('storage') ?? 0) + 1);
      session.say(encodeError(id, 'storage'));
      return;
    }
    if (this.#options.ack === 'memory') {
      session.say(encodeTrue(id));
    } else {
      session.hold(encodeTrue(id));
      this.#heldSessions.push(session);
      this.#heldTickets.push(ticket);
    }
    metrics.sharesAccepted += 1;
    metrics.workAccepted += difficulty;
    worker.accepted += 1;
    worker.workAccepted += difficulty;
    worker.lastShareAtMs = this.#wallMs;
    if (shareDifficulty > worker.bestDifficulty) worker.bestDifficulty = shareDifficulty;
    worker.meter.add(difficulty, this.#wallMs);
    session.accepted += 1;
    if (session.score > 0)
      session.addScore(-1, this.#options.limits.scoreDecayPerMinute, this.#nowMs);
    if (!session.proven) this.#prove(session);
    this.#retarget(session, worker, terms.difficulty);
  }

  #prove(session: Session): void {
    session.proven = true;
    this.#tools.prove?.(session.connection);
    if (session.profile.answersVersion) session.say(encodeGetVersion(VERSION_REQUEST_ID));
  }

  #retarget(session: Session, worker: WorkerRecord, credited: number): void {
    const { vardiff } = session;
    worker.difficulty = vardiff.difficulty;
    worker.isDifficultyProven = !vardiff.fixed;
    const wanted = noteShare(vardiff, credited, this.#options.vardiff, this.#nowMs);
    if (wanted === 0) return;
    const isSurge = wanted >= vardiff.difficulty * this.#options.vardiff.surgeRatio;
    if (!this.#propose(session, wanted, { isUrgent: isSurge, isWish: false }))
      restartWindow(vardiff, this.#nowMs);
    else this.#tools.metrics.retargets += 1;
  }

  /** The journal takes no more: the session is slowed down before it is refused again. */
  #brake(session: Session): void {
    if (session.vardiff.fixed || this.#nowMs - session.storageBrakeAtMs < 30_000) return;
    session.storageBrakeAtMs = this.#nowMs;
    this.#propose(session, session.vardiff.difficulty * 4, { isWish: false });
  }

  #unknownJob(session: Session, id: RequestId, text: string): void {
    if (this.#jobs.newest === null) {
      this.#failed(session, id, 'no-work', 'no-work', text);
      return;
    }
    session.unknownJobs += 1;
    const isFree = session.unknownJobs <= this.#options.limits.freeUnknownJobs;
    this.#failed(session, id, isFree ? 'job-unknown-free' : 'job-unknown', 'unknown-job', text);
  }

  /**
   * Who a username of this session is: as authorized, or another worker of an account that is authorized here, which is then
   * authorized too.
   */
  #workerOf(session: Session, username: string): WorkerRecord | null {
    const { workers } = session;
    for (let index = 0; index < workers.length; index += 1) {
      if (workers[index]!.username === username) return workers[index]!.record;
    }
    if (workers.length === 0) return null;
    const { limits, network } = this.#options;
    const decoded = decodeUsername(username, network, limits);
    if (!decoded.ok) return null;
    let isKnownAccount = false;
    for (const { record } of workers) {
      if (record.account !== decoded.account) continue;
      if (record.name === decoded.worker) return record;
      isKnownAccount = true;
    }
    if (!isKnownAccount || workers.length >= limits.workersPerSessionMax) return null;
    this.#quirk('worker-by-account');
    return this.#addWorker(session, username, decoded.account, decoded.worker);
  }

  /** Looks for a block in what a closed session still sent; nothing is answered or credited. */
  #lastWords(session: Session, text: string): void {
    const { limits } = this.#options;
    const request = decodeRequest(text, limits);
    if (request.kind !== 'request' || request.method !== 'mining.submit' || session.payee === null)
      return;
    const fields = this.#fields;
    if (decodeSubmit(request.params ?? EMPTY, limits.jobIdCharsMax, fields) !== null) return;
    if (!session.takeSubmit(limits, this.#nowMs)) return;
    const call = this.#jobs.find(fields.jobId);
    const compiled = call === null ? null : this.#jobs.compile(call.known, session.payee);
    if (call === null || compiled === null) return;
    this.#hash(session, call.known, compiled, session.termsOf(call.sequence));
    if (meetsTarget(compiled.work.hash, call.known.networkTarget)) {
      this.#found(session, call.known, compiled);
    }
  }

  // ---- refusing ----------------------------------------------------------------------------------------------------

  /** An error answer and its points; the session ends when it has too many. */
  #fail(session: Session, id: RequestId, error: StratumErrorName): void {
    session.say(encodeError(id, error));
    this.#blame(session, STRATUM_ERRORS[error].points);
  }

  /** The same for a request about a share or worker, with a place in the list of rejections. */
  #failed(
    session: Session,
    id: RequestId,
    error: StratumErrorName,
    reason: RejectReason | null,
    text: string,
  ): void {
    if (reason === null) {
      this.#fail(session, id, error);
      return;
    }
    this.#reject(session, {
      id,
      error,
      reason,
      text,
      worker: session.workers[0]?.record ?? null,
      known: null,
      compiled: null,
      terms: null,
    });
  }

  #reject(
    session: Session,
    refusal: {
      id: RequestId;
      error: StratumErrorName;
      reason: RejectReason;
      text: string;
      worker: WorkerRecord | null;
      known: KnownJob | null;
      compiled: Compiled | null;
      terms: Terms | null;
    },
  ): void {
    const { id, error, reason, text, compiled, terms } = refusal;
    const { sharesRejected } = this.#tools.metrics;
    sharesRejected.set(reason, (sharesRejected.get(reason) ?? 0) + 1);
    const worker = refusal.worker ?? session.workers[0]?.record ?? null;
    if (worker !== null) {
      this.#workers.reject(worker, {
        atMs: this.#wallMs,
        reason,
        error,
        line: text.slice(0, this.#options.limits.rejectionLineChars),
        header: compiled === null ? null : headerOf(compiled.work),
        headerHash: compiled === null ? null : compiled.work.hash.slice(),
        expectedTargetDisplay: terms === null ? '' : displayTarget(terms.target),
        difficulty: terms?.difficulty ?? 0,
        shareDifficulty: compiled === null ? 0 : difficultyOfHash(compiled.work.hash),
      });
    }
    this.#fail(session, id, error);
  }

  /** Points for the session; the source address only answers for sessions that never sent a valid share. */
  #blame(session: Session, points: number): void {
    if (points === 0 || session.closed) return;
    const { limits } = this.#options;
    const score = session.addScore(points, limits.scoreDecayPerMinute, this.#nowMs);
    if (!session.proven) this.#tools.blame(session.connection.remoteAddress, points);
    if (score >= limits.scoreMax) this.#close(session, 'too much bad input');
  }

  #quirk(name: string): void {
    const { quirks } = this.#tools.metrics;
    quirks.set(name, (quirks.get(name) ?? 0) + 1);
  }

  // ---- jobs and difficulty on their way out ------------------------------------------------------------------------

  /** Starts telling all sessions of the newest call. A newer one takes over the broadcast in progress. */
  #broadcast(): void {
    this.#broadcastAtMs = this.#nowMs;
    this.#broadcastLeft = this.#sessions.length;
    this.#tools.metrics.broadcasts += 1;
    if (this.#isBroadcasting) return;
    this.#isBroadcasting = true;
    this.#broadcastChunk();
  }

  /**
   * The next chunk, from the back: a session that leaves is replaced by the last one, which has been told already, and new
   * ones at the end get their job when they subscribe. So nobody is missed and nobody is told twice.
   */
  readonly #broadcastChunk = (): void => {
    let left = Math.min(this.#broadcastLeft, this.#sessions.length);
    const end = Math.max(0, left - this.#options.limits.broadcastChunk);
    while (left > end) {
      left -= 1;
      const session = this.#sessions[left];
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
      if (last.difficulty <= call.known.networkDifficulty) {
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

  #lineFor(session: Session, call: Call): ReturnType<JobBook['line']> | null {
    if (session.payee === null) return null;
    const compiled = this.#jobs.compile(call.known, session.payee);
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
    if (!session.subscribed || session.payee === null || this.#jobs.newest === null) {
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
    if (session.lastSequence >= call.sequence) {
      const isUnchanged =
        !session.termsDue &&
        (session.vardiff.pending || session.vardiff.difficulty) === session.vardiff.difficulty;
      if (isUnchanged) {
        session.jobDue = false;
        return;
      }
      // One new call a second serves everybody who needs one.
      const again = this.#jobs.callAgain(this.#nowMs);
      if (again === null) {
        session.jobDue = false;
        return;
      }
      this.#tools.metrics.jobVariants += 1;
      call = again;
    }
    const line = this.#lineFor(session, call);
    session.jobDue = false;
    if (line === null) return;
    const { vardiff } = session;
    const bounds = this.#bounds(session);
    const last = session.terms.at(-1);
    applyDifficulty(vardiff, this.#nowMs);
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

  /**
   * Puts a difficulty forward; it goes out with the next job, or at the end of this chunk when that cannot wait. What people
   * and firmware wish is given as wished where the device can take it; vardiff's own results are powers of two.
   */
  #propose(
    session: Session,
    wanted: number,
    options: { isUrgent?: boolean; isWish?: boolean } = {},
  ): boolean {
    const { isUrgent = true, isWish = true } = options;
    const form = isWish ? session.profile.difficultyForm : 'power-of-two';
    const isChange = proposeDifficulty(session.vardiff, wanted, this.#bounds(session), form);
    if (isChange && isUrgent && session.lastSequence >= 0) session.jobDue = true;
    return isChange;
  }

  #bounds(session: Session): VardiffBounds {
    return this.#boundsOf(session.connection.port);
  }

  #boundsOf(port: { minDifficulty: number; maxDifficulty: number }): VardiffBounds {
    const network = this.#jobs.newest?.known.networkDifficulty ?? Number.MAX_VALUE;
    return { min: port.minDifficulty, max: Math.min(port.maxDifficulty, network) };
  }

  #target(difficulty: number): PreparedTarget {
    let target = this.#targets.get(difficulty);
    if (target !== undefined) return target;
    if (this.#targets.size >= TARGETS_MAX) this.#targets.clear();
    target = prepareTarget(targetOfDifficulty(difficulty));
    this.#targets.set(difficulty, target);
    return target;
  }

  // ---- time --------------------------------------------------------------------------------------------------------

  /** Time moves forward by what the wall clock did, but never back and never by a jump. */
  #advance(nowMs: number): void {
    if (nowMs === this.#wallMs) return;
    if (this.#wallMs === 0) this.#nowMs = nowMs;
    else {
      const step = nowMs - this.#wallMs;
      if (step > 0) this.#nowMs += step < STEP_MS_MAX ? step : STEP_MS_MAX;
    }
    this.#wallMs = nowMs;
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
    const ageMs = this.#nowMs - newest.known.madeAtMs;
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

  /** No new job for a while: the newest goes out again with a later time, before miners think that the pool is gone. */
  #repeatJob(): void {
    const { metrics } = this.#tools;
    if (metrics.workState === 2) return;
    if (this.#nowMs - this.#broadcastAtMs < this.#options.limits.rebroadcastMs) return;
    if (this.#jobs.callAgain(this.#nowMs) === null) return;
    metrics.jobVariants += 1;
    this.#broadcast();
  }

  /** A slice of the sessions: time-outs and silence. Every session's turn comes within two seconds. */
  #scan(): void {
    const count = Math.min(
      this.#sessions.length,
      Math.max(SCAN_MIN, Math.ceil(this.#sessions.length / SCAN_PARTS)),
    );
    const isWorkGone = this.#tools.metrics.workState === 2 && this.#jobs.newest !== null;
    for (let looked = 0; looked < count && this.#sessions.length > 0; looked += 1) {
      if (this.#scanFrom >= this.#sessions.length) this.#scanFrom = 0;
      const session = this.#sessions[this.#scanFrom]!;
      this.#scanFrom += 1;
      if (isWorkGone) this.#close(session, 'no fresh work');
      else this.#look(session);
    }
  }

  #look(session: Session): void {
    const { limits } = this.#options;
    const nowMs = this.#nowMs;
    if (!session.authorized || !session.subscribed) {
      if (nowMs - session.openedAtMs >= limits.authorizeTimeoutMs) {
        this.#blame(session, 5);
        this.#close(session, 'no subscribe and authorize in time');
      }
      return;
    }
    const { vardiff } = session;
    const isPatient = vardiff.fixed || vardiff.difficulty <= this.#floor(session);
    if (!session.proven) {
      const allowedMs = isPatient ? limits.firstShareTimeoutMsMax : limits.firstShareTimeoutMs;
      if (nowMs - session.authorizedAtMs >= allowedMs) {
        this.#close(session, 'no valid share in time');
        return;
      }
    }
    const idleMs = isPatient ? limits.firstShareTimeoutMsMax : limits.idleTimeoutMs;
    if (nowMs - session.lastLineAtMs >= idleMs) {
      this.#close(session, 'idle');
      return;
    }
    if (session.lastSequence < 0) return;
    const wanted = noteSilence(vardiff, this.#options.vardiff, nowMs);
    if (wanted === 0) return;
    if (!this.#propose(session, wanted, { isWish: false })) {
      restartWindow(vardiff, nowMs);
      return;
    }
    this.#tools.metrics.retargets += 1;
    this.flush(session);
  }

  #floor(session: Session): number {
    const { min, max } = this.#bounds(session);
    return Math.min(Math.max(min, session.vardiff.floor), max);
  }

  // ---- a session's end ---------------------------------------------------------------------------------------------

  /** Says what there is to say, then closes from our side. */
  #close(session: Session, reason: string): void {
    if (session.closed) return;
    if (session.out !== '') {
      session.connection.write(session.out);
      session.out = '';
    }
    this.#countClose(reason);
    this.#remove(session);
    session.connection.close(reason);
  }

  #countClose(reason: string): void {
    const { closedByGateway } = this.#tools.metrics;
    closedByGateway.set(reason, (closedByGateway.get(reason) ?? 0) + 1);
  }

  #remove(session: Session): void {
    if (session.closed) return;
    session.closed = true;
    const { metrics } = this.#tools;
    const last = this.#sessions.pop();
    if (last !== undefined && last !== session) {
      this.#sessions[session.index] = last;
      last.index = session.index;
    }
    session.index = -1;
    this.#late.delete(session);
    metrics.sessions = this.#sessions.length;
    metrics.sessionsClosed += 1;
    if (session.authorized) metrics.authorizedSessions -= 1;
    for (const { record } of session.workers) {
      record.sessions -= 1;
      // A silent machine sinks before it is closed: only what shares have proven is worth remembering.
      if (record.isDifficultyProven && session.vardiff.sinks === 0) {
        record.difficulty = session.vardiff.pending || session.vardiff.difficulty;
      }
    }
    if (!session.subscribed) return;
    this.#bySessionId.delete(session.sessionId);
    for (const retired of session.retiredExtranonces) this.#extranonces.release(retired);
    this.#resumable.set(session.sessionId, {
      extranonce1: session.extranonce1,
      terms: session.terms,
      difficulty: session.vardiff.difficulty,
      lastSequence: session.lastSequence,
      goneAtMs: this.#nowMs,
    });
    if (this.#resumable.size > this.#options.limits.resumableSessionsMax) this.#forgetEldest();
  }

  #forgetResumable(): void {
    const { resumeTimeMs } = this.#options.limits;
    for (const earlier of this.#resumable.values()) {
      if (this.#nowMs - earlier.goneAtMs < resumeTimeMs) return;
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

  #eachInChunks(sessions: Session[], work: (session: Session) => void): void {
    const next = (): void => {
      for (const session of sessions.splice(0, this.#options.limits.broadcastChunk)) {
        if (!session.closed) work(session);
      }
      if (sessions.length > 0) this.#tools.defer(next);
    };
    next();
  }
}

function setExtranonce(session: Session, extranonce1: number): void {
  session.extranonce1 = extranonce1;
  session.extranonce1Bytes = bytesOf32(extranonce1);
}

/** The four bytes of an extranonce1 of this session; nearly always the ones it has now. */
function extranonceBytes(session: Session, extranonce1: number): Uint8Array {
  if (extranonce1 === session.extranonce1 && session.extranonce1Bytes !== null) {
    return session.extranonce1Bytes;
  }
  return bytesOf32(extranonce1);
}

function bytesOf32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
}

function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}

function isAbsurd(ntime: number, job: Job): boolean {
  return Math.abs(ntime - job.curtime) > NTIME_ABSURD_SECONDS;
}

/** 64 hex digits, most significant first. */
function displayTarget(target: PreparedTarget): string {
  let text = '';
  for (const word of target) text += word.toString(16).padStart(8, '0');
  return text;
}
