/**
 * What an operator may change in the ledger by hand: credits, funds, settings of an account, and the reversal of a block that is gone.
 *
 * Every one of them has a reason, leaves a note with who, what, before and after in the same transaction, and is known by a key made
 * of what it says: the same command again, after a lost connection or by mistake, books nothing twice. Who means it twice says so in
 * the reason.
 */

import { createHash } from 'node:crypto';
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { formatSats, parseAmount } from '../../core/ledger/amount.ts';
import type { PoolRules } from '../../core/ledger/rules.ts';
import { SCHEMES } from '../../core/ledger/schemes.ts';
import type { Db } from '../../ports.ts';
import {
  type AccountSettings,
  findAccounts,
  findOrMakeAccounts,
  readSettings,
  setSettings,
} from '../../store/accounts.ts';
import { confirmReversal } from '../../store/crediting.ts';
import {
  type LedgerAccount,
  lockLedger,
  type Posting,
  PostingConflictError,
  postLedger,
  readBalance,
  recordNote,
} from '../../store/ledger.ts';
import type { StoredRound } from '../../store/rounds.ts';
import { printable, type Request } from './arguments.ts';
import {
  actorOf,
  isConfirmed,
  misuse,
  type Read,
  readAddress,
  readAmount,
  readPercent,
  reasonOf,
  refuse,
} from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { formatPpm } from './table.ts';

/** `ledger credit`: from the operator's account to an address. */
export async function creditByHand(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const address = readAddress(desk, request.words[0]!);
  if (!address.ok) return address.exitCode;
  const amount = readAmount(desk, request.words[1]!);
  if (!amount.ok) return amount.exitCode;
  const sats = amount.value;
  const known = (await findAccounts(db, [address.value])).get(address.value);
  const operatorSats = await readBalance(db, { kind: 'operator' });
  const minerSats =
    known === undefined ? 0n : await readBalance(db, { kind: 'miner', accountId: known });
  const question = `Book ${formatSats(sats)} from the operator, who has ${formatSats(operatorSats)}, to ${address.value}, ${
    known === undefined ? 'a new account' : `which has ${formatSats(minerSats)}`
  }?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  return book(desk, db, {
    action: 'credit',
    kind: 'manual',
    content: [address.value, String(sats)],
    reason: reasonOf(request),
    sats,
    from: async () => ({ kind: 'operator' }),
    to: async (tx, atMs) => {
      const accounts = await findOrMakeAccounts(tx, [address.value], atMs);
      return { kind: 'miner', accountId: accounts.get(address.value)! };
    },
    toName: address.value,
  });
}

/** Whether a pool pays shares as they come, out of a reserve that its blocks fill. */
export function hasReserve({ scheme }: Pick<PoolRules, 'scheme'>): boolean {
  return SCHEMES[scheme].settles === 'reserve';
}

/** `ledger fund`: money that the operator has put into the wallet. */
export async function fundPool(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const id = request.words[0]!;
  const pool = desk.pools.find((one) => one.id === id);
  if (pool === undefined) {
    return misuse(
      desk,
      `there is no pool "${printable(id)}"; there are ${desk.pools.map((one) => one.id).join(', ')}`,
    );
  }
  const amount = readAmount(desk, request.words[1]!);
  if (!amount.ok) return amount.exitCode;
  const sats = amount.value;
  const to: LedgerAccount = hasReserve(pool) ? { kind: 'reserve', pool: id } : { kind: 'operator' };
  const toName = hasReserve(pool) ? `the reserve of pool ${id}` : 'the operator';
  const question = `Book ${formatSats(sats)}, which you have put into the wallet, to ${toName}, who has ${formatSats(await readBalance(db, to))}?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  return book(desk, db, {
    action: 'fund',
    kind: 'fund',
    content: [id, String(sats)],
    reason: reasonOf(request),
    sats,
    from: async () => ({ kind: 'deposit' }),
    to: async () => to,
    toName,
  });
}

type Tx = Pick<Db, 'query'>;

/** The constraint that keeps balances from going below zero. */
export const BELOW_ZERO = 'ledger_accounts_balance';

type Booking = {
  action: 'credit' | 'fund';
  kind: Posting['kind'];
  /** With the reason, what the key is made of. */
  content: string[];
  reason: string;
  sats: bigint;
  from(tx: Tx, atMs: number): Promise<LedgerAccount>;
  to(tx: Tx, atMs: number): Promise<LedgerAccount>;
  toName: string;
};

async function book(desk: Desk, db: Db, booking: Booking): Promise<ExitCode> {
  const { action, sats, reason } = booking;
  const atMs = desk.clock.nowMs();
  const actor = actorOf(desk);
  const said = JSON.stringify([action, ...booking.content, reason]);
  const key = `by-hand:${action}:${createHash('sha256').update(said).digest('hex').slice(0, 32)}`;
  try {
    const { txSeq, isNew, nowSats } = await db.transaction(async (tx) => {
      await lockLedger(tx);
      const from = await booking.from(tx, atMs);
      const to = await booking.to(tx, atMs);
      const [fromSats, toSats] = [await readBalance(tx, from), await readBalance(tx, to)];
      const posted = await postLedger(tx, {
        key,
        kind: booking.kind,
        atMs,
        actor,
        reason,
        entries: [
          { account: from, sats: -sats },
          { account: to, sats },
        ],
      });
      const detail = {
        posting: posted.txSeq,
        reason,
        sats,
        from: { ...from, beforeSats: fromSats, afterSats: fromSats - sats },
        to: { ...to, beforeSats: toSats, afterSats: toSats + sats },
      };
      if (posted.isNew) await recordNote(tx, { atMs, actor, action, detail });
      return { ...posted, nowSats: toSats + sats };
    });
    if (!isNew) return refuse(desk, bookedBefore(`posting ${txSeq}`));
    desk.print(
      `Posting ${txSeq}: ${formatSats(sats)} to ${booking.toName}, which now has ${formatSats(nowSats)}.`,
    );
    return EXIT.done;
  } catch (error) {
    if (error instanceof PostingConflictError)
      return refuse(desk, bookedBefore('another operator'));
    if ((error as { constraint?: unknown }).constraint !== BELOW_ZERO) throw error;
    const leftSats = await readBalance(db, { kind: 'operator' });
    return refuse(
      desk,
      `The operator has only ${formatSats(leftSats)} in the ledger; nothing was booked.`,
    );
  }
}

