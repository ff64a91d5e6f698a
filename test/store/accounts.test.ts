import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  findAccounts,
  findOrMakeAccounts,
  readSettings,
  setSettings,
} from '../../src/store/accounts.ts';
import { listNotes } from '../../src/store/ledger.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

const AT_MS = Date.UTC(2026, 10, 21, 12);
const NOTHING = {
  feePpm: null,
  donationPpm: 0,
  minimumPayoutSats: null,
  onHold: false,
  holdReason: null,
};

for (const kind of SERVER_KINDS) {
  describe(`accounts on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    test('an address has one account, whoever asks and how often', async () => {
      const db = await server.freshDatabase();
      const some = await db.transaction((tx) => findOrMakeAccounts(tx, ['b', 'a', 'b'], AT_MS));
      assert.deepEqual([...some.keys()].sort(), ['a', 'b']);
      const more = await db.transaction((tx) => findOrMakeAccounts(tx, ['c', 'b'], AT_MS + 5));
      assert.equal(more.get('b'), some.get('b'));
      assert.deepEqual(
        await findAccounts(db, ['a', 'c', 'd']),
        new Map([
          ['a', some.get('a')],
          ['c', more.get('c')],
        ]),
      );
      assert.deepEqual(await db.transaction((tx) => findOrMakeAccounts(tx, [], AT_MS)), new Map());
      for (const bad of ['', 'x\0', '\ud800', 'x'.repeat(513)]) {
        await assert.rejects(
          db.transaction((tx) => findOrMakeAccounts(tx, [bad], AT_MS)),
          RangeError,
        );
      }
      const many = Array.from({ length: 3_000 }, (_, i) => `many${i}`);
      const [forth, back] = await Promise.all([
        db.transaction((tx) => findOrMakeAccounts(tx, many, AT_MS)),
        db.transaction((tx) => findOrMakeAccounts(tx, many.toReversed(), AT_MS)),
      ]);
      assert.deepEqual([...forth].sort(), [...back].sort());
      assert.equal(new Set(forth.values()).size, 3_000);
    });

    test('settings change only what is named, with a note of before and after', async () => {
      const db = await server.freshDatabase();
      const made = await db.transaction((tx) => findOrMakeAccounts(tx, ['a', 'b'], AT_MS));
      const [a, b] = [...made.values()] as [bigint, bigint];
      assert.deepEqual(
        await readSettings(db, [a, b]),
        new Map([
          [a, NOTHING],
          [b, NOTHING],
        ]),
      );
      const order = { accountId: a, actor: 'op', reason: 'asked for', atMs: AT_MS };
      await setSettings(db, { ...order, change: { feePpm: 0, minimumPayoutSats: 2n ** 50n } });
      const now = await setSettings(db, {
        ...order,
        change: { onHold: true, holdReason: 'dis\0pute' },
      });
      const expected = {
        feePpm: 0,
        donationPpm: 0,
        minimumPayoutSats: 2n ** 50n,
        onHold: true,
        holdReason: 'dis\ufffdpute',
      };
      assert.deepEqual((await readSettings(db, [a, b])).get(a), expected);
      assert.deepEqual(now, expected);
      assert.deepEqual((await readSettings(db, [b])).get(b), NOTHING);
      const [note, first] = await listNotes(db, { limit: 10 });
      const json = (settings: object) => ({ ...settings, minimumPayoutSats: String(2n ** 50n) });
      assert.deepEqual(note?.detail, {
        accountId: String(a),
        reason: 'asked for',
        before: { ...json(NOTHING), feePpm: 0 },
        now: json(expected),
      });
      assert.deepEqual(first?.detail.before, NOTHING);
      await setSettings(db, {
        ...order,
        change: { feePpm: null, onHold: false, holdReason: null },
      });
      assert.equal((await readSettings(db, [a])).get(a)?.feePpm, null);
      for (const [change, code] of [
        [{ feePpm: -1 }, '23514'],
        [{ feePpm: 1_000_001 }, '23514'],
        [{ donationPpm: 1_000_001 }, '23514'],
        [{ feePpm: 600_000, donationPpm: 400_001 }, '23514'],
        [{ minimumPayoutSats: -1n }, '23514'],
      ] as const) {
        await assert.rejects(setSettings(db, { ...order, change }), { code });
      }
      await assert.rejects(setSettings(db, { ...order, accountId: 99n, change: {} }), {
        code: '23503',
      });
      assert.equal((await listNotes(db, { limit: 10 })).length, 3);
    });
  });
}
