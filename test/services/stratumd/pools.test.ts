/** Pools side by side in one gateway: whose rules a share is counted by, what its coinbase pays, and that the auditor agrees. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { decodeAddress, encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { decodeTx } from '../../../src/core/bitcoin/tx.ts';
import type { CoinbasePlan } from '../../../src/core/ledger/plan.ts';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { PROFILES } from '../../../src/core/stratum/profiles.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import { COINBASE_CLASSES, type CoinbasePool } from '../../../src/core/work/payout.ts';
import { Auditor } from '../../../src/services/shareproc/audit.ts';
import { JobBook } from '../../../src/services/stratumd/jobs.ts';
import {
  type Client,
  codeOf,
  createJob,
  createRig,
  EASY_BITS,
  MINER,
  mine,
  OTHER_MINER,
  POOL,
  partsGiven,
  type Rig,
} from './gateway-rig.ts';

const script = (address: string): Uint8Array => {
  const decoded = decodeAddress(address, 'regtest');
  assert.ok(decoded.ok);
  return decoded.script;
};

const FEE = { ppm: 10_000, script: script(POOL) };
const POOLS: readonly CoinbasePool[] = [
  { id: 'main', coinbase: { mode: 'pool', script: script(POOL), address: POOL } },
  { id: 'lone', coinbase: { mode: 'solo', fee: FEE } },
  { id: 'plan', coinbase: { mode: 'direct', fee: FEE } },
];
const SPLIT = `${OTHER_MINER}*1,${MINER}*3`;

/** A plan that pays `count` people of its own; `number` makes it differ from others. */
function planOf(number: number, count: number, pool = 'plan'): CoinbasePlan {
  const entries = Array.from({ length: count }, (_, at) => {
    const paid = Uint8Array.of(0, 20, number, at >> 8, at & 0xff, ...new Array<number>(17).fill(5));
    const address = encodeAddress(paid, 'regtest')!;
    return { address, script: paid, weight: BigInt(count - at), carrySats: 0n };
  });
  return {
    planId: number.toString(16).padStart(16, '0'),
    pool,
    lastSeq: BigInt(number),
    totalWeight: entries.reduce((sum, { weight }) => sum + weight, 0n),
    entries,
    createdAtMs: number,
  };
}

const createPools = (limits = SESSION_LIMITS): Rig =>
  createRig({ options: { pools: POOLS, limits } });

/** A miner on the port of a pool, subscribed and authorized. */
function startIn(rig: Rig, pool: string, username = `${MINER}.w`, agent = 'test/1'): Client {
  const client = rig.connect(undefined, { pool });
  client.start(username, agent);
  return client;
}

const outputsOf = (coinbase: Uint8Array): [string, bigint][] => {
  const decoded = decodeTx(coinbase);
  assert.ok(decoded.ok);
  return decoded.tx.outputs.map(({ script: paid, valueSats }) => [encodeHex(paid), valueSats]);
};

