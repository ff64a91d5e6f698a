import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import type { NodeAddress } from '../../../src/core/node/rpc.ts';
import { type Devnet, startDevnet } from '../../../src/services/devnet/devnet.ts';
import {
  type DoctorConfig,
  type DoctorSubject,
  runDoctor,
} from '../../../src/services/doctor/doctor.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const log = createSilentLog();
const clock = { nowMs: () => Date.now() };
const folder = mkdtempSync(join(tmpdir(), 'headframe-doctor-'));
let devnet: Devnet;
let node: NodeAddress;

before(async () => {
  devnet = await startDevnet(
    { clock, log },
    {
      rpcPort: 0,
      zmqPort: 0,
      user: 'u',
      password: 'canary-password',
      initialBlocks: 3,
      transactionsPerBlock: 0,
    },
  );
  node = {
    name: 'node1',
    url: devnet.rpcUrl,
    user: 'u',
    password: 'canary-password',
    zmqAddresses: devnet.zmqAddress === null ? [] : [devnet.zmqAddress],
  };
});

after(async () => {
  await devnet.stop();
  rmSync(folder, { recursive: true, force: true });
});

function config(over: Partial<DoctorConfig> = {}): DoctorConfig {
  return {
    mode: 'node',
    network: 'regtest',
    dataDir: join(folder, 'not', 'yet'),
    pools: [{ id: 'main', scheme: 'solo', address: null }],
    payouts: null,
    nodes: [node],
    stratum: { ports: [], admission: { connectionsMax: 10_000 } },
    journal: { directory: folder, mode: 'disk', unshippedBytesMax: 0 },
    database: { url: null },
    api: null,
    metrics: null,
    ...over,
  };
}

async function examine(
  subject: DoctorSubject,
  over: { database?: () => Promise<string>; nowMs?: number } = {},
) {
  const lines: string[] = [];
  const code = await runDoctor(
    {
      clock: { nowMs: () => over.nowMs ?? Date.now() },
      openRpc: (address, purpose) => createRpc({ ...address, ...purpose, log }),
      print: (line) => lines.push(line),
      tryDatabase: over.database ?? (async () => 'PostgreSQL 18'),
      openFilesMax: 65_536,
    },
    subject,
  );
  const report = lines.join('\n');
  assert.doesNotMatch(report, /canary/);
  return { code, report };
}

const fine = (over: Partial<DoctorConfig> = {}): DoctorSubject => ({
  ok: true,
  config: config(over),
  warnings: [],
});

test('a machine on which all is well gets 0, and nothing is left behind', async () => {
  const { code, report } = await examine(fine());
  assert.equal(code, 0, report);
  assert.match(report, /ok\s+node node1\s+answers, on regtest/);
  assert.match(report, /gives work for block 4/);
  assert.match(report, /ok\s+clock/);
  assert.match(report, /a write is safe on it after/);
  assert.match(report, /PostgreSQL 18/);
  assert.match(report, /Nothing is in the way/);
  assert.deepEqual(readdirSync(folder), []);
});

test('a faulty configuration is told fault by fault', async () => {
  const { code, report } = await examine({
    ok: false,
    errors: ['A is wrong.', 'B is wrong.'],
    warnings: ['C is odd.'],
  });
  assert.equal(code, 1);
  assert.match(report, /WRONG\s+configuration\s+A is wrong\./);
  assert.match(report, /WRONG\s+configuration\s+B is wrong\./);
  assert.match(report, /note\s+configuration\s+C is odd\./);
  assert.match(report, /2 things are wrong/);
});

test('a node that is away, refuses, or is on another chain is told apart', async () => {
  const away = await examine(fine({ nodes: [{ ...node, url: 'http://127.0.0.1:1/' }] }));
  assert.equal(away.code, 1);
  assert.match(away.report, /can not be reached/);
  const refused = await examine(fine({ nodes: [{ ...node, password: 'canary-wrong' }] }));
  assert.match(refused.report, /refuses user and password/);
  assert.match(refused.report, /compare BITCOIN_RPC_USER/);
  const other = await examine(fine({ network: 'signet' }));
  assert.match(other.report, /is on chain "regtest", not on signet/);
});

test('a wallet that cannot pay is told apart from one that can', async () => {
  const pplns = (address: string) => ({ pools: [{ id: 'main', scheme: 'pplns', address }] });
  await devnet.call('createwallet', ['till']);
  const own = String(await devnet.call('getnewaddress', ['', 'bech32'], 'till'));
  const payouts = { wallet: 'till', signing: 'hot' } as const;

  const well = await examine(fine({ ...pplns(own), payouts }));
  assert.equal(well.code, 0, well.report);
  assert.match(well.report, /wallet till\s+answers, for hot signing/);
  assert.match(well.report, /owns bcrt1\w+, which blocks of pool main pay/);

  const off = await examine(fine(pplns(own)));
  assert.equal(off.code, 0);
  assert.match(off.report, /payouts\s+are off/);

  const missing = await examine(fine({ ...pplns(own), payouts: { ...payouts, wallet: 'none' } }));
  assert.equal(missing.code, 1);
  assert.match(missing.report, /wallet none\s+is not loaded/);

  await devnet.call('createwallet', ['other']);
  const foreign = String(await devnet.call('getnewaddress', ['', 'bech32'], 'other'));
  const wrong = await examine(fine({ ...pplns(foreign), payouts }));
  assert.equal(wrong.code, 1);
  assert.match(wrong.report, /does not own/);
});

test('ZMQ that is off, silent or something else is a note, because asking works too', async () => {
  const off = await examine(fine({ nodes: [{ ...node, zmqAddresses: [] }] }));
  assert.equal(off.code, 0);
  assert.match(off.report, /ZMQ is off/);
  const web = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
  const port = await listen(web);
  const wrong = await examine(
    fine({ nodes: [{ ...node, zmqAddresses: [`tcp://127.0.0.1:${port}`] }] }),
  );
  web.close();
  assert.equal(wrong.code, 0);
  assert.match(
    wrong.report,
    /nothing publishes at tcp:\/\/127\.0\.0\.1:\d+: it does not speak ZMQ/,
  );
});

test('a port in use is named with who wants it', async () => {
  const other = createServer();
  const port = await listen(other);
  const { code, report } = await examine(fine({ api: { host: '127.0.0.1', port } }));
  other.close();
  assert.equal(code, 1);
  assert.match(report, /can not be used for status page: another program has it/);
});

test('a clock that is off is found', async () => {
  const { code, report } = await examine(fine(), { nowMs: Date.now() + 3_600_000 });
  assert.equal(code, 1);
  assert.match(report, /WRONG\s+clock .*differ by \d+ s/);
});

test('a database that does not start, and a disk that can not be written', async () => {
  const { code, report } = await examine(fine({ dataDir: '/proc/headframe' }), {
    database: async () => {
      throw new Error('could not reach postgres://pool:canary-db@db/pool');
    },
  });
  assert.equal(code, 1);
  assert.match(report, /the private PostgreSQL does not work/);
  assert.match(report, /WRONG\s+disk/);
});

function listen(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port));
  });
}
