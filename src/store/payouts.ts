/**
 * Payout batches and what became of them: planned, reserved, built, exported (cold), signed, broadcast, seen, confirmed, settled, or
 * released, or in a person's hands (manual). The tables are described in `sql/0004.sql`.
 *
 * Every function is one database transaction that locks the batch, looks at its state, and changes nothing when the state is not
 * one it may start from; so two payers may call anything at once, and a call repeated after a lost commit does nothing. Moves that
 * bring money closer to leaving also ask the kill switch. No function here speaks with a node.
 */
import {
  decodeHex,
  decodeHexReversed,
  encodeHex,
  encodeHexReversed,
} from '../core/bitcoin/bytes.ts';
import type { Network } from '../core/bitcoin/network.ts';
import { readPsbt, sameSkeleton } from '../core/bitcoin/psbt.ts';
import { decodeTx } from '../core/bitcoin/tx.ts';
import {
  type DueAccount,
  type PayoutPlan,
  type PlannedBatch,
  payableScript,
  planPayout,
} from '../core/ledger/payout.ts';
import type { PayoutPolicy } from '../core/ledger/rules.ts';
import type { Db } from '../ports.ts';
import { type LedgerAccount, lockLedger, postLedger } from './ledger.ts';
import { storableText } from './text.ts';

export type BatchState =
  | 'planned'
  | 'reserved'
  | 'built'
  | 'exported'
  | 'signed'
  | 'broadcast'
  | 'seen'
  | 'confirmed'
  | 'settled'
  | 'released'
  | 'manual';

export type GenerationState =
  | 'built'
  | 'exported'
  | 'signed'
  | 'broadcast'
  | 'seen'
  | 'confirmed'
  | 'superseded'
  | 'dead';

export type PayoutBatch = {
  batchId: bigint;
  state: BatchState;
  signing: 'hot' | 'cold';
  feePolicy: 'pool' | 'miner';
  createdAtMs: number;
  stateAtMs: number;
  totalSats: bigint;
  /** Why it waits, was released or needs a person; empty when all is well. */
  reason: string;
};

export type BatchItem = {
  accountId: bigint;
  address: string;
  script: Uint8Array;
  amountSats: bigint;
  feeSats: bigint;
  open: boolean;
};

export type BatchGeneration = {
  generation: number;
  psbt: string;
  signedPsbt: string | null;
  raw: Uint8Array | null;
  /** Wire order. */
  txid: Uint8Array | null;
  feeSats: bigint;
  vsize: number;
  state: GenerationState;
  madeAtMs: number;
  broadcastAtMs: number | null;
  sentAtMs: number | null;
  seenAtMs: number | null;
  blockHash: Uint8Array | null;
  confirmations: number;
};

export type BatchInput = { txid: Uint8Array; vout: number; valueSats: bigint; active: boolean };

export type BatchEvent = { atMs: number; actor: string; event: string; detail: string };

/** A batch with everything that belongs to it. */
export type BatchDetail = PayoutBatch & {
  items: BatchItem[];
  generations: BatchGeneration[];
  inputs: BatchInput[];
  events: BatchEvent[];
};

export type PayoutControl = {
  halted: boolean;
  haltReason: string;
  haltedBy: string;
  haltedAtMs: number | null;
  runRequestedAtMs: number | null;
  lastRunAtMs: number | null;
  scannedBlock: Uint8Array | null;
  shortSinceMs: number | null;
};

/** Who does something to payouts, when, and why. */
export type Deed = { actor: string; reason: string; atMs: number };

type Answer = { ok: true } | { ok: false; reason: string };
type Tx = Pick<Db, 'query'>;

const REASON_MAX = 500;
const TEXT_MAX = 4_000_000;
/** Batches that are looked at in one cycle; more wait. */
const OPEN_BATCHES_MAX = 200;
const EVENTS_MAX = 1_000;
const DAY_MS = 86_400_000;

/** States from which nothing signed can have left: the money can be given back without asking the chain. */
const RELEASABLE: readonly BatchState[] = ['planned', 'reserved', 'built'];

// --- the kill switch and the schedule ---------------------------------------------------------------------------------------

/** The one row of control. */
export async function readControl(db: Tx): Promise<PayoutControl> {
  const [row] = await db.query<{
    halted: boolean;
    halt_reason: string;
    halted_by: string;
    halted_at: Date | null;
    run_requested_at: Date | null;
    last_run_at: Date | null;
    scanned_block: Uint8Array | null;
    short_since: Date | null;
  }>('SELECT * FROM payout_control');
  if (row === undefined) throw new Error('the row of payout_control is missing');
  return {
    halted: row.halted,
    haltReason: row.halt_reason,
    haltedBy: row.halted_by,
    haltedAtMs: row.halted_at?.getTime() ?? null,
    runRequestedAtMs: row.run_requested_at?.getTime() ?? null,
    lastRunAtMs: row.last_run_at?.getTime() ?? null,
    scannedBlock: row.scanned_block,
    shortSinceMs: row.short_since?.getTime() ?? null,
  };
}

/** Stops all payouts, in whatever state they are; mining goes on. The first reason is kept. False when they were stopped already. */
export async function holdPayouts(db: Db, deed: Deed): Promise<boolean> {
  return db.transaction((tx) => halt(tx, deed));
}

async function halt(tx: Tx, deed: Deed): Promise<boolean> {
  const changed = await tx.query(
    `UPDATE payout_control SET halted = true, halt_reason = $1, halted_by = $2,
            halted_at = to_timestamp($3::bigint / 1000.0)
     WHERE NOT halted RETURNING 1`,
    [storableText(deed.reason, REASON_MAX), storableText(deed.actor, 100), deed.atMs],
  );
  if (changed.length > 0) await note(tx, null, deed.actor, 'hold', deed.reason, deed.atMs);
  return changed.length > 0;
}

