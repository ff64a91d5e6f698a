/**
 * The share log. One writer at a time numbers the shares without gaps, all pools in one sequence; redelivery stores nothing twice (the
 * exact guarantee stands at the head of `sql/0001.sql`). Also its partitions: one per UTC day, made ahead, removed after the retention
 * once their shares stand in spans (`windows.ts`) and nobody holds them.
 */
import { workOfDifficulty } from '../core/bitcoin/target.ts';
import type { CheckedShare, ShareRecord } from '../messages/share.ts';
import type { Db } from '../ports.ts';
import { ADDRESS_MAX, POOL_MAX, storableText } from './text.ts';

export type RecordedShares = {
  stored: number;
  /** Already stored, or twice in this batch. */
  duplicates: number;
  /** Accepted before the oldest partition kept: nobody can tell whether they were credited. */
  tooOld: ShareRecord[];
};

type Tx = Pick<Db, 'query'>;

const DAY_MS = 86_400_000;
/** Same work with another time is a duplicate within this distance; no job lives a hundredth of it. */
const DUPLICATE_WINDOW_MS = 2 * DAY_MS;
const WORKER_NAME_MAX = 128;
const JOB_ID_MAX = 64;
const GATEWAY_MAX = 64;
/** Of shares recorded before there were several pools. */
const FIRST_POOL = 'main';

/**
 * Stores the batch in its order and counts it for its workers and the pool, all or nothing. Call it again after any failure, also one
 * that left open whether the commit happened. `db` may be a transaction (`within` of `inbox.ts`): then it is its caller who commits.
 *
 * Batches of 2,000 on the private PostgreSQL, 2 vCPU shared with other work, Nov 2026: 17,000 to 54,000 rows/s. Rejected: ON CONFLICT
 * (the time would have to be in the key, and numbers would get gaps), COPY into a temporary table (one more pass over the
 * rows, and they must be looked up all the same).
 */
export async function recordShares(
  db: Pick<Db, 'transaction'>,
  batch: readonly CheckedShare[],
): Promise<RecordedShares> {
  const distinct = distinctShares(batch);
  if (distinct.length === 0) return { stored: 0, duplicates: batch.length, tooOld: [] };
  return db.transaction(async (tx) => {
    const [sequence] = await tx.query<{ last_seq: bigint; floor_at: Date }>(
      'SELECT last_seq, floor_at FROM share_sequence FOR UPDATE',
    );
    if (!sequence) throw new Error('the table share_sequence has lost its row');
    const floorMs = sequence.floor_at.getTime();
    const tooOld: ShareRecord[] = [];
    const young = distinct.filter((one) => {
      const old = one.share.acceptedAtMs < floorMs;
      if (old) tooOld.push(one.share);
      return !old;
    });
    const known = await knownHashes(tx, young);
    const fresh = young.filter(({ share }) => !known.has(hashKey(share.headerHash)));
    if (fresh.length > 0) {
      const workers = await findOrMakeWorkers(tx, fresh);
      await insertShares(tx, fresh, workers, sequence.last_seq);
      await countForWorkers(tx, fresh, workers);
      await countForPool(tx, fresh);
    }
    return {
      stored: fresh.length,
      duplicates: batch.length - fresh.length - tooOld.length,
      tooOld,
    };
  });
}

/** Makes the partitions from yesterday to `aheadDays` from now. Answers how many were missing. */
export async function makeSharePartitions(
  db: Db,
  options: { nowMs: number; aheadDays: number },
): Promise<number> {
  let made = 0;
  for (let day = -1; day <= options.aheadDays; day++) {
    const [row] = await db.query<{ made: boolean }>(
      'SELECT make_share_partition($1::date) AS made',
      [utcDay(options.nowMs + day * DAY_MS)],
    );
    if (row?.made) made++;
  }
  return made;
}

/**
 * Removes the days that lie more than `retentionDays` back, oldest first, and stops at the first that has a share no span holds yet or
 * that somebody holds. Answers how many partitions went.
 */
export async function dropOldShares(
  db: Db,
  options: { nowMs: number; retentionDays: number },
): Promise<number> {
  return db.transaction(async (tx) => {
    const [row] = await tx.query<{ dropped: number }>(
      'SELECT drop_share_partitions_before($1::date) AS dropped',
      [utcDay(options.nowMs - options.retentionDays * DAY_MS)],
    );
    return row?.dropped ?? 0;
  });
}

/**
 * Keeps raw shares after `afterSeq` from being removed until the holder of this name moves on, or lets go with null. For whoever pays
 * by the share, and must see every one.
 */
export async function holdShares(
  tx: Tx,
  hold: { name: string; afterSeq: bigint | null },
): Promise<void> {
  if (hold.afterSeq === null) {
    await tx.query('DELETE FROM share_holds WHERE name = $1', [hold.name]);
    return;
  }
  await tx.query(
    `INSERT INTO share_holds (name, after_seq) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET after_seq = excluded.after_seq`,
    [hold.name, hold.afterSeq],
  );
}

