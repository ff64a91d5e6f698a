/** Crediting that dies, loses commits, or runs twice at once: the ledger ends where it would have ended. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { createLossyDb } from '../../tools/lossy-db.ts';
import {
  active,
  COIN,
  type CreditWorld,
  createCreditWorld,
  poolOf,
  scriptOf,
} from './credit-rig.ts';

for (const kind of SERVER_KINDS) {
  describe(`crediting in trouble on ${kind.name}`, { concurrency: false }, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    const worlds: CreditWorld[] = [];
    const make = async (...pools: Partial<PoolRules>[]): Promise<CreditWorld> => {
      const db = await server.freshDatabase();
      const world = createCreditWorld(db, pools.length === 0 ? [poolOf()] : pools.map(poolOf));
      worlds.push(world);
      return world;
    };
    afterEach(async () => {
      for (const world of worlds.splice(0)) await world.close();
    });

    test('killed at every point, and with every commit lost, nothing is posted twice and nothing is missing', async () => {
      const story = async (world: CreditWorld, step: () => Promise<void>): Promise<void> => {
        await world.share('alice', 60);
        await world.share('bob', 60, { pool: 'coin' });
        const fork = world.node.tip;
        await world.find('alice', { valueSats: 1_001n });
        await step();
        const lost = world.node.tip;
        world.mine(2, fork);
        await step();
        world.mine(6);
        await step();
        world.mine(9, lost);
        await step();
        await world.find('bob', {
          pool: 'coin',
          outputs: [{ script: scriptOf('alice'), valueSats: 777n }],
        });
        await step();
        world.mine(101);
        await step();
      };
      const pools = [{}, { id: 'coin', scheme: 'direct', feePpm: 0, address: null }] as const;
      const calm = await make(...pools);
      const points = new Map<string, number>();
      const calmCycle = calm.start(
        {},
        {
          fault: (point) => points.set(point, (points.get(point) ?? 0) + 1),
        },
      );
      await story(calm, async () => {
        await calmCycle.run(active);
        await calmCycle.run(active);
      });
      const right = await calm.balances();
      assert.ok(points.size >= 10, [...points.keys()].join());

      /** A service that dies here is started again until a pass goes through. */
      for (const [point] of points) {
        const world = await make(...pools);
        await story(world, async () => {
          let isArmed = true;
          for (let starts = 0; starts < 2; starts++) {
            const cycle = world.start(
              {},
              {
                fault: (at) => {
                  if (at !== point || !isArmed) return;
                  isArmed = false;
                  throw new Error('killed');
                },
              },
            );
            await cycle.run(active);
            await cycle.run(active);
          }
        });
        assert.deepEqual(await world.balances(), right, point);
        await world.audit();
      }
      for (const loss of ['before', 'middle', 'after'] as const) {
        const world = await make(...pools);
        // Half of all transactions, in an order of its own.
        let chance = 1;
        const lossy = createLossyDb(world.db, {
          lose: (what) => {
            if (what === 'query') return null;
            chance = (Math.imul(chance, 1_103_515_245) + 12_345) & 0x7fff_ffff;
            return chance & 0x10000 ? loss : null;
          },
        });
        await story(world, async () => {
          const cycle = world.start({}, { db: lossy });
          for (let at = 0; at < 14; at++) await cycle.run(active);
        });
        assert.deepEqual(await world.balances(), right, `commits lost ${loss}`);
        await world.audit();
      }
    });

    test('two at once credit, mature and reverse once', async () => {
      const world = await make();
      await world.share('alice', 60);
      await world.share('bob', 40);
      const cycles = [world.start(), world.start(), world.start()];
      const both = (): Promise<unknown> => Promise.all(cycles.map((cycle) => cycle.run(active)));
      const fork = world.node.tip;
      const { block } = await world.find('bob');
      await both();
      const credited = await world.balances();
      assert.equal(credited.chain, -50n * COIN);
      world.mine(6, fork);
      await both();
      await both();
      assert.deepEqual(await world.balances(), {});
      world.mine(7, block);
      await both();
      await both();
      assert.deepEqual(await world.balances(), credited);
      world.mine(100);
      await both();
      await both();
      assert.equal(await world.balance('miner-immature'), 0n);
      assert.equal((await world.rounds()).length, 2);
      const [row] = await world.db.query<{ count: bigint }>(
        'SELECT count(*) FROM ledger_transactions',
      );
      assert.equal(row!.count, 4n);
      for (const cycle of cycles) assert.deepEqual(cycle.status().alarms, []);
      await world.audit();
    });
  });
}
