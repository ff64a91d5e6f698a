/**
 * One pass over everything the money waits for, in an order that may be broken off anywhere: sums of shares → the node to believe →
 * shares paid as they come → blocks → plans of coinbases → the self check → payouts. A step that fails is told and tried again in the
 * next cycle; the others go on. Payouts need a node that is believed and sums that are zero.
 */
import type { Network } from '../../core/bitcoin/network.ts';
import type { PayoutPolicy, PoolRules, Scheme } from '../../core/ledger/rules.ts';
import type { NodeAddress, OpenRpc } from '../../core/node/rpc.ts';
import { walletAddress } from '../../core/node/wallet.ts';
import type { Bus, Clock, Db, Fault, Log } from '../../ports.ts';
import { checkSums, countRounds } from '../../store/crediting.ts';
import { type LedgerKind, readBalance, sumBalances } from '../../store/ledger.ts';
import { holdPayouts } from '../../store/payouts.ts';
import { dropOldSpans, rollShares } from '../../store/windows.ts';
import { createAlarms } from './alarms.ts';
import { type ChainTip, type NodeReport, openChainReader } from './chain.ts';
import { createDebts } from './debts.ts';
import { createLogProgress } from './log-progress.ts';
import { createPayer, type Payer, type PayerStatus } from './payer.ts';
import { createPlanner } from './plans.ts';
import { createPpsPayer } from './pps.ts';
import { createSchemeBook } from './scheme-book.ts';
import { createBlockWatch } from './watch.ts';

