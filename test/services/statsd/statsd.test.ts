/**
 * Statistics from records to charts: on a log with offsets, against a real InfluxDB that is killed, with the service killed and its
 * partitions moved; and on the bus of one process, where nobody may wait for it.
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { openInflux } from '../../../src/adapters/series/influx.ts';
import { rateQuery, readRates } from '../../../src/core/series/rates.ts';
import {
  encodeBlockOutcome,
  encodeRejectedShare,
  encodeShare,
  encodeShareMark,
} from '../../../src/messages/codec.ts';
import { markKey, type ShareRecord } from '../../../src/messages/share.ts';
import type { BusRecord, Series, SeriesPoint } from '../../../src/ports.ts';
import { type Statsd, startStatsd } from '../../../src/services/statsd/statsd.ts';
import { INFLUXD, startInflux } from '../../tools/influx-server.ts';
import { createRandom } from '../../tools/random.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';
import { createLogBus } from './log-bus.ts';

const START_MS = 1_700_000_000_000;
const PARTITIONS = 4;
const clock = { nowMs: () => Date.now() };
const meter = { count() {}, set() {} };

function shareOf(index: number, more: Partial<ShareRecord> = {}): ShareRecord {
  const headerHash = new Uint8Array(32);
  const view = new DataView(headerHash.buffer);
  view.setUint32(0, Math.imul(index + 1, 0x9e3779b1) >>> 0);
  view.setUint32(4, index);
  return {
    headerHash,
    jobId: '1a',
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: 1,
    nonce: index >>> 0,
    version: 0x20000000,
    difficulty: 1 + (index % 16),
    shareDifficulty: 20 + (index % 16),
    account: `bcrt1account${index % 5}`,
    worker: `w${index % 3}`,
    sessionId: `s${index % 9}`,
    gateway: 'g1',
    height: 1,
    acceptedAtMs: START_MS + index * 10,
    isBlock: false,
    pool: 'main',
    networkBits: 0x207fffff,
    jobValueSats: 1n,
    planId: '',
    coinbaseBytes: 0,
    ...more,
  };
}

const valid = (share: ShareRecord): BusRecord => ({
  key: share.sessionId,
  value: encodeShare(share),
});
const refused = (share: ShareRecord | null, reason: string): BusRecord => ({
  key: share?.sessionId ?? '',
  value: encodeRejectedShare({ share, raw: new Uint8Array(3), reason, detail: '', atMs: START_MS }),
});
const outcome = (index: number, atMs = START_MS): BusRecord => ({
  key: 'k',
  value: encodeBlockOutcome({
    headerHash: shareOf(index).headerHash,
    height: index,
    state: 'accepted',
    node: 'n',
    detail: '',
    confirmations: 1,
    atMs,
  }),
});

/** A series whose process can be killed: from then on nothing it says arrives. */
function cuttable(series: Series): Series & { cut(): void } {
  let isCut = false;
  const dead = () => new Error('killed');
  return {
    write: (points) => (isCut ? undefined : series.write(points)),
    flush: () => (isCut ? Promise.reject(dead()) : series.flush()),
    query: (text) => (isCut ? Promise.reject(dead()) : series.query!(text)),
    stop: () => series.stop(),
    cut() {
      isCut = true;
    },
  };
}

/** Keeps the last value per series and time, like a real one; can be away. */
function createKeptSeries() {
  const kept = new Map<string, SeriesPoint>();
  let waiting: SeriesPoint[] = [];
  const state = { isAway: false, flushes: 0 };
  const series: Series = {
    write: (points) => void waiting.push(...points),
    async flush() {
      state.flushes++;
      if (state.isAway) throw new Error('away');
      for (const point of waiting) {
        kept.set(
          JSON.stringify([point.measurement, point.tags, Math.round(point.atMs * 1_000)]),
          point,
        );
      }
      waiting = [];
    },
    async stop() {},
  };
  const sum = (measurement: string, tags: Record<string, string>, field = 'count') =>
    [...kept.values()]
      .filter((point) => point.measurement === measurement)
      .filter((point) => Object.entries(tags).every(([name, value]) => point.tags[name] === value))
      .reduce((total, { fields }) => total + Number(fields[field]), 0);
  return { ...state, state, kept, series, sum };
}

