/**
 * What became of a payout that may be out there. The wallet and the node are asked for each generation, what they show is written down,
 * and from that: settled when deep enough, sent again when it is nowhere, into a person's hands when a spend that is not ours took its
 * coins. Never made anew on a guess.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import {
  type BatchDetail,
  type BatchGeneration,
  holdPayouts,
  listSettled,
  markDead,
  markManual,
  markSent,
  readControl,
  readGenerations,
  recordSightings,
  type Sighting,
  settleBatch,
} from '../../store/payouts.ts';
import type { Walk } from './payer.ts';
import { askInMempool, askTransaction, sendTransaction } from './wallet.ts';

/** Where a batch's money is: still in the wallet, gone from it, or nobody can say in this cycle. */
export type Whereabouts = 'held' | 'out' | 'settled' | 'unclear';

/** The same bytes are sent again after this long without a sight of them. */
const RESEND_MS = 600_000;
/** Unconfirmed for longer: a person should look at the fee. */
const STUCK_MS = 24 * 3_600_000;

/** So many settled batches are looked at on each new tip: a week and more of hourly payouts. */
const SETTLED_WATCHED = 200;

type Seen = { sightings: Sighting[]; known: boolean };

/** Looks after one batch that was marked as broadcast. */
export async function followBatch(walk: Walk, batch: BatchDetail): Promise<Whereabouts> {
  const { db, policy } = walk;
  const nowMs = walk.clock.nowMs();
  const seen = await lookUp(walk, batch.generations);
  if (seen === null) return 'unclear';
  const { sightings } = seen;
  const state = await recordSightings(db, batch.batchId, sightings, nowMs);
  if (state === null) return 'unclear';
  if (state === 'confirmed') {
    walk.fault('payout.confirmed');
    const confirmed = sightings.find((one) => one.confirmations > 0);
    if (confirmed === undefined || confirmed.confirmations < policy.confirmations) return 'out';
    const settled = await settleBatch(db, batch.batchId, confirmed.generation, nowMs, () =>
      walk.fault('payout.settling'),
    );
    walk.fault('payout.settled');
    if (settled === null) return 'unclear';
    walk.meter.count('payouts_settled');
    walk.log.info('A payout is settled.', {
      batch: batch.batchId,
      totalSats: batch.totalSats,
      payouts: batch.items.length,
    });
    return 'settled';
  }
  if (state === 'seen') {
    walk.fault('payout.seen');
    if (nowMs - (batch.generations[0]?.broadcastAtMs ?? nowMs) > STUCK_MS)
      walk.raise('stuck', `batch ${batch.batchId} is unconfirmed for more than a day`);
    return 'out';
  }
  if (state === 'manual') {
    walk.raise('manual', `batch ${batch.batchId}: ${batch.reason}`);
    const dead = sightings.filter((one) => one.confirmations <= -policy.confirmations);
    if (dead.length === sightings.length && dead.length > 0)
      await markDead(
        db,
        batch.batchId,
        dead.map((one) => one.generation),
        nowMs,
      );
    return seen.known ? 'unclear' : 'held';
  }
  if (sightings.some((one) => one.confirmations < 0)) {
    await giveUp(walk, batch, 'a transaction that is not ours spent its coins');
    return 'unclear';
  }
  const newest = batch.generations.findLast((one) => one.broadcastAtMs !== null);
  const due =
    batch.state !== 'broadcast' || newest?.sentAtMs == null || nowMs - newest.sentAtMs >= RESEND_MS;
  if (due) await sendAgain(walk, batch);
  return seen.known ? 'unclear' : 'held';
}

/**
 * Settled is deep, and a chain can be exchanged deeper still. Looks whether the last settled payouts are in the chain as it is now; sends
 * the same bytes again of one that is not, and says so until it is back. One whose coins went elsewhere stops all payouts. False: it
 * could not be seen, or is not over; look again in the next cycle.
 */
