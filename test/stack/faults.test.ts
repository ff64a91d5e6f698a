/**
 * The whole stack under load while what it stands on fails: the broker frozen and killed, the database frozen and killed, Redis flushed and
 * killed, services killed, a consumer group sent back to the beginning, records that nobody can read. The judge looks at what miners were
 * told, at what the gateways published and at the chain, and asks no table of the product what should be there.
 *
 * Each fault once, in an order that TEST_SEED decides. With FAULTS_SECONDS again and again for so long, and gateways are killed as well: a
 * block whose share died with its gateway is credited a minute later, as the rules of the window ask.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { decodeBlockCandidate, decodeShare } from '../../src/messages/codec.ts';
import { isMarkKey } from '../../src/messages/share.ts';
import { PARTITIONS } from '../../src/messages/topics.ts';
import { listBlocks } from '../../src/store/blocks.ts';
import { auditLedger } from '../../src/store/ledger.ts';
import { listRounds, readRound } from '../../src/store/rounds.ts';
import { kafkaMissing, withAdmin } from '../tools/broker.ts';
import { chooseSeed, createRandom } from '../tools/random.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { TestMiner } from '../tools/test-miner.ts';
import { POOL_ADDRESS } from './rig.ts';
import { type Member, type Servers, startFleet, startServers, untilAllReady } from './seven.ts';

const missing = kafkaMissing();
const PACE_MS = 150;
const FROZEN_MS = 2_000;
const MATURITY = 101;
const READY_MS = 120_000;
const FAULTS_MS = Number(process.env.FAULTS_SECONDS ?? 0) * 1_000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Mines on a gateway whatever happens to it, and remembers what was acknowledged. */
class Load {
  /** Job, extranonce2, time and nonce, of every share that was answered `true`. */
  readonly acknowledged: string[] = [];
  #isEnding = false;
  readonly #life: Promise<void>;

  constructor(port: number, name: string) {
    this.#life = this.#mine(port, name);
  }

  async #mine(port: number, name: string): Promise<void> {
    while (!this.#isEnding) {
      let miner: TestMiner | null = null;
      try {
        miner = await TestMiner.join({ port, user: `${POOL_ADDRESS}.${name}` });
        while (!this.#isEnding) {
          const { result, params } = await miner.share();
          if (result === true) this.acknowledged.push([name, ...params.slice(1, 5)].join(' '));
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

async function untilTrue(
  what: string,
  ask: () => Promise<boolean | string> | boolean | string,
  limitMs = 90_000,
): Promise<void> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    let answer: boolean | string = false;
    try {
      answer = await ask();
    } catch (error) {
      answer = String(error);
    }
    if (answer === true) return;
    if (performance.now() > endMs) throw new Error(`did not happen: ${what}: ${answer}`);
    await pause(200);
  }
}

/** The server's process and all its children. */
async function processesOfPostgres(servers: Servers): Promise<number[]> {
  const [row] = await servers.db.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const parentOf = (pid: number): number => {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]);
  };
  const server = parentOf(Number(row!.pid));
  const all = [server];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (parentOf(Number(name)) === server) all.push(Number(name));
    } catch {
      // Gone meanwhile.
    }
  }
  return all;
}

function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // Gone meanwhile.
    }
  }
}

type Judge = {
  bus: KafkaBus;
  /** Header hash by what a miner sent, from what gateways published. */
  published: Map<string, string>;
  candidates: Set<string>;
};

/** A job called out again has two more digits for the miner; its shares are published under the job's own name. */
function isPublished(published: ReadonlyMap<string, string>, sent: string): boolean {
  if (published.has(sent)) return true;
  const [worker, jobId, ...rest] = sent.split(' ');
  return published.has([worker, jobId!.slice(0, -2), ...rest].join(' '));
}

/** Reads everything gateways published, from the beginning. */
async function startJudge(servers: Servers): Promise<Judge> {
  const bus = createKafkaBus({
    log: createSilentLog(),
    brokers: servers.broker.brokers,
    groupPrefix: 'judge',
    clientId: 'judge',
  });
  const published = new Map<string, string>();
  const candidates = new Set<string>();
  await bus.subscribe('share.submissions', 'judge', async (records) => {
    for (const { key, value } of records) {
      const decoded = isMarkKey(key) ? null : decodeShare(value);
      if (!decoded?.ok) continue;
      const { worker, jobId, extranonce2, ntime, nonce, headerHash } = decoded.value;
      const hex = (one: number): string => one.toString(16).padStart(8, '0');
      const sent = [worker, jobId, hexOf(extranonce2), hex(ntime), hex(nonce)].join(' ');
      published.set(sent, hexOf(headerHash));
    }
  });
  await bus.subscribe('block.candidates', 'judge', async (records) => {
    for (const { value } of records) {
      const decoded = decodeBlockCandidate(value);
      if (decoded.ok) candidates.add(hexOf(decoded.value.headerHash));
    }
  });
  return { bus, published, candidates };
}

