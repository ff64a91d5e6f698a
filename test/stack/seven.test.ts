/**
 * The whole stack: seven services as processes of their own over real servers, two gateways, miners on both; each process is killed once
 * while they mine. In the end every share that was acknowledged stands in the database once, every block that stands in the chain has
 * its round, the books are right, and all of them end in order while miners still mine.
 */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { DRAIN_MS_MAX } from '../../src/compose.ts';
import { encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { listBlocks } from '../../src/store/blocks.ts';
import { auditLedger, sumBalances } from '../../src/store/ledger.ts';
import { listRounds, readRound } from '../../src/store/rounds.ts';
import { kafkaMissing } from '../tools/broker.ts';
import { TestMiner } from '../tools/test-miner.ts';
import { POOL_ADDRESS, untilReady } from './rig.ts';
import { type Member, type Servers, startFleet, startServers, untilAllReady } from './seven.ts';

const missing = kafkaMissing();
const STALE = 21;
const PACE_MS = 300;
const MATURITY = 101;
const ORPHAN_DEPTH = 6;
const READY_MS = 300_000;
const DECIDED = new Set(['accepted', 'confirmed', 'orphaned', 'refused']);

/** Mines on one gateway for as long as it is told, with a new connection and worker name whenever the old one ends. */
class Rig {
  /** Shares acknowledged and sent, by worker. */
  readonly tally = new Map<string, { acknowledged: number; sent: number }>();
  readonly #port: number;
  readonly #name: string;
  #isEnding = false;
  #life: Promise<void>;

  constructor(name: string, port: number) {
    this.#name = name;
    this.#port = port;
    this.#life = this.#mine();
  }

  get acknowledged(): number {
    return [...this.tally.values()].reduce((sum, one) => sum + one.acknowledged, 0);
  }

  async #mine(): Promise<void> {
    for (let life = 1; !this.#isEnding; life++) {
      const worker = `${this.#name}n${life}`;
      const count = { acknowledged: 0, sent: 0 };
      let miner: TestMiner | null = null;
      try {
        miner = await TestMiner.join({ port: this.#port, user: `${POOL_ADDRESS}.${worker}` });
        this.tally.set(worker, count);
        while (!this.#isEnding) {
          count.sent += 1;
          const { result, error } = await miner.share();
          if (result === true) count.acknowledged += 1;
          else if ((error as [number])[0] !== STALE) throw new Error(JSON.stringify(error));
          await pause(PACE_MS);
        }
      } catch {
        await pause(100);
      } finally {
        miner?.hangUp();
      }
    }
  }

  async end(): Promise<void> {
    this.#isEnding = true;
    await this.#life;
  }
}

function pause(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}

/** Asks until the answer is as wanted; fails with the last answer. */
async function untilTrue<T>(
  what: string,
  ask: () => Promise<T>,
  isWanted: (answer: T) => boolean,
  limitMs = 180_000,
): Promise<T> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const answer = await ask();
    if (isWanted(answer)) return answer;
    if (performance.now() > endMs) throw new Error(`${what}: ${plain(answer)}`);
    await pause(200);
  }
}

function plain(value: unknown): string {
  return JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? `${inner}` : inner));
}

