/**
 * Every request but mining.submit: subscribe, authorize, configure, wishes for a difficulty, and the small ones.
 */

import {
  countBits,
  decodeConfigure,
  encodeConfigured,
  grantMask,
  printable,
} from '../../core/stratum/configure.ts';
import { STRATUM_ERRORS } from '../../core/stratum/errors.ts';
import { findMethod } from '../../core/stratum/methods.ts';
import { coinbaseClassOf, findProfile } from '../../core/stratum/profiles.ts';
import {
  encodeResult,
  encodeSetVersionMask,
  encodeSubscribed,
  encodeTrue,
  hex32,
} from '../../core/stratum/reply.ts';
import type { Request, RequestId } from '../../core/stratum/request.ts';
import { EXTRANONCE2_BYTES } from '../../core/stratum/submit.ts';
import {
  decodeSuggestedDifficulty,
  decodeSuggestedTarget,
  type Suggestion,
} from '../../core/stratum/suggest.ts';
import { decodePassword, decodeUsername } from '../../core/stratum/username.ts';
import type { Conduct } from './conduct.ts';
import type { Dispatch } from './dispatch.ts';
import type { JobBook } from './jobs.ts';
import { type Judge, VERSION_REQUEST_ID } from './judge.ts';
import { sessionKey, workerKey } from './neighbours.ts';
import type { GatewayOptions, GatewayTools } from './options.ts';
import type { Roster } from './roster.ts';
import { HINT_RANK, type Session } from './session.ts';
import type { SessionTime } from './time.ts';
import type { WorkerRecord } from './workers.ts';

const NO_PARAMS: readonly unknown[] = [];

export class Desk {
  readonly #tools: GatewayTools;
  readonly #options: GatewayOptions;
  readonly #time: SessionTime;
  readonly #roster: Roster;
  readonly #dispatch: Dispatch;
  readonly #conduct: Conduct;
  readonly #judge: Judge;
  readonly #jobs: JobBook;
  /** After SIGTERM: nobody subscribes any more. */
  isClosing = false;

  constructor(
    tools: GatewayTools & {
      time: SessionTime;
      roster: Roster;
      dispatch: Dispatch;
      conduct: Conduct;
      judge: Judge;
      jobs: JobBook;
    },
    options: GatewayOptions,
  ) {
    this.#tools = tools;
    this.#options = options;
    this.#time = tools.time;
    this.#roster = tools.roster;
    this.#dispatch = tools.dispatch;
    this.#conduct = tools.conduct;
    this.#judge = tools.judge;
    this.#jobs = tools.jobs;
  }

  /** Answers one request. A mining.submit under another spelling of its name goes to the judge. */
  call(session: Session, request: Request, text: string): void {
    const found = findMethod(request.method);
    const params = request.params ?? NO_PARAMS;
    switch (found?.method) {
      case 'subscribe':
        this.#subscribe(session, request.id, params);
        return;
      case 'authorize':
        this.#authorize(session, request.id, params);
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
        this.#conduct.close(session, 'client hung up');
        return;
      case 'backwards':
        this.#conduct.fail(session, request.id, 'method-backwards');
        return;
      case 'submit':
        this.submit(session, request, text);
        return;
      case undefined:
        this.#unknownMethod(session, request);
        return;
    }
  }

