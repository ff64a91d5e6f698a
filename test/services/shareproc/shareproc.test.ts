import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { hashHeader } from '../../../src/core/bitcoin/header.ts';
import { decodeBits, targetOfDifficulty } from '../../../src/core/bitcoin/target.ts';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import {
  buildJobCoinbase,
  type CoinbaseParts,
  EXTRANONCE_BYTES,
  type Job,
} from '../../../src/core/work/job.ts';
import { buildPoolCoinbase, type CoinbasePool } from '../../../src/core/work/payout.ts';
import {
  coinbaseOf,
  compileWork,
  fillWork,
  headerOf,
  meetsTarget,
  prepareTarget,
} from '../../../src/core/work/share.ts';
import type { BlockCandidate } from '../../../src/messages/block.ts';
import {
  decodeCheckedShare,
  decodeRejectedShare,
  decodeShare,
  decodeShareMark,
  decodeSolvedBlock,
  encodeBlockCandidate,
  encodeBlockOutcome,
  encodeJob,
  encodeShare,
  encodeShareMark,
  encodeTemplateBody,
} from '../../../src/messages/codec.ts';
import { isMarkKey, markKey, type ShareRecord } from '../../../src/messages/share.ts';
import { PARTITIONS } from '../../../src/messages/topics.ts';
import type { Bus, Cache, Db, ReceivedRecord } from '../../../src/ports.ts';
import { startShareLog } from '../../../src/services/payoutd/sharelog.ts';
import { type AuditOptions, Auditor } from '../../../src/services/shareproc/audit.ts';
import {
  type ShareprocOptions,
  startShareproc,
} from '../../../src/services/shareproc/shareproc.ts';
import { type ShareSource, startShipper } from '../../../src/services/shareproc/shipper.ts';
import { listBlocks } from '../../../src/store/blocks.ts';
import { poolTotals } from '../../../src/store/status.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { until } from '../../tools/waiting.ts';

const NOW_MS = Date.UTC(2026, 10, 21, 12);
const clock = { nowMs: () => NOW_MS };
/** Every hash reaches it. */
const ANY_DIFFICULTY = 2 ** -40;
const SCRIPT = Uint8Array.from([0x00, 0x14, ...new Uint8Array(20).fill(7)]);
const OPTIONS: AuditOptions = {
  network: 'regtest',
  coinbaseTag: '/test/',
  pools: [{ id: 'main', coinbase: { mode: 'pool', script: SCRIPT, address: 'pool' } }],
};
const REGTEST_BITS = 0x207fffff;
const JOB: Job = {
  jobId: '0a1b',
  height: 101,
  version: 0x20000000,
  previousHash: new Uint8Array(32).fill(3),
  bits: REGTEST_BITS,
  networkTarget: decodeBits(0x1d00ffff) as bigint,
  curtime: 1_700_000_000,
  mintime: 1_600_000_000,
  branch: [new Uint8Array(32).fill(9)],
  coinbaseValueSats: 5_000_000_000n,
  coinbaseAux: new Uint8Array(0),
  witnessCommitment: null,
  coinbaseWeightMax: 4_000,
  feesSats: 0n,
  transactionCount: 1,
  clean: true,
  createdAtMs: NOW_MS,
};

/** A share that a gateway would have accepted: the header is really hashed. */
function trueShare(
  nonce: number,
  more: Partial<ShareRecord> = {},
  parts: CoinbaseParts | null = null,
): ShareRecord {
  const built = buildJobCoinbase(JOB, {
    tag: OPTIONS.coinbaseTag,
    extranonceBytes: EXTRANONCE_BYTES,
    outputs: [{ script: SCRIPT, valueSats: JOB.coinbaseValueSats }],
  });
  assert.ok(built.ok);
  const work = compileWork(JOB, parts ?? built.parts);
  fillWork(work, {
    extranonce1: 0x01020304,
    extranonce2High: 5,
    extranonce2Low: 6,
    ntime: 1_700_000_001,
    nonce,
    version: 0x20000000,
  });
  foldInTypescript(work);
  return {
    headerHash: work.hash.slice(),
    jobId: JOB.jobId,
    extranonce1: Uint8Array.from([1, 2, 3, 4]),
    extranonce2: Uint8Array.from([0, 0, 0, 5, 0, 0, 0, 6]),
    ntime: 1_700_000_001,
    nonce,
    version: 0x20000000,
    difficulty: ANY_DIFFICULTY,
    shareDifficulty: 1,
    account: 'account',
    worker: 'rig',
    sessionId: 'session',
    gateway: 'g',
    height: JOB.height,
    acceptedAtMs: NOW_MS + nonce,
    isBlock: false,
    pool: 'main',
    networkBits: JOB.bits,
    jobValueSats: JOB.coinbaseValueSats,
    planId: '',
    coinbaseBytes: 0,
    ...more,
  };
}

