/** Pool: no accounts. Blocks pay the pool's address and belong to the operator; shares are recorded and nobody is credited. */

import { creditMembers, type SchemeRule } from './scheme.ts';

export const POOL: SchemeRule = {
  name: 'pool',
  settles: 'operator',
  span: () => null,
  credit: (rewardSats) => creditMembers(rewardSats, []),
  blockValueSats: null,
};