function bookedBefore(by: string): string {
  return `That is booked already, with this amount and reason, by ${by}. If it is meant twice, say so in the reason.`;
}

/** `ledger set`: what an account has otherwise than its pool. */
export async function setAccount(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const address = readAddress(desk, request.words[0]!);
  if (!address.ok) return address.exitCode;
  const change = readChange(desk, request);
  if (!change.ok) return change.exitCode;
  const atMs = desk.clock.nowMs();
  const accounts = await findOrMakeAccounts(db, [address.value], atMs);
  const accountId = accounts.get(address.value)!;
  const before = (await readSettings(db, [accountId])).get(accountId)!;
  const wanted = { ...before, ...change.value };
  if ((wanted.feePpm ?? 0) + wanted.donationPpm > 1_000_000) {
    return refuse(desk, 'Fee and donation are more than 100% together; nothing was changed.');
  }
  const now = await setSettings(db, {
    accountId,
    change: change.value,
    actor: actorOf(desk),
    reason: reasonOf(request),
    atMs,
  });
  desk.print(`${address.value}, before: ${describeSettings(before)}.`);
  desk.print(`${address.value}, now:    ${describeSettings(now)}.`);
  return EXIT.done;
}

function readChange(desk: Desk, request: Request): Read<Partial<AccountSettings>> {
  const { options } = request;
  const change: Partial<AccountSettings> = {};
  const no = (reason: string): Read<never> => ({ ok: false, exitCode: misuse(desk, reason) });
  const fee = options.get('fee-percent');
  if (fee === 'default') change.feePpm = null;
  else if (fee !== undefined) {
    const read = readPercent(desk, fee);
    if (!read.ok) return read;
    change.feePpm = read.value;
  }
  const donation = options.get('donation-percent');
  if (donation !== undefined) {
    const read = readPercent(desk, donation);
    if (!read.ok) return read;
    change.donationPpm = read.value;
  }
  const minimum = options.get('minimum');
  if (minimum === 'default') change.minimumPayoutSats = null;
  else if (minimum !== undefined) {
    const parsed = parseAmount(minimum);
    if (!parsed.ok) return no(`--minimum: ${parsed.reason}`);
    const leastSats = desk.policy?.minimumSats ?? 1n;
    if (parsed.sats < leastSats) {
      return no(
        `--minimum is below that of the pool, ${formatSats(leastSats)}; an account may ask for more, never for less`,
      );
    }
    change.minimumPayoutSats = parsed.sats;
  }
  if (options.has('hold') && options.has('no-hold')) {
    return no('--hold and --no-hold do not go together');
  }
  if (options.has('hold')) Object.assign(change, { onHold: true, holdReason: reasonOf(request) });
  if (options.has('no-hold')) Object.assign(change, { onHold: false, holdReason: null });
  return Object.keys(change).length === 0
    ? no('set changes nothing: name at least one of its options')
    : { ok: true, value: change };
}

/** Settings in words. */
export function describeSettings(settings: AccountSettings): string {
  const { feePpm, donationPpm, minimumPayoutSats, onHold, holdReason } = settings;
  return [
    `fee ${feePpm === null ? 'as the pool' : formatPpm(feePpm)}`,
    `donation ${formatPpm(donationPpm)}`,
    `minimum ${minimumPayoutSats === null ? 'as the pool' : formatSats(minimumPayoutSats)}`,
    onHold ? `on hold (${printable(holdReason ?? '')})` : 'not on hold',
  ].join(', ');
}

/** `ledger reverse`: the operator's word that a block whose reward was spendable is gone for good. */
export async function reverseRound(
  desk: Desk,
  db: Db,
  request: Request,
  round: StoredRound,
): Promise<ExitCode> {
  const hash = encodeHexReversed(round.blockHash);
  const question = `Book the ${formatSats(round.rewardSats)} of block ${hash} at height ${round.height} as a loss of the pool? Miners keep what they were credited.`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const answer = await confirmReversal(db, {
    hash: round.blockHash,
    actor: actorOf(desk),
    reason: reasonOf(request),
    atMs: desk.clock.nowMs(),
  });
  if (!answer.ok) return refuse(desk, `Not reversed: ${answer.reason}.`);
  desk.print(
    answer.txSeq === null
      ? 'The round is closed; the ledger held nothing of it.'
      : `Posting ${answer.txSeq}: a loss of ${formatSats(answer.lossSats)}.`,
  );
  desk.print('Payouts stay stopped until "headframe payout release".');
  return EXIT.done;
}