describe('ports of different pools in one gateway', () => {
  test('shares and finds name the pool of their port, the facts of their job, and in mode direct the plan', () => {
    const rig = createPools();
    const job = createJob({ bits: EASY_BITS });
    rig.gateway.setPlans([planOf(1, 40)], rig.nowMs);
    rig.setJob(job);
    for (const [at, [pool, planId, coinbaseBytes]] of (
      [
        ['main', '', 0],
        ['lone', '', 0],
        ['plan', planOf(1, 1).planId, 16_384],
      ] as const
    ).entries()) {
      const client = startIn(rig, pool);
      client.submit(mine(client, job, { block: true, parts: partsGiven(client) }));
      const share = rig.journal.appended[at]!;
      assert.deepEqual(
        [share.pool, share.networkBits, share.jobValueSats, share.planId, share.coinbaseBytes],
        [pool, EASY_BITS, job.coinbaseValueSats, planId, coinbaseBytes],
      );
      const block = rig.blocks[at]!;
      assert.deepEqual([block.pool, block.planId, block.account], [pool, planId, MINER]);
      const outputs = outputsOf(block.coinbase);
      assert.equal(
        outputs.reduce((sum, [, sats]) => sum + sats, 0n),
        job.coinbaseValueSats,
      );
      if (pool === 'main') assert.deepEqual(outputs, [[encodeHex(FEE.script), 5_000_000_000n]]);
      if (pool === 'lone') {
        assert.deepEqual(outputs, [
          [encodeHex(script(MINER)), 4_950_000_000n],
          [encodeHex(FEE.script), 50_000_000n],
        ]);
      }
      if (pool === 'plan') assert.equal(outputs.length, 40);
    }
  });

  test('a port that names no pool is of the pool main; one of an unknown pool is a fault of the configuration', () => {
    const rig = createPools();
    rig.setJob(createJob());
    const client = rig.connect();
    client.start();
    assert.equal(client.session.pool.id, 'main');
    assert.throws(() => rig.connect(undefined, { pool: 'none' }), RangeError);
  });

  test('a session that resumes on the port of another pool works for that; what it was given before is judged as it was', () => {
    const rig = createPools();
    const first = createJob();
    rig.setJob(first);
    const before = startIn(rig, 'lone');
    const inFlight = mine(before, first, { parts: partsGiven(before) });
    const { sessionId } = before.session;
    rig.gateway.closed(before.session, rig.nowMs);

    const after = rig.connect(undefined, { pool: 'main' });
    after.call('mining.subscribe', ['test/1', sessionId]);
    after.call('mining.authorize', [`${MINER}.w`, 'x']);
    assert.equal(after.extranonce1, before.extranonce1);
    assert.equal(after.session.pool.id, 'main');
    const next = createJob();
    rig.setJob(next);
    after.take();
    after.submit(mine(after, next, { parts: partsGiven(after) }));
    after.submit(inFlight);
    assert.deepEqual(
      rig.journal.appended.map(({ pool, jobId }) => [pool, jobId]),
      [
        ['main', next.jobId],
        ['lone', first.jobId],
      ],
    );
    // The other way round, and with another device, into the pool that pays by plan.
    rig.gateway.closed(after.session, rig.nowMs);
    rig.gateway.setPlans([planOf(1, 100)], rig.nowMs);
    const third = rig.connect(undefined, { pool: 'plan' });
    third.call('mining.subscribe', ['nerdminer/1', sessionId]);
    third.call('mining.authorize', [`${MINER}.w`, 'x']);
    const last = createJob();
    rig.setJob(last);
    third.take();
    third.submit(mine(third, last, { parts: partsGiven(third) }));
    const share = rig.journal.appended.at(-1)!;
    assert.deepEqual([share.pool, share.coinbaseBytes], ['plan', 256]);
  });

  test('the same worker in two pools has a record in each', () => {
    const rig = createPools();
    const job = createJob();
    rig.setJob(job);
    for (const [pool, count] of [
      ['main', 2],
      ['lone', 1],
    ] as const) {
      const client = startIn(rig, pool);
      for (let n = 0; n < count; n += 1)
        client.submit(mine(client, job, { parts: partsGiven(client) }));
      client.call('mining.submit', []);
    }
    const { workers } = rig.gateway.snapshot(rig.nowMs);
    assert.deepEqual(
      workers.map(({ pool, account, accepted }) => [pool, account, accepted]),
      [
        ['main', MINER, 2],
        ['lone', MINER, 1],
      ],
    );
    assert.equal(rig.gateway.rejections(`${MINER}.w`)?.length, 2);
  });

  test('a find of nobody who is authorized is still a find of the pool', () => {
    const rig = createPools();
    const job = createJob({ bits: EASY_BITS });
    rig.gateway.setPlans([planOf(1, 5)], rig.nowMs);
    rig.setJob(job);
    const known = startIn(rig, 'plan');
    const silent = rig.connect(undefined, { pool: 'plan' });
    silent.call('mining.subscribe', ['test/1']);
    const share = mine(silent, job, { block: true, parts: partsGiven(known) });
    assert.equal(codeOf(silent.submit(share)), 24);
    const [block] = rig.blocks;
    assert.deepEqual(
      [block?.pool, block?.planId, block?.account],
      ['plan', planOf(1, 1).planId, ''],
    );
    assert.equal(rig.journal.appended.length, 0);
  });

  test('where blocks pay their finder a connection has one account', () => {
    const rig = createPools();
    rig.setJob(createJob());
    for (const [pool, code] of [
      ['main', 0],
      ['lone', 24],
      ['plan', 24],
    ] as const) {
      const client = startIn(rig, pool);
      assert.equal(codeOf(client.call('mining.authorize', [`${OTHER_MINER}.w`, 'x'])), code, pool);
      assert.equal(codeOf(client.call('mining.authorize', [`${MINER}.w2`, 'x'])), 0, pool);
    }
  });
});

