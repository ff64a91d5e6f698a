import assert from 'node:assert/strict';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { test } from 'node:test';
import type { MoneySources } from '../../../src/services/status/money.ts';
import { Pace } from '../../../src/services/status/pace.ts';
import { formatHashrate } from '../../../src/services/status/page.ts';
import { type StatusTools, startStatus } from '../../../src/services/status/status.ts';
import type { PoolStatus, WorkerStatus } from '../../../src/services/status/views.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const rates = { fiveMinutesHps: 1.2e12, hourHps: 1e12, dayHps: 1e12 };
const pool: PoolStatus = {
  version: '0.1.0',
  network: 'regtest',
  payout: 'pplns',
  poolAddress: 'bcrt1qexample',
  pools: [
    { id: 'main', scheme: 'pplns', feePpm: 10_000, address: 'bcrt1qexample', note: '' },
    { id: 'home', scheme: 'solo', feePpm: 0, address: null, note: '<i>' },
  ],
  payouts: { state: 'ready', alarms: ['the wallet is <locked>'] },
  isDevelopment: true,
  startedAtMs: 1_000,
  height: 111,
  networkDifficulty: 4.6e-10,
  work: 'fine',
  sessions: 1,
  hashrate: rates,
  sharesAccepted: 5,
  sharesRejected: { stale: 1 },
  totals: {
    shares: 2n ** 60n,
    work: 2n ** 70n,
    bestDifficulty: 3,
    workers: 1,
    blocksFound: 1,
    blocksConfirmed: 0,
    blocksLost: 0,
  },
  nodes: [{ name: 'node1', health: 'ok', detail: 'in step', blocks: 110 }],
  stratumPorts: [{ port: 3333, tls: 'auto', startDifficulty: 1024 }],
  journal: { state: 'ok', unshippedBytes: 0 },
};
const worker: WorkerStatus = {
  account: 'bcrt1qexample',
  worker: '<script>alert(1)</script>',
  agent: 'x',
  sessions: 1,
  accepted: 5,
  workAccepted: 5,
  rejected: { stale: 1 },
  bestDifficulty: 3,
  blocks: 1,
  lastShareAtMs: 1_000,
  difficulty: 1,
  rates,
};

const HASH = 'ab'.repeat(32);
const account = {
  address: 'bcrt1qexample',
  immatureSats: 2n ** 60n,
  matureSats: 150_000_000n,
  transitSats: 0n,
  paidSats: 5n,
  carrySats: -7n,
};
const money: MoneySources = {
  accounts: async () => [account],
  account: async (address) => (address === account.address ? account : null),
  rounds: async () => [
    {
      hashDisplay: HASH,
      height: 111,
      pool: 'main',
      scheme: 'pplns',
      state: 'immature',
      rewardSats: 5_000_000_000n,
      foundAtMs: 2_000,
      root: 'cd',
    },
  ],
  statement: async (hash) => (hash === HASH ? '{"version":1}' : null),
  proof: async (hash, address) =>
    hash === HASH && address === account.address ? '{"proof":1}' : null,
  payouts: async () => [
    {
      batchId: 3n,
      state: 'seen',
      totalSats: 150_000_000n,
      payments: 2,
      txidDisplay: HASH,
      createdAtMs: 1_000,
    },
  ],
};

function tools(over: Partial<StatusTools> = {}): StatusTools {
  return {
    clock: { nowMs: () => 61_000 },
    log: createSilentLog(),
    metrics: {
      contentType: 'text/plain; version=0.0.4; charset=utf-8',
      scrape: async () => 'stratum_active_connections 0\n',
    },
    notReady: () => [],
    notLive: () => [],
    pool: () => pool,
    workers: () => [worker],
    rejections: (name) => (name === 'known.worker' ? [{ reason: 'stale', sats: 5n }] : null),
    blocks: async () => [
      {
        hashDisplay: '00ff',
        height: 111,
        state: 'accepted',
        confirmations: 1,
        account: 'a',
        worker: 'w',
        foundAtMs: 2_000,
        rewardSats: 5_000_000_000n,
      },
    ],
    money,
    ...over,
  };
}

const both = { api: { host: '127.0.0.1', port: 0 }, metrics: { host: '127.0.0.1', port: 0 } };

async function get(port: number | null, path: string, headers: Record<string, string> = {}) {
  return new Promise<{ status: number; body: string; headers: NodeJS.Dict<string | string[]> }>(
    (resolve, reject) => {
      const asked = request(
        { host: '127.0.0.1', port: port!, path, headers, agent: false },
        (answer) => {
          let body = '';
          answer.setEncoding('utf8').on('data', (chunk) => (body += chunk));
          answer.on('end', () =>
            resolve({ status: answer.statusCode!, body, headers: answer.headers }),
          );
        },
      );
      asked.on('error', reject).end();
    },
  );
}

