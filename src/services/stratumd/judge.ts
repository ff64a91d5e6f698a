/**
 * Judging, in the one order there is: canonical values → header → hash → the network target of the job itself; a header that
 * meets it goes to the block lane before anything else is asked. Then the policies decide the answer, and an accepted share goes
 * to the journal before `true` may be said.
 */

import type { StratumErrorName } from '../../core/stratum/errors.ts';
import { encodeError, encodeGetVersion, encodeTrue } from '../../core/stratum/reply.ts';
import { decodeRequest, type Request, type RequestId } from '../../core/stratum/request.ts';
import { createSubmitFields, decodeSubmit, EXTRANONCE2_BYTES } from '../../core/stratum/submit.ts';
import { decodeUsername } from '../../core/stratum/username.ts';
import { EXTRANONCE1_BYTES, type Job } from '../../core/work/job.ts';
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
  rollVersion,
  versionOutsideMask,
} from '../../core/work/share.ts';
import { noteShare, restartWindow } from '../../core/work/vardiff.ts';
import type { BlockCandidate } from '../../messages/block.ts';
import { encodeShare } from '../../messages/codec.ts';
import type { ShareRecord } from '../../messages/share.ts';
import type { Conduct } from './conduct.ts';
import type { Dispatch } from './dispatch.ts';
import { BAR_MS, type Bar, type HeldAnswers } from './held-answers.ts';
import type { Compiled, JobBook, KnownJob, Pool } from './jobs.ts';
import type { GatewayOptions, GatewayTools, RejectReason } from './options.ts';
import type { Roster } from './roster.ts';
import type { Session, Terms } from './session.ts';
import type { SessionTime } from './time.ts';
import type { WorkerBook, WorkerRecord } from './workers.ts';

/** Our one request to a miner, client.get_version, carries this id. */
export const VERSION_REQUEST_ID = 2_147_480_001;
/** An ntime this far from the job's was not rolled, it was made up. */
const NTIME_ABSURD_SECONDS = 86_400;

/** The easiest target of every network but regtest is difficulty 1 or, on signet, close to it. */
const TOY_DIFFICULTY = 1e-4;
const TOY_BLOCKS_PER_TIP = 16;
const TOY_BLOCKS_PER_SECOND = 20;

const NO_PARAMS: readonly unknown[] = [];

export class Judge {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time: SessionTime;
  readonly #jobs: JobBook;
  readonly #workers: WorkerBook;
  readonly #dispatch: Dispatch;
  readonly #conduct: Conduct;
  readonly #held: HeldAnswers;
  readonly #roster: Roster;

  #toyTip = '';
  #toyTokens = 0;
  #toyAtMs = 0;

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
  readonly #extranonce1 = new Uint8Array(EXTRANONCE1_BYTES);
  readonly #extranonce1View = new DataView(this.#extranonce1.buffer);
  readonly #extranonce2 = new Uint8Array(EXTRANONCE2_BYTES);
  readonly #extranonce2View = new DataView(this.#extranonce2.buffer);
  readonly #record: ShareRecord;

