/**
 * The ledger: double entry in satoshi, append-only, chained by hashes. What the database itself refuses stands at the head of
 * `sql/0003.sql`: postings that do not sum to zero or come twice, balances below zero, any change of what is posted.
 *
 * A money transaction is one `db.transaction`: `lockLedger` or the posting first, other rows after it, no waiting for anything outside.
 * Its posting carries a key made before the act; after a failure that leaves open whether the commit happened, run it again.
 */
import { createHash } from 'node:crypto';
import type { Db } from '../ports.ts';
import { storableText } from './text.ts';

type Tx = Pick<Db, 'query'>;

/** Kinds of ledger accounts; what each holds stands in `sql/0003.sql`. */
export const LEDGER_KINDS = [
  'chain',
  'deposit',
  'paid',
  'network-fee',
  'miner',
  'miner-immature',
  'operator',
  'operator-immature',
  'developer',
  'developer-immature',
  'reserve',
  'reserve-immature',
  'transit',
  'expense',
  'loss',
  'carry',
] as const;

export type LedgerKind = (typeof LEDGER_KINDS)[number];

/**
 * One ledger account by name; made with its first entry. miner, miner-immature and transit have an account and no pool; carry has both;
 * reserve and reserve-immature have a pool; the others have no account.
 */
export type LedgerAccount = { kind: LedgerKind; pool?: string; accountId?: bigint };

export type PostingKind =
  | 'credit'
  | 'mature'
  | 'orphan'
  | 'pps'
  | 'reserve'
  | 'payout-reserve'
  | 'payout-release'
  | 'payout-settle'
  | 'manual'
  | 'fund'
  | 'loss'
  | 'direct';

export type Posting = {
  /** Made before the act, at most 200 bytes: the same posting is known by it. */
  key: string;
  kind: PostingKind;
  atMs: number;
  /** Who: a service, or a person. At most 200 bytes. */
  actor: string;
  reason?: string;
  /** Wire order. */
  blockHash?: Uint8Array;
  batchId?: bigint;
  /** The posting this one takes back. A posting is taken back once. */
  reverses?: bigint;
  /** Sum to zero. Entries of one account are added up, zeros left out; at least two and at most 200,000 must be left. */
  entries: readonly { account: LedgerAccount; sats: bigint }[];
};

export type Posted = {
  txSeq: bigint;
  /** False: the posting stood there already, and nothing was changed. */
  isNew: boolean;
};

/** The key is taken by a posting that says something else: a bug, or a hand in the ledger. */
export class PostingConflictError extends Error {}

/** Raised by `ledger_post`. */
const KEY_CONFLICT = 'HL001';

/** Waits until this transaction is the one writer of the ledger: balances read after it stay as they are until its end. */
export async function lockLedger(tx: Tx): Promise<void> {
  await tx.query('SELECT last_seq FROM ledger_head FOR UPDATE');
}

/**
 * Appends a posting, all or nothing with the transaction it is in. The same posting again, whatever its `atMs`, changes nothing. Throws a
 * PostingConflictError for the same key with other content; the driver's error, code 23514, when a balance would go below zero
 * (constraint `ledger_accounts_balance`), 23000 when entries do not sum to zero.
 */
export async function postLedger(tx: Tx, posting: Posting): Promise<Posted> {
  const { entries } = posting;
  try {
    const [row] = await tx.query<{ posted_seq: bigint; is_new: boolean }>(
      `SELECT posted_seq, is_new FROM ledger_post($1, $2, to_timestamp($3::bigint / 1000.0), $4, $5, $6, $7, $8,
         $9::text[], $10::text[], $11::bigint[], $12::bigint[])`,
      [
        posting.key,
        posting.kind,
        posting.atMs,
        posting.actor,
        posting.reason ?? '',
        posting.blockHash ?? null,
        posting.batchId ?? null,
        posting.reverses ?? null,
        entries.map(({ account }) => account.kind),
        entries.map(({ account }) => account.pool ?? ''),
        entries.map(({ account }) => account.accountId ?? null),
        entries.map(({ sats }) => sats),
      ],
    );
    if (!row) throw new Error('ledger_post answered nothing');
    return { txSeq: row.posted_seq, isNew: row.is_new };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === KEY_CONFLICT) {
      throw new PostingConflictError(error.message, { cause: error });
    }
    throw error;
  }
}

