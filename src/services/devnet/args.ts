/**
 * Parameters of an RPC method, by position or by name, read with Core's errors: -1 with the usage for too many or too few,
 * -8 for an unknown name, -3 for a wrong type. Every accessor checks what it returns; methods never see raw JSON.
 */
import { decodeHexReversed, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { ExactNumber, parseAmount } from './json.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { CallContext } from './rpcserver.ts';

export type Method = {
  name: string;
  /** Parameter names in order; `?` at the end marks the first optional one and all after it. */
  params: readonly string[];
  run(args: Args, context: CallContext): unknown;
};

export class Args {
  readonly #values: Map<string, unknown>;
  readonly #usage: string;

  constructor(method: Method, params: unknown) {
    const names = method.params.map((name) => name.replace('?', ''));
    const optionalFrom = method.params.findIndex((name) => name.endsWith('?'));
    const required = optionalFrom < 0 ? names.length : optionalFrom;
    this.#usage = [
      method.name,
      ...names.map((name, at) => (at < required ? `"${name}"` : `( ${name} )`)),
    ].join(' ');
    this.#values = new Map();
    if (Array.isArray(params)) {
      if (params.length > names.length) throw this.usageError();
      params.forEach((value, at) => {
        if (value !== null) this.#values.set(names[at], value);
      });
    } else
      for (const [name, value] of Object.entries(params as Record<string, unknown>)) {
        if (!names.includes(name))
          throw new RpcError(rpcCode.invalidParameter, `Unknown named parameter ${name}`);
        if (value !== null) this.#values.set(name, value);
      }
    for (const name of names.slice(0, required))
      if (!this.#values.has(name)) throw this.usageError();
  }

  /** What Core answers to a wrong number of parameters: the help of the method, with code -1. */
  usageError(): RpcError {
    return new RpcError(rpcCode.misc, this.#usage);
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  raw(name: string): unknown {
    return this.#values.get(name);
  }

  text(name: string): string {
    const value = this.#values.get(name);
    if (typeof value !== 'string') throw typeError(name, value, 'string');
    return value;
  }

  optionalText(name: string): string | null {
    return this.#values.has(name) ? this.text(name) : null;
  }

  /** A safe integer; fractions are refused with Core's words. */
  integer(name: string, otherwise?: number): number {
    const value = this.#values.get(name) ?? otherwise;
    if (value instanceof ExactNumber) throw new RpcError(rpcCode.misc, 'JSON integer out of range');
    if (typeof value !== 'number') throw typeError(name, value, 'number');
    return value;
  }

  flag(name: string, otherwise: boolean): boolean {
    const value = this.#values.get(name) ?? otherwise;
    if (typeof value !== 'boolean') throw typeError(name, value, 'bool');
    return value;
  }

  list(name: string, otherwise?: unknown[]): unknown[] {
    const value = this.#values.get(name) ?? otherwise;
    if (!Array.isArray(value)) throw typeError(name, value, 'array');
    return value;
  }

  /** An object's fields as a map; empty when the parameter is missing. */
  fields(name: string): Map<string, unknown> {
    const value = this.#values.get(name);
    if (value === undefined) return new Map();
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw typeError(name, value, 'object');
    return new Map(Object.entries(value).filter(([, field]) => field !== null));
  }

  /** Satoshis from a number or text in bitcoin; must not be negative. */
  amount(name: string): bigint {
    return readAmount(this.#values.get(name));
  }

  /** A hash in display hex, checked as Core's `ParseHashV`, lower case. */
  hash(name: string): string {
    return readHash(this.text(name), name);
  }
}

/** Satoshis from JSON, with Core's `AmountFromValue` errors. */
export function readAmount(value: unknown): bigint {
  if (!(value instanceof ExactNumber) && typeof value !== 'number' && typeof value !== 'string')
    throw new RpcError(rpcCode.type, 'Amount is not a number or string');
  const sats = parseAmount(value);
  if (sats === null) throw new RpcError(rpcCode.type, 'Invalid amount');
  if (sats < 0n || sats > 2_100_000_000_000_000n)
    throw new RpcError(rpcCode.type, 'Amount out of range');
  return sats;
}

/** Display hex of 32 bytes, with Core's `ParseHashV` errors. */
export function readHash(text: string, name: string): string {
  if (text.length !== 64)
    throw new RpcError(
      rpcCode.invalidParameter,
      `${name} must be of length 64 (not ${text.length}, for '${text.slice(0, 100)}')`,
    );
  const bytes = decodeHexReversed(text);
  if (bytes === null)
    throw new RpcError(
      rpcCode.invalidParameter,
      `${name} must be hexadecimal string (not '${text}')`,
    );
  return encodeHexReversed(bytes);
}

/** Hex of any length to bytes, quickly and strictly; null when it is not hex. Blocks are megabytes of it. */
export function readHex(text: string): Uint8Array | null {
  if (text.length % 2 !== 0) return null;
  // Buffer stops at the first character that is no hex, which the length gives away.
  const bytes = Buffer.from(text, 'hex');
  if (bytes.length * 2 !== text.length) return null;
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

function typeError(name: string, value: unknown, wanted: string): RpcError {
  const got =
    value === undefined || value === null
      ? 'null'
      : Array.isArray(value)
        ? 'array'
        : value instanceof ExactNumber
          ? 'number'
          : typeof value === 'boolean'
            ? 'bool'
            : typeof value;
  return new RpcError(
    rpcCode.type,
    `JSON value of type ${got} is not of expected type ${wanted} (${name})`,
  );
}
