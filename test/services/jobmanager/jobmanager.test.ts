/**
 * The job manager against nodes over real HTTP, with its times shortened: new tips by poll, long-poll and hint, fail-over, wrong
 * networks, broken templates, refused proposals (promises P14 to P16, faults F-N1 to F-N9, F-Z2, inputs J01 to J04).
 */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import { encodeHex, encodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import type { OpenHints, TipHint } from '../../../src/core/node/rpc.ts';
import type { Job } from '../../../src/core/work/job.ts';
import type { TemplateBody } from '../../../src/messages/block.ts';
import { decodeJob, decodeTemplateBody, encodeCoinbasePlans } from '../../../src/messages/codec.ts';
import type { Bus } from '../../../src/ports.ts';
import {
  type Jobmanager,
  type JobmanagerOptions,
  startJobmanager,
} from '../../../src/services/jobmanager/jobmanager.ts';
import {
  type FakeFault,
  type FakeNode,
  fakeTransaction,
  fatTransactions,
  startFakeNode,
} from '../../tools/fake-node.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function createNode(options?: { genesis: string }): Promise<FakeNode> {
  const node = await startFakeNode(options);
  closers.push(() => node.stop());
  return node;
}

type World = {
  bus: Bus;
  manager: Jobmanager;
  jobs: Job[];
  bodies: Map<string, TemplateBody>;
  log: ReturnType<typeof createMemoryLog>;
  hint: (hint: TipHint) => void;
  counts: Map<string, number>;
  last: () => Job | undefined;
  lastTip: () => string;
};

async function start(nodes: FakeNode[], options: Partial<JobmanagerOptions> = {}): Promise<World> {
  const log = createMemoryLog();
  const bus = createMemoryBus({ log });
  const jobs: Job[] = [];
  const bodies = new Map<string, TemplateBody>();
  const counts = new Map<string, number>();
  const listeners: ((hint: TipHint) => void)[] = [];
  const openHints: OpenHints = (_, onHint) => {
    listeners.push(onHint);
    return { stop() {} };
  };
  await bus.subscribe('mining.jobs', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeJob(value);
      assert.ok(decoded.ok);
      jobs.push(decoded.value);
    }
  });
  await bus.subscribe('mining.templates', 'test', async (records) => {
    for (const { value } of records) {
      const decoded = decodeTemplateBody(value);
      assert.ok(decoded.ok);
      bodies.set(decoded.value.jobId, decoded.value);
    }
  });
  const manager = await startJobmanager(
    {
      clock: { nowMs: () => Date.now() },
      log,
      bus,
      openRpc: (address, purpose) =>
        createRpc({
          ...address,
          ...purpose,
          log,
          breakerLimits: { failuresMax: 3, pauseMinMs: 20, pauseMaxMs: 50 },
        }),
      openHints,
      meter: {
        count: (name) => void counts.set(name, (counts.get(name) ?? 0) + 1),
        set() {},
      },
    },
    {
      nodes: nodes.map(({ url }, i) => ({ name: `n${i}`, url })),
      network: 'regtest',
      poolTag: '/test/',
      pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
      pollMs: 50,
      tickMs: 10,
      lookMs: 100,
      pollTimeoutMs: 200,
      proposalTimeoutMs: 500,
      ...options,
    },
  );
  closers.push(async () => {
    await manager.stop();
    await bus.stop();
  });
  return {
    manager,
    bus,
    jobs,
    bodies,
    log,
    counts,
    hint: (hint) => {
      for (const listener of listeners) listener(hint);
    },
    last: () => jobs.at(-1),
    lastTip: () => {
      const job = jobs.at(-1);
      return job === undefined ? '' : encodeHexReversed(job.previousHash);
    },
  };
}