/**
 * Takes a posting back by entries of the same amounts the other way round. Throws like `postLedger`: also when somebody has spent what is
 * taken back (23514), or when another posting took it back before (23505).
 */
export async function reverseLedger(
  tx: Tx,
  reversal: {
    txSeq: bigint;
    key: string;
    kind: PostingKind;
    atMs: number;
    actor: string;
    reason?: string;
  },
): Promise<Posted> {
  const { txSeq, ...posting } = reversal;
  const [old] = await tx.query<{ block_hash: Uint8Array | null; batch_id: bigint | null }>(
    'SELECT block_hash, batch_id FROM ledger_transactions WHERE tx_seq = $1',
    [txSeq],
  );
  if (!old) throw new RangeError(`there is no posting ${txSeq}`);
  const rows = await tx.query<AccountRow & { amount: bigint }>(
    `SELECT kind, pool, account_id, amount FROM ledger_entries JOIN ledger_accounts USING (ledger_account_id)
     WHERE tx_seq = $1 ORDER BY ordinal`,
    [txSeq],
  );
  return postLedger(tx, {
    ...posting,
    reverses: txSeq,
    ...(old.block_hash === null ? {} : { blockHash: old.block_hash }),
    ...(old.batch_id === null ? {} : { batchId: old.batch_id }),
    entries: rows.map((row) => ({ account: accountOf(row), sats: -row.amount })),
  });
}

type AccountRow = { kind: LedgerKind; pool: string; account_id: bigint | null };

function accountOf(row: AccountRow): LedgerAccount {
  return {
    kind: row.kind,
    ...(row.pool === '' ? {} : { pool: row.pool }),
    ...(row.account_id === null ? {} : { accountId: row.account_id }),
  };
}

/** What one ledger account holds, in satoshi; 0 for one that was never posted to. */
export async function readBalance(db: Tx, account: LedgerAccount): Promise<bigint> {
  const [row] = await db.query<{ balance: bigint }>(
    `SELECT balance FROM ledger_accounts
     WHERE kind = $1 AND pool = $2 AND coalesce(account_id, 0) = $3`,
    [account.kind, account.pool ?? '', account.accountId ?? 0n],
  );
  return row?.balance ?? 0n;
}

export type Balance = {
  ledgerAccountId: bigint;
  kind: LedgerKind;
  /** '' where the kind has none. */
  pool: string;
  accountId: bigint | null;
  address: string | null;
  balanceSats: bigint;
};

/**
 * Balances in the order ledger accounts were made; `after` is the last `ledgerAccountId` of the page before. `limit` is at most 10,000.
 * Empty ones are left out unless asked for.
 */
export async function listBalances(
  db: Tx,
  options: {
    kind?: LedgerKind;
    pool?: string;
    limit: number;
    after?: bigint;
    withEmpty?: boolean;
  },
): Promise<Balance[]> {
  const rows = await db.query<
    AccountRow & { ledger_account_id: bigint; address: string | null; balance: bigint }
  >(
    `SELECT ledger_account_id, kind, pool, account_id, address, balance
     FROM ledger_accounts LEFT JOIN accounts USING (account_id)
     WHERE ledger_account_id > $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR pool = $3)
       AND ($4::boolean OR balance <> 0)
     ORDER BY ledger_account_id LIMIT $5`,
    [
      options.after ?? 0n,
      options.kind ?? null,
      options.pool ?? null,
      options.withEmpty ?? false,
      Math.min(options.limit, 10_000),
    ],
  );
  return rows.map((row) => ({
    ledgerAccountId: row.ledger_account_id,
    kind: row.kind,
    pool: row.pool,
    accountId: row.account_id,
    address: row.address,
    balanceSats: row.balance,
  }));
}

