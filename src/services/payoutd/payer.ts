/**
 * Pays what is due: one pass over all batches per cycle, from the plan to the settled transaction. The rules it follows stand with the
 * table they protect (`sql/0004.sql`); the steps are in `build.ts` (what is signed) and `follow.ts` (what became of it), the doubts in
 * `assets.ts`.
 *
 * Every step asks the database before it acts and writes there before anything leaves, so it may be killed anywhere, and a second
 * payer may do the same work at the same time. It never throws for a node or wallet that is down, slow, empty or lying: that is an
 * alarm in its status. What it throws is a database that fails, or a bug.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { NETWORKS, type Network } from '../../core/bitcoin/network.ts';
import { scheduledAtMs } from '../../core/ledger/payout.ts';
import type { PayoutPolicy } from '../../core/ledger/rules.ts';
import type { Rpc } from '../../core/node/rpc.ts';
import type { Clock, Db, Fault, Log } from '../../ports.ts';
import {
  type BatchDetail,
  type BatchState,
  listOpenBatches,
  listQuarantine,
  makeBatches,
  type PayoutBatch,
  type PayoutControl,
  readBatch,
  readControl,
  readReservedInputs,
  reserveBatch,
  runPayouts,
} from '../../store/payouts.ts';
import { checkAssets, scanSpends } from './assets.ts';
import {
  broadcastGeneration,
  buildBatch,
  bumpBatch,
  chooseFeeRate,
  signGeneration,
} from './build.ts';
import { followBatch, followSettled } from './follow.ts';
import { askChain, askLocked, askWalletInfo, loadWallet, lockCoins } from './wallet.ts';

export type PayerTools = {
  clock: Clock;
  log: Log;
  db: Db;
  /** The node the wallet belongs to. */
  node: Rpc;
  /** The same node at `/wallet/<name>`. */
  wallet: Rpc;
  meter: PayerMeter;
  fault: Fault;
};

export type PayerMeter = {
  count(name: string, labels?: Readonly<Record<string, string>>): void;
  set(name: string, value: number, labels?: Readonly<Record<string, string>>): void;
};

export type PayerOptions = { network: Network; policy: PayoutPolicy };

/** What a person should know. One line per code; a code stays until its cause is gone. */
export type PayerAlarm = { code: AlarmCode; text: string; sinceMs: number };

export type AlarmCode =
  | 'halted'
  | 'node-unreachable'
  | 'wrong-network'
  | 'node-syncing'
  | 'wallet-missing'
  | 'wallet-locked'
  | 'wallet-without-keys'
  | 'wallet-scanning'
  | 'scan-failed'
  | 'assets-short'
  | 'insufficient-funds'
  | 'fee-too-high'
  | 'too-heavy'
  | 'refused'
  | 'manual'
  | 'awaiting-signature'
  | 'stuck'
  | 'unsettled'
  | 'quarantine';

export type PayerStatus = {
  /** `halted`: the kill switch, by a person or by doubt. `waiting`: something outside is missing, see the alarms. */
  state: 'starting' | 'ready' | 'waiting' | 'halted';
  haltReason: string;
  alarms: PayerAlarm[];
  openBatches: number;
  /** Null until they were read. Spendable coins of the wallet; what is owed and not yet paid. */
  assetsSats: bigint | null;
  liabilitiesSats: bigint | null;
  lastCycleAtMs: number | null;
  lastRunAtMs: number | null;
};

export type Payer = {
  /** One pass over everything due. Never rejects for expected trouble; a database that fails rejects. */
  cycle(): Promise<void>;
  status(): PayerStatus;
};

/** One cycle's tools: what the parts of the payer are handed besides the batch they look at. */
export type Walk = PayerTools &
  PayerOptions & {
    raise(code: AlarmCode, text: string): void;
    show(assetsSats: bigint, liabilitiesSats: bigint): void;
    /** What may be spent on fees without making assets smaller than debts. */
    headroomSats(): bigint;
    spendHeadroom(sats: bigint): void;
    /** Payouts were given back for a reason that is gone: plan again without waiting for the schedule. */
    askForRun(): void;
  };

const MOVING: ReadonlySet<BatchState> = new Set([
  'planned',
  'reserved',
  'built',
  'exported',
  'signed',
]);
const WATCHED: ReadonlySet<BatchState> = new Set(['broadcast', 'seen', 'confirmed', 'manual']);
/** planned, reserved, built, signed, broadcast, and one to spare. */
const STEPS_MAX = 6;
const ALARM_TEXT_MAX = 400;

