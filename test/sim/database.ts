/**
 * The database of the simulated world: knows the statements of `src/store/shares.ts` by their first words and does what PostgreSQL
 * would, with transactions that happen whole or not at all. It can be away, and it can commit and not say so. Rows outlive the pool's
 * process; a transaction does not.
 */
import type { Db } from '../../src/ports.ts';
import type { World } from './world.ts';

type WorkerRow = { workerId: bigint; accountId: bigint; address: string; name: string };

/** What stands in tables. One object per world. */
export class SimTables {
  readonly accounts = new Map<string, bigint>();
  readonly workers = new Map<string, WorkerRow>();
  lastSeq = 0n;
  /** Sums of `workers.work`, to be compared with the shares. */
  readonly workOf = new Map<bigint, bigint>();
  readonly unknownStatements = new Set<string>();

  /** Work counted by worker, `account.worker`. */
  workSums(): Map<string, bigint> {
    const sums = new Map<string, bigint>();
    for (const row of this.workers.values()) {
      sums.set(`${row.address}.${row.name}`, this.workOf.get(row.workerId) ?? 0n);
    }
    return sums;
  }
}

/** `down`: refuses connections. `commit-unknown`: commits, and the connection breaks before the answer. */
export type DatabaseMode = 'up' | 'down' | 'commit-unknown';

type Effect = () => void;

/** The door of one process to the tables; `alive` says whether that process is still there. */
export function openSimDatabase(world: World, alive: () => boolean): Db {
  const { tables } = world;
  let tail: Promise<unknown> = Promise.resolve();

  const latency = (): Promise<void> =>
    new Promise((resolve) => {
      world.time.after(1, resolve);
    });

  function answer(sql: string, params: readonly unknown[], effects: Effect[]): unknown[] {
    const text = sql.trim();
    if (text.startsWith('SELECT last_seq')) {
      return [{ last_seq: tables.lastSeq, floor_at: new Date(0) }];
    }
    if (text.startsWith('SELECT known.header_hash')) {
      if (world.breaks.has('no-unique-key')) return [];
      const wanted = params[0] as Uint8Array[];
      return wanted
        .filter((hash) => world.stored.has(Buffer.from(hash).toString('hex')))
        .map((hash) => ({ header_hash: hash }));
    }
    if (text.startsWith('SELECT address, workers.name')) {
      const [addresses, names] = params as [string[], string[]];
      return addresses.flatMap((address, index) => {
        const row = tables.workers.get(`${address}\0${names[index]}`);
        if (row === undefined) return [];
        return [{ address, name: row.name, account_id: row.accountId, worker_id: row.workerId }];
      });
    }
    // Names are made at once even if the transaction fails later: ids have gaps in PostgreSQL too.
    if (text.startsWith('INSERT INTO accounts')) {
      const addresses = Array.isArray(params[0]) ? (params[0] as string[]) : [String(params[0])];
      for (const address of addresses) {
        if (!tables.accounts.has(address)) {
          tables.accounts.set(address, BigInt(tables.accounts.size + 1));
        }
      }
      return [];
    }
    if (text.startsWith('INSERT INTO workers')) {
      const [addresses, names] = params as [string[], string[]];
      addresses.forEach((address, index) => {
        const name = names[index]!;
        const key = `${address}\0${name}`;
        if (tables.workers.has(key)) return;
        const workerId = BigInt(tables.workers.size + 1);
        tables.workers.set(key, {
          workerId,
          accountId: tables.accounts.get(address)!,
          address,
          name,
        });
      });
      return [];
    }
    if (text.startsWith('INSERT INTO shares')) {
      effects.push(() => insertShares(params));
      return [];
    }
    if (text.startsWith('UPDATE share_sequence')) {
      effects.push(() => {
        tables.lastSeq += BigInt(Number(params[0]));
      });
      return [];
    }
    if (text.startsWith('UPDATE workers')) {
      const ids = params[0] as bigint[];
      const works = params[2] as bigint[];
      effects.push(() => {
        ids.forEach((id, index) => {
          tables.workOf.set(id, (tables.workOf.get(id) ?? 0n) + works[index]!);
        });
      });
      return [];
    }
    const known =
      /^(INSERT INTO (blocks|block_events|dead_letters)|UPDATE blocks|DELETE FROM dead_letters|SELECT (make_share_partition|drop_share_partitions_before|make_|drop_|hash|state|pg_))/;
    if (!known.test(text)) tables.unknownStatements.add(text.slice(0, 80));
    return [];
  }

  function insertShares(params: readonly unknown[]): void {
    const [, , , workerIds, difficulties, , , , blocks, , hashes] = params as [
      bigint,
      number[],
      bigint[],
      bigint[],
      number[],
      number[],
      bigint[],
      number[],
      boolean[],
      boolean[],
      Uint8Array[],
    ];
    const byId = new Map([...tables.workers.values()].map((row) => [row.workerId, row]));
    hashes.forEach((hash, index) => {
      const worker = byId.get(workerIds[index]!)!;
      world.rowStored({
        hashHex: Buffer.from(hash).toString('hex'),
        account: worker.address,
        worker: worker.name,
        difficulty: difficulties[index]!,
        isBlock: blocks[index]!,
      });
    });
  }

  async function guard(): Promise<void> {
    if (!alive()) await never();
    await latency();
    if (!alive()) await never();
    if (world.database === 'down') {
      throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    }
  }

  async function commit(effects: Effect[]): Promise<void> {
    await guard();
    world.fault('database.commit.before');
    if (!alive()) await never();
    for (const effect of effects) effect();
    world.fault('database.commit.after');
    if (!alive()) await never();
    if (world.database === 'commit-unknown' && effects.length > 0) {
      throw Object.assign(new Error('Connection terminated unexpectedly'), { code: 'ECONNRESET' });
    }
  }

  const query: Db['query'] = async <Row>(sql: string, params: readonly unknown[] = []) => {
    await guard();
    const effects: Effect[] = [];
    const rows = answer(sql, params, effects);
    await commit(effects);
    return rows as Row[];
  };

  return {
    query,
    transaction(work) {
      // One transaction at a time: the row lock on share_sequence does that in the real one.
      const run = tail.then(async () => {
        await guard();
        const effects: Effect[] = [];
        const result = await work({
          query: async <Row>(sql: string, params: readonly unknown[] = []) => {
            if (!alive()) await never();
            return answer(sql, params, effects) as Row[];
          },
        });
        await commit(effects);
        return result;
      });
      tail = run.catch(() => {});
      return run;
    },
    async stop() {},
  };
}

function never(): Promise<never> {
  return new Promise<never>(() => {});
}