export async function followSettled(walk: Walk): Promise<boolean> {
  let isOver = true;
  for (const one of await listSettled(walk.db, { limit: SETTLED_WATCHED })) {
    const answer = await askTransaction(walk, one.txid);
    if (!answer.ok) {
      walk.raise(answer.alarm, answer.text);
      return false;
    }
    const confirmations = answer.value?.confirmations ?? 0;
    if (confirmations > 0) continue;
    isOver = false;
    const where = `batch ${one.batchId}, settled before, is no longer in the chain`;
    walk.raise('unsettled', `${where}; its transaction is sent again`);
    const waiting = await askInMempool(walk, one.txid);
    if (!waiting.ok || waiting.value || (await readControl(walk.db)).halted) continue;
    const verdict = await sendTransaction(walk, one.raw);
    if (verdict.kind === 'taken') {
      walk.log.warn('A settled payout had left the chain and was sent again.', {
        batch: one.batchId,
        txid: encodeHexReversed(one.txid),
      });
    } else if (confirmations < 0 && verdict.kind === 'conflict') {
      const reason = `${where}, and its coins are spent otherwise: ${verdict.detail}`;
      if (await holdPayouts(walk.db, { actor: 'payer', reason, atMs: walk.clock.nowMs() }))
        walk.log.error('Payouts are stopped: a settled payout cannot be sent again.', {
          batch: one.batchId,
          reason,
        });
    }
  }
  return isOver;
}

/** Asks wallet and node for every generation that was marked. Null when they cannot answer, or answered of two different tips. */
async function lookUp(walk: Walk, generations: readonly BatchGeneration[]): Promise<Seen | null> {
  const sightings: Sighting[] = [];
  let known = false;
  let asOf: string | null = null;
  for (const one of generations) {
    if (one.txid === null || one.broadcastAtMs === null) continue;
    const answer = await askTransaction(walk, one.txid);
    if (!answer.ok) {
      walk.raise(answer.alarm, answer.text);
      return null;
    }
    const spend = answer.value;
    if (spend !== null) {
      known = true;
      if (asOf !== null && spend.asOf !== null && spend.asOf !== asOf) return null;
      asOf = spend.asOf;
    }
    const confirmations = spend?.confirmations ?? 0;
    let inMempool = false;
    if (confirmations === 0) {
      const waiting = await askInMempool(walk, one.txid);
      if (!waiting.ok) {
        walk.raise(waiting.alarm, waiting.text);
        return null;
      }
      inMempool = waiting.value;
    }
    sightings.push({
      generation: one.generation,
      confirmations,
      blockHash: spend?.blockHash ?? null,
      inMempool,
    });
  }
  return { sightings, known };
}

/**
 * Sends the stored bytes of a batch that is in neither mempool nor chain: the newest generation, or an older one where that cannot go.
 * When none can, the chain is asked once more before the batch is given up: a block may have come in between.
 */
async function sendAgain(walk: Walk, batch: BatchDetail): Promise<void> {
  if ((await readControl(walk.db)).halted) return;
  let refused: string | null = null;
  let conflict: string | null = null;
  for (const one of [...batch.generations].reverse()) {
    if (one.raw === null || one.broadcastAtMs === null) continue;
    const verdict = await sendTransaction(walk, one.raw);
    walk.fault('payout.sentAgain');
    if (verdict.kind === 'taken') {
      await markSent(walk.db, batch.batchId, one.generation, walk.clock.nowMs());
      walk.log.info('A payout was sent again.', {
        batch: batch.batchId,
        generation: one.generation,
        txid: one.txid === null ? '' : encodeHexReversed(one.txid),
      });
      return;
    }
    if (verdict.kind === 'unknown') return;
    if (verdict.kind === 'refused') refused ??= verdict.detail;
    else conflict ??= verdict.detail;
  }
  if (refused !== null) {
    walk.raise('refused', `batch ${batch.batchId}: ${refused}`);
    return;
  }
  if (conflict === null) return;
  const again = await lookUp(walk, await readGenerations(walk.db, batch.batchId));
  if (again === null) return;
  if (again.sightings.some((one) => one.confirmations > 0 || one.inMempool)) return;
  await giveUp(walk, batch, `its coins are spent otherwise: ${conflict}`);
}

async function giveUp(walk: Walk, batch: BatchDetail, reason: string): Promise<void> {
  const done = await markManual(walk.db, batch.batchId, reason, walk.clock.nowMs());
  if (done === null) return;
  walk.raise('manual', `batch ${batch.batchId}: ${reason}`);
  walk.log.error('A payout needs a person; all payouts are stopped.', {
    batch: batch.batchId,
    reason,
  });
}
