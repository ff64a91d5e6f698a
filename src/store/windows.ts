/**
 * Which shares a round counts, exact to the last unit of work, read from sums instead of shares.
 *
 * Spans (see `sql/0002.sql`) of four levels hold what each account worked in 4,096, 65,536, 262,144 and 1,048,576 sequence numbers. A
 * window is the whole spans in it and the raw shares at its two edges. Sequence numbers decide, never clocks: only a window by time asks
 * for times, and asks every share. What lies before the log's beginning, and raw shares at an edge that retention has removed, count
 * for nobody.
 *
 * Refused: a window that ends after the newest share; payment by the share over shares that are gone.
 */
import type { ExportedShare, ShareWindow, WindowSpan } from '../core/ledger/rules.ts';
import type { Db } from '../ports.ts';

/** Shares that must be counted one by one are no longer there, or not yet. Nothing was read. */
export class ShareLogGapError extends Error {}

type Tx = Pick<Db, 'query'>;

const DAY_MS = 86_400_000;
/** A block and the share that found it are written down within moments; this is for clocks. */
const FIND_DISTANCE_MS = 2 * DAY_MS;
/** In one transaction: four seconds with 20,000 accounts. */
const SPANS_MAX = 64;
const TOTALS_PAGE = 256;
const EXPORT_PAGE = 10_000;

/**
 * Closes spans that are full: at most `spansMax` of the lowest level (64 at most in one call), and all above that are then full. Answers how
 * many of the lowest it closed; when that is the maximum there may be more. Any number of callers at once do it once.
 */
export async function rollShares(db: Db, options: { spansMax: number }): Promise<number> {
  const spansMax = BigInt(Math.min(options.spansMax, SPANS_MAX));
  const { closed, isCaughtUp } = await db.transaction(async (tx) => {
    const log = await lockSpans(tx);
    const [lowest, ...higher] = log.levels as [Level, ...Level[]];
    const full = log.lastSeq / lowest.size;
    const through = full < lowest.spans + spansMax ? full : lowest.spans + spansMax;
    if (through <= lowest.spans) return { closed: 0n, isCaughtUp: false };
    await closeLowest(tx, log, lowest, through);
    let below = { ...lowest, spans: through };
    for (const level of higher) {
      const spans = greatest((below.spans * below.size) / level.size, level.spans);
      if (spans > level.spans) await closeHigher(tx, below, level, spans);
      below = { ...level, spans };
    }
    return { closed: through - lowest.spans, isCaughtUp: through === full };
  });
  if (isCaughtUp) await tightenOpenTimes(db);
  return Number(closed);
}

/**
 * Removes spans whose shares are all older than `spanRetentionDays`, and moves the beginning of the log to after them. Answers how many of
 * the lowest level went. Windows no longer reach what is gone.
 */
export async function dropOldSpans(
  db: Db,
  options: { nowMs: number; spanRetentionDays: number },
): Promise<number> {
  return db.transaction(async (tx) => {
    const log = await lockSpans(tx);
    const lowest = log.levels[0] as Level;
    // The first span with nothing older in it; the one before it may straddle the limit and stays.
    const [young] = await tx.query<{ span: bigint | null }>(
      `SELECT min(span) AS span FROM (
         SELECT span FROM share_span_totals WHERE level = 0
         GROUP BY span HAVING min(first_accepted_at) >= to_timestamp($1::bigint / 1000.0)) AS spans`,
      [options.nowMs - options.spanRetentionDays * DAY_MS],
    );
    const cut = (young?.span ?? lowest.spans) - 1n;
    const beginsAfter = cut * lowest.size;
    if (beginsAfter < log.firstSeq) return 0;
    for (const { level, size } of log.levels) {
      // A higher span that holds the new beginning stays: it leads to the lower ones.
      const border = [level, beginsAfter / size];
      await tx.query('DELETE FROM share_spans WHERE level = $1 AND span < $2', border);
      await tx.query('DELETE FROM share_span_totals WHERE level = $1 AND span < $2', border);
    }
    await tx.query('UPDATE share_sequence SET first_seq = $1', [beginsAfter + 1n]);
    return Number(cut - firstSpan(log));
  });
}

