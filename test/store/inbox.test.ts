import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Db } from '../../src/ports.ts';
import {
  moveInbox,
  readInbox,
  readShareGateways,
  within,
  writeShareGateways,
} from '../../src/store/inbox.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

for (const kind of SERVER_KINDS) {
  describe(`inbox on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    before(async () => {
      server = await kind.start();
      db = await server.freshDatabase();
    });
    after(() => server.stop());

    const move = (topic: string, offsets: [number, bigint][], back?: number[]) =>
      db.transaction((tx) => moveInbox(tx, topic, new Map(offsets), new Set(back)));

    test('offsets are kept by topic and partition, and answer what stood there before', async () => {
      assert.deepEqual(await readInbox(db, 'a'), new Map());
      assert.deepEqual(
        await move('a', [
          [1, 5n],
          [0, 2n ** 40n],
        ]),
        new Map(),
      );
      assert.deepEqual(await move('b', [[1, 9n]]), new Map());
      assert.deepEqual(
        await move('a', [
          [1, 6n],
          [2, 1n],
        ]),
        new Map([[1, 5n]]),
      );
      assert.deepEqual(await move('a', []), new Map());
      assert.deepEqual(
        await readInbox(db, 'a'),
        new Map([
          [0, 2n ** 40n],
          [1, 6n],
          [2, 1n],
        ]),
      );
      assert.deepEqual(await readInbox(db, 'b'), new Map([[1, 9n]]));
    });

    test('who is behind takes nothing back from who is ahead, but a place may be read again', async () => {
      await move('c', [[0, 10n]]);
      assert.deepEqual(await move('c', [[0, 7n]]), new Map([[0, 10n]]));
      assert.deepEqual(await readInbox(db, 'c'), new Map([[0, 10n]]));
      await move('c', [[0, 3n]], [0]);
      assert.deepEqual(await readInbox(db, 'c'), new Map([[0, 3n]]));
    });

    test('offsets move with their effect or not at all', async () => {
      const gone = db.transaction(async (tx) => {
        await moveInbox(tx, 'd', new Map([[0, 1n]]));
        await within(tx).transaction((inner) => writeShareGateways(inner, ['x']));
        throw new Error('no');
      });
      await assert.rejects(gone, /no/);
      assert.deepEqual(await readInbox(db, 'd'), new Map());
      assert.deepEqual(await readShareGateways(db), []);
    });

    test('two who move the same partitions wait for each other and end with the further one', async () => {
      const movers = Array.from({ length: 20 }, (_, i) =>
        move(
          'e',
          i % 2 === 0
            ? [
                [0, BigInt(i)],
                [1, BigInt(i)],
              ]
            : [
                [1, BigInt(i)],
                [0, BigInt(i)],
              ],
        ),
      );
      await Promise.all(movers);
      assert.deepEqual(
        await readInbox(db, 'e'),
        new Map([
          [0, 19n],
          [1, 19n],
        ]),
      );
    });

    test('the gateways that are waited for are replaced as a whole', async () => {
      await db.transaction((tx) => writeShareGateways(tx, ['b', 'a', 'a']));
      assert.deepEqual(await readShareGateways(db), ['a', 'b']);
      await db.transaction((tx) => writeShareGateways(tx, ['c', 'b', 'nul\0']));
      assert.deepEqual(await readShareGateways(db), ['b', 'c', 'nul\ufffd']);
      await db.transaction((tx) => writeShareGateways(tx, []));
      assert.deepEqual(await readShareGateways(db), []);
    });
  });
}