const ended: (() => Promise<void>)[] = [];
after(async () => {
  for (const end of ended.reverse()) await end();
});

if (INFLUXD === null) {
  test('influxd NOT FOUND (set INFLUXD to its path): statistics were not held against it', () => {});
} else {
  const program = INFLUXD;
  describe('statistics in a real InfluxDB', () => {
    test('the service and the server killed, partitions moved: every share once', async () => {
      const influx = await startInflux(program);
      ended.push(() => influx.stop());
      const log = createLogBus(PARTITIONS, 100);
      ended.push(async () => log.cut());
      const random = createRandom(4711);
      const expected = new Map<string, { count: number; difficulty: number }>();
      const add = (key: string, difficulty: number) => {
        const sum = expected.get(key) ?? { count: 0, difficulty: 0 };
        expected.set(key, { count: sum.count + 1, difficulty: sum.difficulty + difficulty });
      };
      let made = 0;
      const produce = (count: number) => {
        for (let i = 0; i < count; i++) {
          const index = made++;
          // Now and then a gateway that was cut off for minutes.
          const lateMs = index % 97 === 0 ? 90_000 : index % 7 === 0 ? 12_000 : 0;
          const share = shareOf(index, { acceptedAtMs: START_MS + index * 20 - lateMs });
          const partition = Number(share.sessionId.slice(1)) % PARTITIONS;
          if (index % 11 === 5) {
            const reason = index % 2 === 0 ? 'duplicate' : 'audit-hash';
            log.append('share.rejected', partition, [refused(share, reason)]);
            add(
              `${reason === 'duplicate' ? 'duplicate' : 'rejected'} ${share.account}.${share.worker}`,
              share.difficulty,
            );
          } else if (index % 11 === 6) {
            log.append('share.stale', partition, [refused(share, 'stale')]);
            add(`stale ${share.account}.${share.worker}`, share.difficulty);
          } else {
            // Shareproc died between publishing and committing.
            const times = random.below(20) === 0 ? 2 : 1;
            for (let n = 0; n < times; n++) log.append('share.valid', partition, [valid(share)]);
            add(`valid ${share.account}.${share.worker}`, share.difficulty);
          }
          if (index % 50 === 0) {
            for (let p = 0; p < PARTITIONS; p++) {
              const mark = encodeShareMark({
                gateway: 'g1',
                throughMs: share.acceptedAtMs,
                sequence: index,
              });
              log.append('share.valid', p, [{ key: markKey('g1'), value: mark }]);
            }
          }
        }
      };
      const start = async () => {
        const series = cuttable(
          openInflux({
            url: influx.url,
            bucket: 'b',
            dialect: 'auto',
            log: createMemoryLog(),
            timeoutMs: 1_000,
          }),
        );
        ended.push(() => series.stop());
        const tools = { clock, log: createMemoryLog(), bus: log.bus, series, meter };
        const statsd = await startStatsd(tools, { gatherMs: 20, behindMs: 100 });
        ended.push(() => statsd.stop());
        return { series, statsd };
      };

      let running = await start();
      for (let round = 0; round < 6; round++) {
        produce(1_500);
        await until('some are read', () => running.statsd.status().shares > 200, 20_000);
        if (round === 1) await log.rebalance();
        if (round === 2) {
          // As by SIGKILL: nothing more is written or committed, but what is on its way may still arrive.
          running.series.cut();
          log.cut();
          await running.series.stop();
          running = await start();
        }
        if (round === 3) {
          await influx.kill();
          produce(1_500);
          await until('it is noticed', () => running.statsd.status().behind, 20_000);
          produce(1_000);
          await new Promise((resolve) => setTimeout(resolve, 100));
          assert.ok(log.lag() >= 1_000, 'reading is paused');
          await influx.restart();
          await until('it goes on', () => !running.statsd.status().behind, 30_000);
        }
        if (round === 4) {
          await running.statsd.stop();
          log.cut();
          await running.series.stop();
          running = await start();
        }
      }
      await until('all is read', () => log.lag() === 0, 30_000);
      await running.statsd.stop();

      const rows = await influx.ask(
        'SELECT sum(count) AS count, sum(difficulty) AS difficulty FROM shares GROUP BY status, miner_address, worker_name',
        'b',
      );
      const written = new Map(
        rows.map(({ status, miner_address, worker_name, count, difficulty }) => [
          `${status} ${miner_address}.${worker_name}`,
          { count, difficulty },
        ]),
      );
      const sorted = (map: Map<string, unknown>) =>
        [...map].toSorted(([a], [b]) => (a < b ? -1 : 1));
      assert.deepEqual(sorted(written), sorted(expected));
      const [whole] = await influx.ask('SELECT sum(count) AS count FROM pool', 'b');
      assert.equal(whole?.count, made);
      const reasons = await influx.ask(
        'SELECT sum(count) AS count FROM pool GROUP BY status, reason',
        'b',
      );
      assert.deepEqual(reasons.map(({ status, reason }) => `${status} ${reason}`).toSorted(), [
        'duplicate duplicate',
        'rejected audit-hash',
        'stale stale',
        'valid ',
      ]);
      assert.equal(running.statsd.status().lost, 0);

      // What a chart shows is what was accepted.
      const span = { fromMs: START_MS - 300_000, untilMs: START_MS + 600_000, stepMs: 60_000 };
      const rates = readRates(await running.series.query!(rateQuery({ pool: 'main' }, span)), span);
      const hashes = rates.reduce((sum, { hps }) => sum + hps * 60, 0) / 4_294_967_296;
      const accepted = [...expected]
        .filter(([key]) => key.startsWith('valid '))
        .reduce((sum, [, { difficulty }]) => sum + difficulty, 0);
      assert.equal(Math.round(hashes), accepted);
    });
  });
}

