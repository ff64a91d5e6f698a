/** Faults on command, each over a real connection, and that lifting them brings the node back. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { decodeFault, Faults } from '../../../src/services/devnet/faults.ts';
import { planBlock, solveBlock } from '../../../src/services/devnet/mining.ts';
import { type Caller, callerOf, startQuietDevnet } from './nodes.ts';

let devnet: Devnet;
let call: Caller;

before(async () => {
  devnet = await startQuietDevnet({ initialBlocks: 5 });
  call = callerOf(devnet.rpcUrl);
});

beforeEach(() => devnet.clearFaults());

after(() => devnet.stop());

const nextBlock = (): { id: string; hex: string } => {
  const solved = solveBlock(
    planBlock({
      parent: devnet.chain.tip,
      bits: 0x207fffff,
      transactions: [],
      feesSats: 0n,
      script: Uint8Array.of(0x51),
      extra: Uint8Array.of(1, devnet.chain.tip.height),
      timeSeconds: Math.floor(Date.now() / 1000),
    }),
    1_000_000,
  );
  assert.ok(solved);
  return { id: solved.id, hex: encodeHex(solved.raw) };
};

test('answers that are errors: 503, 401, warming up, any code', async () => {
  devnet.fault({ kind: 'work-queue', method: 'getblockcount', times: 1 });
  assert.equal((await call('uptime')).status, 200);
  assert.equal((await call('getblockcount')).status, 503);
  assert.equal((await call('getblockcount')).status, 200);
  const lift = devnet.fault({ kind: 'unauthorized' });
  assert.equal((await call('getblockcount')).status, 401);
  lift();
  devnet.fault({ kind: 'warming-up', times: 1 });
  assert.equal((await call('getblockcount')).error?.code, -28);
  devnet.fault({ kind: 'rpc-error', code: -7, message: 'Out of memory', times: 1 });
  assert.deepEqual((await call('getblockcount')).error, { code: -7, message: 'Out of memory' });
  assert.equal((await call('getblockcount')).result, 5);
});

test('answers that are no answers: HTML, half a body, a huge body, another id, none, a reset', async () => {
  devnet.fault({ kind: 'html', times: 1 });
  assert.match((await call('getblockcount')).text, /^<html>/);
  devnet.fault({ kind: 'truncated', times: 1 });
  await assert.rejects(call('getblockcount'));
  devnet.fault({ kind: 'oversized', times: 1, bodyBytes: 3_000_000 });
  assert.ok((await call('getblockcount')).text.length > 3_000_000);
  devnet.fault({ kind: 'wrong-id', times: 1 });
  assert.equal(JSON.parse((await call('getblockcount')).text).id, 'not yours');
  devnet.fault({ kind: 'drop', times: 1 });
  await assert.rejects(call('getblockcount'));
  devnet.fault({ kind: 'hang', times: 1 });
  const hung = call('getblockcount').then(
    () => 'answered',
    () => 'cut',
  );
  const first = await Promise.race([
    hung,
    new Promise((resolve) => setTimeout(() => resolve('silent'), 30)),
  ]);
  assert.equal(first, 'silent');
  devnet.fault({ kind: 'delay', delayMs: 5, times: 1 });
  assert.equal((await call('getblockcount')).result, 5);
});

test('the block is in although the answer says otherwise', async () => {
  for (const kind of ['drop', 'rpc-error', 'truncated', 'work-queue'] as const) {
    const block = nextBlock();
    devnet.fault({ kind, method: 'submitblock', after: true, times: 1 });
    const answer = await call('submitblock', [block.hex]).catch(() => null);
    assert.ok(answer === null || answer.status !== 200 || answer.error !== null, kind);
    assert.equal((await call('getblockheader', [block.id])).result.confirmations, 1, kind);
    assert.equal((await call('submitblock', [block.hex])).result, 'duplicate');
  }
});

test('node faults: initial download, another genesis, a tip that stands still', async () => {
  devnet.fault({ kind: 'initial-download' });
  assert.equal((await call('getblockchaininfo')).result.initialblockdownload, true);
  // On regtest Core gives templates all the same; a refusal (-10) is the fault `rpc-error`.
  assert.equal((await call('getblocktemplate', [{ rules: ['segwit'] }])).error, null);
  devnet.fault({ kind: 'other-genesis' });
  assert.match((await call('getblockhash', [0])).result, /^000000000019d668/);
  devnet.clearFaults();
  assert.match((await call('getblockhash', [0])).result, /^0f9188f1/);

  const before = devnet.chain.tip.id;
  const block = nextBlock();
  devnet.fault({ kind: 'freeze-tip' });
  assert.equal((await call('submitblock', [block.hex])).result, 'inconclusive');
  assert.equal((await call('getbestblockhash')).result, before);
  assert.equal((await call('getblockheader', [block.id])).result.confirmations, -1);
  devnet.clearFaults();
  assert.equal((await call('getbestblockhash')).result, block.id);
});

test('the hidden RPC sets, lists and lifts faults, and no fault stops it', async () => {
  assert.equal((await call('devnet.fault', [{ kind: 'drop' }])).result.length, 1);
  await assert.rejects(call('getblockcount'));
  assert.equal((await call('devnet.fault')).result[0].kind, 'drop');
  assert.equal((await call('devnet.clearfaults')).result, null);
  assert.equal((await call('getblockcount')).error, null);
  assert.equal((await call('devnet.fault', [{ kind: 'dorp' }])).error?.code, -8);
  assert.equal((await call('devnet.fault', [{ kind: 'drop', times: -1 }])).error?.code, -8);
  assert.doesNotMatch((await call('help')).result, /devnet/);
});

test('a fault is decoded whole or refused, and their number is limited', () => {
  for (const bad of [
    null,
    3,
    [],
    {},
    { kind: 7 },
    { kind: 'delay', delayMs: 'x' },
    { kind: 'rpc-error', code: 1.5 },
  ])
    assert.equal(decodeFault(bad).ok, false, JSON.stringify(bad));
  const faults = new Faults();
  const decoded = decodeFault({ kind: 'drop' });
  assert.ok(decoded.ok);
  for (let at = 0; at < 100; at += 1) faults.add(decoded.fault);
  assert.throws(() => faults.add(decoded.fault), RangeError);
});