/** Lets payouts run again. False when they were not stopped. */
export async function releasePayouts(db: Db, deed: Deed): Promise<boolean> {
  return db.transaction(async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_control SET halted = false, halt_reason = '', halted_by = '', halted_at = NULL, short_since = NULL
       WHERE halted RETURNING 1`,
    );
    if (changed.length > 0) await note(tx, null, deed.actor, 'release', deed.reason, deed.atMs);
    return changed.length > 0;
  });
}

/** Asks for payouts at the next cycle, whatever the schedule says. */
export async function runPayouts(db: Db, deed: Deed): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.query(
      'UPDATE payout_control SET run_requested_at = to_timestamp($1::bigint / 1000.0)',
      [deed.atMs],
    );
    await note(tx, null, deed.actor, 'run', deed.reason, deed.atMs);
  });
}

/** Remembers how far the wallet's history was looked at, and spends that are known from now on. Both or neither. */
export async function noteScan(
  db: Db,
  scan: { block: Uint8Array; known: readonly { txid: Uint8Array; note: string }[]; atMs: number },
): Promise<void> {
  await db.transaction(async (tx) => {
    for (const spend of scan.known) await insertSpend(tx, { ...spend, atMs: scan.atMs });
    await tx.query('UPDATE payout_control SET scanned_block = $1', [scan.block]);
  });
}

/** The operator explains a spend of the wallet that is no payout; it is doubt no longer. `txidDisplay` as people write it. */
export async function noteSpend(db: Db, txidDisplay: string, deed: Deed): Promise<Answer> {
  const txid = /^[0-9a-f]{64}$/.test(txidDisplay) ? decodeHexReversed(txidDisplay) : null;
  if (txid === null) return { ok: false, reason: 'a transaction id is 64 hex digits' };
  await db.transaction((tx) => knowSpend(tx, txid, deed));
  return { ok: true };
}

/** A spend of the wallet that is no payout is known from now on. `txid` in wire order. */
export async function knowSpend(tx: Tx, txid: Uint8Array, deed: Deed): Promise<void> {
  const { actor, reason, atMs } = deed;
  await insertSpend(tx, { txid, note: reason, atMs });
  await note(tx, null, actor, 'spend-known', `${encodeHexReversed(txid)}: ${reason}`, atMs);
}

/** The batch that a transaction of ours pays, confirmed or not; null when it is none of ours. `txid` in wire order. */
export async function batchOfTransaction(tx: Tx, txid: Uint8Array): Promise<bigint | null> {
  const [row] = await tx.query<{ batch_id: bigint }>(
    'SELECT batch_id FROM payout_generations WHERE txid = $1',
    [txid],
  );
  return row?.batch_id ?? null;
}

async function insertSpend(
  tx: Tx,
  spend: { txid: Uint8Array; note: string; atMs: number },
): Promise<void> {
  await tx.query(
    `INSERT INTO known_spends (txid, note, at) VALUES ($1, $2, to_timestamp($3::bigint / 1000.0))
     ON CONFLICT DO NOTHING`,
    [spend.txid, storableText(spend.note, REASON_MAX), spend.atMs],
  );
}

/** Which of these transactions are neither payouts of ours nor known. */
export async function unknownSpends(db: Tx, txids: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const rows = await db.query<{ txid: Uint8Array }>(
    `SELECT txid FROM unnest($1::bytea[]) AS asked (txid)
     WHERE NOT EXISTS (SELECT FROM payout_generations g WHERE g.txid = asked.txid)
       AND NOT EXISTS (SELECT FROM known_spends k WHERE k.txid = asked.txid)`,
    [txids],
  );
  return rows.map((row) => row.txid);
}

/** Notes since when spendable coins do not cover what is owed; null when they do. Answers since when. */
export async function noteShortage(db: Tx, atMs: number | null): Promise<number | null> {
  const [row] = await db.query<{ short_since: Date | null }>(
    `UPDATE payout_control
     SET short_since = CASE WHEN $1::bigint IS NULL THEN NULL
                            ELSE coalesce(short_since, to_timestamp($1::bigint / 1000.0)) END
     RETURNING short_since`,
    [atMs],
  );
  return row?.short_since?.getTime() ?? null;
}

/** An account whose address the wallet refuses waits for a person. */
export async function quarantineAccount(db: Db, accountId: bigint, deed: Deed): Promise<void> {
  await db.transaction(async (tx) => {
    const isNew = await tx.query(
      `INSERT INTO payout_quarantine (account_id, reason, at)
       VALUES ($1, $2, to_timestamp($3::bigint / 1000.0)) ON CONFLICT DO NOTHING RETURNING 1`,
      [accountId, storableText(deed.reason, REASON_MAX), deed.atMs],
    );
    if (isNew.length > 0)
      await note(
        tx,
        null,
        deed.actor,
        'quarantine',
        `account ${accountId}: ${deed.reason}`,
        deed.atMs,
      );
  });
}

/** The account is paid again. False when it was not in quarantine. */
export async function liftQuarantine(db: Db, accountId: bigint, deed: Deed): Promise<boolean> {
  return db.transaction(async (tx) => {
    const gone = await tx.query('DELETE FROM payout_quarantine WHERE account_id = $1 RETURNING 1', [
      accountId,
    ]);
    if (gone.length > 0)
      await note(
        tx,
        null,
        deed.actor,
        'quarantine-lifted',
        `account ${accountId}: ${deed.reason}`,
        deed.atMs,
      );
    return gone.length > 0;
  });
}

/** Accounts in quarantine, with why; at most 1,000. */
export async function listQuarantine(
  db: Tx,
): Promise<{ accountId: bigint; address: string; reason: string; atMs: number }[]> {
  const rows = await db.query<{ account_id: bigint; address: string; reason: string; at: Date }>(
    `SELECT account_id, address, reason, at FROM payout_quarantine JOIN accounts USING (account_id)
     ORDER BY account_id LIMIT 1000`,
  );
  return rows.map((row) => ({
    accountId: row.account_id,
    address: row.address,
    reason: row.reason,
    atMs: row.at.getTime(),
  }));
}

// --- planning ---------------------------------------------------------------------------------------------------------------

/** What would be paid now, and who would be left out and why. Changes nothing. */
export async function planPayouts(
  db: Tx,
  options: {
    policy: PayoutPolicy;
    network: Network;
    nowMs: number;
    /** What a transaction would pay now; without it the cap of fees is not looked at. */
    feeSatsPerKvb?: bigint;
  },
): Promise<PayoutPlan> {
  const accounts = await dueAccounts(db);
  const [day] = await db.query<{ sats: bigint }>(
    `SELECT coalesce(sum(total_sats), 0)::bigint AS sats FROM payout_batches
     WHERE created_at > to_timestamp($1::bigint / 1000.0) AND state <> 'released'`,
    [options.nowMs - DAY_MS],
  );
  return planPayout(accounts, options.policy, {
    network: options.network,
    feePolicy: options.policy.feePolicy,
    paidInDaySats: day?.sats ?? 0n,
    feeSatsPerKvb: options.feeSatsPerKvb ?? null,
  });
}

/** Accounts with spendable money and no open item. */
async function dueAccounts(db: Tx): Promise<DueAccount[]> {
  const rows = await db.query<{
    account_id: bigint;
    address: string;
    balance: bigint;
    minimum_payout_sats: bigint | null;
    on_hold: boolean;
    quarantined: boolean;
    last_paid_at: Date | null;
  }>(
    `SELECT l.account_id, a.address, l.balance, s.minimum_payout_sats, coalesce(s.on_hold, false) AS on_hold,
            q.account_id IS NOT NULL AS quarantined, paid.last_paid_at
     FROM ledger_accounts l
     JOIN accounts a ON a.account_id = l.account_id
     LEFT JOIN account_settings s ON s.account_id = l.account_id
     LEFT JOIN payout_quarantine q ON q.account_id = l.account_id
     LEFT JOIN LATERAL (
       SELECT b.created_at AS last_paid_at FROM payout_items i JOIN payout_batches b USING (batch_id)
       WHERE i.account_id = l.account_id AND b.state = 'settled' ORDER BY i.batch_id DESC LIMIT 1
     ) paid ON true
     WHERE l.kind = 'miner' AND l.pool = '' AND l.balance > 0
       AND NOT EXISTS (SELECT FROM payout_items open WHERE open.account_id = l.account_id AND open.open)`,
  );
  return rows.map((row) => ({
    accountId: row.account_id,
    address: row.address,
    balanceSats: row.balance,
    minimumSats: row.minimum_payout_sats,
    onHold: row.on_hold,
    quarantined: row.quarantined,
    lastPaidAtMs: row.last_paid_at?.getTime() ?? null,
  }));
}

/**
 * Writes the batches that are due at `slotMs` (the moment of the schedule, or of a request), unless payouts ran for it already or are
 * halted. Answers the plan that was written, or null. Two payers make one plan.
 */
export async function makeBatches(
  db: Db,
  options: {
    policy: PayoutPolicy;
    network: Network;
    nowMs: number;
    slotMs: number;
    feeSatsPerKvb?: bigint;
  },
): Promise<PayoutPlan | null> {
  return db.transaction(async (tx) => {
    const taken = await tx.query(
      `UPDATE payout_control SET last_run_at = to_timestamp($1::bigint / 1000.0), run_requested_at = NULL
       WHERE NOT halted AND (last_run_at IS NULL OR last_run_at < to_timestamp($2::bigint / 1000.0)
                             OR run_requested_at IS NOT NULL)
       RETURNING 1`,
      [options.nowMs, options.slotMs],
    );
    if (taken.length === 0) return null;
    const plan = await planPayouts(tx, options);
    for (const batch of plan.batches) await insertBatch(tx, batch, options);
    return plan;
  });
}

async function insertBatch(
  tx: Tx,
  batch: PlannedBatch,
  options: { policy: PayoutPolicy; nowMs: number },
): Promise<void> {
  const [row] = await tx.query<{ batch_id: bigint }>(
    `INSERT INTO payout_batches (state, signing, fee_policy, created_at, state_at, total_sats)
     VALUES ('planned', $1, $2, to_timestamp($3::bigint / 1000.0), to_timestamp($3::bigint / 1000.0), $4)
     RETURNING batch_id`,
    [options.policy.signing, options.policy.feePolicy, options.nowMs, batch.totalSats],
  );
  const batchId = row?.batch_id;
  await tx.query(
    `INSERT INTO payout_items (batch_id, account_id, address, script, amount_sats)
     SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bytea[], $5::bigint[])`,
    [
      batchId,
      batch.items.map((item) => item.accountId),
      batch.items.map((item) => item.address),
      batch.items.map((item) => item.script),
      batch.items.map((item) => item.amountSats),
    ],
  );
  await note(
    tx,
    batchId ?? null,
    'payer',
    'planned',
    `${batch.items.length} payouts, ${batch.totalSats} sat`,
    options.nowMs,
  );
}

// --- the steps of a batch ---------------------------------------------------------------------------------------------------

/** planned → reserved: the money moves from the miners to transit. Released when it is no longer there or an account is held back. */
export async function reserveBatch(
  db: Db,
  batchId: bigint,
  options: { network: Network; atMs: number },
): Promise<'reserved' | 'released' | null> {
  return change(db, batchId, { from: ['planned'], forward: true, books: true }, async (tx) => {
    const rows = await tx.query<{
      account_id: bigint;
      address: string;
      script: Uint8Array;
      amount_sats: bigint;
      balance: bigint | null;
      on_hold: boolean;
    }>(
      `SELECT i.account_id, a.address, i.script, i.amount_sats, l.balance, coalesce(s.on_hold, false) AS on_hold
       FROM payout_items i JOIN accounts a USING (account_id)
       LEFT JOIN ledger_accounts l ON l.kind = 'miner' AND l.pool = '' AND l.account_id = i.account_id
       LEFT JOIN account_settings s ON s.account_id = i.account_id
       WHERE i.batch_id = $1 ORDER BY i.account_id`,
      [batchId],
    );
    for (const row of rows) {
      const payable = payableScript(row.address, options.network);
      const trouble = row.on_hold
        ? 'is on hold'
        : (row.balance ?? 0n) < row.amount_sats
          ? 'has less than was planned'
          : !payable.ok
            ? payable.detail
            : encodeHex(payable.script) !== encodeHex(row.script)
              ? 'has another script than was planned'
              : null;
      if (trouble === null) continue;
      await closeReleased(tx, batchId, {
        actor: 'payer',
        reason: `account ${row.account_id} ${trouble}`,
        atMs: options.atMs,
      });
      return 'released';
    }
    await postLedger(tx, {
      key: `payout-reserve:${batchId}`,
      kind: 'payout-reserve',
      atMs: options.atMs,
      actor: 'payer',
      batchId,
      entries: rows.flatMap((row) => [
        { account: { kind: 'miner', accountId: row.account_id }, sats: -row.amount_sats },
        { account: { kind: 'transit', accountId: row.account_id }, sats: row.amount_sats },
      ]),
    });
    await setState(tx, batchId, 'reserved', options.atMs);
    await note(tx, batchId, 'payer', 'reserved', '', options.atMs);
    return 'reserved';
  });
}

/**
 * Gives a batch's money back to its accounts. Refused once something signed may be out there (use the chain: import, wait, or prove
 * that it can never confirm). From `manual` only when every generation is dead.
 */
export async function releaseBatch(db: Db, batchId: bigint, deed: Deed): Promise<Answer> {
  const answer = await change(
    db,
    batchId,
    { from: [...RELEASABLE, 'manual'], books: true },
    async (tx, batch): Promise<Answer> => {
      if (batch.state === 'manual') {
        const [alive] = await tx.query<{ count: bigint }>(
          `SELECT count(*) AS count FROM payout_generations WHERE batch_id = $1 AND raw IS NOT NULL AND state <> 'dead'`,
          [batchId],
        );
        if ((alive?.count ?? 0n) > 0n)
          return {
            ok: false,
            reason:
              'a signed transaction of this batch may still confirm; it is released only when that is impossible',
          };
      }
      if (batch.state !== 'planned') {
        const items = await tx.query<{ account_id: bigint; amount_sats: bigint }>(
          'SELECT account_id, amount_sats FROM payout_items WHERE batch_id = $1 ORDER BY account_id',
          [batchId],
        );
        await postLedger(tx, {
          key: `payout-release:${batchId}`,
          kind: 'payout-release',
          atMs: deed.atMs,
          actor: deed.actor,
          reason: deed.reason,
          batchId,
          entries: items.flatMap((item) => [
            { account: { kind: 'transit', accountId: item.account_id }, sats: -item.amount_sats },
            { account: { kind: 'miner', accountId: item.account_id }, sats: item.amount_sats },
          ]),
        });
      }
      await closeReleased(tx, batchId, deed);
      return { ok: true };
    },
  );
  return (
    answer ?? {
      ok: false,
      reason:
        'only a batch that was planned, reserved or built here can be released: of any other a signed transaction may be out there',
    }
  );
}

async function closeReleased(tx: Tx, batchId: bigint, deed: Deed): Promise<void> {
  await close(tx, batchId);
  await tx.query(
    `UPDATE payout_generations SET state = 'superseded' WHERE batch_id = $1 AND state <> 'dead'`,
    [batchId],
  );
  await setState(tx, batchId, 'released', deed.atMs, deed.reason);
  await note(tx, batchId, deed.actor, 'released', deed.reason, deed.atMs);
}

/** No longer open: accounts and inputs are free for other batches. */
async function close(tx: Tx, batchId: bigint): Promise<void> {
  await tx.query('UPDATE payout_items SET open = false WHERE batch_id = $1', [batchId]);
  await tx.query('UPDATE payout_inputs SET active = false WHERE batch_id = $1', [batchId]);
}

/** Why a batch waits, for people; its state stays. An empty reason clears it. */
export async function noteReason(
  db: Db,
  batchId: bigint,
  reason: string,
  atMs: number,
): Promise<void> {
  const text = storableText(reason, REASON_MAX);
  await db.transaction(async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_batches SET reason = $2
       WHERE batch_id = $1 AND reason <> $2 AND state NOT IN ('settled', 'released', 'manual') RETURNING 1`,
      [batchId, text],
    );
    if (changed.length > 0 && text !== '') await note(tx, batchId, 'payer', 'waits', text, atMs);
  });
}

