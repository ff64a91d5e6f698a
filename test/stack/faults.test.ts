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
import type { KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { encodeAddress } from '../../src/core/bitcoin/address.ts';
import { PARTITIONS } from '../../src/messages/topics.ts';
import { kafkaMissing, withAdmin } from '../tools/broker.ts';
import { chooseSeed, createRandom } from '../tools/random.ts';
import {
  complaintAfter,
  type Judge,
  judgeBlocks,
  judgeShares,
  Load,
  pause,
  startJudge,
} from './judge.ts';
import { POOL_ADDRESS } from './rig.ts';
import { type Member, type Servers, startFleet, startServers, untilAllReady } from './seven.ts';

const missing = kafkaMissing();
const PACE_MS = 150;
const FROZEN_MS = 2_000;
const MATURITY = 101;
const READY_MS = 120_000;
const LIMIT_MS = 90_000;
const NOBODY = encodeAddress(Uint8Array.of(0, 20, ...new Array<number>(20).fill(8)), 'regtest')!;
const FAULTS_MS = Number(process.env.FAULTS_SECONDS ?? 0) * 1_000;

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
        const complaint = await withAdmin(broker.brokers, (admin) =>
          complaintAfter(LIMIT_MS, async () => {
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
            return null;
          }),
        );
        if (complaint !== null) throw new Error(complaint);
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
    judge = await startJudge(servers.broker.brokers);
    const gateways = members.filter(({ service }) => service === 'stratumd');
    for (const [at, { ports }] of gateways.entries()) {
      loads.push(
        new Load({
          port: ports.stratum,
          address: POOL_ADDRESS,
          worker: `m${at}`,
          paceMs: PACE_MS,
        }),
      );
    }
    const goOn = async (what: string) => {
      const before = loads.map(({ acknowledged }) => acknowledged.length);
      const complaint = await complaintAfter(LIMIT_MS, () =>
        loads.every(({ acknowledged }, at) => acknowledged.length > before[at]!)
          ? null
          : 'a gateway acknowledges nothing',
      );
      assert.equal(complaint, null, `after "${what}", seed ${seed}`);
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

    const acknowledged = loads.flatMap((load) => load.acknowledged);
    const sent = new Set(loads.flatMap((load) => [...load.sent]));
    const tools = { db, node, judge, limitMs: LIMIT_MS };
    const why = `seed ${seed}, after ${done.join(', ')}`;
    assert.deepEqual(await judgeShares(tools, { acknowledged, sent }), [], why);
    await node.call('generatetoaddress', [MATURITY, NOBODY]);
    const { faults: wrong, ours } = await judgeBlocks(tools, POOL_ADDRESS);
    assert.deepEqual(wrong, [], why);
    t.diagnostic(
      `seed ${seed}: ${done.length} faults in ${Math.round(faultsMs / 1_000)} s, ${acknowledged.length} shares acknowledged, ${judge.published.size} stored, ${judge.candidates.size} candidates, ${ours.length} blocks in the chain`,
    );
  });
}
