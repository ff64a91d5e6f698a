/**
 * Scheme direct: whom the coinbase of the next block pays. A plan is made from a window now and then, as data; the outputs for
 * a value and a budget follow from the plan alone, the same for whoever works them out (gateway, auditor, proposal check).
 *
 *   due = floor(value · weight / totalWeight) + carry
 *
 * Who has nothing due is left out. The most due are taken while outputs and bytes last. They get what they are due, and what is
 * then left of the value in proportion to weight; or, where more is due than there is, the same part each of what they are due.
 * The difference between what an account earned in the round and what the coinbase paid it is its carry (carry.ts), so who did
 * not fit is due more in the next block and is among the most due one day.
 *
 * An output is never dust and the outputs add up to the value exactly. Refused as bugs: rates without anybody to pay them to.
 */

import { encodeHex, encodeUtf8 } from '../bitcoin/bytes.ts';
import type { CoinbaseOutput } from '../bitcoin/coinbase.ts';
import { dustSats } from '../bitcoin/dust.ts';
import { sha256 } from '../bitcoin/hash.ts';
import type { RoundMember } from './round.ts';
import { splitByWork } from './split.ts';

export type PlanEntry = {
  address: string;
  script: Uint8Array;
  /** Work times the parts per million of it that are paid here. */
  weight: bigint;
  /** What earlier blocks paid too little (above zero) or too much. */
  carrySats: bigint;
};

export type CoinbasePlan = {
  /** 16 hex digits, made from the content. */
  planId: string;
  pool: string;
  /** The newest share that counts. */
  lastSeq: bigint;
  /** Over all members, also those without an entry. */
  totalWeight: bigint;
  /** The most due first, at most `PLAN_ENTRIES_MAX`. */
  entries: PlanEntry[];
  createdAtMs: number;
};

/** More outputs than this no firmware takes; a plan stays below 64 KiB. */
export const PLAN_ENTRIES_MAX = 500;

/** Value and length of script in front of the script, while that is shorter than 253 bytes. */
const OUTPUT_HEADER_BYTES = 8 + 1;
const MILLION = 1_000_000;

/** What a coinbase has room for; `bytesMax` is for all outputs together. */
export type OutputBudget = { outputsMax: number; bytesMax: number };

/**
 * The plan for a window. `members` are one per account, splits expanded; `carries` all balances that are not zero, by address;
 * `scriptOf` the script of an address, null for one that cannot be paid; `valueSats` about what the next block pays, which ranks
 * the entries and nothing else. Fees and donations go to the two addresses. Throws RangeError when there are fees without one.
 */
export function makePlan(input: {
  pool: string;
  lastSeq: bigint;
  members: readonly RoundMember[];
  carries: ReadonlyMap<string, bigint>;
  feeAddress: string | null;
  developerAddress: string | null;
  scriptOf: (address: string) => Uint8Array | null;
  valueSats: bigint;
  createdAtMs: number;
}): CoinbasePlan {
  const { pool, lastSeq, carries, scriptOf, valueSats, createdAtMs } = input;
  const weights = weightsOf(input.members, input.feeAddress, input.developerAddress);
  let totalWeight = 0n;
  for (const weight of weights.values()) totalWeight += weight;
  const entries: PlanEntry[] = [];
  for (const address of new Set([...weights.keys(), ...carries.keys()])) {
    const script = scriptOf(address);
    if (script === null) continue;
    entries.push({
      address,
      script,
      weight: weights.get(address) ?? 0n,
      carrySats: carries.get(address) ?? 0n,
    });
  }
  const ranked = entries
    .map((entry) => ({ entry, dueSats: dueOf(entry, totalWeight, valueSats) }))
    .filter(({ dueSats }) => dueSats > 0n)
    .sort((a, b) => byDue(a, b) || (a.entry.address < b.entry.address ? -1 : 1))
    .slice(0, PLAN_ENTRIES_MAX)
    .map(({ entry }) => entry);
  const planId = idOf({ pool, lastSeq, totalWeight, entries: ranked });
  return { planId, pool, lastSeq, totalWeight, entries: ranked, createdAtMs };
}

