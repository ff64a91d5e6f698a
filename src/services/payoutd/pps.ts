/**
 * PPS and FPPS: shares are paid as they come, a range of the share log at a time, out of the pool's reserve. A range is paid once: its
 * key is its first and last number, and cursor, fractions of a satoshi and posting change in one transaction.
 *
 * Before each range the reserve is weighed (`solvency.ts`). Beyond the bound the pool either stops paying new shares until its reserve is
 * filled (`refuse`), or counts by PPLNS from that share on (`downgrade`), both with an alarm. The fee stays in the reserve.
 */
import type { Network } from '../../core/bitcoin/network.ts';
import { formatSats } from '../../core/ledger/amount.ts';
import { subsidySats } from '../../core/ledger/reward.ts';
import { reserveNeededSats } from '../../core/ledger/ruin.ts';
import type { PoolRules, Scheme } from '../../core/ledger/rules.ts';
import { ppsCredit, ppsValue } from '../../core/ledger/schemes/pps.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import { expandSplits } from '../../core/ledger/shares.ts';
import type { Clock, Db, Fault, Log } from '../../ports.ts';
import { findOrMakeAccounts, readSettings } from '../../store/accounts.ts';
import { readLastSeq } from '../../store/crediting.ts';
import { type LedgerAccount, lockLedger, postLedger, readBalance } from '../../store/ledger.ts';
import {
  movePpsCursor,
  readPpsCursor,
  readPpsFractions,
  writePpsFractions,
} from '../../store/schemes.ts';
import { holdShares } from '../../store/shares.ts';
import { type PpsGroup, sumForPps } from '../../store/windows.ts';
import type { Alarms } from './alarms.ts';
import { ratesOf, splitAccounts } from './members.ts';
import type { SchemeBook } from './scheme-book.ts';
import { addKept, assessReserve, type KeptFees } from './solvency.ts';

export type PpsTools = {
  clock: Clock;
  log: Log;
  db: Db;
  fault: Fault;
  alarms: Alarms;
  schemes: SchemeBook;
};

export type PpsOptions = {
  network: Network;
  pools: readonly PoolRules[];
  /** How often a pool's new shares are paid; full ranges at once. */
  intervalMs: number;
};

export type PpsPayer = {
  /** Pays what is due. `height` is that of the next block. `isUrgent`: a block waits for its shares to be paid. */
  step(height: number, isUrgent: (pool: string) => boolean): Promise<void>;
  /** Whether the reserve is enough, and a block's worth more, to begin paying shares again. */
  isSolvent(rules: PoolRules, height: number): Promise<boolean>;
  /** When last weighed, by pool. */
  ruinPpm(pool: string): number | null;
};

const ACTOR = 'payoutd';
/** Sequence numbers in a range, of all pools. */
const RANGE_MAX = 50_000n;
/** Ranges of one pool in one step; the rest comes in the next. */
const RANGES_MAX = 20;
const FRACTION_BITS = 32n;
/** check_violation: the reserve would go below zero. */
const CHECK_VIOLATION = '23514';

type Range = { pool: string; scheme: Scheme; cursor: bigint | null; throughSeq: bigint };

/** What an account has earned in a range, in 2^-32 satoshi, before fees. */
type Earned = { accountId: bigint; value: bigint };

type Paid =
  | { kind: 'paid'; paidSats: bigint }
  | { kind: 'ruin'; ruinPpm: number; reserveSats: bigint }
  /** Somebody else moved the cursor. */
  | { kind: 'moved' };

