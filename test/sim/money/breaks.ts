/**
 * Ways to break the product on purpose. Each stands for a mistake that real pools have made; a test shows that the judge finds every one
 * of them, which is the proof that its promises can fail.
 */
import type { PayoutPolicy } from '../../../src/core/ledger/rules.ts';
import type { Db } from '../../../src/ports.ts';
import type { CallFate } from '../../tools/wallet-node.ts';

/** Name of the break → the promise that has to notice. */
export const BREAKS = {} as const satisfies Record<string, string>;

export type BreakName = keyof typeof BREAKS;

export function bendDb(db: Db, _breaks: ReadonlySet<BreakName>): Db {
  return db;
}

export function bendFate(
  fate: CallFate,
  _method: string,
  _breaks: ReadonlySet<BreakName>,
): CallFate {
  return fate;
}

export function bendPolicy(policy: PayoutPolicy, _breaks: ReadonlySet<BreakName>): PayoutPolicy {
  return policy;
}
