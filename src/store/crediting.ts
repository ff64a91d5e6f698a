/**
 * What crediting reads beside shares, postings and rounds: finds to look at with their newest round, the sums that must be zero, and the
 * operator's word on a block that left the chain after its reward was spendable.
 */
import { encodeHex, encodeHexReversed } from '../core/bitcoin/bytes.ts';
import type { Scheme } from '../core/ledger/rules.ts';
import type { Db } from '../ports.ts';
import {
  type LedgerAccount,
  type LedgerKind,
  lockLedger,
  postLedger,
  recordNote,
} from './ledger.ts';
import { type RoundState, setRoundState } from './rounds.ts';

type Tx = Pick<Db, 'query'>;

/** A block of ours, and what the ledger did with it last. */
export type KnownFind = {
  hash: Uint8Array;
  height: number;
  pool: string;
  /** These four are null until the record of the find is there; its outcome may come first. */
  header: Uint8Array | null;
  coinbase: Uint8Array | null;
  account: string | null;
  foundAtMs: number | null;
  round: LastRound | null;
};

export type LastRound = {
  roundId: bigint;
  scheme: Exclude<Scheme, 'pool'>;
  generation: number;
  state: RoundState;
  creditTx: bigint | null;
  /** Kind of the posting that took it back; null: none did, or there was nothing to take back. */
  reversedBy: string | null;
  reverseTx: bigint | null;
};

type FindRow = {
  hash: Uint8Array;
  height: number;
  pool: string;
  header: Uint8Array | null;
  coinbase: Uint8Array | null;
  address: string | null;
  found_at: Date | null;
  round_id: bigint | null;
  scheme: LastRound['scheme'] | null;
  generation: number | null;
  state: RoundState | null;
  credit_tx: bigint | null;
  reverse_tx: bigint | null;
  reversed_by: string | null;
};

/** Answers of `listFinds` at most; the rest comes when these are done with. */
export const FINDS_MAX = 10_000;

/**
 * Finds that may need something: all above a height and all with an immature round; with `forgotten` also older ones that have no
 * round. Lowest height first.
 */
export async function listFinds(
  db: Tx,
  options: { aboveHeight: number; forgotten: boolean },
): Promise<KnownFind[]> {
  const rows = await db.query<FindRow>(
    `SELECT blocks.hash, blocks.height, blocks.pool, header, coinbase, address, blocks.found_at,
            last.round_id, last.scheme, last.generation, last.state, last.credit_tx, last.reverse_tx,
            reversal.kind AS reversed_by
     FROM blocks LEFT JOIN accounts USING (account_id)
     LEFT JOIN LATERAL (
       SELECT * FROM rounds WHERE block_hash = blocks.hash ORDER BY generation DESC LIMIT 1
     ) AS last ON true
     LEFT JOIN ledger_transactions AS reversal ON reversal.tx_seq = last.reverse_tx
     WHERE blocks.height > $1
        OR blocks.hash IN (SELECT block_hash FROM rounds WHERE state = 'immature')
        OR ($2 AND NOT EXISTS (SELECT FROM rounds WHERE block_hash = blocks.hash))
     ORDER BY blocks.height, blocks.found_at, blocks.hash LIMIT ${FINDS_MAX}`,
    [options.aboveHeight, options.forgotten],
  );
  return rows.map((row) => ({
    hash: row.hash,
    height: row.height,
    pool: row.pool,
    header: row.header,
    coinbase: row.coinbase,
    account: row.address,
    foundAtMs: row.found_at?.getTime() ?? null,
    round:
      row.round_id === null
        ? null
        : {
            roundId: row.round_id,
            scheme: row.scheme as LastRound['scheme'],
            generation: row.generation as number,
            state: row.state as RoundState,
            creditTx: row.credit_tx,
            reverseTx: row.reverse_tx,
            reversedBy: row.reversed_by,
          },
  }));
}

/** The newest round of a block: its id, generation and state. */
export async function readLastRound(
  tx: Tx,
  hash: Uint8Array,
): Promise<{ roundId: bigint; generation: number; state: RoundState } | null> {
  const [row] = await tx.query<{
    round_id: bigint;
    generation: number;
    state: RoundState;
  }>(
    `SELECT round_id, generation, state FROM rounds WHERE block_hash = $1
     ORDER BY generation DESC LIMIT 1`,
    [hash],
  );
  return row === undefined
    ? null
    : { roundId: row.round_id, generation: row.generation, state: row.state };
}

