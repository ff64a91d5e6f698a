/**
 * Which scheme counts which shares. What is configured holds from the share after it was first seen; the history stands in the table
 * `pool_schemes`, so that a block is paid by the rules its shares were mined under, whatever the configuration says when it is credited.
 *
 * A pool that pays by the share and has been downgraded stays on PPLNS until this service starts with enough in its reserve.
 */
import type { PoolRules, Scheme } from '../../core/ledger/rules.ts';
import { SCHEMES, schemeAt } from '../../core/ledger/schemes.ts';
import type { Clock, Db, Log } from '../../ports.ts';
import { readLastSeq } from '../../store/crediting.ts';
import { lockLedger } from '../../store/ledger.ts';
import { listSchemes, readPpsCursor, recordScheme } from '../../store/schemes.ts';

/** From `fromSeq` on, until the next one begins. */
export type SchemeSpan = { fromSeq: bigint; scheme: Scheme; reason: string };

export type SchemeBook = {
  /** Reads what is on record and writes down what the configuration changed. To be called once before the others. */
  open(isSolvent: (rules: PoolRules) => Promise<boolean>): Promise<void>;
  /** The scheme of a share, and the share its windows do not reach; null when the pool has none on record. */
  at(pool: string, seq: bigint): { scheme: Scheme; afterSeq: bigint } | null;
  /** In order; never two from the same share. */
  spans(pool: string): readonly SchemeSpan[];
  /** The scheme of the shares that come now. */
  current(pool: string): SchemeSpan | null;
  /** From `fromSeq` on the pool counts by PPLNS, and the record says why. */
  downgrade(pool: string, fromSeq: bigint, reason: string): Promise<void>;
  /** Whether it is certain by which scheme the shares up to `seq` are paid: a pool that may be downgraded has paid them. */
  isSettledThrough(rules: PoolRules, seq: bigint): Promise<boolean>;
};

const DOWNGRADED = 'downgraded: ';

/** An empty book; `open` fills it. */
export function createSchemeBook(
  tools: { clock: Clock; log: Log; db: Db },
  options: { pools: readonly PoolRules[] },
): SchemeBook {
  const { clock, log, db } = tools;
  const spans = new Map<string, SchemeSpan[]>();

  async function load(pool: string): Promise<void> {
    const byStart = new Map<bigint, SchemeSpan>();
    for (const { fromSeq, scheme, reason } of await listSchemes(db, pool))
      byStart.set(fromSeq, { fromSeq, scheme, reason });
    spans.set(
      pool,
      [...byStart.values()].sort((a, b) => (a.fromSeq < b.fromSeq ? -1 : 1)),
    );
  }

  function current(pool: string): SchemeSpan | null {
    return spans.get(pool)?.at(-1) ?? null;
  }

  async function append(pool: string, span: SchemeSpan): Promise<void> {
    await db.transaction(async (tx) => {
      await lockLedger(tx);
      const last = (await listSchemes(tx, pool)).at(-1);
      // Said already, by a commit whose answer was lost or by another process.
      if (last?.scheme === span.scheme && last.fromSeq === span.fromSeq) return;
      await recordScheme(tx, { pool, ...span, atMs: clock.nowMs() });
    });
    await load(pool);
    log.info('the scheme of a pool is on record', {
      pool,
      scheme: span.scheme,
      fromSeq: String(span.fromSeq),
      reason: span.reason,
    });
  }

  /** What the configuration says now, against what is on record. */
  async function adopt(
    rules: PoolRules,
    isSolvent: (rules: PoolRules) => Promise<boolean>,
  ): Promise<void> {
    const last = current(rules.id);
    const { scheme } = rules;
    if (last === null)
      return append(rules.id, { fromSeq: 0n, scheme, reason: 'as the pool was first configured' });
    if (last.scheme === scheme) return;
    const wasDowngraded = last.reason.startsWith(DOWNGRADED);
    const paysByShare = SCHEMES[scheme].settles === 'reserve';
    if (wasDowngraded && paysByShare && !(await isSolvent(rules))) return;
    const reason = wasDowngraded && paysByShare ? 'the reserve is enough again' : 'configured so';
    const newest = await readLastSeq(db);
    const fromSeq = newest + 1n > last.fromSeq ? newest + 1n : last.fromSeq;
    return append(rules.id, { fromSeq, scheme, reason });
  }

  return {
    async open(isSolvent) {
      for (const rules of options.pools) {
        await load(rules.id);
        await adopt(rules, isSolvent);
      }
    },
    at: (pool, seq) => schemeAt(spans.get(pool) ?? [], seq),
    spans: (pool) => spans.get(pool) ?? [],
    current,
    downgrade: (pool, fromSeq, reason) =>
      append(pool, { fromSeq, scheme: 'pplns', reason: DOWNGRADED + reason }),
    async isSettledThrough(rules, seq) {
      if (rules.onRuin === 'refuse') return true;
      const cursor = await readPpsCursor(db, rules.id);
      return cursor !== null && cursor >= seq;
    },
  };
}
