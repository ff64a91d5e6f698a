/**
 * Usernames and passwords of miners. `ADDRESS.worker`, `ADDRESS_worker`, or the address alone; in place of the address a split of
 * several, `ADDRESS*60,ADDRESS*40`; behind it an optional `+n` or `=n` difficulty; `%2E`-style escapes for the separators, as some web interfaces send them. Worker names are a short white-listed
 * alphabet, so that no name is ever dangerous in a log, a label, a CSV cell or a page.
 */

import type { Network } from '../bitcoin/network.ts';
import { decodeAccount, isSplitText } from '../work/account.ts';
import type { FinderPart } from '../work/payout.ts';
import type { StratumErrorName } from './errors.ts';
import type { SessionLimits } from './limits.ts';
import { decodeDecimal } from './number.ts';

export type Username =
  | {
      ok: true;
      /** Canonical address, or canonical split of several: one spelling per account. */
      account: string;
      /** Where the account is paid. */
      parts: readonly FinderPart[];
      worker: string;
      /** From `+n` or `=n`; 0 when absent, zero or no number. */
      difficulty: number;
    }
  | { ok: false; error: StratumErrorName };

export const DEFAULT_WORKER = 'default';

const WORKER_ALPHABET = /^[A-Za-z0-9_.-]+$/;
const ESCAPES = /%(?:2[aAbBcCdDeE]|3[dD]|5[fF])/g;

/** Decodes a username. Total. Addresses must be standard forms of `network`; the account is returned in its canonical spelling. */
export function decodeUsername(raw: unknown, network: Network, limits: SessionLimits): Username {
  if (typeof raw !== 'string') return { ok: false, error: 'username-invalid' };
  if (raw.length > limits.usernameCharsMax && !isSplitText(raw.slice(0, limits.splitCharsMax))) {
    return { ok: false, error: 'username-invalid' };
  }
  if (raw.length > limits.splitCharsMax) return { ok: false, error: 'split-invalid' };
  let text = raw.trim();
  if (text.includes('%')) text = text.replace(ESCAPES, unescapeSeparator);
  let difficulty = 0;
  const mark = Math.max(text.lastIndexOf('+'), text.lastIndexOf('='));
  if (mark >= 0) {
    difficulty = decodeDecimal(text.slice(mark + 1)) ?? 0;
    text = text.slice(0, mark);
  }
  let end = text.indexOf('.');
  if (end < 0) end = text.indexOf('_');
  const accountText = end < 0 ? text : text.slice(0, end);
  const decoded = decodeAccount(accountText, network);
  if (!decoded.ok) {
    return { ok: false, error: isSplitText(accountText) ? 'split-invalid' : 'username-invalid' };
  }
  const worker = (end < 0 ? '' : text.slice(end + 1)) || DEFAULT_WORKER;
  if (worker.length > limits.workerCharsMax || !WORKER_ALPHABET.test(worker)) {
    return { ok: false, error: 'worker-name' };
  }
  return { ok: true, account: decoded.account, parts: decoded.parts, worker, difficulty };
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
