/**
 * Sessions against one database, statement by statement, in the order a test asks for: the idea of PostgreSQL's isolation tester, on the
 * functions of the program themselves. A session is any function of a `Db`; it stops before every step (begin with its snapshot, each
 * query, commit) until the order lets it go on. One that waits for a lock is left waiting while the others go on.
 */
import assert from 'node:assert/strict';
import type { Db } from '../../src/ports.ts';
import type { TestServer } from './database.ts';
import { createRandom } from './random.ts';

export const ISOLATIONS = ['READ COMMITTED', 'SERIALIZABLE'] as const;
export type Isolation = (typeof ISOLATIONS)[number];

export type Session<T> = (db: Db) => Promise<T>;

export type Outcome<T> = {
  result: { ok: true; value: T } | { ok: false; error: Error & { code?: string } };
  /** Steps it stopped before. */
  steps: number;
  /** More than one: the database sent it back (deadlock, serialisation failure) and the adapter repeated it. */
  attempts: number;
};

/** A fresh database for thousands of small transactions: commits do not wait for the disk, which is not asked here. */
export async function freshQuickDatabase(server: TestServer): Promise<Db> {
  const first = await server.freshDatabase();
  await first.query(
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
  );
  return server.reconnect();
}

/**
 * Runs all sessions at once; `order` names whose step comes next, by index. What is left when the order ends runs freely. Resolves
 * when every session has ended.
 */
export async function runInterleaved<T>(
  db: Db,
  sessions: readonly Session<T>[],
  options: { order: readonly number[]; isolation: Isolation },
): Promise<Outcome<T>[]> {
  const actors = sessions.map((session) => startActor(db, session, options.isolation));
  for (const actor of actors) await actor.settle();
  for (const index of options.order) await actors[index]?.step();
  for (const actor of actors) actor.release();
  return Promise.all(actors.map((actor) => actor.outcome));
}

/** How many steps each session has when it runs alone; all orders of them are made by `allOrders`. */
export async function countSteps<T>(db: Db, sessions: readonly Session<T>[]): Promise<number[]> {
  const steps: number[] = [];
  for (const session of sessions) {
    const [outcome] = await runInterleaved(db, [session], {
      order: [],
      isolation: 'READ COMMITTED',
    });
    steps.push(outcome?.steps ?? 0);
  }
  return steps;
}

/**
 * Makes the sessions anew for every order of their steps and isolation level, runs them, and lets `check` judge. Up to `max` orders of
 * each level, drawn by seed where there are more. Under READ COMMITTED nobody may have been sent back by the database: row locks
 * taken in one order leave no reason.
 */
export async function runEveryOrder<T>(
  db: Db,
  make: () => Promise<{
    sessions: readonly Session<T>[];
    check: (outcomes: readonly Outcome<T>[]) => Promise<void>;
  }>,
  max: Readonly<Record<Isolation, number>> = { 'READ COMMITTED': 70, SERIALIZABLE: 20 },
): Promise<void> {
  const steps = await countSteps(db, (await make()).sessions);
  for (const isolation of ISOLATIONS) {
    for (const order of allOrders(steps, { max: max[isolation], seed: 1 })) {
      const { sessions, check } = await make();
      const outcomes = await runInterleaved(db, sessions, { order, isolation });
      try {
        await check(outcomes);
        if (isolation === 'READ COMMITTED') {
          assert.ok(outcomes.every((outcome) => outcome.attempts === 1));
        }
      } catch (error) {
        throw new Error(`${isolation}, order ${order.join('')}`, { cause: error });
      }
    }
  }
}

/** What each session answered; throws what one of them threw. */
export function valuesOf<T>(outcomes: readonly Outcome<T>[]): T[] {
  return outcomes.map(({ result }) => {
    if (!result.ok) throw result.error;
    return result.value;
  });
}

/** SQLSTATEs of the sessions that failed. */
export function errorCodes(outcomes: readonly Outcome<unknown>[]): string[] {
  return outcomes.flatMap(({ result }) => (result.ok ? [] : [String(result.error.code)]));
}

