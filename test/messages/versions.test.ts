/**
 * Two versions of the schema at work at once, as in a rolling upgrade: what the version before wrote is read by this one, and what this
 * one writes is read by the version before, which does not know the newer fields. The older schema is a vector; `npm run check`
 * refuses changes that break it.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import protobuf from 'protobufjs';
import {
  decodeBlockCandidate,
  decodeJob,
  decodeShare,
  encodeBlockCandidate,
  encodeJob,
  encodeShare,
} from '../../src/messages/codec.ts';
import type { ShareRecord } from '../../src/messages/share.ts';

const before = protobuf.parse(
  readFileSync(new URL('../vectors/schema/pool.proto', import.meta.url), 'utf8'),
  { keepCase: false },
).root;
const typeBefore = (name: string) => before.lookupType(`headframe.v1.${name}`);

const share: ShareRecord = {
  headerHash: new Uint8Array(32).fill(7),
  jobId: '01ab',
  extranonce1: Uint8Array.of(1, 2, 3, 4),
  extranonce2: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
  ntime: 1_795_000_000,
  nonce: 0xdeadbeef,
  version: 0x20000000,
  difficulty: 1024,
  shareDifficulty: 2048.5,
  account: 'bcrt1qaccount',
  worker: 'rig',
  sessionId: 'session',
  gateway: 'here',
  height: 900_000,
  acceptedAtMs: 1_795_000_000_123,
  isBlock: true,
  pool: 'solo',
  networkBits: 0x1d00ffff,
  jobValueSats: 312_500_000n,
  planId: '0123456789abcdef',
  coinbaseBytes: 2250,
};

test('a share written by the version before is read, its pool is main', () => {
  const old = typeBefore('Share');
  const { pool, networkBits, jobValueSats, planId, coinbaseBytes, ...known } = share;
  const decoded = decodeShare(old.encode(old.create(known)).finish());
  assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
  const { headerHash, extranonce1, extranonce2, ...rest } = decoded.value;
  assert.deepEqual(new Uint8Array(headerHash), share.headerHash);
  assert.deepEqual(
    [new Uint8Array(extranonce1), new Uint8Array(extranonce2)],
    [share.extranonce1, share.extranonce2],
  );
  const { headerHash: _, extranonce1: _1, extranonce2: _2, ...expected } = known;
  assert.deepEqual(rest, {
    ...expected,
    pool: 'main',
    networkBits: 0,
    jobValueSats: 0n,
    planId: '',
    coinbaseBytes: 0,
  });
});

test('a share written now is read by the version before, without what it does not know', () => {
  const read = typeBefore('Share').decode(encodeShare(share)) as unknown as ShareRecord;
  assert.deepEqual(new Uint8Array(read.headerHash), share.headerHash);
  for (const field of ['jobId', 'nonce', 'difficulty', 'account', 'height', 'isBlock'] as const)
    assert.equal(read[field], share[field], field);
});

test('jobs and candidates cross both ways', () => {
  const job = {
    jobId: '01ab',
    height: 900_000,
    version: 0x20000000,
    previousHash: new Uint8Array(32).fill(1),
    bits: 0x1d00ffff,
    networkTarget: new Uint8Array(32).fill(2),
    curtime: 1_795_000_000,
    mintime: 1_794_999_000,
    branch: [new Uint8Array(32).fill(3)],
    coinbaseValueSats: 312_500_000,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: new Uint8Array(38).fill(4),
    coinbaseWeightMax: 4_000,
    feesSats: 0,
    transactionCount: 1,
    clean: true,
    createdAtMs: 1_795_000_000_000,
  };
  const old = typeBefore('Job');
  const decoded = decodeJob(old.encode(old.create(job)).finish());
  assert.ok(decoded.ok, decoded.ok ? '' : decoded.reason);
  assert.equal(decoded.value.coinbaseValueSats, 312_500_000n);
  const again = old.decode(encodeJob(decoded.value)) as unknown as typeof job;
  assert.equal(again.jobId, job.jobId);
  assert.equal(again.height, job.height);

  const candidate = {
    jobId: '01ab',
    headerHash: new Uint8Array(32).fill(5),
    header: new Uint8Array(80).fill(6),
    coinbase: new Uint8Array(100).fill(7),
    height: 900_000,
    account: 'bcrt1qaccount',
    worker: 'rig',
    foundAtMs: 1_795_000_000_000,
    networkDifficulty: 1e14,
    rewardSats: 312_500_000,
  };
  const oldCandidate = typeBefore('BlockCandidate');
  const read = decodeBlockCandidate(oldCandidate.encode(oldCandidate.create(candidate)).finish());
  assert.ok(read.ok, read.ok ? '' : read.reason);
  assert.equal(read.value.pool, 'main');
  const back = oldCandidate.decode(encodeBlockCandidate(read.value)) as unknown as typeof candidate;
  assert.equal(back.account, candidate.account);
  assert.deepEqual(new Uint8Array(back.header), candidate.header);
});