/**
 * The shares of `pool` that a round counts: those after `afterSeq`, up to and with `lastSeq`, that lie in `span`. By work, the newest shares
 * count until there is as much as wanted; of the last one taken only the part that is needed counts, and a log with less than wanted counts
 * whole. Accounts without any work are left out. Throws ShareLogGapError when `lastSeq` is newer than the newest share.
 *
 * 10^6 shares in a log of 60 days, private PostgreSQL, 2 vCPU shared with other work, Nov 2026 (`bench/window.ts`): 40 ms with 1,000
 * accounts, 200 ms with 20,000; summing every share took 800 and 640.
 */
export async function readWindow(
  db: Db,
  request: { pool: string; lastSeq: bigint; span: WindowSpan; afterSeq: bigint },
): Promise<ShareWindow> {
  const { pool, lastSeq, span } = request;
  return db.transaction(async (tx) => {
    await tx.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY');
    const log = await readLog(tx);
    requireRecorded(log, lastSeq);
    const walk: Walk = {
      tx,
      pool,
      levels: log.levels,
      after: greatest(
        log.firstSeq - 1n,
        request.afterSeq,
        span.kind === 'since' ? span.afterSeq : 0n,
      ),
      wanted: span.kind === 'work' ? span.work : null,
      afterMs: span.kind === 'time' ? span.afterMs : null,
      isFull: span.kind === 'work' && span.work <= 0n,
      workOf: new Map(),
      whole: log.levels.map(() => []),
      totalWork: 0n,
      shares: 0n,
      firstSeq: lastSeq + 1n,
      boundary: null,
    };
    await walkBack(walk, log, lastSeq);
    await addWholeSpans(walk);
    return {
      firstSeq: walk.firstSeq,
      lastSeq,
      boundary: walk.boundary,
      wantedWork: walk.wanted,
      afterMs: walk.afterMs,
      totalWork: walk.totalWork,
      shares: walk.shares,
      accounts: await nameAccounts(walk),
    };
  });
}

/** The share that found the block with this header hash, accepted within two days of `aroundMs`; null when there is none. */
export async function findShareSeq(
  db: Tx,
  headerHash: Uint8Array,
  aroundMs: number,
): Promise<{
  seq: bigint;
  accountId: bigint;
  pool: string;
  /** 0: recorded before bits were kept. */
  networkBits: number;
  jobValueSats: bigint;
  acceptedAtMs: number;
} | null> {
  const [row] = await db.query<{
    seq: bigint;
    account_id: bigint;
    pool: string;
    bits: bigint;
    job_value_sats: bigint;
    accepted_at: Date;
  }>(
    `SELECT seq, account_id, pool, bits, job_value_sats, accepted_at FROM shares
     WHERE header_hash = $1 AND is_block
       AND accepted_at BETWEEN to_timestamp($2::bigint / 1000.0) AND to_timestamp($3::bigint / 1000.0)`,
    [headerHash, aroundMs - FIND_DISTANCE_MS, aroundMs + FIND_DISTANCE_MS],
  );
  if (!row) return null;
  return {
    seq: row.seq,
    accountId: row.account_id,
    pool: row.pool,
    networkBits: Number(row.bits),
    jobValueSats: row.job_value_sats,
    acceptedAtMs: row.accepted_at.getTime(),
  };
}

/**
 * The newest sequence number, of any pool, that was accepted at or before this moment; 0 when there is none. Where retention has
 * removed the raw shares in question, the number before them.
 */
export async function lastSeqAtOrBefore(db: Tx, atMs: number): Promise<bigint> {
  const log = await readLog(db);
  const lowest = log.levels[0] as Level;
  const open = await newestAtOrBefore(db, atMs, {
    after: lowest.spans * lowest.size,
    through: log.lastSeq,
    times: log.openTimes,
  });
  if (open !== null) return open;
  const [span] = await db.query<{ span: bigint; first_at: string; last_at: string }>(
    `SELECT span, min(first_accepted_at)::text AS first_at, max(last_accepted_at)::text AS last_at
     FROM share_span_totals WHERE level = 0 AND span =
       (SELECT span FROM share_span_totals
        WHERE level = 0 AND first_accepted_at <= to_timestamp($1::bigint / 1000.0)
        ORDER BY span DESC LIMIT 1)
     GROUP BY span`,
    [atMs],
  );
  const after = span === undefined ? log.firstSeq - 1n : span.span * lowest.size;
  const through = span === undefined ? lowest.spans * lowest.size : after + lowest.size;
  const times = span === undefined ? ALWAYS : { first: span.first_at, last: span.last_at };
  // Without a span: raw shares between the log's beginning and its first span.
  return (await newestAtOrBefore(db, atMs, { after, through, times })) ?? after;
}

