/**
 * Which accounts are paid now, how much, and in which transactions. A plan is money: it refuses what has no script on this network,
 * what is split, on hold, below its minimum or below dust, and keeps every cap; what it leaves out is named with the reason.
 * Nobody is ever paid less than is due to make a plan fit: who does not fit waits, or is paid in whole parts by the caps.
 */
import { decodeAddress } from '../bitcoin/address.ts';
import { dustSats } from '../bitcoin/dust.ts';
import type { Network } from '../bitcoin/network.ts';
import type { PayoutPolicy } from './rules.ts';

/** No transaction of ours has more outputs than this, whatever the policy says. */
export const PAYOUT_OUTPUTS_MAX = 500;
/** Weight units that the outputs of one batch may have, a quarter below what nodes relay (400,000), so that inputs have room. */
export const PAYOUT_OUTPUTS_WEIGHT_MAX = 300_000;

const PPM = 1_000_000n;

/** An account with money that is spendable and in no other batch. */
export type DueAccount = {
  accountId: bigint;
  address: string;
  balanceSats: bigint;
  /** What the account asks for; it may ask for more than the pool's minimum, never for less. */
  minimumSats: bigint | null;
  onHold: boolean;
  /** The wallet refused the address once. */
  quarantined: boolean;
  /** Null: never. Who waited longest is served first. */
  lastPaidAtMs: number | null;
};

export type PayoutItem = {
  accountId: bigint;
  address: string;
  script: Uint8Array;
  amountSats: bigint;
};

export type PlannedBatch = {
  /** By account id. */
  items: PayoutItem[];
  totalSats: bigint;
};

export type SkipReason =
  | 'on-hold'
  | 'quarantined'
  | 'split-address'
  | 'bad-address'
  | 'below-minimum'
  | 'transaction-cap'
  | 'daily-cap'
  | 'fee-cap';

export type PayoutPlan = {
  batches: PlannedBatch[];
  skipped: { accountId: bigint; address: string; reason: SkipReason; detail: string }[];
  totalSats: bigint;
};

/** What of the policy a plan depends on. */
export type PlanRules = Pick<
  PayoutPolicy,
  'minimumSats' | 'outputsMax' | 'transactionMaxSats' | 'dailyMaxSats' | 'feePpmMax'
>;

export type PlanFacts = {
  network: Network;
  feePolicy: PayoutPolicy['feePolicy'];
  /** What batches of the last 24 hours pay; released ones left out. */
  paidInDaySats: bigint;
  /** The rate a transaction made now would pay; null: not known, and the cap of fees is not looked at. */
  feeSatsPerKvb: bigint | null;
};

/**
 * Plans payouts. An account is paid when it has the greatest of the pool's minimum, its own, and dust. Deterministic: the order of `accounts` does not matter. An account with more than a cap allows is paid the part that fits and the rest later.
 */
