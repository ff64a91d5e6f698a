/**
 * Accounts by address, and what each may have otherwise than its pool: fee, donation, minimum, hold. Every change of a setting leaves a
 * note in the audit trail.
 */
import type { Db } from '../ports.ts';
import { recordNote } from './ledger.ts';
import { storableText } from './text.ts';

type Tx = Pick<Db, 'query'>;

const ADDRESS_MAX = 512;
const REASON_MAX = 1_000;

/**
 * The account of each address, made where it is missing. Addresses are taken as they are: make them canonical before. In order of
 * address, so that two callers do not wait for each other in a circle.
 */
export async function findOrMakeAccounts(
  tx: Tx,
  addresses: Iterable<string>,
  atMs: number,
): Promise<Map<string, bigint>> {
  const wanted = [...new Set(addresses)].sort();
  for (const address of wanted) {
    if (address === '' || address !== storableText(address, ADDRESS_MAX)) {
      throw new RangeError('not an address that can be stored');
    }
  }
  const found = await findAccounts(tx, wanted);
  const missing = wanted.filter((address) => !found.has(address));
  if (missing.length === 0) return found;
  await tx.query(
    `INSERT INTO accounts (address, created_at)
     SELECT address, to_timestamp($2::bigint / 1000.0) FROM unnest($1::text[]) WITH ORDINALITY AS given(address, number)
     ORDER BY number ON CONFLICT (address) DO NOTHING`,
    [missing, atMs],
  );
  for (const [address, id] of await findAccounts(tx, missing)) found.set(address, id);
  return found;
}

/** The accounts that there are. */
export async function findAccounts(
  db: Tx,
  addresses: readonly string[],
): Promise<Map<string, bigint>> {
  const rows = await db.query<{ address: string; account_id: bigint }>(
    'SELECT address, account_id FROM accounts WHERE address = ANY($1::text[])',
    [addresses],
  );
  return new Map(rows.map((row) => [row.address, row.account_id]));
}

export type AccountSettings = {
  /** Null: the pool's fee. */
  feePpm: number | null;
  donationPpm: number;
  /** Null: the pool's minimum. */
  minimumPayoutSats: bigint | null;
  onHold: boolean;
  holdReason: string | null;
};

type SettingsRow = {
  account_id: bigint;
  fee_ppm: number | null;
  donation_ppm: number;
  minimum_payout_sats: bigint | null;
  on_hold: boolean;
  hold_reason: string | null;
};

/** Settings of every account asked for, also of those that have none of their own. */
export async function readSettings(
  db: Tx,
  accountIds: readonly bigint[],
): Promise<Map<bigint, AccountSettings>> {
  const settings = new Map<bigint, AccountSettings>(
    accountIds.map((id) => [
      id,
      { feePpm: null, donationPpm: 0, minimumPayoutSats: null, onHold: false, holdReason: null },
    ]),
  );
  const rows = await db.query<SettingsRow>(
    `SELECT account_id, fee_ppm, donation_ppm, minimum_payout_sats, on_hold, hold_reason
     FROM account_settings WHERE account_id = ANY($1::bigint[])`,
    [accountIds],
  );
  for (const row of rows) settings.set(row.account_id, settingsOf(row));
  return settings;
}

function settingsOf(row: SettingsRow): AccountSettings {
  return {
    feePpm: row.fee_ppm,
    donationPpm: row.donation_ppm,
    minimumPayoutSats: row.minimum_payout_sats,
    onHold: row.on_hold,
    holdReason: row.hold_reason,
  };
}

/**
 * Changes what `change` names and leaves the rest, with a note of before and after. Answers the settings as they are now. The database
 * refuses shares outside 0..1,000,000 ppm, also together, and an account that is not there (codes 23514, 23503).
 */
export async function setSettings(
  db: Pick<Db, 'transaction'>,
  order: {
    accountId: bigint;
    change: Partial<AccountSettings>;
    actor: string;
    reason: string;
    atMs: number;
  },
): Promise<AccountSettings> {
  const { accountId, atMs } = order;
  return db.transaction(async (tx) => {
    await tx.query(
      `INSERT INTO account_settings (account_id, updated_at) VALUES ($1, to_timestamp($2::bigint / 1000.0))
       ON CONFLICT DO NOTHING`,
      [accountId, atMs],
    );
    const [row] = await tx.query<SettingsRow>(
      'SELECT * FROM account_settings WHERE account_id = $1 FOR UPDATE',
      [accountId],
    );
    if (!row) throw new Error('the settings just made are gone');
    const before = settingsOf(row);
    const now = { ...before, ...order.change };
    if (now.holdReason !== null) now.holdReason = storableText(now.holdReason, REASON_MAX);
    await tx.query(
      `UPDATE account_settings SET fee_ppm = $2, donation_ppm = $3, minimum_payout_sats = $4, on_hold = $5,
         hold_reason = $6, updated_at = to_timestamp($7::bigint / 1000.0) WHERE account_id = $1`,
      [
        accountId,
        now.feePpm,
        now.donationPpm,
        now.minimumPayoutSats,
        now.onHold,
        now.holdReason,
        atMs,
      ],
    );
    await recordNote(tx, {
      atMs,
      actor: order.actor,
      action: 'settings',
      detail: { accountId, reason: order.reason, before, now },
    });
    return now;
  });
}
