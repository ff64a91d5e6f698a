import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import {
  difficultyOfTarget,
  hashToInteger,
  targetOfDifficulty,
} from '../../../src/core/bitcoin/target.ts';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import {
  type Client,
  codeOf,
  createJob,
  createRig,
  EASY_BITS,
  type Message,
  MINER,
  mine,
  OTHER_MINER,
  POOL,
  type Rig,
  SHARE_DIFFICULTY,
  type Share,
  submitParams,
} from './gateway-rig.ts';

const TIP = (n: number) => new Uint8Array(32).fill(n);

function methods(messages: readonly Message[]): string[] {
  return messages.map((message) => message.method ?? 'answer');
}

function started(rig: Rig, username = `${MINER}.w`): Client {
  const client = rig.connect();
  client.start(username);
  return client;
}

// ---- order and form of what goes out -------------------------------------------------------------------------------

test('the subscribe reply comes first, then difficulty, then job, in one write', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = rig.connect();
  rig.gateway.line(client.session, '{"id":1,"method":"mining.subscribe","params":[]}', rig.nowMs);
  rig.gateway.flush(client.session);
  assert.equal(client.connection.writes.length, 1);
  assert.deepEqual(methods(client.take()), ['answer', 'mining.set_difficulty', 'mining.notify']);
  assert.equal(client.notify[8], true, 'the first job is a clean one');
});

test('a session that comes before the first template gets its job when there is one', () => {
  const rig = createRig();
  const client = started(rig);
  assert.deepEqual(methods(client.take()), []);
  rig.setJob(createJob());
  assert.deepEqual(methods(client.take()), ['mining.set_difficulty', 'mining.notify']);
});

test('sessions that share a coinbase get the same bytes', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const written: (string | Uint8Array)[] = [];
  for (let n = 0; n < 3; n += 1) {
    const client = started(rig);
    client.connection.write = (data) => void written.push(data);
  }
  rig.setJob(createJob());
  assert.equal(written.length, 3);
  assert.ok(written[0] instanceof Uint8Array);
  assert.equal(written[0], written[1]);
  assert.equal(written[1], written[2]);
});

test('a broadcast goes in chunks, tells everybody once, and the newest job wins', () => {
  const rig = createRig({ options: { limits: { ...SESSION_LIMITS, broadcastChunk: 10 } } });
  rig.setJob(createJob());
  const clients = Array.from({ length: 45 }, () => started(rig));
  const [first, second] = [createJob(), createJob()];
  rig.gateway.setJob(first, rig.nowMs);
  const told = () => clients.filter((client) => client.connection.writes.length > 0).length;
  assert.equal(told(), 10);
  rig.deferred.shift()!();
  assert.equal(told(), 20);
  // One that was told leaves, one that was not leaves, one comes.
  rig.gateway.closed(clients[44]!.session, rig.nowMs);
  rig.gateway.closed(clients[3]!.session, rig.nowMs);
  const late = started(rig);
  rig.gateway.setJob(second, rig.nowMs);
  rig.settle();
  assert.equal(late.take().filter((message) => message.method === 'mining.notify').length, 1);
  for (const [index, client] of clients.entries()) {
    const ids = client.take().map((message) => message.params?.[0]);
    if (index === 44) assert.deepEqual(ids, [first.jobId]);
    else if (index === 3) assert.deepEqual(ids, []);
    else assert.equal(ids.at(-1), second.jobId);
    assert.ok(ids.length <= 2);
    assert.equal(new Set(ids).size, ids.length);
  }
  const onlySecond = clients.filter((client) => client.notify[0] === second.jobId);
  assert.equal(onlySecond.length, 43);
});

test('a congested reader gets only the newest job, once it reads again', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  client.connection.congested = true;
  rig.setJob(createJob());
  rig.setJob(createJob());
  const newest = createJob();
  rig.setJob(newest);
  assert.deepEqual(client.take(), []);
  client.connection.congested = false;
  rig.pass(250);
  assert.deepEqual(
    client.take().map((message) => message.params?.[0]),
    [newest.jobId],
  );
});

test('a new tip is clean, a refreshed job is not, and who missed the tip still gets a clean one', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  rig.setJob(createJob());
  client.take();
  assert.equal(client.notify[8], false);
  rig.setJob(createJob({ previousHash: TIP(9) }));
  client.take();
  assert.equal(client.notify[8], true);
  client.connection.congested = true;
  rig.setJob(createJob({ previousHash: TIP(10) }));
  rig.setJob(createJob({ previousHash: TIP(10) }));
  client.connection.congested = false;
  rig.pass(250);
  client.take();
  assert.equal(client.notify[8], true);
});

// ---- acknowledging ---------------------------------------------------------------------------------------------------

test('true is said when the journal has the share, and later answers stay behind it', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const [a, b] = [mine(client, job), mine(client, job)];
  assert.deepEqual(client.submit(a), []);
  assert.deepEqual(client.call('mining.ping', []), []);
  assert.deepEqual(client.submit(b), []);
  assert.deepEqual(client.submit(b), [], 'even a duplicate waits for its turn');
  rig.gateway.committed(1);
  assert.deepEqual(
    client.take().map((message) => [message.id, message.result]),
    [
      [1, true],
      [2, 'pong'],
    ],
  );
  // A job is no answer: it does not wait.
  rig.setJob(createJob());
  assert.deepEqual(methods(client.take()), ['mining.notify']);
  rig.gateway.committed(2);
  assert.deepEqual(
    client.take().map((message) => [message.id, message.result, message.error?.[0] ?? 0]),
    [
      [3, true, 0],
      [4, null, 22],
    ],
  );
  assert.equal(rig.journal.appended.length, 2);
});

