import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import type { Db } from '../../src/ports.ts';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import {
  auditLedger,
  LEDGER_KINDS,
  type LedgerAccount,
  type LedgerKind,
  listBalances,
  listNotes,
  type Posting,
  PostingConflictError,
  postLedger,
  readBalance,
  readStatement,
  recordNote,
  reverseLedger,
  sumBalances,
} from '../../src/store/ledger.ts';
import { recordScheme } from '../../src/store/schemes.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);
const CHAIN: LedgerAccount = { kind: 'chain' };

function miner(accountId: bigint): LedgerAccount {
  return { kind: 'miner', accountId };
}

function move(
  key: string,
  from: LedgerAccount,
  to: LedgerAccount,
  sats: bigint,
  more: Partial<Posting> = {},
): Posting {
  return {
    key,
    kind: 'manual',
    atMs: AT_MS,
    actor: 'test',
    entries: [
      { account: from, sats: -sats },
      { account: to, sats },
    ],
    ...more,
  };
}

function post(db: Db, posting: Posting) {
  return db.transaction((tx) => postLedger(tx, posting));
}

async function makeAccounts(db: Db, count: number): Promise<bigint[]> {
  const addresses = Array.from({ length: count }, (_, i) => `address${i}`);
  const made = await db.transaction((tx) => findOrMakeAccounts(tx, addresses, AT_MS));
  return addresses.map((address) => made.get(address) as bigint);
}

/** Everything the ledger says, to be compared before and after. */
async function everything(db: Db): Promise<unknown> {
  return [
    await db.query('SELECT * FROM ledger_head'),
    await db.query('SELECT * FROM ledger_transactions ORDER BY tx_seq'),
    await db.query('SELECT * FROM ledger_entries ORDER BY tx_seq, ordinal'),
    await db.query('SELECT * FROM ledger_accounts ORDER BY ledger_account_id'),
    await db.query('SELECT * FROM ledger_notes ORDER BY note_id'),
    await db.query('SELECT * FROM pool_schemes ORDER BY pool_scheme_id'),
  ];
}

async function assertSound(db: Db): Promise<void> {
  const audit = await auditLedger(db);
  assert.deepEqual(audit.ok ? [] : audit.findings, []);
}

