/**
 * Rounds: what each block paid and for which shares. A round is written once, with all its credits; only its state changes, forward, by
 * compare-and-swap. The database refuses credits that with the fees are not the reward, and two standing rounds of one block.
 */
import type { Scheme } from '../core/ledger/rules.ts';
import type { StatementVersion } from '../core/ledger/statement.ts';
import type { Db } from '../ports.ts';

type Tx = Pick<Db, 'query'>;

export type RoundState = 'immature' | 'mature' | 'orphaned';

export type NewRound = {
  /** Wire order. The block stands in `blocks`. */
  blockHash: Uint8Array;
  /** 0, and one more each time the block came back into the chain. */
  generation: number;
  pool: string;
  scheme: Exclude<Scheme, 'pool'>;
  height: number;
  rewardSats: bigint;
  operatorSats: bigint;
  developerSats: bigint;
  /** Inclusive; `firstSeq` is `lastSeq` + 1 when the window is empty. */
  firstSeq: bigint;
  lastSeq: bigint;
  boundary: { seq: bigint; work: bigint; countedWork: bigint } | null;
  totalWork: bigint;
  wantedWork: bigint | null;
  /** A window by time begins after this moment; null for all others, and for those of statements of version 1. */
  afterMs: number | null;
  /** nBits of the block. */
  bits: number;
  foundAtMs: number;
  creditedAtMs: number;
  /** Of the statement's Merkle-sum tree. */
  root: Uint8Array;
  /** In which the statement is published. */
  statementVersion: StatementVersion;
  /** The posting; null where the ledger has none. */
  creditTx: bigint | null;
  /** None (the whole reward went elsewhere), or as many as make up reward less fees. */
  credits: readonly RoundCreditRow[];
};

export type RoundCreditRow = {
  accountId: bigint;
  work: bigint;
  feePpm: number;
  donationPpm: number;
  creditSats: bigint;
  /** By the coinbase itself; null where the ledger pays. */
  paidSats: bigint | null;
};

export type StoredRound = Omit<NewRound, 'credits'> & {
  roundId: bigint;
  state: RoundState;
  matureTx: bigint | null;
  reverseTx: bigint | null;
};

/** The block has this generation of its round already, and it says something else. */
export class RoundConflictError extends Error {}

/**
 * Writes a round and its credits. The same round again changes nothing; another one for the same block and generation throws a
 * RoundConflictError; a new generation while the one before still stands, the driver's error 23505.
 */
export async function recordRound(
  tx: Tx,
  round: NewRound,
): Promise<{ roundId: bigint; isNew: boolean }> {
  const [made] = await tx.query<{ round_id: bigint }>(
    `INSERT INTO rounds (block_hash, generation, pool, scheme, height, reward_sats, operator_sats, developer_sats, first_seq, last_seq,
       boundary_seq, boundary_work, boundary_counted, total_work, wanted_work, bits, found_at, credited_at, root, credit_tx,
       statement_version, after_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
       to_timestamp($17::bigint / 1000.0), to_timestamp($18::bigint / 1000.0), $19, $20, $21,
       to_timestamp($22::bigint / 1000.0))
     ON CONFLICT (block_hash, generation) DO NOTHING RETURNING round_id`,
    [
      round.blockHash,
      round.generation,
      round.pool,
      round.scheme,
      round.height,
      round.rewardSats,
      round.operatorSats,
      round.developerSats,
      round.firstSeq,
      round.lastSeq,
      round.boundary?.seq ?? null,
      round.boundary?.work ?? null,
      round.boundary?.countedWork ?? null,
      round.totalWork,
      round.wantedWork,
      round.bits,
      round.foundAtMs,
      round.creditedAtMs,
      round.root,
      round.creditTx,
      round.statementVersion,
      round.afterMs,
    ],
  );
  if (made === undefined) return { roundId: await findSameRound(tx, round), isNew: false };
  const { credits } = round;
  if (credits.length > 0) {
    await tx.query(
      `INSERT INTO round_credits (round_id, account_id, work, fee_ppm, donation_ppm, credit_sats, paid_sats)
       SELECT $1::bigint, account_id, work, fee_ppm, donation_ppm, credit_sats, paid_sats
       FROM unnest($2::bigint[], $3::numeric[], $4::int[], $5::int[], $6::bigint[], $7::bigint[])
            AS given(account_id, work, fee_ppm, donation_ppm, credit_sats, paid_sats)`,
      [
        made.round_id,
        credits.map((credit) => credit.accountId),
        credits.map((credit) => credit.work),
        credits.map((credit) => credit.feePpm),
        credits.map((credit) => credit.donationPpm),
        credits.map((credit) => credit.creditSats),
        credits.map((credit) => credit.paidSats),
      ],
    );
  }
  return { roundId: made.round_id, isNew: true };
}