describe('accounts split over addresses', () => {
  test('solo: every address is in the coinbase with its part', () => {
    const rig = createPools();
    const job = createJob({ bits: EASY_BITS });
    rig.setJob(job);
    const username = `${OTHER_MINER}*25,${MINER}*75.rig`;
    const client = startIn(rig, 'lone', username);
    client.submit(mine(client, job, { block: true, parts: partsGiven(client) }), username);
    assert.equal(rig.journal.appended[0]?.account, SPLIT);
    assert.equal(rig.blocks[0]?.account, SPLIT);
    assert.deepEqual(outputsOf(rig.blocks[0]!.coinbase), [
      [encodeHex(script(MINER)), 3_712_500_000n],
      [encodeHex(script(OTHER_MINER)), 1_237_500_000n],
      [encodeHex(FEE.script), 50_000_000n],
    ]);
    rig.commitAll();
    // The same split in another spelling is the same account, and so may share the connection.
    assert.equal(
      codeOf(client.call('mining.authorize', [`${MINER}*3,${OTHER_MINER}*1.b`, 'x'])),
      0,
    );
    assert.equal(
      codeOf(client.call('mining.authorize', [`${MINER}*4,${OTHER_MINER}*1.b`, 'x'])),
      24,
    );
  });

  test('direct without a plan: as solo, but never larger than the device takes', () => {
    const rig = createPools();
    const job = createJob({ bits: EASY_BITS });
    rig.setJob(job);
    const username = Array.from({ length: 8 }, (_, at) => {
      const paid = Uint8Array.of(0, 20, ...new Array<number>(20).fill(at + 1));
      return `${encodeAddress(paid, 'regtest')!}*${at + 1}`;
    }).join(',');
    const client = startIn(rig, 'plan', username, 'nerdminer/1');
    client.submit(mine(client, job, { block: true, parts: partsGiven(client) }), username);
    assert.ok(rig.blocks[0]!.coinbase.length <= 256);
    assert.deepEqual([rig.blocks[0]!.planId, rig.journal.appended[0]!.coinbaseBytes], ['', 256]);
    assert.equal(rig.metrics.oversizedCoinbases, 0);
  });

  test('a bad split is answered as one', () => {
    const rig = createPools();
    const answer = rig.connect().call('mining.authorize', [`${MINER}*60,${OTHER_MINER}.rig`, 'x']);
    assert.deepEqual(answer[0]?.error?.slice(0, 2), [
      24,
      'bad split: expected ADDRESS*60,ADDRESS*40.worker, up to 8',
    ]);
  });
});

describe('plans', () => {
  test('a new plan holds from the next job on, and what was given before stays as it was', () => {
    const rig = createPools();
    rig.gateway.setPlans([planOf(1, 10)], rig.nowMs);
    const first = createJob();
    rig.setJob(first);
    const client = startIn(rig, 'plan');
    const given = partsGiven(client);
    rig.gateway.setPlans([planOf(2, 20)], rig.nowMs);
    rig.settle();
    assert.deepEqual(client.take(), []);
    const late = startIn(rig, 'plan', `${OTHER_MINER}.w`);
    assert.deepEqual(partsGiven(late), given, 'the job has one coinbase, whoever comes');
    const second = createJob();
    rig.setJob(second);
    client.take();
    assert.notDeepEqual(partsGiven(client), given);
    client.submit(mine(client, first, { parts: given }));
    client.submit(mine(client, second, { parts: partsGiven(client) }));
    assert.deepEqual(
      rig.journal.appended.map(({ jobId, planId }) => [jobId, planId]),
      [
        [first.jobId, planOf(1, 1).planId],
        [second.jobId, planOf(2, 1).planId],
      ],
    );
  });

  test('the first plan of a pool is used at once, under a new id of the newest job', () => {
    const rig = createPools();
    const job = createJob();
    rig.setJob(job);
    const client = startIn(rig, 'plan');
    const before = partsGiven(client);
    rig.gateway.setPlans([planOf(1, 10)], rig.nowMs);
    rig.settle();
    client.take();
    const jobId = String(client.notify[0]);
    assert.notEqual(jobId, job.jobId);
    client.submit(mine(client, job, { parts: partsGiven(client), jobId, ntime: job.curtime + 1 }));
    client.submit(mine(client, job, { parts: before }));
    assert.deepEqual(
      rig.journal.appended.map((share) => [share.jobId, share.planId]),
      [
        [job.jobId, planOf(1, 1).planId],
        [job.jobId, ''],
      ],
    );
    // The same plans once more, and plans of pools that are not direct, change nothing.
    rig.gateway.setPlans([planOf(1, 10), planOf(3, 1, 'main'), planOf(3, 1, 'none')], rig.nowMs);
    rig.settle();
    assert.deepEqual(client.take(), []);
  });

  test('no device gets a coinbase or a line that is too long for it, however many a plan names', () => {
    const rig = createPools();
    rig.gateway.setPlans([planOf(1, 500)], rig.nowMs);
    const branch = Array.from({ length: 14 }, () => new Uint8Array(32).fill(3));
    rig.setJob(createJob({ branch, witnessCommitment: new Uint8Array(38) }));
    for (const profile of PROFILES) {
      const client = startIn(rig, 'plan', `${MINER}.w`, profile.prefixes[0]);
      assert.equal(client.session.profile.name, profile.name);
      const { prefix, suffix } = partsGiven(client);
      assert.ok(prefix.length + 12 + suffix.length <= profile.coinbaseBytesMax, profile.name);
      const line = JSON.stringify({ id: null, method: 'mining.notify', params: client.notify });
      assert.ok(line.length < profile.notifyBytesMax, profile.name);
    }
    assert.equal(rig.metrics.oversizedCoinbases, 0);
  });

  test('compiled coinbases are one per job, pool and size, whatever the number of miners', () => {
    const book = new JobBook({
      limits: SESSION_LIMITS,
      pools: [...POOLS, { id: 'plan-2', coinbase: { mode: 'direct', fee: null } }],
      coinbaseTag: '/t/',
    });
    book.setPlans([planOf(1, 50), planOf(2, 50, 'plan-2')]);
    const call = book.add(createJob(), 1, 0, () => {})!;
    const seen = new Set<unknown>();
    for (let n = 0; n < 200; n += 1) {
      for (const id of ['plan', 'plan-2']) {
        const coinbaseClass = COINBASE_CLASSES[n % COINBASE_CLASSES.length]!;
        const finder = { account: `a${n}`, parts: [{ script: script(MINER), weight: 1n }] };
        seen.add(book.compile(call, { pool: book.poolOf(id), coinbaseClass }, finder));
      }
    }
    assert.equal(seen.size, 2 * COINBASE_CLASSES.length);
    assert.equal(call.planned.size, 2 * COINBASE_CLASSES.length);
    const again = book.callAgain(2)!;
    assert.equal(again.planned, call.planned, 'another call with the same plans shares them');
  });
});