/** The newest sequence number of this pool; 0 when it has no share. */
export async function newestSeq(db: Tx, pool: string): Promise<bigint> {
  const log = await readLog(db);
  const lowest = log.levels[0] as Level;
  const [open] = await db.query<{ seq: bigint | null }>(
    `SELECT max(seq) AS seq FROM shares
     WHERE pool = $1 AND seq > $2 AND accepted_at BETWEEN $3::timestamptz AND $4::timestamptz`,
    [pool, lowest.spans * lowest.size, log.openTimes.first, log.openTimes.last],
  );
  if (open?.seq) return open.seq;
  const [closed] = await db.query<{ last_seq: bigint }>(
    `SELECT last_seq FROM share_span_totals WHERE level = 0 AND pool = $1 ORDER BY span DESC LIMIT 1`,
    [pool],
  );
  return closed?.last_seq ?? 0n;
}

/** Shares of one account that are worth the same per unit of work. */
export type PpsGroup = {
  accountId: bigint;
  address: string;
  /** Compact bits of the job; 0: recorded before they were kept. */
  bits: number;
  /** What the coinbase of the job pays in all. */
  valueSats: bigint;
  height: number;
  work: bigint;
};

/**
 * The shares of `pool` after `afterSeq` up to and with `throughSeq`, by account, bits, value and height. Ranges of 50,000 are a good size.
 * Throws ShareLogGapError when any share of the range, of whatever pool, is missing: somebody would go unpaid.
 */
export async function sumForPps(
  db: Db,
  range: { pool: string; afterSeq: bigint; throughSeq: bigint },
): Promise<PpsGroup[]> {
  const { pool, afterSeq, throughSeq } = range;
  if (throughSeq <= afterSeq) return [];
  return db.transaction(async (tx) => {
    await tx.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY');
    const log = await readLog(tx);
    requireRecorded(log, throughSeq);
    const times = await timesBetween(tx, log, afterSeq, throughSeq);
    const params = [afterSeq, throughSeq, times.first, times.last];
    const [there] = await tx.query<{ shares: bigint }>(
      `SELECT count(*) AS shares FROM shares
       WHERE seq > $1 AND seq <= $2 AND accepted_at BETWEEN $3::timestamptz AND $4::timestamptz`,
      params,
    );
    const missing = throughSeq - afterSeq - (there?.shares ?? 0n);
    if (missing !== 0n) {
      throw new ShareLogGapError(
        `${missing} of the shares after ${afterSeq} up to ${throughSeq} are no longer in the log`,
      );
    }
    const rows = await tx.query<
      Omit<PpsGroup, 'accountId' | 'bits'> & { id: bigint; bits: bigint }
    >(
      `SELECT id, address, bits, value AS "valueSats", height, work FROM (
         SELECT account_id AS id, bits, job_value_sats AS value, height, sum(work) AS work FROM shares
         WHERE seq > $1 AND seq <= $2 AND accepted_at BETWEEN $3::timestamptz AND $4::timestamptz
           AND pool = $5
         GROUP BY account_id, bits, job_value_sats, height) AS sums
       JOIN accounts ON account_id = id
       ORDER BY id, height, bits, value`,
      [...params, pool],
    );
    return rows.map(({ id, bits, ...row }) => ({ accountId: id, bits: Number(bits), ...row }));
  });
}

/** What a window was, as a round remembers it. `afterMs` only where it was by time. */
export type WindowBounds = {
  pool: string;
  firstSeq: bigint;
  lastSeq: bigint;
  afterMs?: number | null;
};

/**
 * The raw shares of a window in order, in pages of at most 10,000. The share at the edge comes with its whole work. Shares that
 * retention has removed are not there: compare with `ShareWindow.shares`, or ask `countWindowShares` first.
 */