test('one commit answers many sessions, each with one write', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const clients = Array.from({ length: 3 }, () => started(rig));
  for (const client of clients) {
    client.submit(mine(client, job));
    client.submit(mine(client, job));
  }
  rig.commitAll();
  for (const client of clients) {
    assert.equal(client.connection.writes.length, 1);
    assert.deepEqual(
      client.take().map((message) => message.result),
      [true, true],
    );
  }
});

test('a session that left before the commit is no trouble', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const [gone, stays] = [started(rig), started(rig)];
  gone.submit(mine(gone, job));
  stays.submit(mine(stays, job));
  gone.connection.end = 'close';
  rig.gateway.closed(gone.session, rig.nowMs);
  rig.commitAll();
  assert.equal(stays.take()[0]?.result, true);
  assert.equal(rig.journal.appended.length, 2, 'a valid share with FIN is stored');
});

test('the weaker acknowledgement is an option with a name', () => {
  const rig = createRig({ options: { ack: 'memory' } });
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  assert.equal(client.submit(mine(client, job))[0]?.result, true);
});

test('a full journal: no share is acknowledged, difficulty is raised, blocks still go', () => {
  const rig = createRig({ port: { vardiff: true } });
  const job = createJob({ bits: 0x1f00ffff });
  rig.setJob(job);
  const client = started(rig);
  rig.journal.status = 'full';
  const messages = client.submit(
    mine(client, job, { missing: difficultyOfTarget(job.networkTarget) }),
  );
  assert.equal(codeOf(messages), 20);
  assert.match(String(messages[0]?.error?.[1]), /storage/);
  assert.deepEqual(methods(messages), ['answer', 'mining.set_difficulty', 'mining.notify']);
  const block = mine(client, job, { block: true });
  assert.equal(codeOf(client.submit(block)), 20);
  assert.equal(rig.blocks.length, 1);
  rig.journal.status = 'ok';
  client.submit(block);
  rig.commitAll();
  assert.equal(
    client.take()[0]?.result,
    true,
    'the refused share was not remembered as a duplicate',
  );
});

test('a share record says everything that rebuilds it', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const share = mine(client, job);
  client.submit(share);
  const [record] = rig.journal.appended;
  assert.ok(record);
  assert.equal(encodeHex(record.headerHash), encodeHex(share.hash));
  assert.equal(record.jobId, job.jobId);
  assert.equal(encodeHex(record.extranonce1), client.extranonce1);
  assert.equal(encodeHex(record.extranonce2), share.extranonce2);
  assert.equal(record.difficulty, SHARE_DIFFICULTY);
  assert.ok(record.shareDifficulty >= SHARE_DIFFICULTY);
  assert.deepEqual(
    [record.account, record.worker, record.gateway, record.height, record.isBlock, record.version],
    [MINER, 'w', 'g1', job.height, false, job.version],
  );
  assert.equal(record.sessionId, client.session.sessionId);
  assert.equal(record.acceptedAtMs, rig.nowMs);
});

// ---- P03: a block is a block whatever policy says --------------------------------------------------------------------

const policies: [
  string,
  number,
  (rig: Rig) => { client: Client; share: Share; username?: string },
][] = [
  [
    'stale by one tip',
    21,
    (rig) => {
      const { client, job } = easy(rig);
      rig.setJob(createJob({ bits: EASY_BITS, previousHash: TIP(50) }));
      return { client, share: mine(client, job, { block: true }) };
    },
  ],
  [
    'stale by two tips',
    21,
    (rig) => {
      const { client, job } = easy(rig);
      rig.setJob(createJob({ bits: EASY_BITS, previousHash: TIP(50) }));
      rig.setJob(createJob({ bits: EASY_BITS, previousHash: TIP(51) }));
      return { client, share: mine(client, job, { block: true }) };
    },
  ],
  [
    'duplicate',
    22,
    (rig) => {
      const { client, job } = easy(rig);
      const share = mine(client, job, { block: true });
      client.submit(share);
      rig.commitAll();
      client.take();
      rig.blocks.length = 0;
      return { client, share };
    },
  ],
  [
    'version bits outside the mask',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      client.call('mining.configure', [
        ['version-rolling'],
        { 'version-rolling.mask': '1fffe000' },
      ]);
      return {
        client,
        share: mine(client, job, { block: true, version: 0x20000001, versionBits: '20000001' }),
      };
    },
  ],
  [
    'version bits without negotiation',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      return {
        client,
        share: mine(client, job, { block: true, version: 0x20004000, versionBits: '00004000' }),
      };
    },
  ],
  [
    'ntime too old',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      return { client, share: mine(client, job, { block: true, ntime: job.mintime - 1 }) };
    },
  ],
  [
    'ntime too new',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      return { client, share: mine(client, job, { block: true, ntime: job.curtime + 7_001 }) };
    },
  ],
  [
    'unauthorized after subscribe',
    24,
    (rig) => {
      const job = createJob({ bits: EASY_BITS });
      rig.setJob(job);
      const client = rig.connect();
      client.call('mining.subscribe', []);
      return { client, share: mine(client, job, { block: true }) };
    },
  ],
  [
    'worker of another account',
    24,
    (rig) => {
      const { client, job } = easy(rig);
      return { client, share: mine(client, job, { block: true }), username: `${OTHER_MINER}.w` };
    },
  ],
  [
    'over the rate',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      client.session.submitTokens = 0;
      return { client, share: mine(client, job, { block: true }) };
    },
  ],
  [
    'journal failed',
    20,
    (rig) => {
      const { client, job } = easy(rig);
      rig.journal.status = 'failed';
      return { client, share: mine(client, job, { block: true }) };
    },
  ],
];

