/**
 * The service as it runs: on the development chain over real HTTP, with the real lock. One works and one stands by; nodes that are down,
 * slow, pruned or of another network; and the whole walk of a reward through invalidated blocks.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { takeAdvisoryLock } from '../../../src/adapters/db/advisory-lock.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../../src/adapters/db/embedded.ts';
import { readMigrations } from '../../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../../src/adapters/db/postgres.ts';
import { createRpc } from '../../../src/adapters/node/rpc.ts';
import { decodeHexReversed } from '../../../src/core/bitcoin/bytes.ts';
import type { PoolRules } from '../../../src/core/ledger/rules.ts';
import { createMeter } from '../../../src/meter.ts';
import type { Db } from '../../../src/ports.ts';
import { LEDGER_LOCK } from '../../../src/roles.ts';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import {
  type Payoutd,
  type PayoutdTools,
  startPayoutd,
} from '../../../src/services/payoutd/payoutd.ts';
import { recordCandidate } from '../../../src/store/blocks.ts';
import { auditLedger, sumBalances } from '../../../src/store/ledger.ts';
import { migrate } from '../../../src/store/migrate.ts';
import { recordShares } from '../../../src/store/shares.ts';
import { createSilentLog } from '../../tools/silent-log.ts';
import { startQuietDevnet } from '../devnet/nodes.ts';
import { addressOf, poolOf } from './credit-rig.ts';

const BITS = 0x207fffff;

describe('payoutd', { concurrency: false }, () => {
  const log = createSilentLog();
  const dataDir = mkdtempSync(join(tmpdir(), 'headframe-payoutd-'));
  let server: EmbeddedPostgres;
  let admin: Db;
  let databases = 0;
  let shares = 0;
  const closers: (() => Promise<void> | void)[] = [];
  before(async () => {
    server = await startEmbeddedPostgres({ dataDir, log });
    admin = await connectPostgres({ ...server.connection, log });
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(async () => {
    await admin.stop();
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  async function createDatabase() {
    databases += 1;
    const database = `payoutd_${databases}`;
    await admin.query(`CREATE DATABASE ${database}`);
    const address = { ...server.connection, database };
    const db = await connectPostgres({ ...address, log });
    closers.push(() => db.stop());
    await migrate({ db, log }, readMigrations());
    return { db, address };
  }

  async function createDevnet(): Promise<Devnet> {
    const devnet = await startQuietDevnet({ seed: 'payoutd' });
    closers.push(() => devnet.stop());
    return devnet;
  }

  const nodeOf = (devnet: Devnet, name: string) => ({
    name,
    url: devnet.rpcUrl,
    user: devnet.user,
    password: devnet.password,
  });

  async function start(
    { db, address }: Awaited<ReturnType<typeof createDatabase>>,
    devnets: readonly Devnet[],
    more: { pools?: PoolRules[]; tools?: Partial<PayoutdTools>; heartbeatMs?: number } = {},
  ): Promise<Payoutd> {
    const payoutd = await startPayoutd(
      {
        clock: { nowMs: () => Date.now() },
        log,
        db,
        bus: createMemoryBus({ log }),
        meter: createMeter(),
        fault: () => {},
        openRpc: (node, purpose) => createRpc({ ...node, ...purpose, log }),
        takeLock: () =>
          takeAdvisoryLock({
            ...address,
            log,
            key: LEDGER_LOCK,
            heartbeatMs: more.heartbeatMs ?? 100,
          }),
        ...more.tools,
      },
      {
        network: 'regtest',
        nodes: devnets.map((devnet, at) => nodeOf(devnet, `node${at}`)),
        pools: more.pools ?? [poolOf()],
        policy: null,
        cycleMs: 20,
      },
    );
    closers.push(() => payoutd.stop());
    return payoutd;
  }

  /** What the gateway would have recorded about a block that the development chain has mined. */
  async function recordFind(db: Db, devnet: Devnet, id: string): Promise<void> {
    const header = Buffer.from(String(await devnet.call('getblockheader', [id, false])), 'hex');
    const block = (await devnet.call('getblock', [id, 1])) as { tx: string[]; height: number };
    const raw = String(await devnet.call('getrawtransaction', [block.tx[0], false, id]));
    const hash = decodeHexReversed(id)!;
    const common = { account: addressOf('alice'), worker: 'w', height: block.height };
    await recordShare(db, hash, 'alice');
    await recordCandidate(db, {
      ...common,
      jobId: '1',
      headerHash: hash,
      header: new Uint8Array(header),
      coinbase: new Uint8Array(Buffer.from(raw, 'hex')),
      foundAtMs: Date.now(),
      networkDifficulty: 1,
      rewardSats: 0n,
      pool: 'main',
      planId: '',
    });
  }

  async function recordShare(db: Db, headerHash: Uint8Array | null, name: string): Promise<void> {
    shares += 1;
    const serial = new Uint8Array(32);
    new DataView(serial.buffer).setUint32(0, shares);
    await recordShares(db, [
      {
        audited: true,
        share: {
          headerHash: headerHash ?? serial,
          jobId: '1',
          extranonce1: new Uint8Array(4),
          extranonce2: new Uint8Array(8),
          ntime: 1,
          nonce: 1,
          version: 1,
          difficulty: 1e-9,
          shareDifficulty: 1e-9,
          account: addressOf(name),
          worker: 'w',
          sessionId: 's',
          gateway: 'g',
          height: 1,
          acceptedAtMs: Date.now(),
          isBlock: headerHash !== null,
          pool: 'main',
          networkBits: BITS,
          jobValueSats: 5_000_000_000n,
          planId: '',
          coinbaseBytes: 0,
        },
      },
    ]);
  }

  async function until(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
    const endMs = performance.now() + 20_000;
    while (!(await condition())) {
      if (performance.now() > endMs) throw new Error(`did not happen: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  const sums = (db: Db) => sumBalances(db);

  test('a block on a real node: credited, orphaned by invalidateblock, back, mature', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    const payoutd = await start(database, [devnet]);
    await recordShare(db, null, 'bob');
    const [id] = await devnet.generate(1, addressOf('pool'));
    await recordFind(db, devnet, id!);
    await until('it is credited', async () => (await sums(db))['miner-immature'] > 0n);
    const credited = await sums(db);
    assert.equal(credited.chain, -5_000_000_000n);
    assert.equal(credited['operator-immature'], 50_000_000n);
    await devnet.call('invalidateblock', [id]);
    await devnet.generate(6);
    await until('it is taken back', async () => (await sums(db)).chain === 0n);
    await devnet.call('reconsiderblock', [id]);
    const tip = (await devnet.generateOn(id!, 7)).at(-1)!;
    assert.equal(await devnet.call('getbestblockhash'), tip);
    await until('it is back', async () => (await sums(db)).chain === -5_000_000_000n);
    assert.deepEqual(await sums(db), credited);
    await devnet.generate(92);
    await until('100 confirmations are seen', () => payoutd.status().nodes[0]?.height === 100);
    assert.deepEqual(await sums(db), credited);
    await devnet.generate(1);
    await until('it is mature', async () => (await sums(db)).miner === 4_950_000_000n);
    const status = payoutd.status();
    assert.equal(status.holdsLock, true);
    assert.deepEqual(status.alarms, []);
    assert.equal((await auditLedger(db)).ok, true);
  });

  test('of two one works; the other takes over when it stops, is cut off, or falls silent', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    const first = await start(database, [devnet]);
    await until('the first works', () => first.status().lastCycleAtMs !== null);
    const second = await start(database, [devnet]);
    await until('the first goes on', () => first.status().lastCycleAtMs! > Date.now() - 500);
    assert.deepEqual([first.status().holdsLock, second.status().holdsLock], [true, false]);
    assert.equal(second.status().lastCycleAtMs, null);
    await first.stop();
    await until('the second works', () => second.status().lastCycleAtMs !== null);
    const third = await start(database, [devnet]);
    // The server ends the connection of the holder, as when its machine is gone.
    await admin.query(
      `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON database = pg_database.oid
       WHERE locktype = 'advisory' AND datname = $1`,
      [database.address.database],
    );
    await until(
      'exactly one works again',
      () => Number(second.status().holdsLock) + Number(third.status().holdsLock) === 1,
    );
    const [id] = await devnet.generate(1, addressOf('pool'));
    await recordFind(db, devnet, id!);
    await until('it is credited', async () => (await sums(db)).chain === -5_000_000_000n);
  });

  test('two that both believe they hold the lock do no harm', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    const tools = {
      takeLock: async () => ({ lost: new Promise<void>(() => {}), release: async () => {} }),
    };
    await start(database, [devnet], { tools });
    const other = await connectPostgres({ ...database.address, log });
    closers.push(() => other.stop());
    await start({ ...database, db: other }, [devnet], { tools });
    for (let at = 0; at < 5; at++) {
      const [id] = await devnet.generate(1, addressOf('pool'));
      await recordFind(db, devnet, id!);
    }
    await devnet.generate(104);
    await until('all are mature', async () => (await sums(db)).miner === 5n * 4_950_000_000n);
    assert.equal((await sums(db)).chain, -25_000_000_000n);
    assert.equal((await auditLedger(db)).ok, true);
  });

  test('a node that is down, slow, starting or of another network is waited for', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    const payoutd = await start(database, [devnet]);
    const [id] = await devnet.generate(1, addressOf('pool'));
    devnet.fault({ kind: 'other-genesis' });
    await recordFind(db, devnet, id!);
    await until('the wrong network is told', () =>
      /first block/.test(payoutd.status().alarms.join()),
    );
    devnet.clearFaults();
    for (const fault of [
      { kind: 'warming-up' },
      { kind: 'html' },
      { kind: 'drop' },
      { kind: 'truncated' },
      { kind: 'wrong-id' },
      { kind: 'html', method: 'getblock' },
      {
        kind: 'rpc-error',
        method: 'getblock',
        code: -1,
        message: 'Block not available (pruned data)',
      },
    ] as const) {
      devnet.clearFaults();
      devnet.fault(fault);
      const before = payoutd.status().lastCycleAtMs ?? 0;
      await until('two cycles', () => (payoutd.status().lastCycleAtMs ?? 0) > before + 40);
      assert.equal((await sums(db)).chain, 0n, fault.kind);
      assert.ok(payoutd.status().alarms.length > 0, fault.kind);
    }
    devnet.clearFaults();
    await until('it is credited', async () => (await sums(db)).chain === -5_000_000_000n);
    await until('all is well', () => payoutd.status().alarms.length === 0);
  });

  test('a node that has pruned the coinbase: our own record counts, checked by its hash', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    devnet.fault({ kind: 'rpc-error', method: 'getrawtransaction', code: -5, message: 'pruned' });
    const [id] = await devnet.generate(1, addressOf('pool'));
    await recordFind(db, devnet, id!);
    await start(database, [devnet]);
    await until('it is credited', async () => (await sums(db)).chain === -5_000_000_000n);
  });

  test('the node with the most work is believed, another when that is gone', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    const behind = await startQuietDevnet({ seed: 'other' });
    closers.push(() => behind.stop());
    const payoutd = await start(database, [behind, devnet]);
    const [id] = await devnet.generate(1, addressOf('pool'));
    await recordFind(db, devnet, id!);
    await until('it is credited', async () => (await sums(db)).chain === -5_000_000_000n);
    await devnet.stop();
    await until('the other is asked', () => {
      const [first, second] = payoutd.status().nodes;
      return first?.usable === true && second?.usable === false;
    });
    // The one that is left never had the block; its chain is not that high.
    assert.equal((await sums(db)).chain, -5_000_000_000n);
  });

  test('a database that goes away and comes back is waited for', async () => {
    const database = await createDatabase();
    const { db } = database;
    const devnet = await createDevnet();
    let isAway = false;
    const away: Db = {
      query: (sql, params) =>
        isAway ? Promise.reject(new Error('the database is away')) : db.query(sql, params),
      transaction: (work) =>
        isAway ? Promise.reject(new Error('the database is away')) : db.transaction(work),
      stop: async () => {},
    };
    const payoutd = await start({ ...database, db: away }, [devnet]);
    await until('it works', () => payoutd.status().lastCycleAtMs !== null);
    isAway = true;
    await until('it is told', () => /away/.test(payoutd.status().alarms.join()));
    const [id] = await devnet.generate(1, addressOf('pool'));
    await recordFind(db, devnet, id!);
    isAway = false;
    await until('it is credited', async () => (await sums(db)).chain === -5_000_000_000n);
    await until('all is well', () => payoutd.status().alarms.length === 0);
  });
});
