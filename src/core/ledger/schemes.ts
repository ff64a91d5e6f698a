/**
 * All schemes by name, and which of them counts a share when a pool's scheme has changed. Adding a scheme means adding a file
 * and a row here.
 */

import type { Scheme } from './rules.ts';
import { DIRECT } from './schemes/direct.ts';
import { FPPS } from './schemes/fpps.ts';
import { POOL } from './schemes/pool.ts';
import { PPLNS } from './schemes/pplns.ts';
import { PPS } from './schemes/pps.ts';
import { PROP } from './schemes/prop.ts';
import type { SchemeRule } from './schemes/scheme.ts';
import { SOLO } from './schemes/solo.ts';

export const SCHEMES: Readonly<Record<Scheme, SchemeRule>> = {
  pplns: PPLNS,
  prop: PROP,
  pps: PPS,
  fpps: FPPS,
  solo: SOLO,
  direct: DIRECT,
  pool: POOL,
};

/** From this sequence number on a pool had this scheme. */
export type SchemeChange = { fromSeq: bigint; scheme: Scheme };

/**
 * The scheme of the share `seq`, and the last share that its windows must not reach: those up to there were counted, and
 * perhaps paid, by another rule. PPLNS and direct count alike, so one reaches back over the other; nothing else does. `history`
 * may stand in any order; null when it begins after `seq`.
 */
export function schemeAt(
  history: readonly SchemeChange[],
  seq: bigint,
): { scheme: Scheme; afterSeq: bigint } | null {
  const past = history
    .filter(({ fromSeq }) => fromSeq <= seq)
    .sort((a, b) => (a.fromSeq < b.fromSeq ? 1 : -1));
  const [newest] = past;
  if (newest === undefined) return null;
  let first = newest;
  for (const change of past) {
    if (!countAlike(change.scheme, newest.scheme)) break;
    first = change;
  }
  return { scheme: newest.scheme, afterSeq: first.fromSeq - 1n };
}

function countAlike(a: Scheme, b: Scheme): boolean {
  return a === b || (SLIDING.has(a) && SLIDING.has(b));
}

const SLIDING: ReadonlySet<Scheme> = new Set(['pplns', 'direct']);