export type CycleMeter = {
  count(name: string, labels?: Readonly<Record<string, string>>): void;
  set(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
  observe(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
};

export type CycleTools = {
  clock: Clock;
  log: Log;
  db: Db;
  bus: Bus;
  meter: CycleMeter;
  fault: Fault;
  openRpc: OpenRpc;
  /** Whether journals have nothing left to ship; left out where nobody can say. */
  isShipperIdle?: () => boolean;
};

export type CycleOptions = {
  network: Network;
  nodes: readonly NodeAddress[];
  pools: readonly PoolRules[];
  /** Null: nothing is paid out from here. */
  policy: PayoutPolicy | null;
  /** Confirmations from which a reward may be spent, where there is no policy. */
  maturity?: number;
  /** Sums of older shares are removed; left out: none are. */
  spanRetentionDays?: number;
  /** How often shares are paid in PPS and FPPS. */
  ppsIntervalMs?: number;
};

export type PoolMoney = {
  id: string;
  /** As configured. */
  scheme: Scheme;
  /** What new shares are counted by; null before the first cycle. Another than `scheme` after a downgrade. */
  countedBy: Scheme | null;
  rounds: { immature: number; mature: number; orphaned: number };
  /** PPS and FPPS. */
  reserveSats: bigint;
  /** PPS and FPPS: bound on the chance that the reserve is used up, in parts per million. */
  ruinPpm: number | null;
};

export type CycleStatus = {
  lastCycleAtMs: number | null;
  nodes: NodeReport[];
  pools: PoolMoney[];
  /** By kind of account; null before they were read. */
  balancesSats: Record<LedgerKind, bigint> | null;
  /** The quick check of sums. */
  lastCheck: { atMs: number; findings: string[] } | null;
  /** Blocks in the chain that are not credited yet, and what they wait for. */
  waitingBlocks: { block: string; pool: string; reason: string }[];
  alarms: string[];
  payer: PayerStatus | null;
};

export type Cycle = {
  /** One pass. Never rejects. `isActive` is asked between steps: false ends the pass. */
  run(isActive: () => boolean): Promise<void>;
  status(): CycleStatus;
  stop(): void;
};

const MATURITY = 101;
const PPS_INTERVAL_MS = 60_000;
/** The sums are checked in the first and then in every so many cycles. */
const CHECK_CYCLES = 20;
const FIGURES_MS = 5_000;
const RETENTION_MS = 3_600_000;
const SPANS_MAX = 64;
/** A wallet may take long to build a large transaction. */
const PAYER_TIMEOUT_MS = 60_000;
const ACTOR = 'payoutd';

/** Nothing is asked before the first pass. */
export function createCycle(tools: CycleTools, options: CycleOptions): Cycle {
  const { clock, log, db, bus, meter, fault } = tools;
  const { network, pools, policy } = options;
  const alarms = createAlarms(log);
  const reader = openChainReader(tools, options);
  const schemes = createSchemeBook({ clock, log, db }, { pools });
  const progress = createLogProgress({ clock, db }, tools.isShipperIdle ?? (() => true));
  let isActive = (): boolean => true;
  const watch = createBlockWatch(
    { clock, log, db, fault, alarms, schemes, progress, isActive: () => isActive() },
    { network, pools, maturity: policy?.maturity ?? options.maturity ?? MATURITY },
  );
  const pps = createPpsPayer(
    { clock, log, db, fault, alarms, schemes },
    { network, pools, intervalMs: options.ppsIntervalMs ?? PPS_INTERVAL_MS },
  );
  const debts = createDebts({ clock, log, db }, { pools });
  const planner = createPlanner({ clock, log, db, bus, schemes }, { network, pools });
  const payer = policy === null ? null : openPayer(tools, options, policy);
  let isBookOpen = false;
  let cycles = 0;
  let figuresAtMs = Number.NEGATIVE_INFINITY;
  let retentionAtMs = Number.NEGATIVE_INFINITY;
  let lastCycleAtMs: number | null = null;
  let lastCheck: CycleStatus['lastCheck'] = null;
  let balancesSats: CycleStatus['balancesSats'] = null;
  let poolMoney: PoolMoney[] = pools.map(({ id, scheme }) => ({
    id,
    scheme,
    countedBy: null,
    rounds: { immature: 0, mature: 0, orphaned: 0 },
    reserveSats: 0n,
    ruinPpm: null,
  }));

  /** Runs a step; what goes wrong is an alarm until it goes right. False: it failed. */
  async function attempt(name: string, work: () => Promise<void>): Promise<boolean> {
    if (!isActive()) return false;
    const startedAtMs = clock.nowMs();
    try {
      await work();
    } catch (error) {
      meter.count('ledger_step_failures', { step: name });
      const reason = error instanceof Error ? error.message : String(error);
      alarms.raise(`step:${name}`, `${name}: ${reason}`);
      return false;
    }
    meter.observe('ledger_step_ms', clock.nowMs() - startedAtMs, { step: name });
    alarms.clear(`step:${name}`);
    return true;
  }

  async function roll(): Promise<void> {
    while ((await rollShares(db, { spansMax: SPANS_MAX })) === SPANS_MAX) if (!isActive()) return;
    await progress.observe();
    const nowMs = clock.nowMs();
    const { spanRetentionDays } = options;
    if (spanRetentionDays === undefined || Math.abs(nowMs - retentionAtMs) < RETENTION_MS) return;
    retentionAtMs = nowMs;
    await dropOldSpans(db, { nowMs, spanRetentionDays });
  }

  async function findTip(): Promise<ChainTip | null> {
    const tip = await reader.readTip();
    if (tip !== null) alarms.clear('node');
    else {
      const details = reader.reports().map(({ name, detail }) => `${name}: ${detail}`);
      alarms.raise('node', `no node can be believed about blocks (${details.join('; ')})`);
    }
    return tip;
  }

  async function openBook(tip: ChainTip): Promise<void> {
    if (isBookOpen) return;
    await schemes.open((rules) => pps.isSolvent(rules, tip.height + 1));
    isBookOpen = true;
  }

  async function check(): Promise<void> {
    const findings = await checkSums(db);
    const atMs = clock.nowMs();
    lastCheck = { atMs, findings };
    if (findings.length === 0) return alarms.clear('sums');
    const reason = `the ledger does not add up: ${findings.join('; ')}`;
    alarms.raise('sums', `${reason}; payouts are stopped`);
    await holdPayouts(db, { actor: ACTOR, reason, atMs });
  }

  async function readFigures(): Promise<void> {
    const nowMs = clock.nowMs();
    if (Math.abs(nowMs - figuresAtMs) < FIGURES_MS) return;
    figuresAtMs = nowMs;
    balancesSats = await sumBalances(db);
    const counts = await countRounds(db);
    poolMoney = [];
    for (const { id, scheme } of pools) {
      const rounds = { immature: 0, mature: 0, orphaned: 0 };
      for (const one of counts) if (one.pool === id) rounds[one.state] = one.rounds;
      const reserveSats = await readBalance(db, { kind: 'reserve', pool: id });
      const countedBy = schemes.current(id)?.scheme ?? null;
      poolMoney.push({ id, scheme, countedBy, rounds, reserveSats, ruinPpm: pps.ruinPpm(id) });
    }
    measure();
  }

  function measure(): void {
    for (const [kind, sats] of Object.entries(balancesSats ?? {}))
      meter.set('ledger_balance_sats', gaugeOf(sats), { kind });
    for (const { id, rounds, reserveSats, ruinPpm } of poolMoney) {
      for (const [state, count] of Object.entries(rounds))
        meter.set('ledger_rounds', count, { pool: id, state });
      meter.set('ledger_reserve_sats', gaugeOf(reserveSats), { pool: id });
      if (ruinPpm !== null) meter.set('ledger_ruin_ppm', ruinPpm, { pool: id });
    }
    meter.set('ledger_blocks_waiting', watch.waiting().size);
    meter.set('ledger_alarms', alarms.texts().length);
    meter.set('ledger_check_findings', lastCheck?.findings.length ?? 0);
  }

  async function pass(): Promise<void> {
    await attempt('sums of shares', roll);
    const tip = await findTip();
    if (tip !== null && (await attempt('schemes', () => openBook(tip)))) {
      const isUrgent = (pool: string): boolean =>
        watch
          .waiting()
          .values()
          .some((one) => one.pool === pool);
      await attempt('shares', () => pps.step(tip.height + 1, isUrgent));
      await attempt('blocks', () => watch.step(tip));
      await attempt('debts', () => debts.step());
      await attempt('plans', () => planner.step(tip));
    }
    if (cycles % CHECK_CYCLES === 0 || (lastCheck?.findings.length ?? 0) > 0)
      await attempt('check', check);
    cycles += 1;
    const isSound = lastCheck !== null && lastCheck.findings.length === 0;
    if (payer !== null && tip !== null && isSound) await attempt('payouts', () => payer.cycle());
    await attempt('figures', readFigures);
    lastCycleAtMs = clock.nowMs();
  }

  return {
    async run(isStillActive) {
      isActive = isStillActive;
      const startedAtMs = clock.nowMs();
      try {
        await pass();
      } catch (error) {
        log.error('a cycle of the ledger failed', { reason: String(error) });
      }
      meter.count('ledger_cycles');
      meter.observe('ledger_cycle_ms', clock.nowMs() - startedAtMs);
    },
    status: () => ({
      lastCycleAtMs,
      nodes: reader.reports(),
      pools: poolMoney,
      balancesSats,
      lastCheck,
      waitingBlocks: Array.from(watch.waiting(), ([block, { pool, reason }]) => ({
        block,
        pool,
        reason,
      })),
      alarms: alarms.texts(),
      payer: payer?.status() ?? null,
    }),
    stop() {
      reader.stop();
      payer?.stop();
    },
  };
}

/** Payouts go through the wallet of the first node. */
function openPayer(
  tools: CycleTools,
  { nodes, network }: CycleOptions,
  policy: PayoutPolicy,
): Pick<Payer, 'cycle' | 'status'> & { stop(): void } {
  const { clock, log, db, meter, fault, openRpc } = tools;
  const [first] = nodes;
  if (first === undefined) throw new Error('payouts need a node');
  const purpose = { timeoutMs: PAYER_TIMEOUT_MS };
  const node = openRpc(first, purpose);
  const wallet = openRpc(walletAddress(first, policy.wallet), purpose);
  const payer = createPayer({ clock, log, db, node, wallet, meter, fault }, { network, policy });
  return {
    ...payer,
    stop() {
      node.stop();
      wallet.stop();
    },
  };
}

/** For a gauge, which is a double: exact up to 2^53, more satoshi than there can be. */
function gaugeOf(sats: bigint): number {
  return Number(sats);
}