for (const kind of SERVER_KINDS) {
  describe(`ledger on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('postings move balances, and the same posting again changes nothing', async () => {
      const db = await server.freshDatabase();
      const [a, b] = (await makeAccounts(db, 2)) as [bigint, bigint];
      assert.deepEqual(await auditLedger(db), {
        ok: true,
        postings: 0n,
        entries: 0n,
        headHash: Buffer.alloc(32),
      });
      const credit: Posting = {
        key: 'credit:00:0',
        kind: 'credit',
        atMs: AT_MS,
        actor: 'payoutd',
        reason: 'Blöck №1',
        blockHash: new Uint8Array(32).fill(7),
        entries: [
          { account: CHAIN, sats: -1_000n },
          { account: miner(a), sats: 600n },
          { account: { kind: 'operator' }, sats: 0n },
          { account: miner(b), sats: 300n },
          { account: miner(a), sats: 100n },
        ],
      };
      assert.deepEqual(await post(db, credit), { txSeq: 1n, isNew: true });
      const once = await everything(db);
      // Entries in another order and split otherwise are the same posting, and the time of a repeated attempt is another one.
      const again = {
        ...credit,
        atMs: AT_MS + 60_000,
        entries: [
          { account: miner(a), sats: 700n },
          { account: miner(b), sats: 300n },
          { account: CHAIN, sats: -1_000n },
        ],
      };
      assert.deepEqual(await post(db, again), { txSeq: 1n, isNew: false });
      assert.deepEqual(await everything(db), once);
      assert.equal(await readBalance(db, miner(a)), 700n);
      assert.equal(await readBalance(db, miner(b)), 300n);
      assert.equal(await readBalance(db, CHAIN), -1_000n);
      assert.equal(await readBalance(db, { kind: 'operator' }), 0n);
      assert.deepEqual(
        await post(
          db,
          move('out', miner(a), { kind: 'transit', accountId: a }, 50n, { batchId: 3n }),
        ),
        {
          txSeq: 2n,
          isNew: true,
        },
      );
      const sums = await sumBalances(db);
      assert.deepEqual(Object.keys(sums).sort(), [...LEDGER_KINDS].sort());
      assert.equal(sums.miner, 950n);
      assert.equal(sums.transit, 50n);
      assert.equal(
        Object.values(sums).reduce((sum, one) => sum + one, 0n),
        0n,
      );
      assert.deepEqual(await readStatement(db, a, { limit: 10 }), [
        {
          txSeq: 2n,
          key: 'out',
          kind: 'manual',
          atMs: AT_MS,
          actor: 'test',
          reason: '',
          blockHash: null,
          batchId: 3n,
          reverses: null,
          entries: [
            { kind: 'miner', pool: '', sats: -50n },
            { kind: 'transit', pool: '', sats: 50n },
          ],
        },
        {
          txSeq: 1n,
          key: 'credit:00:0',
          kind: 'credit',
          atMs: AT_MS,
          actor: 'payoutd',
          reason: 'Blöck №1',
          blockHash: Buffer.alloc(32, 7),
          batchId: null,
          reverses: null,
          entries: [{ kind: 'miner', pool: '', sats: 700n }],
        },
      ]);
      assert.equal((await readStatement(db, a, { limit: 1 }))[0]?.txSeq, 2n);
      assert.equal((await readStatement(db, a, { limit: 10, beforeSeq: 2n }))[0]?.txSeq, 1n);
      const audit = await auditLedger(db);
      assert.ok(audit.ok);
      assert.deepEqual([audit.postings, audit.entries], [2n, 5n]);
    });

    test('the same key for something else is refused, whatever the difference', async () => {
      const db = await server.freshDatabase();
      const [a, b] = (await makeAccounts(db, 2)) as [bigint, bigint];
      const posting = move('k', CHAIN, miner(a), 10n, { reason: 'r', batchId: 1n });
      await post(db, posting);
      const others: Partial<Posting>[] = [
        { kind: 'fund' },
        { actor: 'somebody else' },
        { reason: 'another' },
        { blockHash: new Uint8Array(32) },
        { batchId: 2n },
        { reverses: 1n },
        { entries: move('k', CHAIN, miner(a), 11n).entries },
        { entries: move('k', CHAIN, miner(b), 10n).entries },
        { entries: move('k', { kind: 'deposit' }, miner(a), 10n).entries },
        { entries: [] },
      ];
      const once = await everything(db);
      for (const other of others) {
        await assert.rejects(post(db, { ...posting, ...other }), PostingConflictError);
      }
      assert.deepEqual(await everything(db), once);
    });

    test('what the function takes: limits, owners and pools of accounts', async () => {
      const db = await server.freshDatabase();
      const [a] = (await makeAccounts(db, 1)) as [bigint];
      const max = 2n ** 63n - 1n;
      await post(db, move('most', CHAIN, miner(a), max));
      await post(db, move('back', miner(a), { kind: 'paid' }, max));
      const wrong: [string, Posting, string][] = [
        [
          'not zero',
          {
            ...move('x', CHAIN, miner(a), 1n),
            entries: [
              { account: CHAIN, sats: 1n },
              { account: miner(a), sats: 1n },
            ],
          },
          '23000',
        ],
        ['overflow of a balance', move('x', CHAIN, { kind: 'paid' }, 1n), '22003'],
        [
          'overflow in a posting',
          {
            ...move('x', CHAIN, miner(a), 1n),
            entries: [
              { account: CHAIN, sats: max },
              { account: CHAIN, sats: max },
            ],
          },
          '22003',
        ],
        ['no entries', { ...move('x', CHAIN, miner(a), 1n), entries: [] }, '23502'],
        ['zero entries', move('x', CHAIN, miner(a), 0n), '23502'],
        ['to itself', move('x', miner(a), miner(a), 5n), '23502'],
        ['negative miner', move('x', miner(a), CHAIN, 1n), '23514'],
        ['negative operator', move('x', { kind: 'operator' }, CHAIN, 1n), '23514'],
        ['unknown account', move('x', CHAIN, miner(999n), 1n), '23503'],
        ['a miner without account', move('x', CHAIN, { kind: 'miner' }, 1n), '23514'],
        ['a chain with account', move('x', { kind: 'chain', accountId: a }, miner(a), 1n), '23514'],
        [
          'a miner with pool',
          move('x', CHAIN, { kind: 'miner', pool: 'main', accountId: a }, 1n),
          '23514',
        ],
        ['a reserve without pool', move('x', CHAIN, { kind: 'reserve' }, 1n), '23514'],
        ['unknown kind', move('x', CHAIN, { kind: 'piggy' as LedgerKind }, 1n), '23514'],
        [
          'unknown kind of posting',
          move('x', CHAIN, { kind: 'paid' }, 1n, { kind: 'gift' as 'manual' }),
          '23514',
        ],
        ['empty key', move('', CHAIN, { kind: 'loss' }, 1n), '23514'],
        ['long key', move('k'.repeat(201), CHAIN, { kind: 'loss' }, 1n), '23514'],
        ['nobody', move('x', CHAIN, { kind: 'loss' }, 1n, { actor: '' }), '23514'],
        [
          'half a hash',
          move('x', CHAIN, { kind: 'loss' }, 1n, { blockHash: new Uint8Array(16) }),
          '23514',
        ],
        ['reverses nothing', move('x', CHAIN, { kind: 'loss' }, 1n, { reverses: 77n }), '23503'],
      ];
      const once = await everything(db);
      for (const [what, posting, code] of wrong) {
        await assert.rejects(post(db, posting), { code }, what);
      }
      assert.deepEqual(await everything(db), once);
      for (const account of [
        { kind: 'reserve', pool: 'main' },
        { kind: 'reserve-immature', pool: 'b' },
        { kind: 'operator', pool: 'b' },
        { kind: 'operator' },
      ] as const) {
        await post(
          db,
          move(
            `in:${account.kind}:${'pool' in account ? account.pool : ''}`,
            { kind: 'deposit' },
            account,
            7n,
          ),
        );
        assert.equal(await readBalance(db, account), 7n);
      }
      await post(
        db,
        move(
          'carry',
          { kind: 'carry', pool: 'main', accountId: a },
          { kind: 'carry', pool: 'b', accountId: a },
          5n,
        ),
      );
      assert.equal(await readBalance(db, { kind: 'carry', pool: 'main', accountId: a }), -5n);
      await assertSound(db);
    });

    test('a posting is taken back exactly, once, and only while the money is there', async () => {
      const db = await server.freshDatabase();
      const [a, b] = (await makeAccounts(db, 2)) as [bigint, bigint];
      const blockHash = new Uint8Array(32).fill(9);
      const credit: Posting = {
        ...move('credit', CHAIN, miner(a), 70n, { blockHash }),
        entries: [
          { account: CHAIN, sats: -100n },
          { account: miner(a), sats: 70n },
          { account: miner(b), sats: 30n },
        ],
      };
      const { txSeq } = await post(db, credit);
      await post(db, move('spend', miner(a), { kind: 'paid' }, 1n));
      const reversal = { txSeq, kind: 'orphan', atMs: AT_MS, actor: 'test' } as const;
      const reverse = (key: string) =>
        db.transaction((tx) => reverseLedger(tx, { ...reversal, key, reason: 'lost' }));
      await assert.rejects(reverse('back'), { code: '23514' });
      await post(db, move('refund', { kind: 'deposit' }, miner(a), 1n));
      assert.deepEqual(await reverse('back'), { txSeq: 4n, isNew: true });
      assert.deepEqual(await reverse('back'), { txSeq: 4n, isNew: false });
      await assert.rejects(reverse('back again'), { code: '23505' });
      await assert.rejects(
        db.transaction((tx) => reverseLedger(tx, { ...reversal, key: 'x', txSeq: 99n })),
        RangeError,
      );
      for (const account of [CHAIN, miner(a), miner(b)]) {
        assert.equal(await readBalance(db, account), 0n);
      }
      const [line] = await readStatement(db, b, { limit: 1 });
      assert.deepEqual(
        [line?.reverses, line?.kind, line?.reason, line?.blockHash],
        [1n, 'orphan', 'lost', Buffer.from(blockHash)],
      );
      await assertSound(db);
    });

    test('balances are listed in pages; notes too', async () => {
      const db = await server.freshDatabase();
      const ids = await makeAccounts(db, 25);
      await post(db, {
        ...move('many', CHAIN, CHAIN, 1n),
        entries: [
          ...ids.map((id, i) => ({ account: miner(id), sats: BigInt(i + 1) })),
          { account: CHAIN, sats: -325n },
        ],
      });
      await post(db, move('empty', miner(ids[3] as bigint), { kind: 'paid' }, 4n));
      const seen: string[] = [];
      let after: bigint | undefined;
      for (;;) {
        const page = await listBalances(db, { kind: 'miner', limit: 10, ...(after && { after }) });
        if (page.length === 0) break;
        seen.push(...page.map((one) => `${one.address}:${one.balanceSats}`));
        after = page.at(-1)?.ledgerAccountId;
      }
      assert.deepEqual(
        seen,
        ids
          .map((id, i) => ({ id, text: `address${i}:${i + 1}` }))
          .filter((_, i) => i !== 3)
          .sort((x, y) => (x.id < y.id ? -1 : 1))
          .map(({ text }) => text),
      );
      assert.equal((await listBalances(db, { limit: 100, withEmpty: true })).length, 27);
      assert.deepEqual(await listBalances(db, { limit: 100, pool: 'main' }), []);
      for (let i = 0; i < 3; i++) {
        await recordNote(db, {
          atMs: AT_MS + i,
          actor: 'op\0',
          action: 'manual',
          detail: { sats: 5n, text: '\0', i },
        });
      }
      const [newest, older] = await listNotes(db, { limit: 2 });
      assert.deepEqual(newest, {
        noteId: 3n,
        atMs: AT_MS + 2,
        actor: 'op\ufffd',
        action: 'manual',
        detail: { sats: '5', text: '\ufffd', i: 2 },
      });
      assert.equal((await listNotes(db, { limit: 9, beforeId: older!.noteId })).length, 1);
    });

    test('the hash covers what its description says', async () => {
      const db = await server.freshDatabase();
      const [a] = (await makeAccounts(db, 1)) as [bigint];
      await post(db, move('first', CHAIN, miner(a), 5n));
      await post(
        db,
        move('key', miner(a), { kind: 'reserve', pool: 'main' }, 3n, {
          actor: 'ä',
          reason: 'why',
          blockHash: new Uint8Array(32).fill(1),
          batchId: 6n,
        }),
      );
      const [first] = await db.query<{ hash: Uint8Array }>(
        'SELECT hash FROM ledger_transactions WHERE tx_seq = 1',
      );
      const u64 = (value: bigint) => value.toString(16).padStart(16, '0').slice(-16);
      const text = (bytes: Buffer) =>
        bytes.length.toString(16).padStart(8, '0') + bytes.toString('hex');
      const hex = [
        Buffer.from(first!.hash).toString('hex'),
        u64(2n),
        u64(BigInt(AT_MS) * 1000n),
        u64(6n),
        u64(0n),
        ...['key', 'manual', 'ä', 'why'].map((word) => text(Buffer.from(word))),
        text(Buffer.alloc(32, 1)),
        // By account, those without one first; then by kind and pool.
        u64(3n),
        text(Buffer.from('reserve/main/')),
        u64(2n ** 64n - 3n),
        text(Buffer.from('miner//address0')),
      ].join('');
      const expected = createHash('sha256').update(Buffer.from(hex, 'hex')).digest();
      const audit = await auditLedger(db);
      assert.ok(audit.ok);
      assert.deepEqual(audit.headHash, expected);
    });

    test('random postings against a model: nothing is lost, made or overdrawn', async () => {
      const db = await server.freshDatabase();
      const ids = await makeAccounts(db, 4);
      const accounts: LedgerAccount[] = [
        CHAIN,
        { kind: 'paid' },
        { kind: 'operator' },
        { kind: 'reserve', pool: 'main' },
        ...ids.map(miner),
      ];
      const balances = accounts.map(() => 0n);
      const maySink = (index: number) => index < 2;
      let count = 0;
      const legs = fc.array(
        fc.record({
          account: fc.nat(accounts.length - 1),
          sats: fc.oneof(fc.bigInt(-50n, 60n), fc.bigInt(-(10n ** 15n), 10n ** 15n)),
        }),
        { minLength: 1, maxLength: 6 },
      );
      await fc.assert(
        fc.asyncProperty(legs, fc.nat(accounts.length - 1), async (drawn, balancing) => {
          const sum = drawn.reduce((total, leg) => total + leg.sats, 0n);
          const all = [...drawn, { account: balancing, sats: -sum }];
          const after = balances.map((balance, index) =>
            all.reduce((total, leg) => (leg.account === index ? total + leg.sats : total), balance),
          );
          const moves = after.some((balance, index) => balance !== balances[index]);
          const allowed = moves && after.every((balance, index) => balance >= 0n || maySink(index));
          const posted = await post(db, {
            ...move(`random:${count++}`, CHAIN, CHAIN, 1n),
            entries: all.map((leg) => ({ account: accounts[leg.account]!, sats: leg.sats })),
          }).then(
            () => true,
            (error: { code?: string }) => {
              assert.match(String(error.code), /^(23514|23502)$/);
              return false;
            },
          );
          assert.equal(posted, allowed);
          if (allowed) balances.splice(0, balances.length, ...after);
          assert.deepEqual(
            await Promise.all(accounts.map((account) => readBalance(db, account))),
            balances,
          );
        }),
        { numRuns: 80 },
      );
      await assertSound(db);
    });

    test('plain SQL with the rights of the owner gets nothing past the database', async () => {
      const db = await server.freshDatabase();
      const [a, b] = (await makeAccounts(db, 3)) as [bigint, bigint, bigint];
      await post(db, move('one', CHAIN, miner(a), 100n));
      await post(db, move('two', CHAIN, miner(b), 50n));
      await db.transaction((tx) =>
        reverseLedger(tx, { txSeq: 2n, key: 'three', kind: 'orphan', atMs: AT_MS, actor: 'test' }),
      );
      await recordNote(db, { atMs: AT_MS, actor: 'op', action: 'x', detail: {} });
      await recordScheme(db, {
        pool: 'main',
        fromSeq: 0n,
        scheme: 'pps',
        reason: 'start',
        atMs: AT_MS,
      });
      const bytes = (id: number, sats: number) =>
        `(SELECT ledger_entry_bytes(kind, pool, address, ${sats}) FROM ledger_accounts LEFT JOIN accounts USING (account_id) WHERE ledger_account_id = ${id})`;
      await db.query("INSERT INTO ledger_accounts (kind) VALUES ('operator')");
      // Ledger accounts: 1 chain, 2 miner a, 3 miner b, 4 operator.
      const take = `${bytes(1, -7)} || ${bytes(2, 7)}`;
      const posting = (
        entryBytes: string,
        more: {
          seq?: string;
          previous?: string;
          key?: string;
          entries?: number;
          reverses?: string;
        } = {},
      ) => {
        const {
          seq = 'last_seq + 1',
          previous = 'hash',
          key = 'raw',
          entries = 2,
          reverses = 'NULL',
        } = more;
        return `INSERT INTO ledger_transactions (tx_seq, key, kind, at, actor, reason, reverses, entries, previous_hash, hash)
          SELECT ${seq}, '${key}', 'manual', now(), 'me', '', ${reverses}, ${entries}, ${previous},
            ledger_hash(${previous}, ${seq}, now(), NULL, ${reverses}, '${key}', 'manual', 'me', '', NULL, ${entryBytes}) FROM ledger_head`;
      };
      const entries = (...rows: [seq: string, ordinal: number, account: number, sats: number][]) =>
        `INSERT INTO ledger_entries VALUES ${rows.map((row) => `(${row.join(', ')})`).join(', ')}`;
      const last = '(SELECT last_seq FROM ledger_head)';
      const both = entries([last, 1, 1, -7], [last, 2, 2, 7]);
      const run = (statements: readonly string[]) =>
        db.transaction(async (tx) => {
          for (const statement of statements) await tx.query(statement);
        });
      const wrong: [what: string, code: string, ...statements: string[]][] = [
        [
          'not zero',
          '23000',
          posting(`${bytes(1, -7)} || ${bytes(2, 8)}`),
          entries([last, 1, 1, -7], [last, 2, 2, 8]),
        ],
        ['another hash', '23000', posting(`${bytes(1, -8)} || ${bytes(2, 8)}`), both],
        [
          'entries the other way round',
          '23000',
          posting(take),
          entries([last, 2, 1, -7], [last, 1, 2, 7]),
        ],
        ['another account', '23000', posting(take), entries([last, 1, 1, -7], [last, 2, 3, 7])],
        ['no entries', '23000', posting(take)],
        ['one entry of two', '23000', posting(take), entries([last, 1, 1, -7])],
        [
          'entries one by one',
          '23000',
          posting(take),
          entries([last, 1, 1, -7]),
          entries([last, 2, 2, 7]),
        ],
        [
          'three entries of two',
          '23000',
          posting(take),
          entries([last, 1, 1, -7], [last, 2, 2, 7], [last, 3, 3, 1]),
        ],
        ['an entry of nobody', '23000', posting(take), entries([last, 1, 1, -7], [last, 2, 99, 7])],
        [
          'an entry of zero',
          '23514',
          posting(take),
          entries([last, 1, 1, -7], [last, 2, 2, 7], [last, 3, 3, 0]),
        ],
        ['one account twice', '23505', posting(take), entries([last, 1, 2, -7], [last, 2, 2, 7])],
        ['the same entries twice', '23505', posting(take), both, both],
        [
          'more entries once the constraints were asked',
          '23000',
          posting(take),
          both,
          'SET CONSTRAINTS ALL IMMEDIATE',
          entries([last, 3, 3, -5], [last, 4, 4, 5]),
        ],
        ['entries of no posting', '23000', entries(['4', 1, 1, -7], ['4', 2, 2, 7])],
        ['entries for an old posting', '23000', entries(['1', 3, 3, -7], ['1', 4, 4, 7])],
        [
          'entries for an old posting, numbered anew',
          '23505',
          entries(['1', 1, 3, -7], ['1', 2, 4, 7]),
        ],
        ['a key twice', '23505', posting(take, { key: 'one' }), both],
        ['a gap', '23000', posting(take, { seq: '(last_seq + 2)' }), both],
        ['a number twice', '23505', posting(take, { seq: 'last_seq' }), both],
        ['another predecessor', '23000', posting(take, { previous: "sha256('')" }), both],
        ['taken back twice', '23505', posting(take, { reverses: '2::bigint' }), both],
        [
          'a negative miner',
          '23514',
          posting(`${bytes(2, -101)} || ${bytes(1, 101)}`),
          entries([last, 1, 2, -101], [last, 2, 1, 101]),
        ],
        [
          'a balance by hand',
          '23001',
          'UPDATE ledger_accounts SET balance = balance + 1 WHERE ledger_account_id = 2',
        ],
        ['two balances by hand', '23001', 'UPDATE ledger_accounts SET balance = 50'],
        [
          'a balance from the start',
          '23001',
          "INSERT INTO ledger_accounts (kind, balance) VALUES ('developer', 5)",
        ],
        [
          'a balance by upsert',
          '23001',
          "INSERT INTO ledger_accounts (kind, balance) VALUES ('chain', 0) ON CONFLICT (kind, pool, (coalesce(account_id, 0))) DO UPDATE SET balance = 5",
        ],
        [
          'another owner',
          '23001',
          'UPDATE ledger_accounts SET account_id = 3 WHERE ledger_account_id = 2',
        ],
        [
          'a second account of the same name',
          '23505',
          "INSERT INTO ledger_accounts (kind, account_id) VALUES ('miner', 1)",
        ],
        ['an account removed', '23001', 'DELETE FROM ledger_accounts WHERE ledger_account_id = 3'],
        ['accounts truncated', '23001', 'TRUNCATE ledger_accounts CASCADE'],
        [
          'a ledger account for nobody',
          '23503',
          "INSERT INTO ledger_accounts (kind, account_id) VALUES ('miner', 99)",
        ],
        ['an account deleted', '23001', 'DELETE FROM accounts WHERE account_id = 3'],
        ['all accounts deleted', '23001', 'TRUNCATE accounts CASCADE'],
        ['another address', '23001', "UPDATE accounts SET address = 'thief' WHERE account_id = 1"],
        ['the head moved', '23001', 'UPDATE ledger_head SET last_seq = last_seq + 1'],
        ['the head removed', '23001', 'DELETE FROM ledger_head'],
        ['a second head', '23001', 'INSERT INTO ledger_head (only_row) VALUES (false)'],
        ['the head truncated', '23001', 'TRUNCATE ledger_head'],
        [
          'entries by upsert',
          '23001',
          `${entries(['1', 1, 1, 5])} ON CONFLICT (tx_seq, ordinal) DO UPDATE SET amount = 5`,
        ],
        ...[
          'ledger_transactions',
          'ledger_entries',
          'ledger_notes',
          'pool_schemes',
          'rounds',
          'round_credits',
        ].flatMap((table): [string, string, string][] => [
          [`${table} removed`, '23001', `DELETE FROM ${table}`],
          [`${table} truncated`, '23001', `TRUNCATE ${table} CASCADE`],
        ]),
        ['a reason changed', '23001', "UPDATE ledger_transactions SET reason = 'x'"],
        ['an amount changed', '23001', 'UPDATE ledger_entries SET amount = amount * 2'],
        ['a note changed', '23001', "UPDATE ledger_notes SET actor = 'x'"],
        ['a scheme changed', '23001', "UPDATE pool_schemes SET scheme = 'pplns'"],
        [
          'tables that look like ours',
          '23000',
          'CREATE TEMP TABLE ledger_transactions (LIKE ledger_transactions)',
          'CREATE TEMP TABLE ledger_accounts (LIKE ledger_accounts)',
          posting(take)
            .replace('INTO ledger_transactions', 'INTO pg_temp.ledger_transactions')
            .replaceAll('ledger_accounts', 'public.ledger_accounts'),
          both.replaceAll('ledger_entries', 'public.ledger_entries').replaceAll(last, '4'),
        ],
        [
          'functions that look like ours',
          '23000',
          'CREATE SCHEMA evil',
          "CREATE FUNCTION evil.ledger_hash(bytea, bigint, timestamptz, bigint, bigint, text, text, text, text, bytea, bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT sha256('') $$",
          'SET LOCAL search_path = evil, public',
          posting(take),
          both,
        ],
      ];
      const once = await everything(db);
      for (const [what, code, ...statements] of wrong) {
        await assert.rejects(run(statements), { code }, what);
      }
      assert.deepEqual(await everything(db), once);
      // A conflict that is passed over leaves the head alone.
      await run([`${posting(take, { key: 'one' })} ON CONFLICT DO NOTHING`]);
      assert.deepEqual(await everything(db), once);
      // The same by hand and right is taken: the refusals above have their own reasons.
      await run([posting(take), both]);
      await run([posting(take, { key: 'raw2' }), 'SET CONSTRAINTS ALL DEFERRED', both]);
      assert.equal(await readBalance(db, miner(a)), 114n);
      await assertSound(db);
    });

    test('the narrow role posts and reads, and nothing else', async () => {
      const db = await server.freshDatabase();
      const [a] = (await makeAccounts(db, 1)) as [bigint];
      await post(db, move('one', CHAIN, miner(a), 100n));
      const [role] = await db.query("SELECT FROM pg_roles WHERE rolname = 'headframe_ledger'");
      assert.ok(role, 'the user of the test may make roles');
      await db.query('GRANT headframe_ledger TO CURRENT_USER');
      const as = (statement: string) =>
        db.transaction(async (tx) => {
          await tx.query('SET LOCAL ROLE headframe_ledger');
          return tx.query(statement);
        });
      const posted = await db.transaction(async (tx) => {
        await tx.query('SET LOCAL ROLE headframe_ledger');
        return postLedger(tx, move('two', miner(a), { kind: 'paid' }, 1n));
      });
      assert.deepEqual(posted, { txSeq: 2n, isNew: true });
      const tables = [
        'accounts',
        'ledger_accounts',
        'ledger_transactions',
        'ledger_entries',
        'ledger_head',
        'ledger_notes',
        'account_settings',
        'rounds',
        'round_credits',
        'pool_schemes',
        'pps_cursors',
        'pps_fractions',
      ];
      for (const table of tables) {
        await as(`SELECT * FROM ${table}`);
        const [column] = await db.query<{ name: string }>(
          'SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1',
          [table],
        );
        for (const statement of [
          `INSERT INTO ${table} DEFAULT VALUES`,
          `UPDATE ${table} SET ${column?.name} = DEFAULT`,
          `DELETE FROM ${table}`,
          `TRUNCATE ${table} CASCADE`,
          `ALTER TABLE ${table} DISABLE TRIGGER ALL`,
          `DROP TABLE ${table} CASCADE`,
          `SELECT * FROM ${table} FOR UPDATE`,
        ]) {
          await assert.rejects(as(statement), { code: '42501' }, statement);
        }
      }
      for (const statement of [
        "SELECT setval('ledger_accounts_ledger_account_id_seq', 1)",
        'CREATE TABLE public.mine ()',
        'CREATE OR REPLACE FUNCTION public.refuse_change() RETURNS trigger LANGUAGE sql AS $$ SELECT NULL $$',
        'SELECT * FROM shares',
      ]) {
        await assert.rejects(as(statement), { code: '42501' }, statement);
      }
      // Overdrawing through the door is refused as for everybody.
      await assert.rejects(
        db.transaction(async (tx) => {
          await tx.query('SET LOCAL ROLE headframe_ledger');
          return postLedger(tx, move('three', miner(a), { kind: 'paid' }, 100n));
        }),
        { code: '23514' },
      );
      // What PUBLIC may not do, others may not either.
      await db
        .transaction(async (tx) => {
          await tx.query('CREATE ROLE headframe_test_stranger');
          await tx.query('GRANT headframe_test_stranger TO CURRENT_USER');
          await tx.query('SET LOCAL ROLE headframe_test_stranger');
          await assert.rejects(postLedger(tx, move('four', CHAIN, { kind: 'paid' }, 1n)), {
            code: '42501',
          });
          throw new Error('rolled back');
        })
        .catch((error: Error) => assert.equal(error.message, 'rolled back'));
      await assertSound(db);
    });

    test('a user who may not make roles gets the schema all the same', async () => {
      const db = await server.freshDatabase({ empty: true });
      await assert.rejects(
        db.transaction(async (tx) => {
          await tx.query(
            'DO $$ BEGIN ALTER ROLE headframe_ledger RENAME TO headframe_test_away; EXCEPTION WHEN undefined_object THEN NULL; END $$',
          );
          await tx.query('CREATE ROLE headframe_test_plain NOCREATEROLE');
          await tx.query('GRANT headframe_test_plain TO CURRENT_USER');
          await tx.query('CREATE SCHEMA headframe AUTHORIZATION headframe_test_plain');
          await tx.query('SET LOCAL ROLE headframe_test_plain');
          await tx.query('SET LOCAL search_path = headframe');
          for (const step of readMigrations()) await tx.query(step.sql);
          const [role] = await tx.query("SELECT FROM pg_roles WHERE rolname = 'headframe_ledger'");
          assert.equal(role, undefined);
          // In a schema of its own the functions find its tables, whatever the session's path.
          await tx.query('SET LOCAL search_path = public, headframe');
          await postLedger(tx, move('one', { kind: 'deposit' }, { kind: 'operator' }, 5n));
          throw new Error('rolled back');
        }),
        /rolled back/,
      );
    });
  });
}
