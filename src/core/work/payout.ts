/**
 * What a coinbase pays, the same for whoever builds one: the gateway for its miners, the auditor of shares, the proposal check.
 *
 * mode pool: one address. solo: the finder, or the addresses that his account is split over, less the fee. direct: whom the plan
 * names, as many as fit (the fee is one of its entries); without a plan, or with one that pays nobody, as in solo.
 *
 * The outputs add up to exactly the value of the block, whatever the plan says: less would burn coins, more is no block.
 */

import { COINBASE_WITNESS_WEIGHT, type CoinbaseOutput } from '../bitcoin/coinbase.ts';
import { type CoinbasePlan, PLAN_ENTRIES_MAX, planOutputs } from '../ledger/plan.ts';
import {
  buildJobCoinbase,
  type CoinbaseParts,
  EXTRANONCE_BYTES,
  type Job,
  measureFrame,
} from './job.ts';

export type CoinbaseFee = { ppm: number; script: Uint8Array };

/** Who the coinbases of a pool pay. Scripts are output scripts (`decodeAddress(...).script`). */
export type CoinbaseRules =
  | { mode: 'pool'; script: Uint8Array; address: string }
  | { mode: 'solo'; fee: CoinbaseFee | null }
  | { mode: 'direct'; fee: CoinbaseFee | null };

/** A pool as far as coinbases go. */
export type CoinbasePool = { id: string; coinbase: CoinbaseRules };

/** An address that an account is paid at, and its part of the whole. */
export type FinderPart = { script: Uint8Array; weight: bigint };

/**
 * How large a coinbase of scheme direct may be, in bytes without witness. Few, so that compiled coinbases stay few; each stands
 * for firmware that works with no more (`core/stratum/profiles.ts`).
 */
export const COINBASE_CLASSES: readonly number[] = [256, 500, 750, 2_250, 6_500, 16_384];

/** The largest of the classes that is at most `bytesMax`; the smallest when none is. */
export function coinbaseClass(bytesMax: number): number {
  return COINBASE_CLASSES.findLast((one) => one <= bytesMax) ?? COINBASE_CLASSES[0]!;
}

const MILLION = 1_000_000n;
/** An output below this is not worth its weight; a fee that small goes to the others. */
const DUST_SATS = 546n;

/**
 * Outputs that add up to exactly `valueSats`, and the plan they follow (empty: none). The fee is rounded down. `finder` is who
 * the coinbase is for; `outputBytesMax` bounds all outputs together where there is a choice of whom to pay. No outputs when
 * there is nobody to pay.
 */
export function coinbaseOutputs(
  rules: CoinbaseRules,
  payees: {
    finder: readonly FinderPart[];
    plan: CoinbasePlan | null;
    outputBytesMax: number;
  },
  valueSats: bigint,
): { outputs: CoinbaseOutput[]; planId: string } {
  if (rules.mode === 'pool') return { outputs: [{ script: rules.script, valueSats }], planId: '' };
  const { finder, plan, outputBytesMax } = payees;
  if (rules.mode === 'direct' && plan !== null) {
    const budget = { outputsMax: PLAN_ENTRIES_MAX, bytesMax: outputBytesMax };
    const planned = planOutputs(plan, valueSats, budget);
    if (planned.length > 0) return { outputs: planned, planId: plan.planId };
  }
  const [first] = finder;
  if (first === undefined) return { outputs: [], planId: '' };
  const fees = feeOutputs(rules.fee, valueSats);
  const feeSats = fees[0]?.valueSats ?? 0n;
  const restSats = valueSats - feeSats;
  if (restSats === 0n && fees.length > 0) return { outputs: fees, planId: '' };
  const bytesMax = outputBytesMax - fees.reduce((sum, { script }) => sum + 9 + script.length, 0);
  const split = finder.length === 1 ? [] : splitOutputs(finder, restSats, bytesMax);
  const paid = split.length > 0 ? split : [{ script: first.script, valueSats: restSats }];
  return { outputs: [...paid, ...fees], planId: '' };
}

/**
 * The coinbase of a job by the rules of a pool, and the plan it follows (empty: none). `coinbaseBytesMax` bounds it in mode direct;
 * what the template leaves bounds it always. Refused with a reason as by `buildJobCoinbase`.
 */
export function buildPoolCoinbase(
  job: Job,
  options: {
    tag: string;
    rules: CoinbaseRules;
    finder: readonly FinderPart[];
    plan: CoinbasePlan | null;
    coinbaseBytesMax: number;
  },
): { ok: true; parts: CoinbaseParts; planId: string } | { ok: false; reason: string } {
  const { tag, rules, finder, plan } = options;
  const frame = measureFrame(job, tag);
  if (!frame.ok) return frame;
  const leftBytes = Math.floor((job.coinbaseWeightMax - COINBASE_WITNESS_WEIGHT) / 4);
  const bytesMax =
    rules.mode === 'direct' ? Math.min(options.coinbaseBytesMax, leftBytes) : leftBytes;
  const { outputs, planId } = coinbaseOutputs(
    rules,
    { finder, plan, outputBytesMax: bytesMax - frame.bytes },
    job.coinbaseValueSats,
  );
  const built = buildJobCoinbase(job, { tag, extranonceBytes: EXTRANONCE_BYTES, outputs });
  return built.ok ? { ok: true, parts: built.parts, planId } : built;
}

/** One output, or none where there is no fee worth one. */
function feeOutputs(fee: CoinbaseFee | null, valueSats: bigint): CoinbaseOutput[] {
  if (fee === null) return [];
  const feeSats = (valueSats * BigInt(fee.ppm)) / MILLION;
  if (feeSats < DUST_SATS) return [];
  return [{ script: fee.script, valueSats: feeSats > valueSats ? valueSats : feeSats }];
}

/** The addresses of one account, by the rules of a plan for dust, rest and rounding. */
function splitOutputs(
  finder: readonly FinderPart[],
  valueSats: bigint,
  bytesMax: number,
): CoinbaseOutput[] {
  const entries = finder.map((part) => ({ ...part, address: '', carrySats: 0n }));
  const totalWeight = finder.reduce((sum, { weight }) => sum + weight, 0n);
  const plan = { planId: '', pool: '', lastSeq: 0n, totalWeight, entries, createdAtMs: 0 };
  return planOutputs(plan, valueSats, { outputsMax: entries.length, bytesMax });
}