test('the API shows pool, workers, rejections and blocks, large numbers as text', async () => {
  const status = await startStatus(tools(), both);
  try {
    const answer = JSON.parse((await get(status.apiPort, '/api/v1/pool')).body);
    assert.equal(answer.totals.shares, (2n ** 60n).toString());
    assert.equal(answer.height, 111);
    const workers = JSON.parse((await get(status.apiPort, '/api/v1/workers?limit=1')).body);
    assert.equal(workers.total, 1);
    assert.deepEqual(workers.workers[0].rejected, { stale: 1 });
    assert.equal((await get(status.apiPort, '/api/v1/workers?limit=0')).status, 400);
    assert.equal((await get(status.apiPort, '/api/v1/workers/nobody/rejections')).status, 404);
    const known = JSON.parse(
      (await get(status.apiPort, '/api/v1/workers/known.worker/rejections')).body,
    );
    assert.deepEqual(known.rejections, [{ reason: 'stale', sats: '5' }]);
    const { blocks } = JSON.parse((await get(status.apiPort, '/api/v1/blocks')).body);
    assert.equal(blocks[0].rewardSats, '5000000000');
  } finally {
    await status.stop();
  }
});

test('money: accounts, rounds, statements, proofs and payouts; 404 for what is not there', async () => {
  const status = await startStatus(tools(), both);
  const at = async (path: string) => {
    const { status: code, body } = await get(status.apiPort, `/api/v1/${path}`);
    return { code, data: JSON.parse(body) };
  };
  try {
    const { data } = await at('accounts');
    assert.equal(data.accounts[0].immatureSats, (2n ** 60n).toString());
    assert.equal((await at('accounts/bcrt1qexample')).data.carrySats, '-7');
    assert.equal((await at('accounts/nobody')).code, 404);
    assert.equal((await at('rounds')).data.rounds[0].rewardSats, '5000000000');
    assert.deepEqual((await at(`rounds/${HASH}`)).data, { version: 1 });
    assert.equal((await at(`rounds/${'0'.repeat(64)}`)).code, 404);
    assert.equal((await at('rounds/xyz')).code, 400);
    assert.deepEqual((await at(`rounds/${HASH}/proofs/bcrt1qexample`)).data, { proof: 1 });
    assert.equal((await at(`rounds/${HASH}/proofs/nobody`)).code, 404);
    const { payouts } = (await at('payouts')).data;
    assert.deepEqual(
      [payouts[0].batchId, payouts[0].totalSats, payouts[0].txidDisplay],
      ['3', '150000000', HASH],
    );
    assert.equal((await at('payouts?limit=501')).code, 400);

    const page = (await get(status.apiPort, '/')).body;
    assert.match(page, /1\.50000000 BTC/);
    assert.match(page, /by PPLNS, out of <code>bcrt1qexample<\/code>, fee 1 %/);
    assert.match(page, /<code>home<\/code>: the finder of each block \(&#60;i&#62;\)/);
    assert.match(page, /the wallet is &#60;locked&#62;/);
  } finally {
    await status.stop();
  }
});

test('every link of the page leads somewhere, with the last rejections kept here or not', async () => {
  // As long as an account can be.
  const split = Array.from({ length: 7 }, (_, at) => `bcrt1p${String(at).repeat(62)}*123`).join(
    ',',
  );
  const many = { ...worker, account: split, rejected: { stale: 2, duplicate: 5, 'low<b>': 1 } };
  const known = tools({
    workers: () => [worker, many],
    rejections: (name) =>
      [worker, many].some((one) => name === `${one.account}.${one.worker}`) ? [] : null,
    money: {
      ...money,
      accounts: async () => [account, { ...account, address: split }],
      account: async (address) => (address === split ? account : money.account(address)),
    },
  });
  const { rejections: _, ...elsewhere } = known;
  for (const shown of [known, elsewhere]) {
    const status = await startStatus(shown, both);
    try {
      const { body } = await get(status.apiPort, '/');
      const links = Array.from(body.matchAll(/href="([^"]+)"/g), ([, link]) => link!);
      assert.equal(
        links.filter((link) => link.endsWith('/rejections')).length,
        shown === known ? 2 : 0,
      );
      for (const link of links) assert.equal((await get(status.apiPort, link)).status, 200, link);
      if (shown === elsewhere)
        assert.match(body, /<td>8: duplicate 5, stale 2, low&#60;b&#62; 1<\/td>/);
    } finally {
      await status.stop();
    }
  }
});

test('the page escapes what miners call themselves, and forbids scripts', async () => {
  const status = await startStatus(tools(), both);
  try {
    const page = await get(status.apiPort, '/', { host: 'pool.example:8080' });
    assert.equal(page.status, 200);
    assert.doesNotMatch(page.body, /<script>/);
    assert.match(page.body, /&#60;script&#62;/);
    assert.match(page.body, /stratum\+tcp:\/\/pool\.example:3333/);
    assert.match(String(page.headers['content-security-policy']), /default-src 'none'/);
    const odd = await get(status.apiPort, '/', { host: '"><b>' });
    assert.doesNotMatch(odd.body, /<b>/);
  } finally {
    await status.stop();
  }
});

test('health, readiness and liveness answer 200 or 503 with reasons', async () => {
  let reasons: string[] = [];
  const status = await startStatus(tools({ notReady: () => reasons }), both);
  try {
    for (const path of ['/health', '/ready', '/live'])
      assert.equal((await get(status.metricsPort, path)).status, 200, path);
    reasons = ['no node answers'];
    const answer = await get(status.metricsPort, '/ready');
    assert.equal(answer.status, 503);
    assert.deepEqual(JSON.parse(answer.body), { status: 'unavailable', reasons });
    assert.equal((await get(status.metricsPort, '/live')).status, 200);
    assert.equal((await get(status.apiPort, '/health')).status, 503);
  } finally {
    await status.stop();
  }
});

test('metrics, a CPU profile and a heap snapshot come from the private port only', async () => {
  const status = await startStatus(tools(), both);
  try {
    const metrics = await get(status.metricsPort, '/metrics');
    assert.match(metrics.body, /^stratum_active_connections 0/);
    assert.match(String(metrics.headers['content-type']), /^text\/plain; version=0\.0\.4/);
    const [profile, second] = await Promise.all([
      get(status.metricsPort, '/debug/profile?seconds=0.2'),
      get(status.metricsPort, '/debug/profile?seconds=0.2'),
    ]);
    assert.deepEqual([profile.status, second.status].sort(), [200, 409]);
    const taken = JSON.parse(profile.status === 200 ? profile.body : second.body);
    assert.ok(taken.nodes.length > 0);
    assert.equal((await get(status.metricsPort, '/debug/profile?seconds=1e9')).status, 400);
    for (const path of ['/metrics', '/debug/profile', '/debug/heap']) {
      assert.equal((await get(status.apiPort, path)).status, 404, path);
    }
  } finally {
    await status.stop();
  }
});

test('what a browser asks for a foreign page gets nothing', async () => {
  const status = await startStatus(tools(), both);
  try {
    assert.equal(
      (await get(status.metricsPort, '/metrics', { 'sec-fetch-site': 'cross-site' })).status,
      403,
    );
    assert.equal(
      (await get(status.metricsPort, '/debug/heap', { host: 'evil.example' })).status,
      403,
    );
    assert.equal(
      (await get(status.metricsPort, '/metrics', { host: 'pool-internal' })).status,
      200,
    );
  } finally {
    await status.stop();
  }
});

test('a source that fails costs its answer, not the server', async () => {
  const broken = tools({
    blocks: async () => {
      throw new Error('password=hunter2');
    },
    workers: () => {
      throw new Error('oh');
    },
    money: {
      ...money,
      accounts: async () => {
        throw new Error('password=hunter2');
      },
    },
  });
  const status = await startStatus(broken, both);
  try {
    const blocks = await get(status.apiPort, '/api/v1/blocks');
    assert.equal(blocks.status, 503);
    assert.doesNotMatch(blocks.body, /hunter2/);
    const accounts = await get(status.apiPort, '/api/v1/accounts');
    assert.equal(accounts.status, 503);
    assert.equal(JSON.parse(accounts.body).error, 'the database does not answer');
    assert.deepEqual(JSON.parse((await get(status.apiPort, '/api/v1/workers')).body), {
      error: 'internal error',
    });
    assert.equal((await get(status.apiPort, '/api/v1/pool')).status, 200);
  } finally {
    await status.stop();
  }
});

test('large headers, unknown paths and bytes that are no HTTP are refused', async () => {
  const status = await startStatus(tools(), both);
  try {
    assert.equal((await get(status.apiPort, '/', { 'x-filler': 'a'.repeat(9_000) })).status, 431);
    assert.equal((await get(status.apiPort, '/%ff%fe')).status, 400);
    assert.equal((await get(status.apiPort, '/../../package.json')).status, 404);
    const answer = await new Promise<string>((resolve) => {
      const socket = connect(status.apiPort!, '127.0.0.1', () =>
        socket.write('\x16\x03\x01\x00\r\n\r\n'),
      );
      let text = '';
      socket
        .on('data', (chunk) => (text += chunk))
        .on('close', () => resolve(text))
        .on('error', () => {});
    });
    assert.match(answer, /^HTTP\/1\.1 400/);
  } finally {
    await status.stop();
  }
});

test('a port that is taken is named with its setting', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const { port } = other.address() as { port: number };
  try {
    await assert.rejects(
      startStatus(tools(), {
        api: { host: '127.0.0.1', port: 0 },
        metrics: { host: '127.0.0.1', port },
      }),
      /METRICS_PORT/,
    );
  } finally {
    other.close();
  }
});

test('too many requests of one address are slowed, others are not', () => {
  const pace = new Pace({ perSecond: 2, burst: 3, addressesMax: 2 });
  assert.deepEqual(
    [1, 2, 3, 4].map(() => pace.take('a', 0)),
    [true, true, true, false],
  );
  assert.equal(pace.take('b', 0), true);
  assert.equal(pace.take('a', 500), true);
  assert.equal(pace.take('a', 500), false);
  pace.take('c', 500);
  pace.take('d', 500);
  assert.equal(
    pace.take('a', 500),
    true,
    'the table is bounded, so the longest silent address starts anew',
  );
});

test('hashrates read like people write them', () => {
  assert.equal(formatHashrate(0), '0 H/s');
  assert.equal(formatHashrate(999), '999 H/s');
  assert.equal(formatHashrate(1.21e12), '1.21 TH/s');
  assert.equal(formatHashrate(Number.NaN), '0 H/s');
  assert.equal(formatHashrate(1e30), '1000000000 ZH/s');
});

const service = {
  service: 'stratumd',
  instance: 'stratumd-1',
  version: '1',
  state: 'not ready',
  reasons: ['no work: <b>'],
  startedAtMs: 1_000,
  heardAtMs: 60_000,
  figures: { sessions: 3 },
  words: { work: 'none' },
  alarms: ['<u>'],
};

test('where there are several processes, each stands on the page and in the JSON; else there is nothing of the kind', async () => {
  const status = await startStatus(
    tools({ services: () => [service], notReady: () => ['stratumd-1: no work'] }),
    both,
  );
  try {
    const { body } = await get(status.apiPort, '/api/v1/services');
    assert.deepEqual(JSON.parse(body), {
      status: 'unavailable',
      reasons: ['stratumd-1: no work'],
      services: [service],
    });
    const page = (await get(status.apiPort, '/')).body;
    assert.match(page, /<h2>Services<\/h2>/);
    assert.match(page, /stratumd-1.*not ready.*no work: &#60;b&#62;<br>&#60;u&#62;/s);
    assert.equal((await get(status.apiPort, '/health')).status, 503);
  } finally {
    await status.stop();
  }
  const alone = await startStatus(tools(), both);
  try {
    assert.equal((await get(alone.apiPort, '/api/v1/services')).status, 404);
    assert.equal((await get(alone.apiPort, '/api/v1/rates')).status, 404);
    assert.doesNotMatch((await get(alone.apiPort, '/')).body, /Services/);
  } finally {
    await alone.stop();
  }
});

test('rates by time: sixty steps up to now, of a pool, an account or a worker', async () => {
  const asked: unknown[] = [];
  const status = await startStatus(
    tools({
      async rates(...all) {
        asked.push(all);
        if (asked.length === 4) throw new Error('away');
        return [{ atMs: 0, hps: 1.5, shares: 2 }];
      },
    }),
    both,
  );
  const json = async (path: string) => JSON.parse((await get(status.apiPort, path)).body);
  try {
    assert.deepEqual(await json('/api/v1/rates?hours=1'), {
      stepMs: 60_000,
      points: [{ atMs: 0, hps: 1.5, shares: 2 }],
    });
    await json('/api/v1/rates?account=a');
    await json('/api/v1/rates?account=a&worker=w&pool=p&hours=720');
    const hour = 3_600_000;
    const span = (hours: number) => ({
      fromMs: 61_000 - hours * hour,
      untilMs: 61_000,
      stepMs: (hours * hour) / 60,
    });
    assert.deepEqual(asked, [
      [{ pool: 'main' }, span(1)],
      [{ pool: 'main', account: 'a' }, span(24)],
      [{ pool: 'p', account: 'a', worker: 'w' }, span(720)],
    ]);
    assert.equal((await get(status.apiPort, '/api/v1/rates')).status, 503);
    for (const bad of ['hours=0', 'hours=721', 'hours=x', 'worker=w', 'account='])
      assert.equal((await get(status.apiPort, `/api/v1/rates?${bad}`)).status, 400, bad);
  } finally {
    await status.stop();
  }
});
