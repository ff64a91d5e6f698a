/**
 * Which scheme each pool counts by and since when, and how far PPS has credited: cursor and fractions of a satoshi. Change them in one
 * transaction with the posting they belong to.
 */
import type { Scheme } from '../core/ledger/rules.ts';
import type { Db } from '../ports.ts';
import { storableText } from './text.ts';

type Tx = Pick<Db, 'query'>;

const REASON_MAX = 1_000;

export type SchemeChange = {
  pool: string;
  /** From this sequence number on. */
  fromSeq: bigint;
  scheme: Scheme;
  reason: string;
  atMs: number;
};

/** Appends to the history of a pool's schemes. */
export async function recordScheme(tx: Tx, change: SchemeChange): Promise<void> {
  await tx.query(
    `INSERT INTO pool_schemes (pool, from_seq, scheme, reason, at)
     VALUES ($1, $2, $3, $4, to_timestamp($5::bigint / 1000.0))`,
    [
      change.pool,
      change.fromSeq,
      change.scheme,
      storableText(change.reason, REASON_MAX),
      change.atMs,
    ],
  );
}

/** The scheme that counts the share with this number, and since when; null before the first one. */
export async function readScheme(
  db: Tx,
  pool: string,
  atSeq: bigint,
): Promise<SchemeChange | null> {
  const rows = await db.query<SchemeRow>(
    `SELECT pool, from_seq, scheme, reason, at FROM pool_schemes
     WHERE pool = $1 AND from_seq <= $2 ORDER BY from_seq DESC, pool_scheme_id DESC LIMIT 1`,
    [pool, atSeq],
  );
  return rows.map(schemeOf)[0] ?? null;
}

/** The history of a pool, oldest first, the newest 1,000 changes. */
export async function listSchemes(db: Tx, pool: string): Promise<SchemeChange[]> {
  const rows = await db.query<SchemeRow>(
    `SELECT pool, from_seq, scheme, reason, at FROM pool_schemes
     WHERE pool = $1 ORDER BY pool_scheme_id DESC LIMIT 1000`,
    [pool],
  );
  return rows.map(schemeOf).reverse();
}

type SchemeRow = { pool: string; from_seq: bigint; scheme: Scheme; reason: string; at: Date };

function schemeOf(row: SchemeRow): SchemeChange {
  return {
    pool: row.pool,
    fromSeq: row.from_seq,
    scheme: row.scheme,
    reason: row.reason,
    atMs: row.at.getTime(),
  };
}

/** The last share that PPS has credited in the pool; null before the first one. */
export async function readPpsCursor(db: Tx, pool: string): Promise<bigint | null> {
  const [row] = await db.query<{ last_seq: bigint }>(
    'SELECT last_seq FROM pps_cursors WHERE pool = $1',
    [pool],
  );
  return row?.last_seq ?? null;
}

/** Moves the cursor from `fromSeq` (null: there is none yet) to `throughSeq`. False: it stands elsewhere, nothing was changed. */
export async function movePpsCursor(
  tx: Tx,
  move: { pool: string; fromSeq: bigint | null; throughSeq: bigint },
): Promise<boolean> {
  const rows =
    move.fromSeq === null
      ? await tx.query(
          `INSERT INTO pps_cursors (pool, last_seq) VALUES ($1, $2)
           ON CONFLICT DO NOTHING RETURNING pool`,
          [move.pool, move.throughSeq],
        )
      : await tx.query(
          `UPDATE pps_cursors SET last_seq = $3
           WHERE pool = $1 AND last_seq = $2 AND $3 >= $2 RETURNING pool`,
          [move.pool, move.fromSeq, move.throughSeq],
        );
  return rows.length === 1;
}

/** What accounts have earned beyond whole satoshis, unit 2^-32 sat; 0 for those without. */
export async function readPpsFractions(
  db: Tx,
  pool: string,
  accountIds: readonly bigint[],
): Promise<Map<bigint, bigint>> {
  const fractions = new Map(accountIds.map((id) => [id, 0n]));
  const rows = await db.query<{ account_id: bigint; fraction: bigint }>(
    `SELECT account_id, fraction FROM pps_fractions WHERE pool = $1 AND account_id = ANY($2::bigint[])`,
    [pool, accountIds],
  );
  for (const row of rows) fractions.set(row.account_id, row.fraction);
  return fractions;
}

/** Stores the fractions, each below 2^32, in order of account. */
export async function writePpsFractions(
  tx: Tx,
  pool: string,
  fractions: ReadonlyMap<bigint, bigint>,
): Promise<void> {
  const ids = [...fractions.keys()].sort((a, b) => (a < b ? -1 : 1));
  await tx.query(
    `INSERT INTO pps_fractions (pool, account_id, fraction)
     SELECT $1, account_id, fraction FROM unnest($2::bigint[], $3::numeric[]) AS given(account_id, fraction)
     ORDER BY account_id
     ON CONFLICT (pool, account_id) DO UPDATE SET fraction = excluded.fraction`,
    [pool, ids, ids.map((id) => fractions.get(id))],
  );
}
