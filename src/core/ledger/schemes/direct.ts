/**
 * Direct: PPLNS paid by the coinbase itself, so that the pool holds nothing. The window is that of PPLNS; what an account earned
 * and what the coinbase could pay it differ (plan.ts), and the difference is carried to the next block (carry.ts).
 */

import { lastWork } from './pplns.ts';
import { creditMembers, type SchemeRule } from './scheme.ts';

export const DIRECT: SchemeRule = {
  name: 'direct',
  settles: 'coinbase',
  span: lastWork,
  credit: creditMembers,
  blockValueSats: null,
};
