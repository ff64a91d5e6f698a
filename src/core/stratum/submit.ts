/**
 * mining.submit's parameters to canonical values, once, before anything is decided: what is hashed and what is deduped come from
 * here and from nowhere else (NOMP #430 and its many children were paid twice for re-cased text).
 */

import type { StratumErrorName } from './errors.ts';
import { decodeHex32, hexDigit } from './number.ts';

/** One reusable record per gateway: filled by `decodeSubmit`, valid until the next call. */
export type SubmitFields = {
  username: string;
  jobId: string;
  /** The eight bytes as two big-endian words. */
  extranonce2High: number;
  extranonce2Low: number;
  ntime: number;
  nonce: number;
  versionBits: number;
  hasVersion: boolean;
  /** Nonce or ntime came with fewer than eight digits, or something came with `0x`. */
  isShort: boolean;
  isPrefixed: boolean;
};

export const EXTRANONCE2_BYTES = 8;

/** An empty record to fill. */
export function createSubmitFields(): SubmitFields {
  return {
    username: '',
    jobId: '',
    extranonce2High: 0,
    extranonce2Low: 0,
    ntime: 0,
    nonce: 0,
    versionBits: 0,
    hasVersion: false,
    isShort: false,
    isPrefixed: false,
  };
}

/**
 * Fills `into` from [username, job id, extranonce2, ntime, nonce, version bits?]. Returns null, or the error to answer. A
 * seventh parameter and more are ignored when null. `limits.jobIdCharsMax` bounds the job id.
 */
export function decodeSubmit(
  params: readonly unknown[],
  jobIdCharsMax: number,
  into: SubmitFields,
): StratumErrorName | null {
  const count = params.length;
  if (count < 5) return 'submit-params';
  for (let index = 6; index < count; index += 1) {
    if (params[index] !== null) return 'submit-params';
  }
  const username = params[0];
  const jobId = params[1];
  const extranonce2 = params[2];
  const ntime = params[3];
  const nonce = params[4];
  const version = count > 5 ? params[5] : null;
  if (
    typeof username !== 'string' ||
    typeof jobId !== 'string' ||
    typeof extranonce2 !== 'string' ||
    typeof ntime !== 'string' ||
    typeof nonce !== 'string' ||
    (version !== null && typeof version !== 'string')
  ) {
    return 'submit-params';
  }
  into.username = username;
  into.jobId = jobId.length <= jobIdCharsMax ? jobId : '';
  if (extranonce2.length !== EXTRANONCE2_BYTES * 2) return 'extranonce2-length';
  let high = 0;
  let low = 0;
  for (let index = 0; index < 8; index += 1) {
    const first = hexDigit(extranonce2.charCodeAt(index));
    const second = hexDigit(extranonce2.charCodeAt(index + 8));
    if (first < 0 || second < 0) return 'extranonce2-hex';
    high = (high << 4) | first;
    low = (low << 4) | second;
  }
  into.extranonce2High = high >>> 0;
  into.extranonce2Low = low >>> 0;
  into.ntime = decodeHex32(ntime);
  if (into.ntime < 0) return 'ntime';
  into.nonce = decodeHex32(nonce);
  if (into.nonce < 0) return 'nonce';
  into.isShort = nonce.length < 8 || ntime.length < 8;
  into.isPrefixed = isPrefixed(nonce) || isPrefixed(ntime);
  into.hasVersion = version !== null;
  into.versionBits = 0;
  if (version !== null) {
    into.versionBits = decodeHex32(version);
    if (into.versionBits < 0) return 'version-bits';
    into.isPrefixed ||= isPrefixed(version);
  }
  return null;
}

function isPrefixed(text: string): boolean {
  return text.length > 2 && (text.charCodeAt(1) | 32) === 120;
}