function distinctShares(batch: readonly CheckedShare[]): CheckedShare[] {
  const byHash = new Map<string, CheckedShare>();
  for (const one of batch) {
    const key = hashKey(one.share.headerHash);
    if (!byHash.has(key)) byHash.set(key, one);
  }
  return [...byHash.values()];
}

/**
 * Two statements instead of an anti-join: constants let the planner leave out all partitions but two or three. One probe of the index for each
 * share, whatever the planner takes the table to be; old partitions have it on the hash alone.
 */
async function knownHashes(tx: Tx, batch: readonly CheckedShare[]): Promise<Set<string>> {
  if (batch.length === 0) return new Set();
  let earliest = Number.POSITIVE_INFINITY;
  let latest = 0;
  for (const { share } of batch) {
    earliest = Math.min(earliest, share.acceptedAtMs);
    latest = Math.max(latest, share.acceptedAtMs);
  }
  const rows = await tx.query<{ header_hash: Uint8Array }>(
    `SELECT known.header_hash
     FROM unnest($1::bytea[], $2::text[]) AS given(header_hash, job_id),
       LATERAL (
         SELECT shares.header_hash FROM shares
         WHERE shares.job_id = given.job_id AND shares.header_hash = given.header_hash
           AND accepted_at BETWEEN to_timestamp($3::bigint / 1000.0) AND to_timestamp($4::bigint / 1000.0)
         LIMIT 1
       ) AS known`,
    [
      batch.map(({ share }) => share.headerHash),
      batch.map(({ share }) => storableText(share.jobId, JOB_ID_MAX)),
      earliest - DUPLICATE_WINDOW_MS,
      latest + DUPLICATE_WINDOW_MS,
    ],
  );
  return new Set(rows.map((row) => hashKey(row.header_hash)));
}

type Worker = { account_id: bigint; worker_id: bigint };

/** NUL parts the two, because stored text has none. */
function workerKey(share: ShareRecord): string {
  return `${storableText(share.account, ADDRESS_MAX)}\0${storableText(share.worker, WORKER_NAME_MAX)}`;
}

async function findOrMakeWorkers(
  tx: Tx,
  batch: readonly CheckedShare[],
): Promise<Map<string, Worker>> {
  const firstSeenMs = new Map<string, number>();
  for (const { share } of batch) {
    const key = workerKey(share);
    firstSeenMs.set(key, Math.min(firstSeenMs.get(key) ?? share.acceptedAtMs, share.acceptedAtMs));
  }
  const found = await findWorkers(tx, [...firstSeenMs.keys()]);
  const missing = [...firstSeenMs.keys()].filter((key) => !found.has(key));
  if (missing.length === 0) return found;
  const addresses = missing.map((key) => key.slice(0, key.indexOf('\0')));
  const names = missing.map((key) => key.slice(key.indexOf('\0') + 1));
  const seen = missing.map((key) => firstSeenMs.get(key));
  await tx.query(
    `INSERT INTO accounts (address, created_at)
     SELECT address, to_timestamp(min(seen_ms) / 1000.0)
     FROM unnest($1::text[], $2::bigint[]) AS given(address, seen_ms) GROUP BY address
     ON CONFLICT (address) DO NOTHING`,
    [addresses, seen],
  );
  await tx.query(
    `INSERT INTO workers (account_id, name, created_at, last_share_at)
     SELECT account_id, name, to_timestamp(seen_ms / 1000.0), to_timestamp(seen_ms / 1000.0)
     FROM unnest($1::text[], $2::text[], $3::bigint[]) AS given(address, name, seen_ms)
     JOIN accounts USING (address)
     ON CONFLICT (account_id, name) DO NOTHING`,
    [addresses, names, seen],
  );
  for (const [key, worker] of await findWorkers(tx, missing)) found.set(key, worker);
  return found;
}

async function findWorkers(tx: Tx, keys: readonly string[]): Promise<Map<string, Worker>> {
  const rows = await tx.query<Worker & { address: string; name: string }>(
    `SELECT address, workers.name, workers.account_id, worker_id
     FROM unnest($1::text[], $2::text[]) AS given(address, name)
     JOIN accounts USING (address)
     JOIN workers ON workers.account_id = accounts.account_id AND workers.name = given.name`,
    [
      keys.map((key) => key.slice(0, key.indexOf('\0'))),
      keys.map((key) => key.slice(key.indexOf('\0') + 1)),
    ],
  );
  return new Map(rows.map((row) => [`${row.address}\0${row.name}`, row]));
}

