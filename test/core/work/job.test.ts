import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import { assembleCoinbase } from '../../../src/core/bitcoin/coinbase.ts';
import { sha256d } from '../../../src/core/bitcoin/hash.ts';
import { hashHeader } from '../../../src/core/bitcoin/header.ts';
import { foldBranch, merkleRoot } from '../../../src/core/bitcoin/merkle.ts';
import { DIFFICULTY_1_TARGET } from '../../../src/core/bitcoin/target.ts';
import {
  assembleBlockHeader,
  buildJob,
  buildJobCoinbase,
  encodeNotify,
  encodeSwappedWords,
} from '../../../src/core/work/job.ts';
import type { Template } from '../../../src/core/work/template.ts';

const numbered = (value: number): Uint8Array => new Uint8Array(32).fill(value);

const template: Template = {
  height: 840_000,
  version: 0x20000000,
  previousHash: Uint8Array.from({ length: 32 }, (_, i) => i),
  bits: 0x1d00ffff,
  networkTarget: DIFFICULTY_1_TARGET,
  curtime: 1_713_571_767,
  mintime: 1_713_570_000,
  coinbaseValueSats: 312_500_300n,
  coinbaseAux: new Uint8Array(0),
  witnessCommitment: null,
  transactions: [1, 2, 3, 4].map((value) => ({
    txid: numbered(value),
    data: '00',
    weight: 400,
    feeSats: 75n,
  })),
  weightLimit: 4_000_000,
  transactionsWeight: 1600,
  longPollId: '',
  rules: [],
};
const script = Uint8Array.of(0x51);
const outputs = [{ script, valueSats: 312_500_300n }];
const options = { tag: '/t/', extranonceBytes: 12, outputs };

test('a job is the template without its transactions', () => {
  const job = buildJob(template, { jobId: '0a', clean: true, createdAtMs: 5 });
  assert.equal(job.feesSats, 300n);
  assert.equal(job.transactionCount, 4);
  assert.equal(job.branch.length, 3);
  const leaf = numbered(9);
  assert.deepEqual(
    foldBranch(leaf, job.branch),
    merkleRoot([leaf, ...template.transactions.map((transaction) => transaction.txid)]),
  );
  assert.equal(job.coinbaseWeightMax, 4_000_000 - 1600 - 4 * 83);
});

test('the notify line, byte for byte', () => {
  const job = buildJob(template, { jobId: '0a', clean: true, createdAtMs: 5 });
  const line = encodeNotify(job, { prefix: Uint8Array.of(1, 2), suffix: Uint8Array.of(3) }, true);
  const branch = job.branch.map((hash) => `"${encodeHex(hash)}"`).join(',');
  assert.equal(
    line,
    '{"id":null,"method":"mining.notify","params":["0a",' +
      '"03020100070605040b0a09080f0e0d0c13121110171615141b1a19181f1e1d1c",' +
      `"0102","03",[${branch}],"20000000","1d00ffff","6622fff7",true]}\n`.replace(
        '6622fff7',
        (1_713_571_767).toString(16),
      ),
  );
  assert.ok(encodeNotify(job, { prefix: script, suffix: script }, false).endsWith(',false]}\n'));
  assert.deepEqual(JSON.parse(line).params[4], job.branch.map(encodeHex));
});

test('the previous hash of a known block as pools send it', () => {
  // Block 125552 builds on …8a3; the words are those of the display form in reverse order.
  const wire = Uint8Array.from(
    Buffer.from('00000000000008a3a41b85b8b29ad444def299fee21793cd8b9e567eab02cd81', 'hex'),
  ).reverse();
  assert.equal(
    encodeSwappedWords(wire),
    'ab02cd818b9e567ee21793cddef299feb29ad444a41b85b8000008a300000000',
  );
});

test('two jobs that differ in nothing but their id have no header in common', () => {
  const parts = ['0a', '0b'].map((jobId) => {
    const built = buildJobCoinbase(
      buildJob(template, { jobId, clean: true, createdAtMs: 5 }),
      options,
    );
    assert.ok(built.ok);
    return built.parts;
  });
  const extranonce = new Uint8Array(12);
  const [a, b] = parts.map(({ prefix, suffix }) =>
    encodeHex(sha256d(assembleCoinbase(prefix, extranonce, suffix, false))),
  );
  assert.notEqual(a, b);
  assert.ok(
    encodeHex(parts[0]!.prefix).endsWith('0d0a'),
    'a push of 13 bytes that begins with the id',
  );
});

test('coinbase refused: wrong sum, bad id, too heavy', () => {
  const job = buildJob(template, { jobId: '0a', clean: true, createdAtMs: 5 });
  const cases: [ReturnType<typeof buildJobCoinbase>, RegExp][] = [
    [
      buildJobCoinbase(job, { ...options, outputs: [{ script, valueSats: 312_500_299n }] }),
      /worth 312500300/,
    ],
    [
      buildJobCoinbase(job, { ...options, outputs: [{ script, valueSats: 312_500_301n }] }),
      /worth/,
    ],
    [buildJobCoinbase({ ...job, jobId: '' }, options), /job id/],
    [buildJobCoinbase({ ...job, jobId: 'xyz' }, options), /job id/],
    [buildJobCoinbase({ ...job, jobId: '0'.repeat(17) }, options), /job id/],
    [buildJobCoinbase({ ...job, coinbaseWeightMax: 300 }, options), /leaves 300/],
    [buildJobCoinbase(job, { ...options, tag: 'x'.repeat(99) }), /allowed are 100/],
  ];
  for (const [built, pattern] of cases) {
    assert.ok(!built.ok);
    assert.match(built.reason, pattern);
  }
  const exact = buildJobCoinbase(job, options);
  assert.ok(exact.ok);
  const weight = 4 * (exact.parts.prefix.length + 12 + exact.parts.suffix.length);
  assert.ok(buildJobCoinbase({ ...job, coinbaseWeightMax: weight }, options).ok);
  assert.ok(!buildJobCoinbase({ ...job, coinbaseWeightMax: weight - 1 }, options).ok);
  assert.ok(
    buildJobCoinbase({ ...job, jobId: 'abc' }, options).ok,
    'an odd number of digits is padded',
  );
});

test('a known header from its parts', () => {
  const job = buildJob(
    { ...template, previousHash: new Uint8Array(32) },
    { jobId: '01', clean: true, createdAtMs: 0 },
  );
  const header = assembleBlockHeader(job, {
    merkleRoot: Uint8Array.from(
      Buffer.from('4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b', 'hex'),
    ).reverse(),
    version: 1,
    ntime: 1231006505,
    nonce: 2083236893,
  });
  assert.equal(
    encodeHexReversed(hashHeader(header)),
    '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f',
  );
});