/** What can be done to a running pool. Each resolves when what was taken away is back. */
function faultsOf(
  servers: Servers,
  member: (service: string) => Member,
  bus: KafkaBus,
): [string, () => Promise<void>][] {
  const { broker, redis } = servers;
  const kill = (service: string): [string, () => Promise<void>] => [
    `${service} killed`,
    () => member(service).killAndStart(),
  ];
  const control = broker.control!;
  return [
    [
      'broker frozen',
      async () => {
        control.pause();
        await pause(FROZEN_MS);
        control.resume();
      },
    ],
    [
      'broker killed',
      async () => {
        await control.kill();
        await control.restart();
      },
    ],
    [
      'database killed',
      async () => signalAll((await processesOfPostgres(servers)).slice(0, 1), 'SIGKILL'),
    ],
    [
      'database frozen',
      async () => {
        const all = await processesOfPostgres(servers);
        signalAll(all, 'SIGSTOP');
        await pause(FROZEN_MS);
        signalAll(all, 'SIGCONT');
      },
    ],
    ['Redis flushed', async () => void (await redis?.command('FLUSHALL'))],
    [
      'Redis killed',
      async () => {
        await redis?.kill();
        await redis?.restart();
      },
    ],
    kill('shareproc'),
    kill('payoutd'),
    kill('blocksubmit'),
    kill('jobmanager'),
    ...(FAULTS_MS > 0 ? [kill('stratumd')] : []),
    [
      'group sent back to the beginning',
      async () => {
        const shareproc = member('shareproc');
        await shareproc.process.stop(10_000);
        await withAdmin(broker.brokers, (admin) =>
          untilTrue('the group is empty', async () => {
            await admin.alterConsumerGroupOffsets({
              groupId: 'headframe.shareproc.share.submissions',
              topics: [
                {
                  name: 'share.submissions',
                  partitionOffsets: Array.from({ length: PARTITIONS }, (_, partition) => ({
                    partition,
                    offset: 0n,
                  })),
                },
              ],
            });
            return true;
          }),
        );
        await shareproc.killAndStart();
      },
    ],
    [
      'poison',
      async () => {
        for (const topic of [
          'share.submissions',
          'share.valid',
          'block.candidates',
          'block.solved',
          'block.outcome',
          'share.rejected',
        ]) {
          await bus.publish(topic, [
            { key: 'poison', value: Uint8Array.of(255, ...randomBytes(40)) },
            { key: 'mark:poison', value: Uint8Array.of(255, ...randomBytes(40)) },
          ]);
        }
      },
    ],
  ];
}