export async function* readWindowShares(
  db: Tx,
  window: WindowBounds,
): AsyncGenerator<ExportedShare, void, undefined> {
  let after = window.firstSeq - 1n;
  for (;;) {
    const rows = await db.query<{
      seq: bigint;
      address: string;
      work: bigint;
      accepted_at: Date;
    }>(
      `SELECT seq, address, work, accepted_at FROM (
         SELECT seq, account_id, work, accepted_at FROM shares
         WHERE pool = $1 AND seq > $2 AND seq <= $3
           AND ($4::bigint IS NULL OR accepted_at > to_timestamp($4::bigint / 1000.0))
         ORDER BY seq LIMIT $5) AS page
       JOIN accounts USING (account_id) ORDER BY seq`,
      [window.pool, after, window.lastSeq, window.afterMs ?? null, EXPORT_PAGE],
    );
    for (const row of rows) {
      const { seq, address, work } = row;
      yield { seq, address, work, acceptedAtMs: row.accepted_at.getTime() };
    }
    if (rows.length < EXPORT_PAGE) return;
    after = (rows.at(-1) as { seq: bigint }).seq;
  }
}

/** How many raw shares of a window are still there. */
export async function countWindowShares(db: Tx, window: WindowBounds): Promise<bigint> {
  const [row] = await db.query<{ shares: bigint }>(
    `SELECT count(*) AS shares FROM shares
     WHERE pool = $1 AND seq >= $2 AND seq <= $3
       AND ($4::bigint IS NULL OR accepted_at > to_timestamp($4::bigint / 1000.0))`,
    [window.pool, window.firstSeq, window.lastSeq, window.afterMs ?? null],
  );
  return row?.shares ?? 0n;
}

/** As PostgreSQL writes them: finer than a Date, and may be infinite. */
type Times = { first: string; last: string };
const ALWAYS: Times = { first: '-infinity', last: 'infinity' };
const NEVER: Times = { first: 'infinity', last: '-infinity' };

/** Span n holds the sequence numbers size · n + 1 … size · (n + 1); those below `spans` are closed. */
type Level = { level: number; size: bigint; spans: bigint };

type ShareLog = {
  /** From the lowest up. */
  levels: Level[];
  firstSeq: bigint;
  lastSeq: bigint;
  /** Of the shares that are in no span. */
  openTimes: Times;
};

async function readLog(tx: Tx): Promise<ShareLog> {
  const rows = await tx.query<
    Level & { first_seq: bigint; last_seq: bigint; open_first: string; open_last: string }
  >(
    `SELECT level, size, spans, first_seq, last_seq, open_first_at::text AS open_first,
       open_last_at::text AS open_last
     FROM share_span_heads, share_sequence ORDER BY level`,
  );
  const [row] = rows;
  if (!row) throw new Error('the tables share_span_heads and share_sequence have lost their rows');
  return {
    levels: rows.map(({ level, size, spans }) => ({ level, size, spans })),
    firstSeq: row.first_seq,
    lastSeq: row.last_seq,
    openTimes: { first: row.open_first, last: row.open_last },
  };
}

/** Until the end of the transaction nobody else closes or removes spans; the writer of shares goes on. */
async function lockSpans(tx: Tx): Promise<ShareLog> {
  await tx.query('SELECT 1 FROM share_span_heads ORDER BY level FOR UPDATE');
  return readLog(tx);
}

function requireRecorded(log: ShareLog, seq: bigint): void {
  if (seq <= log.lastSeq) return;
  throw new ShareLogGapError(`share ${seq} is not in the log, which ends with ${log.lastSeq}`);
}

async function closeLowest(tx: Tx, log: ShareLog, level: Level, through: bigint): Promise<void> {
  const sums = await tx.query<{ shares: bigint }>(
    `WITH sums AS MATERIALIZED (
       SELECT pool, (seq - 1) / $1 AS span, account_id, count(*) AS shares, sum(work) AS work,
         min(seq) AS first_seq, max(seq) AS last_seq, min(accepted_at) AS first_at, max(accepted_at) AS last_at
       FROM shares
       WHERE seq > $2 AND seq <= $3 AND accepted_at BETWEEN $4::timestamptz AND $5::timestamptz
       GROUP BY 1, 2, 3),
     parts AS (
       INSERT INTO share_spans (level, pool, span, account_id, shares, work)
       SELECT 0, pool, span, account_id, shares, work FROM sums ORDER BY pool, span, account_id)
     INSERT INTO share_span_totals (level, pool, span, shares, work, first_seq, last_seq,
                                    first_accepted_at, last_accepted_at)
     SELECT 0, pool, span, sum(shares), sum(work), min(first_seq), max(last_seq), min(first_at), max(last_at)
     FROM sums GROUP BY pool, span RETURNING shares`,
    [
      level.size,
      level.spans * level.size,
      through * level.size,
      log.openTimes.first,
      log.openTimes.last,
    ],
  );
  const missing = sums.reduce(
    (left, sum) => left - sum.shares,
    (through - level.spans) * level.size,
  );
  if (missing !== 0n) {
    throw new ShareLogGapError(
      `${missing} shares are missing before share ${through * level.size}`,
    );
  }
  await tx.query('UPDATE share_span_heads SET spans = $1 WHERE level = 0', [through]);
}

