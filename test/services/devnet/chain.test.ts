/**
 * Choice of the chain and its coins: random trees of blocks in random order against a fresh replay, and the rules that
 * need more than one block (halving, median time, deep reorganisations, headers before data).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type ChainBlock,
  type ChainTx,
  completeTx,
  readBlock,
} from '../../../src/services/devnet/blocks.ts';
import { openMemoryStore } from '../../../src/services/devnet/blockstore.ts';
import { type BlockNode, Chain } from '../../../src/services/devnet/chain.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import {
  earliestTime,
  easiestBits,
  encodeHeight,
  subsidySats,
} from '../../../src/services/devnet/rules.ts';

const start = 1_700_000_000;
const opTrue = Uint8Array.of(0x51);

function newChain(): Chain {
  return new Chain(openMemoryStore({ bits: easiestBits, easyBlocks: 0 }));
}

function mine(
  parent: BlockNode,
  mark: number,
  transactions: ChainTx[] = [],
  timeSeconds = start,
): ChainBlock {
  const block = solveBlock(
    planBlock({
      parent,
      bits: easiestBits,
      transactions,
      feesSats: 0n,
      script: opTrue,
      extra: Uint8Array.of(mark & 0xff, mark >> 8),
      timeSeconds,
    }),
    1_000_000,
  );
  assert.ok(block);
  return block;
}

function nodeOf(chain: Chain, block: ChainBlock): BlockNode {
  return chain.index.get(block.id) ?? assert.fail(`no block ${block.id}`);
}

/** Mines `count` blocks on the tip and returns their coinbases. */
function extend(chain: Chain, count: number): ChainTx[] {
  const coinbases: ChainTx[] = [];
  for (let at = 0; at < count; at += 1) {
    const block = mine(chain.tip, 0xffff - at);
    assert.equal(chain.submit(block, start + 100_000), null);
    coinbases.push(block.transactions[0]);
  }
  return coinbases;
}

function spendOf(from: ChainTx, mark: number): ChainTx {
  return completeTx({
    version: 2,
    inputs: [
      {
        previousTxid: from.txid,
        previousIndex: 0,
        script: new Uint8Array(0),
        sequence: 0xffff_ffff,
        witness: [],
      },
    ],
    outputs: [{ valueSats: from.tx.outputs[0].valueSats - BigInt(mark), script: opTrue }],
    locktime: 0,
  });
}

/** Coins of a chain built again from nothing out of the active blocks. */
function replayed(chain: Chain): Map<string, string> {
  const fresh = newChain();
  for (const node of chain.active.slice(1)) {
    const raw = chain.block(node)?.raw ?? assert.fail();
    assert.equal(fresh.submit(readBlock(raw) ?? assert.fail(), start + 1_000_000), null);
  }
  return coinsOf(fresh);
}

function coinsOf(chain: Chain): Map<string, string> {
  return new Map(
    [...chain.coins()]
      .map(([key, coin]): [string, string] => [
        key,
        `${coin.valueSats} ${coin.height} ${coin.coinbase} ${Buffer.from(coin.script).toString('hex')}`,
      ])
      .sort(([left], [right]) => (left < right ? -1 : 1)),
  );
}

test('random trees with spends and invalid blocks: the best valid chain wins, its coins are exact', () => {
  const steps = fc.array(
    fc.record({
      parent: fc.nat(),
      spends: fc.array(fc.nat(6), { maxLength: 3 }),
      action: fc.constantFrom(
        'block',
        'block',
        'block',
        'block',
        'header',
        'invalidate',
        'reconsider',
        'precious',
      ),
      target: fc.nat(),
    }),
    { minLength: 5, maxLength: 40 },
  );
  fc.assert(
    fc.property(steps, (actions) => {
      const chain = newChain();
      const ripe = extend(chain, 107).slice(0, 7);
      const nodes = [chain.tip];
      const withheld: ChainBlock[] = [];
      for (const [mark, { parent, spends, action, target }] of actions.entries()) {
        const chosen = nodes[target % nodes.length];
        if (action === 'invalidate') chain.invalidate(chosen);
        else if (action === 'reconsider') chain.reconsider(chosen);
        else if (action === 'precious') chain.precious(chosen);
        else {
          // Spends may collide with those of blocks before: such a block is invalid and must change nothing.
          const block = mine(
            nodes[parent % nodes.length],
            mark,
            [...new Set(spends)].map((at) => spendOf(ripe[at], mark)),
          );
          if (action === 'header') {
            if (chain.submitHeader(block.header, start + 100_000) === null) withheld.push(block);
          } else chain.submit(block, start + 100_000);
          const node = chain.index.get(block.id);
          if (node) nodes.push(node);
        }
        if (withheld.length > 0 && target % 3 === 0)
          chain.submit(withheld.splice(target % withheld.length, 1)[0], start + 100_000);
        for (const node of chain.index.values())
          if (node.complete && !node.failed)
            assert.ok(node.chainWork <= chain.tip.chainWork, 'a better chain was not taken');
        assert.ok(!chain.tip.failed && chain.tip.complete);
      }
      assert.deepEqual(coinsOf(chain), replayed(chain));
    }),
    { numRuns: 25 },
  );
});