  /** An answer of the miner to a request of ours; any other is counted against it. */
  response(session: Session, response: Request): void {
    if (response.id === VERSION_REQUEST_ID) {
      const version = printable(response.result, this.#options.limits.agentCharsMax);
      if (version !== '') {
        session.agent = version;
        for (const worker of session.workers) worker.record.agent = version;
      }
      return;
    }
    this.#conduct.blame(session, 1);
  }

  /** A line that is no request: answered, scored, and the second one of the hopeless kind ends the session. */
  refuse(session: Session, request: Request): void {
    const error = request.error ?? 'parse-error';
    this.#conduct.fail(session, request.id, error);
    if (error === 'parse-error') {
      this.#tools.metrics.parseErrors += 1;
      this.#conduct.close(session, 'parse error');
    } else if (error === 'object-expected') {
      session.oddLines += 1;
      if (session.oddLines > 1) this.#conduct.close(session, 'no Stratum');
    }
  }

  #subscribe(session: Session, id: RequestId, params: readonly unknown[]): void {
    const { limits } = this.#options;
    session.subscribes += 1;
    if (session.subscribes > limits.subscribesPerSessionMax) {
      this.#conduct.fail(session, id, 'subscribed-often');
      this.#conduct.close(session, 'subscribed too often');
      return;
    }
    if (this.isClosing) {
      this.#conduct.fail(session, id, 'draining');
      return;
    }
    if (!session.subscribed) {
      if (typeof params[0] === 'string' && params[0].length > limits.agentCharsMax)
        this.#conduct.blame(session, 1);
      session.agent = printable(params[0], limits.agentCharsMax);
      session.profile = findProfile(session.agent);
      session.coinbaseClass = coinbaseClassOf(session.profile);
      const difficulty = this.#roster.resume(session, params);
      if (difficulty > 0) {
        if (session.hintRank <= HINT_RANK.remembered) {
          session.hintRank = HINT_RANK.remembered;
          this.#dispatch.propose(session, difficulty);
        }
      } else if (this.#roster.enter(session)) {
        // Of another gateway, or from before a restart: its extranonce is not ours to give again, its difficulty is.
        const earlier = this.#roster.idIn(params);
        if (earlier !== '') this.#recall(session, sessionKey(earlier));
      } else {
        this.#conduct.fail(session, id, 'no-extranonce');
        return;
      }
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

  #applyProfile(session: Session): void {
    const { profile, vardiff } = session;
    if (session.versionMask !== 0)
      session.versionMask = (session.versionMask & profile.versionMaskMax) >>> 0;
    if (profile.floorDifficulty > vardiff.floor) vardiff.floor = profile.floorDifficulty;
    if (session.hintRank === HINT_RANK.port) {
      this.#dispatch.propose(
        session,
        profile.startDifficulty || session.connection.port.startDifficulty,
      );
    }
  }