describe('jobs', () => {
  it('the first job comes with its body, and a new tip makes a clean one by polling alone', async () => {
    const node = await createNode();
    node.transactions = [fakeTransaction(0, 20), fakeTransaction(1, 0)];
    // Without a long-poll: the poll must do it.
    node.templateFields = { longpollid: undefined };
    const world = await start([node]);
    await until('a first job', () => world.jobs.length === 1);
    const job = world.last()!;
    assert.equal(job.clean, true);
    assert.equal(job.height, 1);
    assert.equal(job.transactionCount, 2);
    await until('its body', () => world.bodies.has(job.jobId));
    const body = world.bodies.get(job.jobId)!;
    assert.equal(
      Buffer.from(body.body).toString('hex'),
      node.transactions.map(({ data }) => data).join(''),
    );
    const block = node.mine();
    await until('a job on the new tip', () => world.lastTip() === block.hash, 1500);
    assert.equal(world.last()!.clean, true);
    assert.ok(world.last()!.jobId > job.jobId);
    assert.equal(world.manager.status().state, 'working');
  });

  it('another block at the same height is a new clean job', async () => {
    const node = await createNode();
    const world = await start([node]);
    const first = node.mine();
    await until('a job on it', () => world.lastTip() === first.hash);
    const rival = node.mine(node.genesis);
    const second = node.mine(rival.hash);
    node.forget(second.hash);
    await until('a job on the rival', () => world.lastTip() === rival.hash);
    assert.equal(world.last()!.height, first.height + 1);
    assert.equal(world.last()!.clean, true);
  });

  it('a hint makes it look at once', async () => {
    const node = await createNode();
    node.templateFields = { longpollid: undefined };
    const world = await start([node], { pollMs: 100_000, lookMs: 100_000 });
    await until('a first job', () => world.jobs.length === 1);
    const block = node.mine();
    world.hint({ doubtful: true, hashDisplay: null });
    await until('a job on the new tip', () => world.lastTip() === block.hash);
  });

  it('the long-poll brings a new tip when polls are slow', async () => {
    const node = await createNode();
    const world = await start([node], { pollMs: 100_000, lookMs: 100_000 });
    await until('a long-poll', () =>
      node
        .callsOf('getblocktemplate')
        .some(({ params }) => JSON.stringify(params).includes('longpollid')),
    );
    await until('a first job', () => world.jobs.length === 1);
    const block = node.mine();
    await until('a job on the new tip', () => world.lastTip() === block.hash);
  });

  it('a tip that the long-poll has brought costs no second template', async () => {
    const node = await createNode();
    const world = await start([node], { pollMs: 100_000, lookMs: 100_000 });
    const asked = (isLong: boolean) =>
      node.callsOf('getblocktemplate').filter(({ params }) => {
        const [request] = params as [{ mode?: string; longpollid?: string }];
        return request.mode === undefined && (request.longpollid !== undefined) === isLong;
      }).length;
    await until('a first job', () => world.jobs.length > 0);
    await until('a long-poll', () => asked(true) === 1);
    const before = asked(false);
    const block = node.mine();
    await until('a job on it', () => world.lastTip() === block.hash);
    await until('the poll knows the tip too', () => (world.counts.get('tips') ?? 0) === 2);
    await until('the next long-poll', () => asked(true) === 2);
    assert.equal(asked(false), before);
  });

  it('the transactions of a job go out with it, behind it', async () => {
    const node = await createNode();
    node.transactions = [fakeTransaction(0, 20)];
    const told: string[] = [];
    const world = await start([node]);
    await until('its body', () => world.bodies.size > 0);
    await world.bus.subscribe('mining.jobs', 'order', async (records) => {
      for (const { value } of records) {
        const decoded = decodeJob(value);
        if (decoded.ok) told.push(`job ${decoded.value.jobId}`);
      }
    });
    await world.bus.subscribe('mining.templates', 'order', async (records) => {
      for (const { value } of records) {
        const decoded = decodeTemplateBody(value);
        if (decoded.ok) told.push(`transactions ${decoded.value.jobId}`);
      }
    });
    told.length = 0;
    const block = node.mine();
    await until('a job on it', () => world.lastTip() === block.hash);
    const { jobId } = world.last()!;
    await until('its body', () => world.bodies.has(jobId));
    assert.deepEqual(told, [`job ${jobId}`, `transactions ${jobId}`]);
  });

  it('the transactions of a job are kept before anybody hears of it, and sent until they are there', async () => {
    const node = await createNode();
    node.transactions = [fakeTransaction(0, 20)];
    const told: string[] = [];
    let failures = 7;
    const log = createMemoryLog();
    const bus = createMemoryBus({ log });
    const manager = await startJobmanager(
      {
        clock: { nowMs: () => Date.now() },
        log,
        bus: {
          ...bus,
          async publish(topic, records) {
            if (topic === 'mining.templates' && failures-- > 0) throw new Error('away');
            told.push(topic);
            await bus.publish(topic, records);
          },
        },
        openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
        openHints: () => ({ stop() {} }),
        keepTransactions(encoded) {
          const decoded = decodeTemplateBody(encoded);
          assert.ok(decoded.ok);
          told.push(`kept ${decoded.value.transactionCount}`);
        },
      },
      {
        nodes: [{ name: 'n', url: node.url }],
        network: 'regtest',
        poolTag: '/test/',
        pools: [{ id: 'main', coinbase: { mode: 'solo', fee: null } }],
      },
    );
    closers.push(() => manager.stop());
    await until('transactions', () => told.includes('mining.templates'));
    assert.deepEqual(told.slice(0, 2), ['kept 1', 'mining.jobs']);
    assert.equal(failures, -1);
  });

  it('transactions that are no hex are found when the job is out, and the job is withdrawn', async () => {
    const node = await createNode();
    const world = await start([node]);
    await until('a first job', () => world.jobs.length > 0);
    node.transactions = [{ ...fakeTransaction(0, 20), data: 'zz'.repeat(80) }];
    const block = node.mine();
    await until('withdrawn', () => (world.counts.get('jobs_withdrawn') ?? 0) > 0);
    await until('an empty job on it', () => {
      const job = world.last()!;
      return world.lastTip() === block.hash && job.transactionCount === 0 && job.clean;
    });
  });

  it('refreshes by time, and at once when fees rise enough', async () => {
    const node = await createNode();
    const world = await start([node], {
      refreshMs: 600_000,
      feeCheckMs: 30,
      feeRiseSats: 5000,
      feeRisePpm: 0,
    });
    await until('a first job', () => world.jobs.length === 1);
    node.transactions = [fakeTransaction(0, 0, 4999)];
    const asked = node.callsOf('getblocktemplate').length;
    await until(
      'several looks at the fees',
      () => node.callsOf('getblocktemplate').length > asked + 4,
    );
    assert.equal(world.jobs.length, 1);
    node.transactions = [fakeTransaction(0, 0, 5000)];
    await until('a richer job', () => world.jobs.length === 2);
    assert.equal(world.last()!.clean, false);
    assert.equal(world.last()!.feesSats, 5000n);
    const timed = await start([await createNode()], { refreshMs: 60, feeCheckMs: 20 });
    await until('three jobs', () => timed.jobs.length >= 3);
    assert.deepEqual(
      timed.jobs
        .slice(1)
        .map(({ clean }) => clean)
        .slice(0, 2),
      [false, false],
    );
  });

  it('a flood of hints costs one template at a time', async () => {
    const node = await createNode();
    node.faults.set('getblocktemplate', { kind: 'delay', delayMs: 30 });
    const world = await start([node], { feeCheckMs: 100_000 });
    await until('a first job', () => world.jobs.length === 1);
    node.calls.length = 0;
    for (let i = 0; i < 500; i++) {
      if (i % 50 === 0) node.mine();
      world.hint({ doubtful: false, hashDisplay: null });
      if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await until('the last tip', () => world.lastTip() === node.tip().hash);
    const asked = node.callsOf('getblocktemplate').filter(({ params }) => {
      const request = params[0] as { mode?: string; longpollid?: string };
      return request.mode === undefined && request.longpollid === undefined;
    });
    assert.ok(asked.length <= 12, `${asked.length} templates asked for`);
    assert.ok(node.callsOf('getbestblockhash').length < 60);
  });

  it('carries a block of 3.99 MWU whole', async () => {
    const node = await createNode();
    node.transactions = fatTransactions(3_990_000);
    const world = await start([node], { refreshMs: 600_000, feeCheckMs: 600_000 });
    await until('a first job', () => world.bodies.size === 1);
    const body = [...world.bodies.values()][0]!;
    assert.equal(
      body.body.length,
      node.transactions.reduce((sum, { data }) => sum + data.length / 2, 0),
    );
    assert.ok(body.body.length > 3_900_000);
    await until('a proposal of it', () => node.calls.some(({ bytes }) => bytes > 7_800_000));
  });
});

describe('nodes that fail', () => {
  it('a node that is down at the start is waited for', async () => {
    const node = await createNode();
    await node.down();
    const world = await start([node]);
    await until('it is known to be down', () => world.manager.status().nodes[0]!.health === 'down');
    assert.equal(world.manager.status().state, 'waiting');
    await node.up();
    await until('a first job', () => world.jobs.length === 1);
  });

  it('the last job stands while the node is away, its age is told, and work comes back', async () => {
    const node = await createNode();
    const world = await start([node], {
      degradedMs: 100,
      stoppedMs: 250,
      refreshMs: 30,
      feeCheckMs: 20,
    });
    await until('a first job', () => world.jobs.length > 0);
    await node.down();
    await until('degraded', () => world.manager.status().state === 'degraded');
    await until('stopped', () => world.manager.status().state === 'stopped');
    assert.ok(
      world.log.lines.some(
        ({ level, message }) => level === 'error' && message.includes('too old'),
      ),
    );
    const count = world.jobs.length;
    await node.up();
    await until('work again', () => world.manager.status().state === 'working');
    assert.ok(world.jobs.length > count);
  });

  it('fails over to the second node and keeps miners on their work', async () => {
    const first = await createNode();
    const second = await createNode();
    const world = await start([first, second]);
    await until('a first job', () => world.jobs.length === 1);
    assert.equal(world.manager.status().node, 'n0');
    await first.down();
    await until('the other node', () => world.manager.status().node === 'n1');
    await until('a job of the other', () => world.jobs.length === 2);
    // The same tip: nothing of what miners do is lost.
    assert.equal(world.last()!.clean, false);
    const block = second.mine();
    await until('its tip', () => world.lastTip() === block.hash);
  });

  it('works on the node with more work and tells when two disagree', async () => {
    const first = await createNode();
    const second = await createNode();
    for (let i = 0; i < 4; i++) second.mine();
    const world = await start([first, second]);
    await until('the longer chain', () => world.lastTip() === second.tip().hash);
    await until('an alarm', () => (world.counts.get('node_disagreements') ?? 0) > 0);
  });

  it('refuses a node of another network, and one that becomes one', async () => {
    const wrong = await createNode({ genesis: 'ab'.repeat(32) });
    const world = await start([wrong]);
    await until('refused', () => world.manager.status().nodes[0]!.health === 'wrong-network');
    const node = await createNode();
    const swapped = await start([node]);
    await until('a first job', () => swapped.jobs.length === 1);
    node.faults.set('getblockhash', { kind: 'result', result: 'cd'.repeat(32) });
    await until('refused', () => swapped.manager.status().nodes[0]!.health === 'wrong-network');
    assert.equal(world.jobs.length, 0);
  });

  it('waits for initial download and −28, but not on regtest', async () => {
    const node = await createNode({
      genesis: '00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6',
    });
    node.initialBlockDownload = true;
    node.faults.set('*', { kind: 'error', code: -28, message: 'Loading' });
    const world = await start([node], { network: 'signet' });
    await until('starting', () => world.manager.status().nodes[0]!.health === 'starting');
    node.faults.clear();
    await until('syncing', () => world.manager.status().nodes[0]!.health === 'syncing');
    node.initialBlockDownload = false;
    node.headersAhead = 50;
    await until('asked again', () => world.manager.status().nodes[0]!.detail.includes('50'));
    node.headersAhead = 1;
    await until('ready', () => world.manager.status().nodes[0]!.health === 'ok');
    await until('the template asked for with the rule of signet', () =>
      (JSON.stringify(node.callsOf('getblocktemplate')[0]?.params) ?? '').includes('signet'),
    );
    const regtest = await createNode();
    regtest.initialBlockDownload = true;
    const other = await start([regtest]);
    await until('a job in spite of it', () => other.jobs.length === 1);
  });

  const broken: [string, FakeFault][] = [
    ['HTML', { kind: 'status', status: 200, text: '<html>' }],
    ['a cut-off body', { kind: 'truncate' }],
    ['a wrong id', { kind: 'wrong-id' }],
    ['a full work queue', { kind: 'status', status: 503, text: 'Work queue depth exceeded' }],
    ['a number', { kind: 'result', result: 5 }],
    ['an error', { kind: 'error', code: -9, message: 'not connected' }],
    ['endless silence', { kind: 'hang' }],
  ];
  for (const [what, fault] of broken) {
    it(`keeps the last job when templates become ${what}, and takes the other node's`, async () => {
      const first = await createNode();
      const second = await createNode();
      const world = await start([first, second], { feeCheckMs: 20, templateLateMs: 100 });
      await until('a first job', () => world.jobs.length === 1);
      first.faults.set('getblocktemplate', fault);
      const block = first.mine();
      // The second node hears of the same block.
      second.faults.set('getbestblockhash', { kind: 'result', result: block.hash });
      second.templateFields = { previousblockhash: block.hash, height: 2 };
      await until('the other node', () => world.lastTip() === block.hash, 5000);
      assert.equal(world.manager.status().node, 'n1');
    });
  }

  it('refuses broken templates and keeps the last job', async () => {
    const node = await createNode();
    const world = await start([node], { feeCheckMs: 20, refreshMs: 20 });
    await until('a first job', () => world.jobs.length > 0);
    for (const fields of [
      { height: -1 },
      { bits: '00000000' },
      { previousblockhash: 'ab' },
      { rules: ['!x'] },
    ]) {
      node.templateFields = fields;
      const refused = world.counts.get('templates_refused') ?? 0;
      await until('a refusal', () => (world.counts.get('templates_refused') ?? 0) > refused);
    }
    const count = world.jobs.length;
    node.templateFields = {};
    await until('jobs again', () => world.jobs.length > count);
    assert.ok(world.jobs.every(({ height }) => height === 1));
  });
});

describe('proposals', () => {
  it('every job is proposed to the node', async () => {
    const node = await createNode();
    const proposed: string[] = [];
    node.proposalAnswer = (hex) => {
      proposed.push(hex);
      return null;
    };
    const world = await start([node]);
    await until('a proposal', () => proposed.length === 1);
    assert.equal(
      proposed[0]!.slice(8, 72),
      Buffer.from(world.last()!.previousHash).toString('hex'),
    );
  });

  it('the largest coinbase that a plan makes is proposed too, and its refusal withdraws the job', async () => {
    const node = await createNode();
    const proposed: string[] = [];
    let bad = false;
    const paid = Array.from({ length: 60 }, (_, at) => {
      const script = Uint8Array.of(0, 20, at, ...new Array<number>(19).fill(9));
      return { address: `a${at}`, script, weight: 1n, carrySats: 0n };
    });
    const isPlanned = (hex: string) => hex.includes(encodeHex(paid[59]!.script));
    node.proposalAnswer = (hex) => {
      proposed.push(hex);
      return bad && isPlanned(hex) ? 'bad-blk-sigops' : null;
    };
    const world = await start([node], {
      feeCheckMs: 30,
      feeRiseSats: 1,
      pools: [
        { id: 'main', coinbase: { mode: 'solo', fee: null } },
        { id: 'plan', coinbase: { mode: 'direct', fee: null } },
      ],
    });
    await until('a proposal', () => proposed.length === 1);
    assert.equal(isPlanned(proposed[0]!), false);
    const plan = {
      planId: '0123456789abcdef',
      pool: 'plan',
      lastSeq: 1n,
      totalWeight: 60n,
      entries: paid,
      createdAtMs: 1,
    };
    await world.bus.publish('mining.plans', [{ key: 'plans', value: encodeCoinbasePlans([plan]) }]);
    node.transactions = [fakeTransaction(0, 0, 7000)];
    await until('both kinds of coinbase', () => proposed.length === 3);
    assert.deepEqual(proposed.map(isPlanned), [false, false, true]);
    bad = true;
    node.transactions = [fakeTransaction(0, 0, 9000)];
    await until('a withdrawal', () => world.counts.get('jobs_withdrawn') !== undefined);
  });

  it('a refused job is withdrawn for one that was accepted, and the richer one comes when it is accepted', async () => {
    const node = await createNode();
    let bad = false;
    node.proposalAnswer = () => (bad ? 'bad-txns-inputs-missingorspent' : null);
    const world = await start([node], { feeCheckMs: 30, feeRiseSats: 1 });
    await until('an accepted job', () =>
      node.callsOf('getblocktemplate').some(({ bytes }) => bytes > 300),
    );
    const good = world.last()!;
    bad = true;
    node.transactions = [fakeTransaction(0, 0, 7000)];
    await until('the refused job', () => world.jobs.some(({ feesSats }) => feesSats === 7000n));
    await until('its replacement', () => world.last()!.feesSats === 0n && world.last()!.clean);
    assert.notEqual(world.last()!.jobId, good.jobId);
    assert.ok(
      world.log.lines.some(
        ({ level, message }) => level === 'error' && message.includes('withdrawn'),
      ),
    );
    bad = false;
    await until('the richer job, now accepted', () => world.last()!.feesSats === 7000n);
  });

  it('without an accepted job of this tip the block goes empty; if that is refused too, miners are stopped', async () => {
    const node = await createNode();
    node.transactions = [fakeTransaction(0, 0, 7000)];
    node.proposalAnswer = (hex) => (hex.slice(160, 162) === '02' ? 'bad-cb-amount' : null);
    const world = await start([node]);
    await until('an empty job', () => world.jobs.length >= 2);
    assert.equal(world.jobs[1]!.transactionCount, 0);
    assert.equal(world.jobs[1]!.coinbaseValueSats, 5_000_000_000n);
    const mad = await createNode();
    mad.proposalAnswer = () => 'bad-cb-amount';
    const stopped = await start([mad]);
    await until('a job too old to be mined on', () => stopped.last()?.createdAtMs === 0);
    mad.proposalAnswer = () => null;
    const block = mad.mine();
    await until('work again', () => stopped.lastTip() === block.hash);
    assert.ok(stopped.last()!.createdAtMs > 0);
  });

  it('a refused job makes it turn to another node', async () => {
    const first = await createNode();
    const second = await createNode();
    first.proposalAnswer = () => 'bad-witness-merkle-match';
    const world = await start([first, second]);
    await until('the other node', () => world.manager.status().node === 'n1');
    await until('its job', () => world.jobs.at(-1)!.createdAtMs > 0 && world.jobs.length >= 3);
  });

  it('a node that knows no proposals is tolerated', async () => {
    const node = await createNode();
    node.faults.set('getblocktemplate', { kind: 'none' });
    node.proposalAnswer = () => ({ height: 1 });
    const world = await start([node], { refreshMs: 20, feeCheckMs: 10 });
    await until('several jobs', () => world.jobs.length >= 4);
    assert.ok(world.jobs.every(({ createdAtMs }) => createdAtMs > 0));
    assert.equal(
      world.log.lines.filter(({ message }) => message.includes('does not check proposals')).length,
      1,
    );
  });
});
