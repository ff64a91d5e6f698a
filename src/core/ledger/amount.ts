/**
 * Amounts of money as text, for people: written with sign, eight places and unit, read only with a unit. Satoshi are integers;
 * no float stands between text and integer. Refused: no unit, parts of a satoshi, signs of thousands, more than 21 million BTC.
 */

import { MONEY_MAX_SATS } from '../bitcoin/coinbase.ts';

const SATS_PER_BTC = 100_000_000n;

export type AmountAnswer = { ok: true; sats: bigint } | { ok: false; reason: string };

/** Satoshi, of either sign → `0.00012345 BTC`, exact. */
export function formatSats(sats: bigint): string {
  const size = sats < 0n ? -sats : sats;
  const places = (size % SATS_PER_BTC).toString().padStart(8, '0');
  return `${sats < 0n ? '-' : ''}${size / SATS_PER_BTC}.${places} BTC`;
}

/** `0.5 BTC`, `5000 sat`, `-1 sats` → satoshi. Case and the space before the unit do not matter. Total. */
export function parseAmount(text: string): AmountAnswer {
  if (text.length > 40) return refuse('an amount has at most 40 characters');
  const found = /^(-?)(\d+)(?:\.(\d+))? ?(btc|sats?)$/i.exec(text.trim());
  if (found === null) {
    return refuse(
      /^-?[\d.]+$/.test(text.trim())
        ? 'the unit is missing: write "0.5 BTC" or "5000 sat"'
        : 'this is no amount: write "0.5 BTC" or "5000 sat"',
    );
  }
  const [, sign, whole, places = '', unit] = found;
  const isBtc = unit!.toLowerCase() === 'btc';
  if (!isBtc && places !== '') return refuse('there are no parts of a satoshi');
  if (places.length > 8) return refuse('BTC have at most eight decimal places');
  const size = isBtc
    ? BigInt(whole!) * SATS_PER_BTC + BigInt(places.padEnd(8, '0'))
    : BigInt(whole!);
  if (size > MONEY_MAX_SATS) return refuse('more than 21 million BTC');
  return { ok: true, sats: sign === '-' ? -size : size };
}

function refuse(reason: string): AmountAnswer {
  return { ok: false, reason };
}