describe('statistics', () => {
  const starting = async (options: Parameters<typeof startStatsd>[1] = {}) => {
    const bus = createMemoryBus({ log: createMemoryLog() });
    const kept = createKeptSeries();
    const statsd = await startStatsd(
      { clock, log: createMemoryLog(), bus, series: kept.series, meter },
      { cycleMs: 10, behindMs: 20, ...options },
    );
    ended.push(() => statsd.stop());
    return { bus, statsd, ...kept };
  };

  test('on the bus of one process a series that is away stops nobody', async () => {
    const { bus, statsd, state, sum } = await starting();
    state.isAway = true;
    for (let i = 0; i < 30; i++) {
      await bus.publish(
        'share.valid',
        Array.from({ length: 1_000 }, (_, n) => valid(shareOf(i * 1_000 + n))),
      );
      await bus.publish('block.outcome', [outcome(i)]);
    }
    await until('it is behind', () => statsd.status().behind);
    assert.equal(sum('pool', { status: 'valid' }), 0);
    state.isAway = false;
    await until('it is written', () => sum('pool', { status: 'valid' }) === 30_000);
    assert.equal(sum('shares', { status: 'valid', miner_address: 'bcrt1account1' }), 6_000);
    assert.equal(statsd.status().lost, 0);
  });

  test('a batch that comes again counts once; refusals and what nobody can read are told apart', async () => {
    const { bus, statsd, sum } = await starting();
    const batch = Array.from({ length: 50 }, (_, i) => valid(shareOf(i)));
    await bus.publish('share.valid', batch);
    await bus.publish('share.valid', batch);
    await bus.publish('share.valid', [{ key: 's', value: new Uint8Array([255, 255]) }]);
    await bus.publish('share.valid', [valid(shareOf(99, { acceptedAtMs: Date.now() + 1e9 }))]);
    await bus.publish('share.rejected', [
      refused(null, 'undecodable'),
      refused(shareOf(60), 'audit-difficulty'),
      refused(shareOf(61), 'Strange, reason=x'),
    ]);
    await statsd.stop();
    assert.equal(sum('pool', { status: 'valid' }), 50);
    assert.equal(sum('shares', {}), 52);
    assert.equal(sum('pool', { status: 'rejected', reason: 'undecodable', pool: '(unknown)' }), 1);
    assert.equal(sum('pool', { status: 'rejected', reason: 'audit-difficulty' }), 1);
    assert.equal(sum('pool', { status: 'rejected', reason: 'other' }), 1);
    const { duplicates, unreadable } = statsd.status();
    assert.deepEqual({ duplicates, unreadable }, { duplicates: 50, unreadable: 2 });
  });

  test('workers without number are others, and no share is lost by it', async () => {
    const { bus, statsd, sum, kept } = await starting({
      roster: { perAccountMax: 3, workersMax: 10, idleMsMax: 86_400_000 },
    });
    const many = Array.from({ length: 2_000 }, (_, i) =>
      valid(shareOf(i, { account: `a${i % 40}`, worker: `w${i}`, acceptedAtMs: START_MS })),
    );
    await bus.publish('share.valid', many);
    await statsd.stop();
    assert.equal(sum('shares', {}), 2_000);
    const series = new Set(
      [...kept.values()].map(({ measurement, tags }) => JSON.stringify([measurement, tags])),
    );
    assert.ok(series.size <= 10 + 10 + 2, String(series.size));
    assert.ok(sum('shares', { worker_name: '(other)' }) > 1_900);
  });

  test('blocks: each outcome is a point, two of one millisecond are two, and again changes nothing', async () => {
    const { bus, statsd, kept } = await starting();
    for (let n = 0; n < 2; n++) {
      await bus.publish(
        'block.outcome',
        Array.from({ length: 5 }, (_, i) => outcome(i)),
      );
    }
    await statsd.stop();
    const blocks = [...kept.values()].filter(({ measurement }) => measurement === 'blocks');
    assert.equal(blocks.length, 5);
    for (const { tags, fields, atMs } of blocks) {
      assert.deepEqual(tags, { state: 'accepted' });
      assert.match(String(fields.hash), /^[0-9a-f]{64}$/);
      assert.ok(atMs >= START_MS && atMs < START_MS + 1);
    }
  });

  test('on a log, a position that cannot be read is given up, and nothing is written over', async () => {
    const log = createLogBus(1);
    ended.push(async () => log.cut());
    const { series, sum } = createKeptSeries();
    let statsd: Statsd | null = null;
    let reads = 0;
    const blind: Series = {
      ...series,
      async query() {
        reads++;
        throw new Error('403 no right to read');
      },
    };
    for (let life = 0; life < 2; life++) {
      log.append(
        'share.valid',
        0,
        Array.from({ length: 100 }, (_, i) =>
          valid(shareOf(life * 100 + i, { acceptedAtMs: START_MS + i })),
        ),
      );
      const startedAtMs = START_MS + life * 60_000;
      statsd = await startStatsd(
        {
          clock: { nowMs: () => startedAtMs },
          log: createMemoryLog(),
          bus: log.bus,
          series: blind,
          meter,
        },
        { gatherMs: 5, positionPatienceMs: 0 },
      );
      await until('all is read', () => log.lag() === 0);
      await statsd.stop();
      log.cut();
    }
    assert.ok(reads > 0);
    assert.equal(sum('pool', { status: 'valid' }), 200);
  });
});
