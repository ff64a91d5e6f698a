/**
 * Split accounts: work that belongs to several addresses. The account's address text is `addr1*60,addr2*40`; its canonical form
 * has canonical addresses, sorted, and weights without a common divisor (`addr1*3,addr2*2`). A plain address is a split of one.
 *
 * Refused: more than 8 parts, weights outside 1 to 10,000, an address twice, more characters than an account may have. Whether
 * an address pays anybody is for those to say who know the network.
 */

import { splitByWork } from './split.ts';

export type SplitPart = { address: string; weight: number };

export const SPLIT_PARTS_MAX = 8;
export const SPLIT_WEIGHT_MAX = 10_000;
/** As long as an account's address may be. */
export const SPLIT_CHARACTERS_MAX = 512;

/** Parts with canonical addresses → the canonical text of their account; null for what is refused. */
export function encodeSplit(parts: readonly SplitPart[]): string | null {
  if (!isSplit(parts)) return null;
  if (parts.length === 1) return parts[0]!.address;
  const divisor = parts.reduce((common, part) => greatestDivisor(common, part.weight), 0);
  const text = parts
    .map(({ address, weight }) => ({ address, weight: weight / divisor }))
    .sort((a, b) => (a.address < b.address ? -1 : 1))
    .map(({ address, weight }) => `${address}*${weight}`)
    .join(',');
  return text.length > SPLIT_CHARACTERS_MAX ? null : text;
}

/**
 * Text of an account, or of a username without its worker → parts as written; null when it is neither an address (by its
 * characters) nor a split. Total.
 */
export function decodeSplit(text: string): SplitPart[] | null {
  if (text.length > SPLIT_CHARACTERS_MAX) return null;
  if (/^[0-9A-Za-z]+$/.test(text)) return [{ address: text, weight: 1 }];
  const parts: SplitPart[] = [];
  for (const piece of text.split(',')) {
    const found = /^([0-9A-Za-z]+)\*([1-9]\d{0,4})$/.exec(piece);
    if (found === null) return null;
    parts.push({ address: found[1]!, weight: Number(found[2]) });
  }
  return isSplit(parts) ? parts : null;
}

/**
 * Members of a window → the same with every split account replaced by the accounts of its addresses, by account id. The work
 * of a split account is divided in whole units (largest remainder, ties to the address that stands first); an account that
 * several members lead to is there once. Σ work stays what it was. Throws RangeError for a text that is no account.
 */
export function expandSplits(
  members: readonly { accountId: bigint; address: string; work: bigint }[],
  accountIdOf: (address: string) => bigint,
): { accountId: bigint; address: string; work: bigint }[] {
  const whole = new Map<bigint, { accountId: bigint; address: string; work: bigint }>();
  const add = (accountId: bigint, address: string, work: bigint) => {
    const known = whole.get(accountId);
    if (known === undefined) whole.set(accountId, { accountId, address, work });
    else known.work += work;
  };
  for (const { accountId, address, work } of members) {
    const parts = decodeSplit(address);
    if (parts === null) throw new RangeError(`no account has the address ${address}`);
    if (parts.length === 1) {
      add(accountId, address, work);
      continue;
    }
    const works = splitByWork(
      work,
      parts.map(({ weight }, at) => ({ id: BigInt(at), work: BigInt(weight) })),
    );
    for (const [at, part] of parts.entries()) {
      add(accountIdOf(part.address), part.address, works.get(BigInt(at))!);
    }
  }
  return [...whole.values()].sort((a, b) => (a.accountId < b.accountId ? -1 : 1));
}

function isSplit(parts: readonly SplitPart[]): boolean {
  return (
    parts.length >= 1 &&
    parts.length <= SPLIT_PARTS_MAX &&
    parts.every(({ weight }) => Number.isInteger(weight) && weight >= 1) &&
    parts.every(({ weight }) => weight <= SPLIT_WEIGHT_MAX) &&
    new Set(parts.map(({ address }) => address)).size === parts.length
  );
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