if (missing !== null) {
  test(`seven services over Kafka: NOT FOUND, ${missing}`, () => {});
} else {
  let servers: Servers | null = null;
  let fleet: Awaited<ReturnType<typeof startFleet>> | null = null;
  const rigs: Rig[] = [];
  after(async () => {
    await Promise.all(rigs.map((rig) => rig.end()));
    await fleet?.stop();
    await servers?.stop();
  });

  test('seven services, two gateways, each killed once: no share lost, every block in the books', async (t) => {
    servers = await startServers();
    const { db, node } = servers;
    fleet = await startFleet(servers);
    const { members } = fleet;
    const member = (name: string): Member => members.find((one) => one.name === name)!;
    await untilAllReady(members, READY_MS);
    const gateways = [member('stratumd-1'), member('stratumd-2')];
    for (const [at, { ports }] of gateways.entries()) rigs.push(new Rig(`g${at}`, ports.stratum));
    const mined = () => rigs.map(({ acknowledged }) => acknowledged);
    await untilTrue(
      'shares on both',
      async () => mined(),
      (all) => all.every((one) => one >= 2),
    );

    // The gateways one after the other, the rest in quick succession: who is gone holds up nobody else.
    const [first, second, ...others] = members;
    for (const victim of [first!, ...others, second!]) {
      if (victim === second) await untilAllReady(members, READY_MS);
      const ones = rigs.filter((_, at) => gateways[at] !== victim);
      const before = ones.map(({ acknowledged }) => acknowledged);
      await victim.killAndStart();
      await untilTrue(
        `miners to go on without ${victim.name}`,
        async () => ones.map(({ acknowledged }) => acknowledged),
        (all) => all.every((one, at) => one > before[at]!),
      );
      if (victim === first) await untilReady(victim.process, true, READY_MS);
    }
    await untilAllReady(members, READY_MS);
    const sum = mined();
    await untilTrue(
      'shares after all kills',
      async () => mined(),
      (all) => all.every((one, at) => one > sum[at]!),
    );
    await Promise.all(rigs.map((rig) => rig.end()));
    const clumsy = await TestMiner.join({
      port: gateways[0]!.ports.stratum,
      user: `${POOL_ADDRESS}.clumsy`,
    });
    const again = await clumsy.call('mining.submit', await clumsy.acceptedShare());
    assert.notEqual(again.result, true);
    clumsy.hangUp();

    // No acknowledged share is lost, and none is there twice.
    const tally = new Map(rigs.flatMap((rig) => [...rig.tally]));
    tally.set('clumsy', { acknowledged: 1, sent: Number.POSITIVE_INFINITY });
    const stored = await untilTrue(
      'acknowledged shares in the database',
      async () =>
        new Map(
          (
            await db.query<{ name: string; count: bigint }>(
              `SELECT name, count(DISTINCT header_hash) FROM shares JOIN workers USING (worker_id) GROUP BY name`,
            )
          ).map(({ name, count }) => [name, Number(count)]),
        ),
      (found) => [...tally].every(([name, one]) => (found.get(name) ?? 0) >= one.acknowledged),
    );
    for (const [name, count] of stored)
      assert.ok(count <= tally.get(name)!.sent, `${name}: ${count} shares from nowhere`);
    const [rows] = await db.query<{ all: bigint; distinct: bigint }>(
      'SELECT count(*) AS "all", count(DISTINCT header_hash) AS "distinct" FROM shares',
    );
    assert.equal(rows!.all, rows!.distinct);

    // What became of every block is what the node says; those in its chain are credited, and mature.
    await node.call('generatetoaddress', [ORPHAN_DEPTH + 1, POOL_ADDRESS]);
    const blocks = await untilTrue(
      'blocks that are decided',
      () => listBlocks(db, { limit: 500 }),
      (all) => all.length > 0 && all.every(({ state }) => DECIDED.has(state)),
    );
    const ours = blocks.filter(({ state }) => state === 'accepted' || state === 'confirmed');
    assert.ok(ours.length >= members.length, `${ours.length} blocks`);
    for (const { hash, state } of blocks) {
      const header = await node.call('getblockheader', [encodeHexReversed(hash)]).catch(() => null);
      const { confirmations } = (header as { confirmations: number } | null) ?? {
        confirmations: -1,
      };
      assert.equal(
        ours.some((one) => one.hash === hash),
        confirmations > 0,
        state,
      );
    }
    await node.call('generatetoaddress', [MATURITY, POOL_ADDRESS]);
    // A block whose share was not accepted is credited a minute later.
    const shared = new Set(
      (
        await db.query<{ hash: string }>(`SELECT encode(header_hash, 'hex') AS hash FROM shares`)
      ).map(({ hash }) => hash),
    );
    const due = ours
      .map(({ hash }) => Buffer.from(hash).toString('hex'))
      .filter((hash) => shared.has(hash));
    assert.ok(due.length >= members.length, `${due.length} of ${ours.length} blocks have a share`);
    const rounds = await untilTrue(
      'rounds that are mature',
      async () => {
        const all = await listRounds(db, { limit: 500 });
        return new Map(
          all
            .filter(({ state }) => state === 'mature')
            .map((round) => [Buffer.from(round.blockHash).toString('hex'), round]),
        );
      },
      (mature) => due.every((hash) => mature.has(hash)),
    );
    for (const { blockHash, rewardSats, operatorSats, developerSats } of rounds.values()) {
      const round = (await readRound(db, blockHash))!;
      const credited = round.credits.reduce((total, { creditSats }) => total + creditSats, 0n);
      assert.equal(credited + operatorSats + developerSats, rewardSats);
    }
    const audit = await auditLedger(db);
    assert.ok(audit.ok, audit.ok ? '' : audit.findings.join('\n'));
    const balances = Object.values(await sumBalances(db)).reduce((total, sats) => total + sats, 0n);
    assert.equal(balances, 0n);

    // One page for all of them.
    const api = member('apiserver-1').process;
    type Page = { services: { instance: string; state: string; words: { ledger?: string } }[] };
    const services = await api.untilPage<Page>(
      '/api/v1/services',
      ({ services: all }) =>
        all.length >= members.length && all.every(({ state }) => state === 'ready'),
      20_000,
    );
    assert.deepEqual(
      services.services.map(({ instance }) => instance).sort(),
      members.map(({ name }) => name).sort(),
    );
    assert.deepEqual(
      services.services
        .map(({ words }) => words.ledger)
        .filter((ledger) => ledger !== undefined)
        .sort(),
      ['kept', 'kept by another'],
    );
    assert.equal((await api.get('api', '/health')).status, 200);
    const pool = await api.page<{ totals: { shares: string }; height: number; payouts: unknown }>(
      '/api/v1/pool',
    );
    assert.equal(pool.totals.shares, String(rows!.all));
    assert.ok(pool.height > 0 && pool.payouts !== null, JSON.stringify(pool));
    const { workers } = await api.page<{ workers: { worker: string }[] }>('/api/v1/workers');
    assert.ok(workers.some(({ worker }) => worker.startsWith('g0')));
    const page = await (await api.get('api', '/')).text();
    for (const { name } of members) assert.ok(page.includes(name), `${name} is not on the page`);
    // What was refused is counted there, and no link leads nowhere.
    assert.match(page, /<td>\d+: (?:duplicate|stale) \d+/);
    for (const [, link] of page.matchAll(/href="([^"]+)"/g))
      assert.equal((await api.get('api', link!)).status, 200, link);
    assert.equal((await api.page<{ accounts: unknown[] }>('/api/v1/accounts')).accounts.length, 1);
    if (servers.influx !== null) {
      await api.untilPage<{ points?: { shares: number }[] }>(
        '/api/v1/rates?hours=1',
        ({ points = [] }) => points.length > 0,
      );
    }
    // All are told to end while miners mine on.
    for (const [at, { ports }] of gateways.entries())
      rigs.push(new Rig(`late${at}`, ports.stratum));
    const late = rigs.slice(-gateways.length);
    await untilTrue(
      'shares of the last miners',
      async () => late.map(({ acknowledged }) => acknowledged),
      (all) => all.every((one) => one > 0),
    );
    const codes = await fleet.stop();
    assert.deepEqual(
      codes,
      members.map(() => 0),
      members.map(({ process }) => process.tail().slice(-300)).join('\n'),
    );
    fleet = null;
    const drains = members.map(({ name, process: { log } }) => {
      const at = (message: string) =>
        Date.parse(String(log.findLast((line) => line.message === message)?.time));
      assert.ok(
        !log.some(({ message }) => message.startsWith('not everything ended')),
        `${name} was cut off: ${JSON.stringify(log.slice(-12))}`,
      );
      return { name, tookMs: at('stopped') - at('stopping') };
    });
    for (const { name, tookMs } of drains)
      assert.ok(tookMs < DRAIN_MS_MAX, `${name} took ${tookMs} ms to end`);
    t.diagnostic(`ends: ${drains.map(({ name, tookMs }) => `${name} ${tookMs} ms`).join(', ')}`);
    t.diagnostic(
      `${rows!.all} shares, ${ours.length} of ${blocks.length} blocks, ${rounds.size} rounds, on ${node.kind}`,
    );
  });
}