export type BuiltGeneration = {
  generation: number;
  psbt: string;
  feeSats: bigint;
  vsize: number;
  inputs: readonly { txid: Uint8Array; vout: number; valueSats: bigint }[];
  /** What each account gives of the fee; by account id. Only of the first generation. */
  itemFees: ReadonlyMap<bigint, bigint>;
};

/**
 * reserved → built, or a further generation of a batch that is broadcast: the unsigned transaction and its inputs are stored. Null
 * when another payer was first, an input belongs to another batch, payouts are halted, or the state is another.
 */
export async function storeBuilt(
  db: Db,
  batchId: bigint,
  built: BuiltGeneration,
  atMs: number,
): Promise<true | null> {
  const first = built.generation === 1;
  const from: BatchState[] = first ? ['reserved'] : ['broadcast', 'seen'];
  const store = change(db, batchId, { from, forward: true }, async (tx) => {
    const [newest] = await tx.query<{ generation: number | null }>(
      'SELECT max(generation) AS generation FROM payout_generations WHERE batch_id = $1',
      [batchId],
    );
    if ((newest?.generation ?? 0) !== built.generation - 1) return null;
    const txids = built.inputs.map((input) => input.txid);
    const vouts = built.inputs.map((input) => input.vout);
    const [foreign] = await tx.query<{ count: bigint }>(
      `SELECT count(*) AS count FROM payout_inputs i
       JOIN unnest($2::bytea[], $3::bigint[]) AS wanted (txid, vout) ON i.txid = wanted.txid AND i.vout = wanted.vout
       WHERE i.active AND i.batch_id <> $1`,
      [batchId, txids, vouts],
    );
    if ((foreign?.count ?? 0n) > 0n) return null;
    if (!first && !(await sharesInputWithAll(tx, batchId, built))) return null;
    await tx.query(
      `INSERT INTO payout_generations (batch_id, generation, psbt, fee_sats, vsize, state, made_at)
       VALUES ($1, $2, $3, $4, $5, 'built', to_timestamp($6::bigint / 1000.0))`,
      [batchId, built.generation, built.psbt, built.feeSats, built.vsize, atMs],
    );
    await tx.query(
      `INSERT INTO payout_inputs (batch_id, txid, vout, value_sats)
       SELECT $1, * FROM unnest($2::bytea[], $3::bigint[], $4::bigint[])
       ON CONFLICT (batch_id, txid, vout) DO NOTHING`,
      [batchId, txids, vouts, built.inputs.map((input) => input.valueSats)],
    );
    if (first) {
      await tx.query(
        `UPDATE payout_items i SET fee_sats = given.fee
         FROM unnest($2::bigint[], $3::bigint[]) AS given (account_id, fee)
         WHERE i.batch_id = $1 AND i.account_id = given.account_id`,
        [batchId, [...built.itemFees.keys()], [...built.itemFees.values()]],
      );
      await setState(tx, batchId, 'built', atMs);
    }
    await note(
      tx,
      batchId,
      'payer',
      'built',
      `generation ${built.generation}, fee ${built.feeSats} sat`,
      atMs,
    );
    return true as const;
  });
  try {
    return await store;
  } catch (error) {
    // Another batch took one of the coins in the same moment: the wallet is asked again for this one.
    if (violates(error, 'payout_inputs_active')) return null;
    throw error;
  }
}

