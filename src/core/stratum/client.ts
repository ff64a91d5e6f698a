/**
 * The miner's side of Stratum V1 without a socket: what to say first, and what each line from the pool means. Speaks
 * BIP310 version rolling and NiceHash's extranonce subscription where the pool does. Total: a line that makes no sense
 * is an event, not an exception. Used by our own CPU miner and load generator.
 *
 * `client.reconnect` to another host is ignored: in 2014 hijacked routes used it to steal hash power.
 */
import { decodeHex } from '../bitcoin/bytes.ts';
import { sha256d } from '../bitcoin/hash.ts';
import { foldBranch } from '../bitcoin/merkle.ts';

export type ClientOptions = {
  user: string;
  password: string;
  agent: string;
  /** Version bits we would like to roll; 0 to not ask. */
  versionMask: number;
  /** What we would like a share to be worth; 0 to leave it to the pool. */
  suggestedDifficulty: number;
};

/** Work as announced, with what held for the session when it came. Hashes in wire order. */
export type MinerJob = {
  jobId: string;
  previousHash: Uint8Array;
  prefix: Uint8Array;
  suffix: Uint8Array;
  branch: Uint8Array[];
  version: number;
  bits: number;
  ntime: number;
  clean: boolean;
  difficulty: number;
  extranonce1: Uint8Array;
  extranonce2Bytes: number;
  /** Bits the pool lets us roll; 0 for none. */
  versionMask: number;
};

/** What a submission is made of. `versionBits` are the rolled bits, or null where none are rolled. */
export type Solution = {
  jobId: string;
  extranonce2: Uint8Array;
  ntime: number;
  nonce: number;
  versionBits: number | null;
};

export type ClientEvent =
  | { kind: 'ready' }
  | { kind: 'job'; job: MinerJob }
  | { kind: 'answer'; id: number; accepted: boolean; code: number; reason: string }
  | { kind: 'refused'; reason: string }
  | { kind: 'reconnect'; waitSeconds: number }
  | { kind: 'message'; text: string }
  | { kind: 'bad-line'; reason: string };

const CONFIGURE_ID = 1;
const SUBSCRIBE_ID = 2;
const AUTHORIZE_ID = 3;
const EXTRANONCE_ID = 4;
const SUGGEST_ID = 5;
const FIRST_SUBMIT_ID = 10;
/** Merkle steps and coinbase bytes beyond which a notify is not believed. */
const BRANCH_MAX = 32;
const EXTRANONCE_BYTES_MAX = 16;

/** One connection's conversation. Make a new one for each connection. */
export class StratumClient {
  /** What the pool may be told next, beside what the caller sends: write it after every `line`, then clear it. */
  out = '';
  difficulty = 1;
  versionMask = 0;
  sessionId = '';
  #isSubscribed = false;
  #isAuthorized = false;
  #extranonce1: Uint8Array = new Uint8Array(0);
  #extranonce2Bytes = 0;
  #nextId = FIRST_SUBMIT_ID;
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** The user name that submits carry. */
  get user(): string {
    return this.#options.user;
  }

  /** True once both subscribe and authorize were answered well. */
  get isReady(): boolean {
    return this.#isSubscribed && this.#isAuthorized;
  }

  /** The opening lines. `sessionId` of an earlier connection asks for the same extranonce1 again. */
  hello(sessionId = ''): string {
    const { user, password, agent, versionMask, suggestedDifficulty } = this.#options;
    const mask = (versionMask >>> 0).toString(16).padStart(8, '0');
    const lines: unknown[] = [];
    if (versionMask !== 0) {
      lines.push({
        id: CONFIGURE_ID,
        method: 'mining.configure',
        params: [
          ['version-rolling'],
          { 'version-rolling.mask': mask, 'version-rolling.min-bit-count': 2 },
        ],
      });
    }
    if (suggestedDifficulty > 0) {
      const suggested = [suggestedDifficulty];
      lines.push({ id: SUGGEST_ID, method: 'mining.suggest_difficulty', params: suggested });
    }
    const params = sessionId === '' ? [agent] : [agent, sessionId];
    lines.push({ id: SUBSCRIBE_ID, method: 'mining.subscribe', params });
    lines.push({ id: AUTHORIZE_ID, method: 'mining.authorize', params: [user, password] });
    lines.push({ id: EXTRANONCE_ID, method: 'mining.extranonce.subscribe', params: [] });
    return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
  }

