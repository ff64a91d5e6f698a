/**
 * One run of the program's process, as far as the world outside can tell: its doors to database, nodes and wallet, its named fault
 * points, and the moment it is killed. A killed process hears nothing more: what it had asked and was not done is rolled back, what it
 * asks afterwards is never answered.
 */
import type { Db, Fault } from '../../../src/ports.ts';
import { ConnectionLostError, createLossyDb, type Loss } from '../../tools/lossy-db.ts';
import type { Random } from '../random.ts';

/** Thrown at the place where the process is killed. */
export class KilledError extends Error {}

/** Where a process is to be killed: at the n-th place it passes, or at the first of this name. */
export type KillPlan = { atVisit: number } | { atPoint: string };

export type SimProcess = {
  name: string;
  db: Db;
  fault: Fault;
  /** Waits for its turn. A name makes it a place where the process may end, besides the product's own fault points. */
  pass(point: string | null): Promise<void>;
  isAlive(): boolean;
  /** Runs until `work` is done (true) or the process is killed (false); then nothing of it is left in the database. */
  run(work: () => Promise<void>): Promise<boolean>;
  /** Places passed. */
  visits(): number;
  /** Where it was killed. */
  killedAt(): string | null;
};

/** Decides which of several processes goes on. `enter` waits for the turn. */
export type Turns = { enter(process: string): Promise<void>; flight(step: 1 | -1): void };

export type ProcessOptions = {
  name: string;
  db: Db;
  random: Random;
  plan: KillPlan | null;
  /** Chance that a transaction loses its connection, in one of the three ways. */
  lossChance: () => number;
  turns: Turns | null;
  /** Every place that was passed, for the report on coverage. */
  onVisit(point: string): void;
  onKill(point: string): void;
  onLoss(loss: Loss): void;
};

export function startProcess(options: ProcessOptions): SimProcess {
  const { name, random, plan, turns } = options;
  let alive = true;
  let visits = 0;
  let killedAt: string | null = null;
  let reportDeath: () => void = () => {};
  const death = new Promise<void>((resolve) => {
    reportDeath = resolve;
  });
  const inFlight = new Set<Promise<unknown>>();

  function visit(point: string): void {
    if (!alive) throw new KilledError();
    options.onVisit(point);
    visits += 1;
    const isHere =
      plan !== null && ('atVisit' in plan ? visits === plan.atVisit : plan.atPoint === point);
    if (!isHere) return;
    alive = false;
    killedAt = point;
    options.onKill(point);
    reportDeath();
    throw new KilledError();
  }

  /** Nobody hears of what became of a dead process's calls. */
  async function whileAlive<T>(work: () => Promise<T>): Promise<T> {
    if (!alive) return never();
    const flight = work();
    const settled = flight.then(
      () => {},
      () => {},
    );
    inFlight.add(settled);
    void settled.then(() => inFlight.delete(settled));
    try {
      return await flight;
    } catch (error) {
      if (alive) throw error;
      return never();
    }
  }

  async function pass(point: string | null): Promise<void> {
    if (!alive) return never();
    await turns?.enter(name);
    if (!alive) return never();
    if (point !== null) visit(point);
  }

  function lose(): Loss | null {
    if (!random.chance(options.lossChance())) return null;
    const loss = random.pick(['before', 'middle', 'after'] as const);
    options.onLoss(loss);
    return loss;
  }

  const lossy = createLossyDb(countFlights(options.db, turns), {
    lose,
    async gate(what) {
      if (!alive) throw new KilledError();
      await turns?.enter(name);
      if (!alive) throw new KilledError();
      if (what === 'commit') visit('database.commit.before');
    },
  });

  return {
    name,
    db: {
      query: (sql, params) => whileAlive(() => lossy.query(sql, params)),
      transaction: (work) =>
        whileAlive(async () => {
          const result = await lossy.transaction(work);
          visit('database.commit.after');
          return result;
        }),
      async stop() {},
    },
    fault(point) {
      visit(point);
    },
    pass,
    isAlive: () => alive,
    async run(work) {
      const done = work().then(
        () => true,
        (error) => {
          if (error instanceof KilledError || !alive) return false;
          throw error;
        },
      );
      const finished = await Promise.race([done, death.then(() => false)]);
      done.catch(() => {});
      while (!finished && inFlight.size > 0) await Promise.all([...inFlight]);
      return finished;
    },
    visits: () => visits,
    killedAt: () => killedAt,
  };
}

/** Tells the turns how many statements the server is working on. */
function countFlights(db: Db, turns: Turns | null): Db {
  if (turns === null) return db;
  const counted = async <T>(work: Promise<T>): Promise<T> => {
    turns.flight(1);
    try {
      return await work;
    } finally {
      turns.flight(-1);
    }
  };
  return {
    query: (sql, params) => counted(db.query(sql, params)),
    async transaction<T>(work: (tx: Pick<Db, 'query'>) => Promise<T>): Promise<T> {
      // BEGIN and COMMIT count as well.
      let isServers = false;
      const give = (toServer: boolean): void => {
        if (toServer !== isServers) turns.flight(toServer ? 1 : -1);
        isServers = toServer;
      };
      give(true);
      try {
        return await db.transaction(async (tx) => {
          give(false);
          try {
            return await work({ query: (sql, params) => counted(tx.query(sql, params)) });
          } finally {
            give(true);
          }
        });
      } finally {
        give(false);
      }
    },
    stop: () => db.stop(),
  };
}

function never(): Promise<never> {
  return new Promise<never>(() => {});
}

/** What a product may see as an error of the database: everything else is a bug. */
export function isConnectionLoss(error: unknown): boolean {
  return error instanceof ConnectionLostError;
}

/**
 * Lets two processes work at the same time, one step of one of them after the other, in an order that the seed decides. A process whose
 * statement waits for a lock of the other is left waiting; PostgreSQL says which ones do.
 */
export function createTurns(options: { db: Db; random: Random }): Turns & {
  /** Lets the work go on, step by step, until it is done. */
  drive(work: Promise<unknown>): Promise<void>;
} {
  const { db, random } = options;
  const waiting: { process: string; go: () => void }[] = [];
  let flights = 0;
  let isOver = false;

  return {
    enter(process) {
      if (isOver) return Promise.resolve();
      return new Promise<void>((resolve) => {
        waiting.push({ process, go: resolve });
      });
    },
    flight(step) {
      flights += step;
    },
    async drive(work: Promise<unknown>): Promise<void> {
      const done = work.then(
        () => {
          isOver = true;
        },
        () => {
          isOver = true;
        },
      );
      while (!isOver) {
        await turn();
        if (flights > 0 && !(await areAllBlocked(db, flights))) continue;
        if (waiting.length === 0) continue;
        const processes = [...new Set(waiting.map((one) => one.process))].sort();
        const chosen = random.pick(processes);
        const at = waiting.findIndex((one) => one.process === chosen);
        waiting.splice(at, 1)[0]!.go();
      }
      for (const one of waiting.splice(0)) one.go();
      await done;
    },
  };
}

/** By the table of locks: what a backend says of itself is stale for a moment after it was let go. */
async function areAllBlocked(db: Db, flights: number): Promise<boolean> {
  const [row] = await db.query<{ blocked: number }>(
    `SELECT count(*)::int AS blocked FROM pg_stat_activity
     WHERE datname = current_database() AND state = 'active' AND cardinality(pg_blocking_pids(pid)) > 0`,
  );
  return (row?.blocked ?? 0) >= flights;
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
