/**
 * PPLNS, pay per last N shares, N counted as work: a block pays the newest work up to a multiple of the network's difficulty at
 * the find, whatever blocks lie in between, so that there is nothing to gain by coming or going (Rosenfeld 2011, section 4;
 * "unit-PPLNS", window sliding over rounds). The share at the edge counts in part; a window that is not full yet is distributed
 * over what is there. A window by days counts all that was accepted in the days before the find.
 */

import type { WindowSpan } from '../rules.ts';
import { creditMembers, type Find, type SchemeRule } from './scheme.ts';

const MILLION = 1_000_000n;
const MS_PER_DAY = 86_400_000;

export const PPLNS: SchemeRule = {
  name: 'pplns',
  settles: 'ledger',
  span: lastWork,
  credit: creditMembers,
  blockValueSats: null,
};

/**
 * The window of PPLNS: floor(factor · network work), at least one unit, or the days before the find. Also that of scheme direct.
 */
export function lastWork({ networkWork, foundAtMs, window }: Find): WindowSpan {
  if (window.kind === 'days')
    return { kind: 'time', afterMs: foundAtMs - window.days * MS_PER_DAY };
  const work = (networkWork * window.factorPpm) / MILLION;
  return { kind: 'work', work: work > 0n ? work : 1n };
}
