/**
 * PROP, proportional: a block pays all work since the pool's block before it. Simple to follow, and open to miners who come for
 * the start of a round and leave (Rosenfeld 2011, section 3.2): an operator who takes it should know them.
 */

import { creditMembers, type SchemeRule } from './scheme.ts';

export const PROP: SchemeRule = {
  name: 'prop',
  settles: 'ledger',
  span: ({ previousSeq }) => ({ kind: 'since', afterSeq: previousSeq }),
  credit: creditMembers,
  blockValueSats: null,
};