  /** The line that submits a solution; its id comes back in the `answer` event. */
  submit(solution: Solution): { id: number; line: string } {
    const id = this.#nextId++;
    const { jobId, extranonce2, ntime, nonce, versionBits } = solution;
    const params = [this.#options.user, jobId, hexOf(extranonce2), hex32(ntime), hex32(nonce)];
    if (versionBits !== null) params.push(hex32(versionBits));
    return { id, line: `${JSON.stringify({ id, method: 'mining.submit', params })}\n` };
  }

  /** Takes one line from the pool; null when it needs nothing from the caller. */
  line(text: string): ClientEvent | null {
    let raw: unknown;
    try {
      raw = JSON.parse(text);
    } catch {
      return { kind: 'bad-line', reason: 'not JSON' };
    }
    if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) {
      return { kind: 'bad-line', reason: 'not an object' };
    }
    const { id, method, params, result, error } = raw as Record<string, unknown>;
    if (typeof method === 'string') return this.#called(method, params, id);
    if (typeof id === 'number') return this.#answered(id, result, error);
    if (error !== undefined && error !== null) {
      return { kind: 'refused', reason: errorOf(error).reason };
    }
    return null;
  }

  #answered(id: number, result: unknown, error: unknown): ClientEvent | null {
    const isGood = (error === null || error === undefined) && result !== false && result !== null;
    if (id >= FIRST_SUBMIT_ID) {
      if (isGood) return { kind: 'answer', id, accepted: true, code: 0, reason: '' };
      return { kind: 'answer', id, accepted: false, ...errorOf(error) };
    }
    if (id === CONFIGURE_ID) {
      if (isGood) this.#configured(result);
      return null;
    }
    if (id === SUBSCRIBE_ID) {
      if (!isGood) return { kind: 'refused', reason: `subscribe: ${errorOf(error).reason}` };
      if (!this.#subscribed(result)) return { kind: 'bad-line', reason: 'subscribe answer' };
      this.#isSubscribed = true;
      return this.isReady ? { kind: 'ready' } : null;
    }
    if (id === AUTHORIZE_ID) {
      if (!isGood) return { kind: 'refused', reason: `authorize: ${errorOf(error).reason}` };
      this.#isAuthorized = true;
      return this.isReady ? { kind: 'ready' } : null;
    }
    return null;
  }

  #configured(result: unknown): void {
    if (typeof result !== 'object' || result === null) return;
    const granted = result as Record<string, unknown>;
    if (granted['version-rolling'] !== true) return;
    this.versionMask = maskOf(granted['version-rolling.mask']) & this.#options.versionMask;
  }

  #subscribed(result: unknown): boolean {
    if (!Array.isArray(result) || result.length < 3) return false;
    const extranonce1 = typeof result[1] === 'string' ? decodeHex(result[1]) : null;
    if (extranonce1 === null || !isSize(result[2])) return false;
    this.#extranonce1 = extranonce1;
    this.#extranonce2Bytes = result[2];
    const first: unknown = Array.isArray(result[0]) ? result[0][0] : null;
    if (Array.isArray(first) && typeof first[1] === 'string') this.sessionId = first[1];
    return true;
  }

  #called(method: string, params: unknown, id: unknown): ClientEvent | null {
    const list: readonly unknown[] = Array.isArray(params) ? params : [];
    switch (method) {
      case 'mining.notify': {
        const job = this.#jobOf(list);
        return job === null ? { kind: 'bad-line', reason: 'notify' } : { kind: 'job', job };
      }
      case 'mining.set_difficulty':
        if (typeof list[0] !== 'number' || !(list[0] > 0)) {
          return { kind: 'bad-line', reason: 'set_difficulty' };
        }
        this.difficulty = list[0];
        return null;
      case 'mining.set_extranonce': {
        const extranonce1 = typeof list[0] === 'string' ? decodeHex(list[0]) : null;
        if (extranonce1 === null || !isSize(list[1])) {
          return { kind: 'bad-line', reason: 'set_extranonce' };
        }
        this.#extranonce1 = extranonce1;
        this.#extranonce2Bytes = list[1];
        return null;
      }
      case 'mining.set_version_mask':
        this.versionMask = maskOf(list[0]) & this.#options.versionMask;
        return null;
      case 'mining.ping':
        this.#reply(id, 'pong');
        return null;
      case 'client.get_version':
        this.#reply(id, this.#options.agent);
        return null;
      case 'client.show_message':
        return { kind: 'message', text: String(list[0]).slice(0, 256) };
      case 'client.reconnect': {
        const wait = list[2];
        return { kind: 'reconnect', waitSeconds: typeof wait === 'number' && wait > 0 ? wait : 0 };
      }
      default:
        return null;
    }
  }

  #reply(id: unknown, result: string): void {
    if (typeof id !== 'number' && typeof id !== 'string') return;
    this.out += `${JSON.stringify({ id, result, error: null })}\n`;
  }

  #jobOf(params: readonly unknown[]): MinerJob | null {
    const [jobId, previous, prefix, suffix, branch, version, bits, ntime, clean] = params;
    if (typeof jobId !== 'string' || !Array.isArray(branch) || branch.length > BRANCH_MAX) {
      return null;
    }
    const previousHash = bytesOf(previous);
    const prefixBytes = bytesOf(prefix);
    const suffixBytes = bytesOf(suffix);
    if (previousHash?.length !== 32 || prefixBytes === null || suffixBytes === null) return null;
    const steps: Uint8Array[] = [];
    for (const step of branch) {
      const hash = bytesOf(step);
      if (hash?.length !== 32) return null;
      steps.push(hash);
    }
    const words = [version, bits, ntime].map(word32);
    if (words.some((word) => word < 0) || this.#extranonce2Bytes === 0) return null;
    return {
      jobId,
      previousHash: swapWords(previousHash),
      prefix: prefixBytes,
      suffix: suffixBytes,
      branch: steps,
      version: words[0]!,
      bits: words[1]!,
      ntime: words[2]!,
      clean: clean === true,
      difficulty: this.difficulty,
      extranonce1: this.#extranonce1,
      extranonce2Bytes: this.#extranonce2Bytes,
      versionMask: this.versionMask,
    };
  }
}