  constructor(
    tools: GatewayTools & {
      time: SessionTime;
      jobs: JobBook;
      workers: WorkerBook;
      dispatch: Dispatch;
      conduct: Conduct;
      held: HeldAnswers;
      roster: Roster;
    },
    options: GatewayOptions,
  ) {
    this.#tools = tools;
    this.#options = options;
    this.#time = tools.time;
    this.#jobs = tools.jobs;
    this.#workers = tools.workers;
    this.#dispatch = tools.dispatch;
    this.#conduct = tools.conduct;
    this.#held = tools.held;
    this.#roster = tools.roster;
    this.#record = {
      headerHash: this.#extranonce2,
      jobId: '',
      extranonce1: this.#extranonce1,
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
      pool: '',
      networkBits: 0,
      jobValueSats: 0n,
      planId: '',
      coinbaseBytes: 0,
    };
  }

  /** Judges one mining.submit; the answer waits in the session. `text` is the line, kept for rejections. */
  submit(session: Session, request: Request, text: string): void {
    const { limits } = this.#options;
    const { id } = request;
    const fields = this.#fields;
    if (!session.subscribed) {
      this.#failed(session, id, 'not-subscribed', 'not-subscribed', text);
      return;
    }
    const problem = decodeSubmit(request.params ?? NO_PARAMS, limits.jobIdCharsMax, fields);
    if (problem !== null) {
      this.#failed(session, id, problem, 'malformed', text);
      return;
    }
    if (fields.isShort) this.#conduct.quirk('short-hex');
    if (fields.isPrefixed) this.#conduct.quirk('hex-prefix');
    const isWithinRate = session.takeSubmit(limits, this.#time.nowMs);
    const call = this.#jobs.find(fields.jobId);
    if (call === null) {
      this.#unknownJob(session, id, text);
      return;
    }
    const terms = session.termsOf(call.sequence);
    const compiled = this.#jobs.compile(call, terms ?? session, session.finder);
    if (compiled === null) {
      const why = session.isPayable ? 'no-work' : 'unauthorized';
      this.#failed(session, id, why, why, text);
      return;
    }

    const { known } = call;
    const { work } = compiled;
    const versionProblem = this.#hash(session, known, compiled, terms);
    const isBlock = meetsTarget(work.hash, known.networkTarget);
    const bar = isBlock ? this.#found(session, known, { compiled, terms }) : null;

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
    } else if (checkNtime(fields.ntime, known.job, Math.floor(this.#time.wallMs / 1000)) !== 'ok') {
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
        this.#accept(session, id, { known, compiled, terms, worker, isBlock, bar });
        return;
      }
      error = added === 'present' ? 'duplicate' : 'storage';
      reason = added === 'present' ? 'duplicate' : 'storage';
    }
    this.#reject(session, { id, error, reason, text, worker, known, compiled, terms });
  }

  /** Looks for a block in what a closed session still sent; nothing is answered or credited. */
  lastWords(session: Session, text: string): void {
    const { limits } = this.#options;
    const request = decodeRequest(text, limits);
    if (request.kind !== 'request' || request.method !== 'mining.submit') return;
    const fields = this.#fields;
    if (decodeSubmit(request.params ?? NO_PARAMS, limits.jobIdCharsMax, fields) !== null) return;
    if (!session.takeSubmit(limits, this.#time.nowMs)) return;
    const call = this.#jobs.find(fields.jobId);
    if (call === null) return;
    const terms = session.termsOf(call.sequence);
    const compiled = this.#jobs.compile(call, terms ?? session, session.finder);
    if (compiled === null) return;
    this.#hash(session, call.known, compiled, terms);
    if (meetsTarget(compiled.work.hash, call.known.networkTarget)) {
      this.#found(session, call.known, { compiled, terms });
    }
  }

  /** Refuses a submission of which no header was put together. */
  #failed(
    session: Session,
    id: RequestId,
    error: StratumErrorName,
    reason: RejectReason,
    text: string,
  ): void {
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
    this.#conduct.quirk('worker-by-account');
    return this.addWorker(session, username, decoded.account, decoded.worker);
  }

  /** Adds a worker to a session. The caller minds the maximum. */
  addWorker(session: Session, username: string, account: string, name: string): WorkerRecord {
    const record = this.#workers.take(session.pool.id, account, name, this.#time.wallMs);
    if (session.agent !== '') record.agent = session.agent;
    record.sessions += 1;
    if (record.sessions === 1) this.#tools.metrics.workers += 1;
    session.workers.push({ username, record });
    return record;
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
      if ((bits & ~mask) !== 0) this.#conduct.quirk('full-version');
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

  /**
   * A header that meets its job's network target: to the lane at once, whatever is said to the miner later. Null when the lane
   * does not get it, or has it safe already.
   */
  #found(
    session: Session,
    known: KnownJob,
    { compiled, terms }: { compiled: Compiled; terms: Terms | null },
  ): Bar | null {
    const { metrics, lane, log } = this.#tools;
    if (known.networkDifficulty < TOY_DIFFICULTY && !this.#takeToyBlock(known)) {
      metrics.toyBlocksHeldBack += 1;
      return null;
    }
    const { work } = compiled;
    const worker = this.#workerOf(session, this.#fields.username);
    const { job } = known;
    const { pool } = terms ?? session;
    const bar: Bar = { ticket: 0, untilMs: this.#time.nowMs + BAR_MS, isLifted: false };
    const candidate: BlockCandidate = {
      jobId: job.jobId,
      headerHash: work.hash.slice(),
      header: headerOf(work),
      coinbase: coinbaseOf(work),
      height: job.height,
      account: worker?.account ?? session.finder?.account ?? addressOf(pool),
      worker: worker?.name ?? '',
      foundAtMs: this.#time.wallMs,
      networkDifficulty: known.networkDifficulty,
      rewardSats: job.coinbaseValueSats,
      pool: pool.id,
      planId: compiled.planId,
    };
    lane.submit(candidate, () => {
      bar.isLifted = true;
      this.#held.look(this.#time.nowMs);
    });
    metrics.blocksFound += 1;
    if (worker !== null) worker.blocks += 1;
    log.debug('winning header handed to the block lane', {
      height: job.height,
      jobId: job.jobId,
      worker: worker?.name ?? '',
    });
    return bar.isLifted ? null : bar;
  }

  /**
   * Below this difficulty there is only regtest, where a CPU finds 8,000 blocks a second on one tip (cpuminer 2.5.1, measured), of
   * which the node can use one: the lane gets the first ones of each tip, and then some a second.
   */
  #takeToyBlock(known: KnownJob): boolean {
    const nowMs = this.#time.nowMs;
    if (known.tip !== this.#toyTip) {
      this.#toyTip = known.tip;
      this.#toyTokens = TOY_BLOCKS_PER_TIP;
    } else {
      const filled = this.#toyTokens + ((nowMs - this.#toyAtMs) * TOY_BLOCKS_PER_SECOND) / 1000;
      this.#toyTokens = Math.min(TOY_BLOCKS_PER_TIP, filled);
    }
    this.#toyAtMs = nowMs;
    if (this.#toyTokens < 1) return false;
    this.#toyTokens -= 1;
    return true;
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
      bar: Bar | null;
    },
  ): void {
    const { known, compiled, terms, worker, isBlock, bar } = share;
    const { metrics, journal } = this.#tools;
    const { hash } = compiled.work;
    const shareDifficulty = difficultyOfHash(hash);
    // A block is worth a share however hard the session's difficulty: what it proves is the network's, then.
    const difficulty =
      isBlock && !meetsTarget(hash, terms.target) ? known.networkDifficulty : terms.difficulty;
    const record = this.#fill(session, { known, compiled, terms, worker });
    record.difficulty = difficulty;
    record.shareDifficulty = shareDifficulty;
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
      if (bar !== null && !bar.isLifted) this.#held.bar(bar, ticket);
      this.#held.add(session, ticket);
    }
    metrics.sharesAccepted += 1;
    metrics.workAccepted += difficulty;
    worker.accepted += 1;
    worker.workAccepted += difficulty;
    worker.lastShareAtMs = this.#time.wallMs;
    if (shareDifficulty > worker.bestDifficulty) worker.bestDifficulty = shareDifficulty;
    worker.meter.add(difficulty, this.#time.wallMs);
    session.accepted += 1;
    if (session.score > 0)
      session.addScore(-1, this.#options.limits.scoreDecayPerMinute, this.#time.nowMs);
    if (!session.proven) this.#prove(session);
    this.#retarget(session, worker, terms.difficulty);
  }

  /** The record of the submission in progress, but for its difficulties and whether it is a block. */
  #fill(
    session: Session,
    of: { known: KnownJob; compiled: Compiled; terms: Terms | null; worker: WorkerRecord },
  ): ShareRecord {
    const { known, compiled, terms, worker } = of;
    const chosen = this.#chosen;
    const record = this.#record;
    this.#extranonce1View.setUint32(0, chosen.extranonce1);
    this.#extranonce2View.setUint32(0, chosen.extranonce2High);
    this.#extranonce2View.setUint32(4, chosen.extranonce2Low);
    record.headerHash = compiled.work.hash;
    record.jobId = known.job.jobId;
    record.ntime = chosen.ntime;
    record.nonce = chosen.nonce;
    record.version = chosen.version;
    record.account = worker.account;
    record.worker = worker.name;
    record.sessionId = session.sessionId;
    record.height = known.job.height;
    record.acceptedAtMs = this.#time.wallMs;
    record.networkBits = known.job.bits;
    record.jobValueSats = known.job.coinbaseValueSats;
    record.pool = (terms ?? session).pool.id;
    record.planId = compiled.planId;
    record.coinbaseBytes = compiled.coinbaseBytesMax;
    return record;
  }

  #prove(session: Session): void {
    session.proven = true;
    if (session.profile.answersVersion) session.say(encodeGetVersion(VERSION_REQUEST_ID));
  }

  #retarget(session: Session, worker: WorkerRecord, credited: number): void {
    const { vardiff } = session;
    worker.difficulty = vardiff.difficulty;
    worker.isDifficultyProven = !vardiff.fixed;
    const wanted = noteShare(vardiff, credited, this.#options.vardiff, this.#time.nowMs);
    if (wanted === 0) return;
    const isSurge = wanted >= vardiff.difficulty * this.#options.vardiff.surgeRatio;
    if (!this.#dispatch.propose(session, wanted, { isUrgent: isSurge, isWish: false }))
      restartWindow(vardiff, this.#time.nowMs);
    else {
      this.#tools.metrics.retargets += 1;
      this.#roster.remember(session, worker, vardiff.pending || vardiff.difficulty);
    }
  }

  /** The journal takes no more: the session is slowed down before it is refused again. */
  #brake(session: Session): void {
    if (session.vardiff.fixed || this.#time.nowMs - session.storageBrakeAtMs < 30_000) return;
    session.storageBrakeAtMs = this.#time.nowMs;
    this.#dispatch.propose(session, session.vardiff.difficulty * 4, { isWish: false });
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
    this.#tools.refusals?.note({
      share: this.#refusedShare(session, refusal, worker),
      sessionId: session.sessionId,
      text,
      reason,
      detail: error,
      atMs: this.#time.wallMs,
    });
    if (worker !== null) {
      this.#workers.reject(worker, {
        atMs: this.#time.wallMs,
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
    this.#conduct.fail(session, id, error);
  }

  /** Null when there is no header or nobody whose it is. */
  #refusedShare(
    session: Session,
    refusal: { known: KnownJob | null; compiled: Compiled | null; terms: Terms | null },
    worker: WorkerRecord | null,
  ): ShareRecord | null {
    const { known, compiled, terms } = refusal;
    if (known === null || compiled === null || worker === null) return null;
    const record = this.#fill(session, { known, compiled, terms, worker });
    record.difficulty = terms?.difficulty ?? session.vardiff.difficulty;
    record.shareDifficulty = difficultyOfHash(compiled.work.hash);
    record.isBlock = meetsTarget(compiled.work.hash, known.networkTarget);
    return record;
  }
}

/** Who a pool with one address pays; nobody else is known for a submission without an account. */
function addressOf({ rules }: Pool): string {
  return rules.mode === 'pool' ? rules.address : '';
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