async function closeHigher(tx: Tx, below: Level, level: Level, through: bigint): Promise<void> {
  const factor = level.size / below.size;
  const params = [level.level, below.level, factor, level.spans * factor, through * factor];
  await tx.query(
    `INSERT INTO share_spans (level, pool, span, account_id, shares, work)
     SELECT $1::smallint, pool, span / $3, account_id, sum(shares), sum(work) FROM share_spans
     WHERE level = $2 AND span >= $4 AND span < $5
     GROUP BY 2, 3, 4 ORDER BY 2, 3, 4`,
    params,
  );
  await tx.query(
    `INSERT INTO share_span_totals (level, pool, span, shares, work, first_seq, last_seq,
                                    first_accepted_at, last_accepted_at)
     SELECT $1::smallint, pool, span / $3, sum(shares), sum(work), min(first_seq), max(last_seq),
       min(first_accepted_at), max(last_accepted_at)
     FROM share_span_totals WHERE level = $2 AND span >= $4 AND span < $5
     GROUP BY 2, 3`,
    params,
  );
  await tx.query('UPDATE share_span_heads SET spans = $2 WHERE level = $1', [level.level, through]);
}

/** A transaction of its own: the writer of shares waits for it, and it looks at less than one span. */
async function tightenOpenTimes(db: Db): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.query('SELECT 1 FROM share_sequence FOR UPDATE');
    const log = await readLog(tx);
    const lowest = log.levels[0] as Level;
    await tx.query(
      `UPDATE share_sequence SET (open_first_at, open_last_at) =
         (SELECT coalesce(min(accepted_at), 'infinity'), coalesce(max(accepted_at), '-infinity') FROM shares
          WHERE seq > $1 AND accepted_at BETWEEN $2::timestamptz AND $3::timestamptz)`,
      [lowest.spans * lowest.size, log.openTimes.first, log.openTimes.last],
    );
  });
}

/** A window in the making, from its newest share backwards. */
type Walk = {
  readonly tx: Tx;
  readonly pool: string;
  readonly levels: readonly Level[];
  /** Nothing at or before this counts. */
  readonly after: bigint;
  readonly wanted: bigint | null;
  readonly afterMs: number | null;
  /** There is as much work as wanted: nothing older counts. */
  isFull: boolean;
  /** Of raw shares; whole spans are added at the end. */
  workOf: Map<bigint, bigint>;
  /** By level. */
  whole: bigint[][];
  totalWork: bigint;
  shares: bigint;
  firstSeq: bigint;
  boundary: ShareWindow['boundary'];
};

/** Raw shares down to a border of a span, then spans that grow, each level down to where a span of the next one ends. */
async function walkBack(walk: Walk, log: ShareLog, lastSeq: bigint): Promise<void> {
  const lowest = log.levels[0] as Level;
  const closed = lowest.spans * lowest.size;
  const border = lastSeq > closed ? closed : lastSeq - (lastSeq % lowest.size);
  await takeRaw(walk, border, lastSeq, await timesBetween(walk.tx, log, border, lastSeq));
  let at = border;
  for (let index = 0; index < log.levels.length; index++) {
    const next = log.levels[index + 1];
    const after = next === undefined ? 0n : at - (at % next.size);
    await takeSpans(walk, index, after, at);
    at = after;
  }
  // What an older version left between the log's beginning and its first span.
  const first = firstSpan(log) * lowest.size;
  await takeRaw(walk, walk.after, first < border ? first : border, ALWAYS);
}

