/** Blocks become money: credited from the chain, mature, orphaned, come back; on a real database, against an oracle. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { setSettings } from '../../../src/store/accounts.ts';
import { recordOutcome } from '../../../src/store/blocks.ts';
import { confirmReversal, listProposedReversals } from '../../../src/store/crediting.ts';
import { readControl, releasePayouts } from '../../../src/store/payouts.ts';
import { readRound } from '../../../src/store/rounds.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import {
  active,
  addressOf,
  COIN,
  type CreditWorld,
  createCreditWorld,
  NETWORK_WORK,
  oracleSplit,
  poolOf,
  scriptOf,
} from './credit-rig.ts';

const HOUR_MS = 3_600_000;

for (const kind of SERVER_KINDS) {
  describe(`crediting on ${kind.name}`, { concurrency: false }, () => {
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

    /** Work of so many parts in 100 of the network's difficulty, as the log keeps it. */
    const work = (percent: number): bigint => (NETWORK_WORK * BigInt(percent)) / 100n;

    test('a block is credited to the satoshi, mature at 101 confirmations, and spendable then', async () => {
      const world = await make();
      const shares: { name: string; work: bigint }[] = [];
      for (const [name, percent] of [
        ['carol', 70],
        ['alice', 50],
        ['bob', 25],
        ['alice', 60],
        ['bob', 31],
        ['carol', 3],
      ] as const) {
        await world.share(name, percent);
        shares.push({ name, work: work(percent) });
      }
      const cycle = world.start();
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      await world.find('bob', { percent: 1, valueSats: 5_000_012_345n });
      shares.push({ name: 'bob', work: work(1) });
      await cycle.run(active);
      const right = oracleSplit({
        shares,
        wanted: 2n * NETWORK_WORK,
        rewardSats: 5_000_012_345n,
        feePpm: () => 10_000,
      });
      const expected = (suffix: string): Record<string, bigint> => ({
        chain: -5_000_012_345n,
        [`miner${suffix} alice`]: right.credits.get('alice')!,
        [`miner${suffix} bob`]: right.credits.get('bob')!,
        [`miner${suffix} carol`]: right.credits.get('carol')!,
        [`operator${suffix}`]: right.operator,
      });
      assert.equal(right.operator, 50_000_123n);
      assert.deepEqual(await world.balances(), expected('-immature'));
      world.mine(99);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), expected('-immature'), '100 confirmations');
      world.mine(1);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), expected(''));
      await cycle.run(active);
      assert.deepEqual(await world.balances(), expected(''));
      await world.audit();
    });

    test('the share at the edge of the window counts in part, an unfilled window whole', async () => {
      const world = await make({ feePpm: 0 });
      await world.share('old', 100);
      await world.share('edge', 100);
      await world.share('new', 125);
      const first = await world.find('new', { percent: 25, valueSats: 200n });
      const cycle = world.start();
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -200n,
        'miner-immature edge': 50n,
        'miner-immature new': 150n,
      });
      const round = await readRound(world.db, first.hash);
      assert.deepEqual(round?.boundary, {
        seq: 2n,
        work: NETWORK_WORK,
        countedWork: NETWORK_WORK / 2n,
      });
      assert.equal(round?.totalWork, 2n * NETWORK_WORK);
    });

    test('a window by days counts what was accepted in them, and its round says from when', async () => {
      const world = await make({ feePpm: 0, window: { kind: 'days', days: 1 } });
      await world.share('old', 100);
      world.pass(86_400_000 - 1_000);
      await world.share('new', 75);
      const { hash } = await world.find('new', { percent: 25, valueSats: 100n });
      const foundAtMs = world.nowMs();
      await world.start().run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature new': 100n });
      const round = await readRound(world.db, hash);
      assert.deepEqual(
        [round?.firstSeq, round?.wantedWork, round?.afterMs, round?.statementVersion],
        [2n, null, foundAtMs - 86_400_000, 2],
      );
    });

    test('of equal parts the first address has the satoshi that is left, whoever came first', async () => {
      const names = ['alice', 'bob', 'carol'];
      for (const order of [names, names.toReversed()]) {
        const world = await make({ feePpm: 0 });
        for (const name of order) await world.share(name, 10);
        await world.find('dave', { percent: 10, valueSats: 41n });
        await world.start().run(active);
        const [lucky] = [...names, 'dave'].sort((a, b) => (addressOf(a) < addressOf(b) ? -1 : 1));
        for (const name of [...names, 'dave'])
          assert.equal(
            await world.balance('miner-immature', { name }),
            name === lucky ? 11n : 10n,
            name,
          );
      }
    });

    test("the window is measured by the block's own difficulty", async () => {
      const world = await make({ feePpm: 0 });
      await world.share('old', 100);
      await world.share('new', 90);
      // Half the difficulty of its neighbours: the window is one unit of theirs.
      await world.find('new', { percent: 10, bits: 0x1d01fffe, valueSats: 100n });
      await world.start().run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature new': 100n });
    });

    test('an orphan is taken back when its competitor is six deep, and credited once more when it returns', async () => {
      const world = await make();
      await world.share('alice', 60);
      await world.share('bob', 40);
      const cycle = world.start();
      const fork = world.node.tip;
      const { block } = await world.find('bob');
      await cycle.run(active);
      const credited = await world.balances();
      assert.equal(Object.keys(credited).length, 4);
      const branch = world.mine(5, fork);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), credited, 'five deep');
      assert.equal(world.node.isActive(block), false);
      branch.push(...world.mine(1, branch.at(-1)!));
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      // The settings of today do not change what was counted then.
      world.mine(7, block);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), credited);
      await world.start().run(active);
      assert.deepEqual(await world.balances(), credited);
      assert.deepEqual(
        (await world.rounds()).map(({ generation, state }) => `${generation} ${state}`),
        ['0 orphaned', '1 immature'],
      );
      world.mine(93);
      await cycle.run(active);
      assert.equal((await world.rounds())[1]!.state, 'mature');
      await world.audit();
    });

    for (const depth of [1, 2, 3]) {
      test(`a reorganisation of depth ${depth} and back credits once`, async () => {
        const world = await make();
        await world.share('alice', 60);
        const cycle = world.start();
        const fork = world.node.tip;
        const { block } = await world.find('alice');
        const ours = [block, ...world.mine(depth - 1)];
        await cycle.run(active);
        const credited = await world.balances();
        const theirs = world.mine(depth + 1, fork);
        await cycle.run(active);
        assert.equal(world.node.isActive(block), false);
        assert.deepEqual(await world.balances(), credited);
        world.mine(theirs.length - ours.length + 1, ours.at(-1)!);
        assert.equal(world.node.isActive(block), true);
        await cycle.run(active);
        assert.deepEqual(await world.balances(), credited);
        assert.equal((await world.rounds()).length, 1);
        const [row] = await world.db.query<{ count: bigint }>(
          'SELECT count(*) FROM ledger_transactions',
        );
        assert.equal(row!.count, 1n);
      });
    }

    test('of two blocks of ours at one height only the one in the chain is credited', async () => {
      const world = await make();
      await world.share('alice', 60);
      const cycle = world.start();
      const fork = world.node.tip;
      const first = await world.find('alice');
      const second = await world.find('bob', { on: fork });
      assert.equal(first.block.height, second.block.height);
      await cycle.run(active);
      assert.equal(await world.balance('chain'), -50n * COIN);
      assert.equal((await readRound(world.db, second.hash)) === null, true);
      // The other one wins after all: for a while both stand, then the loser goes.
      const branch = world.mine(1, second.block);
      await cycle.run(active);
      assert.equal(await world.balance('chain'), -100n * COIN);
      world.mine(5, branch[0]!);
      await cycle.run(active);
      assert.equal(await world.balance('chain'), -50n * COIN);
      assert.equal((await readRound(world.db, first.hash))?.state, 'orphaned');
      assert.equal((await readRound(world.db, second.hash))?.state, 'immature');
      await world.audit();
    });

    test('reorganised 100 deep after maturity: payouts stop, the operator confirms, the pool bears the loss', async () => {
      const world = await make();
      await world.share('alice', 60);
      const cycle = world.start();
      const fork = world.node.tip;
      const { block, hash } = await world.find('alice');
      const tip = world.mine(100).at(-1)!;
      await cycle.run(active);
      await cycle.run(active);
      const mature = await world.balances();
      assert.equal(mature['miner alice'], 4_950_000_000n);
      const order = { hash, actor: 'olivia', reason: 'majority attack', atMs: world.nowMs() };
      assert.deepEqual((await confirmReversal(world.db, order)).ok, false, 'nothing happened yet');
      const branch = world.mine(102, fork);
      assert.equal(world.node.isActive(block), false);
      await cycle.run(active);
      assert.equal((await readControl(world.db)).halted, true);
      assert.match((await readControl(world.db)).haltReason, new RegExp(block.hashDisplay));
      assert.deepEqual(await world.balances(), mature, 'nothing moves without the operator');
      assert.match(cycle.status().alarms.join(), /headframe ledger reverse/);
      const proposed = await listProposedReversals(world.db);
      assert.deepEqual(
        proposed.map(({ hash: of }) => Buffer.from(of).toString('hex')),
        [Buffer.from(hash).toString('hex')],
      );
      const answer = await confirmReversal(world.db, order);
      assert.deepEqual(answer.ok && answer.lossSats, 50n * COIN);
      assert.equal((await confirmReversal(world.db, order)).ok, false, 'twice');
      const after = await world.balances();
      assert.deepEqual(after, {
        'miner alice': 4_950_000_000n,
        operator: 50_000_000n,
        loss: -50n * COIN,
      });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), after);
      assert.deepEqual(await listProposedReversals(world.db), []);
      await world.audit();
      // And should it come back, the loss is taken back, not credited to anybody a second time.
      world.mine(branch.length - 101 + 1, tip);
      assert.equal(world.node.isActive(block), true);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), mature);
      await world.start().run(active);
      assert.deepEqual(await world.balances(), mature);
      assert.equal((await readRound(world.db, hash))?.state, 'mature');
      assert.equal((await readControl(world.db)).halted, true, 'releasing is the operator’s');
      await world.audit();
    });

    test('a chain that is exchanged while it is looked at leaves no belief behind', async () => {
      const world = await make();
      await world.share('alice', 60);
      const cycle = world.start();
      const fork = world.node.tip;
      const first = await world.find('alice');
      await cycle.run(active);
      // The other branch is mined and takes over between the question for the first block and that for the second.
      const branch = world.node.makeBlock({ outputs: [], previous: fork });
      world.mine(2);
      const second = await world.find('bob', { on: branch });
      assert.equal(world.node.isActive(first.block), true);
      let isExchanged = false;
      world.setFate((_door, method, params) => {
        if (method === 'getblockheader' && params[0] === second.block.hashDisplay && !isExchanged) {
          isExchanged = true;
          world.node.submit(branch);
          world.mine(3, second.block);
        }
        return { kind: 'answer' };
      });
      await cycle.run(active);
      assert.equal(isExchanged, true);
      world.setFate(() => ({ kind: 'answer' }));
      assert.equal(world.node.isActive(first.block), false);
      assert.equal(world.node.isActive(second.block), true);
      world.mine(100);
      await cycle.run(active);
      await cycle.run(active);
      assert.equal((await readRound(world.db, first.hash))?.state, 'orphaned');
      assert.equal((await readRound(world.db, second.hash))?.state, 'mature');
    });

    test('a mature block that is away for a moment stops payouts and withdraws its proposal when it returns', async () => {
      const world = await make();
      await world.share('alice', 60);
      const cycle = world.start();
      const fork = world.node.tip;
      const { hash, block } = await world.find('alice');
      const tip = world.mine(100).at(-1)!;
      await cycle.run(active);
      await cycle.run(active);
      const mature = await world.balances();
      world.mine(102, fork);
      await cycle.run(active);
      assert.equal((await listProposedReversals(world.db)).length, 1);
      world.mine(2, tip);
      assert.equal(world.node.isActive(block), true);
      await cycle.run(active);
      assert.equal((await listProposedReversals(world.db)).length, 0);
      assert.deepEqual(cycle.status().alarms, []);
      const order = { hash, actor: 'olivia', reason: 'too late', atMs: world.nowMs() };
      assert.equal((await confirmReversal(world.db, order)).ok, false);
      assert.deepEqual(await world.balances(), mature);
      await releasePayouts(world.db, { actor: 'olivia', reason: 'seen', atMs: world.nowMs() });
      await cycle.run(active);
      assert.equal((await readControl(world.db)).halted, false);
    });

    test('a reward of 0 makes a round and no posting; one satoshi goes to one account', async () => {
      const world = await make();
      await world.share('alice', 60);
      await world.share('bob', 60);
      const cycle = world.start();
      const empty = await world.find('alice', { valueSats: 0n });
      const odd = await world.find('alice', { valueSats: 1n });
      world.mine(100);
      await cycle.run(active);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -1n, 'miner alice': 1n });
      const round = await readRound(world.db, empty.hash);
      assert.equal(round?.state, 'mature');
      assert.equal(round?.rewardSats, 0n);
      assert.equal(round?.creditTx, null);
      assert.equal((await readRound(world.db, odd.hash))?.state, 'mature');
      await world.audit();
    });

    test('fees and donations go to the addresses there are; accounts may have their own', async () => {
      const world = await make({
        feePpm: 20_000,
        feeAddress: addressOf('fees'),
        developerFeePpm: 5_000,
        developerAddress: addressOf('developer'),
      });
      await world.share('alice', 60);
      await world.share('bob', 60);
      await world.share('fees', 30);
      const ids = new Map(
        (
          await world.db.query<{ address: string; account_id: bigint }>('SELECT * FROM accounts')
        ).map((row) => [row.address, row.account_id]),
      );
      await setSettings(world.db, {
        accountId: ids.get(addressOf('bob'))!,
        change: { feePpm: 0, donationPpm: 100_000 },
        actor: 'olivia',
        reason: 'friend',
        atMs: 1,
      });
      await world.find('bob', { percent: 30, valueSats: 1_000_000_007n });
      await world.start().run(active);
      const right = oracleSplit({
        shares: [
          { name: 'alice', work: work(60) },
          { name: 'bob', work: work(90) },
          { name: 'fees', work: work(30) },
        ],
        wanted: 2n * NETWORK_WORK,
        rewardSats: 1_000_000_007n,
        feePpm: (name) => (name === 'bob' ? 0 : 20_000),
        donationPpm: (name) => (name === 'bob' ? 105_000 : 5_000),
      });
      assert.deepEqual(await world.balances(), {
        chain: -1_000_000_007n,
        'miner-immature alice': right.credits.get('alice')!,
        'miner-immature bob': right.credits.get('bob')!,
        'miner-immature developer': right.developer,
        'miner-immature fees': right.credits.get('fees')! + right.operator,
      });
    });

    test('work of a split account is credited to its addresses', async () => {
      const world = await make({ feePpm: 0 });
      const [a, b] = [addressOf('alice'), addressOf('bob')].sort() as [string, string];
      await world.share('alice', 50);
      await world.share('', 100, { address: `${a}*3,${b}*1` });
      await world.find('carol', { percent: 50, valueSats: 400n });
      await world.start().run(active);
      const first = a === addressOf('alice') ? 75n : 25n;
      assert.equal(
        await world.balance('miner-immature', { address: addressOf('alice') }),
        100n + 2n * first,
      );
      assert.equal(
        await world.balance('miner-immature', { address: addressOf('bob') }),
        2n * (100n - first),
      );
      assert.equal(await world.balance('miner-immature', { name: 'carol' }), 100n);
    });

    test('PROP counts from the pool’s block before, as the chain has it', async () => {
      const world = await make({ scheme: 'prop', feePpm: 0 });
      const cycle = world.start();
      await world.share('alice', 300);
      const first = await world.find('bob', { percent: 100, valueSats: 400n });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -400n,
        'miner-immature alice': 300n,
        'miner-immature bob': 100n,
      });
      await world.share('carol', 100);
      // The second block stands beside the first and wins: the shares of the lost round are its own.
      const second = await world.find('carol', {
        percent: 100,
        valueSats: 600n,
        on: first.block.previous!,
      });
      world.mine(1, second.block);
      await cycle.run(active);
      world.mine(5);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -600n,
        'miner-immature alice': 300n,
        'miner-immature bob': 100n,
        'miner-immature carol': 200n,
      });
      await world.share('dave', 100);
      await world.find('dave', { percent: 100, valueSats: 50n });
      await cycle.run(active);
      assert.equal(await world.balance('miner-immature', { name: 'dave' }), 50n);
      await world.audit();
    });

    test('SOLO books what the coinbase paid as paid, and owes nothing', async () => {
      const world = await make({
        scheme: 'solo',
        feePpm: 20_000,
        address: null,
        feeAddress: addressOf('fees'),
      });
      const cycle = world.start();
      await world.share('alice', 300);
      const { hash } = await world.find('bob', {
        outputs: [
          { script: scriptOf('bob'), valueSats: 4_900_000_000n },
          { script: scriptOf('fees'), valueSats: 100_000_000n },
        ],
      });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -50n * COIN,
        'paid bob': 4_900_000_000n,
        'paid fees': 100_000_000n,
      });
      const round = await readRound(world.db, hash);
      assert.equal(round?.rewardSats, 50n * COIN);
      assert.equal(round?.operatorSats, COIN);
      assert.deepEqual(
        round?.credits.map(({ address, creditSats, paidSats }) => [address, creditSats, paidSats]),
        [
          [addressOf('bob'), 4_900_000_000n, 4_900_000_000n],
          [addressOf('fees'), 0n, 100_000_000n],
        ],
      );
      world.mine(100);
      await cycle.run(active);
      assert.equal((await readRound(world.db, hash))?.state, 'mature');
    });

    test('SOLO: the finder is the finder also when his share was not credited', async () => {
      const world = await make({ scheme: 'solo', feePpm: 0, address: null });
      const cycle = world.start();
      await world.share('alice', 300);
      const { hash } = await world.find('bob', {
        isShared: false,
        outputs: [{ script: scriptOf('bob'), valueSats: 50n * COIN }],
      });
      await cycle.run(active);
      assert.equal(await readRound(world.db, hash), null);
      world.pass(HOUR_MS);
      await cycle.run(active);
      const round = await readRound(world.db, hash);
      assert.deepEqual(
        round?.credits.map(({ address, creditSats, paidSats }) => [address, creditSats, paidSats]),
        [[addressOf('bob'), 50n * COIN, 50n * COIN]],
      );
    });

    test('direct carries what the coinbase did not pay as it was earned; carries sum to zero', async () => {
      const world = await make({
        scheme: 'direct',
        feePpm: 10_000,
        address: null,
        feeAddress: addressOf('fees'),
      });
      const cycle = world.start();
      await world.share('alice', 100);
      await world.share('bob', 90);
      // Only alice and a stranger of an older plan were paid; bob did not fit, and the fee was forgotten.
      const fork = world.node.tip;
      const { hash } = await world.find('bob', {
        percent: 10,
        outputs: [
          { script: scriptOf('alice'), valueSats: 1_200n },
          { script: scriptOf('stranger'), valueSats: 800n },
        ],
      });
      await cycle.run(active);
      assert.equal(await world.balance('carry'), 0n);
      const carries = await world.balances();
      assert.deepEqual(
        Object.fromEntries(
          Object.entries(carries).map(([key, sats]) => [
            key.replace(addressOf('stranger'), 'stranger'),
            sats,
          ]),
        ),
        {
          'carry main alice': -210n,
          'carry main bob': 990n,
          'carry main fees': 20n,
          'carry main stranger': -800n,
          chain: -2_000n,
          'paid alice': 1_200n,
          'paid stranger': 800n,
        },
      );
      const round = await readRound(world.db, hash);
      assert.equal(
        round?.credits.reduce((sum, { paidSats }) => sum + (paidSats ?? 0n), 0n),
        2_000n,
      );
      world.mine(6, fork);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      await world.audit();
    });

    test('direct: gone for good after maturity needs nobody, because the pool holds nothing', async () => {
      const world = await make({ scheme: 'direct', feePpm: 0, address: null });
      const cycle = world.start();
      await world.share('alice', 100);
      const fork = world.node.tip;
      const { hash } = await world.find('bob', {
        percent: 100,
        outputs: [{ script: scriptOf('bob'), valueSats: 1_000n }],
      });
      world.mine(100);
      await cycle.run(active);
      await cycle.run(active);
      assert.equal((await readRound(world.db, hash))?.state, 'mature');
      assert.equal(await world.balance('carry', { name: 'alice' }), 500n);
      world.mine(102, fork);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      assert.equal((await readControl(world.db)).halted, false);
      await world.audit();
    });

    test('direct: an output that is nobody’s is an alarm and no credit', async () => {
      const world = await make({ scheme: 'direct', feePpm: 0, address: null });
      const cycle = world.start();
      await world.share('alice', 100);
      await world.find('alice', { outputs: [{ script: Uint8Array.of(0x51), valueSats: 1_000n }] });
      await cycle.run(active);
      assert.equal((await world.rounds()).length, 0);
      assert.match(cycle.status().alarms.join(), /nobody's/);
    });

    test('scheme pool keeps no accounts', async () => {
      const world = await make({ scheme: 'pool' });
      const cycle = world.start();
      await world.share('alice', 100);
      await world.find('alice');
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      assert.deepEqual(await world.rounds(), []);
      assert.deepEqual(cycle.status().alarms, []);
      assert.deepEqual(cycle.status().waitingBlocks, []);
    });

    test('two pools with different schemes keep apart', async () => {
      const world = await make(
        { id: 'main', feePpm: 0 },
        { id: 'other', scheme: 'prop', feePpm: 0, address: addressOf('operator') },
      );
      await world.share('alice', 100);
      await world.share('bob', 100, { pool: 'other' });
      await world.find('alice', { valueSats: 100n });
      await world.find('carol', {
        pool: 'other',
        percent: 100,
        outputs: [{ script: scriptOf('operator'), valueSats: 60n }],
      });
      await world.start().run(active);
      assert.deepEqual(await world.balances(), {
        chain: -160n,
        'miner-immature alice': 100n,
        'miner-immature bob': 30n,
        'miner-immature carol': 30n,
      });
    });

    test('without its finding share a window ends at the newest share before the find, once the log is past it', async () => {
      const world = await make({ feePpm: 0 });
      const cycle = world.start();
      await world.share('alice', 100);
      await world.find('bob', { isShared: false, valueSats: 100n });
      await cycle.run(active);
      assert.equal(cycle.status().waitingBlocks.length, 1);
      world.pass(50_000);
      await world.share('carol', 100);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {}, 'shares may still be on their way');
      world.pass(30_000);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {}, 'the log was moving within the minute');
      await world.share('carol', 100);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature alice': 100n });
    });

    test('a backlog that is being shipped is waited for', async () => {
      const world = await make({ feePpm: 0 });
      const cycle = world.start();
      const find = await world.find('bob', { isShared: false, valueSats: 100n });
      const foundAtMs = world.nowMs();
      world.pass(HOUR_MS);
      await cycle.run(active);
      assert.deepEqual(
        await world.balances(),
        {},
        'this process has not watched the log for a minute',
      );
      world.pass(-HOUR_MS);
      assert.equal(world.nowMs(), foundAtMs);
      await world.share('bob', 100, { hash: find.hash });
      world.pass(HOUR_MS);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature bob': 100n });
    });

    test('no shares at all: the reward is the operator’s', async () => {
      const world = await make();
      const cycle = world.start();
      await world.find('bob', { isShared: false, valueSats: 100n });
      await cycle.run(active);
      world.pass(HOUR_MS);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'operator-immature': 100n });
    });

    test('the outcome may come before the record of the find', async () => {
      const world = await make({ feePpm: 0 });
      const cycle = world.start();
      const found = await world.find('bob', { isRecorded: false, valueSats: 100n });
      await recordOutcome(world.db, {
        headerHash: found.hash,
        height: found.block.height,
        state: 'accepted',
        node: 'n',
        detail: '',
        confirmations: 1,
        atMs: world.nowMs(),
      });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {});
      world.mine(5);
      await cycle.run(active);
      assert.match(cycle.status().alarms.join(), /record of who found it/);
      await world.record(found, 'bob');
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature bob': 100n });
      assert.deepEqual(cycle.status().alarms, []);
    });

    test('a coinbase that pays elsewhere is not credited; a part that does is told', async () => {
      const world = await make({ feePpm: 0 });
      const cycle = world.start();
      const wrong = await world.find('bob', {
        outputs: [{ script: scriptOf('old pool'), valueSats: 9n }],
      });
      await world.find('bob', {
        outputs: [
          { script: scriptOf('pool'), valueSats: 100n },
          { script: scriptOf('alms'), valueSats: 7n },
        ],
      });
      await cycle.run(active);
      assert.deepEqual(await world.balances(), { chain: -100n, 'miner-immature bob': 100n });
      assert.match(cycle.status().alarms.join(), new RegExp(wrong.block.hashDisplay));
    });

    test('a pool that is not configured waits', async () => {
      const world = await make({ feePpm: 0 });
      const cycle = world.start();
      await world.find('bob', {
        pool: 'gone',
        outputs: [{ script: scriptOf('pool'), valueSats: 9n }],
      });
      await cycle.run(active);
      assert.match(cycle.status().alarms.join(), /"gone"/);
      assert.deepEqual(await world.rounds(), []);
    });

    test('blocks found while nobody credited are all credited, however old', async () => {
      const world = await make({ feePpm: 0 });
      await world.find('alice', { valueSats: 1n });
      world.mine(400);
      await world.find('alice', { valueSats: 2n });
      world.mine(150);
      await world.find('alice', { valueSats: 4n });
      const cycle = world.start();
      await cycle.run(active);
      await cycle.run(active);
      assert.deepEqual(await world.balances(), {
        chain: -7n,
        'miner alice': 3n,
        'miner-immature alice': 4n,
      });
      assert.deepEqual(
        (await world.rounds()).map(({ state }) => state),
        ['mature', 'mature', 'immature'],
      );
    });

    test('a ledger that does not add up stops payouts', async () => {
      const world = await make();
      const cycle = world.start();
      await world.find('alice');
      await cycle.run(active);
      assert.equal((await readControl(world.db)).halted, false);
      // Somebody with the rights of the tables' owner.
      world.spoil();
      await world.db.transaction(async (tx) => {
        await tx.query('ALTER TABLE ledger_accounts DISABLE TRIGGER USER');
        await tx.query(`UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'chain'`);
        await tx.query('ALTER TABLE ledger_accounts ENABLE TRIGGER USER');
      });
      const fresh = world.start();
      await fresh.run(active);
      assert.equal((await readControl(world.db)).halted, true);
      assert.match(fresh.status().alarms.join(), /does not add up/);
    });
  });
}
