/**
 * Scheme direct, after the block: what every account earned in the round less what the coinbase paid it. The differences add up
 * to zero, because both sides add up to the reward. Refused as values: an output to a script that no account of the round has,
 * and sides that do not meet; then the coinbase is not the one the plan asked for, and a person must look.
 */

import { encodeHex } from '../bitcoin/bytes.ts';
import type { CoinbaseOutput } from '../bitcoin/coinbase.ts';
import { splitByWork } from './split.ts';

/** An account may be there several times, as a miner and as the recipient of fees. */
export type DirectEarning = { accountId: bigint; script: Uint8Array; earnedSats: bigint };

export type DirectCarry = {
  accountId: bigint;
  earnedSats: bigint;
  paidSats: bigint;
  /** Earned less paid: what is to be added to the balance carried. */
  carrySats: bigint;
};

/**
 * `earnings` name everybody the coinbase may have paid, who earned nothing with 0; `outputs` are those of the coinbase in the
 * chain (outputs of 0 satoshi are ignored: the witness commitment) → one row per account, by account id.
 */
export function directCarry(
  earnings: readonly DirectEarning[],
  outputs: readonly CoinbaseOutput[],
): { ok: true; rows: DirectCarry[] } | { ok: false; reason: string } {
  const rows = new Map<bigint, DirectCarry>();
  const byScript = new Map<string, DirectCarry>();
  let sumSats = 0n;
  for (const { accountId, script, earnedSats } of earnings) {
    const row = rows.get(accountId) ?? { accountId, earnedSats: 0n, paidSats: 0n, carrySats: 0n };
    rows.set(accountId, row);
    row.earnedSats += earnedSats;
    row.carrySats += earnedSats;
    sumSats += earnedSats;
    const key = encodeHex(script);
    const other = byScript.get(key);
    if (other !== undefined && other !== row) {
      return { ok: false, reason: `accounts ${other.accountId} and ${accountId} share a script` };
    }
    byScript.set(key, row);
  }
  for (const { script, valueSats } of outputs) {
    if (valueSats === 0n) continue;
    const row = byScript.get(encodeHex(script));
    if (row === undefined) {
      return {
        ok: false,
        reason: `the coinbase pays ${valueSats} sat to script ${encodeHex(script)}, which is nobody's`,
      };
    }
    row.paidSats += valueSats;
    row.carrySats -= valueSats;
    sumSats -= valueSats;
  }
  if (sumSats !== 0n) {
    return { ok: false, reason: `earned and paid differ by ${sumSats} sat` };
  }
  return {
    ok: true,
    rows: [...rows.values()].sort((a, b) => (a.accountId < b.accountId ? -1 : 1)),
  };
}

/**
 * Debts of accounts that have left: coinbases paid them more than they earned, and nothing will be kept back from them. Those
 * who are still owed bear it, in proportion to what they are owed; else all of them would wait for it for ever, and for more with
 * everybody who leaves. `balances` are all carries of a pool, which add up to zero → what to add to each, which does, too; no
 * balance changes its sign. Throws RangeError when the balances do not add up to zero.
 */
export function writeOffDebts(
  balances: readonly { accountId: bigint; carrySats: bigint; hasLeft: boolean }[],
): { accountId: bigint; sats: bigint }[] {
  const sumSats = balances.reduce((sum, { carrySats }) => sum + carrySats, 0n);
  if (sumSats !== 0n) throw new RangeError(`carries add up to ${sumSats} sat`);
  const debts = balances
    .filter(({ carrySats, hasLeft }) => hasLeft && carrySats < 0n)
    .map(({ accountId, carrySats }) => ({ accountId, sats: -carrySats }));
  const debtSats = debts.reduce((sum, { sats }) => sum + sats, 0n);
  const owed = balances.filter(({ carrySats }) => carrySats > 0n);
  const borne = splitByWork(
    debtSats,
    owed.map(({ accountId, carrySats }) => ({ id: accountId, work: carrySats })),
  );
  return [...debts, ...[...borne].map(([accountId, sats]) => ({ accountId, sats: -sats }))]
    .filter(({ sats }) => sats !== 0n)
    .sort((a, b) => (a.accountId < b.accountId ? -1 : 1));
}
