/** The payer on the development chain: the plain way, and every way in which payouts must wait, stop, or go again. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { Db } from '../../../src/ports.ts';
import { listBatches, readBatch, readControl } from '../../../src/store/payouts.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { createPayerRig, HOUR_MS, MINUTE_MS, type PayerRig } from '../../tools/payer-rig.ts';

for (const kind of SERVER_KINDS) {
  let server: TestServer;
  let db: Db;
  let rig: PayerRig;

  before(async () => {
    server = await kind.start();
  });
  after(() => server.stop());
  beforeEach(async () => {
    db = await server.freshDatabase();
    rig = await createPayerRig(db);
  });
  afterEach(() => rig.stop());

  test(`${kind.name}: miners are paid, and the books agree with the chain`, async () => {
    const accounts = await Promise.all([0, 1, 2, 3, 4].map((at) => rig.account(`plain ${at}`, at)));
    await rig.credit(
      accounts.map(({ accountId }, at) => ({ accountId, sats: 100_000n * BigInt(at + 1) })),
    );
    const payer = rig.payer();
    await payer.cycle();
    assert.deepEqual(payer.status().alarms, []);
    const [batch] = await listBatches(db, { limit: 10 });
    assert.equal(batch?.state, 'broadcast');
    await payer.cycle();
    assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'seen');
    await rig.mine(1);
    await payer.cycle();
    assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'confirmed');
    await rig.mine(5);
    await payer.cycle();
    assert.equal((await listBatches(db, { limit: 10 }))[0]?.state, 'settled');
    await rig.judge(accounts);
    assert.equal(await rig.balance('miner'), 0n);
    const detail = await readBatch(db, batch?.batchId as bigint);
    assert.deepEqual(
      detail?.events.map((one) => one.event),
      ['planned', 'reserved', 'built', 'signed', 'broadcast', 'seen', 'confirmed', 'settled'],
    );
    assert.equal((await readControl(db)).halted, false);
    await rig.pass(2 * HOUR_MS + MINUTE_MS);
    await payer.cycle();
    assert.equal((await listBatches(db, { limit: 10 })).length, 1);
  });
}
