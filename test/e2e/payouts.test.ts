/**
 * Money through the real program on a real node: three miners with unequal hashrates are paid by the wallet and by the coinbase, while the
 * payer is killed at random moments; then a block under a payout is taken out of the chain. The chain is the judge (`pay-and-kill.ts`).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed } from '../tools/random.ts';
import { findProgram } from '../tools/regtest-node.ts';
import { payAndKill } from './pay-and-kill.ts';

const core = findProgram('BITCOIND', 'bitcoind');
const MISSING = core === null ? ' (bitcoind NOT FOUND, BITCOIND is its path: devnet)' : '';

test(`each due amount is in the chain once, whenever the payer is killed${MISSING}`, async (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  const report = await payAndKill({
    core,
    seed,
    kills: 10,
    blocks: 6,
    say: (text) => t.diagnostic(text),
  });
  assert.deepEqual(report.faults, []);
  assert.ok(report.payments >= 3, 'all three were paid by the wallet');
  assert.ok(Object.values(report.paidSats).every((sats) => BigInt(sats) > 0n));
  assert.ok((report.blocksByPool.direct ?? 0) >= 6);
});
