/**
 * Simulated miners. A miner knows only what came over its wire; from that it rebuilds every header on its own (oracle.ts) and so
 * can tell what the pool owes it. Nothing here reads the gateway's memory.
 */
import {
  doubleSha,
  headerBytes,
  integerOf,
  readNotify,
  rootOf,
  type ToldJob,
  targetOf,
  targetOfBits,
} from './oracle.ts';
import type { Random } from './random.ts';

/**
 * honest: finds and submits at once. deep: keeps shares in its pipeline for up to 4 s, across changes of job and difficulty.
 * repeating: sends its shares again in other spellings and on other connections. late: prefers old jobs. liar: sends shares that do
 * not meet the target. thief: sends what it overheard from another connection.
 */
export type MinerKind = 'honest' | 'deep' | 'repeating' | 'late' | 'liar' | 'thief';

/** A submission as the miner made it. `hash` is in wire order. */
export type Submission = {
  minerId: number;
  account: string;
  worker: string;
  connection: number;
  incarnation: number;
  hashHex: string;
  hashInteger: bigint;
  /** Display order, as nodes name it. */
  hashDisplay: string;
  jobId: string;
  /** Difficulty told with this job on this connection, as the miner understood it. */
  difficulty: number;
  meetsTarget: boolean;
  meetsNetwork: boolean;
  /** An honest share of the connection's own work, first time on this connection. */
  honest: boolean;
  params: string[];
  sentAtMs: number;
};

export type Told = { job: ToldJob; difficulty: number; toldAtMs: number };

/** The wire between a miner and the pool as the miner sees it. */
export type Wire = { send(line: string, submission: Submission | null): void };

/** What a miner tells the world's book-keeping. */
export type MinerEvents = {
  /** The pool's answer to it: null error is an acknowledgement. */
  answered(submission: Submission, error: { code: number; text: string } | null): void;
  told(miner: Miner, told: Told): void;
  subscribed(miner: Miner, extranonce1: string): void;
  /** Something on the wire that no firmware expects; `promise` names the one it breaks. */
  protocolFault(miner: Miner, text: string, promise: 'wire' | 'P13'): void;
};

export class Miner {
  readonly id: number;
  readonly kind: MinerKind;
  readonly account: string;
  readonly worker: string;
  readonly #events: MinerEvents;
  wire: Wire | null = null;
  connection = 0;
  incarnation = 0;
  extranonce1: Buffer | null = null;
  extranonce1Before = '';
  sessionId = '';
  authorized = false;
  mask = 0;
  difficulty: number | null = null;
  readonly jobs = new Map<string, Told>();
  newest: Told | null = null;
  /** When the answer to subscribe came in; null once the first job has followed. */
  subscribedAtMs: number | null = null;
  #nextId = 1;
  readonly #asked = new Map<number, 'subscribe' | 'authorize' | 'configure' | Submission>();
  /** Found but still in the pipeline. */
  readonly pipeline: { submission: Submission; dueMs: number }[] = [];
  /** Shares sent on a connection that broke before the answer. */
  unanswered: Submission[] = [];
  readonly sent: Submission[] = [];

  /** What goes with the username: `x`, or options such as `fd=0.001`. */
  readonly #password: string;

  constructor(id: number, kind: MinerKind, account: string, events: MinerEvents, password = 'x') {
    this.#password = password;
    this.id = id;
    this.kind = kind;
    this.account = account;
    this.worker = `rig${id}`;
    this.#events = events;
  }