/** What all accounts of each kind hold together; every kind is there. The sum over all kinds is 0. */
export async function sumBalances(db: Tx): Promise<Record<LedgerKind, bigint>> {
  const sums = Object.fromEntries(LEDGER_KINDS.map((kind) => [kind, 0n])) as Record<
    LedgerKind,
    bigint
  >;
  const rows = await db.query<{ kind: LedgerKind; sum: bigint }>(
    'SELECT kind, sum(balance) AS sum FROM ledger_accounts GROUP BY kind',
  );
  for (const row of rows) sums[row.kind] = row.sum;
  return sums;
}

/** What one posting did to an account. */
export type StatementLine = {
  txSeq: bigint;
  key: string;
  kind: PostingKind;
  atMs: number;
  actor: string;
  reason: string;
  blockHash: Uint8Array | null;
  batchId: bigint | null;
  reverses: bigint | null;
  entries: { kind: LedgerKind; pool: string; sats: bigint }[];
};

/** Postings that moved something of the account, the newest first. `limit` is at most 1,000 postings; go on with `beforeSeq`. */
export async function readStatement(
  db: Tx,
  accountId: bigint,
  options: { limit: number; beforeSeq?: bigint },
): Promise<StatementLine[]> {
  const rows = await db.query<{
    tx_seq: bigint;
    key: string;
    kind: PostingKind;
    at: Date;
    actor: string;
    reason: string;
    block_hash: Uint8Array | null;
    batch_id: bigint | null;
    reverses: bigint | null;
    ledger_kind: LedgerKind;
    pool: string;
    amount: bigint;
  }>(
    `SELECT posting.tx_seq, key, posting.kind, at, actor, reason, block_hash, batch_id, reverses,
            ledger_accounts.kind AS ledger_kind, ledger_accounts.pool, amount
     FROM (SELECT DISTINCT tx_seq FROM ledger_entries JOIN ledger_accounts USING (ledger_account_id)
           WHERE account_id = $1 AND tx_seq < $2 ORDER BY tx_seq DESC LIMIT $3) AS chosen
     JOIN ledger_transactions AS posting USING (tx_seq)
     JOIN ledger_accounts ON account_id = $1
     JOIN ledger_entries ON ledger_entries.tx_seq = posting.tx_seq
       AND ledger_entries.ledger_account_id = ledger_accounts.ledger_account_id
     ORDER BY posting.tx_seq DESC, ordinal`,
    [accountId, options.beforeSeq ?? 2n ** 63n - 1n, Math.min(options.limit, 1_000)],
  );
  const lines: StatementLine[] = [];
  for (const row of rows) {
    let line = lines.at(-1);
    if (line?.txSeq !== row.tx_seq) {
      line = {
        txSeq: row.tx_seq,
        key: row.key,
        kind: row.kind,
        atMs: row.at.getTime(),
        actor: row.actor,
        reason: row.reason,
        blockHash: row.block_hash,
        batchId: row.batch_id,
        reverses: row.reverses,
        entries: [],
      };
      lines.push(line);
    }
    line.entries.push({ kind: row.ledger_kind, pool: row.pool, sats: row.amount });
  }
  return lines;
}

/** What a person did by hand, and why. */
export type Note = {
  atMs: number;
  actor: string;
  action: string;
  detail: Record<string, unknown>;
};

const NOTE_TEXT_MAX = 200;

/** Appends to the audit trail. `detail` becomes JSON, bigint as decimal strings. */
export async function recordNote(tx: Tx, note: Note): Promise<void> {
  await tx.query(
    `INSERT INTO ledger_notes (at, actor, action, detail)
     VALUES (to_timestamp($1::bigint / 1000.0), $2, $3, $4::jsonb)`,
    [
      note.atMs,
      storableText(note.actor, NOTE_TEXT_MAX),
      storableText(note.action, NOTE_TEXT_MAX),
      JSON.stringify(note.detail, (_, value) =>
        typeof value === 'bigint'
          ? String(value)
          : typeof value === 'string'
            ? storableText(value, value.length)
            : value,
      ),
    ],
  );
}