function easy(rig: Rig) {
  const job = createJob({ bits: EASY_BITS });
  rig.setJob(job);
  return { client: started(rig), job };
}

for (const [name, code, prepare] of policies) {
  test(`P03: a winning header reaches the lane: ${name}`, () => {
    const rig = createRig();
    const { client, share, username } = prepare(rig);
    const messages = client.submit(share, username);
    rig.commitAll();
    assert.equal(codeOf([...messages, ...client.take()]), code);
    assert.equal(rig.blocks.length, 1);
    const [block] = rig.blocks;
    assert.equal(block?.header.length, 80);
    assert.deepEqual(doubleSha(block!.header), block!.headerHash);
    assert.equal(block!.jobId, share.jobId);
    assert.equal(block!.rewardSats, 5_000_000_000n);
  });
}

test('P03: the last words of a closed session may hold a block', () => {
  const rig = createRig();
  const { client, job } = easy(rig);
  const share = mine(client, job, { block: true });
  client.send('{');
  assert.equal(client.connection.end, 'close');
  const line = JSON.stringify({
    id: 9,
    method: 'mining.submit',
    params: submitParams(share, `${MINER}.w`),
  });
  client.send(line, 'garbage mining.submit', '{"method":"mining.submit"}');
  assert.equal(rig.blocks.length, 1);
  assert.equal(rig.journal.appended.length, 0);
});

test('a network easier than the port is mined at the port’s minimum, so that a CPU does not flood it', () => {
  const rig = createRig({ port: { minDifficulty: 0.001, startDifficulty: 1000 } });
  rig.setJob(createJob({ bits: EASY_BITS }));
  assert.equal(started(rig, `${MINER}.w`).difficulty, 0.001);
});

test('P03: difficulty never stands above the network, and a block is worth a block', () => {
  const rig = createRig({ port: { minDifficulty: 1e-12, startDifficulty: 1000 } });
  const job = createJob({ bits: EASY_BITS });
  rig.setJob(job);
  const client = started(rig, `${MINER}.w`);
  client.call('mining.authorize', [`${MINER}.w2`, 'fd=1000000']);
  assert.equal(client.difficulty, difficultyOfTarget(job.networkTarget));
  client.submit(mine(client, job, { block: true }));
  assert.equal(rig.blocks.length, 1);
  assert.equal(rig.journal.appended[0]?.isBlock, true);
  assert.ok(rig.journal.appended[0]!.difficulty <= difficultyOfTarget(job.networkTarget));
});

test("P03: where the port's minimum is above the network, an easier block is still a block and worth no more", () => {
  const rig = createRig({ port: { minDifficulty: 2 ** -20, startDifficulty: 2 ** -20 } });
  const job = createJob({ bits: EASY_BITS });
  rig.setJob(job);
  const client = started(rig);
  assert.equal(client.difficulty, 2 ** -20);
  client.submit(mine(client, job, { block: true, missing: 2 ** -24 }));
  assert.equal(rig.blocks.length, 1);
  assert.equal(rig.journal.appended[0]?.difficulty, difficultyOfTarget(job.networkTarget));
  // The next job is still shared bytes.
  rig.setJob(createJob({ bits: EASY_BITS }));
  rig.commitAll();
  assert.deepEqual(methods(client.take()), ['mining.notify', 'answer']);
});

test('the share of a found block is acknowledged when the lane has it too, and answers behind it wait with it', () => {
  const rig = createRig();
  const { client, job } = easy(rig);
  const other = started(rig, `${MINER}.other`);
  rig.lane.isPrompt = false;
  assert.deepEqual(client.submit(mine(client, job, { block: true })), []);
  assert.deepEqual(other.submit(mine(other, job, { block: false })), []);
  rig.commitAll();
  assert.deepEqual([...client.take(), ...other.take()], [], 'the block is not safe yet');
  for (const onKept of rig.lane.waiting) onKept();
  const answers = client.take();
  assert.equal(answers.find(({ id }) => id !== null)?.result, true, JSON.stringify(answers));
  assert.equal(other.take()[0]?.result, true);
});

test('a lane that says nothing holds up answers for a second at most', () => {
  const rig = createRig();
  const { client, job } = easy(rig);
  rig.lane.isPrompt = false;
  client.submit(mine(client, job, { block: true }));
  rig.commitAll();
  rig.pass(750);
  assert.deepEqual(client.take(), []);
  rig.pass(500);
  assert.equal(client.take().at(-1)?.result, true);
});

test('on a toy network a flood of blocks does not drown the lane, and every tip has its first ones', () => {
  const rig = createRig();
  const { client, job } = easy(rig);
  for (let n = 0; n < 100; n += 1) client.submit(mine(client, job, { block: true }));
  assert.equal(rig.blocks.length, 16);
  assert.equal(rig.metrics.toyBlocksHeldBack, 84);
  const next = createJob({ bits: EASY_BITS, previousHash: TIP(60) });
  rig.setJob(next);
  client.submit(mine(client, next, { block: true }));
  assert.equal(rig.blocks.length, 17);
});