  #authorize(session: Session, id: RequestId, params: readonly unknown[]): void {
    const { limits, network } = this.#options;
    if (!session.takeAuthorize(limits, this.#time.nowMs)) {
      this.#conduct.fail(session, id, 'slow-down');
      return;
    }
    const username = decodeUsername(params[0], network, limits);
    if (!username.ok) {
      this.#conduct.fail(session, id, username.error);
      return;
    }
    const written = params[0] as string;
    const { account, parts } = username;
    if (session.pool.rules.mode !== 'pool') {
      if (session.finder !== null && session.finder.account !== account) {
        this.#conduct.fail(session, id, 'address-second');
        return;
      }
    }
    if (this.#jobs.paysFinders) session.finder ??= { account, parts };
    let worker = session.workers.find((one) => one.username === written)?.record;
    const isFirst = session.workers.length === 0;
    if (worker === undefined) {
      if (session.workers.length >= limits.workersPerSessionMax) {
        this.#conduct.fail(session, id, 'workers-many');
        return;
      }
      worker = this.#judge.addWorker(session, written, username.account, username.worker);
    }
    this.#hint(session, worker, username.difficulty, params[1]);
    session.say(encodeTrue(id));
    if (!isFirst) return;
    session.authorized = true;
    session.authorizedAtMs = this.#time.nowMs;
    session.lineBytesMax = limits.lineBytesMax;
    this.#tools.metrics.authorizedSessions += 1;
    if (session.subscribed && session.lastSequence < 0) session.jobDue = true;
  }

  /** Wishes of username and password, and what is remembered, by the precedence of `core/work/vardiff.ts`. */
  #hint(session: Session, worker: WorkerRecord, inUsername: number, password: unknown): void {
    const options = decodePassword(password, this.#options.limits);
    const { vardiff } = session;
    if (options.fixedDifficulty > 0) {
      session.hintRank = HINT_RANK.fixed;
      this.#dispatch.propose(session, options.fixedDifficulty);
      vardiff.fixed = true;
    } else if (options.difficulty > 0 && session.hintRank <= HINT_RANK.password) {
      session.hintRank = HINT_RANK.password;
      this.#dispatch.propose(session, options.difficulty);
    } else if (inUsername > 0 && session.hintRank <= HINT_RANK.username) {
      session.hintRank = HINT_RANK.username;
      this.#dispatch.propose(session, inUsername);
    } else if (worker.isDifficultyProven && session.hintRank < HINT_RANK.remembered) {
      session.hintRank = HINT_RANK.remembered;
      this.#dispatch.propose(session, worker.difficulty);
    } else if (session.hintRank < HINT_RANK.remembered) {
      this.#recall(session, workerKey(session.pool.id, worker.account, worker.name));
    }
  }

  /** Asks the other gateways. Nothing waits for the answer: if there is one, the difficulty follows. */
  #recall(session: Session, key: string): void {
    this.#tools.neighbours?.recall(key, (difficulty) => {
      const isTooLate = session.closed || session.proven || session.vardiff.fixed;
      if (isTooLate || session.hintRank >= HINT_RANK.remembered) return;
      session.hintRank = HINT_RANK.remembered;
      if (this.#dispatch.propose(session, difficulty)) this.#dispatch.flush(session);
    });
  }

  #configure(session: Session, id: RequestId, params: readonly unknown[]): void {
    const asked = decodeConfigure(params);
    const granted = grantMask(asked, this.#options.versionMask & session.profile.versionMaskMax);
    session.say(encodeResult(id, encodeConfigured(asked, granted)));
    if (asked.extensions.includes('version-rolling')) {
      if (granted !== 0 && countBits(granted) < asked.versionBitsMin)
        this.#conduct.quirk('few-version-bits');
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
        this.#dispatch.propose(session, vardiff.floor);
    }
    if (asked.extensions.includes('subscribe-extranonce')) session.extranonceSubscribed = true;
    if (asked.info !== '' && session.agent === '') session.agent = asked.info;
  }

  #suggest(session: Session, id: RequestId, suggestion: Suggestion): void {
    if (suggestion.kind === 'wrong') {
      this.#conduct.fail(session, id, 'suggest-type');
      return;
    }
    session.say(encodeTrue(id));
    if (suggestion.kind === 'none' || session.hintRank > HINT_RANK.suggested) return;
    // NerdMiner repeats its wish every 30 s as a keep-alive: that must not undo what vardiff found.
    if (suggestion.difficulty === session.lastSuggestion) return;
    const { limits } = this.#options;
    if (
      session.lastSuggestion !== 0 &&
      this.#time.nowMs - session.suggestedAtMs < limits.suggestIntervalMs
    ) {
      this.#conduct.blame(session, 1);
      return;
    }
    session.lastSuggestion = suggestion.difficulty;
    session.suggestedAtMs = this.#time.nowMs;
    session.hintRank = HINT_RANK.suggested;
    this.#dispatch.propose(session, suggestion.difficulty);
  }

  /** `mining.submit`, which comes most often and so does not go through the table of methods. */
  submit(session: Session, request: Request, text: string): void {
    const { stopwatch } = this.#tools;
    if (stopwatch === undefined) {
      this.#judge.submit(session, request, text);
      return;
    }
    const beganMs = stopwatch.readMs();
    this.#judge.submit(session, request, text);
    stopwatch.observe((stopwatch.readMs() - beganMs) / 1000);
  }

  #unknownMethod(session: Session, request: Request): void {
    this.#tools.metrics.unknownMethods += 1;
    if (this.#time.nowMs - session.unknownMethodsSinceMs > 60_000) {
      session.unknownMethodsSinceMs = this.#time.nowMs;
      session.unknownMethods = 0;
    }
    session.unknownMethods += 1;
    if (request.hasId || request.idRefused)
      this.#conduct.fail(session, request.id, 'method-unknown');
    else this.#conduct.blame(session, STRATUM_ERRORS['method-unknown'].points);
    if (session.unknownMethods > this.#options.limits.unknownMethodsPerMinute) {
      this.#conduct.close(session, 'too many unknown methods');
    }
  }
}
