/** Plans of direct pools: published when they change, and paid by the coinbases that follow them until nobody is owed anything. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import { planOutputs } from '../../../src/core/ledger/plan.ts';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { decodeCoinbasePlans } from '../../../src/messages/codec.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import {
  active,
  addressOf,
  COIN,
  type CreditWorld,
  createCreditWorld,
  poolOf,
  scriptOf,
} from './credit-rig.ts';

for (const kind of SERVER_KINDS) {
  describe(`plans on ${kind.name}`, { concurrency: false }, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    const worlds: CreditWorld[] = [];
    const make = async (...pools: Partial<PoolRules>[]) => {
      const world = createCreditWorld(await server.freshDatabase(), pools.map(poolOf));
      worlds.push(world);
      const published: CoinbasePlan[][] = [];
      await world.bus.subscribe('mining.plans', 'test', async (records) => {
        for (const { value } of records) {
          const plans = decodeCoinbasePlans(value);
          assert.ok(plans.ok);
          published.push(plans.value);
        }
      });
      return { world, published };
    };
    afterEach(async () => {
      for (const world of worlds.splice(0)) await world.close();
    });
    const direct = { scheme: 'direct', feePpm: 0, address: null } as const;

    test('one is made from the window, again only when something changed and five seconds have passed', async () => {
      const { world, published } = await make(direct, { id: 'ledger' });
      const cycle = world.start();
      await cycle.run(active);
      assert.equal(published.length, 0, 'nobody to pay');
      await world.share('alice', 30);
      await world.share('bob', 10);
      await world.share('carol', 60, { pool: 'ledger' });
      world.pass(5_000);
      await cycle.run(active);
      assert.equal(published.length, 1);
      const [plan] = published[0]!;
      assert.equal(published[0]!.length, 1);
      assert.equal(plan!.pool, 'main');
      assert.equal(plan!.lastSeq, 2n);
      assert.deepEqual(
        plan!.entries.map(({ address }) => address),
        [addressOf('alice'), addressOf('bob')],
      );
      world.pass(5_000);
      await cycle.run(active);
      assert.equal(published.length, 1, 'nothing new');
      await world.share('bob', 30);
      await cycle.run(active);
      assert.equal(published.length, 1, 'too soon for another');
      world.pass(5_000);
      await cycle.run(active);
      assert.equal(published.length, 2);
      // A gateway that starts later than the last change hears it from a service that starts again.
      await world.start().run(active);
      assert.equal(published.length, 3);
      assert.equal(published[2]![0]!.planId, published[1]![0]!.planId);
    });

    test('what does not fit is carried and paid in a later block; a pool’s carries are always zero in sum', async () => {
      const { world, published } = await make({
        ...direct,
        feePpm: 20_000,
        feeAddress: addressOf('fees'),
      });
      const cycle = world.start();
      const names = ['a', 'b', 'c', 'd', 'e'];
      for (const [at, name] of names.entries()) await world.share(name, 10 * (at + 1));
      const paid = new Map<string, bigint>();
      let rewards = 0n;
      for (let round = 0; round < 14; round++) {
        world.pass(10_000);
        await cycle.run(active);
        const plan = published.at(-1)![0]!;
        const value = 50n * COIN + BigInt(round);
        // Only three outputs fit.
        const outputs = planOutputs(plan, value, { outputsMax: 3, bytesMax: 1_000 });
        assert.equal(outputs.length, 3);
        for (const { script, valueSats } of outputs) {
          const key = Buffer.from(script).toString('hex');
          paid.set(key, (paid.get(key) ?? 0n) + valueSats);
          rewards += valueSats;
        }
        await world.find('e', { outputs, percent: 1 });
        await cycle.run(active);
        assert.equal(await world.balance('carry'), 0n);
      }
      // Everybody has been paid, and what he got and is owed is what he earned.
      const [earned] = await world.db.query<{ total: bigint; operator: bigint }>(
        `SELECT (SELECT sum(credit_sats) FROM round_credits) AS total, sum(operator_sats) AS operator FROM rounds`,
      );
      assert.equal(earned!.total + earned!.operator, rewards);
      for (const name of [...names, 'fees']) {
        const got = paid.get(Buffer.from(scriptOf(name)).toString('hex')) ?? 0n;
        assert.ok(got > 0n, `${name} was never paid`);
        const [credit] = await world.db.query<{ sats: bigint }>(
          `SELECT coalesce(sum(credit_sats), 0) AS sats FROM round_credits JOIN accounts USING (account_id)
           WHERE address = $1`,
          [addressOf(name)],
        );
        const due = credit!.sats + (name === 'fees' ? earned!.operator : 0n);
        assert.equal(got + (await world.balance('carry', { name })), due, name);
      }
      await world.audit();
    });

    test('who was paid ahead and left is waited for thirty days; then those who are owed bear it', async () => {
      const { world } = await make({ ...direct, feePpm: 0 });
      const cycle = world.start();
      await world.share('gone', 10);
      await world.share('stays', 10);
      await world.share('other', 20);
      world.pass(10_000);
      await cycle.run(active);
      const value = 50n * COIN;
      // The coinbase pays one of them everything.
      await world.find('stays', {
        outputs: [{ script: scriptOf('gone'), valueSats: value }],
        percent: 1,
      });
      await cycle.run(active);
      const debt = await world.balance('carry', { name: 'gone' });
      assert.ok(debt < 0n);
      const carry = async () => [
        await world.balance('carry', { name: 'gone' }),
        await world.balance('carry', { name: 'stays' }),
        await world.balance('carry', { name: 'other' }),
      ];
      const before = await carry();
      world.pass(29 * 86_400_000);
      await cycle.run(active);
      assert.deepEqual(await carry(), before, 'not yet');
      world.pass(2 * 86_400_000);
      await cycle.run(active);
      const [gone, stays, other] = await carry();
      assert.deepEqual([gone, stays, other], [0n, 0n, 0n], 'all that was owed is what he took');
      world.pass(3_600_000);
      await cycle.run(active);
      const [postings] = await world.db.query<{ count: bigint }>(
        `SELECT count(*) AS count FROM ledger_transactions WHERE key LIKE 'write-off:%'`,
      );
      assert.equal(postings!.count, 1n);
      // The total that the chain paid is still in the books.
      assert.equal(await world.balance('paid', { name: 'gone' }), value);
      await world.audit();
    });

    test('a plan does not reach back over shares of another scheme', async () => {
      const { world, published } = await make({ ...direct, address: addressOf('pool') });
      await world.share('early', 100);
      await world.start({ pools: [poolOf({ scheme: 'prop' })] }).run(active);
      const cycle = world.start();
      await cycle.run(active);
      assert.equal(published.length, 0);
      await world.share('late', 10);
      world.pass(5_000);
      await cycle.run(active);
      assert.deepEqual(
        published[0]![0]!.entries.map(({ address }) => address),
        [addressOf('late')],
      );
    });

    test('no node, no plan; the next cycle with one makes it', async () => {
      const { world, published } = await make(direct);
      const cycle = world.start();
      await world.share('alice', 10);
      world.setFate((_door, method) =>
        method === 'getblockheader'
          ? { kind: 'fail', answer: { kind: 'timeout', detail: 'slow' }, acted: false }
          : { kind: 'answer' },
      );
      await cycle.run(active);
      assert.equal(published.length, 0);
      world.setFate(() => ({ kind: 'answer' }));
      await cycle.run(active);
      assert.equal(published.length, 1);
    });
  });
}