test('on a real network every winning header goes to the lane', () => {
  const hard = createJob({ networkTarget: targetOfDifficulty(2 ** -13), bits: 0x1f000fff });
  const rig = createRig({ port: { startDifficulty: 2 ** -24 } });
  rig.setJob(hard);
  const client = started(rig);
  const share = mine(client, hard, { block: true });
  for (let n = 0; n < 40; n += 1) client.submit(share);
  assert.equal(rig.blocks.length, 40, 'also the duplicates: the node knows best');
});

test('jobs of the third last tip are gone, those of the last three are whole', () => {
  const rig = createRig({ options: { limits: { ...SESSION_LIMITS, jobsMin: 1 } } });
  const jobs = [1, 2, 3, 4].map((n) => createJob({ bits: EASY_BITS, previousHash: TIP(n) }));
  for (const job of jobs) rig.setJob(job);
  const client = started(rig);
  const [gone, old] = jobs;
  assert.equal(codeOf(client.submit(mine(client, gone!, { block: true }))), 21);
  assert.equal(rig.blocks.length, 0);
  assert.equal(codeOf(client.submit(mine(client, old!, { block: true }))), 21);
  assert.equal(rig.blocks.length, 1);
});

// ---- P02, P07, P09 to P12 --------------------------------------------------------------------------------------------

test('P02: the verdict agrees with an independent verifier', () => {
  const rig = createRig({
    port: { startDifficulty: 2 ** -31, minDifficulty: 2 ** -31 },
    options: {
      limits: { ...SESSION_LIMITS, submitsPerSecond: 1e9, submitBurst: 1e9, scoreMax: 1e9 },
    },
  });
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const pool = decodeAddress(POOL, 'regtest');
  assert.ok(pool.ok);
  const parts = client.notify as [string, string, string, string, string[], string, string, string];
  const target = targetOfDifficulty(2 ** -31);
  let accepted = 0;
  fc.assert(
    fc.property(
      fc.bigInt(0n, 2n ** 64n - 1n),
      fc.nat(0xffffffff),
      fc.nat(6_000),
      (extra, nonce, ahead) => {
        const extranonce2 = extra.toString(16).padStart(16, '0');
        const ntime = job.curtime + ahead;
        const share = {
          jobId: parts[0],
          extranonce2,
          ntime: ntime.toString(16).padStart(8, '0'),
          nonce: nonce.toString(16).padStart(8, '0'),
        };
        const header = slowHeader(parts, client.extranonce1, share);
        const isGood = hashToInteger(doubleSha(header)) <= target;
        const before = rig.journal.appended.length;
        const messages = client.submit(share);
        if (isGood) accepted += 1;
        if (isGood) assert.equal(rig.journal.appended.length, before + 1);
        else assert.equal(codeOf(messages), 23);
        rig.commitAll();
        client.take();
      },
    ),
    { numRuns: 3_000 },
  );
  assert.ok(accepted > 300);
});

test('P07: forty spellings of one share are one share', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  client.call('mining.configure', [['version-rolling'], { 'version-rolling.mask': 'ffffffff' }]);
  const share = mine(client, job);
  const short = (hex: string) => hex.replace(/^0+/, '') || '0';
  const nonces = [share.nonce, share.nonce.toUpperCase(), short(share.nonce), `0x${share.nonce}`];
  const times = [share.ntime, share.ntime.toUpperCase(), `0X${short(share.ntime)}`];
  const versions = [undefined, '00000000', '0', '20000000', '0x20000000'];
  let spellings = 0;
  for (const nonce of nonces) {
    for (const ntime of times) {
      for (const versionBits of versions) {
        const spelling: Share = { ...share, nonce, ntime };
        spelling.extranonce2 = spellings % 2 ? share.extranonce2.toUpperCase() : share.extranonce2;
        if (versionBits !== undefined) spelling.versionBits = versionBits;
        client.session.score = 0;
        client.submit(spelling, spellings % 3 ? `${MINER}.w` : `${MINER.toUpperCase()}.w`);
        spellings += 1;
      }
    }
  }
  assert.ok(spellings >= 40);
  assert.equal(rig.journal.appended.length, 1);
});

test('P07: a share does not count again after a resumed session, nor P12: on another session', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const first = started(rig);
  const share = mine(first, job);
  first.submit(share);
  rig.commitAll();
  const { sessionId } = first.session;
  const other = started(rig);
  assert.equal(codeOf(other.submit(share)), 23);
  const second = rig.connect();
  second.send(`{"id":1,"method":"mining.subscribe","params":["a","${sessionId}"]}`);
  second.call('mining.authorize', [`${MINER}.w`, 'x']);
  assert.equal(second.extranonce1, first.extranonce1);
  assert.equal(first.connection.end, 'destroy', 'the half-open old connection is closed');
  assert.equal(codeOf(second.submit(share)), 22);
  second.submit(mine(second, job));
  rig.commitAll();
  assert.equal(second.take().at(-1)?.result, true, 'work of the old connection is still good');
});

