import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { assembleBlock, decodeBlock, encodeBlock } from '../../../src/core/bitcoin/block.ts';
import {
  decodeHex,
  encodeHex,
  encodeHexReversed,
  equalBytes,
} from '../../../src/core/bitcoin/bytes.ts';
import { addCoinbaseWitness, assembleCoinbase } from '../../../src/core/bitcoin/coinbase.ts';
import { sha256dPair } from '../../../src/core/bitcoin/hash.ts';
import { decodeHeader, encodeHeader, hashHeader } from '../../../src/core/bitcoin/header.ts';
import { foldBranch, merkleBranch, merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import { NETWORKS, type Network } from '../../../src/core/bitcoin/network.ts';
import { decodeBits, hashToInteger } from '../../../src/core/bitcoin/target.ts';
import { encodeTx, hasWitness, txid, wtxid } from '../../../src/core/bitcoin/tx.ts';

type Row = { network: Network; height: number; hashDisplay: string };
const vectors: { blocks: (Row & { block: string })[]; headers: (Row & { header: string })[] } =
  JSON.parse(readFileSync(new URL('../../vectors/blocks.json', import.meta.url), 'utf8'));

for (const row of vectors.headers) {
  test(`header of ${row.network} ${row.height} hashes to its block hash and meets its target`, () => {
    const bytes = decodeHex(row.header)!;
    const header = decodeHeader(bytes)!;
    assert.equal(encodeHexReversed(hashHeader(bytes)), row.hashDisplay);
    assert.equal(encodeHexReversed(hashHeader(header)), row.hashDisplay);
    assert.deepEqual(encodeHeader(header), bytes);
    assert.ok(hashToInteger(hashHeader(header)) <= decodeBits(header.bits)!);
    if (row.height === 0) {
      assert.equal(NETWORKS[row.network].genesisHashDisplay, row.hashDisplay);
      assert.equal(NETWORKS[row.network].powLimitBits, header.bits);
    }
  });
}

for (const row of vectors.blocks) {
  test(`block ${row.network} ${row.height}: decodes, encodes, merkle root, branch, commitment`, () => {
    const bytes = decodeHex(row.block)!;
    const decoded = decodeBlock(bytes);
    assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
    const { header, transactions } = decoded.block;
    assert.equal(encodeHexReversed(hashHeader(header)), row.hashDisplay);
    assert.ok(hashToInteger(hashHeader(header)) <= decodeBits(header.bits)!);
    assert.deepEqual(encodeBlock(decoded.block), bytes);

    const txids = transactions.map(txid);
    assert.deepEqual(merkleRoot(txids), header.merkleRoot);
    assert.deepEqual(foldBranch(txids[0]!, merkleBranch(txids.slice(1))), header.merkleRoot);

    const coinbase = transactions[0]!;
    const commitments = coinbase.outputs.filter((output) =>
      encodeHex(output.script).startsWith('6a24aa21a9ed'),
    );
    if (commitments.length === 0) {
      assert.ok(!transactions.some(hasWitness));
      return;
    }
    const root = merkleRoot([new Uint8Array(32), ...transactions.slice(1).map(wtxid)]);
    const reserved = coinbase.inputs[0]!.witness[0]!;
    assert.deepEqual(sha256dPair(root, reserved), commitments.at(-1)!.script.slice(6, 38));
    // The witness we add to a coinbase is the one this real coinbase has.
    const stripped = encodeTx(coinbase, { witness: false });
    assert.ok(equalBytes(reserved, new Uint8Array(32)));
    assert.deepEqual(addCoinbaseWitness(stripped), encodeTx(coinbase, { witness: true }));
  });
}

test('the vectors hold blocks with and without witness commitment', () => {
  const withWitness = vectors.blocks.filter((row) => row.block.includes('6a24aa21a9ed'));
  assert.ok(withWitness.length >= 1 && withWitness.length < vectors.blocks.length);
});

test('a block assembled from encoded parts is the block', () => {
  const bytes = decodeHex(vectors.blocks.find((row) => row.height === 170)!.block)!;
  const decoded = decodeBlock(bytes);
  assert.ok(decoded.ok);
  const [coinbase, payment] = decoded.block.transactions;
  const assembled = assembleBlock({
    header: bytes.slice(0, 80),
    coinbase: encodeTx(coinbase!, { witness: true }),
    transactionCount: 1,
    body: encodeTx(payment!, { witness: true }),
  });
  assert.deepEqual(assembled, bytes);
  const script = coinbase!.inputs[0]!.script;
  const plain = encodeTx(coinbase!, { witness: false });
  const start = 4 + 1 + 36 + 1;
  assert.deepEqual(
    assembleCoinbase(plain.slice(0, start), script, plain.slice(start + script.length), false),
    plain,
  );
});

test('no cut and no single damage of a block is taken for whole', () => {
  const bytes = decodeHex(vectors.blocks.find((row) => row.height === 1263442)!.block)!;
  for (let length = 0; length < bytes.length; length++) {
    assert.equal(decodeBlock(bytes.subarray(0, length)).ok, false, `${length} bytes`);
  }
  assert.equal(decodeBlock(Uint8Array.of(...bytes, 0)).ok, false);
  assert.equal(decodeBlock(new Uint8Array(4_000_001)).ok, false);
  assert.deepEqual(decodeBlock(Uint8Array.of(...bytes.slice(0, 80), 0)), {
    ok: false,
    reason: 'block has no transactions',
  });
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const damaged = bytes.slice();
      damaged[at]! ^= flip;
      const decoded = decodeBlock(damaged);
      if (decoded.ok) assert.deepEqual(encodeBlock(decoded.block), damaged);
    }),
  );
});

test('any 80 bytes are a header, nothing else is', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 80, maxLength: 80 }), (bytes) => {
      assert.deepEqual(encodeHeader(decodeHeader(bytes)!), bytes);
    }),
  );
  assert.equal(decodeHeader(new Uint8Array(79)), null);
  assert.equal(decodeHeader(new Uint8Array(81)), null);
});