function violates(error: unknown, constraint: string): boolean {
  return (error as { constraint?: unknown } | null)?.constraint === constraint;
}

/** Consensus lets at most one generation confirm only if each pair of them spends a common input. */
async function sharesInputWithAll(
  tx: Tx,
  batchId: bigint,
  built: BuiltGeneration,
): Promise<boolean> {
  const earlier = await tx.query<{ psbt: string }>(
    `SELECT psbt FROM payout_generations WHERE batch_id = $1 AND state <> 'dead'`,
    [batchId],
  );
  const mine = new Set(built.inputs.map((input) => `${encodeHex(input.txid)}:${input.vout}`));
  return earlier.every((row) => {
    const read = readPsbt(row.psbt);
    return (
      read.ok &&
      read.tx.inputs.some((input) =>
        mine.has(`${encodeHex(input.previousTxid)}:${input.previousIndex}`),
      )
    );
  });
}

/** built or exported → signed: the bytes are stored before anybody may send them. Null as for `storeBuilt`. */
export async function storeSigned(
  db: Db,
  batchId: bigint,
  signed: { generation: number; raw: Uint8Array; txid: Uint8Array; vsize: number },
  atMs: number,
): Promise<true | null> {
  const first = signed.generation === 1;
  const from: BatchState[] = first ? ['built', 'exported'] : ['broadcast', 'seen'];
  return change(db, batchId, { from, forward: true }, async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_generations SET raw = $3, txid = $4, vsize = $5, state = 'signed'
       WHERE batch_id = $1 AND generation = $2 AND state IN ('built', 'exported') RETURNING 1`,
      [batchId, signed.generation, signed.raw, signed.txid, signed.vsize],
    );
    if (changed.length === 0) return null;
    if (first) await setState(tx, batchId, 'signed', atMs);
    await note(tx, batchId, 'payer', 'signed', `generation ${signed.generation}`, atMs);
    return true;
  });
}

/** signed → broadcast: the mark stands before the bytes leave. Null as for `storeBuilt`; null also when it was marked already. */
export async function markBroadcast(
  db: Db,
  batchId: bigint,
  generation: number,
  atMs: number,
): Promise<true | null> {
  const from: BatchState[] = generation === 1 ? ['signed'] : ['broadcast', 'seen'];
  return change(db, batchId, { from, forward: true }, async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_generations SET state = 'broadcast', broadcast_at = to_timestamp($3::bigint / 1000.0)
       WHERE batch_id = $1 AND generation = $2 AND state = 'signed' RETURNING 1`,
      [batchId, generation, atMs],
    );
    if (changed.length === 0) return null;
    if (generation === 1) await setState(tx, batchId, 'broadcast', atMs);
    await note(tx, batchId, 'payer', 'broadcast', `generation ${generation}`, atMs);
    return true;
  });
}