/**
 * The outputs of a coinbase of `valueSats` under a plan: they add up to exactly that, none is dust, and they fit the budget. The
 * most due comes first. None when nobody can be paid; the caller then pays the finder.
 */
export function planOutputs(
  plan: CoinbasePlan,
  valueSats: bigint,
  budget: OutputBudget,
): CoinbaseOutput[] {
  const ranked = plan.entries
    .map((entry, at) => ({ entry, at, dueSats: dueOf(entry, plan.totalWeight, valueSats) }))
    .sort((a, b) => byDue(a, b) || a.at - b.at);
  const taken: typeof ranked = [];
  let leftBytes = budget.bytesMax;
  let sumSats = 0n;
  for (const one of ranked) {
    const bytes = OUTPUT_HEADER_BYTES + one.entry.script.length;
    if (taken.length >= budget.outputsMax) break;
    const dust = dustSats(one.entry.script);
    if (bytes > leftBytes || one.dueSats < dust || valueSats < dust) continue;
    taken.push(one);
    leftBytes -= bytes;
    sumSats += one.dueSats;
  }
  // More is due than there is: everybody taken gets the same part of it, and whose part would be dust waits, the least due first.
  while (sumSats > valueSats) {
    const dusty = taken.findLastIndex(
      ({ entry, dueSats }) => dueSats * valueSats < dustSats(entry.script) * sumSats,
    );
    if (dusty < 0) break;
    sumSats -= taken[dusty]!.dueSats;
    taken.splice(dusty, 1);
  }
  const isShort = sumSats > valueSats;
  const byWeight = !isShort && taken.some(({ entry }) => entry.weight > 0n);
  const parts = splitByWork(
    isShort ? valueSats : valueSats - sumSats,
    // Ties go to who stands first in the plan.
    [...taken]
      .sort((a, b) => a.at - b.at)
      .map(({ at, entry, dueSats }) => ({
        id: BigInt(at),
        work: byWeight ? entry.weight : dueSats,
      })),
  );
  return taken.map(({ entry, at, dueSats }) => ({
    script: entry.script,
    valueSats: parts.get(BigInt(at))! + (isShort ? 0n : dueSats),
  }));
}

/** Weights by address, fees and donations at theirs. Work times 10^6 in all. */
function weightsOf(
  members: readonly RoundMember[],
  feeAddress: string | null,
  developerAddress: string | null,
): Map<string, bigint> {
  const weights = new Map<string, bigint>();
  const add = (address: string | null, weight: bigint) => {
    if (weight === 0n) return;
    if (address === null) throw new RangeError('a fee or donation without an address to pay it to');
    weights.set(address, (weights.get(address) ?? 0n) + weight);
  };
  for (const { address, work, feePpm, donationPpm } of members) {
    const donation = Math.min(donationPpm, MILLION - feePpm);
    add(address, work * BigInt(MILLION - feePpm - donation));
    add(feeAddress, work * BigInt(feePpm));
    add(developerAddress, work * BigInt(donation));
  }
  return weights;
}

function dueOf(entry: PlanEntry, totalWeight: bigint, valueSats: bigint): bigint {
  const share = totalWeight === 0n ? 0n : (valueSats * entry.weight) / totalWeight;
  return share + entry.carrySats;
}

function byDue(a: { dueSats: bigint }, b: { dueSats: bigint }): number {
  return a.dueSats > b.dueSats ? -1 : a.dueSats < b.dueSats ? 1 : 0;
}

/** First 8 bytes of SHA-256 over all that decides the outputs, each part closed by a line end. */
function idOf(plan: Omit<CoinbasePlan, 'planId' | 'createdAtMs'>): string {
  const head = [plan.pool, plan.lastSeq, plan.totalWeight];
  const lines = plan.entries.map(
    ({ address, script, weight, carrySats }) =>
      `${address} ${encodeHex(script)} ${weight} ${carrySats}`,
  );
  const text = [...head, ...lines, ''].join('\n');
  return encodeHex(sha256(encodeUtf8(text)).subarray(0, 8));
}