test('whatever pools, plans, devices and splits there are, the auditor finds every share valid', () => {
  const agents = ['', 'nerdminer/1', 'nicehash/1', 'bitaxe/1', 'bmminer/2', 'cgminer/4.12'];
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('job' as const),
      weightMax: fc.constantFrom(2_000, 8_000, 70_000),
    }),
    fc.record({
      kind: fc.constant('plan' as const),
      number: fc.integer({ min: 1, max: 255 }),
      count: fc.constantFrom(0, 1, 7, 300),
    }),
    fc.record({
      kind: fc.constant('miner' as const),
      pool: fc.constantFrom('main', 'lone', 'plan'),
      agent: fc.constantFrom(...agents),
      account: fc.constantFrom(MINER, OTHER_MINER, SPLIT),
    }),
    fc.record({ kind: fc.constant('share' as const), miner: fc.nat() }),
    fc.record({ kind: fc.constant('share' as const), miner: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 30 }), (steps) => {
      const rig = createPools();
      const auditor = new Auditor(foldInTypescript, {
        network: 'regtest',
        coinbaseTag: rig.options.coinbaseTag,
        pools: POOLS,
      });
      const miners: { client: Client; account: string }[] = [];
      let job = createJob();
      const setJob = (): void => {
        auditor.addJob(job);
        rig.setJob(job);
        for (const { client } of miners) client.take();
      };
      setJob();
      let sent = 0;
      for (const one of steps) {
        if (one.kind === 'job') {
          job = createJob({
            coinbaseWeightMax: one.weightMax,
            witnessCommitment: new Uint8Array(38),
          });
          setJob();
        } else if (one.kind === 'plan') {
          // A plan's id stands for its content.
          const planId = (one.number * 1_000 + one.count).toString(16).padStart(16, '0');
          const plans = [{ ...planOf(one.number, one.count), planId }];
          auditor.addPlans(plans);
          rig.gateway.setPlans(plans, rig.nowMs);
          rig.settle();
          for (const { client } of miners) client.take();
        } else if (one.kind === 'miner') {
          const client = startIn(rig, one.pool, `${one.account}.w`, one.agent);
          miners.push({ client, account: one.account });
        } else if (miners.length > 0) {
          const { client, account } = miners[one.miner % miners.length]!;
          const jobId = String(client.notify[0]);
          const parts = partsGiven(client);
          const { difficulty } = client;
          if (difficulty > 2 ** -20) continue;
          client.submit(mine(client, job, { parts, jobId, difficulty }), `${account}.w`);
          sent += 1;
        }
      }
      assert.equal(rig.journal.appended.length, sent);
      for (const share of rig.journal.appended) {
        assert.deepEqual(auditor.audit(share), { verdict: 'valid' });
        assert.deepEqual(auditor.audit({ ...share, pool: 'other' }).verdict, 'rejected');
      }
    }),
    { numRuns: 40 },
  );
});