/** Nothing is read before the first step. */
export function createPpsPayer(tools: PpsTools, options: PpsOptions): PpsPayer {
  const { clock, log, db, fault, alarms, schemes } = tools;
  const { network } = options;
  const dueAtMs = new Map<string, number>();
  const fees = new Map<string, KeptFees>();
  const ruin = new Map<string, number>();
  const released = new Set<string>();

  function weigh(rules: PoolRules, reserveSats: bigint, blockRewardSats: bigint, range?: KeptFees) {
    const blockValue = blockRewardSats << FRACTION_BITS;
    const known = fees.get(rules.id) ?? { gross: 0n, kept: 0n };
    const sum = range === undefined ? known : addKept(known, range, blockValue);
    const verdict = assessReserve({ rules, reserveSats, blockRewardSats, fees: sum, blockValue });
    ruin.set(rules.id, verdict.ruinPpm);
    return { ...verdict, fees: sum };
  }

  /** The next range to pay, or null. Skips shares that another scheme counts. */
  async function nextRange(pool: string): Promise<Range | null> {
    const spans = schemes.spans(pool);
    if (!spans.some(({ scheme }) => paysByShare(scheme))) return null;
    const cursor = await readPpsCursor(db, pool);
    const lastSeq = await readLastSeq(db);
    for (const [at, { fromSeq, scheme }] of spans.entries()) {
      if (!paysByShare(scheme)) continue;
      const end = spans[at + 1]?.fromSeq;
      const endSeq = end === undefined || end > lastSeq + 1n ? lastSeq : end - 1n;
      const afterSeq = greatest(cursor ?? 0n, fromSeq - 1n);
      if (afterSeq >= endSeq) continue;
      if (cursor === null || cursor < afterSeq) {
        await skipTo(pool, cursor, afterSeq);
        return nextRange(pool);
      }
      const throughSeq = afterSeq + RANGE_MAX < endSeq ? afterSeq + RANGE_MAX : endSeq;
      return { pool, scheme, cursor, throughSeq };
    }
    return null;
  }

  /** A pool that no longer pays by the share, and has paid what it did, needs no raw shares. */
  async function letGo(pool: string): Promise<void> {
    const current = schemes.current(pool);
    if (current === null || paysByShare(current.scheme) || released.has(pool)) return;
    await holdShares(db, { name: holdName(pool), afterSeq: null });
    released.add(pool);
  }

  async function skipTo(pool: string, cursor: bigint | null, seq: bigint): Promise<void> {
    await db.transaction(async (tx) => {
      await lockLedger(tx);
      await movePpsCursor(tx, { pool, fromSeq: cursor, throughSeq: seq });
      await holdShares(tx, { name: holdName(pool), afterSeq: seq });
    });
  }

  /** Value of every account's shares of a range, splits expanded. */
  async function earnedIn(groups: readonly PpsGroup[], scheme: Scheme): Promise<Earned[]> {
    const ids = await splitAccounts(db, groups, clock.nowMs());
    const alike = new Map<string, PpsGroup[]>();
    for (const group of groups) {
      const key = `${group.bits}:${group.valueSats}:${group.height}`;
      const known = alike.get(key);
      if (known === undefined) alike.set(key, [group]);
      else known.push(group);
    }
    const blockValue = SCHEMES[scheme].blockValueSats;
    if (blockValue === null) throw new Error(`scheme ${scheme} does not pay by the share`);
    const values = new Map<bigint, bigint>();
    for (const same of alike.values()) {
      const { bits, valueSats: jobValueSats, height } = same[0] as PpsGroup;
      const valueSats = blockValue({ height, jobValueSats }, network);
      for (const { accountId, work } of expandSplits(same, (address) => ids.get(address) as bigint))
        values.set(
          accountId,
          (values.get(accountId) ?? 0n) + ppsValue([{ work, bits, valueSats }]),
        );
    }
    return [...values].map(([accountId, value]) => ({ accountId, value }));
  }

  async function pay(rules: PoolRules, range: Range): Promise<Paid> {
    const { pool, scheme, cursor, throughSeq } = range;
    const all = await sumForPps(db, { pool, afterSeq: cursor ?? 0n, throughSeq });
    const groups = all.filter(({ bits }) => bits !== 0);
    if (groups.length < all.length)
      log.warn('shares whose difficulty of the network was not recorded are not paid', {
        pool,
        throughSeq: String(throughSeq),
      });
    const earned = await earnedIn(groups, scheme);
    const ids = earned.map(({ accountId }) => accountId);
    const settings = await readSettings(db, ids);
    const developer =
      rules.developerAddress === null
        ? null
        : (await findOrMakeAccounts(db, [rules.developerAddress], clock.nowMs())).get(
            rules.developerAddress,
          )!;
    const blockRewardSats = groups.reduce(
      (most, { height, valueSats }) => greatest(most, valueSats, subsidySats(height, network)),
      0n,
    );
    fault('pps.before');
    const paid = await db.transaction(async (tx): Promise<Paid> => {
      await lockLedger(tx);
      if ((await readPpsCursor(tx, pool)) !== cursor) return { kind: 'moved' };
      const concerned = developer === null ? ids : [...new Set([...ids, developer])];
      const fractions = await readPpsFractions(tx, pool, concerned);
      const credits = new Map<bigint, bigint>();
      let gross = 0n;
      let donations = 0n;
      let net = 0n;
      for (const { accountId, value } of earned) {
        const rates = ratesOf(rules, scheme, settings.get(accountId));
        const before = fractions.get(accountId) ?? 0n;
        const credit = ppsCredit({ value, carried: before, ...rates });
        credits.set(accountId, credit.creditSats);
        fractions.set(accountId, credit.carried);
        gross += value;
        donations += credit.donation;
        net += (credit.creditSats << FRACTION_BITS) + credit.carried - before;
      }
      let developerSats = donations >> FRACTION_BITS;
      if (developer !== null && donations > 0n) {
        const whole = donations + (fractions.get(developer) ?? 0n);
        developerSats = whole >> FRACTION_BITS;
        fractions.set(developer, whole - (developerSats << FRACTION_BITS));
        credits.set(developer, (credits.get(developer) ?? 0n) + developerSats);
        developerSats = 0n;
      }
      let paidSats = developerSats;
      for (const sats of credits.values()) paidSats += sats;
      if (gross > 0n) {
        const reserveSats = await readBalance(tx, { kind: 'reserve', pool });
        const verdict = weigh(rules, reserveSats - paidSats, blockRewardSats, {
          gross,
          kept: gross - donations - net,
        });
        if (!verdict.isSolvent || paidSats > reserveSats)
          return { kind: 'ruin', ruinPpm: verdict.ruinPpm, reserveSats };
        fees.set(pool, verdict.fees);
      }
      await movePpsCursor(tx, { pool, fromSeq: cursor, throughSeq });
      await holdShares(tx, { name: holdName(pool), afterSeq: throughSeq });
      await writePpsFractions(tx, pool, fractions);
      if (paidSats > 0n)
        await postLedger(tx, {
          key: `pps:${pool}:${(cursor ?? 0n) + 1n}-${throughSeq}`,
          kind: 'pps',
          atMs: clock.nowMs(),
          actor: ACTOR,
          entries: [
            { account: { kind: 'reserve', pool }, sats: -paidSats },
            { account: { kind: 'developer' }, sats: developerSats },
            ...Array.from(credits, ([accountId, sats]) => ({
              account: { kind: 'miner', accountId } satisfies LedgerAccount,
              sats,
            })),
          ],
        });
      fault('pps.posted');
      return { kind: 'paid', paidSats };
    });
    fault('pps.committed');
    return paid;
  }

  /** The bound is passed: says so, and does what the operator decided. */
  async function onRuin(
    rules: PoolRules,
    range: Range,
    found: { ruinPpm: number; reserveSats: bigint },
    height: number,
  ): Promise<void> {
    const needed = reserveNeededSats({
      ruinPpmMax: rules.ruinPpmMax,
      blockRewardSats: subsidySats(height, network),
      feePpm: rules.feePpm,
    });
    const reason =
      `the chance that the reserve of ${formatSats(found.reserveSats)} is used up is up to ` +
      `${percent(found.ruinPpm)}, over the ${percent(rules.ruinPpmMax)} that are allowed; ` +
      (needed === null
        ? 'no reserve is enough at this fee'
        : `it takes ${formatSats(needed)} and more`);
    if (rules.onRuin === 'refuse') {
      alarms.raise(
        `pps:${rules.id}`,
        `pool "${rules.id}" does not pay new shares until its reserve is filled: ${reason}`,
      );
      return;
    }
    await schemes.downgrade(rules.id, (range.cursor ?? 0n) + 1n, reason);
  }

  function sayDowngraded(rules: PoolRules): void {
    const current = schemes.current(rules.id);
    if (current === null || !paysByShare(rules.scheme)) return;
    if (current.scheme !== rules.scheme)
      alarms.raise(
        `downgrade:${rules.id}`,
        `pool "${rules.id}" counts by ${current.scheme.toUpperCase()} since share ${current.fromSeq}, not by ` +
          `${rules.scheme.toUpperCase()} (${current.reason}); fill its reserve and restart`,
      );
    else alarms.clear(`downgrade:${rules.id}`);
  }

  return {
    async step(height, isUrgent) {
      for (const rules of options.pools) {
        const nowMs = clock.nowMs();
        sayDowngraded(rules);
        const dueMs = dueAtMs.get(rules.id) ?? 0;
        // A clock set back must not stop it.
        const isDue = nowMs >= dueMs || dueMs - nowMs > options.intervalMs;
        for (let ranges = 0; ranges < RANGES_MAX; ranges++) {
          const range = await nextRange(rules.id);
          if (range === null) {
            await letGo(rules.id);
            break;
          }
          released.delete(rules.id);
          const isFull = range.throughSeq - (range.cursor ?? 0n) >= RANGE_MAX;
          if (!isDue && !isFull && !isUrgent(rules.id)) break;
          const paid = await payOrRuin(rules, range);
          if (paid.kind === 'ruin') {
            await onRuin(rules, range, paid, height);
            break;
          }
          if (paid.kind === 'moved') break;
          alarms.clear(`pps:${rules.id}`);
          log.debug('shares are paid', {
            pool: rules.id,
            throughSeq: String(range.throughSeq),
            paidSats: String(paid.paidSats),
          });
        }
        if (isDue) dueAtMs.set(rules.id, nowMs + options.intervalMs);
        sayDowngraded(rules);
      }
    },
    async isSolvent(rules, height) {
      const blockRewardSats = subsidySats(height, network);
      const reserveSats = await readBalance(db, { kind: 'reserve', pool: rules.id });
      // With a block's worth to spare: else the first shares would end it again.
      return weigh(rules, reserveSats - blockRewardSats, blockRewardSats).isSolvent;
    },
    ruinPpm: (pool) => ruin.get(pool) ?? null,
  };

  /** The database has the last word: a reserve never goes below zero. */
  async function payOrRuin(rules: PoolRules, range: Range): Promise<Paid> {
    try {
      return await pay(rules, range);
    } catch (error) {
      if ((error as { code?: unknown }).code !== CHECK_VIOLATION) throw error;
      const reserveSats = await readBalance(db, { kind: 'reserve', pool: rules.id });
      return { kind: 'ruin', ruinPpm: 1_000_000, reserveSats };
    }
  }
}

function paysByShare(scheme: Scheme): boolean {
  return SCHEMES[scheme].settles === 'reserve';
}

function holdName(pool: string): string {
  return `pps:${pool}`;
}

function percent(ppm: number): string {
  return `${ppm / 10_000} %`;
}

function greatest(...values: bigint[]): bigint {
  return values.reduce((most, value) => (value > most ? value : most));
}