/** Standing rounds of a pool by where their windows end, newest first, at most 1,000. For PROP: where the round before ended. */
export async function listStandingEnds(
  db: Tx,
  options: { pool: string; belowSeq: bigint },
): Promise<{ hash: Uint8Array; height: number; lastSeq: bigint; state: 'immature' | 'mature' }[]> {
  const rows = await db.query<{
    block_hash: Uint8Array;
    height: number;
    last_seq: bigint;
    state: 'immature' | 'mature';
  }>(
    `SELECT block_hash, height, last_seq, state FROM rounds
     WHERE pool = $1 AND last_seq < $2 AND state <> 'orphaned' ORDER BY last_seq DESC LIMIT 1000`,
    [options.pool, options.belowSeq],
  );
  return rows.map((row) => ({
    hash: row.block_hash,
    height: row.height,
    lastSeq: row.last_seq,
    state: row.state,
  }));
}

/** The entries of one posting. */
export async function readEntries(
  db: Tx,
  txSeq: bigint,
): Promise<{ account: LedgerAccount; sats: bigint }[]> {
  const rows = await db.query<{
    kind: LedgerKind;
    pool: string;
    account_id: bigint | null;
    amount: bigint;
  }>(
    `SELECT kind, pool, account_id, amount
     FROM ledger_entries JOIN ledger_accounts USING (ledger_account_id)
     WHERE tx_seq = $1 ORDER BY ordinal`,
    [txSeq],
  );
  return rows.map(({ kind, pool, account_id, amount }) => ({
    account: {
      kind,
      ...(pool === '' ? {} : { pool }),
      ...(account_id === null ? {} : { accountId: account_id }),
    },
    sats: amount,
  }));
}

/** The number of the newest share of all pools; everything below it is there, too. */
export async function readLastSeq(db: Tx): Promise<bigint> {
  const [row] = await db.query<{ last_seq: bigint }>('SELECT last_seq FROM share_sequence');
  return row?.last_seq ?? 0n;
}

/**
 * The quick check of every few cycles: all balances together are zero, and so are the carries of each pool. The whole audit is
 * `auditLedger`. Answers what is wrong, in words.
 */
export async function checkSums(db: Tx): Promise<string[]> {
  const rows = await db.query<{ what: string; total: bigint }>(
    `SELECT 'all accounts' AS what, sum(balance) AS total FROM ledger_accounts HAVING sum(balance) <> 0
     UNION ALL
     SELECT 'carries of pool ' || pool, sum(balance) FROM ledger_accounts
     WHERE kind = 'carry' GROUP BY pool HAVING sum(balance) <> 0`,
  );
  return rows.map(({ what, total }) => `${what} sum to ${total} sat instead of 0`);
}

/** How many rounds each pool has in each state. */
export async function countRounds(
  db: Tx,
): Promise<{ pool: string; state: RoundState; rounds: number }[]> {
  const rows = await db.query<{ pool: string; state: RoundState; rounds: bigint }>(
    'SELECT pool, state, count(*) AS rounds FROM rounds GROUP BY pool, state ORDER BY pool, state',
  );
  return rows.map((row) => ({ ...row, rounds: Number(row.rounds) }));
}

const PROPOSED = 'reversal-proposed';
const WITHDRAWN = 'reversal-withdrawn';
const CONFIRMED = 'reversal-confirmed';
const ACTIONS = [PROPOSED, WITHDRAWN, CONFIRMED];

/** A block that left the chain after its reward was spendable; what to do about it waits for the operator. */
export type ProposedReversal = {
  hash: Uint8Array;
  roundId: bigint;
  height: number;
  pool: string;
  rewardSats: bigint;
};

/** Blocks whose reversal was proposed and neither withdrawn nor confirmed. */
export async function listProposedReversals(db: Tx): Promise<ProposedReversal[]> {
  const rows = await db.query<{
    block_hash: Uint8Array;
    round_id: bigint;
    height: number;
    pool: string;
    reward_sats: bigint;
  }>(
    `SELECT block_hash, round_id, height, pool, reward_sats
     FROM (SELECT DISTINCT ON (detail->>'block') decode(detail->>'block', 'hex') AS hash, action
           FROM ledger_notes WHERE action = ANY($1::text[])
           ORDER BY detail->>'block', note_id DESC) AS last
     JOIN rounds ON block_hash = hash AND state = 'mature'
     WHERE last.action = $2 ORDER BY height`,
    [ACTIONS, PROPOSED],
  );
  return rows.map((row) => ({
    hash: row.block_hash,
    roundId: row.round_id,
    height: row.height,
    pool: row.pool,
    rewardSats: row.reward_sats,
  }));
}

/**
 * Keeps on record that a block has left the chain after its reward became spendable (`proposed`), or has come back (not). Repeating it
 * changes nothing. True when it was news.
 */
