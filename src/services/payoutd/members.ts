/**
 * Who takes part in a round or a plan: the accounts of a window with split accounts replaced by their addresses, and each with the fee and
 * donation that hold for it. An account's own fee stands before the pool's; its donation comes on top of the developer's fee.
 */
import type { RoundMember } from '../../core/ledger/round.ts';
import type { PoolRules, Scheme } from '../../core/ledger/rules.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import { decodeSplit, expandSplits } from '../../core/ledger/shares.ts';
import type { Db } from '../../ports.ts';
import { type AccountSettings, findOrMakeAccounts, readSettings } from '../../store/accounts.ts';

type Worked = { accountId: bigint; address: string; work: bigint };

const MILLION = 1_000_000;

/** The members that these accounts make, by account id. Accounts that splits lead to are made where they are missing. */
export async function membersOf(
  db: Pick<Db, 'query'>,
  rules: PoolRules,
  scheme: Scheme,
  accounts: readonly Worked[],
  nowMs: number,
): Promise<RoundMember[]> {
  const ids = await splitAccounts(db, accounts, nowMs);
  const expanded = expandSplits(accounts, (address) => ids.get(address) as bigint);
  const settings = await readSettings(
    db,
    expanded.map(({ accountId }) => accountId),
  );
  return expanded.map((member) => ({
    ...member,
    ...ratesOf(rules, scheme, settings.get(member.accountId)),
  }));
}

/** The accounts of all addresses that split accounts lead to, made where they are missing. */
export async function splitAccounts(
  db: Pick<Db, 'query'>,
  accounts: readonly { address: string }[],
  nowMs: number,
): Promise<Map<string, bigint>> {
  const addresses = accounts.flatMap(({ address }) => {
    const parts = decodeSplit(address);
    return parts !== null && parts.length > 1 ? parts.map((part) => part.address) : [];
  });
  return findOrMakeAccounts(db, addresses, nowMs);
}

/**
 * What is kept of an account's part, in ppm. A coinbase can pay a fee only to an address: in schemes that pay by it, there is none without
 * one. Together at most everything.
 */
export function ratesOf(
  rules: PoolRules,
  scheme: Scheme,
  settings: AccountSettings | undefined,
): { feePpm: number; donationPpm: number } {
  const byCoinbase = SCHEMES[scheme].settles === 'coinbase';
  const hasFee = !byCoinbase || rules.feeAddress !== null;
  const hasDonation = !byCoinbase || rules.developerAddress !== null;
  // A coinbase of scheme solo has one fee for everybody.
  const ownFee = scheme === 'solo' ? null : (settings?.feePpm ?? null);
  const ownDonation = scheme === 'solo' ? 0 : rules.developerFeePpm + (settings?.donationPpm ?? 0);
  const feePpm = hasFee ? (ownFee ?? rules.feePpm) : 0;
  const donationPpm = hasDonation ? Math.min(ownDonation, MILLION - feePpm) : 0;
  return { feePpm, donationPpm };
}
