/**
 * FPPS, full pay per share: PPS with the fees of transactions. A share is worth its chance of being a block times what its own
 * job's coinbase would pay, subsidy and fees, at once, out of the reserve.
 */

import { subsidySats } from '../reward.ts';
import { fillReserve } from './pps.ts';
import type { SchemeRule } from './scheme.ts';

export const FPPS: SchemeRule = {
  name: 'fpps',
  settles: 'reserve',
  span: () => null,
  credit: fillReserve,
  /** A share whose job's value was not recorded counts as a block without fees. */
  blockValueSats: ({ height, jobValueSats }, network) =>
    jobValueSats > 0n ? jobValueSats : subsidySats(height, network),
};