test('headers first: blocks connect when the missing one arrives, and the first whole branch wins', () => {
  const chain = newChain();
  const first = mine(chain.tip, 1);
  assert.equal(chain.submitHeader(first.header, start), null);
  assert.equal(chain.bestHeader.height, 1);
  assert.equal(chain.tip.height, 0);
  const second = mine(nodeOf(chain, first), 2);
  assert.equal(chain.submit(second, start), 'inconclusive');
  const rival = mine(chain.tip, 3);
  assert.equal(chain.submit(rival, start), null);
  assert.equal(chain.submit(first, start), null);
  assert.equal(chain.tip.id, second.id);
  assert.equal(chain.submit(first, start), 'duplicate');
});

test('a block whose spend fails is remembered, and so is everything built on it', () => {
  const chain = newChain();
  const [ripe] = extend(chain, 101);
  const greedy = completeTx({
    ...spendOf(ripe, 0).tx,
    outputs: [{ valueSats: ripe.tx.outputs[0].valueSats + 1n, script: opTrue }],
  });
  const side = mine(parentOf(chain.tip), 1, [greedy]);
  // Beside the tip its coins are not looked at yet.
  assert.equal(chain.submit(side, start + 10_000), 'inconclusive');
  const child = mine(nodeOf(chain, side), 2);
  const before = chain.tip.id;
  chain.submit(child, start + 10_000);
  assert.equal(chain.tip.id, before);
  assert.equal(chain.submit(side, start + 10_000), 'duplicate-invalid');
  assert.equal(chain.submit(mine(nodeOf(chain, side), 3), start + 10_000), 'bad-prevblk');
});

function parentOf(node: BlockNode): BlockNode {
  return node.previous ?? assert.fail();
}

test('a reorganisation of 100 blocks gives every coin back', () => {
  const chain = newChain();
  const ripe = extend(chain, 101);
  const fork = chain.tip;
  const before = coinsOf(chain);
  const spends = ripe.slice(0, 1).map((coinbase) => spendOf(coinbase, 5));
  assert.equal(chain.submit(mine(chain.tip, 1, spends), start + 10_000), null);
  extend(chain, 99);
  assert.equal(chain.invalidate(nodeOf(chain, { id: chain.active[102].id } as ChainBlock)), true);
  assert.equal(chain.tip, fork);
  assert.deepEqual(coinsOf(chain), before);
  chain.reconsider(chain.index.get([...chain.index.keys()].at(-1) ?? '') ?? assert.fail());
  assert.equal(chain.tip.height, 201);
  assert.equal(chain.invalidate(chain.active[0]), false, 'the genesis block stays');
});

test('subsidy halves every 150 blocks and ends', () => {
  assert.equal(subsidySats(0), 5_000_000_000n);
  assert.equal(subsidySats(149), 5_000_000_000n);
  assert.equal(subsidySats(150), 2_500_000_000n);
  assert.equal(subsidySats(150 * 32), 1n);
  assert.equal(subsidySats(150 * 33), 0n);
  assert.equal(subsidySats(150 * 64), 0n);
});

test('heights are pushed as Core pushes them', () => {
  const cases: [number, string][] = [
    [0, '00'],
    [1, '51'],
    [16, '60'],
    [17, '0111'],
    [127, '017f'],
    [128, '028000'],
    [32_767, '02ff7f'],
    [32_768, '03008000'],
    [8_388_608, '0400008000'],
  ];
  for (const [height, hex] of cases)
    assert.equal(Buffer.from(encodeHeight(height)).toString('hex'), hex);
});

test('the first block of a period may not go back more than ten minutes (BIP94)', () => {
  const chain = newChain();
  for (let height = 1; height < 144; height += 1) {
    // The last block of the period runs an hour ahead of the median.
    const block = mine(chain.tip, height, [], height === 143 ? start + 3600 : start + height);
    assert.equal(chain.submit(block, start + 3600), null);
  }
  const parent = chain.tip;
  assert.equal(
    earliestTime({ height: 143, time: parent.header.time, medianTimePast: parent.medianTimePast }),
    start + 3000,
  );
  const plan = (time: number): ChainBlock => {
    const honest = planBlock({
      parent,
      bits: easiestBits,
      transactions: [],
      feesSats: 0n,
      script: opTrue,
      extra: Uint8Array.of(1, 2),
      timeSeconds: start + 3600,
    });
    return (
      solveBlock({ ...honest, header: { ...honest.header, time } }, 1_000_000) ?? assert.fail()
    );
  };
  assert.equal(chain.submit(plan(start + 2999), start + 3600), 'time-timewarp-attack');
  assert.equal(chain.submit(plan(start + 3000), start + 3600), null);
});
