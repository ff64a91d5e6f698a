import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import { auditLedger, postLedger, reverseLedger } from '../../src/store/ledger.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);
const TABLES = [
  'accounts',
  'ledger_accounts',
  'ledger_transactions',
  'ledger_entries',
  'ledger_head',
] as const;

/** Five postings over eight ledger accounts; all columns have a value somewhere. */
async function makeLedger(db: Db): Promise<void> {
  await db.transaction(async (tx) => {
    const ids = await findOrMakeAccounts(tx, ['alice', 'bob', 'carol'], AT_MS);
    const [a, b, c] = [...ids.values()] as [bigint, bigint, bigint];
    const base = { atMs: AT_MS, actor: 'payoutd', reason: 'why' } as const;
    await postLedger(tx, {
      ...base,
      key: 'credit:1',
      kind: 'credit',
      blockHash: new Uint8Array(32).fill(1),
      entries: [
        { account: { kind: 'chain' }, sats: -1_000n },
        { account: { kind: 'miner', accountId: a }, sats: 500n },
        { account: { kind: 'miner', accountId: b }, sats: 500n },
      ],
    });
    await postLedger(tx, {
      ...base,
      key: 'credit:2',
      kind: 'credit',
      blockHash: new Uint8Array(32).fill(2),
      entries: [
        { account: { kind: 'chain' }, sats: -90n },
        { account: { kind: 'miner-immature', accountId: c }, sats: 80n },
        { account: { kind: 'operator-immature' }, sats: 10n },
      ],
    });
    await postLedger(tx, {
      ...base,
      key: 'reserve:1',
      kind: 'payout-reserve',
      batchId: 4n,
      entries: [
        { account: { kind: 'miner', accountId: a }, sats: -400n },
        { account: { kind: 'transit', accountId: a }, sats: 400n },
      ],
    });
    await reverseLedger(tx, { ...base, txSeq: 2n, key: 'orphan:2', kind: 'orphan' });
    await postLedger(tx, {
      ...base,
      key: 'fund:1',
      kind: 'fund',
      entries: [
        { account: { kind: 'deposit' }, sats: -70n },
        { account: { kind: 'reserve', pool: 'main' }, sats: 70n },
      ],
    });
  });
}

/** Runs statements with all our triggers off, as somebody with the owner's rights and bad intent. */
async function tamper(db: Db, statements: readonly string[]): Promise<void> {
  await db.transaction(async (tx) => {
    for (const table of TABLES) await tx.query(`ALTER TABLE ${table} DISABLE TRIGGER USER`);
    for (const statement of statements) await tx.query(statement);
    for (const table of TABLES) await tx.query(`ALTER TABLE ${table} ENABLE TRIGGER USER`);
  });
}

/** Answers a function that puts everything back as it is now. */
async function keep(db: Db): Promise<() => Promise<void>> {
  for (const table of TABLES) await db.query(`CREATE TABLE kept_${table} AS TABLE ${table}`);
  return () =>
    tamper(db, [
      'DELETE FROM ledger_head',
      'DELETE FROM ledger_entries',
      'DELETE FROM ledger_transactions',
      'DELETE FROM ledger_accounts',
      'DELETE FROM accounts',
      ...TABLES.map(
        (table) => `INSERT INTO ${table} OVERRIDING SYSTEM VALUE SELECT * FROM kept_${table}`,
      ),
    ]);
}

async function findingsOf(db: Db): Promise<string[]> {
  const audit = await auditLedger(db);
  return audit.ok ? [] : audit.findings;
}

/** Balances of the given ledger accounts as their entries say. */
const REBALANCE = `UPDATE ledger_accounts SET balance = (SELECT coalesce(sum(amount), 0) FROM ledger_entries
  WHERE ledger_entries.ledger_account_id = ledger_accounts.ledger_account_id)`;

