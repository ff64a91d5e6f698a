/**
 * Found blocks and what became of them. A block is known by its hash, never by its height. Find and outcome may come in either order
 * and more than once.
 */
import type { BlockCandidate, BlockOutcome, BlockState } from '../messages/block.ts';
import type { Db } from '../ports.ts';
import { storableText } from './text.ts';

const ADDRESS_MAX = 512;
const WORKER_NAME_MAX = 128;
const DETAIL_MAX = 1_000;
const POOL_MAX = 16;
const PLAN_ID_MAX = 16;

export type StoredBlock = {
  hash: Uint8Array;
  height: number;
  state: BlockState;
  stateAtMs: number;
  confirmations: number;
  /** The following are null while only an outcome is known. */
  account: string | null;
  worker: string | null;
  jobId: string | null;
  foundAtMs: number | null;
  networkDifficulty: number | null;
  rewardSats: bigint | null;
  /** `main` while only an outcome is known. */
  pool: string;
  /** Scheme direct: the plan its coinbase was made from; empty when none. */
  planId: string;
};

export type BlockEvent = {
  state: BlockState;
  node: string;
  detail: string;
  confirmations: number;
  atMs: number;
};

/** Writes the record of a find; a second time changes nothing. */
export async function recordCandidate(
  db: Pick<Db, 'transaction'>,
  candidate: BlockCandidate,
): Promise<void> {
  const address = storableText(candidate.account, ADDRESS_MAX);
  await db.transaction(async (tx) => {
    await tx.query(
      `INSERT INTO accounts (address, created_at) VALUES ($1, to_timestamp($2::bigint / 1000.0))
       ON CONFLICT (address) DO NOTHING`,
      [address, candidate.foundAtMs],
    );
    await tx.query(
      `INSERT INTO blocks (hash, height, state, state_at, account_id, worker, job_id, header, coinbase,
                           found_at, network_difficulty, reward_sats, pool, plan_id)
       SELECT $1, $2, 'found', to_timestamp($3::bigint / 1000.0), account_id, $4, $5, $6, $7,
              to_timestamp($3::bigint / 1000.0), $8, $9, $11, $12
       FROM accounts WHERE address = $10
       ON CONFLICT (hash) DO UPDATE SET
         account_id = excluded.account_id, worker = excluded.worker, job_id = excluded.job_id,
         header = excluded.header, coinbase = excluded.coinbase, found_at = excluded.found_at,
         network_difficulty = excluded.network_difficulty, reward_sats = excluded.reward_sats,
         pool = excluded.pool, plan_id = excluded.plan_id
       WHERE blocks.header IS NULL`,
      [
        candidate.headerHash,
        candidate.height,
        candidate.foundAtMs,
        storableText(candidate.worker, WORKER_NAME_MAX),
        candidate.jobId,
        candidate.header,
        candidate.coinbase,
        candidate.networkDifficulty,
        candidate.rewardSats,
        address,
        storableText(candidate.pool, POOL_MAX),
        storableText(candidate.planId, PLAN_ID_MAX),
      ],
    );
  });
}

/**
 * Appends the step to the block's history and, unless a later one is already there, makes it the block's state. Of two steps of the
 * same millisecond the more final one counts.
 */
export async function recordOutcome(
  db: Pick<Db, 'transaction'>,
  outcome: BlockOutcome,
): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.query(
      `INSERT INTO blocks (hash, height, state, state_at, confirmations)
       VALUES ($1, $2, $3, to_timestamp($4::bigint / 1000.0), $5)
       ON CONFLICT (hash) DO NOTHING`,
      [outcome.headerHash, outcome.height, outcome.state, outcome.atMs, outcome.confirmations],
    );
    await tx.query(
      `INSERT INTO block_events (block_hash, state, node, detail, confirmations, at)
       VALUES ($1, $2, $3, $4, $5, to_timestamp($6::bigint / 1000.0))
       ON CONFLICT DO NOTHING`,
      [
        outcome.headerHash,
        outcome.state,
        storableText(outcome.node, DETAIL_MAX),
        storableText(outcome.detail, DETAIL_MAX),
        outcome.confirmations,
        outcome.atMs,
      ],
    );
    await tx.query(
      `UPDATE blocks SET state = $2, state_at = to_timestamp($3::bigint / 1000.0), confirmations = $4
       WHERE hash = $1 AND (state_at, array_position($5::text[], state))
         <= (to_timestamp($3::bigint / 1000.0), array_position($5::text[], $2::text))`,
      [outcome.headerHash, outcome.state, outcome.atMs, outcome.confirmations, STATES],
    );
  });
}

/** From least to most final. */
const STATES: readonly BlockState[] = [
  'found',
  'submitted',
  'side',
  'accepted',
  'refused',
  'orphaned',
  'confirmed',
];

type BlockRow = {
  hash: Uint8Array;
  height: number;
  state: BlockState;
  state_at: Date;
  confirmations: number;
  address: string | null;
  worker: string | null;
  job_id: string | null;
  found_at: Date | null;
  network_difficulty: number | null;
  reward_sats: bigint | null;
  pool: string;
  plan_id: string;
};

/** The newest blocks first. `limit` is at most 1,000. */
export async function listBlocks(
  db: Pick<Db, 'query'>,
  options: { limit: number; belowHeight?: number },
): Promise<StoredBlock[]> {
  const rows = await db.query<BlockRow>(
    `SELECT hash, height, state, state_at, confirmations, address, worker, job_id, found_at,
            network_difficulty, reward_sats, pool, plan_id
     FROM blocks LEFT JOIN accounts USING (account_id)
     WHERE height < $2
     ORDER BY height DESC, state_at DESC LIMIT $1`,
    [Math.min(options.limit, 1_000), options.belowHeight ?? 2 ** 31 - 1],
  );
  return rows.map((row) => ({
    hash: row.hash,
    height: row.height,
    state: row.state,
    stateAtMs: row.state_at.getTime(),
    confirmations: row.confirmations,
    account: row.address,
    worker: row.worker,
    jobId: row.job_id,
    foundAtMs: row.found_at?.getTime() ?? null,
    networkDifficulty: row.network_difficulty,
    rewardSats: row.reward_sats,
    pool: row.pool,
    planId: row.plan_id,
  }));
}

/** The history of one block, oldest first, at most 1,000 steps. */
export async function listBlockEvents(
  db: Pick<Db, 'query'>,
  hash: Uint8Array,
): Promise<BlockEvent[]> {
  const rows = await db.query<Omit<BlockEvent, 'atMs'> & { at: Date }>(
    `SELECT state, node, detail, confirmations, at FROM block_events
     WHERE block_hash = $1 ORDER BY at, event_id LIMIT 1000`,
    [hash],
  );
  return rows.map(({ at, ...event }) => ({ ...event, atMs: at.getTime() }));
}
