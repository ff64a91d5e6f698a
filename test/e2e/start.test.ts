/**
 * `headframe start` with nothing configured, as a stranger runs it: blocks and shares within seconds, every page, an orderly end under
 * load, a second start that goes on where the first ended; and the commands around it.
 */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import type { BlockView, PoolStatus, WorkerStatus } from '../../src/services/status/views.ts';
import {
  freePort,
  freePorts,
  makeDataDir,
  type PoolProcess,
  removeData,
  runCommand,
  settingsOf,
  startPoolProcess,
} from '../tools/pool-process.ts';
import { TestMiner } from '../tools/test-miner.ts';

/** Satoshis and sums are text in JSON. */
type PoolPage = Omit<PoolStatus, 'totals'> & {
  totals: { shares: string; work: string; blocksFound: number; workers: number } | null;
};
type WorkersPage = { total: number; workers: WorkerStatus[] };
type BlocksPage = { blocks: (Omit<BlockView, 'rewardSats'> & { rewardSats: string })[] };

const STRATUM_NAMES = [
  'stratum_active_connections',
  'stratum_total_connections',
  'stratum_shares_total',
  'stratum_share_processing_seconds',
  'stratum_blocks_found_total',
  'stratum_active_workers',
  'stratum_worker_hashrate',
  'stratum_current_block_height',
  'stratum_jobs_generated_total',
];
const ADDRESS = encodeAddress(Uint8Array.of(0, 20, ...new Array<number>(20).fill(5)), 'regtest')!;
const EX_TEMPFAIL = 75;
const EX_CONFIG = 78;
const CANARY = 'canary-7f3a9c';

