/** Pool: no accounts. Blocks pay the pool's address and belong to the operator; shares are recorded and nobody is credited. */

import type { SchemeRule } from './scheme.ts';

export const POOL: SchemeRule = {
  name: 'pool',
  settles: 'operator',
  span: () => null,
  credit: (rewardSats) => ({
    credits: [],
    operatorSats: rewardSats,
    developerSats: 0n,
    reserveSats: 0n,
  }),
  blockValueSats: null,
};
