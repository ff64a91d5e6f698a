/** The mempool: what blocks and reorganisations do to it, chains, replacement, and the reasons it refuses with. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { type ChainTx, completeTx } from '../../../src/services/devnet/blocks.ts';
import { openMemoryStore } from '../../../src/services/devnet/blockstore.ts';
import { type BlockNode, Chain } from '../../../src/services/devnet/chain.ts';
import { Faucet } from '../../../src/services/devnet/faucet.ts';
import { deriveKey, signInput, type WalletKey } from '../../../src/services/devnet/keys.ts';
import { Mempool, type MempoolEvent } from '../../../src/services/devnet/mempool.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import { easiestBits } from '../../../src/services/devnet/rules.ts';
import { TemplateMaker } from '../../../src/services/devnet/template.ts';

const start = 1_700_000_000;
const seed = new Uint8Array(32).fill(3);
const key: WalletKey = deriveKey(seed, { type: 'bech32', change: false, index: 0 });
let chain: Chain;
let mempool: Mempool;
let ripe: ChainTx;
let events: MempoolEvent[];
let marks = 0;

function mine(transactions: ChainTx[] = [], parent: BlockNode = chain.tip): BlockNode {
  marks += 1;
  const block = solveBlock(
    planBlock({
      parent,
      bits: easiestBits,
      transactions,
      feesSats: 0n,
      script: key.script,
      extra: Uint8Array.of(marks & 0xff, marks >> 8, 0),
      timeSeconds: start,
    }),
    1_000_000,
  );
  assert.ok(block);
  chain.submit(block, start + 100_000);
  return chain.index.get(block.id) ?? assert.fail();
}

beforeEach(() => {
  chain = new Chain(openMemoryStore({ bits: easiestBits, easyBlocks: 0 }));
  mempool = new Mempool(chain, () => start);
  ripe = chain.block(mine())?.transactions[0] ?? assert.fail();
  for (let at = 0; at < 101; at += 1) mine();
  events = [];
  mempool.onEvent((event) => events.push(event));
});

/** Spends output 0 of `from`, paying `feeSats`, to one or more outputs of the same key. */
function spend(
  from: ChainTx,
  feeSats: bigint,
  options: { outputs?: number; locktime?: number; sequence?: number; version?: number } = {},
): ChainTx {
  const count = BigInt(options.outputs ?? 1);
  const valueSats = (from.tx.outputs[0].valueSats - feeSats) / count;
  const unsigned = {
    version: options.version ?? 2,
    inputs: [
      {
        previousTxid: from.txid,
        previousIndex: 0,
        script: new Uint8Array(0),
        sequence: options.sequence ?? 0xffff_fffd,
        witness: [],
      },
    ],
    outputs: Array.from({ length: Number(count) }, () => ({ valueSats, script: key.script })),
    locktime: options.locktime ?? 0,
  };
  const signed = signInput(unsigned, 0, [from.tx.outputs[0]], key);
  return completeTx({ ...unsigned, inputs: [{ ...unsigned.inputs[0], ...signed }] });
}

function refusal(entry: ChainTx): string {
  const verdict = mempool.accept(entry);
  return verdict.ok ? 'accepted' : verdict.reason;
}

test('reasons', () => {
  const paid = spend(ripe, 1000n);
  assert.equal(mempool.accept(paid, { test: true }).ok, true);
  assert.equal(mempool.entries.size, 0, 'a test keeps nothing');
  assert.equal(refusal(paid), 'accepted');
  assert.equal(refusal(paid), 'txn-already-in-mempool');
  const other = completeTx({
    ...paid.tx,
    inputs: [{ ...paid.tx.inputs[0], witness: [...paid.tx.inputs[0].witness, Uint8Array.of(1)] }],
  });
  assert.equal(refusal(other), 'txn-same-nonwitness-data-in-mempool');
  assert.equal(refusal(spend(paid, 100n)), 'min relay fee not met');
  assert.equal(refusal(spend(paid, 1000n, { locktime: chain.tip.height + 5 })), 'non-final');
  assert.equal(refusal(spend(paid, 1000n, { sequence: 5 })), 'non-BIP68-final');
  assert.equal(refusal(spend(paid, 1000n, { version: 4 })), 'version');
  const dusty = completeTx({ ...paid.tx, outputs: [{ valueSats: 293n, script: key.script }] });
  assert.equal(refusal(dusty), 'dust');
  const coinbase = chain.block(chain.tip)?.transactions[0] ?? assert.fail();
  assert.equal(refusal(coinbase), 'coinbase');
  assert.equal(refusal(spend(coinbase, 1000n)), 'bad-txns-premature-spend-of-coinbase');
  const forged = completeTx({
    ...spend(paid, 1000n).tx,
    outputs: [{ valueSats: 1000n, script: key.script }],
  });
  assert.match(refusal(forged), /^mandatory-script-verify-flag-failed/);
});