/** Every order of so many steps of each session; of more than `max`, that many drawn with the seed. */
export function allOrders(
  steps: readonly number[],
  options: { max: number; seed: number },
): number[][] {
  if (countOrders(steps) > options.max) {
    const random = createRandom(options.seed);
    return Array.from({ length: options.max }, () => {
      const order = steps.flatMap((count, index) => new Array<number>(count).fill(index));
      for (let i = order.length - 1; i > 0; i--) {
        const j = random.below(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      return order;
    });
  }
  const orders: number[][] = [];
  const extend = (order: number[], left: readonly number[]): void => {
    if (left.every((count) => count === 0)) orders.push(order);
    left.forEach((count, index) => {
      if (count > 0) extend([...order, index], left.with(index, count - 1));
    });
  };
  extend([], steps);
  return orders;
}

/** The multinomial of the steps. */
function countOrders(steps: readonly number[]): number {
  let orders = 1;
  let placed = 0;
  for (const count of steps) {
    for (let i = 1; i <= count; i++) orders = (orders * ++placed) / i;
  }
  return orders;
}

type Actor<T> = {
  /** Lets one step happen, and waits until it is done or waits for a lock. */
  step(): Promise<void>;
  /** Waits until the session stands at a gate, has ended, or waits for a lock. */
  settle(): Promise<void>;
  /** No more gates. */
  release(): void;
  outcome: Promise<Outcome<T>>;
};

function startActor<T>(db: Db, session: Session<T>, isolation: Isolation): Actor<T> {
  let open: (() => void) | null = null;
  let free = false;
  let ended = false;
  let pid = 0;
  let steps = 0;
  let attempts = 0;
  let changed = Promise.withResolvers<void>();
  const wake = (): void => {
    changed.resolve();
    changed = Promise.withResolvers<void>();
  };
  const gate = async (): Promise<void> => {
    steps++;
    if (free) return;
    const passed = new Promise<void>((resolve) => {
      open = resolve;
    });
    wake();
    await passed;
  };
  const gated: Db = {
    async query<Row>(sql: string, params?: readonly unknown[]): Promise<Row[]> {
      return gated.transaction((tx) => tx.query<Row>(sql, params));
    },
    transaction(work) {
      return db.transaction(async (tx) => {
        attempts++;
        await gate();
        await tx.query(`SET TRANSACTION ISOLATION LEVEL ${isolation}`);
        const [own] = await tx.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
        pid = own?.pid ?? 0;
        const result = await work({
          async query<Row>(sql: string, params?: readonly unknown[]): Promise<Row[]> {
            await gate();
            return tx.query<Row>(sql, params);
          },
        });
        await gate();
        return result;
      });
    },
    async stop() {},
  };
  const blocked = async (): Promise<boolean> => {
    if (pid === 0) return false;
    const [row] = await db.query<{ blocked: boolean }>(
      'SELECT cardinality(pg_blocking_pids($1)) > 0 AS blocked',
      [pid],
    );
    return row?.blocked ?? false;
  };
  const settle = async (): Promise<void> => {
    while (open === null && !ended) {
      const timer = Promise.withResolvers<'looked'>();
      const handle = setTimeout(() => timer.resolve('looked'), 3);
      const first = await Promise.race([changed.promise, timer.promise]);
      clearTimeout(handle);
      if (first === 'looked' && open === null && !ended && (await blocked())) return;
    }
  };
  const outcome = session(gated)
    .then(
      (value): Outcome<T>['result'] => ({ ok: true, value }),
      (error: Error): Outcome<T>['result'] => ({ ok: false, error }),
    )
    .then((result) => {
      ended = true;
      wake();
      return { result, steps, attempts };
    });
  return {
    async step() {
      if (open === null && !ended) await settle();
      const go = open;
      if (go === null) return;
      open = null;
      go();
      await settle();
    },
    settle,
    release() {
      free = true;
      const go = open;
      open = null;
      go?.();
    },
    outcome,
  };
}
