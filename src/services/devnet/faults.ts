/**
 * Faults on command: what a node can do to a pool, as rules that tests and the hidden RPC `devnet.fault` switch on and
 * off. Request faults act in the RPC server, ZMQ faults in the publisher, chain faults in the node itself. Rules are
 * checked here once (`decodeFault`), so that a misspelt fault is refused and never silently does nothing.
 */
import { ExactNumber } from './json.ts';

/** Faults of one RPC request. `after` runs the method first and spoils only its answer (F-N10 of a pool's test plan). */
export type RequestFault = {
  kind:
    | 'delay' // answer correctly after `delayMs`
    | 'work-queue' // HTTP 503 "Work queue depth exceeded"
    | 'unauthorized' // HTTP 401 with an empty body, as after a cookie rotation
    | 'warming-up' // error -28
    | 'html' // a proxy's error page
    | 'truncated' // half of the JSON, then the connection ends
    | 'oversized' // `bodyBytes` of valid JSON with an enormous string in it
    | 'wrong-id' // an answer to another question
    | 'rpc-error' // error `code` with `message`
    | 'hang' // no answer until the client gives up
    | 'drop'; // the connection is reset
  method: string | null;
  times: number;
  after: boolean;
  delayMs: number;
  bodyBytes: number;
  code: number;
  message: string;
};

/** Faults of the ZMQ publisher, for one topic or (`null`) for all. */
export type ZmqFault = {
  kind: 'zmq-silent' | 'zmq-duplicate' | 'zmq-wrong-hash' | 'zmq-flood';
  topic: string | null;
  times: number;
  /** `zmq-flood` only: extra messages with random content per real one. */
  messages: number;
};

/** Faults of the node as a whole; they last until removed. */
export type NodeFault =
  | { kind: 'initial-download' }
  | { kind: 'other-genesis'; hashDisplay: string }
  | { kind: 'freeze-tip' };

export type Fault = RequestFault | ZmqFault | NodeFault;

/** A fault as a test writes it: only `kind` is required. */
export type FaultRequest = {
  kind: Fault['kind'];
  method?: string;
  topic?: string;
  times?: number;
  after?: boolean;
  delayMs?: number;
  bodyBytes?: number;
  code?: number;
  message?: string;
  messages?: number;
  hashDisplay?: string;
};

const requestKinds = new Set<string>([
  'delay',
  'work-queue',
  'unauthorized',
  'warming-up',
  'html',
  'truncated',
  'oversized',
  'wrong-id',
  'rpc-error',
  'hang',
  'drop',
]);
const zmqKinds = new Set<string>(['zmq-silent', 'zmq-duplicate', 'zmq-wrong-hash', 'zmq-flood']);
const faultsMax = 100;
const bodyBytesMax = 1_000_000_000;

/** Reads a fault from outside. Unknown kinds and fields of the wrong type are refused with a reason. */
export function decodeFault(
  value: unknown,
): { ok: true; fault: Fault } | { ok: false; reason: string } {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { ok: false, reason: 'a fault is an object with a kind' };
  const given = new Map(Object.entries(value));
  const problems: string[] = [];
  const text = (name: string, otherwise: string): string => {
    const field = given.get(name);
    if (field === undefined) return otherwise;
    if (typeof field !== 'string' || field.length > 200) problems.push(`${name} is not a text`);
    return String(field);
  };
  const optionalText = (name: string): string | null =>
    given.get(name) === undefined || given.get(name) === null ? null : text(name, '');
  const count = (name: string, otherwise: number, max: number): number => {
    const field = given.get(name);
    if (field === undefined) return otherwise;
    const number = field instanceof ExactNumber ? Number(field.text) : field;
    if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number > max) {
      problems.push(`${name} is not an integer from 0 to ${max}`);
      return otherwise;
    }
    return number;
  };
  const kind = text('kind', '');
  let fault: Fault;
  if (requestKinds.has(kind)) {
    const code = given.get('code') ?? -1;
    if (typeof code !== 'number' || !Number.isInteger(code))
      problems.push('code is not an integer');
    fault = {
      kind: kind as RequestFault['kind'],
      method: optionalText('method'),
      times: count('times', Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
      after: given.get('after') === true,
      delayMs: count('delayMs', kind === 'delay' ? 1000 : 0, 3_600_000),
      bodyBytes: count('bodyBytes', 200_000_000, bodyBytesMax),
      code: Number(code),
      message: text('message', kind === 'warming-up' ? 'Verifying blocks…' : 'Fault on command'),
    };
  } else if (zmqKinds.has(kind)) {
    fault = {
      kind: kind as ZmqFault['kind'],
      topic: optionalText('topic'),
      times: count('times', Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
      messages: count('messages', 1000, 100_000),
    };
  } else if (kind === 'initial-download' || kind === 'freeze-tip') fault = { kind };
  else if (kind === 'other-genesis')
    fault = {
      kind,
      // Main net's genesis: the mistake a pool must notice is a node of another network.
      hashDisplay: text(
        'hashDisplay',
        '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f',
      ),
    };
  else return { ok: false, reason: `unknown fault kind ${JSON.stringify(kind).slice(0, 60)}` };
  return problems.length > 0 ? { ok: false, reason: problems.join(', ') } : { ok: true, fault };
}

/** The rules in force, oldest first, at most 100. */
export class Faults {
  #rules: Fault[] = [];

  /** Adds a rule and returns the function that removes it. Throws RangeError when 100 rules stand already. */
  add(fault: Fault): () => void {
    if (this.#rules.length >= faultsMax) throw new RangeError('too many faults at once');
    this.#rules.push(fault);
    return () => {
      this.#rules = this.#rules.filter((rule) => rule !== fault);
    };
  }

  clear(): void {
    this.#rules = [];
  }

  list(): readonly Fault[] {
    return this.#rules;
  }

  /** The rule for this request, counted down; `devnet.*` methods are exempt so that faults can always be lifted. */
  takeRequest(method: string): RequestFault | null {
    if (method.startsWith('devnet.')) return null;
    for (const rule of this.#rules)
      if ('after' in rule && (rule.method === null || rule.method === method)) {
        this.#count(rule);
        return rule;
      }
    return null;
  }

  /** The rule for this ZMQ message, counted down. */
  takeZmq(topic: string): ZmqFault | null {
    for (const rule of this.#rules)
      if ('messages' in rule && (rule.topic === null || rule.topic === topic)) {
        this.#count(rule);
        return rule;
      }
    return null;
  }

  /** The standing node fault of this kind, if any. */
  node<Kind extends NodeFault['kind']>(kind: Kind): Extract<NodeFault, { kind: Kind }> | null {
    const rule = this.#rules.find((candidate) => candidate.kind === kind);
    return (rule as Extract<NodeFault, { kind: Kind }> | undefined) ?? null;
  }

  #count(rule: RequestFault | ZmqFault): void {
    rule.times -= 1;
    if (rule.times <= 0) this.#rules = this.#rules.filter((candidate) => candidate !== rule);
  }
}
