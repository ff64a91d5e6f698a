/**
 * mining.suggest_difficulty and mining.suggest_target: any of the forms seen in the field to a difficulty, or what is wrong.
 */

import { difficultyOfTarget } from '../bitcoin/target.ts';
import { decodeDecimal } from './number.ts';

export type Suggestion =
  | { kind: 'difficulty'; difficulty: number }
  /** Zero or empty: no wish. */
  | { kind: 'none' }
  | { kind: 'wrong' };

const TARGET = /^(?:0[xX])?([0-9a-fA-F]{1,64})$/;

/** A number, or a decimal string with or without exponent. Negative, not finite and anything else is 'wrong'. */
export function decodeSuggestedDifficulty(raw: unknown): Suggestion {
  if (typeof raw === 'string') {
    if (raw.trim() === '') return { kind: 'none' };
    const value = decodeDecimal(raw.trim());
    return value === null ? { kind: 'wrong' } : wish(value);
  }
  return typeof raw === 'number' && Number.isFinite(raw) && raw >= 0
    ? wish(raw)
    : { kind: 'wrong' };
}

/** Up to 64 hex digits, most significant first. All zeros asks for the impossible: no wish. */
export function decodeSuggestedTarget(raw: unknown): Suggestion {
  if (typeof raw !== 'string' || raw.length > 66) return { kind: 'wrong' };
  const digits = TARGET.exec(raw)?.[1];
  if (digits === undefined) return { kind: 'wrong' };
  const target = BigInt(`0x${digits}`);
  return target === 0n ? { kind: 'none' } : wish(difficultyOfTarget(target));
}

function wish(difficulty: number): Suggestion {
  return difficulty === 0 ? { kind: 'none' } : { kind: 'difficulty', difficulty };
}
