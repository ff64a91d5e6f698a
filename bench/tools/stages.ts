/**
 * Cost of every stage between a submit line and its journal record, one after the other on one thread, no sockets.
 *
 * Verb: run({ rounds, directory }) → microseconds per share and stage.
 */
import { createHash } from 'node:crypto';
import { loadAccelerator } from '../../src/adapters/pow/sha256d.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { decodeRequest } from '../../src/core/stratum/request.ts';
import { createSubmitFields, decodeSubmit } from '../../src/core/stratum/submit.ts';
import { DuplicateSet } from '../../src/core/work/duplicates.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import { buildJobCoinbase } from '../../src/core/work/job.ts';
import {
  type Chosen,
  compileWork,
  difficultyOfHash,
  fillWork,
  type HashWork,
  meetsTarget,
  prepareTarget,
  rollVersion,
} from '../../src/core/work/share.ts';
import { encodeShare } from '../../src/messages/codec.ts';
import type { ShareRecord } from '../../src/messages/share.ts';
import { serveParent } from './child.ts';
import { makeSampleJob, PAYOUT_ADDRESS, PAYOUT_SCRIPT } from './sample.ts';

/** Microseconds per share. `accelerated` fields are null where no accelerator loads. */
export type StageCosts = {
  parse: number;
  build: number;
  hashTypescript: number;
  hashAccelerated: number | null;
  accelerator: string | null;
  hashCreateHash: number;
  judgeTypescript: number;
  judgeAccelerated: number | null;
  judgeCreateHash: number;
  encode: number;
};

/** The judge most pools in JavaScript have: concatenate, createHash, over and over. */
function hashWithCreateHash(
  coinbase: Uint8Array,
  branch: readonly Uint8Array[],
  header: Uint8Array,
): Uint8Array {
  const twice = (bytes: Uint8Array): Uint8Array =>
    createHash('sha256').update(createHash('sha256').update(bytes).digest()).digest();
  let hash = twice(coinbase);
  for (const sibling of branch) hash = twice(Buffer.concat([hash, sibling]));
  header.set(hash, 36);
  return twice(header);
}

/** Best of five rounds: the machine's other work only ever adds. */
function measure(rounds: number, work: (index: number) => void): number {
  for (let i = 0; i < rounds; i++) work(i);
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 5; round++) {
    const started = process.hrtime.bigint();
    for (let i = 0; i < rounds; i++) work(i);
    best = Math.min(best, Number(process.hrtime.bigint() - started) / 1000 / rounds);
  }
  return best;
}

function run({ rounds }: { rounds: number }): StageCosts {
  const time = Math.floor(Date.now() / 1000);
  const job = makeSampleJob({ jobId: '00c0ffee', time });
  const built = buildJobCoinbase(job, {
    tag: '/headframe/',
    extranonceBytes: 12,
    outputs: [{ script: PAYOUT_SCRIPT, valueSats: job.coinbaseValueSats }],
  });
  if (!built.ok) throw new Error(built.reason);
  const work = compileWork(job, built.parts);
  const chosen: Chosen = {
    extranonce1: 7,
    extranonce2High: 0,
    extranonce2Low: 0,
    ntime: time,
    nonce: 0x0badcafe,
    version: job.version,
  };
  const networkTarget = prepareTarget(job.networkTarget);
  const shareTarget = prepareTarget((1n << 256n) - 1n);
  const lines = Array.from(
    { length: 256 },
    (_, i) =>
      `{"id":${i},"method":"mining.submit","params":["${PAYOUT_ADDRESS}.rig1","00c0ffee",` +
      `"00000000${i.toString(16).padStart(8, '0')}","${time.toString(16)}","0badcafe","00c0e000"]}`,
  );
  const fields = createSubmitFields();
  const accelerator = loadAccelerator();
  let kept = 0;

  const parseOne = (index: number): void => {
    const request = decodeRequest(lines[index & 255]!, SESSION_LIMITS);
    if (request.params === null || decodeSubmit(request.params, 32, fields) !== null) kept += 1;
  };
  const buildOne = (index: number): void => {
    chosen.extranonce2Low = index;
    chosen.nonce = (index * 2654435761) >>> 0;
    chosen.version = rollVersion(job.version, 0x1fffe000, 0x00c0e000);
    fillWork(work, chosen);
  };
  const judgeWith = (hash: HashWork): number => {
    const seen = new DuplicateSet();
    let count = 0;
    return measure(rounds, () => {
      buildOne(count++);
      hash(work);
      if (meetsTarget(work.hash, networkTarget)) kept += 1;
      if (!meetsTarget(work.hash, shareTarget)) kept += 1;
      if (seen.add(job.jobId, work.hash) !== 'added') kept += 1;
      kept += difficultyOfHash(work.hash) > 1 ? 1 : 0;
    });
  };
  const header = new Uint8Array(80);
  const createHashOne = (): Uint8Array =>
    hashWithCreateHash(work.bytes.subarray(0, work.coinbaseLength), job.branch, header);
  const record: ShareRecord = {
    headerHash: work.hash,
    jobId: job.jobId,
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: time,
    nonce: 0x0badcafe,
    version: job.version,
    difficulty: 8192,
    shareDifficulty: 12_345.6,
    account: PAYOUT_ADDRESS,
    worker: 'rig1',
    sessionId: '0011223344556677',
    gateway: 'bench',
    height: job.height,
    acceptedAtMs: time * 1000,
    isBlock: false,
    pool: 'main',
    networkBits: job.bits,
    jobValueSats: job.coinbaseValueSats,
    planId: '',
    coinbaseBytes: 0,
  };
  const seenOld = new Set<string>();
  const few = Math.ceil(rounds / 4);
  const costs: StageCosts = {
    parse: measure(rounds, parseOne),
    build: measure(rounds, buildOne),
    hashTypescript: measure(rounds, () => foldInTypescript(work)),
    hashAccelerated: accelerator === null ? null : measure(rounds, () => accelerator.hash(work)),
    accelerator: accelerator?.name ?? null,
    hashCreateHash: measure(few, createHashOne),
    judgeTypescript: judgeWith(foldInTypescript),
    judgeAccelerated: accelerator === null ? null : judgeWith(accelerator.hash),
    judgeCreateHash: measure(few, (index) => {
      chosen.extranonce2Low = index;
      fillWork(work, chosen);
      const hash = createHashOne();
      const value = BigInt(`0x${Buffer.from(hash).reverse().toString('hex')}`);
      if (value <= job.networkTarget) kept += 1;
      if (seenOld.size > 100_000) seenOld.clear();
      seenOld.add(hash.toString());
    }),
    encode: measure(rounds, () => {
      kept += encodeShare(record).length & 1;
    }),
  };
  if (kept < 0) throw new Error('cannot be: keeps the work alive');
  return costs;
}

serveParent({ run });
