/** Shares paid as they come: exact over any ranges and restarts, out of a reserve that is weighed before each range. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { postLedger } from '../../../src/store/ledger.ts';
import { readRound } from '../../../src/store/rounds.ts';
import { listSchemes } from '../../../src/store/schemes.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { createLossyDb } from '../../tools/lossy-db.ts';
import {
  active,
  addressOf,
  COIN,
  type CreditWorld,
  createCreditWorld,
  poolOf,
  scriptOf,
} from './credit-rig.ts';

/** A share of so many parts in 100 of the network's difficulty, in fractions of a satoshi: numerator over 10^8 per value. */
type Paid = { name: string; percent: number; valueSats: bigint; feePpm: number };

/** What is due for shares, kept as one fraction per account until the end: only then is anything rounded. */
function oracleDue(paid: readonly Paid[]): Map<string, bigint> {
  const top = new Map<string, bigint>();
  for (const { name, percent, valueSats, feePpm } of paid) {
    const share = BigInt(percent) * valueSats * BigInt(1_000_000 - feePpm);
    top.set(name, (top.get(name) ?? 0n) + share);
  }
  return new Map([...top].map(([name, sum]) => [name, sum / 100_000_000n]));
}

for (const kind of SERVER_KINDS) {
  describe(`pay per share on ${kind.name}`, { concurrency: false }, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    const worlds: CreditWorld[] = [];
    const make = async (...pools: Partial<PoolRules>[]): Promise<CreditWorld> => {
      const world = createCreditWorld(await server.freshDatabase(), pools.map(poolOf));
      worlds.push(world);
      return world;
    };
    afterEach(async () => {
      for (const world of worlds.splice(0)) await world.close();
    });
    const fund = (world: CreditWorld, sats: bigint, pool = 'main') =>
      world.db.transaction((tx) =>
        postLedger(tx, {
          key: `fund:${world.nowMs()}:${sats}`,
          kind: 'fund',
          atMs: world.nowMs(),
          actor: 'olivia',
          entries: [
            { account: { kind: 'deposit' }, sats: -sats },
            { account: { kind: 'reserve', pool }, sats },
          ],
        }),
      );
    const SUBSIDY = 50n * COIN;

    test('every share is worth its chance of the block; what is below a satoshi is kept, whatever the ranges', async () => {
      const world = await make({ scheme: 'pps', feePpm: 12_345, ruinPpmMax: 1_000_000 });
      await fund(world, 5_000n * COIN);
      let cycle = world.start();
      const paid: Paid[] = [];
      // Quarters of a percent would not be exact in binary: whole powers of two of the difficulty are.
      for (const [at, name] of ['a', 'b', 'a', 'c', 'b', 'a', 'a', 'c'].entries()) {
        await world.share(name, 25);
        paid.push({ name, percent: 25, valueSats: SUBSIDY, feePpm: 12_345 });
        if (at % 3 === 1) await cycle.run(active);
        if (at % 3 === 2) cycle = world.start();
      }
      await cycle.run(active);
      for (const [name, sats] of oracleDue(paid))
        assert.equal(await world.balance('miner', { name }), sats, name);
      const before = await world.balances();
      await cycle.run(active);
      await world.start().run(active);
      assert.deepEqual(await world.balances(), before);
      await world.audit();
    });

    test('fractions add up to satoshi over many tiny shares', async () => {
      // One part in 2^40 of a block: 0.0045 sat each.
      const world = await make({ scheme: 'pps', feePpm: 0, ruinPpmMax: 1_000_000 });
      await fund(world, COIN);
      const cycle = world.start();
      const percent = 100 / 2 ** 40;
      for (let at = 0; at < 60; at++) {
        await world.share('ant', percent);
        if (at % 7 === 0) await cycle.run(active);
      }
      await cycle.run(active);
      // 60 · 5·10^9 / 2^40 = 0.27: nothing yet, and nothing lost.
      assert.equal(await world.balance('miner', { name: 'ant' }), 0n);
      await world.share('ant', 161 * percent);
      await cycle.run(active);
      assert.equal(await world.balance('miner', { name: 'ant' }), (221n * SUBSIDY) / 2n ** 40n);
    });

    test('FPPS pays what the job pays, PPS the subsidy', async () => {
      const world = await make(
        { scheme: 'fpps', feePpm: 0, ruinPpmMax: 1_000_000 },
        { id: 'coin', scheme: 'pps', feePpm: 0, ruinPpmMax: 1_000_000 },
      );
      await fund(world, 500n * COIN);
      await fund(world, 501n * COIN, 'coin');
      await world.share('alice', 50, { valueSats: 60n * COIN });
      await world.share('bob', 50, { valueSats: 60n * COIN, pool: 'coin' });
      await world.start().run(active);
      assert.deepEqual(await world.balances(), {
        deposit: -1_001n * COIN,
        'miner alice': 30n * COIN,
        'miner bob': 25n * COIN,
        'reserve coin': 476n * COIN,
        'reserve main': 470n * COIN,
      });
    });

    test('splits, donations and fees of their own; the fee stays in the reserve', async () => {
      const world = await make({
        scheme: 'pps',
        feePpm: 100_000,
        developerFeePpm: 50_000,
        developerAddress: addressOf('developer'),
        ruinPpmMax: 1_000_000,
      });
      await fund(world, 5_000n * COIN);
      const [a, b] = [addressOf('alice'), addressOf('bob')].sort() as [string, string];
      await world.share('', 100, { address: `${a}*1,${b}*1` });
      await world.start().run(active);
      assert.deepEqual(
        {
          alice: await world.balance('miner', { name: 'alice' }),
          bob: await world.balance('miner', { name: 'bob' }),
          developer: await world.balance('miner', { name: 'developer' }),
          reserve: await world.balance('reserve'),
        },
        {
          alice: 2_125_000_000n,
          bob: 2_125_000_000n,
          developer: 250_000_000n,
          reserve: 5_000n * COIN - 4_500_000_000n,
        },
      );
    });

    test('a block fills the reserve, immature first; an orphan takes it out again', async () => {
      const world = await make({ scheme: 'pps', feePpm: 0, ruinPpmMax: 1_000_000 });
      await fund(world, 100n * COIN);
      const cycle = world.start();
      const fork = world.node.tip;
      const { hash, block } = await world.find('alice', { percent: 100 });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -50n * COIN,
        deposit: -100n * COIN,
        'miner alice': 50n * COIN,
        'reserve main': 50n * COIN,
        'reserve-immature main': 50n * COIN,
      });
      const round = await readRound(world.db, hash);
      assert.deepEqual(
        [round?.rewardSats, round?.operatorSats, round?.credits],
        [50n * COIN, 0n, []],
      );
      world.mine(6, fork);
      await cycle.run(active);
      // Shares stay paid: that is the pool's risk in this scheme.
      assert.deepEqual(await world.balances(), {
        deposit: -100n * COIN,
        'miner alice': 50n * COIN,
        'reserve main': 50n * COIN,
      });
      world.mine(107, block);
      await cycle.run(active);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -50n * COIN,
        deposit: -100n * COIN,
        'miner alice': 50n * COIN,
        'reserve main': 100n * COIN,
      });
      await world.audit();
    });

    test('refuse: nothing is paid beyond the bound, and all of it once the reserve is filled', async () => {
      const world = await make({
        scheme: 'pps',
        feePpm: 40_000,
        onRuin: 'refuse',
        ruinPpmMax: 10_000,
      });
      const cycle = world.start();
      await world.share('alice', 50);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 0n);
      assert.match(cycle.status().alarms.join(), /until its reserve is filled/);
      assert.equal(cycle.status().pools[0]!.ruinPpm, 1_000_000);
      // exp(−2 · 0.04 · R / 50) ≤ 0.01 takes R of some 2,878 coins and more, after the share is paid.
      await fund(world, 2_800n * COIN);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 0n);
      // A block goes to the reserve all the same, or it could never recover.
      await world.find('bob', { percent: 1 });
      await cycle.run(active);
      assert.equal(await world.balance('reserve-immature'), 50n * COIN);
      await fund(world, 200n * COIN);
      await cycle.run(active);
      assert.equal(await world.balance('miner', { name: 'alice' }), 24n * COIN);
      assert.equal(await world.balance('miner', { name: 'bob' }), 47_999_999n);
      assert.deepEqual(cycle.status().alarms, []);
      await world.audit();
    });

    test('downgrade: in the open, from the first share that was not paid, and PPLNS does not reach back over paid ones', async () => {
      const rules = {
        scheme: 'pps',
        feePpm: 40_000,
        onRuin: 'downgrade',
        ruinPpmMax: 10_000,
      } as const;
      const world = await make(rules);
      await fund(world, 2_920n * COIN);
      const cycle = world.start();
      await world.share('alice', 50);
      await cycle.run(active);
      assert.equal(await world.balance('miner', { name: 'alice' }), 24n * COIN);
      assert.equal(cycle.status().pools[0]!.countedBy, 'pps');
      // The next range would go below the bound; the block of its last share is PPLNS then.
      await world.share('bob', 50);
      await world.find('carol', { percent: 50, valueSats: 1_000n });
      await cycle.run(active);
      await cycle.run(active);
      assert.equal(cycle.status().pools[0]!.scheme, 'pps');
      assert.match(cycle.status().alarms.join(), /counts by PPLNS since share 2/);
      assert.deepEqual(
        (await listSchemes(world.db, 'main')).map(({ fromSeq, scheme }) => [fromSeq, scheme]),
        [
          [0n, 'pps'],
          [2n, 'pplns'],
        ],
      );
      assert.deepEqual(
        (await world.rounds()).map(({ scheme }) => scheme),
        ['pplns'],
      );
      assert.equal(await world.balance('miner-immature', { name: 'alice' }), 0n);
      assert.equal(await world.balance('miner-immature', { name: 'bob' }), 480n);
      assert.equal(await world.balance('miner-immature', { name: 'carol' }), 480n);
      // It stays so over restarts, until the reserve is enough at a start.
      const again = world.start();
      await world.share('bob', 50);
      await again.run(active);
      assert.equal((await listSchemes(world.db, 'main')).length, 2);
      await fund(world, 5_000n * COIN);
      await again.run(active);
      assert.equal((await listSchemes(world.db, 'main')).length, 2, 'not while it runs');
      const filled = world.start();
      await filled.run(active);
      const [, , restored] = await listSchemes(world.db, 'main');
      assert.deepEqual([restored?.fromSeq, restored?.scheme], [5n, 'pps']);
      await world.share('dave', 50);
      await filled.run(active);
      assert.deepEqual(filled.status().alarms, []);
      assert.equal(await world.balance('miner', { name: 'dave' }), 24n * COIN);
      assert.equal(await world.balance('miner', { name: 'bob' }), 0n, 'share 4 was PPLNS');
      await world.audit();
    });

    test('a pool that changes its scheme pays by share what was mined under it, and not what was not', async () => {
      const world = await make({ scheme: 'pplns', feePpm: 0, ruinPpmMax: 1_000_000 });
      await fund(world, 5_000n * COIN);
      const asPps = (): Partial<Parameters<CreditWorld['start']>[0]> => ({
        pools: [poolOf({ scheme: 'pps', feePpm: 0, ruinPpmMax: 1_000_000 })],
      });
      await world.share('early', 100);
      await world.start().run(active);
      const holds = (): Promise<unknown[]> => world.db.query('SELECT * FROM share_holds');
      const switched = world.start(asPps());
      await switched.run(active);
      await world.share('middle', 25);
      await switched.run(active);
      assert.deepEqual(await holds(), [{ name: 'pps:main', after_seq: 2n }]);
      await world.share('middle', 25);
      // Back before the last range was paid.
      const back = world.start();
      await back.run(active);
      await world.share('late', 100);
      await back.run(active);
      assert.equal(await world.balance('miner', { name: 'early' }), 0n);
      assert.equal(await world.balance('miner', { name: 'middle' }), 25n * COIN);
      assert.equal(await world.balance('miner', { name: 'late' }), 0n);
      assert.deepEqual(await holds(), [], 'raw shares are needed no longer');
      await world.find('late', { percent: 100, valueSats: 100n });
      await back.run(active);
      assert.equal(await world.balance('miner-immature', { name: 'late' }), 100n);
      assert.equal(await world.balance('miner-immature', { name: 'middle' }), 0n);
    });

    test('killed at every point, lost commits, three at once: each share is paid once', async () => {
      const rules = { scheme: 'pps', feePpm: 10_000, ruinPpmMax: 1_000_000 } as const;
      const expected = oracleDue(
        ['a', 'b', 'a', 'c'].map((name) => ({
          name,
          percent: 25,
          valueSats: SUBSIDY,
          feePpm: 10_000,
        })),
      );
      const story = async (run: (world: CreditWorld) => Promise<void>): Promise<void> => {
        const world = await make(rules);
        await fund(world, 5_000n * COIN);
        for (const name of ['a', 'b', 'a', 'c']) {
          await world.share(name, 25);
          await run(world);
        }
        for (const [name, sats] of expected)
          assert.equal(await world.balance('miner', { name }), sats, name);
        await world.audit();
        await world.close();
      };
      for (const point of ['pps.before', 'pps.posted', 'pps.committed'])
        await story(async (world) => {
          let isArmed = true;
          const fault = (at: string): void => {
            if (at !== point || !isArmed) return;
            isArmed = false;
            throw new Error('killed');
          };
          await world.start({}, { fault }).run(active);
          await world.start().run(active);
        });
      for (const loss of ['middle', 'after'] as const)
        await story(async (world) => {
          let calls = 0;
          const lose = (what: string) =>
            what === 'transaction' && calls++ % 3 === 0 ? loss : null;
          const cycle = world.start({}, { db: createLossyDb(world.db, { lose }) });
          for (let at = 0; at < 5; at++) await cycle.run(active);
        });
      await story(async (world) => {
        const cycles = [world.start(), world.start(), world.start()];
        await Promise.all(cycles.map((cycle) => cycle.run(active)));
        await Promise.all(cycles.map((cycle) => cycle.run(active)));
      });
    });

    test('shares are paid at intervals, at once when a block waits for it', async () => {
      const world = await make({
        scheme: 'pps',
        feePpm: 0,
        ruinPpmMax: 1_000_000,
        onRuin: 'downgrade',
      });
      await fund(world, 5_000n * COIN);
      const cycle = world.start({ ppsIntervalMs: 60_000 });
      await world.share('alice', 100);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 50n * COIN);
      await world.share('alice', 100);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 50n * COIN);
      world.pass(60_000);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 100n * COIN);
      await world.find('bob', {
        percent: 100,
        outputs: [{ script: scriptOf('pool'), valueSats: 7n }],
      });
      await cycle.run(active);
      await cycle.run(active);
      assert.equal(await world.balance('miner'), 150n * COIN);
      await cycle.run(active);
      assert.equal(await world.balance('reserve-immature'), 7n);
    });
  });
}
