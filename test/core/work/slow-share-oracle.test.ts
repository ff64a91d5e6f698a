/**
 * One million random submissions, judged by the product and by the slow verifier, which shares no code with it: header,
 * hash, version and verdict must agree on every one. 48 jobs with 0 to 12 merkle steps; the coinbase changes every 16
 * submissions, so that the oracle's node:crypto is not most of the suite. About 10 s on one core.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeHexU32 } from '../../../src/core/bitcoin/bytes.ts';
import { decodeBits } from '../../../src/core/bitcoin/target.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import { buildJobCoinbase, encodeNotify, type Job } from '../../../src/core/work/job.ts';
import {
  compileWork,
  fillWork,
  headerOf,
  meetsTarget,
  prepareTarget,
  rollVersion,
} from '../../../src/core/work/share.ts';
import { chooseSeed, createRandom, type Random } from '../../tools/random.ts';
import {
  readNotify,
  slowBits,
  slowHash,
  slowHeader,
  slowMerkleRoot,
  slowValue,
  slowVersion,
} from '../../tools/slow-verifier.ts';

const SUBMISSIONS = 1_000_000;
const JOBS = 48;
const PER_COINBASE = 16;

test('a million random submissions get the verdict of the slow verifier', (t) => {
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  const random = createRandom(seed);
  let met = 0;
  for (let index = 0; index < JOBS; index++) {
    met += judgeOneJob(random, index, Math.ceil(SUBMISSIONS / JOBS));
  }
  // Targets are spread over all sizes: a judge that always says one thing does not pass.
  assert.ok(met > SUBMISSIONS / 20 && met < (SUBMISSIONS * 19) / 20, `${met} met their target`);
});

function judgeOneJob(random: Random, index: number, count: number): number {
  const job = randomJob(random, index);
  const built = buildJobCoinbase(job, {
    tag: '/Headframe/',
    extranonceBytes: 12,
    outputs: Array.from({ length: 1 + (index % 3) }, (_, at) => ({
      script: random.bytes(22),
      valueSats: at === 0 ? job.coinbaseValueSats : 0n,
    })),
  });
  assert.ok(built.ok);
  const work = compileWork(job, built.parts);
  const wire = readNotify(encodeNotify(job, built.parts, job.clean));
  assert.equal(slowBits(wire.bits), job.networkTarget);
  const chosen = {
    extranonce1: 0,
    extranonce2High: 0,
    extranonce2Low: 0,
    ntime: 0,
    nonce: 0,
    version: 0,
  };
  let root: Buffer = Buffer.alloc(0);
  let met = 0;
  for (let i = 0; i < count; i++) {
    if (i % PER_COINBASE === 0) {
      chosen.extranonce1 = random.u32();
      chosen.extranonce2High = random.u32();
      chosen.extranonce2Low = random.u32();
      const extranonce2 =
        encodeHexU32(chosen.extranonce2High) + encodeHexU32(chosen.extranonce2Low);
      root = slowMerkleRoot(wire, encodeHexU32(chosen.extranonce1), extranonce2);
    }
    const mask = i % 7 === 0 ? random.u32() : 0x1fffe000;
    const bits = random.u32();
    chosen.ntime = random.u32();
    chosen.nonce = random.u32();
    chosen.version = rollVersion(job.version, mask, bits);

    fillWork(work, chosen);
    foldInTypescript(work);

    const submit = {
      extranonce1: '',
      extranonce2: '',
      ntime: encodeHexU32(chosen.ntime),
      nonce: encodeHexU32(chosen.nonce),
      version: slowVersionCached(wire.version, mask, bits),
    };
    const header = slowHeader(wire, submit, root);
    const hash = slowHash(header);
    if (hash.compare(work.hash) !== 0) {
      assert.fail(`hash differs: ${JSON.stringify({ index, i, chosen, mask, bits })}`);
    }
    if (i % 256 === 0) assert.deepEqual(Buffer.from(headerOf(work)), header);

    const value = slowValue(hash);
    const target = targetNear(random, value, i);
    const verdict = meetsTarget(work.hash, prepareTarget(target));
    if (verdict !== value <= target) assert.fail(`verdict differs at ${value} against ${target}`);
    if (verdict) met += 1;
  }
  return met;
}

/** The oracle's version for most submissions by arithmetic on BigInt; every 64th bit by bit on text. */
function slowVersionCached(job: string, mask: number, bits: number): string {
  if (bits % 64 === 0) return slowVersion(job, encodeHexU32(mask), encodeHexU32(bits));
  const inside = BigInt(mask);
  const ours = BigInt('0x' + job) & (0xffffffffn ^ inside);
  return (ours | (BigInt(bits) & inside)).toString(16).padStart(8, '0');
}

/** Random targets, and often the hardest ones: the hash itself, one less, one more, equal but for one word. */
function targetNear(random: Random, value: bigint, i: number): bigint {
  switch (i % 8) {
    case 0:
      return value === 0n ? 1n : value;
    case 1:
      return value > 1n ? value - 1n : 1n;
    case 2:
      return value + 1n;
    case 3:
      return value ^ (1n << BigInt(random.below(256))) || 1n;
    default:
      return (BigInt(random.u32() + 1) << 224n) - 1n;
  }
}

function randomJob(random: Random, index: number): Job {
  const bits = random.pick([0x1d00ffff, 0x207fffff, 0x1702f128, 0x1a44b9f2]);
  return {
    jobId: random.u32().toString(16) + index.toString(16),
    height: random.pick([1, 16, 17, 127, 128, 32768, 900_000, 0x7fffffff]),
    version: random.pick([0x20000000, 0x30000000, 0x2fffe004, random.u32()]),
    previousHash: random.bytes(32),
    bits,
    networkTarget: decodeBits(bits)!,
    curtime: random.u32(),
    mintime: 0,
    branch: Array.from({ length: index % 13 }, () => random.bytes(32)),
    coinbaseValueSats: BigInt(random.u32()),
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: index % 2 === 0 ? random.bytes(38) : null,
    coinbaseWeightMax: 100_000,
    feesSats: 0n,
    transactionCount: 2 ** (index % 13),
    clean: index % 2 === 0,
    createdAtMs: 0,
  };
}