/** The 80 header bytes of a job with this extranonce2 and version, nonce zero. */
export function assembleMinerHeader(
  job: MinerJob,
  extranonce2: Uint8Array,
  version: number,
): Uint8Array {
  const { prefix, extranonce1, suffix } = job;
  const at = prefix.length + extranonce1.length;
  const coinbase = new Uint8Array(at + extranonce2.length + suffix.length);
  coinbase.set(prefix);
  coinbase.set(extranonce1, prefix.length);
  coinbase.set(extranonce2, at);
  coinbase.set(suffix, at + extranonce2.length);
  const header = new Uint8Array(80);
  const view = new DataView(header.buffer);
  view.setUint32(0, version, true);
  header.set(job.previousHash, 4);
  header.set(foldBranch(sha256d(coinbase), job.branch), 36);
  view.setUint32(68, job.ntime, true);
  view.setUint32(72, job.bits, true);
  return header;
}

function swapWords(bytes: Uint8Array): Uint8Array {
  const swapped = new Uint8Array(bytes.length);
  for (let at = 0; at < bytes.length; at++) swapped[at] = bytes[at ^ 3]!;
  return swapped;
}

function bytesOf(raw: unknown): Uint8Array | null {
  return typeof raw === 'string' ? decodeHex(raw) : null;
}

/** Eight hex digits as an unsigned number, or −1. */
function word32(raw: unknown): number {
  return typeof raw === 'string' && /^[0-9a-fA-F]{8}$/.test(raw) ? Number.parseInt(raw, 16) : -1;
}

function maskOf(raw: unknown): number {
  const mask = word32(raw);
  return mask < 0 ? 0 : mask;
}

function isSize(raw: unknown): raw is number {
  return Number.isInteger(raw) && (raw as number) > 0 && (raw as number) <= EXTRANONCE_BYTES_MAX;
}

function hex32(value: number): string {
  return (value >>> 0).toString(16).padStart(8, '0');
}

function hexOf(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}

function errorOf(error: unknown): { code: number; reason: string } {
  if (Array.isArray(error)) {
    return {
      code: typeof error[0] === 'number' ? error[0] : 20,
      reason: String(error[1]).slice(0, 128),
    };
  }
  if (typeof error === 'object' && error !== null) {
    const { code, message } = error as Record<string, unknown>;
    return {
      code: typeof code === 'number' ? code : 20,
      reason: String(message).slice(0, 128),
    };
  }
  return { code: 20, reason: 'refused' };
}