export async function noteReversal(
  db: Db,
  hash: Uint8Array,
  said: { proposed: boolean; actor: string; reason: string; atMs: number },
): Promise<boolean> {
  return db.transaction(async (tx) => {
    await lockLedger(tx);
    if ((await isProposed(tx, hash)) === said.proposed) return false;
    await recordNote(tx, {
      atMs: said.atMs,
      actor: said.actor,
      action: said.proposed ? PROPOSED : WITHDRAWN,
      detail: { block: encodeHex(hash), reason: said.reason },
    });
    return true;
  });
}

async function isProposed(tx: Tx, hash: Uint8Array): Promise<boolean> {
  const open = await listProposedReversals(tx);
  return open.some((one) => Buffer.compare(one.hash, hash) === 0);
}

export type ReversalAnswer =
  | { ok: true; lossSats: bigint; txSeq: bigint | null }
  | { ok: false; reason: string };

/**
 * The operator's word that a mature block is gone for good (`headframe ledger reverse`). What its round brought in is posted as the
 * pool's loss; what miners were credited stays theirs and their history is untouched, so nobody goes below zero. Refused unless the
 * reversal was proposed by the one who watches the chain. Payouts stay halted: releasing them is another decision. `hash` is in wire
 * order.
 */
export async function confirmReversal(
  db: Db,
  order: { hash: Uint8Array; actor: string; reason: string; atMs: number },
): Promise<ReversalAnswer> {
  const { hash, actor, reason, atMs } = order;
  return db.transaction(async (tx) => {
    await lockLedger(tx);
    const [round] = await tx.query<{
      round_id: bigint;
      generation: number;
      credit_tx: bigint | null;
    }>(
      `SELECT round_id, generation, credit_tx FROM rounds
       WHERE block_hash = $1 AND state = 'mature' FOR UPDATE`,
      [hash],
    );
    if (round === undefined)
      return { ok: false, reason: 'no mature round has this block, or it is reversed already' };
    if (!(await isProposed(tx, hash)))
      return { ok: false, reason: 'nobody has seen this block leave the chain for good' };
    const entries = round.credit_tx === null ? [] : await readEntries(tx, round.credit_tx);
    // What came from the chain stands there with a minus.
    let lossSats = 0n;
    for (const { account, sats } of entries) if (account.kind === 'chain') lossSats -= sats;
    const posted =
      lossSats === 0n
        ? null
        : await postLedger(tx, {
            key: `loss:${encodeHexReversed(hash)}:${round.generation}`,
            kind: 'loss',
            atMs,
            actor,
            reason,
            blockHash: hash,
            entries: [
              { account: { kind: 'chain' }, sats: lossSats },
              { account: { kind: 'loss' }, sats: -lossSats },
            ],
          });
    const txSeq = posted?.txSeq ?? null;
    await setRoundState(tx, { roundId: round.round_id, from: 'mature', to: 'orphaned', txSeq });
    await recordNote(tx, {
      atMs,
      actor,
      action: CONFIRMED,
      detail: { block: encodeHex(hash), reason, lossSats },
    });
    return { ok: true, lossSats, txSeq };
  });
}

/**
 * All carries of a pool that are not zero, by account id, and of those who owe whether they have left: nothing was earned by them or
 * paid to them in scheme direct since `goneBeforeMs`.
 */
export async function listCarries(
  tx: Tx,
  options: { pool: string; goneBeforeMs: number },
): Promise<{ accountId: bigint; carrySats: bigint; hasLeft: boolean }[]> {
  const [recent] = await tx.query<{ seq: bigint | null }>(
    'SELECT min(tx_seq) AS seq FROM ledger_transactions WHERE at >= to_timestamp($1::bigint / 1000.0)',
    [options.goneBeforeMs],
  );
  const rows = await tx.query<{ account_id: bigint; balance: bigint; has_left: boolean }>(
    `SELECT account_id, balance,
            balance < 0 AND NOT EXISTS (
              SELECT FROM ledger_accounts AS own JOIN ledger_entries USING (ledger_account_id)
              WHERE own.account_id = carried.account_id AND own.kind IN ('carry', 'paid') AND tx_seq >= $2
            ) AS has_left
     FROM ledger_accounts AS carried WHERE kind = 'carry' AND pool = $1 AND balance <> 0
     ORDER BY account_id`,
    [options.pool, recent?.seq ?? 2n ** 63n - 1n],
  );
  return rows.map((row) => ({
    accountId: row.account_id,
    carrySats: row.balance,
    hasLeft: row.has_left,
  }));
}