test('P09 and P10: a share is worth what was announced with its job, however difficulty moves meanwhile', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof(
          fc.constant('job' as const),
          fc.constant('share' as const),
          fc.nat(4).map((n) => ({ difficulty: 2 ** (-26 + n) })),
        ),
        { maxLength: 24 },
      ),
      (steps) => {
        const rig = createRig({
          options: { limits: { ...SESSION_LIMITS, suggestIntervalMs: 0, scoreMax: 1e9 } },
        });
        const jobs = [createJob()];
        rig.setJob(jobs[0]!);
        const client = started(rig);
        const announced: {
          id: string;
          job: ReturnType<typeof createJob>;
          difficulty: number;
          ntime: number;
        }[] = [];
        const note = (messages: Message[]) => {
          let difficulty = announced.at(-1)?.difficulty ?? 0;
          for (const message of messages) {
            if (message.method === 'mining.set_difficulty')
              difficulty = Number(message.params?.[0]);
            if (message.method !== 'mining.notify') continue;
            const id = String(message.params?.[0]);
            const job = jobs.find((one) => id.startsWith(one.jobId))!;
            assert.ok(!announced.some((one) => one.id === id), 'an id is announced once');
            announced.push({
              id,
              job,
              difficulty,
              ntime: Number.parseInt(String(message.params?.[7]), 16),
            });
          }
        };
        announced.push({
          id: jobs[0]!.jobId,
          job: jobs[0]!,
          difficulty: client.difficulty,
          ntime: jobs[0]!.curtime,
        });
        for (const [index, step] of steps.entries()) {
          rig.nowMs += 1_000;
          if (step === 'job') {
            const job = createJob();
            jobs.push(job);
            rig.gateway.setJob(job, rig.nowMs);
            rig.settle();
            note(client.take());
          } else if (step === 'share') {
            const back = announced[Math.max(0, announced.length - 1 - (index % 3))]!;
            const share = mine(client, back.job, {
              jobId: back.id,
              difficulty: back.difficulty,
              ntime: back.ntime,
            });
            const before = rig.journal.appended.length;
            note(client.submit(share));
            assert.equal(
              rig.journal.appended.length,
              before + 1,
              'an honest share is never refused',
            );
            assert.equal(rig.journal.appended.at(-1)!.difficulty, back.difficulty);
            rig.commitAll();
            note(client.take());
          } else {
            note(client.call('mining.suggest_difficulty', [step.difficulty]));
          }
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('a share that is too easy for its job is refused although the session has an easier one now', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const weak = mine(client, job, { difficulty: 2 ** -28, missing: SHARE_DIFFICULTY });
  client.call('mining.suggest_difficulty', [2 ** -28]);
  assert.equal(client.difficulty, 2 ** -28);
  assert.notEqual(client.notify[0], job.jobId);
  assert.equal(codeOf(client.submit(weak)), 23);
});

test('version bits: delta, whole and difference forms of one header, also when the job has bits inside the mask', () => {
  for (const [version, bits, header] of [
    [0x20000000, '00004000', 0x20004000],
    [0x20000000, '20004000', 0x20004000],
    [0x20006000, '00004000', 0x20004000],
    [0x20006000, '00002000', 0x20004000],
    [0x20006000, '20004000', 0x20004000],
    [0x20006000, undefined, 0x20006000],
  ] as const) {
    const rig = createRig();
    const job = createJob({ version });
    rig.setJob(job);
    const client = started(rig);
    client.call('mining.configure', [['version-rolling'], { 'version-rolling.mask': 'ffffffff' }]);
    const share: Share = mine(client, job, { version: header });
    if (bits !== undefined) share.versionBits = bits;
    client.submit(share);
    assert.equal(rig.journal.appended.length, 1, `${version.toString(16)} ${bits}`);
    assert.equal(rig.journal.appended[0]?.version, header);
  }
});

// ---- sessions --------------------------------------------------------------------------------------------------------

test('P08: extranonces never meet, also across restarts, and the lease is stored before its first use', () => {
  let stored = 0;
  const persistLease = (highWater: number) => {
    assert.ok(highWater > stored);
    stored = highWater;
  };
  const seen = new Set<string>();
  for (let restart = 0; restart < 3; restart += 1) {
    const rig = createRig({ tools: { persistLease }, options: { extranonceHighWater: stored } });
    for (let n = 0; n < 50; n += 1) {
      const client = rig.connect();
      client.call('mining.subscribe', []);
      assert.ok(!seen.has(client.extranonce1));
      seen.add(client.extranonce1);
      if (n % 3 === 0) rig.gateway.closed(client.session, rig.nowMs);
    }
  }
});

test('a lease that cannot be stored refuses the miner and says so', () => {
  const rig = createRig({
    tools: {
      persistLease: () => {
        throw new Error('disk full');
      },
    },
  });
  const client = rig.connect();
  assert.equal(codeOf(client.call('mining.subscribe', [])), 20);
  assert.equal(rig.metrics.leaseFailures, 1);
});

test('a session id is forgotten after its time, and then its extranonce is free', () => {
  const rig = createRig();
  const first = rig.connect();
  first.call('mining.subscribe', []);
  rig.gateway.closed(first.session, rig.nowMs);
  rig.pass(SESSION_LIMITS.resumeTimeMs + 1_000, 10_000);
  const second = rig.connect();
  second.call('mining.subscribe', ['a', first.session.sessionId]);
  assert.notEqual(second.extranonce1, first.extranonce1);
});

test('several workers on one connection are credited each', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  client.call('mining.authorize', [`${OTHER_MINER}.b`, 'x']);
  client.submit(mine(client, job), `${MINER}.w`);
  client.submit(mine(client, job), `${OTHER_MINER}.b`);
  assert.deepEqual(
    rig.journal.appended.map((record) => [record.account, record.worker]),
    [
      [MINER, 'w'],
      [OTHER_MINER, 'b'],
    ],
  );
  const workers = rig.gateway.snapshot(rig.nowMs).workers;
  assert.deepEqual(
    workers.map((worker) => worker.accepted),
    [1, 1],
  );
});

