/**
 * What a coinbase pays, the same for whoever builds one: the gateway for its miners, the auditor of shares, the proposal check.
 */

import type { CoinbaseOutput } from '../bitcoin/coinbase.ts';

const MILLION = 1_000_000n;
/** An output below this is not worth its weight; a fee that small goes to the finder. */
const DUST_SATS = 546n;

/**
 * Outputs for one payee: everything to `script`, less the fee in parts per million (rounded down) where there is one. They
 * add up to exactly `valueSats`.
 */
export function coinbaseOutputs(
  script: Uint8Array,
  fee: { ppm: number; script: Uint8Array } | null,
  valueSats: bigint,
): CoinbaseOutput[] {
  const feeSats = fee === null ? 0n : (valueSats * BigInt(fee.ppm)) / MILLION;
  if (fee === null || feeSats < DUST_SATS) return [{ script, valueSats }];
  if (feeSats >= valueSats) return [{ script: fee.script, valueSats }];
  return [
    { script, valueSats: valueSats - feeSats },
    { script: fee.script, valueSats: feeSats },
  ];
}
