/** The first byte of each gateway: never two with the same, kept over restarts, freed by hand or by time, refused when all are taken. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import type { Db } from '../../src/ports.ts';
import { LEASE_DAYS, takeGatewayLease } from '../../src/store/gateways.ts';
import { SERVER_KINDS, type TestServer } from '../tools/database.ts';

for (const kind of SERVER_KINDS) {
  describe(`numbers of gateways on ${kind.name}`, () => {
    let server: TestServer;
    let db: Db;
    const take = (identity: string, wanted: number | null = null) =>
      takeGatewayLease(db, { identity, name: `g-${identity.slice(0, 4)}`, wanted });
    const lastSeen = (prefix: number, days: number) =>
      db.query(
        'UPDATE gateway_leases SET seen_at = now() - make_interval(hours => $2) WHERE prefix = $1',
        [prefix, days * 24 + (days > LEASE_DAYS ? 0 : -1)],
      );

    before(async () => {
      server = await kind.start();
      db = await server.freshDatabase();
    });
    after(() => server.stop());

    it('many at once get one each, and the same again', async () => {
      const identities = Array.from({ length: 40 }, () => randomUUID());
      const first = await Promise.all(identities.map((identity) => take(identity)));
      const prefixes = first.map((answer) => (answer.kind === 'leased' ? answer.prefix : -1));
      assert.deepEqual(
        [...prefixes].sort((a, b) => a - b),
        Array.from({ length: 40 }, (_, i) => i),
      );
      assert.deepEqual(await Promise.all(identities.map((identity) => take(identity))), first);
    });

    it('a wanted one is given when it is free, also in exchange, and else its holder is named', async () => {
      const [mine, other] = [randomUUID(), randomUUID()];
      assert.deepEqual(await take(mine, 200), { kind: 'leased', prefix: 200 });
      assert.deepEqual(await take(other, 200), {
        kind: 'taken',
        prefix: 200,
        name: `g-${mine.slice(0, 4)}`,
      });
      assert.deepEqual(await take(mine, 201), { kind: 'leased', prefix: 201 });
      assert.deepEqual(await take(other, 200), { kind: 'leased', prefix: 200 });
    });

    it('all taken is said; a row deleted by hand or not seen for long is free, one seen lately is not', async () => {
      let answer = await take(randomUUID());
      while (answer.kind === 'leased') answer = await take(randomUUID());
      assert.equal(answer.kind, 'full');
      await lastSeen(7, LEASE_DAYS);
      assert.equal((await take(randomUUID())).kind, 'full');
      await lastSeen(7, LEASE_DAYS + 1);
      assert.deepEqual(await take(randomUUID()), { kind: 'leased', prefix: 7 });
      await db.query('DELETE FROM gateway_leases WHERE prefix = 9');
      assert.deepEqual(await take(randomUUID()), { kind: 'leased', prefix: 9 });
    });

    it('its own row is never too old for a gateway that comes back first', async () => {
      const identity = randomUUID();
      await db.query('DELETE FROM gateway_leases WHERE prefix = 11');
      assert.deepEqual(await take(identity), { kind: 'leased', prefix: 11 });
      await lastSeen(11, LEASE_DAYS + 100);
      assert.deepEqual(await take(identity, 11), { kind: 'leased', prefix: 11 });
    });
  });
}
