/**
 * How long it takes to know whom a block pays: a window of a million shares, of a thousand accounts and of twenty thousand, on the
 * private PostgreSQL. The yardstick is the plain way in the same run: one statement that sums every share of the window.
 */
import { workOfDifficulty } from '../src/core/bitcoin/target.ts';
import type { Db } from '../src/ports.ts';
import { readWindow, rollShares } from '../src/store/windows.ts';
import { withDatabase } from './tools/database.ts';
import type { Bench, BenchOptions, Figure } from './tools/figures.ts';

const DAYS = 60;
const BEGINS_MS = Date.UTC(2026, 8, 1);
const ROUNDS = 9;
const WORK = workOfDifficulty(8192);

export const windowBench: Bench = {
  name: 'window',
  title: 'a window of 10^6 shares, read from sums',
  run: (options) => withDatabase('window', (db) => measure(db, options)),
};

async function measure(db: Db, options: BenchOptions): Promise<Figure[]> {
  for (let day = 0; day < DAYS; day++) {
    const date = new Date(BEGINS_MS + day * 86_400_000).toISOString().slice(0, 10);
    await db.query('SELECT make_share_partition($1::date)', [date]);
  }
  await db.query(
    `INSERT INTO accounts (address, created_at)
     SELECT 'account' || n, now() FROM generate_series(1, 20000) AS n`,
  );
  const shares = options.short ? 60_000 : 1_000_000;
  const figures: Figure[] = [];
  let lastSeq = 0;
  for (const accounts of [1_000, 20_000]) {
    options.say(`${shares} shares of ${accounts} accounts`);
    // A tenth more than the window, so that it begins in the middle of a span.
    await fill(db, { from: lastSeq + 1, through: lastSeq + shares * 1.1, accounts });
    lastSeq += shares * 1.1;
    const rolled = await roll(db);
    await db.query('VACUUM ANALYZE');
    const window = await timeWindow(db, BigInt(lastSeq), BigInt(shares));
    const plain = await median(3, () =>
      db.query(
        `SELECT account_id, sum(work) FROM shares WHERE pool = 'main' AND seq > $1 AND seq <= $2
         GROUP BY account_id`,
        [lastSeq - shares, lastSeq],
      ),
    );
    figures.push({
      metric: `window of ${shares} shares, ${accounts} accounts`,
      value: window.ms,
      unit: 'ms',
      better: 'lower',
      target: accounts === 1_000 ? 50 : 500,
      against: { name: 'summing every share', value: plain },
      note: `median of ${ROUNDS}; ${window.accounts} accounts read, the edge within share ${window.edge}`,
    });
    figures.push({
      metric: `closing 4,096 shares, ${accounts} accounts`,
      value: rolled,
      unit: 'ms',
      better: 'lower',
      note: 'mean, all levels together',
    });
  }
  return figures;
}

async function fill(
  db: Db,
  range: { from: number; through: number; accounts: number },
): Promise<void> {
  // A statement may take 30 s.
  for (let from = range.from; from <= range.through; from += 100_000) {
    const through = Math.min(from + 99_999, range.through);
    await db.query(
      `INSERT INTO shares (seq, accepted_at, account_id, worker_id, difficulty, share_difficulty, work,
                           height, is_block, audited, header_hash, job_id, gateway, pool)
       SELECT seq, to_timestamp($3::bigint / 1000.0 + seq), 1 + abs(hashint8(seq)::bigint) % $4, 1, 8192,
         8192, $5, 1, false, true, sha256(int8send(seq)), '00c0ffee', 'bench', 'main'
       FROM generate_series($1::bigint, $2::bigint) AS seq`,
      [from, through, BEGINS_MS, range.accounts, WORK],
    );
  }
  await db.query(
    `UPDATE share_sequence SET last_seq = $1, open_first_at = '-infinity', open_last_at = 'infinity'`,
    [range.through],
  );
}

async function roll(db: Db): Promise<number> {
  const startedMs = performance.now();
  let spans = 0;
  for (let closed = -1; closed !== 0; spans += closed) {
    closed = await rollShares(db, { spansMax: 16 });
  }
  return (performance.now() - startedMs) / spans;
}

async function timeWindow(
  db: Db,
  lastSeq: bigint,
  shares: bigint,
): Promise<{ ms: number; accounts: number; edge: bigint }> {
  // Half a share less: the edge is inside of one.
  const work = shares * WORK - WORK / 2n;
  const request = { pool: 'main', lastSeq, afterSeq: 0n, span: { kind: 'work', work } } as const;
  const window = await readWindow(db, request);
  if (window.totalWork !== work || window.shares !== shares || window.boundary === null) {
    throw new Error(`the window holds ${window.shares} shares and ${window.totalWork} work`);
  }
  const ms = await median(ROUNDS, () => readWindow(db, request));
  return { ms, accounts: window.accounts.length, edge: window.boundary.seq };
}

async function median(rounds: number, work: () => Promise<unknown>): Promise<number> {
  const took: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const startedMs = performance.now();
    await work();
    took.push(performance.now() - startedMs);
  }
  return took.sort((a, b) => a - b)[rounds >> 1] as number;
}