test('time-outs: no authorize, no share, silence', () => {
  const rig = createRig({ port: { vardiff: true } });
  rig.setJob(createJob());
  const mute = rig.connect();
  const half = rig.connect();
  half.call('mining.subscribe', []);
  rig.pass(SESSION_LIMITS.authorizeTimeoutMs + 500);
  assert.equal(mute.connection.endReason, 'no subscribe and authorize in time');
  assert.equal(half.connection.endReason, 'no subscribe and authorize in time');
  assert.equal(rig.metrics.sessions, 0);
});

test('an authorized session without subscribe is not kept (NMMiner #197)', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = rig.connect();
  client.call('mining.authorize', [`${MINER}.w`, 'x']);
  rig.pass(SESSION_LIMITS.authorizeTimeoutMs + 500);
  assert.equal(client.connection.end, 'close');
});

test('a silent miner sinks to the lowest difficulty of its port and is then given more time', () => {
  const rig = createRig({ port: { vardiff: true, startDifficulty: 0.5, minDifficulty: 2 ** -20 } });
  rig.setJob(createJob());
  const client = started(rig);
  for (let n = 0; n < 40; n += 1) {
    rig.pass(25_000, 5_000);
    rig.setJob(createJob({ createdAtMs: rig.nowMs }));
    client.take();
  }
  assert.equal(client.difficulty, 2 ** -20);
  assert.equal(client.connection.end, '', 'at the floor: patience');
  for (let n = 0; n < 300; n += 1) {
    rig.pass(25_000, 25_000);
    rig.setJob(createJob({ createdAtMs: rig.nowMs }));
    if (client.connection.end === '') client.take();
  }
  assert.equal(client.connection.end, 'close');
});

test('the clock may jump an hour either way: nobody is timed out', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  for (const jump of [3_600_000, -7_200_000, 3_600_000]) {
    rig.nowMs += jump;
    rig.gateway.tick(rig.nowMs);
    rig.settle();
    assert.equal(client.connection.end, '');
    assert.notEqual(rig.metrics.workState, 2);
  }
});

test('the job goes out again every 30 s under a new id and time', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  rig.pass(31_000);
  assert.deepEqual(methods(client.take()), ['mining.notify']);
  assert.notEqual(client.notify[0], job.jobId);
  assert.equal(client.notify[8], false);
  const ntime = Number.parseInt(String(client.notify[7]), 16);
  assert.ok(ntime >= job.curtime + 30);
  const share = mine(client, job, { jobId: String(client.notify[0]), ntime });
  client.submit(share);
  assert.equal(rig.journal.appended[0]?.jobId, job.jobId, 'the record names the job itself');
});

test('P15: an old template is degraded work, then none, and miners go to their fail-over', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  rig.pass(121_000, 1_000);
  assert.equal(rig.metrics.workState, 1);
  rig.pass(480_000, 1_000);
  assert.equal(rig.metrics.workState, 2);
  assert.equal(client.connection.endReason, 'no fresh work');
  const late = rig.connect();
  assert.deepEqual(methods(late.start()), ['answer', 'answer'], 'no job is handed out');
  rig.setJob(createJob({ createdAtMs: rig.nowMs }));
  assert.equal(rig.metrics.workState, 0);
  assert.deepEqual(methods(late.take()), ['mining.set_difficulty', 'mining.notify']);
});

test('P16: a refused job is replaced by a clean one of the same tip, and by none when none is good', () => {
  const rig = createRig();
  const bad = createJob({ bits: EASY_BITS });
  rig.setJob(bad);
  const client = started(rig);
  const share = mine(client, bad, { block: true });
  const good = createJob({ bits: EASY_BITS, clean: true });
  rig.setJob(good);
  client.take();
  assert.ok(String(client.notify[0]).startsWith(good.jobId));
  assert.equal(client.notify[8], true);
  client.submit(share);
  assert.equal(rig.blocks.length, 1, 'what was found on it is still handed to the lane');
  rig.setJob(createJob({ bits: EASY_BITS, clean: true, createdAtMs: 0 }));
  assert.equal(rig.metrics.workState, 2);
});

test('P37: a session with a valid share loses only itself', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const honest = started(rig);
  honest.submit(mine(honest, job));
  for (let n = 0; n < 30 && honest.connection.end === ''; n += 1) honest.call('mining.notify', []);
  assert.equal(honest.connection.end, 'close');
  assert.equal(rig.blames.length, 0);
  const stranger = rig.connect('203.0.113.5');
  for (let n = 0; n < 30 && stranger.connection.end === ''; n += 1)
    stranger.call('mining.notify', []);
  assert.equal(stranger.connection.end, 'close');
  assert.equal(
    rig.blames.reduce((sum, blame) => sum + blame.points, 0),
    100,
  );
  assert.ok(rig.blames.every((blame) => blame.address === '203.0.113.5'));
});

test('firmware that sends every share twice is not banned', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  for (let n = 0; n < 150; n += 1) {
    const share = mine(client, job);
    client.submit(share);
    client.submit(share);
    rig.nowMs += 500;
  }
  assert.equal(client.connection.end, '');
  assert.ok(client.session.score < 5);
});

