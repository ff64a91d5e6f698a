/** Decoders of wallet answers are total, and amounts are exact for every number of satoshi there can be. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as wallet from '../../../src/core/node/wallet.ts';

const MOST = 2_100_000_000_000_000n;
const text = (sats: bigint): string => wallet.encodeAmount(sats);

test('every amount of money survives the way through a JSON number', () => {
  const anySats = fc.oneof(
    fc.bigInt({ min: 0n, max: MOST }),
    fc.bigInt({ min: MOST - 1_000n, max: MOST }),
    fc.bigInt({ min: 0n, max: 1_000n }),
  );
  fc.assert(
    fc.property(anySats, (sats) => {
      assert.equal(wallet.decodeAmount(JSON.parse(text(sats))), sats);
      assert.equal(wallet.decodeAmount(text(sats)), sats);
      if (sats > 0n) assert.equal(wallet.decodeAmount(JSON.parse(`-${text(sats)}`)), -sats);
    }),
    { numRuns: 5_000 },
  );
});

test('what is no amount of money is none', () => {
  for (const value of [
    NaN,
    Infinity,
    21_000_001,
    1e300,
    '',
    '1.',
    '1e3',
    '1,5',
    '0x1',
    '+1',
    ' 1',
    null,
    {},
    '21000001',
  ])
    assert.equal(wallet.decodeAmount(value), null, String(value));
});

test('answers of any shape never throw', () => {
  const decoders = Object.entries(wallet).filter(([name]) => name.startsWith('decode'));
  assert.ok(decoders.length >= 12);
  fc.assert(
    fc.property(
      fc.oneof(
        fc.jsonValue(),
        fc.record({
          transactions: fc.array(fc.jsonValue()),
          lastblock: fc.constant('0'.repeat(64)),
        }),
        fc.record({ mine: fc.jsonValue(), complete: fc.boolean(), hex: fc.jsonValue() }),
      ),
      (value) => {
        for (const [, decode] of decoders) (decode as (result: unknown) => unknown)(value);
      },
    ),
    { numRuns: 2_000 },
  );
});

test('answers as Bitcoin Core 28.1 gives them', () => {
  const hash = 'ab'.repeat(32);
  assert.deepEqual(
    wallet.decodeWalletInfo({
      walletname: '',
      private_keys_enabled: true,
      scanning: false,
      unlocked_until: 0,
    }),
    { hasKeys: true, locked: true, scanning: false },
  );
  assert.deepEqual(
    wallet.decodeBalances({ mine: { trusted: 0.1, untrusted_pending: 0, immature: 50 } }),
    { trustedSats: 10_000_000n, pendingSats: 0n, immatureSats: 5_000_000_000n },
  );
  assert.equal(wallet.decodeBalances({ mine: { trusted: 0.1 } }), null);
  assert.deepEqual(
    wallet.decodeWalletTransaction({ confirmations: -3, lastprocessedblock: { hash } }),
    { confirmations: -3, blockHash: null, asOf: hash },
  );
  assert.equal(wallet.decodeWalletTransaction({ confirmations: 2 }), null, 'a block must be named');
  const entry = { category: 'send', txid: hash, confirmations: 0, abandoned: false };
  const since = (...transactions: unknown[]) =>
    wallet.decodeSpendsSince({ transactions, lastblock: hash })?.spends.length;
  assert.equal(since(entry, entry), 1, 'one spend with two outputs');
  assert.equal(since({ ...entry, confirmations: -1 }), 0);
  assert.equal(since({ ...entry, abandoned: true }), 0);
  assert.equal(since({ ...entry, category: 'receive' }), 0);
  assert.equal(since({ ...entry, txid: 'no' }), undefined, 'half an answer is none');
  assert.equal(wallet.decodeFeeEstimate({ errors: ['Insufficient data'], blocks: 0 }), null);
  assert.equal(wallet.decodeFeeEstimate({ feerate: 0.00012345 }), 12_345n);
  assert.equal(wallet.encodeFeeRate(12_345n), '12.345');
  assert.deepEqual(wallet.decodeMempoolVerdict([{ allowed: false, 'reject-reason': 'x' }]), {
    reason: 'x',
  });
  assert.deepEqual(wallet.decodeProcessed({ complete: false, psbt: '' }), { hex: null });
});

test('what the errors of sendrawtransaction mean', () => {
  const kind = (code: number, message: string) => wallet.readSendError(code, message).kind;
  assert.equal(kind(-27, 'Transaction outputs already in utxo set'), 'taken');
  assert.equal(kind(-26, 'txn-already-in-mempool'), 'taken');
  assert.equal(kind(-25, 'bad-txns-inputs-missingorspent'), 'conflict');
  assert.equal(kind(-26, 'insufficient fee, rejecting replacement'), 'conflict');
  assert.equal(kind(-26, 'txn-mempool-conflict'), 'conflict');
  assert.equal(kind(-26, 'min relay fee not met, 1 < 2'), 'refused');
  assert.equal(kind(-26, 'mempool min fee not met'), 'refused');
  assert.equal(kind(-32603, 'internal'), 'unknown');
});