/** The statement's root stands for all credits. */
async function findSameRound(tx: Tx, round: NewRound): Promise<bigint> {
  const [old] = await tx.query<RoundRow>(
    `SELECT ${COLUMNS} FROM rounds WHERE block_hash = $1 AND generation = $2`,
    [round.blockHash, round.generation],
  );
  if (!old) throw new Error('a round that was there is gone');
  const same =
    old.pool === round.pool &&
    old.scheme === round.scheme &&
    old.reward_sats === round.rewardSats &&
    old.operator_sats === round.operatorSats &&
    old.developer_sats === round.developerSats &&
    old.first_seq === round.firstSeq &&
    old.last_seq === round.lastSeq &&
    old.total_work === round.totalWork &&
    Buffer.compare(old.root, round.root) === 0;
  if (!same) {
    throw new RoundConflictError(
      `round ${old.round_id} of this block and generation says something else`,
    );
  }
  return old.round_id;
}

/**
 * Moves a round from one state to another, with the posting that did it: `mature` or, from either other state, `orphaned`. False: it
 * was not in state `from`, nothing was changed.
 */
export async function setRoundState(
  tx: Tx,
  change: { roundId: bigint; from: RoundState; to: 'mature' | 'orphaned'; txSeq: bigint | null },
): Promise<boolean> {
  const rows = await tx.query(
    `UPDATE rounds SET state = $3,
       mature_tx = CASE WHEN $3 = 'mature' THEN $4::bigint ELSE mature_tx END,
       reverse_tx = CASE WHEN $3 = 'orphaned' THEN $4::bigint ELSE reverse_tx END
     WHERE round_id = $1 AND state = $2 RETURNING round_id`,
    [change.roundId, change.from, change.to, change.txSeq],
  );
  return rows.length === 1;
}

type RoundRow = {
  round_id: bigint;
  block_hash: Uint8Array;
  generation: number;
  pool: string;
  scheme: Exclude<Scheme, 'pool'>;
  height: number;
  state: RoundState;
  reward_sats: bigint;
  operator_sats: bigint;
  developer_sats: bigint;
  first_seq: bigint;
  last_seq: bigint;
  boundary_seq: bigint | null;
  boundary_work: bigint | null;
  boundary_counted: bigint | null;
  total_work: bigint;
  wanted_work: bigint | null;
  after_at: Date | null;
  bits: bigint;
  found_at: Date;
  credited_at: Date;
  root: Uint8Array;
  statement_version: StatementVersion;
  credit_tx: bigint | null;
  mature_tx: bigint | null;
  reverse_tx: bigint | null;
};

const COLUMNS = `round_id, block_hash, generation, pool, scheme, height, state, reward_sats, operator_sats, developer_sats,
  first_seq, last_seq, boundary_seq, boundary_work, boundary_counted, total_work, wanted_work, after_at, bits, found_at,
  credited_at, root, statement_version, credit_tx, mature_tx, reverse_tx`;

function roundOf(row: RoundRow): StoredRound {
  return {
    roundId: row.round_id,
    blockHash: row.block_hash,
    generation: row.generation,
    pool: row.pool,
    scheme: row.scheme,
    height: row.height,
    state: row.state,
    rewardSats: row.reward_sats,
    operatorSats: row.operator_sats,
    developerSats: row.developer_sats,
    firstSeq: row.first_seq,
    lastSeq: row.last_seq,
    boundary:
      row.boundary_seq === null
        ? null
        : {
            seq: row.boundary_seq,
            work: row.boundary_work as bigint,
            countedWork: row.boundary_counted as bigint,
          },
    totalWork: row.total_work,
    wantedWork: row.wanted_work,
    afterMs: row.after_at?.getTime() ?? null,
    bits: Number(row.bits),
    foundAtMs: row.found_at.getTime(),
    creditedAtMs: row.credited_at.getTime(),
    root: row.root,
    statementVersion: row.statement_version,
    creditTx: row.credit_tx,
    matureTx: row.mature_tx,
    reverseTx: row.reverse_tx,
  };
}