/** Takes what counts of the spans in (after, through], newest first; both are borders of spans. */
async function takeSpans(walk: Walk, index: number, after: bigint, through: bigint): Promise<void> {
  const { level, size } = walk.levels[index] as Level;
  const from = greatest(after, walk.after) / size;
  let below = through / size;
  while (!walk.isFull && from < below) {
    const rows = await walk.tx.query<{
      span: bigint;
      shares: bigint;
      work: bigint;
      first_seq: bigint;
      first_at: string;
      last_at: string;
      is_after: boolean;
    }>(
      `SELECT span, shares, work, first_seq, first_accepted_at::text AS first_at,
         last_accepted_at::text AS last_at,
         $5::bigint IS NULL OR first_accepted_at > to_timestamp($5::bigint / 1000.0) AS is_after
       FROM share_span_totals
       WHERE level = $1 AND pool = $2 AND span >= $3 AND span < $4
         AND ($5::bigint IS NULL OR last_accepted_at > to_timestamp($5::bigint / 1000.0))
       ORDER BY span DESC LIMIT $6`,
      [level, walk.pool, from, below, walk.afterMs, TOTALS_PAGE],
    );
    for (const row of rows) {
      if (walk.isFull) return;
      const start = row.span * size;
      const end = start + size;
      const isWithin = start >= walk.after;
      // A span that makes it exactly full is looked into as well: its oldest shares may be of no work and not needed.
      const isNeeded = walk.wanted === null || walk.totalWork + row.work < walk.wanted;
      if (isWithin && isNeeded && row.is_after) {
        walk.whole[index]?.push(row.span);
        walk.totalWork += row.work;
        walk.shares += row.shares;
        walk.firstSeq = row.first_seq;
      } else {
        if (index > 0) await takeSpans(walk, index - 1, start, end);
        else await takeRaw(walk, start, end, { first: row.first_at, last: row.last_at });
        // The edge was in this span, also when retention has removed the share it was at.
        if (isWithin && !isNeeded) walk.isFull = true;
      }
    }
    if (rows.length < TOTALS_PAGE) return;
    below = (rows.at(-1) as { span: bigint }).span;
  }
}

/** Takes what counts of the raw shares in (after, through], which were accepted within `times`. */
async function takeRaw(walk: Walk, after: bigint, through: bigint, times: Times): Promise<void> {
  let from = greatest(after, walk.after);
  if (walk.isFull || from >= through) return;
  let uncounted: { accountId: bigint; work: bigint } | null = null;
  if (walk.wanted !== null) {
    const missing = walk.wanted - walk.totalWork;
    const edge = await findEdge(walk, from, through, times, missing);
    if (edge !== null) {
      walk.isFull = true;
      from = edge.seq - 1n;
      const { seq, work } = edge;
      const countedWork = missing - edge.newerWork;
      if (countedWork < work) {
        walk.boundary = { seq, work, countedWork };
        uncounted = { accountId: edge.accountId, work: work - countedWork };
      }
    }
  }
  const rows = await walk.tx.query<{
    account_id: bigint;
    shares: bigint;
    work: bigint;
    first_seq: bigint;
  }>(
    `SELECT account_id, count(*) AS shares, sum(work) AS work, min(seq) AS first_seq FROM shares
     WHERE pool = $1 AND seq > $2 AND seq <= $3 AND accepted_at BETWEEN $4::timestamptz AND $5::timestamptz
       AND ($6::bigint IS NULL OR accepted_at > to_timestamp($6::bigint / 1000.0))
     GROUP BY account_id`,
    [walk.pool, from, through, times.first, times.last, walk.afterMs],
  );
  for (const row of rows) {
    addWork(walk, row.account_id, row.work);
    walk.shares += row.shares;
    if (row.first_seq < walk.firstSeq) walk.firstSeq = row.first_seq;
  }
  if (uncounted !== null) addWork(walk, uncounted.accountId, -uncounted.work);
}