test('an error in the middle of a packet ends it: what follows is not processed', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const submit = JSON.stringify({
    id: 5,
    method: 'mining.submit',
    params: submitParams(mine(client, job), `${MINER}.w`),
  });
  const messages = client.send('{"id":3,"method":"mining.ping","params":[]}', 'garbage', submit);
  assert.deepEqual(
    messages.map((message) => message.error?.[0] ?? message.result),
    ['pong', 20],
  );
  assert.equal(rig.journal.appended.length, 0);
});

test('shares over the rate are not credited and raise the difficulty', () => {
  const rig = createRig({
    port: { vardiff: true, startDifficulty: 2 ** -29, minDifficulty: 2 ** -29 },
  });
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const shares = Array.from({ length: 300 }, () => mine(client, job, { difficulty: 2 ** -29 }));
  for (const share of shares) client.submit(share);
  assert.equal(rig.metrics.sharesRejected.get('rate'), 100);
  assert.equal(rig.journal.appended.length, 200);
  assert.ok(client.difficulty >= 8 * 2 ** -29, String(client.difficulty));
});

test('suggest_difficulty as a keep-alive changes nothing and sends nothing', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  client.call('mining.suggest_difficulty', [0.00015]);
  const { difficulty } = client;
  for (let n = 0; n < 20; n += 1) {
    rig.nowMs += 30_000;
    assert.deepEqual(methods(client.call('mining.suggest_difficulty', [0.00015])), ['answer']);
  }
  assert.equal(client.difficulty, difficulty);
  assert.equal(client.session.score, 0);
});

test('wishes follow one precedence', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const byPassword = rig.connect();
  byPassword.start(`${MINER}.w+0.001`, 'a', 'd=0.002');
  assert.equal(byPassword.difficulty, 0.002);
  byPassword.call('mining.suggest_difficulty', [0.004]);
  assert.equal(byPassword.difficulty, 0.002);
  const byUsername = rig.connect();
  byUsername.start(`${MINER}.w+0.001`);
  byUsername.call('mining.suggest_difficulty', [0.004]);
  assert.equal(byUsername.difficulty, 0.001);
  const bySuggestion = rig.connect();
  bySuggestion.call('mining.suggest_difficulty', [0.004]);
  bySuggestion.start();
  assert.equal(bySuggestion.difficulty, 0.004);
  const floored = rig.connect();
  floored.call('mining.configure', [['minimum-difficulty'], { 'minimum-difficulty.value': 0.5 }]);
  floored.start(`${MINER}.w`, 'a', 'd=0.002');
  assert.equal(floored.difficulty, 0.5);
});

test('a worker starts where it was when it was last here', () => {
  const rig = createRig({ port: { vardiff: true, startDifficulty: 2 ** -28 } });
  const job = createJob();
  rig.setJob(job);
  const first = started(rig);
  for (let n = 0; n < 24; n += 1) {
    first.submit(
      mine(first, job, {
        jobId: String(first.notify[0]),
        ntime: Number.parseInt(String(first.notify[7]), 16),
        difficulty: first.difficulty,
      }),
    );
    rig.nowMs += 300;
    rig.commitAll();
    first.take();
  }
  assert.ok(first.difficulty > 2 ** -28);
  rig.gateway.closed(first.session, rig.nowMs);
  const second = started(rig);
  assert.equal(second.difficulty, first.difficulty);
});

test('set_extranonce: old jobs keep their extranonce, new ones have the new', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  assert.equal(rig.gateway.renewExtranonce(client.session), false, 'only who asked for it');
  client.call('mining.extranonce.subscribe', []);
  const before = client.extranonce1;
  assert.equal(rig.gateway.renewExtranonce(client.session), true);
  assert.deepEqual(methods(client.take()), ['mining.set_extranonce', 'mining.notify']);
  assert.notEqual(client.extranonce1, before);
  client.submit(mine(client, job, { extranonce1: before }));
  const jobId = String(client.notify[0]);
  const ntime = Number.parseInt(String(client.notify[7]), 16);
  client.submit(mine(client, job, { jobId, ntime }));
  assert.deepEqual(
    rig.journal.appended.map((record) => encodeHex(record.extranonce1)),
    [before, client.extranonce1],
  );
});

test('configure late: the mask push comes behind the reply', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  const messages = client.call('mining.configure', [
    ['version-rolling'],
    { 'version-rolling.mask': 'ffffffff' },
  ]);
  assert.deepEqual(methods(messages), ['answer', 'mining.set_version_mask']);
  assert.deepEqual(messages[1]?.params, ['1fffe000']);
});

test('drain asks every miner to come back and takes no new ones', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  rig.gateway.drain(rig.nowMs);
  rig.settle();
  assert.deepEqual(
    client.take().map((message) => [message.method, message.params]),
    [['client.reconnect', []]],
  );
  assert.equal(rig.connect().connection.endReason, 'draining');
});

test('messages, versions, reconnects: calls of the operator', () => {
  const rig = createRig();
  rig.setJob(createJob());
  const client = started(rig);
  rig.gateway.showMessage('hello\n"you"');
  rig.settle();
  assert.deepEqual(client.take()[0]?.params, ['hello"you"']);
  rig.gateway.reconnect(client.session, { host: 'pool.example', port: 3333 }, 5);
  assert.deepEqual(client.take()[0]?.params, ['pool.example', 3333, 5]);
  rig.gateway.askVersion(client.session);
  const { id } = client.take()[0]!;
  client.send(JSON.stringify({ id, result: 'cpuminer/2.5.1', error: null }));
  assert.equal(client.session.agent, 'cpuminer/2.5.1');
  assert.equal(client.session.score, 0);
});

