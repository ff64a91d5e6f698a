/**
 * Accounts as miners name them: a payout address, or several with weights (`addr1*60,addr2*40`). One account has one spelling, the
 * canonical one that work is credited to.
 *
 * Refused: what is no address of the network, and a split as `core/ledger/shares.ts` refuses it.
 */

import { decodeAddress } from '../bitcoin/address.ts';
import type { Network } from '../bitcoin/network.ts';
import { decodeSplit, encodeSplit } from '../ledger/shares.ts';
import type { FinderPart } from './payout.ts';

export type AccountAnswer =
  | { ok: true; account: string; parts: readonly FinderPart[] }
  | { ok: false; reason: string };

/** Whether a text means to be a split of several addresses: neither sign is in any address. */
export function isSplitText(text: string): boolean {
  return text.includes('*') || text.includes(',');
}

/** Text → canonical account and where it is paid, in the account's order. Total. */
export function decodeAccount(text: string, network: Network): AccountAnswer {
  if (!isSplitText(text)) {
    const address = decodeAddress(text, network);
    if (!address.ok) return address;
    return {
      ok: true,
      account: address.canonical,
      parts: [{ script: address.script, weight: 1n }],
    };
  }
  const written = decodeSplit(text);
  if (written === null) {
    return { ok: false, reason: 'not a split of up to 8 addresses with weights of 1 to 10000' };
  }
  const scripts = new Map<string, Uint8Array>();
  const canonical: { address: string; weight: number }[] = [];
  for (const { address: addressText, weight } of written) {
    const address = decodeAddress(addressText, network);
    if (!address.ok) return address;
    scripts.set(address.canonical, address.script);
    canonical.push({ address: address.canonical, weight });
  }
  const account = encodeSplit(canonical);
  const parts = account === null ? null : decodeSplit(account);
  if (account === null || parts === null) {
    return { ok: false, reason: 'a split names each address once' };
  }
  return {
    ok: true,
    account,
    parts: parts.map(({ address, weight }) => ({
      script: scripts.get(address)!,
      weight: BigInt(weight),
    })),
  };
}