/** The share in (after, through] with which, going back, `missing` work is reached; null when there is less. */
async function findEdge(
  walk: Walk,
  after: bigint,
  through: bigint,
  times: Times,
  missing: bigint,
): Promise<{ seq: bigint; accountId: bigint; work: bigint; newerWork: bigint } | null> {
  const [row] = await walk.tx.query<{
    seq: bigint;
    accountId: bigint;
    work: bigint;
    newerWork: bigint;
  }>(
    `SELECT seq, account_id AS "accountId", work, running - work AS "newerWork" FROM (
       SELECT seq, account_id, work, sum(work) OVER (ORDER BY seq DESC ROWS UNBOUNDED PRECEDING) AS running
       FROM shares
       WHERE pool = $1 AND seq > $2 AND seq <= $3
         AND accepted_at BETWEEN $4::timestamptz AND $5::timestamptz) AS sums
     WHERE running >= $6 ORDER BY seq DESC LIMIT 1`,
    [walk.pool, after, through, times.first, times.last, missing],
  );
  return row ?? null;
}

function addWork(walk: Walk, accountId: bigint, work: bigint): void {
  walk.workOf.set(accountId, (walk.workOf.get(accountId) ?? 0n) + work);
  walk.totalWork += work;
}

/** The accounts of the whole spans, whose work in all is counted already. */
async function addWholeSpans(walk: Walk): Promise<void> {
  const parts: string[] = [];
  const params: unknown[] = [walk.pool];
  for (const [index, spans] of walk.whole.entries()) {
    if (spans.length === 0) continue;
    const at = params.push(walk.levels[index]?.level, spans);
    parts.push(
      `SELECT account_id, work FROM share_spans
       WHERE level = $${at - 1} AND pool = $1 AND span = ANY($${at}::bigint[])`,
    );
  }
  if (parts.length === 0) return;
  const rows = await walk.tx.query<{ account_id: bigint; work: bigint }>(
    `SELECT account_id, sum(work) AS work FROM (${parts.join(' UNION ALL ')}) AS parts GROUP BY account_id`,
    params,
  );
  for (const row of rows) {
    walk.workOf.set(row.account_id, (walk.workOf.get(row.account_id) ?? 0n) + row.work);
  }
}

async function nameAccounts(walk: Walk): Promise<ShareWindow['accounts']> {
  const counted = [...walk.workOf].filter(([, work]) => work > 0n);
  const rows = await walk.tx.query<{ account_id: bigint; address: string }>(
    'SELECT account_id, address FROM accounts WHERE account_id = ANY($1::bigint[]) ORDER BY account_id',
    [counted.map(([accountId]) => accountId)],
  );
  if (rows.length !== counted.length) throw new Error('shares of accounts that do not exist');
  return rows.map(({ account_id, address }) => ({
    accountId: account_id,
    address,
    work: walk.workOf.get(account_id) as bigint,
  }));
}

/** When the shares in (after, through] were accepted, of all pools; wide rather than narrow. */
async function timesBetween(tx: Tx, log: ShareLog, after: bigint, through: bigint): Promise<Times> {
  const { size, spans } = log.levels[0] as Level;
  if (through <= after || after < firstSpan(log) * size) return ALWAYS;
  const open = through > spans * size ? log.openTimes : NEVER;
  if (after >= spans * size) return open;
  const [row] = await tx.query<Times>(
    `SELECT least(min(first_accepted_at), $3::timestamptz)::text AS first,
       greatest(max(last_accepted_at), $4::timestamptz)::text AS last
     FROM share_span_totals WHERE level = 0 AND span >= $1 AND span <= $2`,
    [after / size, (through - 1n) / size, open.first, open.last],
  );
  return row as Times;
}

async function newestAtOrBefore(
  tx: Tx,
  atMs: number,
  range: { after: bigint; through: bigint; times: Times },
): Promise<bigint | null> {
  const [row] = await tx.query<{ seq: bigint | null }>(
    `SELECT max(seq) AS seq FROM shares
     WHERE seq > $1 AND seq <= $2 AND accepted_at BETWEEN $3::timestamptz AND $4::timestamptz
       AND accepted_at <= to_timestamp($5::bigint / 1000.0)`,
    [range.after, range.through, range.times.first, range.times.last, atMs],
  );
  return row?.seq ?? null;
}

/** The first span of the lowest level that lies in the log with all its shares. */
function firstSpan(log: ShareLog): bigint {
  const { size } = log.levels[0] as Level;
  return (log.firstSeq - 1n + size - 1n) / size;
}

function greatest(...values: [bigint, ...bigint[]]): bigint {
  return values.reduce((most, value) => (value > most ? value : most));
}
