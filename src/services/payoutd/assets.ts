/**
 * The two doubts that stop payouts, asked in every cycle: has money left the wallet by a way that is not in our books, and do its
 * spendable coins cover what is owed. Fails closed: what cannot be answered stops this cycle, what is answered badly stops all of them
 * until a person has looked.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import {
  holdPayouts,
  noteScan,
  noteShortage,
  type PayoutControl,
  readLiabilities,
  unknownSpends,
} from '../../store/payouts.ts';
import type { Walk } from './payer.ts';
import { askBalances, askSpendsSince } from './wallet.ts';

/** Spends are asked for again until they are this deep: nothing that a reorganisation moves is missed. */
const SCAN_DEPTH = 101;
/** Coins that are owed but not spendable right now are waited for this long: a reorganisation makes rewards immature again. */
const SHORT_PATIENCE_MS = 2 * 3_600_000;

/**
 * Looks at every spend of the wallet that is not deep yet. At the very first time its whole past is noted as known. True when each
 * is a payout of ours or explained.
 */
export async function scanSpends(walk: Walk, control: PayoutControl): Promise<boolean> {
  const { db } = walk;
  const nowMs = walk.clock.nowMs();
  const answer = await askSpendsSince(walk, control.scannedBlock, SCAN_DEPTH);
  if (!answer.ok) {
    walk.raise(answer.alarm === 'refused' ? 'scan-failed' : answer.alarm, answer.text);
    return false;
  }
  const { spends, lastBlock } = answer.value;
  const unknown = await unknownSpends(db, spends);
  if (control.scannedBlock === null) {
    const note = 'left the wallet before the first payout';
    await noteScan(db, {
      block: lastBlock,
      known: unknown.map((txid) => ({ txid, note })),
      atMs: nowMs,
    });
    return true;
  }
  if (unknown.length > 0) {
    const names = unknown.slice(0, 5).map(encodeHexReversed).join(', ');
    const reason = `${unknown.length} spend(s) of the wallet are not in the books: ${names}`;
    if (await holdPayouts(db, { actor: 'payer', reason, atMs: nowMs }))
      walk.log.error('Payouts are stopped: money left the wallet by another way.', { names });
    return false;
  }
  if (encodeHexReversed(lastBlock) !== encodeHexReversed(control.scannedBlock))
    await noteScan(db, { block: lastBlock, known: [], atMs: nowMs });
  return true;
}

/**
 * Compares spendable coins with what is owed: miners, developer, and what is in transit and has not left (`outSats` has). Null when
 * payouts must pause; else what is above it, which is all that may be spent on fees. `unclear`: a payout is neither here nor there, so
 * a shortage proves nothing yet.
 */
export async function checkAssets(
  walk: Walk,
  facts: { outSats: bigint; unclear: boolean },
): Promise<bigint | null> {
  const { db } = walk;
  const nowMs = walk.clock.nowMs();
  // Debts before assets: a payout that leaves in between makes assets smaller, never debts.
  const owed = await readLiabilities(db);
  const balances = await askBalances(walk);
  if (!balances.ok) {
    walk.raise(balances.alarm, balances.text);
    return null;
  }
  const { trustedSats, immatureSats } = balances.value;
  const liabilitiesSats = owed.minerSats + owed.developerSats + owed.transitSats - facts.outSats;
  walk.show(trustedSats, liabilitiesSats);
  if (trustedSats >= liabilitiesSats) {
    await noteShortage(db, null);
    return trustedSats - liabilitiesSats;
  }
  const sinceMs = (await noteShortage(db, nowMs)) ?? nowMs;
  const text = `the wallet has ${trustedSats} sat to spend, ${liabilitiesSats} sat are owed`;
  walk.raise('assets-short', text);
  const beyondHope = trustedSats + immatureSats < liabilitiesSats && sinceMs < nowMs;
  if (!facts.unclear && (beyondHope || nowMs - sinceMs > SHORT_PATIENCE_MS)) {
    if (await holdPayouts(db, { actor: 'payer', reason: text, atMs: nowMs }))
      walk.log.error('Payouts are stopped: the wallet does not cover what is owed.', {
        trustedSats,
        liabilitiesSats,
      });
  }
  return null;
}