/** Rounds, the newest first. `limit` is at most 1,000; go on with `beforeId`. */
export async function listRounds(
  db: Tx,
  options: { limit: number; beforeId?: bigint; pool?: string; state?: RoundState },
): Promise<StoredRound[]> {
  const rows = await db.query<RoundRow>(
    `SELECT ${COLUMNS} FROM rounds
     WHERE round_id < $1 AND ($2::text IS NULL OR pool = $2) AND ($3::text IS NULL OR state = $3)
     ORDER BY round_id DESC LIMIT $4`,
    [
      options.beforeId ?? 2n ** 63n - 1n,
      options.pool ?? null,
      options.state ?? null,
      Math.min(options.limit, 1_000),
    ],
  );
  return rows.map(roundOf);
}

/** A standing round that counts shares, and what is needed to take it back. */
export type StandingRound = {
  roundId: bigint;
  blockHash: Uint8Array;
  generation: number;
  height: number;
  state: 'immature' | 'mature';
  firstSeq: bigint;
  lastSeq: bigint;
  creditTx: bigint | null;
};

/**
 * Standing PROP rounds of a pool, of other blocks than this one, that count shares from `firstSeq` to `lastSeq`: shares that are paid
 * already. By where they end, newest first; at most 1,000.
 */
export async function listPropOverlaps(
  tx: Tx,
  window: { pool: string; blockHash: Uint8Array; firstSeq: bigint; lastSeq: bigint },
): Promise<StandingRound[]> {
  const rows = await tx.query<RoundRow & { state: StandingRound['state'] }>(
    `SELECT ${COLUMNS} FROM rounds
     WHERE pool = $1 AND block_hash <> $2 AND scheme = 'prop' AND state <> 'orphaned'
       AND last_seq >= $3 AND first_seq <= $4 AND first_seq <= last_seq
     ORDER BY last_seq DESC LIMIT 1000`,
    [window.pool, window.blockHash, window.firstSeq, window.lastSeq],
  );
  return rows.map((row) => ({
    roundId: row.round_id,
    blockHash: row.block_hash,
    generation: row.generation,
    height: row.height,
    state: row.state,
    firstSeq: row.first_seq,
    lastSeq: row.last_seq,
    creditTx: row.credit_tx,
  }));
}

/** All generations of a block's round, the first one first. */
export async function roundsOfBlock(db: Tx, blockHash: Uint8Array): Promise<StoredRound[]> {
  const rows = await db.query<RoundRow>(
    `SELECT ${COLUMNS} FROM rounds WHERE block_hash = $1 ORDER BY generation`,
    [blockHash],
  );
  return rows.map(roundOf);
}

/** One round with its credits, by account. By a block's hash (wire order) it is the newest generation. */
export async function readRound(
  db: Tx,
  which: Uint8Array | bigint,
): Promise<(StoredRound & { credits: (RoundCreditRow & { address: string })[] }) | null> {
  const [row] = await db.query<RoundRow>(
    typeof which === 'bigint'
      ? `SELECT ${COLUMNS} FROM rounds WHERE round_id = $1`
      : `SELECT ${COLUMNS} FROM rounds WHERE block_hash = $1 ORDER BY generation DESC LIMIT 1`,
    [which],
  );
  if (!row) return null;
  const credits = await db.query<{
    account_id: bigint;
    address: string;
    work: bigint;
    fee_ppm: number;
    donation_ppm: number;
    credit_sats: bigint;
    paid_sats: bigint | null;
  }>(
    `SELECT account_id, address, work, fee_ppm, donation_ppm, credit_sats, paid_sats
     FROM round_credits JOIN accounts USING (account_id) WHERE round_id = $1 ORDER BY account_id`,
    [row.round_id],
  );
  return {
    ...roundOf(row),
    credits: credits.map((credit) => ({
      accountId: credit.account_id,
      address: credit.address,
      work: credit.work,
      feePpm: credit.fee_ppm,
      donationPpm: credit.donation_ppm,
      creditSats: credit.credit_sats,
      paidSats: credit.paid_sats,
    })),
  };
}