for (const kind of SERVER_KINDS) {
  describe(`audit of the ledger on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('every kind of tampering is found and named', async () => {
      const db = await server.freshDatabase();
      await makeLedger(db);
      const restore = await keep(db);
      assert.deepEqual(await findingsOf(db), []);
      // Ordinals follow kind, pool and account: posting 1 is chain, alice, bob.
      const kinds: [what: string, finding: RegExp, ...statements: string[]][] = [
        [
          'amount',
          /posting 1 .* sums to 1 sat/,
          'UPDATE ledger_entries SET amount = amount + 1 WHERE tx_seq = 1 AND ordinal = 2',
          REBALANCE,
        ],
        [
          'two amounts, sum kept',
          /posting 1 .*hash of what it says/,
          'UPDATE ledger_entries SET amount = amount + 2 * ordinal - 5 WHERE tx_seq = 1 AND ordinal > 1',
          REBALANCE,
        ],
        [
          'entry removed',
          /posting 1 .* has 2 entries and should have 3/,
          'DELETE FROM ledger_entries WHERE tx_seq = 1 AND ordinal = 3',
          REBALANCE,
        ],
        [
          'all entries removed',
          /posting 5 .* has no entries/,
          'DELETE FROM ledger_entries WHERE tx_seq = 5',
          REBALANCE,
        ],
        [
          'entry added',
          /posting 1 .* has 5 entries and should have 3/,
          'INSERT INTO ledger_entries VALUES (1, 4, 6, -5), (1, 5, 8, 5)',
          REBALANCE,
        ],
        [
          'entries swapped',
          /posting 1 .*hash of what it says/,
          'UPDATE ledger_entries SET ordinal = ordinal + 10 WHERE tx_seq = 1',
          'UPDATE ledger_entries SET ordinal = 15 - ordinal WHERE tx_seq = 1 AND ordinal > 11',
          'UPDATE ledger_entries SET ordinal = 1 WHERE ordinal = 11',
        ],
        [
          'entries exchange accounts',
          /posting 3 .*hash of what it says/,
          "UPDATE ledger_entries SET ledger_account_id = (SELECT ledger_account_id FROM ledger_accounts JOIN accounts USING (account_id) WHERE kind = 'miner' AND address = 'bob') WHERE tx_seq = 3 AND ordinal = 1",
          REBALANCE,
        ],
        [
          'entries of nobody',
          /posting 3 .*accounts that are not there/,
          'UPDATE ledger_entries SET ledger_account_id = 99 WHERE tx_seq = 3 AND ordinal = 1',
          REBALANCE,
        ],
        [
          'entries between postings',
          /entries of posting 9, which is not there/,
          'UPDATE ledger_entries SET tx_seq = 9 WHERE tx_seq = 5',
        ],
        [
          'reason',
          /posting 5 .*hash of what it says/,
          "UPDATE ledger_transactions SET reason = 'because' WHERE tx_seq = 5",
        ],
        [
          'time',
          /posting 1 .*hash of what it says/,
          "UPDATE ledger_transactions SET at = at - interval '1 microsecond' WHERE tx_seq = 1",
        ],
        [
          'balance',
          /balance of miner bob is 501 sat, its entries sum to 500 sat/,
          'UPDATE ledger_accounts SET balance = balance + 1 WHERE ledger_account_id = 3',
        ],
        [
          'last posting removed',
          /the head names posting 5, the last one is 4/,
          'DELETE FROM ledger_entries WHERE tx_seq = 5',
          'DELETE FROM ledger_transactions WHERE tx_seq = 5',
          REBALANCE,
        ],
        [
          'last posting removed, head moved back by number',
          /the head names posting 4, the last one is 4, or has another hash/,
          'DELETE FROM ledger_entries WHERE tx_seq = 5',
          'DELETE FROM ledger_transactions WHERE tx_seq = 5',
          REBALANCE,
          'UPDATE ledger_head SET last_seq = 4',
        ],
        [
          'first posting removed',
          /posting 1 is missing/,
          'DELETE FROM ledger_entries WHERE tx_seq = 1',
          'DELETE FROM ledger_transactions WHERE tx_seq = 1',
        ],
        [
          'posting removed',
          /posting 3 is missing; the next one is 4/,
          'DELETE FROM ledger_entries WHERE tx_seq = 3',
          'DELETE FROM ledger_transactions WHERE tx_seq = 3',
          REBALANCE,
        ],
        [
          'posting inserted at the end',
          /posting 6 does not follow/,
          `INSERT INTO ledger_transactions SELECT 6, 'new', kind, at, actor, reason, NULL, NULL, NULL, entries, previous_hash, hash FROM ledger_transactions WHERE tx_seq = 5`,
          'INSERT INTO ledger_entries SELECT 6, ordinal, ledger_account_id, amount FROM ledger_entries WHERE tx_seq = 5',
          REBALANCE,
        ],
        [
          'posting inserted in the middle',
          /posting 3 .*hash of what it says/,
          'SET CONSTRAINTS ALL DEFERRED',
          'UPDATE ledger_transactions SET tx_seq = tx_seq + 10 WHERE tx_seq >= 3',
          'UPDATE ledger_transactions SET tx_seq = tx_seq - 9 WHERE tx_seq >= 13',
          'UPDATE ledger_entries SET tx_seq = tx_seq + 10 WHERE tx_seq >= 3',
          'UPDATE ledger_entries SET tx_seq = tx_seq - 9 WHERE tx_seq >= 13',
          `INSERT INTO ledger_transactions SELECT 3, 'new', kind, at, actor, reason, NULL, NULL, NULL, entries, hash, hash FROM ledger_transactions WHERE tx_seq = 2`,
          'INSERT INTO ledger_entries SELECT 3, ordinal, ledger_account_id, amount FROM ledger_entries WHERE tx_seq = 2',
          'UPDATE ledger_head SET last_seq = 6',
          REBALANCE,
        ],
        [
          'payout address',
          /posting 1 .*hash of what it says/,
          "UPDATE accounts SET address = 'thief' WHERE address = 'alice'",
        ],
        [
          'two miners exchanged',
          /posting 1 .*hash of what it says/,
          "UPDATE accounts SET address = address || '?'",
          "UPDATE accounts SET address = CASE address WHEN 'alice?' THEN 'bob' WHEN 'bob?' THEN 'alice' ELSE 'carol' END",
        ],
        [
          'owner of a balance',
          /hash of what it says/,
          "UPDATE ledger_accounts SET account_id = (SELECT account_id FROM accounts WHERE address = 'carol') WHERE kind = 'transit'",
        ],
        [
          'a rewritten posting with its right hash',
          /posting 4 does not follow/,
          `UPDATE ledger_transactions AS posting SET reason = 'x', hash = ledger_hash(previous_hash, tx_seq, at, batch_id, reverses, key, kind, actor, 'x', block_hash,
            (SELECT string_agg(ledger_entry_bytes(a.kind, a.pool, address, amount), '' ORDER BY ordinal)
             FROM ledger_entries AS e JOIN ledger_accounts AS a USING (ledger_account_id) LEFT JOIN accounts USING (account_id) WHERE e.tx_seq = 3))
           WHERE tx_seq = 3`,
        ],
      ];
      for (const [what, finding, ...statements] of kinds) {
        await tamper(db, statements);
        const findings = await findingsOf(db);
        assert.ok(
          findings.some((one) => finding.test(one)),
          `${what}: ${JSON.stringify(findings)}`,
        );
        await restore();
      }
      assert.deepEqual(await findingsOf(db), []);
    });

    test('no value of any row can be another one', async () => {
      const db = await server.freshDatabase();
      await makeLedger(db);
      const restore = await keep(db);
      const columns = await db.query<{ table: string; column: string; type: string }>(
        `SELECT relname AS table, attname AS column, format_type(atttypid, NULL) AS type
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relname = ANY($1::text[]) AND attnum > 0 AND NOT attisdropped ORDER BY relname, attnum`,
        [TABLES],
      );
      const changes: Record<string, (column: string) => string> = {
        bigint: (column) => `coalesce(${column}, 0) + 1`,
        integer: (column) => `${column} + 1`,
        text: (column) =>
          column === 'kind'
            ? `CASE kind WHEN 'loss' THEN 'fund' ELSE 'loss' END`
            : `${column} || 'x'`,
        bytea: (column) =>
          `set_byte(coalesce(${column}, sha256('')), 31, get_byte(coalesce(${column}, sha256('')), 31) # 1)`,
        'timestamp with time zone': (column) => `${column} + interval '1 microsecond'`,
        boolean: (column) => `NOT ${column}`,
      };
      let applied = 0;
      for (const { table, column, type } of columns) {
        // When an address was first seen is no money; numbers of rows that others refer to are held by those.
        if (column === 'created_at') continue;
        const rows = await db.query<{ ctid: string }>(
          `SELECT ctid::text FROM ${table} ORDER BY ctid`,
        );
        for (let i = 0; i < rows.length; i++) {
          const change = `UPDATE ${table} SET ${column} = ${changes[type]!(column)}
            WHERE ctid = (SELECT ctid FROM ${table} ORDER BY ctid OFFSET ${i} LIMIT 1)`;
          try {
            await tamper(db, [change]);
          } catch (error) {
            // Constraints and generated keys hold even without triggers.
            assert.match(String((error as { code?: string }).code), /^(23|428C9)/, change);
            continue;
          }
          applied++;
          assert.notDeepEqual(await findingsOf(db), [], change);
          await restore();
        }
      }
      assert.ok(applied > 80, `${applied} changes`);
      assert.deepEqual(await findingsOf(db), []);
    });

    test('a long ledger is read in pages, as of one moment', async () => {
      const db = await server.freshDatabase();
      await db.query(
        `INSERT INTO accounts (address, created_at) SELECT 'a' || i, now() FROM generate_series(1, 6000) AS i`,
      );
      await db.query(
        `DO $$ BEGIN
           FOR i IN 1..600 LOOP
             PERFORM ledger_post('small:' || i, 'manual', now(), 'test', '', NULL, NULL, NULL,
               ARRAY['chain', 'miner'], ARRAY['', ''], ARRAY[NULL, i]::bigint[], ARRAY[-5, 5]::bigint[]);
           END LOOP;
           FOR i IN 1..5 LOOP
             PERFORM ledger_post('large:' || i, 'credit', now(), 'test', '', NULL, NULL, NULL,
               array_fill('miner'::text, ARRAY[6000]) || 'chain'::text, array_fill(''::text, ARRAY[6001]),
               (SELECT array_agg(n) FROM generate_series(1, 6000) AS n) || NULL::bigint,
               array_fill(1::bigint, ARRAY[6000]) || -6000::bigint);
           END LOOP;
         END $$`,
      );
      let rowsMax = 0;
      let bytesMax = 0;
      let pages = 0;
      const watched: Db = {
        ...db,
        transaction: (work) =>
          db.transaction((tx) =>
            work({
              async query<Row>(sql: string, params?: readonly unknown[]): Promise<Row[]> {
                // A posting that comes while the audit runs is not in its moment.
                if (++pages === 4) {
                  await db.transaction((other) =>
                    postLedger(other, {
                      key: 'meanwhile',
                      kind: 'manual',
                      atMs: AT_MS,
                      actor: 'test',
                      entries: [
                        { account: { kind: 'chain' }, sats: -1n },
                        { account: { kind: 'paid' }, sats: 1n },
                      ],
                    }),
                  );
                }
                const rows = await tx.query<Row>(sql, params);
                rowsMax = Math.max(rowsMax, rows.length);
                const bytes = rows.reduce(
                  (sum, row) =>
                    sum +
                    Object.values(row as Record<string, unknown>).reduce(
                      (own: number, value) =>
                        own + (value instanceof Uint8Array ? value.length : 8),
                      0,
                    ),
                  0,
                );
                bytesMax = Math.max(bytesMax, bytes);
                return rows;
              },
            }),
          ),
      };
      const audit = await auditLedger(watched);
      assert.ok(audit.ok);
      assert.deepEqual([audit.postings, audit.entries], [605n, 1_200n + 5n * 6_001n]);
      assert.ok(rowsMax <= 5_000, `${rowsMax} rows`);
      assert.ok(bytesMax < 2_000_000, `${bytesMax} bytes`);
      assert.ok(pages > 10, `${pages} queries`);
      const later = await auditLedger(db);
      assert.ok(later.ok && later.postings === 606n);
      await tamper(db, ["UPDATE ledger_transactions SET reason = 'x' WHERE tx_seq = 604"]);
      assert.deepEqual(await findingsOf(db), [
        'posting 604 (large:4) does not have the hash of what it says',
      ]);
      // However much is wrong, the findings stay few enough to read.
      await tamper(db, ['UPDATE ledger_accounts SET balance = balance + 1']);
      assert.equal((await findingsOf(db)).length, 100);
    });
  });
}