/** A payer on one wallet. Nothing is asked before the first cycle. */
export function createPayer(tools: PayerTools, options: PayerOptions): Payer {
  const { clock, log, db, meter } = tools;
  const { network, policy } = options;
  let alarms = new Map<AlarmCode, PayerAlarm>();
  let tipDisplay = '';
  /** The tip on which all settled payouts were found in the chain. */
  let settledTipDisplay = '';
  const shown: Omit<PayerStatus, 'alarms'> = {
    state: 'starting',
    haltReason: '',
    openBatches: 0,
    assetsSats: null,
    liabilitiesSats: null,
    lastCycleAtMs: null,
    lastRunAtMs: null,
  };

  async function cycle(): Promise<void> {
    const raised = new Map<AlarmCode, PayerAlarm>();
    let headroomSats = 0n;
    let runAsked = false;
    const walk: Walk = {
      ...tools,
      ...options,
      raise(code, text) {
        if (raised.has(code)) return;
        const before = alarms.get(code);
        if (before === undefined) {
          log.warn('Payouts: something needs a look.', { alarm: code, text });
          meter.count('payout_alarms', { alarm: code });
        }
        raised.set(code, {
          code,
          text: text.slice(0, ALARM_TEXT_MAX),
          sinceMs: before?.sinceMs ?? clock.nowMs(),
        });
      },
      show(assetsSats, liabilitiesSats) {
        shown.assetsSats = assetsSats;
        shown.liabilitiesSats = liabilitiesSats;
      },
      headroomSats: () => headroomSats,
      spendHeadroom(sats) {
        headroomSats -= sats;
      },
      askForRun() {
        runAsked = true;
      },
    };
    const control = await readControl(db);
    try {
      const ready = await lookAround(walk);
      if (ready === 'blind') return;
      const clean = await scanSpends(walk, control);
      const facts = await followAll(walk);
      if (tipDisplay !== settledTipDisplay && (await followSettled(walk)))
        settledTipDisplay = tipDisplay;
      const spareSats = await checkAssets(walk, facts);
      if (spareSats === null || !clean || ready === 'watching') return;
      headroomSats = spareSats;
      // Looked at again: the scan may have found a reason to stop, and a person may have in the meantime.
      if ((await readControl(db)).halted) return;
      await keepCoins(walk);
      await moveAll(walk);
      await plan(walk);
      if (runAsked)
        await runPayouts(db, {
          actor: 'payer',
          reason: 'an address was left out',
          atMs: clock.nowMs(),
        });
    } finally {
      const after = await readControl(db);
      if (after.halted) walk.raise('halted', after.haltReason);
      const left = await listQuarantine(db);
      if (left.length > 0) walk.raise('quarantine', `${left.length} account(s) wait for a person`);
      alarms = raised;
      await finish(after);
    }
  }

  async function finish(control: PayoutControl): Promise<void> {
    const open = await listOpenBatches(db);
    shown.state = control.halted ? 'halted' : alarms.size > 0 ? 'waiting' : 'ready';
    shown.haltReason = control.haltReason;
    shown.openBatches = open.length;
    shown.lastRunAtMs = control.lastRunAtMs;
    shown.lastCycleAtMs = clock.nowMs();
    meter.set('payout_batches_open', open.length);
    meter.set('payout_halted', control.halted ? 1 : 0);
  }

  /** `blind`: node or wallet cannot answer. `watching`: they answer, but nothing may be signed. */
  async function lookAround(walk: Walk): Promise<'blind' | 'watching' | 'ready'> {
    const chain = await askChain(walk);
    if (!chain.ok) {
      walk.raise(chain.alarm, chain.text);
      return 'blind';
    }
    const expected = NETWORKS[network].chainName;
    if (chain.value.chain !== expected) {
      walk.raise('wrong-network', `the node is on ${chain.value.chain}, payouts on ${expected}`);
      return 'blind';
    }
    // On regtest a node calls every chain without new blocks a download.
    const behind = chain.value.headers > chain.value.blocks + 1;
    if (behind || (chain.value.initialBlockDownload && network !== 'regtest')) {
      walk.raise('node-syncing', `block ${chain.value.blocks} of ${chain.value.headers}`);
      return 'blind';
    }
    tipDisplay = chain.value.bestHashDisplay;
    let info = await askWalletInfo(walk);
    if (!info.ok && info.alarm === 'wallet-missing') {
      const loaded = await loadWallet(walk, policy.wallet);
      if (!loaded.ok) {
        walk.raise(loaded.alarm, loaded.text);
        return 'blind';
      }
      info = await askWalletInfo(walk);
    }
    if (!info.ok) {
      walk.raise(info.alarm, info.text);
      return 'blind';
    }
    if (info.value.scanning) {
      walk.raise('wallet-scanning', 'the wallet reads the chain');
      return 'blind';
    }
    if (policy.signing === 'cold') return 'ready';
    if (!info.value.hasKeys) {
      walk.raise('wallet-without-keys', 'the wallet has no private keys');
      return 'watching';
    }
    if (info.value.locked) {
      walk.raise('wallet-locked', 'the wallet is encrypted and locked');
      return 'watching';
    }
    return 'ready';
  }

  /** Looks after everything that may be out there, and says what of the money in transit has left the wallet. */
  async function followAll(walk: Walk): Promise<{ outSats: bigint; unclear: boolean }> {
    let outSats = 0n;
    let unclear = false;
    for (const one of await listOpenBatches(db)) {
      if (!WATCHED.has(one.state)) continue;
      const where = await followBatch(walk, await detailOf(one));
      if (where === 'out') outSats += one.totalSats;
      if (where === 'unclear') {
        unclear = true;
        // Its coins may be gone from the balance: not counted as a debt, and nothing new is judged by it.
        outSats += one.totalSats;
      }
    }
    return { outSats, unclear };
  }

  async function detailOf(batch: PayoutBatch): Promise<BatchDetail> {
    const detail = await readBatch(db, batch.batchId);
    if (detail === null) throw new Error(`payout batch ${batch.batchId} vanished`);
    return detail;
  }

  /** Coins of open batches are locked in the wallet, those that were given up are unlocked; coins of others are left alone. */
  async function keepCoins(walk: Walk): Promise<void> {
    const locked = await askLocked(walk);
    if (!locked.ok) return;
    const isLocked = new Set(locked.value.map((coin) => `${coin.txid}:${coin.vout}`));
    const inputs = await readReservedInputs(db);
    const keyed = inputs.map((input) => ({ ...input, locked: isLocked.has(displayKey(input)) }));
    await lockCoins(
      walk,
      keyed.filter((input) => input.active && !input.locked),
      false,
    );
    await lockCoins(
      walk,
      keyed.filter((input) => !input.active && input.locked),
      true,
    );
  }

  /** Takes every open batch as far as it can go now. */
  async function moveAll(walk: Walk): Promise<void> {
    for (const one of await listOpenBatches(db)) {
      if (MOVING.has(one.state)) await moveBatch(walk, one.batchId);
      else if (one.state === 'broadcast' || one.state === 'seen')
        await moveFurther(walk, await detailOf(one));
    }
  }

  async function moveBatch(walk: Walk, batchId: bigint): Promise<void> {
    for (let step = 0; step < STEPS_MAX; step += 1) {
      const batch = await readBatch(db, batchId);
      if (batch === null || !MOVING.has(batch.state)) return;
      if (!(await stepBatch(walk, batch))) return;
    }
  }

  async function stepBatch(walk: Walk, batch: BatchDetail): Promise<boolean> {
    const first = batch.generations[0];
    switch (batch.state) {
      case 'planned': {
        const done = await reserveBatch(db, batch.batchId, { network, atMs: clock.nowMs() });
        walk.fault('payout.reserved');
        return done === 'reserved';
      }
      case 'reserved':
        return buildBatch(walk, batch);
      case 'built':
      case 'exported':
        return first !== undefined && (await signGeneration(walk, batch, first));
      case 'signed':
        return first !== undefined && (await broadcastGeneration(walk, batch, first));
      default:
        return false;
    }
  }

  /** A batch that is out there: finishes a further generation that was begun, or begins one when it waits for too long. */
  async function moveFurther(walk: Walk, batch: BatchDetail): Promise<void> {
    const newest = batch.generations.at(-1);
    if (newest === undefined) return;
    const waitedMs = clock.nowMs() - (newest.broadcastAtMs ?? clock.nowMs());
    const begun =
      newest.state === 'built' || newest.state === 'exported' || newest.state === 'signed';
    if (!begun && (waitedMs < policy.bumpAfterMs || !(await bumpBatch(walk, batch)))) return;
    for (let step = 0; step < STEPS_MAX; step += 1) {
      const now = await readBatch(db, batch.batchId);
      const next = now?.generations.at(-1);
      if (now === null || next === undefined) return;
      const went =
        next.state === 'signed'
          ? await broadcastGeneration(walk, now, next)
          : next.state === 'built' || next.state === 'exported'
            ? await signGeneration(walk, now, next)
            : false;
      if (!went) return;
    }
  }

  /** Plans what the schedule or a person asks for, and takes the new batches on their way. */
  async function plan(walk: Walk): Promise<void> {
    const control = await readControl(db);
    const nowMs = clock.nowMs();
    const slotMs = scheduledAtMs(policy.schedule, nowMs);
    const due = control.lastRunAtMs === null || control.lastRunAtMs < slotMs;
    if (!due && control.runRequestedAtMs === null) return;
    const feeSatsPerKvb = await chooseFeeRate(walk);
    if (feeSatsPerKvb === null) return;
    walk.fault('payout.planning');
    const made = await makeBatches(db, { policy, network, nowMs, slotMs, feeSatsPerKvb });
    walk.fault('payout.planned');
    if (made === null || made.batches.length === 0) return;
    log.info('Payouts are planned.', {
      batches: made.batches.length,
      totalSats: made.totalSats,
      skipped: made.skipped.length,
    });
    for (const one of await listOpenBatches(db))
      if (one.state === 'planned') await moveBatch(walk, one.batchId);
  }

  return { cycle, status: () => ({ ...shown, alarms: [...alarms.values()] }) };
}

function displayKey(input: { txid: Uint8Array; vout: number }): string {
  return `${encodeHexReversed(input.txid)}:${input.vout}`;
}