/** The node took these bytes just now. */
export async function markSent(
  db: Tx,
  batchId: bigint,
  generation: number,
  atMs: number,
): Promise<void> {
  await db.query(
    `UPDATE payout_generations SET sent_at = to_timestamp($3::bigint / 1000.0)
     WHERE batch_id = $1 AND generation = $2`,
    [batchId, generation, atMs],
  );
}

/** Payouts whose bytes may be out there, and what the chain shows of each generation. */
export type Sighting = {
  generation: number;
  /** Depth in the chain; 0: not in it; below 0: a transaction at that depth makes it impossible. */
  confirmations: number;
  blockHash: Uint8Array | null;
  inMempool: boolean;
};

const WATCHED: readonly BatchState[] = ['broadcast', 'seen', 'confirmed', 'manual'];

/**
 * Writes what the chain shows: seen, confirmed, or fallen back (dropped from the mempool, reorganised away). A batch in `manual`
 * comes back only when one of its generations confirms. Answers the state it has then; null when it is not watched.
 */
export async function recordSightings(
  db: Db,
  batchId: bigint,
  sightings: readonly Sighting[],
  atMs: number,
): Promise<BatchState | null> {
  return change(db, batchId, { from: WATCHED }, async (tx, batch) => {
    const confirmed = sightings.find((one) => one.confirmations > 0);
    const waiting = sightings.find((one) => one.inMempool);
    for (const one of sightings) {
      const state: GenerationState =
        one.confirmations > 0 ? 'confirmed' : one.inMempool ? 'seen' : 'broadcast';
      await tx.query(
        `UPDATE payout_generations
         SET state = $3, confirmations = $4, block_hash = $5,
             seen_at = CASE WHEN $3 = 'broadcast' THEN seen_at
                            ELSE coalesce(seen_at, to_timestamp($6::bigint / 1000.0)) END
         WHERE batch_id = $1 AND generation = $2 AND raw IS NOT NULL
           AND (state, confirmations, block_hash) IS DISTINCT FROM ($3, $4::integer, $5::bytea)`,
        [batchId, one.generation, state, one.confirmations, one.blockHash, atMs],
      );
    }
    const next: BatchState = confirmed
      ? 'confirmed'
      : batch.state === 'manual'
        ? 'manual'
        : waiting
          ? 'seen'
          : 'broadcast';
    if (next === batch.state) return next;
    await setState(tx, batchId, next, atMs);
    const detail = confirmed
      ? `generation ${confirmed.generation} is in a block`
      : batch.state === 'confirmed'
        ? 'its block left the chain'
        : next === 'seen'
          ? `generation ${waiting?.generation} is in the mempool`
          : 'it left the mempool';
    await note(tx, batchId, 'payer', next, detail, atMs);
    return next;
  });
}

/**
 * confirmed → settled, deep enough by the caller's word: what was in transit is paid, the fee is booked, accounts and inputs are
 * free. `beforeCommit` is called when all is written and nothing is committed. Null when the state is another.
 */
