/** What accounts earned, hold and were paid, one line for each account. Reads only; amounts in satoshi. */
import type { Db } from '../ports.ts';

type Tx = Pick<Db, 'query'>;

export type Earnings = {
  address: string;
  /** Credited, and not yet spendable. */
  immatureSats: bigint;
  /** To be paid out. */
  matureSats: bigint;
  /** In a payout that is not settled yet. */
  transitSats: bigint;
  /** Paid: out of the wallet, or by coinbases. */
  paidSats: bigint;
  /** Scheme direct: earned less paid by coinbases; negative when paid ahead. */
  carrySats: bigint;
};

type EarningsRow = {
  address: string;
  immature: bigint;
  mature: bigint;
  transit: bigint;
  paid: bigint;
  carry: bigint;
};

const SUMS = `
  coalesce(sum(balance) FILTER (WHERE kind = 'miner-immature'), 0) AS immature,
  coalesce(sum(balance) FILTER (WHERE kind = 'miner'), 0) AS mature,
  coalesce(sum(balance) FILTER (WHERE kind = 'transit'), 0) AS transit,
  coalesce(sum(balance) FILTER (WHERE kind = 'paid'), 0) AS paid,
  coalesce(sum(balance) FILTER (WHERE kind = 'carry'), 0) AS carry`;

/** Those with most to come first. `limit` is at most 1,000. */
export async function listEarnings(db: Tx, options: { limit: number }): Promise<Earnings[]> {
  const rows = await db.query<EarningsRow>(
    `SELECT address, sums.*
     FROM (SELECT account_id, ${SUMS} FROM ledger_accounts WHERE account_id IS NOT NULL
           GROUP BY account_id ORDER BY sum(balance) FILTER (WHERE kind IN ('miner', 'miner-immature', 'transit', 'carry')) DESC NULLS LAST, account_id
           LIMIT $1) AS sums
     JOIN accounts USING (account_id)
     ORDER BY immature + mature + transit + carry DESC, account_id`,
    [Math.min(options.limit, 1_000)],
  );
  return rows.map(earningsOf);
}

/** Of one account; zeros for one that has shares and no credit yet, null for one that is not known. */
export async function readEarnings(db: Tx, address: string): Promise<Earnings | null> {
  const [row] = await db.query<EarningsRow>(
    `SELECT sums.*
     FROM (SELECT accounts.account_id, address, ${SUMS}
           FROM accounts LEFT JOIN ledger_accounts USING (account_id)
           WHERE address = $1 GROUP BY accounts.account_id, address) AS sums`,
    [address],
  );
  return row === undefined ? null : earningsOf(row);
}

function earningsOf(row: EarningsRow): Earnings {
  return {
    address: row.address,
    immatureSats: row.immature,
    matureSats: row.mature,
    transitSats: row.transit,
    paidSats: row.paid,
    carrySats: row.carry,
  };
}

export type PaidBatch = {
  batchId: bigint;
  state: string;
  totalSats: bigint;
  payments: number;
  /** Wire order; of the newest transaction that may be in the chain, null before there is one. */
  txid: Uint8Array | null;
  createdAtMs: number;
};

/** Batches of payouts as the public may see them, newest first. `limit` is at most 1,000. */
export async function listPaidBatches(db: Tx, options: { limit: number }): Promise<PaidBatch[]> {
  const rows = await db.query<{
    batch_id: bigint;
    state: string;
    total_sats: bigint;
    payments: bigint;
    txid: Uint8Array | null;
    created_at: Date;
  }>(
    `SELECT batch_id, state, total_sats, created_at,
            (SELECT count(*) FROM payout_items WHERE payout_items.batch_id = batch.batch_id) AS payments,
            (SELECT txid FROM payout_generations WHERE payout_generations.batch_id = batch.batch_id AND broadcast_at IS NOT NULL
             ORDER BY (block_hash IS NOT NULL) DESC, generation DESC LIMIT 1) AS txid
     FROM payout_batches AS batch WHERE state <> 'released'
     ORDER BY batch_id DESC LIMIT $1`,
    [Math.min(options.limit, 1_000)],
  );
  return rows.map((row) => ({
    batchId: row.batch_id,
    state: row.state,
    totalSats: row.total_sats,
    payments: Number(row.payments),
    txid: row.txid,
    createdAtMs: row.created_at.getTime(),
  }));
}