  /** A new connection: the handshake of a common firmware, with session resume where it has an id. */
  connect(wire: Wire, connection: number, incarnation: number, resume: boolean): void {
    this.wire = wire;
    this.connection = connection;
    this.incarnation = incarnation;
    this.extranonce1 = null;
    this.authorized = false;
    this.mask = 0;
    this.difficulty = null;
    this.jobs.clear();
    this.newest = null;
    this.subscribedAtMs = null;
    this.#asked.clear();
    this.#request('configure', 'mining.configure', [
      ['version-rolling'],
      { 'version-rolling.mask': '1fffe000', 'version-rolling.min-bit-count': 2 },
    ]);
    this.#request(
      'subscribe',
      'mining.subscribe',
      resume && this.sessionId !== '' ? ['sim/1', this.sessionId] : ['sim/1'],
    );
    this.#request('authorize', 'mining.authorize', [
      `${this.account}.${this.worker}`,
      this.#password,
    ]);
  }

  /** The connection is gone, from whichever side. */
  disconnected(): void {
    for (const asked of this.#asked.values()) {
      if (typeof asked === 'object') this.unanswered.push(asked);
    }
    if (this.unanswered.length > 64) this.unanswered = this.unanswered.slice(-64);
    this.#asked.clear();
    this.wire = null;
    this.pipeline.length = 0;
    this.extranonce1Before = this.extranonce1?.toString('hex') ?? this.extranonce1Before;
  }

  #request(kind: 'subscribe' | 'authorize' | 'configure', method: string, params: unknown[]): void {
    const id = this.#nextId++;
    this.#asked.set(id, kind);
    this.wire?.send(JSON.stringify({ id, method, params }), null);
  }

  /** Bytes from the pool: whole lines, as one write made them. */
  receive(text: string, nowMs: number): void {
    if (!text.endsWith('\n'))
      this.#events.protocolFault(this, `a write without a last newline: ${text}`, 'wire');
    for (const line of text.split('\n')) {
      if (line === '') continue;
      let message: {
        id: unknown;
        method?: string;
        params?: unknown[];
        result?: unknown;
        error?: unknown;
      };
      try {
        message = JSON.parse(line) as typeof message;
      } catch {
        this.#events.protocolFault(this, `not JSON: ${line}`, 'wire');
        continue;
      }
      if (message.method !== undefined)
        this.#notification(message.method, message.params ?? [], nowMs);
      else this.#answer(message, nowMs);
    }
  }

  #notification(method: string, params: unknown[], nowMs: number): void {
    if (method === 'mining.set_difficulty') this.difficulty = Number(params[0]);
    else if (method === 'mining.set_version_mask')
      this.mask = Number.parseInt(String(params[0]), 16);
    else if (method === 'mining.notify') {
      if (this.difficulty === null) {
        this.#events.protocolFault(this, 'a job before the first difficulty', 'P13');
        return;
      }
      const job = readNotify(params);
      const told = { job, difficulty: this.difficulty, toldAtMs: nowMs };
      // The same job told again (rebroadcast) keeps the difficulty it was first told with.
      if (!this.jobs.has(job.jobId)) this.jobs.set(job.jobId, told);
      this.newest = this.jobs.get(job.jobId)!;
      this.subscribedAtMs = null;
      this.#events.told(this, told);
    }
  }

  #answer(message: { id: unknown; result?: unknown; error?: unknown }, nowMs: number): void {
    const asked = this.#asked.get(Number(message.id));
    if (asked === undefined) {
      this.#events.protocolFault(this, `an answer to nothing: ${JSON.stringify(message)}`, 'wire');
      return;
    }
    this.#asked.delete(Number(message.id));
    if (typeof asked === 'object') {
      const error = message.error as [number, string, unknown] | null;
      if (message.result === true) this.#events.answered(asked, null);
      else if (Array.isArray(error))
        this.#events.answered(asked, { code: error[0], text: error[1] });
      else
        this.#events.protocolFault(
          this,
          `neither result nor error: ${JSON.stringify(message)}`,
          'wire',
        );
      return;
    }
    if (asked === 'authorize') this.authorized = message.result === true;
    else if (asked === 'configure') {
      const result = message.result as Record<string, unknown> | null;
      if (result?.['version-rolling'] === true) {
        this.mask = Number.parseInt(String(result['version-rolling.mask']), 16);
      }
    } else {
      const result = message.result as [unknown, string, number] | null;
      if (result === null || result === undefined) return;
      this.extranonce1 = Buffer.from(result[1], 'hex');
      const details = result[0] as [string, string][];
      this.sessionId = details[0]?.[1] ?? '';
      this.subscribedAtMs = nowMs;
      this.#events.subscribed(this, result[1]);
    }
  }

  /** Searches a share on `told`: of the wanted kind, or null when luck fails for 4,000 tries. */
  grind(
    random: Random,
    told: Told,
    want: 'share' | 'block' | 'low',
    nowMs: number,
  ): Submission | null {
    const { job, difficulty } = told;
    const extranonce1 = this.extranonce1;
    if (extranonce1 === null) return null;
    const extranonce2 = random.bytes(8);
    const root = rootOf(job, extranonce1, extranonce2);
    const rolled = this.mask !== 0 && random.chance(0.7) ? random.bits() & this.mask : 0;
    const version = (job.version & ~this.mask) | (this.mask === 0 ? 0 : rolled | 0);
    const ntime = job.ntime + random.below(3);
    const shareTarget = targetOf(difficulty);
    const networkTarget = targetOfBits(job.bits);
    let nonce = random.bits();
    for (let tries = 0; tries < 4000; tries++) {
      nonce = (nonce + 1) >>> 0;
      const hash = doubleSha(headerBytes(job, root, { version, ntime, nonce }));
      const value = integerOf(hash);
      const meetsTarget = value <= shareTarget;
      const meetsNetwork = value <= networkTarget;
      const wanted =
        want === 'low'
          ? !meetsTarget && !meetsNetwork
          : want === 'block'
            ? meetsNetwork
            : meetsTarget;
      if (!wanted) continue;
      const params = [
        `${this.account}.${this.worker}`,
        job.jobId,
        Buffer.from(extranonce2).toString('hex'),
        ntime.toString(16).padStart(8, '0'),
        nonce.toString(16).padStart(8, '0'),
      ];
      if (this.mask !== 0) params.push((version & this.mask).toString(16).padStart(8, '0'));
      return {
        minerId: this.id,
        account: this.account,
        worker: this.worker,
        connection: this.connection,
        incarnation: this.incarnation,
        hashHex: hash.toString('hex'),
        hashInteger: value,
        hashDisplay: Buffer.from(hash).reverse().toString('hex'),
        jobId: job.jobId,
        difficulty,
        meetsTarget,
        meetsNetwork,
        honest: meetsTarget,
        params,
        sentAtMs: nowMs,
      };
    }
    return null;
  }

  submit(submission: Submission, nowMs: number): void {
    if (this.wire === null) return;
    const id = this.#nextId++;
    const made = {
      ...submission,
      connection: this.connection,
      incarnation: this.incarnation,
      sentAtMs: nowMs,
    };
    this.#asked.set(id, made);
    this.sent.push(made);
    if (this.sent.length > 64) this.sent.shift();
    this.wire.send(JSON.stringify({ id, method: 'mining.submit', params: made.params }), made);
  }

  /**
   * What another connection's submission would be worth on this one: the same words over this connection's extranonce1 and jobs.
   * Null when this connection was never told the job.
   */
  reread(original: Submission, nowMs: number): Submission | null {
    const told = this.jobs.get(original.jobId);
    if (told === undefined || this.extranonce1 === null) return null;
    const [, , extranonce2, ntime, nonce, bits] = original.params as string[];
    const root = rootOf(told.job, this.extranonce1, Buffer.from(extranonce2!, 'hex'));
    const rolled = bits === undefined ? 0 : Number.parseInt(bits, 16) & this.mask;
    const version =
      bits === undefined ? told.job.version : (told.job.version & ~this.mask) | rolled;
    const hash = doubleSha(
      headerBytes(told.job, root, {
        version,
        ntime: Number.parseInt(ntime!, 16),
        nonce: Number.parseInt(nonce!, 16),
      }),
    );
    const value = integerOf(hash);
    return {
      ...original,
      minerId: this.id,
      account: this.account,
      worker: this.worker,
      hashHex: hash.toString('hex'),
      hashInteger: value,
      hashDisplay: Buffer.from(hash).reverse().toString('hex'),
      difficulty: told.difficulty,
      meetsTarget: value <= targetOf(told.difficulty),
      meetsNetwork: value <= targetOfBits(told.job.bits),
      honest: false,
      params: [`${this.account}.${this.worker}`, ...original.params.slice(1)],
      sentAtMs: nowMs,
    };
  }
}

/** The same share in another spelling; every one of these is the same header. */
export function respell(params: readonly string[], random: Random): string[] {
  const out = [...params];
  switch (random.below(3)) {
    case 0:
      for (let i = 2; i < out.length; i++) out[i] = out[i]!.toUpperCase();
      break;
    case 1:
      for (let i = 2; i < out.length; i++)
        out[i] = out[i]!.replace(/[a-f]/, (digit) => digit.toUpperCase());
      break;
    default:
      break;
  }
  return out;
}
