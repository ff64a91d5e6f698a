/**
 * SOLO: a block pays its finder, less the fee, in the coinbase itself. Its window is one share, the finding one; the members are
 * the finder, or the addresses that it splits its work over.
 */

import { creditMembers, type SchemeRule } from './scheme.ts';

export const SOLO: SchemeRule = {
  name: 'solo',
  settles: 'coinbase',
  span: ({ seq }) => ({ kind: 'since', afterSeq: seq - 1n }),
  credit: creditMembers,
  blockValueSats: null,
};