/** The audit trail, newest first. `limit` is at most 1,000; go on with `beforeId`. */
export async function listNotes(
  db: Tx,
  options: { limit: number; beforeId?: bigint },
): Promise<(Note & { noteId: bigint })[]> {
  const rows = await db.query<{
    note_id: bigint;
    at: Date;
    actor: string;
    action: string;
    detail: Record<string, unknown>;
  }>(
    `SELECT note_id, at, actor, action, detail FROM ledger_notes
     WHERE note_id < $1 ORDER BY note_id DESC LIMIT $2`,
    [options.beforeId ?? 2n ** 63n - 1n, Math.min(options.limit, 1_000)],
  );
  return rows.map((row) => ({
    noteId: row.note_id,
    atMs: row.at.getTime(),
    actor: row.actor,
    action: row.action,
    detail: row.detail,
  }));
}

export type Audit =
  | { ok: true; postings: bigint; entries: bigint; headHash: Uint8Array }
  | { ok: false; findings: string[] };

const FINDINGS_MAX = 100;
const PAGE_POSTINGS = 500;
const PAGE_ENTRIES = 20_000;
const PAGE_ACCOUNTS = 5_000;

/**
 * Recomputes the whole ledger from its entries, as of one moment and independently of the triggers: numbers without gaps, every hash
 * of the chain, sums to zero, the head, and every balance. In pages: memory holds some 20,000 entries, or one posting.
 */
export async function auditLedger(db: Db): Promise<Audit> {
  return db.transaction(async (tx) => {
    await tx.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY');
    // Compiling each page's plan took three times as long as reading it.
    await tx.query('SET LOCAL jit = off');
    const findings: string[] = [];
    const report = (finding: string): void => {
      if (findings.length < FINDINGS_MAX) findings.push(finding);
    };
    const chain = await auditChain(tx, report);
    await auditBalances(tx, report);
    if (findings.length > 0) return { ok: false, findings };
    return { ok: true, ...chain };
  });
}

type PostingRow = {
  tx_seq: bigint;
  key: string;
  kind: string;
  at_us: bigint;
  actor: string;
  reason: string;
  block_hash: Uint8Array | null;
  batch_id: bigint | null;
  reverses: bigint | null;
  entries: number;
  previous_hash: Uint8Array;
  hash: Uint8Array;
};

type EntriesRow = {
  tx_seq: bigint;
  number: bigint;
  unknown: bigint;
  lowest: number;
  highest: number;
  total: bigint;
  entry_bytes: Uint8Array;
};

async function auditChain(
  tx: Tx,
  report: (finding: string) => void,
): Promise<{ postings: bigint; entries: bigint; headHash: Uint8Array }> {
  const [head] = await tx.query<{ last_seq: bigint; hash: Uint8Array }>(
    'SELECT last_seq, hash FROM ledger_head',
  );
  if (!head) throw new Error('the table ledger_head has lost its row');
  let seq = 0n;
  let entries = 0n;
  let hash: Uint8Array = new Uint8Array(32);
  for (;;) {
    const page = await tx.query<PostingRow>(
      `SELECT tx_seq, key, kind, (extract(epoch FROM at) * 1000000)::bigint AS at_us, actor, reason,
              block_hash, batch_id, reverses, entries, previous_hash, hash
       FROM (SELECT *, sum(entries) OVER (ORDER BY tx_seq) - entries AS before FROM
              (SELECT * FROM ledger_transactions WHERE tx_seq > $1 ORDER BY tx_seq LIMIT $2) AS next) AS page
       WHERE before < $3 ORDER BY tx_seq`,
      [seq, PAGE_POSTINGS, PAGE_ENTRIES],
    );
    const lastSeq = page.at(-1)?.tx_seq ?? 2n ** 63n - 1n;
    const rows = await tx.query<EntriesRow>(
      `SELECT tx_seq, count(*) AS number, count(*) FILTER (WHERE kind IS NULL) AS unknown,
              min(ordinal) AS lowest, max(ordinal) AS highest, sum(amount) AS total,
              string_agg(int8send(amount) || int4send(octet_length(name)) || name, '' ORDER BY ordinal) AS entry_bytes
       FROM (SELECT tx_seq, ordinal, amount, kind,
                    convert_to(concat(kind, '/', pool, '/', address), 'UTF8') AS name
             FROM ledger_entries LEFT JOIN ledger_accounts USING (ledger_account_id)
             LEFT JOIN accounts USING (account_id)
             WHERE tx_seq > $1 AND tx_seq <= $2) AS named
       GROUP BY tx_seq ORDER BY tx_seq`,
      [seq, lastSeq],
    );
    const bySeq = new Map(rows.map((row) => [row.tx_seq, row]));
    for (const posting of page) {
      if (posting.tx_seq !== seq + 1n) {
        report(`posting ${seq + 1n} is missing; the next one is ${posting.tx_seq}`);
      }
      if (!sameBytes(posting.previous_hash, hash)) {
        report(`posting ${posting.tx_seq} does not follow the one before it`);
      }
      const own = bySeq.get(posting.tx_seq);
      bySeq.delete(posting.tx_seq);
      for (const finding of auditPosting(posting, own)) {
        report(`posting ${posting.tx_seq} (${posting.key}) ${finding}`);
      }
      seq = posting.tx_seq;
      hash = posting.hash;
      entries += own?.number ?? 0n;
    }
    for (const stray of bySeq.keys())
      report(`there are entries of posting ${stray}, which is not there`);
    if (page.length === 0) break;
  }
  if (head.last_seq !== seq || !sameBytes(head.hash, hash)) {
    report(`the head names posting ${head.last_seq}, the last one is ${seq}, or has another hash`);
  }
  return { postings: seq, entries, headHash: head.hash };
}