describe('headframe start, with nothing configured', () => {
  let dataDir = '';
  let pool: PoolProcess;
  const miners: TestMiner[] = [];

  before(async () => {
    dataDir = makeDataDir();
    pool = await startPoolProcess(dataDir, { DEV_BLOCK_TIME: '1s' });
  });

  after(async () => {
    for (const miner of miners) miner.hangUp();
    await pool?.stop();
    removeData(dataDir);
  });

  it('says what it does, and finds blocks and shares at once', async () => {
    assert.ok(pool.log.some(({ message }) => message.includes('no node is configured')));
    const page = await pool.untilPage<PoolPage>(
      '/api/v1/pool',
      ({ totals }) => totals !== null && totals.blocksFound >= 2 && Number(totals.shares) >= 5,
      30_000,
    );
    assert.equal(page.network, 'regtest');
    assert.equal(page.isDevelopment, true);
    assert.equal(page.work, 'fine');
    assert.equal(page.sessions, 1);
    assert.equal(page.journal.state, 'ok');
    assert.equal(page.stratumPorts[0]!.port, pool.ports.stratum);
    assert.ok(page.height > 110);
  });

  it('shows workers, blocks and a page for people', async () => {
    const { workers } = await pool.page<WorkersPage>('/api/v1/workers');
    const demo = workers.find(({ worker }) => worker === 'demo');
    assert.ok(demo !== undefined && demo.accepted > 0 && demo.sessions === 1);
    const { blocks } = await pool.page<BlocksPage>('/api/v1/blocks?limit=3');
    // Two blocks of one height within milliseconds happen on a chain this fast: the second is `side`.
    const states = ['found', 'submitted', 'accepted', 'confirmed', 'side', 'orphaned'];
    for (const block of blocks) {
      assert.match(block.hashDisplay, /^[0-9a-f]{64}$/);
      assert.ok(states.includes(block.state), block.state);
      assert.equal(block.worker, 'demo');
      assert.ok(BigInt(block.rewardSats) >= 5_000_000_000n);
    }
    const page = await pool.get('api', '/');
    const html = await page.text();
    assert.equal(page.status, 200);
    assert.match(page.headers.get('content-type')!, /text\/html/);
    assert.ok(html.includes('demo') && html.includes(blocks[0]!.hashDisplay.slice(-8)));
    assert.equal((await pool.get('api', '/metrics')).status, 404, 'metrics are private');
    assert.equal((await pool.get('api', '/debug/heap')).status, 404);
  });

  it('lists the rejections of a worker with what was sent and expected', async () => {
    const miner = await TestMiner.join({ port: pool.ports.stratum, user: `${ADDRESS}.rig1` });
    miners.push(miner);
    // A block that is found meanwhile makes the repetition stale instead.
    let sent: readonly unknown[] = [];
    let code = 0;
    for (let i = 0; i < 10 && code !== 22; i++) {
      sent = await miner.acceptedShare();
      [code] = (await miner.call('mining.submit', sent)).error as [number];
      assert.ok(code === 22 || code === 21, `the same again: ${code}`);
    }
    const name = encodeURIComponent(`${ADDRESS}.rig1`);
    const { rejections } = await pool.page<{ rejections: Record<string, unknown>[] }>(
      `/api/v1/workers/${name}/rejections`,
    );
    const rejection = rejections.at(-1)!;
    assert.equal(rejection.reason, 'duplicate');
    assert.ok(String(rejection.line).includes(String(sent[1])));
    assert.match(String(rejection.expectedTargetDisplay), /^[0-9a-f]{64}$/);
    assert.match(String(rejection.headerHex), /^[0-9a-f]{160}$/);
  });

  it('believes no PROXY header from an address that is not listed', async () => {
    const socket = connect({ port: pool.ports.stratum, host: '127.0.0.1' });
    socket.on('error', () => {});
    socket.write('PROXY TCP4 192.0.2.1 192.0.2.2 5000 3333\r\n{"id":1,"method":"mining.ping"}\n');
    let heard = '';
    socket.on('data', (bytes) => {
      heard += bytes.toString('latin1');
    });
    await new Promise((resolve) => socket.once('close', resolve));
    assert.equal(heard, '');
    assert.equal((await pool.page<PoolPage>('/api/v1/pool')).sessions, 2);
  });

  it('has metrics under the nine agreed names, health, profile and heap on the private port', async () => {
    const text = await (await pool.get('metrics', '/metrics')).text();
    for (const name of STRATUM_NAMES) assert.ok(text.includes(`# TYPE ${name} `), name);
    assert.equal(await pool.metric('stratum_active_connections'), 2);
    assert.equal(await pool.metric('stratum_active_workers'), 2);
    assert.ok((await pool.metric('stratum_share_processing_seconds_count')) > 0);
    assert.ok((await pool.metric('stratum_blocks_found_total')) >= 2);
    assert.ok((await pool.metric('stratum_jobs_generated_total')) >= 3);
    assert.ok((await pool.metric('stratum_current_block_height')) > 110);
    assert.match(text, /stratum_shares_total\{status="duplicate"\} 1\n/);
    assert.match(text, /stratum_worker_hashrate\{worker="[^"]+\.demo"\} \d/);
    for (const path of ['/health', '/ready', '/live']) {
      const answer = await pool.get('metrics', path);
      assert.deepEqual([answer.status, await answer.json()], [200, { status: 'ok', reasons: [] }]);
    }
    assert.equal((await pool.get('api', '/health')).status, 200);
    const profile = await (await pool.get('metrics', '/debug/profile?seconds=0.2')).json();
    assert.ok((profile as { nodes: unknown[] }).nodes.length > 0);
    const heap = await pool.get('metrics', '/debug/heap');
    const start = (await heap.text()).slice(0, 40);
    assert.match(start, /^\{"snapshot":\{"meta":/);
  });

  it('is alone in its directory', async () => {
    const ports = await freePorts();
    const { exitCode, text } = await runCommand(['start'], settingsOf(dataDir, ports));
    assert.equal(exitCode, EX_TEMPFAIL, text);
    assert.match(text, /is in use by process \d+/);
  });

  it('is told by the doctor what is in its way', async () => {
    const { exitCode, text } = await runCommand(['doctor'], {
      ...settingsOf(dataDir, pool.ports),
      DATA_DIR: `${dataDir}/other`,
      NETWORK: 'regtest',
      POOL_ADDRESS: ADDRESS,
      BITCOIN_RPC_HOST: '127.0.0.1',
      BITCOIN_RPC_PORT: String(await freePort()),
      BITCOIN_RPC_USER: 'user',
      BITCOIN_RPC_PASSWORD: CANARY,
    });
    assert.equal(exitCode, 1, text);
    assert.match(text, /WRONG +node/);
    for (const port of Object.values(pool.ports))
      assert.match(text, new RegExp(`WRONG .*${port}`), `port ${port} is taken`);
    assert.ok(!text.includes(CANARY));
  });

  it('ends within ten seconds under load, and miners are told', async () => {
    const port = pool.ports.stratum;
    for (let i = 2; i <= 4; i++)
      miners.push(await TestMiner.join({ port, user: `${ADDRESS}.rig${i}` }));
    const before = await pool.page<WorkersPage>('/api/v1/workers');
    const demoAccepted = before.workers.find(({ worker }) => worker === 'demo')!.accepted;
    const blocksBefore = await pool.page<BlocksPage>('/api/v1/blocks?limit=500');
    const loads = miners.map(async (miner) => {
      while (!miner.isClosed) {
        await miner.share().catch((error: unknown) => {
          if (!miner.isClosed) throw error;
        });
      }
    });
    await pool.until('shares of all miners', () => miners.every(({ accepted }) => accepted > 3));
    const startedMs = performance.now();
    // npm, when it is ended with its whole group, passes on what has come already.
    pool.signal('SIGTERM');
    await pool.until('word of it', () => pool.logged('stopping').length > 0);
    const exitCode = await pool.stop();
    const tookMs = performance.now() - startedMs;
    await Promise.all(loads);
    assert.equal(exitCode, 0, pool.tail());
    assert.ok(tookMs < 10_000, `${tookMs} ms`);
    for (const miner of miners)
      assert.ok(
        miner.events.some(({ kind }) => kind === 'reconnect'),
        `${miner.lines.slice(-3).join(' ')} and no client.reconnect`,
      );
    assert.deepEqual(
      pool.log.filter(({ level }) => level === 'error'),
      [],
    );
    const acknowledged = miners.reduce((sum, { accepted }) => sum + accepted, demoAccepted);

    pool = await startPoolProcess(dataDir, { DEV_BLOCK_TIME: '1s' }, pool.ports);
    // What the journal still held is shipped now.
    const page = await pool.untilPage<PoolPage>(
      '/api/v1/pool',
      ({ totals }) => totals !== null && Number(totals.shares) >= acknowledged,
    );
    const { blocks } = await pool.page<BlocksPage>('/api/v1/blocks?limit=500');
    for (const { hashDisplay } of blocksBefore.blocks)
      assert.ok(blocks.some((block) => block.hashDisplay === hashDisplay));
    const found = page.totals!.blocksFound;
    assert.ok(found >= blocksBefore.blocks.length);
    await pool.untilPage<PoolPage>(
      '/api/v1/pool',
      ({ totals }) => totals !== null && totals.blocksFound > found,
      30_000,
    );
    const miner = await TestMiner.join({ port, user: `${ADDRESS}.rig1` });
    miners.push(miner);
    await miner.acceptedShare();
    assert.equal(await pool.stop(), 0);
  });
});

describe('headframe with other words', () => {
  it('refuses a broken configuration within three seconds, all faults at once, no secret', async () => {
    const { exitCode, text, tookMs } = await runCommand(['start', '--api-port', 'many'], {
      NETWORK: 'moonnet',
      POOL_ADDRESS: '1BoatSLRHtKNngkdXEeobR76b53LETtpyT',
      BITCOIN_RPC_HOST: 'local host',
      BITCOIN_RPC_USER: 'user',
      BITCOIN_RPC_PASSWORD: CANARY,
      DATABASE_URL: `mysql://user:${CANARY}@localhost/pool`,
      LISTEN_PORT: '99999',
      MIN_DIFFICULTY: '-1',
      PAYOUT_MODE: 'lottery',
      DATA_DIR: '/proc/headframe-cannot-be-here',
    });
    assert.equal(exitCode, EX_CONFIG, text);
    assert.ok(tookMs < 3_000, `${tookMs} ms`);
    for (const name of [
      'NETWORK',
      'BITCOIN_RPC_HOST',
      'DATABASE_URL',
      'LISTEN_PORT',
      'MIN_DIFFICULTY',
      'PAYOUT_MODE',
    ])
      assert.ok(text.includes(name), `${name} is not named:\n${text}`);
    assert.match(text, /api-port|API_PORT/);
    assert.ok(!text.includes(CANARY), text);
  });

  it('is found healthy by the doctor when it is', async () => {
    const dataDir = makeDataDir();
    try {
      const { exitCode, text } = await runCommand(
        ['doctor'],
        settingsOf(dataDir, await freePorts()),
      );
      assert.equal(exitCode, 0, text);
      assert.match(text, /Nothing is in the way/);
      assert.match(text, /PostgreSQL \d+/);
    } finally {
      removeData(dataDir);
    }
  });

  it('tells its version, and what it does not know', async () => {
    const version = await runCommand(['version'], {});
    assert.equal(version.exitCode, 0);
    assert.match(version.text, /\d+\.\d+\.\d+/);
    assert.equal((await runCommand(['strat'], {})).exitCode, 2);
  });
});
