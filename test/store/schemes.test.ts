import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { findOrMakeAccounts } from '../../src/store/accounts.ts';
import {
  listSchemes,
  movePpsCursor,
  readPpsCursor,
  readPpsFractions,
  readScheme,
  recordScheme,
  writePpsFractions,
} from '../../src/store/schemes.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);

for (const kind of SERVER_KINDS) {
  describe(`schemes on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('the scheme of a share is the last one from at or before it', async () => {
      const db = await server.freshDatabase();
      assert.equal(await readScheme(db, 'main', 5n), null);
      const changes = [
        { pool: 'main', fromSeq: 0n, scheme: 'pps', reason: 'configured', atMs: AT_MS },
        { pool: 'main', fromSeq: 100n, scheme: 'pplns', reason: 'ruin', atMs: AT_MS + 1 },
        { pool: 'main', fromSeq: 100n, scheme: 'prop', reason: 'after all', atMs: AT_MS + 2 },
      ] as const;
      for (const change of changes) await recordScheme(db, change);
      await recordScheme(db, { ...changes[0], pool: 'other', scheme: 'solo' });
      assert.deepEqual(await readScheme(db, 'main', 99n), changes[0]);
      assert.deepEqual(await readScheme(db, 'main', 100n), changes[2]);
      assert.equal((await readScheme(db, 'other', 2n ** 60n))?.scheme, 'solo');
      assert.deepEqual(await listSchemes(db, 'main'), changes);
    });

    test('the cursor of PPS moves from where it is said to be, and never back', async () => {
      const db = await server.freshDatabase();
      const move = (fromSeq: bigint | null, throughSeq: bigint) =>
        movePpsCursor(db, { pool: 'main', fromSeq, throughSeq });
      assert.equal(await readPpsCursor(db, 'main'), null);
      assert.equal(await move(0n, 5n), false);
      assert.equal(await move(null, 10n), true);
      assert.equal(await move(null, 20n), false);
      assert.equal(await move(9n, 20n), false);
      assert.equal(await move(10n, 9n), false);
      assert.equal(await move(10n, 20n), true);
      assert.equal(await readPpsCursor(db, 'main'), 20n);
      assert.equal(await readPpsCursor(db, 'other'), null);
    });

    test('fractions of a satoshi are kept by pool and account', async () => {
      const db = await server.freshDatabase();
      const made = await db.transaction((tx) => findOrMakeAccounts(tx, ['a', 'b'], AT_MS));
      const [a, b] = [...made.values()] as [bigint, bigint];
      await writePpsFractions(
        db,
        'main',
        new Map([
          [b, 2n ** 32n - 1n],
          [a, 7n],
        ]),
      );
      await writePpsFractions(db, 'main', new Map([[a, 0n]]));
      await writePpsFractions(db, 'main', new Map());
      assert.deepEqual(
        await readPpsFractions(db, 'main', [a, b]),
        new Map([
          [a, 0n],
          [b, 2n ** 32n - 1n],
        ]),
      );
      assert.deepEqual(await readPpsFractions(db, 'other', [b]), new Map([[b, 0n]]));
      for (const bad of [-1n, 2n ** 32n]) {
        await assert.rejects(writePpsFractions(db, 'main', new Map([[a, bad]])), { code: '23514' });
      }
    });
  });
}
