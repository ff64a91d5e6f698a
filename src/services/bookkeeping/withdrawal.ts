/**
 * `headframe ledger withdraw`: the operator has taken money of his own out of the wallet, by a transaction that he made himself. Booked
 * from his account, or from the reserve of a PPS pool, to the world outside, its network fee as an expense of the pool; the transaction is known from then on, so that the
 * payer doubts it no longer.
 *
 * Refused: more than is the operator's, a transaction that is booked or is a payout of the pool, and, where the wallet can be asked, one
 * that it does not know, that is not in a block yet, or that moves another amount.
 */

import { decodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { formatSats } from '../../core/ledger/amount.ts';
import type { Rpc } from '../../core/node/rpc.ts';
import { decodeAmount } from '../../core/node/wallet.ts';
import type { Db } from '../../ports.ts';
import {
  type LedgerAccount,
  type LedgerKind,
  lockLedger,
  PostingConflictError,
  postLedger,
  readBalance,
  recordNote,
  sumBalances,
} from '../../store/ledger.ts';
import { batchOfTransaction, knowSpend } from '../../store/payouts.ts';
import { printable, type Request } from './arguments.ts';
import { BELOW_ZERO, hasReserve } from './bookings.ts';
import {
  actorOf,
  isConfirmed,
  misuse,
  type Read,
  readAmount,
  reasonOf,
  refuse,
} from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';

/** JSON-RPC: the wallet has no such transaction. */
const NOT_FOUND = -5;

/** `ledger withdraw`. */
export async function withdraw(desk: Desk, db: Db, request: Request): Promise<ExitCode> {
  const amount = readAmount(desk, request.words[0]!);
  if (!amount.ok) return amount.exitCode;
  const sats = amount.value;
  const txidDisplay = request.options.get('txid')!.toLowerCase();
  const txid = /^[0-9a-f]{64}$/.test(txidDisplay) ? decodeHexReversed(txidDisplay) : null;
  if (txid === null)
    return misuse(desk, `"${printable(txidDisplay)}" is no transaction id of 64 hex digits`);
  const source = readSource(desk, request.options.get('pool'));
  if (!source.ok) return source.exitCode;
  const { account, name } = source.value;
  const fee = await readFee(desk, request, { txidDisplay, sats });
  if (!fee.ok) return fee.exitCode;
  const feeSats = fee.value;
  const hasSats = await readBalance(db, account);
  const question = `Book ${formatSats(sats)} as taken out of the wallet by the operator, from ${name} with ${formatSats(hasSats)}, in transaction ${txidDisplay} with a network fee of ${formatSats(feeSats)}?`;
  if (!(await isConfirmed(desk, request, question))) return EXIT.finding;
  const deed = { actor: actorOf(desk), reason: reasonOf(request), atMs: desk.clock.nowMs() };
  try {
    const answer = await db.transaction((tx) =>
      book(tx, { account, txid, txidDisplay, sats, feeSats, deed }),
    );
    if (!answer.ok) return refuse(desk, answer.reason);
    desk.print(
      `Posting ${answer.txSeq}: ${formatSats(sats)} taken out by the operator, and ${formatSats(answer.leftSats)} left in ${name}; network fee ${formatSats(feeSats)}.`,
    );
    desk.print(
      `${txidDisplay} is known from now on. Payouts that it stopped go on with "headframe payout release".`,
    );
    return EXIT.done;
  } catch (error) {
    if (error instanceof PostingConflictError)
      return refuse(desk, `${txidDisplay} is booked already, with another amount, fee or reason.`);
    const isTooMuch =
      error instanceof TooMuchError ||
      (error as { constraint?: unknown }).constraint === BELOW_ZERO;
    if (!isTooMuch) throw error;
    const facts = { sums: await sumBalances(db), hasSats: await readBalance(db, account), name };
    return refuse(desk, describeTooMuch(facts, sats + feeSats));
  }
}

/** Whose money it was: the operator's, or that of a pool which pays out of a reserve. */
function readSource(
  desk: Desk,
  id: string | undefined,
): Read<{ account: LedgerAccount; name: string }> {
  if (id === undefined)
    return { ok: true, value: { account: { kind: 'operator' }, name: 'the account "operator"' } };
  const pool = desk.pools.find((one) => one.id === id);
  const exitCode =
    pool === undefined
      ? misuse(desk, `there is no pool "${printable(id)}"`)
      : hasReserve(pool)
        ? null
        : misuse(desk, `pool ${id} has no reserve: what it earns is on "operator", without --pool`);
  if (exitCode !== null) return { ok: false, exitCode };
  return {
    ok: true,
    value: { account: { kind: 'reserve', pool: id }, name: `the reserve of pool ${id}` },
  };
}

/** What was booked would be more than the operator's; thrown, so that nothing of it stays. */
class TooMuchError extends Error {}

type Tx = Pick<Db, 'query'>;

async function book(
  tx: Tx,
  order: {
    account: LedgerAccount;
    txid: Uint8Array;
    txidDisplay: string;
    sats: bigint;
    feeSats: bigint;
    deed: { actor: string; reason: string; atMs: number };
  },
): Promise<{ ok: true; txSeq: bigint; leftSats: bigint } | { ok: false; reason: string }> {
  const { account, txid, txidDisplay, sats, feeSats, deed } = order;
  await lockLedger(tx);
  const batchId = await batchOfTransaction(tx, txid);
  if (batchId !== null)
    return { ok: false, reason: `${txidDisplay} is payout batch ${batchId} of the pool.` };
  const { txSeq, isNew } = await postLedger(tx, {
    key: `withdraw:${txidDisplay}`,
    kind: 'manual',
    ...deed,
    entries: [
      { account, sats: -sats },
      { account: { kind: 'paid' }, sats },
      { account: { kind: 'expense' }, sats: -feeSats },
      { account: { kind: 'network-fee' }, sats: feeSats },
    ],
  });
  if (!isNew)
    return { ok: false, reason: `${txidDisplay} is booked already, as posting ${txSeq}.` };
  const sums = await sumBalances(tx);
  if (ownSats(sums) < 0n) throw new TooMuchError();
  await knowSpend(tx, txid, deed);
  await recordNote(tx, {
    atMs: deed.atMs,
    actor: deed.actor,
    action: 'withdraw',
    detail: { posting: txSeq, reason: deed.reason, transaction: txidDisplay, sats, feeSats },
  });
  return { ok: true, txSeq, leftSats: await readBalance(tx, account) };
}

/** What is left of the operator's spendable money, reserves among it, when the pool's expenses and losses are paid. */
function ownSats(sums: Record<LedgerKind, bigint>): bigint {
  return sums.operator + sums.reserve + sums.expense + sums.loss;
}

function describeTooMuch(
  facts: { sums: Record<LedgerKind, bigint>; hasSats: bigint; name: string },
  wantedSats: bigint,
): string {
  const { sums, hasSats, name } = facts;
  const own = ownSats(sums);
  const most = own < hasSats ? own : hasSats;
  return [
    `That takes ${formatSats(wantedSats)} with its fee, and at most ${formatSats(most < 0n ? 0n : most)} may be taken; nothing was booked.`,
    `There are ${formatSats(hasSats)} in ${name}; of all that is the operator's, ${formatSats(-sums.expense)} went for network fees and ${formatSats(-sums.loss)} were lost.`,
    'Put what is missing back into the wallet and book it with "headframe ledger fund".',
  ].join(' ');
}

/** The network fee of the transaction: what the wallet says, after what it says of the rest; else what the operator does. */
async function readFee(
  desk: Desk,
  request: Request,
  said: { txidDisplay: string; sats: bigint },
): Promise<Read<bigint>> {
  const no = (reason: string): Read<never> => ({ ok: false, exitCode: refuse(desk, reason) });
  const text = request.options.get('fee');
  const given = text === undefined ? null : readAmount(desk, text);
  if (given !== null && !given.ok) return given;
  const moved = desk.wallet ? await askMoved(desk.wallet, said.txidDisplay) : null;
  if (moved === null || !moved.ok) {
    const why = moved === null ? 'there is no wallet to ask' : moved.reason;
    if (moved?.isFinal) return no(why);
    return given ?? no(`Not booked: ${why}. With --fee AMOUNT it is booked on your word alone.`);
  }
  if (moved.sats !== said.sats)
    return no(
      `${said.txidDisplay} moves ${formatSats(moved.sats)} out of the wallet, not ${formatSats(said.sats)}.`,
    );
  if (given !== null && given.value !== moved.feeSats)
    return no(`The network fee of ${said.txidDisplay} is ${formatSats(moved.feeSats)}.`);
  return { ok: true, value: moved.feeSats };
}

type Moved =
  | { ok: true; sats: bigint; feeSats: bigint }
  /** `isFinal`: the wallet has answered, and it is no. */
  | { ok: false; isFinal: boolean; reason: string };

/** What a transaction that is in a block moved out of the wallet, and its network fee. */
async function askMoved(wallet: Rpc, txidDisplay: string): Promise<Moved> {
  const no = (reason: string): Moved => ({ ok: false, isFinal: true, reason });
  const answer = await wallet.call('gettransaction', [txidDisplay, true]);
  if (answer.kind === 'error' && answer.code === NOT_FOUND)
    return no(`The wallet knows no transaction ${txidDisplay}.`);
  if (answer.kind !== 'result') {
    const detail = answer.kind === 'error' ? answer.message : answer.detail;
    return {
      ok: false,
      isFinal: false,
      reason: `the wallet does not answer (${printable(detail)})`,
    };
  }
  const { amount, fee, confirmations } = (answer.result ?? {}) as Record<string, unknown>;
  const sats = decodeAmount(amount);
  if (sats === null || typeof confirmations !== 'number')
    return { ok: false, isFinal: false, reason: 'the answer of the wallet makes no sense' };
  const feeSats = fee === undefined ? null : decodeAmount(fee);
  if (feeSats === null || feeSats > 0n || sats >= 0n)
    return no(`${txidDisplay} moves nothing out of the wallet.`);
  if (confirmations < 1)
    return no(
      `${txidDisplay} is not in a block: until it is, its fee may be raised, and it is another one then. Book it when it has a confirmation.`,
    );
  return { ok: true, sats: -sats, feeSats: -feeSats };
}