if (missing !== null) {
  test(`faults of a stack over Kafka: NOT FOUND, ${missing}`, () => {});
} else {
  let servers: Servers | null = null;
  let fleet: Awaited<ReturnType<typeof startFleet>> | null = null;
  let judge: Judge | null = null;
  const loads: Load[] = [];
  after(async () => {
    await Promise.all(loads.map((load) => load.end()));
    await judge?.bus.stop();
    await fleet?.stop();
    await servers?.stop();
  });

  test('whatever fails under load, every acknowledged share and every block is in the books once', async (t) => {
    const seed = chooseSeed();
    const random = createRandom(seed);
    servers = await startServers();
    const { db, node } = servers;
    fleet = await startFleet(servers);
    const { members } = fleet;
    await untilAllReady(members, READY_MS);
    judge = await startJudge(servers);
    const { published, candidates } = judge;
    const gateways = members.filter(({ service }) => service === 'stratumd');
    for (const [at, { ports }] of gateways.entries()) loads.push(new Load(ports.stratum, `m${at}`));
    const goOn = async (what: string) => {
      const before = loads.map(({ acknowledged }) => acknowledged.length);
      await untilTrue(`mining after "${what}", seed ${seed}`, () =>
        loads.every(({ acknowledged }, at) => acknowledged.length > before[at]!),
      );
    };
    await goOn('start');

    const anyOf = (service: string) =>
      random.pick(members.filter((one) => one.service === service));
    const faults = faultsOf(servers, anyOf, judge.bus);
    const startedMs = performance.now();
    const done: string[] = [];
    do {
      const left = faults.slice();
      while (left.length > 0) {
        const [name, harm] = left.splice(random.below(left.length), 1)[0]!;
        done.push(name);
        t.diagnostic(`${name} after ${Math.round((performance.now() - startedMs) / 1_000)} s`);
        await harm().catch((error: Error) => {
          throw new Error(`${done.join(', ')}: ${error.message}`);
        });
        await goOn(done.join(', '));
      }
    } while (performance.now() - startedMs < FAULTS_MS);
    await Promise.all(loads.map((load) => load.end()));
    const faultsMs = performance.now() - startedMs;

    // Acknowledged → published → in the database, once.
    const acknowledged = loads.flatMap((load) => load.acknowledged);
    await untilTrue('every acknowledged share is published', async () => {
      const lost = acknowledged.filter((one) => !isPublished(published, one));
      if (lost.length === 0) return true;
      const [row] = await db.query<{ n: bigint }>('SELECT count(*) AS n FROM shares');
      return `${lost.length} of ${acknowledged.length}: ${lost[0]}; ${published.size} heard, ${row!.n} stored, seed ${seed}`;
    });
    const stored = async () =>
      (await db.query<{ header_hash: Uint8Array }>('SELECT header_hash FROM shares')).map((row) =>
        hexOf(row.header_hash),
      );
    await untilTrue('every published share is stored', async () => {
      const there = new Set(await stored());
      const lost = [...published.values()].filter((hash) => !there.has(hash));
      return (
        lost.length === 0 ||
        `${lost.length} of ${published.size} lost, seed ${seed}, after ${done.join(', ')}`
      );
    });
    const all = await stored();
    assert.equal(new Set(all).size, all.length, 'a share is stored twice');
    const origin = new Set(published.values());
    assert.deepEqual(
      all.filter((hash) => !origin.has(hash)),
      [],
      'a share from nowhere',
    );

    // The chain says which blocks are ours; each of them has its round, and no other block has one.
    await node.call('generatetoaddress', [MATURITY, POOL_ADDRESS]);
    const height = (await node.call('getblockcount', [])) as number;
    const chain = new Set<string>();
    for (let at = 1; at <= height; at++) {
      const display = (await node.call('getblockhash', [at])) as string;
      chain.add(Buffer.from(display, 'hex').reverse().toString('hex'));
    }
    const ours = [...candidates].filter((hash) => chain.has(hash)).sort();
    assert.ok(ours.length > 0);
    await untilTrue('rounds of all blocks', async () => {
      const rounds = await listRounds(db, { limit: 1_000 });
      const mature = rounds
        .filter(({ state }) => state === 'mature')
        .map(({ blockHash }) => hexOf(blockHash))
        .sort();
      return mature.join() === ours.join() || `${mature.length} of ${ours.length}`;
    });
    for (const hash of ours) {
      const round = (await readRound(db, Buffer.from(hash, 'hex')))!;
      const credited = round.credits.reduce((sum, { creditSats }) => sum + creditSats, 0n);
      assert.equal(credited + round.operatorSats + round.developerSats, round.rewardSats);
    }
    await untilTrue('outcomes of all blocks', async () => {
      const blocks = (await listBlocks(db, { limit: 1_000 })).filter(({ hash }) =>
        candidates.has(hexOf(hash)),
      );
      const wrong = blocks.filter(
        ({ hash, state }) => (state === 'confirmed') !== chain.has(hexOf(hash)),
      );
      return (
        (blocks.length === candidates.size && wrong.length === 0) ||
        `${blocks.length} of ${candidates.size}, ${wrong.length} wrong: ${wrong[0]?.state}`
      );
    });
    const audit = await auditLedger(db);
    assert.ok(audit.ok, audit.ok ? '' : audit.findings.join('\n'));
    t.diagnostic(
      `seed ${seed}: ${done.length} faults in ${Math.round(faultsMs / 1_000)} s, ${acknowledged.length} shares acknowledged, ${all.length} stored, ${candidates.size} candidates, ${ours.length} blocks in the chain`,
    );
  });
}
