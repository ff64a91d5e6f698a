/**
 * How long the ledger takes to credit a block of 10,000 accounts, on the private PostgreSQL: round and posting in one transaction, with
 * every rule of the database. The yardstick is the same rows into tables without a rule, in the same run.
 */
import type { Db } from '../src/ports.ts';
import { findOrMakeAccounts } from '../src/store/accounts.ts';
import { recordOutcome } from '../src/store/blocks.ts';
import { auditLedger, postLedger, reverseLedger } from '../src/store/ledger.ts';
import { recordRound } from '../src/store/rounds.ts';
import { withDatabase } from './tools/database.ts';
import type { Bench, BenchOptions, Figure } from './tools/figures.ts';

const AT_MS = Date.UTC(2026, 10, 21);
const CREDIT_SATS = 31_000n;

export const ledgerBench: Bench = {
  name: 'ledger',
  title: 'credit of 10,000 accounts, round and posting',
  run: (options) => withDatabase('ledger', (db) => measure(db, options)),
};

async function measure(db: Db, options: BenchOptions): Promise<Figure[]> {
  const count = options.short ? 1_000 : 10_000;
  const rounds = options.short ? 3 : 11;
  const addresses = Array.from(
    { length: count },
    (_, i) => `bc1q${i.toString(36).padStart(38, 'x')}`,
  );
  const made = await db.transaction((tx) => findOrMakeAccounts(tx, addresses, AT_MS));
  const ids = [...made.values()];
  options.say(`${rounds} blocks of ${count} accounts`);
  const timesMs: number[] = [];
  for (let number = 0; number < rounds; number++) {
    const blockHash = await addBlock(db, number);
    timesMs.push(await timed(() => creditBlock(db, number, blockHash, ids)));
  }
  const [firstMs, ...laterMs] = timesMs as [number, ...number[]];
  const plainMs: number[] = [];
  await db.query(
    `CREATE TABLE plain_balances (account_id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
     INSERT INTO plain_balances SELECT account_id, 0 FROM accounts;
     CREATE TABLE plain_entries (posting bigint, account_id bigint, amount bigint, PRIMARY KEY (posting, account_id));
     CREATE TABLE plain_credits (round bigint, account_id bigint, work numeric, amount bigint, PRIMARY KEY (round, account_id));`,
  );
  for (let number = 0; number < rounds; number++) {
    plainMs.push(await timed(() => insertPlain(db, number, ids)));
  }
  options.say('taking one back; small postings; the audit');
  const reverseMs = await timed(() =>
    db.transaction((tx) =>
      reverseLedger(tx, { txSeq: 1n, key: 'orphan', kind: 'orphan', atMs: AT_MS, actor: 'bench' }),
    ),
  );
  const small = options.short ? 50 : 500;
  const smallMs = await timed(async () => {
    for (let i = 0; i < small; i++) await postSmall(db, i, ids[i % count] as bigint);
  });
  let entries = 0n;
  const auditMs = await timed(async () => {
    const audit = await auditLedger(db);
    if (!audit.ok) throw new Error(audit.findings.join('\n'));
    entries = audit.entries;
  });
  return [
    {
      metric: 'credit of a block, accounts known',
      value: median(laterMs),
      unit: 'ms',
      better: 'lower',
      target: 300,
      against: { name: 'the same rows, no rule', value: median(plainMs) },
      note: `recordRound and postLedger of ${count} accounts, median of ${laterMs.length}, longest ${Math.max(...laterMs).toFixed(0)} ms`,
    },
    {
      metric: 'credit of a block, all accounts new',
      value: firstMs,
      unit: 'ms',
      better: 'lower',
      target: 1_000,
      note: `makes ${count} ledger accounts on the way`,
    },
    {
      metric: 'taking a credit back',
      value: reverseMs,
      unit: 'ms',
      better: 'lower',
      target: 1_000,
    },
    {
      metric: 'small postings',
      value: (small / smallMs) * 1_000,
      unit: '/s',
      better: 'higher',
      note: 'two entries each, one after the other, each synced to disk',
    },
    {
      metric: 'audit',
      value: (Number(entries) / auditMs) * 1_000,
      unit: 'entries/s',
      better: 'higher',
      note: `${entries} entries`,
    },
  ];
}

async function addBlock(db: Db, number: number): Promise<Uint8Array> {
  const headerHash = Buffer.alloc(32);
  headerHash.writeUInt32BE(number);
  await recordOutcome(db, {
    headerHash,
    height: number,
    state: 'accepted',
    node: '',
    detail: '',
    confirmations: 1,
    atMs: AT_MS,
  });
  return headerHash;
}

async function creditBlock(
  db: Db,
  number: number,
  blockHash: Uint8Array,
  ids: readonly bigint[],
): Promise<void> {
  const rewardSats = CREDIT_SATS * BigInt(ids.length) + 2_500_000n;
  const work = 2n ** 70n;
  await db.transaction(async (tx) => {
    const { txSeq } = await postLedger(tx, {
      key: `credit:${number}`,
      kind: 'credit',
      atMs: AT_MS,
      actor: 'bench',
      blockHash,
      entries: [
        { account: { kind: 'chain' }, sats: -rewardSats },
        { account: { kind: 'operator-immature' }, sats: 2_500_000n },
        ...ids.map((accountId) => ({
          account: { kind: 'miner-immature', accountId } as const,
          sats: CREDIT_SATS,
        })),
      ],
    });
    await recordRound(tx, {
      blockHash,
      generation: 0,
      pool: 'main',
      scheme: 'pplns',
      height: number,
      rewardSats,
      operatorSats: 2_500_000n,
      developerSats: 0n,
      firstSeq: 1n,
      lastSeq: 1_000_000n,
      boundary: null,
      totalWork: work * BigInt(ids.length),
      wantedWork: null,
      afterMs: null,
      bits: 0x170331db,
      foundAtMs: AT_MS,
      creditedAtMs: AT_MS,
      root: new Uint8Array(32),
      statementVersion: 2,
      creditTx: txSeq,
      credits: ids.map((accountId) => ({
        accountId,
        work,
        feePpm: 10_000,
        donationPpm: 0,
        creditSats: CREDIT_SATS,
        paidSats: null,
      })),
    });
  });
}

async function insertPlain(db: Db, number: number, ids: readonly bigint[]): Promise<void> {
  const amounts = ids.map(() => CREDIT_SATS);
  await db.transaction(async (tx) => {
    await tx.query(
      'INSERT INTO plain_entries SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])',
      [number, ids, amounts],
    );
    await tx.query(
      'INSERT INTO plain_credits SELECT $1, * FROM unnest($2::bigint[], $3::numeric[], $4::bigint[])',
      [number, ids, ids.map(() => 2n ** 70n), amounts],
    );
    await tx.query(
      `UPDATE plain_balances SET balance = balance + amount
       FROM unnest($1::bigint[], $2::bigint[]) AS given(account_id, amount)
       WHERE plain_balances.account_id = given.account_id`,
      [ids, amounts],
    );
  });
}

async function postSmall(db: Db, number: number, accountId: bigint): Promise<void> {
  await db.transaction((tx) =>
    postLedger(tx, {
      key: `small:${number}`,
      kind: 'fund',
      atMs: AT_MS,
      actor: 'bench',
      entries: [
        { account: { kind: 'deposit' }, sats: -1n },
        { account: { kind: 'miner', accountId }, sats: 1n },
      ],
    }),
  );
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}
