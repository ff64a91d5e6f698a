/** What the status page shows of the database: sums kept by the writer of shares, never computed from the whole log. */
import type { Db } from '../ports.ts';

export type PoolTotals = {
  /** Shares credited since the pool began; also the last sequence number. */
  shares: bigint;
  /** Unit: 2^-48 of difficulty 1. */
  work: bigint;
  bestDifficulty: number;
  workers: number;
  blocksFound: number;
  blocksConfirmed: number;
  blocksLost: number;
};

export type StoredWorker = {
  account: string;
  worker: string;
  shares: bigint;
  work: bigint;
  bestDifficulty: number;
  lastShareAtMs: number;
};

/** Sums over everything. */
export async function poolTotals(db: Pick<Db, 'query'>): Promise<PoolTotals> {
  const [row] = await db.query<{
    last_seq: bigint;
    work: bigint;
    best_difficulty: number;
    workers: bigint;
    found: bigint;
    confirmed: bigint;
    lost: bigint;
  }>(
    `SELECT last_seq, work, best_difficulty,
       (SELECT count(*) FROM workers) AS workers,
       (SELECT count(*) FROM blocks) AS found,
       (SELECT count(*) FROM blocks WHERE state = 'confirmed') AS confirmed,
       (SELECT count(*) FROM blocks WHERE state IN ('orphaned', 'refused')) AS lost
     FROM share_sequence`,
  );
  if (!row) throw new Error('the table share_sequence has lost its row');
  return {
    shares: row.last_seq,
    work: row.work,
    bestDifficulty: row.best_difficulty,
    workers: Number(row.workers),
    blocksFound: Number(row.found),
    blocksConfirmed: Number(row.confirmed),
    blocksLost: Number(row.lost),
  };
}

/** Workers, the one with the latest share first. `limit` is at most 10,000. */
export async function listWorkers(
  db: Pick<Db, 'query'>,
  options: { limit: number; offset?: number; account?: string },
): Promise<StoredWorker[]> {
  const rows = await db.query<{
    address: string;
    name: string;
    shares: bigint;
    work: bigint;
    best_difficulty: number;
    last_share_at: Date;
  }>(
    `SELECT address, name, shares, work, best_difficulty, last_share_at
     FROM workers JOIN accounts USING (account_id)
     WHERE $3::text IS NULL OR address = $3
     ORDER BY last_share_at DESC, worker_id LIMIT $1 OFFSET $2`,
    [Math.min(options.limit, 10_000), options.offset ?? 0, options.account ?? null],
  );
  return rows.map((row) => ({
    account: row.address,
    worker: row.name,
    shares: row.shares,
    work: row.work,
    bestDifficulty: row.best_difficulty,
    lastShareAtMs: row.last_share_at.getTime(),
  }));
}

/** Work credited in a stretch of time, over the whole pool, for its hash rate. Keep the stretch within hours. */
export async function workBetween(
  db: Pick<Db, 'query'>,
  options: { fromMs: number; untilMs: number },
): Promise<{ shares: bigint; work: bigint }> {
  const [row] = await db.query<{ shares: bigint; work: bigint }>(
    `SELECT count(*) AS shares, coalesce(sum(work), 0) AS work FROM shares
     WHERE accepted_at >= to_timestamp($1::bigint / 1000.0)
       AND accepted_at < to_timestamp($2::bigint / 1000.0)`,
    [options.fromMs, options.untilMs],
  );
  return { shares: row?.shares ?? 0n, work: row?.work ?? 0n };
}