/** Pays more people than the smaller sizes have room for. */
const PLAN: CoinbasePlan = {
  planId: 'feedfeedfeedfeed',
  pool: 'direct',
  lastSeq: 9n,
  totalWeight: 20n,
  entries: Array.from({ length: 20 }, (_, at) => ({
    address: `a${at}`,
    script: Uint8Array.from([0x00, 0x14, at, ...new Uint8Array(19).fill(8)]),
    weight: 1n,
    carrySats: 0n,
  })),
  createdAtMs: NOW_MS,
};

/** The same as `trueShare`, on the coinbase that the plan makes. */
function plannedShare(nonce: number, coinbaseBytes: number): ShareRecord {
  const built = buildPoolCoinbase(JOB, {
    tag: OPTIONS.coinbaseTag,
    rules: { mode: 'direct', fee: null },
    finder: [],
    plan: PLAN,
    coinbaseBytesMax: coinbaseBytes,
  });
  assert.ok(built.ok);
  const { planId } = built;
  return trueShare(nonce, { pool: 'direct', planId, coinbaseBytes }, built.parts);
}

const record = (share: ShareRecord) => ({ key: share.sessionId, value: encodeShare(share) });

describe('audit', () => {
  const auditor = new Auditor(foldInTypescript, OPTIONS);
  auditor.addJob(JOB);

  test('agrees with the gateway on a true share', () => {
    for (let nonce = 0; nonce < 50; nonce++) {
      assert.deepEqual(auditor.audit(trueShare(nonce)), { verdict: 'valid' });
    }
  });

  test('finds every single changed field that makes the header', () => {
    const good = trueShare(1);
    const changes: Partial<ShareRecord>[] = [
      { nonce: 2 },
      { ntime: 1_700_000_002 },
      { version: 0x20000001 },
      { extranonce1: new Uint8Array(4) },
      { extranonce2: new Uint8Array(8) },
      { headerHash: new Uint8Array(32) },
    ];
    for (const change of changes) {
      const verdict = auditor.audit({ ...good, ...change });
      assert.ok(verdict.verdict === 'rejected' && verdict.reason === 'audit-hash');
    }
    const height = auditor.audit({ ...good, height: 5 });
    assert.ok(height.verdict === 'rejected' && height.reason === 'audit-height');
  });

  test('compares integers: at the target, and just beyond it', () => {
    const share = trueShare(7);
    const reached = [1, 0.5, 2 ** -10, 2 ** -30, 2 ** -32, 2 ** -34].map((difficulty) => ({
      difficulty,
      meets: meetsTarget(share.headerHash, prepareTarget(targetOfDifficulty(difficulty))),
    }));
    assert.ok(reached.some((one) => one.meets) && reached.some((one) => !one.meets));
    for (const { difficulty, meets } of reached) {
      const verdict = auditor.audit({ ...share, difficulty });
      assert.equal(verdict.verdict, meets ? 'valid' : 'rejected');
    }
  });

  test('takes the word of the gateway for a job it does not know, but not for the difficulty', () => {
    const lost = trueShare(1, { jobId: 'ffff', nonce: 999 });
    assert.deepEqual(auditor.audit(lost), { verdict: 'unaudited' });
    assert.equal(auditor.audit({ ...lost, difficulty: 1e9 }).verdict, 'rejected');
  });

  test('solo: the coinbase pays the account, and an account that is no address is refused', () => {
    const solo = new Auditor(foldInTypescript, {
      ...OPTIONS,
      pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
    });
    solo.addJob(JOB);
    const account = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
    const other = solo.audit(trueShare(1, { account }));
    assert.ok(other.verdict === 'rejected' && other.reason === 'audit-hash');
    const none = solo.audit(trueShare(1));
    assert.ok(none.verdict === 'rejected' && none.reason === 'audit-account');
  });

  test('a pool that is none, bits or a value that are not of its job: refused', () => {
    for (const [change, reason] of [
      [{ pool: 'other' }, 'audit-pool'],
      [{ pool: 'other', jobId: 'ffff' }, 'audit-pool'],
      [{ networkBits: JOB.bits + 1 }, 'audit-job'],
      [{ networkBits: 0 }, 'audit-job'],
      [{ jobValueSats: JOB.coinbaseValueSats + 1n }, 'audit-job'],
      [{ jobValueSats: 0n }, 'audit-job'],
      [{ planId: 'feedfeedfeedfeed', coinbaseBytes: 500 }, 'audit-coinbase'],
      [{ coinbaseBytes: 500 }, 'audit-coinbase'],
    ] as const) {
      const own = new Auditor(foldInTypescript, OPTIONS);
      own.addJob(JOB);
      const verdict = own.audit(trueShare(1, change));
      assert.ok(verdict.verdict === 'rejected', Object.keys(change).join());
      assert.equal(verdict.reason, reason);
    }
  });

  test('direct: the coinbase is rebuilt from the plan; a plan that is gone leaves the share unaudited', () => {
    const pools: CoinbasePool[] = [{ id: 'direct', coinbase: { mode: 'direct', fee: null } }];
    const auditing = new Auditor(foldInTypescript, { ...OPTIONS, pools });
    auditing.addJob(JOB);
    const share = plannedShare(1, 500);
    assert.deepEqual(auditing.audit(share), { verdict: 'unaudited' });
    assert.equal(auditing.audit({ ...share, difficulty: 1e9 }).verdict, 'rejected');
    assert.equal(auditing.audit({ ...share, jobValueSats: 1n }).verdict, 'rejected');
    auditing.addPlans([PLAN]);
    assert.deepEqual(auditing.audit(share), { verdict: 'valid' });
    for (const change of [
      { coinbaseBytes: 256 },
      { planId: '', account: 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080' },
    ]) {
      const verdict = auditing.audit({ ...share, ...change });
      assert.ok(verdict.verdict === 'rejected' && verdict.reason === 'audit-hash');
    }
    for (const coinbaseBytes of [0, 499, 2 ** 31]) {
      const verdict = auditing.audit({ ...share, coinbaseBytes });
      assert.ok(verdict.verdict === 'rejected' && verdict.reason === 'audit-coinbase');
    }
    // 64 newer ones push it out.
    const newer = Array.from({ length: 64 }, (_, at) => ({
      ...PLAN,
      planId: at.toString(16).padStart(16, '0'),
    }));
    auditing.addPlans(newer);
    assert.deepEqual(auditing.audit(share), { verdict: 'unaudited' });
  });

  test('forgets the oldest jobs first', () => {
    const small = new Auditor(foldInTypescript, { ...OPTIONS, jobsMax: 2 });
    for (const jobId of ['01', '0a1b', '02']) small.addJob({ ...JOB, jobId });
    assert.equal(small.audit(trueShare(1)).verdict, 'valid');
    small.addJob({ ...JOB, jobId: '03' });
    assert.equal(small.audit(trueShare(1)).verdict, 'unaudited');
  });
});

/** A journal in memory. */
function sourceOf(batches: Uint8Array[][]): ShareSource & { marked: number[] } {
  const marked: number[] = [];
  let at = 0;
  return {
    marked,
    async next() {
      const records = batches[at];
      if (records === undefined) return null;
      at++;
      return { records, position: at, skippedBytes: 0 };
    },
    async wait() {
      await new Promise((resolve) => setImmediate(resolve));
    },
    async markShipped(position) {
      marked.push(position);
    },
    lagBytes: () => batches.length - marked.length,
  };
}

test('the shipper repeats a batch until it is safe, marks only then, and keeps the order', async () => {
  const log = createSilentLog();
  const bus = createMemoryBus({ log });
  const seen: number[] = [];
  let failures = 5;
  await bus.subscribe('share.submissions', 'g', async (records) => {
    if (failures-- > 0) throw new Error('database away');
    for (const { value } of records) {
      const decoded = decodeShare(value);
      seen.push(decoded.ok ? decoded.value.nonce : -1);
    }
  });
  const source = sourceOf([
    [1, 2].map((nonce) => encodeShare(trueShare(nonce))),
    [new Uint8Array([1]), encodeShare(trueShare(3))],
  ]);
  const waits: number[] = [];
  const shipper = startShipper({
    source,
    bus,
    log,
    delay: async (ms) => {
      waits.push(ms);
    },
  });
  await shipper.stop(10_000);
  assert.deepEqual(seen, [1, 2, -1, 3]);
  assert.deepEqual(source.marked, [1, 2]);
  assert.deepEqual(waits, [100, 200, 400, 800, 1600]);
  assert.equal(shipper.status().stalled, false);
  assert.equal(log.lines.filter((line) => line.level === 'error').length, 1);
});

test('a shipper that cannot ship ends when it is told to, and marks nothing', async () => {
  const log = createSilentLog();
  const bus = createMemoryBus({ log });
  await bus.subscribe('share.submissions', 'g', async () => {
    throw new Error('never');
  });
  const source = sourceOf([[encodeShare(trueShare(1))]]);
  const shipper = startShipper({ source, bus, log });
  await shipper.stop(20);
  assert.deepEqual(source.marked, []);
  assert.equal(shipper.status().stalled, true);
});

test('marks speak only of what went out before them, come before the first share, and again when all is shipped', async () => {
  const log = createSilentLog();
  const bus = createMemoryBus({ log });
  const went: string[] = [];
  let failures = 2;
  await bus.subscribe('share.submissions', 'g', async (records) => {
    if (went.length === 1 && failures-- > 0) throw new Error('away');
    const [first] = records;
    if (first !== undefined && isMarkKey(first.key)) {
      assert.deepEqual(
        records.map(({ key, partition }) => [key, partition]),
        Array.from({ length: PARTITIONS }, (_, partition) => ['mark:here', partition]),
      );
      const mark = decodeShareMark(first.value);
      assert.ok(mark.ok);
      went.push(`through ${mark.value.throughMs - NOW_MS} #${mark.value.sequence}`);
    } else went.push(`${records.length} shares`);
  });
  const source = sourceOf([
    [1, 2].map((nonce) => encodeShare(trueShare(nonce))),
    [encodeShare(trueShare(3))],
  ]);
  let settledMs = NOW_MS - 5;
  const shipper = startShipper({
    source,
    bus,
    log,
    delay: async () => {},
    marks: { gateway: 'here', settledThroughMs: () => settledMs },
  });
  await until('all is told', () => went.at(-1)?.startsWith('through 2 ') ?? false);
  assert.equal(went[0], `through ${-NOW_MS} #1`);
  assert.deepEqual(went.slice(1), ['2 shares', '1 shares', 'through 2 #2']);
  settledMs = NOW_MS + 100;
  await shipper.stop(10_000);
  assert.equal(went.at(-1), 'through 100 #3');
});

describe('what shareproc makes of a batch', () => {
  async function start(options: Partial<ShareprocOptions> = {}) {
    const log = createSilentLog();
    const bus = createMemoryBus({ log });
    const went: { topic: string; record: ReceivedRecord }[] = [];
    for (const topic of ['share.valid', 'share.rejected', 'dead.letters', 'block.solved']) {
      await bus.subscribe(topic, 'test', async (records) => {
        for (const record of records) went.push({ topic, record });
      });
    }
    const tools = { bus, log, clock, hash: foldInTypescript };
    const shareproc = await startShareproc(tools, { ...OPTIONS, ...options });
    await bus.publish('mining.jobs', [{ key: '', value: encodeJob(JOB) }]);
    return { bus, shareproc, log, went };
  }

  test('marks stay behind the shares they speak of, all in their partition; poison is kept byte for byte', async () => {
    const { bus, went } = await start();
    const mark = encodeShareMark({ gateway: 'g', throughMs: NOW_MS, sequence: 1 });
    const poison = Uint8Array.from([255, 3]);
    const partition = 7;
    await bus.publish('share.submissions', [
      { ...record(trueShare(1)), partition },
      { key: 's', value: poison, partition },
      { ...record(trueShare(2, { nonce: 99 })), partition },
      { ...record(trueShare(3, { jobId: 'ffff' })), partition },
      { key: markKey('g'), value: mark, partition },
      { key: markKey('g'), value: poison, partition },
      { ...record(trueShare(4)), partition },
    ]);
    const valid = went.filter(({ topic }) => topic === 'share.valid');
    assert.deepEqual(
      valid.map(({ record: { key, value } }) => {
        if (isMarkKey(key)) return decodeShareMark(value);
        const decoded = decodeCheckedShare(value);
        return decoded.ok && [decoded.value.share.acceptedAtMs - NOW_MS, decoded.value.audited];
      }),
      [
        [1, true],
        [3, false],
        { ok: true, value: { gateway: 'g', throughMs: NOW_MS, sequence: 1 } },
        [4, true],
      ],
    );
    assert.ok(valid.every(({ record: { partition: p } }) => p === partition));
    const letters = went.filter(({ topic }) => topic === 'dead.letters');
    assert.deepEqual(
      letters.map(({ record: { key, value } }) => [key, Buffer.from(value)]),
      Array.from({ length: 2 }, () => ['share.submissions/7/', Buffer.from(poison)]),
    );
    assert.equal(went.filter(({ topic }) => topic === 'share.rejected').length, 2);
  });

  /** Every hash reaches the target of this job. */
  const EASY: Job = { ...JOB, jobId: '0ea5', networkTarget: 2n ** 256n - 1n };
  const BODY = Uint8Array.from({ length: 300 }, (_, at) => at);
  const TEMPLATE = {
    jobId: EASY.jobId,
    height: EASY.height,
    previousHash: EASY.previousHash,
    transactionCount: 1,
    body: BODY,
    witness: false,
  };

  function candidateOf(change: Partial<BlockCandidate> = {}): BlockCandidate {
    const built = buildJobCoinbase(EASY, {
      tag: OPTIONS.coinbaseTag,
      extranonceBytes: EXTRANONCE_BYTES,
      outputs: [{ script: SCRIPT, valueSats: EASY.coinbaseValueSats }],
    });
    assert.ok(built.ok);
    const work = compileWork(EASY, built.parts);
    fillWork(work, {
      extranonce1: 1,
      extranonce2High: 2,
      extranonce2Low: 3,
      ntime: 1_700_000_001,
      nonce: 4,
      version: 0x20000000,
    });
    foldInTypescript(work);
    return {
      jobId: EASY.jobId,
      headerHash: work.hash.slice(),
      header: headerOf(work).slice(),
      coinbase: coinbaseOf(work).slice(),
      height: EASY.height,
      account: 'account',
      worker: 'rig',
      foundAtMs: NOW_MS,
      networkDifficulty: 1,
      rewardSats: EASY.coinbaseValueSats,
      pool: 'main',
      planId: '',
      ...change,
    };
  }
  const solvedOf = (went: { topic: string; record: ReceivedRecord }[]) =>
    went
      .filter(({ topic }) => topic === 'block.solved')
      .map(({ record: { value } }) => decodeSolvedBlock(value));
  const publishCandidate = (bus: Bus, candidate: BlockCandidate) =>
    bus.publish('block.candidates', [{ key: 'h', value: encodeBlockCandidate(candidate) }]);

  test('a candidate becomes a whole block, also when job and template come after it', async () => {
    const { bus, went, shareproc } = await start({ buildsBlocks: true });
    const candidate = candidateOf();
    const publishing = publishCandidate(bus, candidate);
    await bus.publish('mining.templates', [{ key: '', value: encodeTemplateBody(TEMPLATE) }]);
    assert.equal(solvedOf(went).length, 0);
    await bus.publish('mining.jobs', [{ key: '', value: encodeJob(EASY) }]);
    await publishing;
    const [solved] = solvedOf(went);
    assert.ok(solved?.ok);
    assert.deepEqual(
      Buffer.from(solved.value.block),
      Buffer.concat([candidate.header, Uint8Array.of(2), candidate.coinbase, BODY]),
    );
    assert.deepEqual(Buffer.from(solved.value.headerHash), Buffer.from(candidate.headerHash));
    assert.equal(shareproc.status().solved, 1);
  });

  test('what is no block is not made one, and one without a template stays a record', async () => {
    const { bus, went, log } = await start({ buildsBlocks: true, templatePatienceMs: 20 });
    await publishCandidate(bus, candidateOf());
    assert.match(log.lines.at(-1)?.message ?? '', /template did not come/);
    await bus.publish('mining.templates', [{ key: '', value: encodeTemplateBody(TEMPLATE) }]);
    await bus.publish('mining.jobs', [{ key: '', value: encodeJob(EASY) }]);
    const good = candidateOf();
    const otherHeader = good.header.slice();
    otherHeader[10] = 0xee;
    for (const change of [
      { headerHash: new Uint8Array(32) },
      { coinbase: Uint8Array.from([...good.coinbase, 0]) },
      { header: otherHeader, headerHash: hashHeader(otherHeader) },
    ]) {
      await publishCandidate(bus, candidateOf(change));
    }
    await bus.publish('mining.jobs', [
      { key: '', value: encodeJob({ ...EASY, networkTarget: 1n }) },
    ]);
    await publishCandidate(bus, good);
    const poison = Uint8Array.from([1]);
    await bus.publish('block.candidates', [{ key: 'h', value: poison }]);
    assert.deepEqual(solvedOf(went), []);
    assert.deepEqual(
      went.map(({ topic, record: { key } }) => [topic, key]),
      [['dead.letters', 'block.candidates/0/']],
    );
  });
});

test('one that starts late has the jobs of waiting shares from the cache, and asks for a missing one now and then', async () => {
  const log = createSilentLog();
  const bus = createMemoryBus({ log });
  let nowMs = NOW_MS;
  const asked: string[] = [];
  let kept: Uint8Array | null = encodeJob(JOB);
  const cache: Cache = {
    async get(key) {
      asked.push(key);
      return key === `job:${JOB.jobId}` ? kept : null;
    },
    set: async () => {},
    increment: async () => null,
    stop: async () => {},
  };
  const options = { bus, log, clock: { nowMs: () => nowMs }, hash: foldInTypescript, cache };
  const shareproc = await startShareproc(options, OPTIONS);
  const good = record(trueShare(1));
  const wrong = record(trueShare(2, { nonce: 77 }));
  const unknown = record(trueShare(3, { jobId: 'ffff' }));
  await bus.publish('share.submissions', [good, wrong, unknown]);
  await bus.publish('share.submissions', [good, unknown]);
  assert.deepEqual(asked, [`job:${JOB.jobId}`, 'job:ffff']);
  const { valid, unaudited, rejected } = shareproc.status();
  assert.deepEqual({ valid, unaudited, rejected }, { valid: 4, unaudited: 2, rejected: 1 });
  nowMs += 60_000;
  await bus.publish('share.submissions', [unknown]);
  assert.deepEqual(asked.slice(2), ['job:ffff']);
  await shareproc.stop();

  // What is there under the name of another job, or cannot be read, is no job.
  for (const broken of [Uint8Array.of(255, 255), encodeJob({ ...JOB, jobId: 'eeee' })]) {
    kept = broken;
    const other = createMemoryBus({ log });
    const late = await startShareproc({ ...options, bus: other }, OPTIONS);
    await other.publish('share.submissions', [good]);
    assert.equal(late.status().unaudited, 1);
    await late.stop();
  }
});

for (const kind of SERVER_KINDS) {
  describe(`shareproc and share log on ${kind.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());

    async function start(db: Db) {
      const log = createSilentLog();
      const bus = createMemoryBus({ log, encodeCheck: false });
      const valid: ShareRecord[] = [];
      const rejected: string[] = [];
      await bus.subscribe('share.valid', 'test', async (records) => {
        for (const { value } of records) {
          const decoded = decodeShare(value);
          if (decoded.ok) valid.push(decoded.value);
        }
      });
      await bus.subscribe('share.rejected', 'test', async (records) => {
        for (const { value } of records) {
          const decoded = decodeRejectedShare(value);
          rejected.push(decoded.ok ? decoded.value.reason : 'broken');
        }
      });
      const meter = { count() {}, set() {} };
      const shareLog = await startShareLog({ bus, db, log, clock, meter });
      const shareproc = await startShareproc({ bus, log, clock, hash: foldInTypescript }, OPTIONS);
      const stop = async () => {
        await shareproc.stop();
        await shareLog.stop();
        await bus.stop();
      };
      await bus.publish('mining.jobs', [{ key: '', value: encodeJob(JOB) }]);
      return { bus, status: () => shareLog.status(), stop, valid, rejected, log };
    }

    test('valid shares are stored once, the others are set aside, poison stops nothing', async () => {
      const db = await server.freshDatabase();
      const { bus, status: statusNow, stop, valid, rejected } = await start(db);
      const batch = [
        record(trueShare(1)),
        { key: '', value: Uint8Array.from([255, 255, 255]) },
        record(trueShare(2, { nonce: 77 })),
        record(trueShare(3, { jobId: 'ffff' })),
        // Decodes, but no timestamp of any database is that late.
        record(trueShare(4, { acceptedAtMs: 2 ** 53 - 1 })),
        record(trueShare(5)),
      ];
      await bus.publish('share.submissions', batch);
      await bus.publish('share.submissions', batch);
      const status = statusNow();
      const late = status.stored === 4;
      assert.ok(status.stored === 3 || late, JSON.stringify(status));
      assert.equal(status.unaudited, 2);
      assert.deepEqual(new Set(rejected), new Set(['undecodable', 'audit-hash']));
      assert.ok(valid.length >= 3);
      assert.equal((await poolTotals(db)).shares, BigInt(status.stored));
      const [letters] = await db.query<{ n: bigint }>('SELECT count(*) AS n FROM dead_letters');
      assert.equal(letters?.n, late ? 2n : 3n);
      const [unaudited] = await db.query<{ n: bigint }>(
        'SELECT count(*) AS n FROM shares WHERE NOT audited',
      );
      assert.equal(unaudited?.n, 1n);
      await stop();
    });

    test('with the database away shares are refused to the shipper, and block records wait', async () => {
      const real = await server.freshDatabase();
      let away = false;
      const down = async (): Promise<never> => {
        throw Object.assign(new Error('connection refused'), { code: 'ECONNREFUSED' });
      };
      const db: Db = {
        query: (sql, params) => (away ? down() : real.query(sql, params)),
        transaction: (work) => (away ? down() : real.transaction(work)),
        stop: async () => {},
      };
      const { bus, status, stop } = await start(db);
      away = true;
      await assert.rejects(
        bus.publish('share.submissions', [record(trueShare(1))]),
        /connection refused/,
      );
      const block = bus.publish('block.candidates', [
        {
          key: '',
          value: encodeBlockCandidate({
            jobId: JOB.jobId,
            headerHash: new Uint8Array(32).fill(1),
            header: new Uint8Array(80),
            coinbase: new Uint8Array(60),
            height: 101,
            account: 'account',
            worker: 'rig',
            foundAtMs: NOW_MS,
            networkDifficulty: 1,
            rewardSats: 5_000_000_000n,
            pool: 'main',
            planId: '',
          }),
        },
      ]);
      await new Promise((resolve) => setImmediate(resolve));
      away = false;
      await bus.publish('share.submissions', [record(trueShare(1))]);
      await block;
      await bus.publish('block.outcome', [
        {
          key: '',
          value: encodeBlockOutcome({
            headerHash: new Uint8Array(32).fill(1),
            height: 101,
            state: 'accepted',
            node: 'core',
            detail: '',
            confirmations: 1,
            atMs: NOW_MS + 5,
          }),
        },
        { key: '', value: Uint8Array.from([255]) },
      ]);
      assert.equal(status().stored, 1);
      const [stored] = await listBlocks(db, { limit: 5 });
      assert.equal(stored?.state, 'accepted');
      assert.equal(stored?.worker, 'rig');
      await stop();
    });
  });
}
