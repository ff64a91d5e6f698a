/**
 * Whom the coinbases of direct pools pay: from the window as it stands now and the balances carried, a plan for each pool, published on
 * `mining.plans` when one has changed. A plan is only a proposal of who is due; what a block really paid is read from the chain.
 */
import { decodeAddress } from '../../core/bitcoin/address.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import { type CoinbasePlan, makePlan } from '../../core/ledger/plan.ts';
import { networkWorkOfBits, subsidySats } from '../../core/ledger/reward.ts';
import type { PoolRules } from '../../core/ledger/rules.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import { encodeCoinbasePlans } from '../../messages/codec.ts';
import type { Bus, Clock, Db, Log } from '../../ports.ts';
import { listBalances } from '../../store/ledger.ts';
import { newestSeq, readWindow } from '../../store/windows.ts';
import { type ChainTip, readBits } from './chain.ts';
import { membersOf } from './members.ts';
import type { SchemeBook } from './scheme-book.ts';

export type Planner = {
  /** Publishes the plans if they have changed and the last were published long enough ago. */
  step(tip: ChainTip): Promise<void>;
};

const INTERVAL_MS = 5_000;
const BALANCES_PAGE = 10_000;
/** Accounts with a carry that are looked at; who is due least is left for later. */
const BALANCES_MAX = 200_000;

/** Nothing is read before the first step. */
export function createPlanner(
  tools: { clock: Clock; log: Log; db: Db; bus: Bus; schemes: SchemeBook },
  options: { network: Network; pools: readonly PoolRules[] },
): Planner {
  const { clock, log, db, bus, schemes } = tools;
  const { network } = options;
  const pools = options.pools.filter(({ scheme }) => scheme === 'direct');
  const scripts = new Map<string, Uint8Array | null>();
  let madeAtMs = Number.NEGATIVE_INFINITY;
  let published = '';
  let bitsOfTip: { hashDisplay: string; bits: number } | null = null;

  function scriptOf(address: string): Uint8Array | null {
    const known = scripts.get(address);
    if (known !== undefined) return known;
    const decoded = decodeAddress(address, network);
    const script = decoded.ok ? decoded.script : null;
    if (scripts.size >= BALANCES_MAX) scripts.clear();
    scripts.set(address, script);
    return script;
  }

  async function readCarries(pool: string): Promise<Map<string, bigint>> {
    const carries = new Map<string, bigint>();
    for (let after = 0n; carries.size < BALANCES_MAX; ) {
      const page = await listBalances(db, { kind: 'carry', pool, limit: BALANCES_PAGE, after });
      for (const { address, balanceSats } of page)
        if (address !== null) carries.set(address, balanceSats);
      if (page.length < BALANCES_PAGE) break;
      after = page.at(-1)!.ledgerAccountId;
    }
    return carries;
  }

  async function planOf(
    rules: PoolRules,
    tip: ChainTip,
    bits: number,
  ): Promise<CoinbasePlan | null> {
    const nowMs = clock.nowMs();
    const pool = rules.id;
    const lastSeq = await newestSeq(db, pool);
    const current = schemes.current(pool);
    if (current === null || lastSeq === 0n) return null;
    // As the share that finds the next block will be counted, which may be the first of its scheme.
    const counted = schemes.at(pool, lastSeq > current.fromSeq ? lastSeq : current.fromSeq);
    if (counted === null) return null;
    const span = SCHEMES.direct.span({
      seq: lastSeq,
      foundAtMs: nowMs,
      networkWork: networkWorkOfBits(bits),
      previousSeq: 0n,
      window: rules.window,
    });
    if (span === null) return null;
    const afterSeq = counted.afterSeq > 0n ? counted.afterSeq : 0n;
    const window = await readWindow(db, { pool, lastSeq, span, afterSeq });
    const plan = makePlan({
      pool,
      lastSeq,
      members: await membersOf(db, rules, 'direct', window.accounts, nowMs),
      carries: await readCarries(pool),
      feeAddress: rules.feeAddress,
      developerAddress: rules.developerAddress,
      scriptOf,
      valueSats: subsidySats(tip.height + 1, network),
      createdAtMs: nowMs,
    });
    return plan.entries.length === 0 ? null : plan;
  }

  return {
    async step(tip) {
      if (pools.length === 0) return;
      const nowMs = clock.nowMs();
      // A clock set back must not stop it.
      if (Math.abs(nowMs - madeAtMs) < INTERVAL_MS) return;
      if (bitsOfTip?.hashDisplay !== tip.hashDisplay) {
        const bits = await readBits(tip.rpc, tip.hashDisplay);
        if (bits === null) return;
        bitsOfTip = { hashDisplay: tip.hashDisplay, bits };
      }
      const plans: CoinbasePlan[] = [];
      for (const rules of pools) {
        const plan = await planOf(rules, tip, bitsOfTip.bits);
        if (plan !== null) plans.push(plan);
      }
      madeAtMs = nowMs;
      const ids = plans.map(({ pool, planId }) => `${pool}:${planId}`).join();
      if (ids === published) return;
      await bus.publish('mining.plans', [{ key: 'plans', value: encodeCoinbasePlans(plans) }]);
      published = ids;
      log.debug('the coinbases of direct pools follow a new plan', {
        plans: plans.length,
        entries: plans.map(({ entries }) => entries.length),
      });
    },
  };
}
