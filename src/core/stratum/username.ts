/**
 * Usernames and passwords of miners. `ADDRESS.worker`, `ADDRESS_worker`, or the address alone; behind it an optional `+n` or `=n`
 * difficulty; `%2E`-style escapes for the separators, as some web interfaces send them. Worker names are a short white-listed
 * alphabet, so that no name is ever dangerous in a log, a label, a CSV cell or a page.
 */

import { decodeAddress } from '../bitcoin/address.ts';
import type { Network } from '../bitcoin/network.ts';
import type { StratumErrorName } from './errors.ts';
import type { SessionLimits } from './limits.ts';
import { decodeDecimal } from './number.ts';

export type Username =
  | {
      ok: true;
      /** Canonical address: one spelling per account. */
      account: string;
      /** Output script of the address. */
      script: Uint8Array;
      worker: string;
      /** From `+n` or `=n`; 0 when absent, zero or no number. */
      difficulty: number;
    }
  | { ok: false; error: StratumErrorName };

export const DEFAULT_WORKER = 'default';

const WORKER_ALPHABET = /^[A-Za-z0-9_.-]+$/;
const ESCAPES = /%(?:2[bBdDeE]|3[dD]|5[fF])/g;

/** Decodes a username. Total. The address must be a standard form of `network` and is returned in its canonical spelling. */
export function decodeUsername(raw: unknown, network: Network, limits: SessionLimits): Username {
  if (typeof raw !== 'string') return { ok: false, error: 'username-invalid' };
  if (raw.length > limits.usernameCharsMax) return { ok: false, error: 'username-invalid' };
  let text = raw.trim();
  if (text.includes('%')) text = text.replace(ESCAPES, unescapeSeparator);
  let difficulty = 0;
  const mark = Math.max(text.lastIndexOf('+'), text.lastIndexOf('='));
  if (mark >= 0) {
    difficulty = decodeDecimal(text.slice(mark + 1)) ?? 0;
    text = text.slice(0, mark);
  }
  let split = text.indexOf('.');
  if (split < 0) split = text.indexOf('_');
  const addressText = split < 0 ? text : text.slice(0, split);
  const address = decodeAddress(addressText, network);
  if (!address.ok) return { ok: false, error: 'username-invalid' };
  const worker = (split < 0 ? '' : text.slice(split + 1)) || DEFAULT_WORKER;
  if (worker.length > limits.workerCharsMax || !WORKER_ALPHABET.test(worker)) {
    return { ok: false, error: 'worker-name' };
  }
  return { ok: true, account: address.canonical, script: address.script, worker, difficulty };
}

export type PasswordOptions = {
  /** `d=` or `diff=`; 0 when absent or zero ("no preference"). */
  difficulty: number;
  /** `fd=`; 0 when absent. */
  fixedDifficulty: number;
};

/** Decodes the options in a password: `d=…`, `diff=…`, `fd=…` separated by comma, semicolon, ampersand or space. Total. */
export function decodePassword(raw: unknown, limits: SessionLimits): PasswordOptions {
  const options: PasswordOptions = { difficulty: 0, fixedDifficulty: 0 };
  if (typeof raw !== 'string') return options;
  for (const part of raw.slice(0, limits.passwordCharsMax).split(/[,;& ]/)) {
    const equals = part.indexOf('=');
    if (equals < 0) continue;
    const value = decodeDecimal(part.slice(equals + 1));
    if (value === null || value === 0) continue;
    const key = part.slice(0, equals).toLowerCase();
    if (key === 'd' || key === 'diff') options.difficulty = value;
    else if (key === 'fd') options.fixedDifficulty = value;
  }
  return options;
}

function unescapeSeparator(escaped: string): string {
  return String.fromCharCode(Number.parseInt(escaped.slice(1), 16));
}