test('chains end at 25, and a template takes parents before children', () => {
  let last = ripe;
  for (let at = 0; at < 25; at += 1) {
    last = spend(last, at === 24 ? 500_000n : 200n);
    assert.equal(refusal(last), 'accepted', `${at}`);
  }
  assert.equal(refusal(spend(last, 1000n)), 'too-long-mempool-chain');
  const templates = new TemplateMaker(
    { chain, mempool, nowSeconds: () => start },
    { firstMs: 1, laterMs: 1 },
  );
  const template = templates.make();
  assert.equal(template.entries.length, 25, 'the last child pays for all its ancestors');
  const node = mine(template.entries.map((one) => one.entry));
  assert.ok(chain.inActive(node));
  assert.equal(mempool.entries.size, 0);
  assert.equal(mempool.vbytes, 0);
});

test('a replacement evicts what it conflicts with and all that builds on it', () => {
  const parent = spend(ripe, 1000n);
  const child = spend(parent, 1000n);
  assert.equal(refusal(parent), 'accepted');
  assert.equal(refusal(child), 'accepted');
  assert.equal(refusal(spend(ripe, 1900n)), 'insufficient fee', 'less than both together');
  assert.equal(refusal(spend(ripe, 2050n)), 'insufficient fee', 'not enough more to relay');
  const winner = spend(ripe, 3000n);
  assert.equal(refusal(winner), 'accepted');
  assert.deepEqual([...mempool.entries.keys()], [winner.id]);
  assert.deepEqual(
    events.filter((event) => event.kind === 'removed').map((event) => event.entry.id),
    [parent.id, child.id],
  );
});

test('a block that spends the same coin evicts, a reorganisation brings back', () => {
  const loser = spend(ripe, 1000n);
  assert.equal(refusal(loser), 'accepted');
  const winner = spend(ripe, 0n);
  const block = mine([winner]);
  assert.equal(mempool.entries.size, 0);
  chain.invalidate(block);
  assert.deepEqual(
    [...mempool.entries.keys()],
    [winner.id],
    'a fee of nothing is no reason to lose it',
  );
  const confirmed = mine([winner]);
  assert.equal(mempool.entries.size, 0);
  const side = mine([], confirmed.previous ?? assert.fail());
  mine([], side);
  assert.deepEqual([...mempool.entries.keys()], [winner.id]);
});

test('what a shorter chain no longer allows leaves the mempool', () => {
  const early = spend(ripe, 1000n, { locktime: chain.tip.height });
  const young = chain.block(chain.active[3])?.transactions[0] ?? assert.fail();
  assert.equal(refusal(early), 'accepted');
  assert.equal(refusal(spend(young, 1000n)), 'accepted');
  assert.equal(refusal(spend(spend(young, 1000n), 1000n)), 'accepted');
  const filler = chain.tip;
  mine([spend(chain.block(chain.active[2])?.transactions[0] ?? assert.fail(), 0n)]);
  chain.invalidate(filler);
  assert.ok(!mempool.entries.has(early.id), 'its lock time is ahead again');
  assert.equal(mempool.entries.size, 1, 'only the spend of the oldest coinbase is left');
});

test('the faucet spends only what is ripe, and fills to the weight it is told', () => {
  const own = new Chain(openMemoryStore({ bits: easiestBits, easyBlocks: 0 }));
  const pool = new Mempool(own, () => start);
  const faucet = new Faucet({ chain: own, mempool: pool }, seed);
  assert.equal(faucet.addTransactions(3), 0);
  assert.deepEqual(faucet.fillMempool(1_000_000), { weight: 0, transactions: 0 });
  for (let at = 0; at < 102; at += 1) {
    const block = solveBlock(
      planBlock({
        parent: own.tip,
        bits: easiestBits,
        transactions: [],
        feesSats: 0n,
        script: faucet.script,
        extra: Uint8Array.of(1, 1),
        timeSeconds: start,
      }),
      1_000_000,
    );
    assert.equal(own.submit(block ?? assert.fail(), start + 10_000), null);
  }
  assert.equal(faucet.addTransactions(1), 1);
  const small = faucet.fillMempool(300_000, 50);
  assert.ok(small.weight <= 300_000 && small.weight > 295_000, `${small.weight}`);
  let total = 0;
  for (const one of pool.entries.values()) total += one.entry.weight;
  assert.ok(total >= small.weight);
});