export async function settleBatch(
  db: Db,
  batchId: bigint,
  generation: number,
  atMs: number,
  beforeCommit: () => void,
): Promise<true | null> {
  return change(db, batchId, { from: ['confirmed'], books: true }, async (tx) => {
    const [confirmed] = await tx.query<{ fee_sats: bigint }>(
      `SELECT fee_sats FROM payout_generations WHERE batch_id = $1 AND generation = $2 AND state = 'confirmed'`,
      [batchId, generation],
    );
    if (confirmed === undefined) return null;
    const items = await tx.query<{ account_id: bigint; amount_sats: bigint; fee_sats: bigint }>(
      'SELECT account_id, amount_sats, fee_sats FROM payout_items WHERE batch_id = $1 ORDER BY account_id',
      [batchId],
    );
    let minersFeeSats = 0n;
    const entries: { account: LedgerAccount; sats: bigint }[] = items.flatMap((item) => {
      minersFeeSats += item.fee_sats;
      const accountId = item.account_id;
      return [
        { account: { kind: 'transit', accountId }, sats: -item.amount_sats },
        { account: { kind: 'paid', accountId }, sats: item.amount_sats - item.fee_sats },
      ];
    });
    // What a later generation costs above the first one is the pool's, whoever pays the first.
    const poolsFeeSats = confirmed.fee_sats - minersFeeSats;
    entries.push({ account: { kind: 'network-fee' }, sats: confirmed.fee_sats });
    entries.push({ account: { kind: 'expense' }, sats: -poolsFeeSats });
    await postLedger(tx, {
      key: `payout-settle:${batchId}`,
      kind: 'payout-settle',
      atMs,
      actor: 'payer',
      batchId,
      entries: entries.filter((entry) => entry.sats !== 0n),
    });
    await close(tx, batchId);
    await tx.query(
      `UPDATE payout_generations SET state = 'superseded' WHERE batch_id = $1 AND generation <> $2 AND state <> 'dead'`,
      [batchId, generation],
    );
    await setState(tx, batchId, 'settled', atMs);
    await note(tx, batchId, 'payer', 'settled', `generation ${generation}`, atMs);
    beforeCommit();
    return true;
  });
}