test('rejections can be looked up with the line, the header and the target that was expected', () => {
  const rig = createRig();
  const job = createJob();
  rig.setJob(job);
  const client = started(rig);
  const weak = mine(client, job, { difficulty: 2 ** -28, missing: SHARE_DIFFICULTY });
  client.submit(weak);
  const [rejection] = rig.gateway.rejections(`${MINER}.w`) ?? [];
  assert.ok(rejection);
  assert.equal(rejection.reason, 'low-difficulty');
  assert.match(rejection.line, new RegExp(weak.nonce));
  assert.equal(rejection.header?.nonce, Number.parseInt(weak.nonce, 16));
  assert.equal(
    rejection.expectedTargetDisplay,
    targetOfDifficulty(SHARE_DIFFICULTY).toString(16).padStart(64, '0'),
  );
  assert.equal(BigInt(`0x${rejection.headerHashDisplay}`), hashToInteger(weak.hash));
  for (let n = 0; n < 40; n += 1) client.call('mining.submit', []);
  assert.equal(rig.gateway.rejections(`${MINER}.w`)?.length, SESSION_LIMITS.rejectionsKept);
  assert.equal(rig.gateway.rejections('nobody'), null);
});

// ---- solo ------------------------------------------------------------------------------------------------------------

test('solo: the job waits for the address, pays it, and the fee where there is one', () => {
  const pool = decodeAddress(POOL, 'regtest');
  const miner = decodeAddress(MINER, 'regtest');
  assert.ok(pool.ok && miner.ok);
  for (const fee of [null, { ppm: 20_000, script: pool.script }]) {
    const rig = createRig({
      options: { pools: [{ id: 'main', coinbase: { mode: 'solo', fee } }] },
    });
    const job = createJob({ bits: EASY_BITS });
    rig.setJob(job);
    const client = rig.connect();
    assert.deepEqual(methods(client.call('mining.subscribe', [])), ['answer']);
    assert.equal(
      codeOf(
        client.submit({
          jobId: job.jobId,
          extranonce2: '00'.repeat(8),
          ntime: '00000001',
          nonce: '00000001',
        }),
      ),
      24,
    );
    assert.deepEqual(methods(client.call('mining.authorize', [`${MINER}.w`, 'x'])), [
      'answer',
      'mining.set_difficulty',
      'mining.notify',
    ]);
    assert.equal(codeOf(client.call('mining.authorize', [`${OTHER_MINER}.w`, 'x'])), 24);
    client.submit(mine(client, job, { block: true, script: miner.script }));
    const [block] = rig.blocks;
    assert.ok(block);
    assert.equal(block.account, MINER);
    const coinbase = encodeHex(block.coinbase);
    assert.ok(coinbase.includes(encodeHex(miner.script)));
    assert.equal(coinbase.includes(encodeHex(pool.script)), fee !== null);
    assert.equal(rig.journal.appended.length, 1);
    // Other jobs for everybody with an address.
    rig.setJob(createJob({ bits: EASY_BITS }));
    assert.deepEqual(methods(client.take()), ['mining.notify']);
  }
});

test('solo: compiled coinbases are bounded and come back when they are asked for', () => {
  const rig = createRig({
    options: {
      pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
      limits: { ...SESSION_LIMITS, compiledCoinbasesMax: 1 },
    },
  });
  const scripts = [MINER, OTHER_MINER].map((address) => {
    const decoded = decodeAddress(address, 'regtest');
    assert.ok(decoded.ok);
    return decoded.script;
  });
  const job = createJob();
  rig.setJob(job);
  const clients = [started(rig, `${MINER}.w`), started(rig, `${OTHER_MINER}.w`)];
  for (let round = 0; round < 3; round += 1) {
    for (const [index, client] of clients.entries()) {
      client.submit(
        mine(client, job, { script: scripts[index]! }),
        `${index === 0 ? MINER : OTHER_MINER}.w`,
      );
    }
  }
  assert.equal(rig.journal.appended.length, 6);
});

// ---- an independent verifier -----------------------------------------------------------------------------------------

function doubleSha(bytes: Uint8Array): Uint8Array {
  const once = createHash('sha256').update(bytes).digest();
  return new Uint8Array(createHash('sha256').update(once).digest());
}

/** The header as a miner builds it, from the text of the notify line alone. */
function slowHeader(
  notify: [string, string, string, string, string[], string, string, string],
  extranonce1: string,
  share: Share,
): Uint8Array {
  const [, previous, head, tail, branch, version, bits] = notify;
  let root = doubleSha(Buffer.from(head + extranonce1 + share.extranonce2 + tail, 'hex'));
  for (const sibling of branch)
    root = doubleSha(Buffer.concat([root, Buffer.from(sibling, 'hex')]));
  const swap = (hex: string) => Buffer.from(hex, 'hex').reverse();
  const previousBytes = Buffer.concat((previous.match(/.{8}/g) ?? []).map(swap));
  return Buffer.concat([
    swap(version),
    previousBytes,
    root,
    swap(share.ntime),
    swap(bits),
    swap(share.nonce),
  ]);
}