async function insertShares(
  tx: Tx,
  batch: readonly CheckedShare[],
  workers: ReadonlyMap<string, Worker>,
  lastSeq: bigint,
): Promise<void> {
  const owners = batch.map(({ share }) => workers.get(workerKey(share)) as Worker);
  await tx.query(
    `INSERT INTO shares (seq, accepted_at, account_id, worker_id, difficulty, share_difficulty, work,
                         height, is_block, audited, header_hash, job_id, gateway, pool, bits, job_value_sats)
     SELECT $1::bigint + number, to_timestamp(ms / 1000.0), account_id, worker_id, difficulty,
            share_difficulty, work, height, is_block, audited, header_hash, job_id, gateway, pool, bits,
            job_value_sats
     FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::float8[], $6::float8[], $7::numeric[],
                 $8::int[], $9::bool[], $10::bool[], $11::bytea[], $12::text[], $13::text[], $14::text[],
                 $15::bigint[], $16::bigint[])
          WITH ORDINALITY AS given(ms, account_id, worker_id, difficulty, share_difficulty, work,
                                   height, is_block, audited, header_hash, job_id, gateway, pool, bits,
                                   job_value_sats, number)`,
    [
      lastSeq,
      batch.map(({ share }) => share.acceptedAtMs),
      owners.map((owner) => owner.account_id),
      owners.map((owner) => owner.worker_id),
      batch.map(({ share }) => share.difficulty),
      batch.map(({ share }) => share.shareDifficulty),
      batch.map(({ share }) => workOfDifficulty(share.difficulty)),
      batch.map(({ share }) => share.height),
      batch.map(({ share }) => share.isBlock),
      batch.map(({ audited }) => audited),
      batch.map(({ share }) => share.headerHash),
      batch.map(({ share }) => storableText(share.jobId, JOB_ID_MAX)),
      batch.map(({ share }) => storableText(share.gateway, GATEWAY_MAX)),
      batch.map(({ share }) => storableText(share.pool || FIRST_POOL, POOL_MAX)),
      batch.map(({ share }) => share.networkBits),
      batch.map(({ share }) => share.jobValueSats),
    ],
  );
}

/** Rows are taken in order of worker, so that no two writers can wait for each other in a circle. */
async function countForWorkers(
  tx: Tx,
  batch: readonly CheckedShare[],
  workers: ReadonlyMap<string, Worker>,
): Promise<void> {
  const sums = new Map<
    string,
    { id: bigint; shares: number; work: bigint; best: number; lastMs: number }
  >();
  for (const { share } of batch) {
    const key = workerKey(share);
    const id = (workers.get(key) as Worker).worker_id;
    const sum = sums.get(key) ?? { id, shares: 0, work: 0n, best: 0, lastMs: 0 };
    sum.shares++;
    sum.work += workOfDifficulty(share.difficulty);
    sum.best = Math.max(sum.best, share.shareDifficulty);
    sum.lastMs = Math.max(sum.lastMs, share.acceptedAtMs);
    sums.set(key, sum);
  }
  const rows = [...sums.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  await tx.query(
    `UPDATE workers SET
       shares = workers.shares + given.shares,
       work = workers.work + given.work,
       best_difficulty = greatest(best_difficulty, given.best),
       last_share_at = greatest(last_share_at, to_timestamp(last_ms / 1000.0))
     FROM unnest($1::bigint[], $2::bigint[], $3::numeric[], $4::float8[], $5::bigint[])
          AS given(worker_id, shares, work, best, last_ms)
     WHERE workers.worker_id = given.worker_id`,
    [
      rows.map((row) => row.id),
      rows.map((row) => row.shares),
      rows.map((row) => row.work),
      rows.map((row) => row.best),
      rows.map((row) => row.lastMs),
    ],
  );
}

async function countForPool(tx: Tx, batch: readonly CheckedShare[]): Promise<void> {
  let work = 0n;
  let best = 0;
  let earliestMs = Number.POSITIVE_INFINITY;
  let latestMs = 0;
  for (const { share } of batch) {
    work += workOfDifficulty(share.difficulty);
    best = Math.max(best, share.shareDifficulty);
    earliestMs = Math.min(earliestMs, share.acceptedAtMs);
    latestMs = Math.max(latestMs, share.acceptedAtMs);
  }
  await tx.query(
    `UPDATE share_sequence SET last_seq = last_seq + $1, work = work + $2,
       best_difficulty = greatest(best_difficulty, $3),
       open_first_at = least(open_first_at, to_timestamp($4::bigint / 1000.0)),
       open_last_at = greatest(open_last_at, to_timestamp($5::bigint / 1000.0))`,
    [batch.length, work, best, earliestMs, latestMs],
  );
}

/** 32 bytes as a string of 32 characters: quicker to make than hex, and as good a key. */
function hashKey(hash: Uint8Array): string {
  return Buffer.from(hash.buffer, hash.byteOffset, hash.length).toString('latin1');
}

function utcDay(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