/** A further generation that was never sent is given up: an earlier one confirmed or its node refuses it. */
export async function dropGeneration(
  db: Db,
  batchId: bigint,
  generation: number,
  reason: string,
  atMs: number,
): Promise<true | null> {
  return change(db, batchId, { from: WATCHED }, async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_generations SET state = 'superseded'
       WHERE batch_id = $1 AND generation = $2 AND generation > 1 AND state IN ('built', 'exported') RETURNING 1`,
      [batchId, generation],
    );
    if (changed.length === 0) return null;
    await note(tx, batchId, 'payer', 'superseded', `generation ${generation}: ${reason}`, atMs);
    return true;
  });
}

/** Into a person's hands: what the chain shows cannot be explained. Halts payouts with it. */
export async function markManual(
  db: Db,
  batchId: bigint,
  reason: string,
  atMs: number,
): Promise<true | null> {
  return change(
    db,
    batchId,
    { from: ['signed', 'broadcast', 'seen', 'confirmed'], halts: true },
    async (tx) => {
      await setState(tx, batchId, 'manual', atMs, reason);
      await note(tx, batchId, 'payer', 'manual', reason, atMs);
      await halt(tx, { actor: 'payer', reason: `batch ${batchId}: ${reason}`, atMs });
      return true as const;
    },
  );
}

/** Of a batch in `manual`: these generations can never confirm, as a spend that is not ours stands deep enough in the chain. */
export async function markDead(
  db: Db,
  batchId: bigint,
  generations: readonly number[],
  atMs: number,
): Promise<true | null> {
  return change(db, batchId, { from: ['manual'] }, async (tx): Promise<true | null> => {
    const changed = await tx.query(
      `UPDATE payout_generations SET state = 'dead'
       WHERE batch_id = $1 AND generation = ANY($2::integer[]) AND state <> 'dead' RETURNING 1`,
      [batchId, generations],
    );
    if (changed.length > 0)
      await note(tx, batchId, 'payer', 'dead', `generations ${generations.join(', ')}`, atMs);
    return true;
  });
}

// --- cold signing -----------------------------------------------------------------------------------------------------------

/**
 * The unsigned transaction of a cold batch's newest generation, for the signer. Asked again it is the same. From now on the batch
 * cannot be released: what leaves the house may come back signed by another way.
 */
export async function exportBatch(
  db: Db,
  batchId: bigint,
  deed: Deed,
): Promise<
  | {
      ok: true;
      psbt: string;
      generation: number;
      feeSats: bigint;
      totalSats: bigint;
      payouts: number;
    }
  | { ok: false; reason: string }
> {
  const answer = await change(
    db,
    batchId,
    { from: ['built', 'exported', 'broadcast', 'seen'], forward: true },
    async (tx, batch) => {
      const [row] = await tx.query<{
        generation: number;
        psbt: string;
        fee_sats: bigint;
        state: GenerationState;
      }>(
        `SELECT generation, psbt, fee_sats, state FROM payout_generations
         WHERE batch_id = $1 AND state IN ('built', 'exported') ORDER BY generation DESC LIMIT 1`,
        [batchId],
      );
      if (row === undefined || batch.signing !== 'cold') return null;
      const [count] = await tx.query<{ count: bigint }>(
        'SELECT count(*) AS count FROM payout_items WHERE batch_id = $1',
        [batchId],
      );
      if (row.state === 'built') {
        await tx.query(
          `UPDATE payout_generations SET state = 'exported' WHERE batch_id = $1 AND generation = $2`,
          [batchId, row.generation],
        );
        if (batch.state === 'built') await setState(tx, batchId, 'exported', deed.atMs);
      }
      await note(tx, batchId, deed.actor, 'exported', `generation ${row.generation}`, deed.atMs);
      return {
        ok: true as const,
        psbt: row.psbt,
        generation: row.generation,
        feeSats: row.fee_sats,
        totalSats: batch.totalSats,
        payouts: Number(count?.count ?? 0n),
      };
    },
  );
  return (
    answer ?? {
      ok: false,
      reason:
        'there is no transaction to sign: the batch is not cold, not built yet, signed already, or payouts are halted',
    }
  );
}

/**
 * Takes the signed transaction of an exported batch: PSBT in base64, or raw hex. Refused unless it is, input by input and output by
 * output, the transaction that was exported. The payer finishes, checks with the node, and sends it at its next cycle.
 */
export async function importBatch(
  db: Db,
  batchId: bigint,
  text: string,
  deed: Deed,
): Promise<Answer> {
  const trimmed = text.trim();
  if (trimmed.length > TEXT_MAX) return { ok: false, reason: 'longer than any transaction' };
  const read = readSigned(trimmed);
  if (!read.ok) return read;
  const answer = await change(
    db,
    batchId,
    { from: ['exported', 'broadcast', 'seen'], forward: true },
    async (tx): Promise<Answer | null> => {
      const [row] = await tx.query<{ generation: number; psbt: string }>(
        `SELECT generation, psbt FROM payout_generations
         WHERE batch_id = $1 AND state = 'exported' ORDER BY generation DESC LIMIT 1`,
        [batchId],
      );
      if (row === undefined) return null;
      const exported = readPsbt(row.psbt);
      if (!exported.ok) return { ok: false, reason: exported.reason };
      if (!sameSkeleton(exported.tx, read.tx)) {
        await note(
          tx,
          batchId,
          deed.actor,
          'import-refused',
          `generation ${row.generation}: it is not the transaction that was exported`,
          deed.atMs,
        );
        return {
          ok: false,
          reason: 'it is not the transaction that was exported: inputs, outputs, or amounts differ',
        };
      }
      await tx.query(
        'UPDATE payout_generations SET signed_psbt = $3 WHERE batch_id = $1 AND generation = $2',
        [batchId, row.generation, trimmed],
      );
      await note(tx, batchId, deed.actor, 'imported', `generation ${row.generation}`, deed.atMs);
      return { ok: true };
    },
  );
  return (
    answer ?? { ok: false, reason: 'nothing of this batch is exported, or payouts are halted' }
  );
}

/** What came back from the signer was not enough; it may be imported again. */
export async function refuseImport(
  db: Db,
  batchId: bigint,
  generation: number,
  reason: string,
  atMs: number,
): Promise<void> {
  await db.transaction(async (tx) => {
    const changed = await tx.query(
      `UPDATE payout_generations SET signed_psbt = NULL
       WHERE batch_id = $1 AND generation = $2 AND signed_psbt IS NOT NULL AND raw IS NULL RETURNING 1`,
      [batchId, generation],
    );
    if (changed.length === 0) return;
    await tx.query('UPDATE payout_batches SET reason = $2 WHERE batch_id = $1', [
      batchId,
      storableText(reason, REASON_MAX),
    ]);
    await note(tx, batchId, 'payer', 'import-refused', `generation ${generation}: ${reason}`, atMs);
  });
}

function readSigned(
  text: string,
): { ok: true; tx: Parameters<typeof sameSkeleton>[0] } | { ok: false; reason: string } {
  const raw = decodeHex(text);
  if (raw !== null && raw.length > 0) return decodeTx(raw);
  return readPsbt(text);
}

// --- looking ----------------------------------------------------------------------------------------------------------------

/** The newest batches first; at most 1,000. */
export async function listBatches(
  db: Tx,
  options: { limit: number; belowId?: bigint; openOnly?: boolean },
): Promise<PayoutBatch[]> {
  const rows = await db.query<BatchRow>(
    `SELECT ${BATCH_COLUMNS} FROM payout_batches
     WHERE ($2::bigint IS NULL OR batch_id < $2) AND (NOT $3 OR state NOT IN ('settled', 'released'))
     ORDER BY batch_id DESC LIMIT $1`,
    [Math.min(options.limit, 1_000), options.belowId ?? null, options.openOnly ?? false],
  );
  return rows.map(batchOf);
}

/** The transaction that settled a batch. */
export type SettledPayout = {
  batchId: bigint;
  generation: number;
  txid: Uint8Array;
  raw: Uint8Array;
};

/** What was settled last, newest batch first. `limit` is at most 1,000. */
export async function listSettled(db: Tx, options: { limit: number }): Promise<SettledPayout[]> {
  const rows = await db.query<{
    batch_id: bigint;
    generation: number;
    txid: Uint8Array;
    raw: Uint8Array;
  }>(
    `SELECT batch_id, generation, txid, raw FROM payout_batches
     JOIN payout_generations USING (batch_id)
     WHERE payout_batches.state = 'settled' AND payout_generations.state = 'confirmed'
     ORDER BY batch_id DESC LIMIT $1`,
    [Math.min(options.limit, 1_000)],
  );
  return rows.map((row) => ({
    batchId: row.batch_id,
    generation: row.generation,
    txid: row.txid,
    raw: row.raw,
  }));
}

/** Open batches in the order they were made, for the payer. */
export async function listOpenBatches(db: Tx): Promise<PayoutBatch[]> {
  const rows = await db.query<BatchRow>(
    `SELECT ${BATCH_COLUMNS} FROM payout_batches WHERE state NOT IN ('settled', 'released')
     ORDER BY batch_id LIMIT ${OPEN_BATCHES_MAX}`,
  );
  return rows.map(batchOf);
}

/** One batch with items, generations, inputs and its history (the newest 1,000 events, oldest first); null when there is none. */
export async function readBatch(db: Tx, batchId: bigint): Promise<BatchDetail | null> {
  const [row] = await db.query<BatchRow>(
    `SELECT ${BATCH_COLUMNS} FROM payout_batches WHERE batch_id = $1`,
    [batchId],
  );
  if (row === undefined) return null;
  const items = await db.query<{
    account_id: bigint;
    address: string;
    script: Uint8Array;
    amount_sats: bigint;
    fee_sats: bigint;
    open: boolean;
  }>(
    `SELECT account_id, address, script, amount_sats, fee_sats, open FROM payout_items
     WHERE batch_id = $1 ORDER BY account_id`,
    [batchId],
  );
  const generations = await readGenerations(db, batchId);
  const inputs = await db.query<{
    txid: Uint8Array;
    vout: bigint;
    value_sats: bigint;
    active: boolean;
  }>(
    'SELECT txid, vout, value_sats, active FROM payout_inputs WHERE batch_id = $1 ORDER BY txid, vout',
    [batchId],
  );
  const events = await db.query<{ at: Date; actor: string; event: string; detail: string }>(
    `SELECT at, actor, event, detail FROM payout_events WHERE batch_id = $1
     ORDER BY event_id DESC LIMIT ${EVENTS_MAX}`,
    [batchId],
  );
  return {
    ...batchOf(row),
    items: items.map((item) => ({
      accountId: item.account_id,
      address: item.address,
      script: item.script,
      amountSats: item.amount_sats,
      feeSats: item.fee_sats,
      open: item.open,
    })),
    generations,
    inputs: inputs.map((input) => ({
      txid: input.txid,
      vout: Number(input.vout),
      valueSats: input.value_sats,
      active: input.active,
    })),
    events: events.reverse().map(({ at, ...event }) => ({ ...event, atMs: at.getTime() })),
  };
}

/** The generations of a batch, first to newest. */
export async function readGenerations(db: Tx, batchId: bigint): Promise<BatchGeneration[]> {
  const rows = await db.query<{
    generation: number;
    psbt: string;
    signed_psbt: string | null;
    raw: Uint8Array | null;
    txid: Uint8Array | null;
    fee_sats: bigint;
    vsize: number;
    state: GenerationState;
    made_at: Date;
    broadcast_at: Date | null;
    sent_at: Date | null;
    seen_at: Date | null;
    block_hash: Uint8Array | null;
    confirmations: number;
  }>('SELECT * FROM payout_generations WHERE batch_id = $1 ORDER BY generation', [batchId]);
  return rows.map((row) => ({
    generation: row.generation,
    psbt: row.psbt,
    signedPsbt: row.signed_psbt,
    raw: row.raw,
    txid: row.txid,
    feeSats: row.fee_sats,
    vsize: row.vsize,
    state: row.state,
    madeAtMs: row.made_at.getTime(),
    broadcastAtMs: row.broadcast_at?.getTime() ?? null,
    sentAtMs: row.sent_at?.getTime() ?? null,
    seenAtMs: row.seen_at?.getTime() ?? null,
    blockHash: row.block_hash,
    confirmations: row.confirmations,
  }));
}

/** Inputs of open batches, and inputs that batches gave up (`active` false) and no open one has; the newest 10,000 of the latter. */
export async function readReservedInputs(db: Tx): Promise<BatchInput[]> {
  const rows = await db.query<{
    txid: Uint8Array;
    vout: bigint;
    value_sats: bigint;
    active: boolean;
  }>(
    `SELECT txid, vout, value_sats, active FROM payout_inputs WHERE active
     UNION ALL
     (SELECT txid, vout, value_sats, active FROM payout_inputs given
      WHERE NOT active AND NOT EXISTS (
        SELECT FROM payout_inputs held WHERE held.active AND held.txid = given.txid AND held.vout = given.vout)
      ORDER BY batch_id DESC LIMIT 10000)`,
  );
  return rows.map((row) => ({
    txid: row.txid,
    vout: Number(row.vout),
    valueSats: row.value_sats,
    active: row.active,
  }));
}

/** What the ledger says is owed and spendable: miners, developer, and what stands in transit. */
export async function readLiabilities(
  db: Tx,
): Promise<{ minerSats: bigint; developerSats: bigint; transitSats: bigint }> {
  const rows = await db.query<{ kind: string; sats: bigint }>(
    `SELECT kind, sum(balance)::bigint AS sats FROM ledger_accounts
     WHERE kind IN ('miner', 'developer', 'transit') GROUP BY kind`,
  );
  const of = (kind: string): bigint => rows.find((row) => row.kind === kind)?.sats ?? 0n;
  return { minerSats: of('miner'), developerSats: of('developer'), transitSats: of('transit') };
}

// --- inner parts ------------------------------------------------------------------------------------------------------------

type BatchRow = {
  batch_id: bigint;
  state: BatchState;
  signing: 'hot' | 'cold';
  fee_policy: 'pool' | 'miner';
  created_at: Date;
  state_at: Date;
  total_sats: bigint;
  reason: string;
};

const BATCH_COLUMNS =
  'batch_id, state, signing, fee_policy, created_at, state_at, total_sats, reason';

function batchOf(row: BatchRow): PayoutBatch {
  return {
    batchId: row.batch_id,
    state: row.state,
    signing: row.signing,
    feePolicy: row.fee_policy,
    createdAtMs: row.created_at.getTime(),
    stateAtMs: row.state_at.getTime(),
    totalSats: row.total_sats,
    reason: row.reason,
  };
}

/**
 * Compare and swap: locks the batch, and runs `work` only when its state is one of `from` and, for moves that bring money closer to
 * leaving, payouts are not halted. Null otherwise. The row of control is held, so that a halt is either before the move or after it.
 */
async function change<T>(
  db: Db,
  batchId: bigint,
  gate: { from: readonly BatchState[]; forward?: boolean; halts?: boolean; books?: boolean },
  work: (tx: Tx, batch: PayoutBatch) => Promise<T>,
): Promise<T | null> {
  return db.transaction(async (tx) => {
    // Ledger, control, batch, always in this order: two movers never wait for each other in a ring.
    if (gate.books) await lockLedger(tx);
    if (gate.halts) await tx.query('SELECT 1 FROM payout_control FOR UPDATE');
    if (gate.forward) {
      const [control] = await tx.query<{ halted: boolean }>(
        'SELECT halted FROM payout_control FOR SHARE',
      );
      if (control?.halted !== false) return null;
    }
    const [row] = await tx.query<BatchRow>(
      `SELECT ${BATCH_COLUMNS} FROM payout_batches WHERE batch_id = $1 FOR UPDATE`,
      [batchId],
    );
    if (row === undefined || !gate.from.includes(row.state)) return null;
    return work(tx, batchOf(row));
  });
}

async function setState(
  tx: Tx,
  batchId: bigint,
  state: BatchState,
  atMs: number,
  reason = '',
): Promise<void> {
  await tx.query(
    `UPDATE payout_batches SET state = $2, state_at = to_timestamp($3::bigint / 1000.0), reason = $4 WHERE batch_id = $1`,
    [batchId, state, atMs, storableText(reason, REASON_MAX)],
  );
}

async function note(
  tx: Tx,
  batchId: bigint | null,
  actor: string,
  event: string,
  detail: string,
  atMs: number,
): Promise<void> {
  await tx.query(
    `INSERT INTO payout_events (batch_id, at, actor, event, detail)
     VALUES ($1, to_timestamp($2::bigint / 1000.0), $3, $4, $5)`,
    [batchId, atMs, storableText(actor, 100), event, storableText(detail, REASON_MAX)],
  );
}