export function planPayout(
  accounts: readonly DueAccount[],
  rules: PlanRules,
  facts: PlanFacts,
): PayoutPlan {
  const skipped: PayoutPlan['skipped'] = [];
  const batches: PlannedBatch[] = [];
  let leftTodaySats = rules.dailyMaxSats - facts.paidInDaySats;
  const outputsMax = Math.max(1, Math.min(rules.outputsMax, PAYOUT_OUTPUTS_MAX));
  let open: PlannedBatch & { weight: number } = { items: [], totalSats: 0n, weight: 0 };
  const close = (): void => {
    if (open.items.length === 0) return;
    open.items.sort((left, right) => compare(left.accountId, right.accountId));
    const feeSats = leastFee(open.weight, facts.feeSatsPerKvb ?? 0n);
    if (feeSats * PPM > open.totalSats * BigInt(rules.feePpmMax)) {
      for (const { accountId, address } of open.items)
        skipped.push({
          accountId,
          address,
          reason: 'fee-cap',
          detail: `a fee of ${feeSats} sat is too much for ${open.totalSats} sat`,
        });
      leftTodaySats += open.totalSats;
    } else batches.push({ items: open.items, totalSats: open.totalSats });
    open = { items: [], totalSats: 0n, weight: 0 };
  };
  for (const account of [...accounts].sort(byWaiting)) {
    const skip = (reason: SkipReason, detail: string): void => {
      skipped.push({ accountId: account.accountId, address: account.address, reason, detail });
    };
    if (account.onHold) {
      skip('on-hold', 'the account is on hold');
      continue;
    }
    if (account.quarantined) {
      skip('quarantined', 'the wallet refused this address');
      continue;
    }
    const payable = payableScript(account.address, facts.network);
    if (!payable.ok) {
      skip(payable.reason, payable.detail);
      continue;
    }
    // Where the miner pays the fee, what is left must still be an output.
    const dust = dustSats(payable.script) * (facts.feePolicy === 'miner' ? 2n : 1n);
    const leastSats = greatest(rules.minimumSats, account.minimumSats ?? 0n, dust);
    if (account.balanceSats < leastSats) {
      skip('below-minimum', `below ${leastSats} sat`);
      continue;
    }
    const atOnceSats = least(account.balanceSats, rules.transactionMaxSats);
    const amountSats = least(atOnceSats, leftTodaySats);
    // A part is paid only where it is a payout of its own; else the account waits until the cap has room.
    if (atOnceSats < leastSats) {
      skip('transaction-cap', `the cap of a transaction is below ${leastSats} sat`);
      continue;
    }
    if (amountSats < leastSats || (amountSats < atOnceSats && atOnceSats <= rules.dailyMaxSats)) {
      skip('daily-cap', `${leftTodaySats < 0n ? 0n : leftTodaySats} sat are left of the day's cap`);
      continue;
    }
    const weight = outputWeight(payable.script);
    if (
      open.items.length >= outputsMax ||
      open.weight + weight > PAYOUT_OUTPUTS_WEIGHT_MAX ||
      open.totalSats + amountSats > rules.transactionMaxSats
    )
      close();
    open.items.push({
      accountId: account.accountId,
      address: account.address,
      script: payable.script,
      amountSats,
    });
    open.totalSats += amountSats;
    open.weight += weight;
    leftTodaySats -= amountSats;
  }
  close();
  skipped.sort((left, right) => compare(left.accountId, right.accountId));
  const totalSats = batches.reduce((sum, batch) => sum + batch.totalSats, 0n);
  return { batches, skipped, totalSats };
}

/** The script that pays an account's address on `network`; split accounts own no balances and are refused by name. */
export function payableScript(
  address: string,
  network: Network,
):
  | { ok: true; script: Uint8Array }
  | { ok: false; reason: 'split-address' | 'bad-address'; detail: string } {
  if (address.includes('*') || address.includes(','))
    return {
      ok: false,
      reason: 'split-address',
      detail: 'a split is no address: its parts are paid, never the split itself',
    };
  const decoded = decodeAddress(address, network);
  if (!decoded.ok) return { ok: false, reason: 'bad-address', detail: decoded.reason };
  return { ok: true, script: decoded.script };
}

/** What a transaction with such outputs pays at least: one input of 68 virtual bytes, change of 31, eleven around them. Rounded up. */
function leastFee(outputsWeight: number, satsPerKvb: bigint): bigint {
  const vsize = BigInt(Math.ceil(outputsWeight / 4) + 68 + 31 + 11);
  return (vsize * satsPerKvb + 999n) / 1000n;
}

/** Weight units of an output. */
function outputWeight(script: Uint8Array): number {
  return (8 + 1 + script.length) * 4;
}

function least(left: bigint, right: bigint): bigint {
  return left < right ? left : right;
}

function greatest(...values: readonly bigint[]): bigint {
  return values.reduce((left, right) => (left > right ? left : right));
}

function compare(left: bigint, right: bigint): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

/** Never paid first, then longest ago, then by account. */
function byWaiting(left: DueAccount, right: DueAccount): number {
  const leftAt = left.lastPaidAtMs ?? -1;
  const rightAt = right.lastPaidAtMs ?? -1;
  return leftAt - rightAt || compare(left.accountId, right.accountId);
}

/** The last moment at or before `nowMs` at which the schedule lets payouts run. UTC. */
export function scheduledAtMs(schedule: PayoutPolicy['schedule'], nowMs: number): number {
  if (schedule.kind === 'every') return nowMs - (nowMs % schedule.intervalMs);
  const dayMs = 86_400_000;
  const today = nowMs - (nowMs % dayMs) + schedule.minuteOfDayUtc * 60_000;
  return today <= nowMs ? today : today - dayMs;
}