function auditPosting(posting: PostingRow, own: EntriesRow | undefined): string[] {
  if (own === undefined) return ['has no entries'];
  const findings: string[] = [];
  if (own.unknown > 0n) findings.push('has entries of accounts that are not there');
  if (
    own.number !== BigInt(posting.entries) ||
    own.lowest !== 1 ||
    own.highest !== posting.entries
  ) {
    findings.push(`has ${own.number} entries and should have ${posting.entries}`);
  }
  if (own.total !== 0n) findings.push(`sums to ${own.total} sat`);
  if (!sameBytes(posting.hash, hashPosting(posting, own.entry_bytes))) {
    findings.push('does not have the hash of what it says');
  }
  return findings;
}

/** The same as `ledger_hash` in the database, in other words. */
function hashPosting(posting: PostingRow, entryBytes: Uint8Array): Uint8Array {
  const numbers = Buffer.alloc(32);
  numbers.writeBigInt64BE(posting.tx_seq, 0);
  numbers.writeBigInt64BE(posting.at_us, 8);
  numbers.writeBigInt64BE(posting.batch_id ?? 0n, 16);
  numbers.writeBigInt64BE(posting.reverses ?? 0n, 24);
  const hash = createHash('sha256').update(posting.previous_hash).update(numbers);
  const { key, kind, actor, reason } = posting;
  for (const text of [key, kind, actor, reason, posting.block_hash ?? '']) {
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(4);
    length.writeInt32BE(bytes.length);
    hash.update(length).update(bytes);
  }
  return hash.update(entryBytes).digest();
}

async function auditBalances(tx: Tx, report: (finding: string) => void): Promise<void> {
  let after = 0n;
  for (;;) {
    const rows = await tx.query<{
      ledger_account_id: bigint;
      name: string;
      signed: boolean;
      balance: bigint;
      total: bigint;
    }>(
      `SELECT ledger_account_id, concat_ws(' ', kind, nullif(pool, ''), address) AS name,
              kind IN ('chain', 'deposit', 'paid', 'network-fee', 'expense', 'loss', 'carry') AS signed, balance,
              (SELECT coalesce(sum(amount), 0) FROM ledger_entries
               WHERE ledger_entries.ledger_account_id = page.ledger_account_id) AS total
       FROM (SELECT * FROM ledger_accounts WHERE ledger_account_id > $1 ORDER BY ledger_account_id LIMIT $2) AS page
       LEFT JOIN accounts USING (account_id) ORDER BY ledger_account_id`,
      [after, PAGE_ACCOUNTS],
    );
    for (const row of rows) {
      if (row.balance !== row.total) {
        report(`balance of ${row.name} is ${row.balance} sat, its entries sum to ${row.total} sat`);
      }
      if (row.balance < 0n && !row.signed) {
        report(`balance of ${row.name} is ${row.balance} sat`);
      }
    }
    const last = rows.at(-1);
    if (last === undefined) return;
    after = last.ledger_account_id;
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
