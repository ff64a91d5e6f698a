/**
 * One line of Stratum V1 to a request, totally: any text gives a value, nothing throws. JSON-RPC as miners speak it: ids of any
 * kind, `params` missing or null, `jsonrpc` present or not. Refused: batches, deep nesting, many keys, long method names.
 */

import type { StratumErrorName } from './errors.ts';
import type { SessionLimits } from './limits.ts';

/** What is echoed: a string of at most 64 bytes, a finite number that survives a double, or null. */
export type RequestId = string | number | null;

/** One shape for all outcomes, so that the engine keeps one hidden class on the hot path. */
export type Request = {
  kind: 'request' | 'response' | 'refused';
  id: RequestId;
  /** The line had an id that is not null. */
  hasId: boolean;
  /** The id was of a kind we do not echo (object, array, too long). */
  idRefused: boolean;
  /** Empty when the line had none. */
  method: string;
  /** null when missing or null; then the method decides whether that is fine. */
  params: readonly unknown[] | null;
  /** For kind 'refused'. */
  error: StratumErrorName | null;
  /** For kind 'response'. */
  result: unknown;
};

const NOTHING: readonly unknown[] = [];

/** Decodes one line (no newline in it). Total: never throws, bounded by the length of the line. */
export function decodeRequest(text: string, limits: SessionLimits): Request {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return refused(null, 'parse-error');
  }
  if (typeof value !== 'object' || value === null) return refused(null, 'object-expected');
  if (Array.isArray(value)) return refused(null, 'batch');
  const {
    id: rawId,
    method,
    params,
  } = value as { id?: unknown; method?: unknown; params?: unknown };
  const id = decodeId(rawId, limits.idBytesMax);
  const hasId = rawId !== undefined && rawId !== null;
  const idRefused = hasId && id === null && typeof rawId !== 'number';
  let keys = 0;
  for (const _ in value) keys += 1;
  if (keys > limits.keysMax) return refused(id, 'keys-many');
  if (typeof method !== 'string') {
    if (method === undefined && (Object.hasOwn(value, 'result') || Object.hasOwn(value, 'error'))) {
      return {
        kind: 'response',
        id,
        hasId,
        idRefused,
        method: '',
        params: NOTHING,
        error: null,
        result: (value as { result?: unknown }).result,
      };
    }
    return refused(id, 'method-required');
  }
  if (method.length > limits.methodCharsMax) return refused(id, 'method-long');
  let list: readonly unknown[] | null = null;
  if (Array.isArray(params)) {
    if (params.length > limits.paramsMax) return refused(id, 'params-many');
    for (let index = 0; index < params.length; index += 1) {
      const param = params[index];
      if (
        typeof param === 'object' &&
        param !== null &&
        !isShallow(param, limits.jsonDepthMax - 3)
      ) {
        return refused(id, 'too-deep');
      }
    }
    list = params;
  } else if (params !== undefined && params !== null) {
    return refused(id, 'params');
  }
  return { kind: 'request', id, hasId, idRefused, method, params: list, error: null, result: null };
}

/** The id as it is echoed. Numbers that JSON cannot carry back exactly become null. */
export function decodeId(raw: unknown, bytesMax: number): RequestId {
  if (typeof raw === 'number') {
    if (Number.isInteger(raw)) return Number.isSafeInteger(raw) ? raw : null;
    return Number.isFinite(raw) ? raw : null;
  }
  if (typeof raw === 'string') return utf8Bytes(raw) <= bytesMax ? raw : null;
  return null;
}

/** UTF-8 length of a string; a lone surrogate counts three, as its replacement would. */
function utf8Bytes(text: string): number {
  let bytes = text.length;
  if (bytes > 1_024) return bytes;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code >= 0x800) bytes += code >= 0xd800 && code <= 0xdfff ? 1 : 2;
    else if (code >= 0x80) bytes += 1;
  }
  return bytes;
}

/** True when the value nests no deeper than `depth` further levels. The recursion is bounded by `depth`. */
function isShallow(value: object, depth: number): boolean {
  if (depth < 0) return false;
  const children = Array.isArray(value) ? value : Object.values(value);
  for (const child of children) {
    if (typeof child === 'object' && child !== null && !isShallow(child, depth - 1)) return false;
  }
  return true;
}

function refused(id: RequestId, error: StratumErrorName): Request {
  return {
    kind: 'refused',
    id,
    hasId: id !== null,
    idRefused: false,
    method: '',
    params: NOTHING,
    error,
    result: null,
  };
}
