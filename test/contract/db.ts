/** What every Db must do. `server` gives fresh databases of one PostgreSQL. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { TestServer } from '../tools/database.ts';

export function dbContract(name: string, server: () => TestServer): void {
  describe(`db contract: ${name}`, () => {
    test('values come back as the port says', async () => {
      const db = await server().freshDatabase({ empty: true });
      const [row] = await db.query<Record<string, unknown>>(
        `SELECT $1::int8 AS i, $2::numeric AS n, $3::bytea AS b, $4::text AS t, $5::float8 AS d,
                $6::timestamptz AS at, $7::bool AS yes, NULL::int8 AS nothing, 1.5::numeric AS fraction`,
        [
          2n ** 63n - 1n,
          2n ** 200n,
          Uint8Array.from([0, 255, 92]),
          'naïve \\ " text',
          5e-324,
          '2026-11-21T00:00:00.123Z',
          true,
        ],
      );
      assert.equal(row?.i, 2n ** 63n - 1n);
      assert.equal(row?.n, 2n ** 200n);
      assert.ok(row?.b instanceof Uint8Array);
      assert.deepEqual([...row.b], [0, 255, 92]);
      assert.equal(row.t, 'naïve \\ " text');
      assert.equal(row.d, 5e-324);
      assert.equal((row.at as Date).getTime(), Date.UTC(2026, 10, 21, 0, 0, 0, 123));
      assert.equal(row.yes, true);
      assert.equal(row.nothing, null);
      assert.equal(row.fraction, '1.5');
    });

    test('arrays of every kind go in', async () => {
      const db = await server().freshDatabase({ empty: true });
      const rows = await db.query<{ b: Uint8Array; n: bigint; t: string }>(
        'SELECT * FROM unnest($1::bytea[], $2::numeric[], $3::text[]) AS x(b, n, t)',
        [
          [Uint8Array.from([1, 2]), new Uint8Array(0)],
          [1n, -(2n ** 100n)],
          ['a"b', 'NULL'],
        ],
      );
      assert.deepEqual(
        rows.map((row) => [[...row.b], row.n, row.t]),
        [
          [[1, 2], 1n, 'a"b'],
          [[], -(2n ** 100n), 'NULL'],
        ],
      );
    });

    test('a transaction is all or nothing', async () => {
      const db = await server().freshDatabase({ empty: true });
      await db.query('CREATE TABLE t (i int8 PRIMARY KEY)');
      await assert.rejects(
        db.transaction(async (tx) => {
          await tx.query('INSERT INTO t VALUES (1)');
          throw new Error('changed my mind');
        }),
        /changed my mind/,
      );
      assert.deepEqual(await db.query('SELECT * FROM t'), []);
      const answer = await db.transaction(async (tx) => {
        await tx.query('INSERT INTO t VALUES (2)');
        return 'done';
      });
      assert.equal(answer, 'done');
      assert.deepEqual(await db.query('SELECT * FROM t'), [{ i: 2n }]);
    });

    test('a driver error names its SQLSTATE and leaves the connection usable', async () => {
      const db = await server().freshDatabase({ empty: true });
      await assert.rejects(db.query('SELECT 1/0'), { code: '22012' });
      await assert.rejects(
        db.transaction((tx) => tx.query('nonsense')),
        { code: '42601' },
      );
      assert.deepEqual(await db.query('SELECT 1 AS one'), [{ one: 1 }]);
    });

    test('deadlocks are repeated until both are through', async () => {
      const db = await server().freshDatabase({ empty: true });
      await db.query(
        'CREATE TABLE t (i int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)',
      );
      let meet = 2;
      let release = () => {};
      const met = new Promise<void>((resolve) => {
        release = resolve;
      });
      let attempts = 0;
      const cross = (first: number, second: number) =>
        db.transaction(async (tx) => {
          attempts++;
          await tx.query('UPDATE t SET n = n + 1 WHERE i = $1', [first]);
          if (--meet === 0) release();
          await met;
          await tx.query('UPDATE t SET n = n + 1 WHERE i = $1', [second]);
        });
      await Promise.all([cross(1, 2), cross(2, 1)]);
      assert.ok(attempts > 2);
      assert.deepEqual(await db.query('SELECT n FROM t ORDER BY i'), [{ n: 2 }, { n: 2 }]);
    });

    test('a lost connection is an error once, and the pool recovers', async () => {
      const db = await server().freshDatabase({ empty: true });
      await assert.rejects(
        db.transaction(async (tx) => {
          const [own] = await tx.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
          await db.query('SELECT pg_terminate_backend($1)', [own?.pid]);
          await tx.query('SELECT 1');
        }),
      );
      assert.deepEqual(await db.query('SELECT 1 AS one'), [{ one: 1 }]);
    });
  });
}
