/**
 * Sums of a partition, whatever interrupts them: the oracle adds up every share once, by its hash; the lane is written, interrupted,
 * rebuilt from the position last written, given records again, and must come out the same.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { SeriesPoint } from '../../../src/ports.ts';
import {
  type CountedShare,
  Lane,
  type Position,
  WINDOW_MS,
} from '../../../src/services/statsd/lane.ts';

const START_MS = 1_700_000_000_000;

/** What a time series keeps: one value per series and time, the last one written. */
class Store {
  readonly points = new Map<string, SeriesPoint>();

  write(points: readonly SeriesPoint[]): void {
    for (const point of points) {
      const key = JSON.stringify([point.measurement, point.tags, Math.round(point.atMs * 1_000)]);
      this.points.set(key, point);
    }
  }

  /** Sums by series and window, as a chart asks for them. */
  sums(): Record<string, [number, number]> {
    const sums: Record<string, [number, number]> = {};
    for (const { measurement, tags, fields, atMs } of this.points.values()) {
      const windowMs = Math.floor(atMs / WINDOW_MS) * WINDOW_MS;
      const key = JSON.stringify([measurement, tags, windowMs]);
      const [count, difficulty] = sums[key] ?? [0, 0];
      sums[key] = [count + Number(fields.count), difficulty + Number(fields.difficulty)];
    }
    return sums;
  }
}

function share(index: number, atMs: number, more: Partial<CountedShare> = {}): CountedShare {
  const hash = new Uint8Array(32);
  new DataView(hash.buffer).setUint32(0, Math.imul(index + 1, 0x9e3779b1) >>> 0);
  new DataView(hash.buffer).setUint32(4, index);
  return {
    status: 'valid',
    reason: '',
    pool: 'main',
    account: 'addr',
    worker: `w${index % 3}`,
    difficulty: 1 + (index % 7),
    shareDifficulty: index,
    atMs,
    hash,
    ...more,
  };
}

function expected(shares: readonly CountedShare[]): Record<string, [number, number]> {
  const seen = new Set<string>();
  const sums: Record<string, [number, number]> = {};
  for (const one of shares) {
    const identity = one.hash === null ? '' : Buffer.from(one.hash).toString('hex');
    if (identity !== '' && seen.has(identity)) continue;
    seen.add(identity);
    const windowMs = Math.floor(one.atMs / WINDOW_MS) * WINDOW_MS;
    const { pool, status, reason, account, worker } = one;
    for (const key of [
      JSON.stringify(['pool', { pool, status, reason }, windowMs]),
      JSON.stringify([
        'shares',
        { pool, status, miner_address: account, worker_name: worker },
        windowMs,
      ]),
    ]) {
      const [count, difficulty] = sums[key] ?? [0, 0];
      sums[key] = [count + 1, difficulty + one.difficulty];
    }
  }
  return sums;
}

test('however it is interrupted, every share is in the sums exactly once', () => {
  const shareArbitrary = fc.record({
    passMs: fc.nat(6_000),
    /** Gateways are not equally fast, and one was cut off for long. */
    behindMs: fc.oneof(
      fc.constant(0),
      fc.nat(45_000),
      { weight: 1, arbitrary: fc.nat(200_000) },
      { weight: 1, arbitrary: fc.integer({ min: -40_000, max: 0 }) },
    ),
    isRefused: fc.boolean(),
    /** Shareproc was killed between publishing and committing. */
    isTwice: fc.boolean(),
  });
  const event = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({ kind: fc.constant('read' as const), records: fc.nat(12) }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('write' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('lose' as const) }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('again' as const), records: fc.nat(9) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('crash' as const) }) },
  );
  fc.assert(
    fc.property(
      fc.array(shareArbitrary, { minLength: 10, maxLength: 100 }),
      fc.array(event, { minLength: 10, maxLength: 80 }),
      (shares, events) => {
        let nowMs = START_MS;
        const log = shares.flatMap(({ passMs, behindMs, isRefused, isTwice }, i) => {
          nowMs += passMs;
          const refused = { status: 'rejected', reason: 'audit-hash', hash: null };
          const one = share(i, nowMs - behindMs, isRefused ? refused : {});
          return isTwice && !isRefused ? [one, one] : [one];
        });
        const store = new Store();
        let position: Position | null = null;
        let lane = new Lane(7, 100, position);
        let next = 0;
        let slot = 100;
        const read = (until: number) => {
          for (; next < Math.min(until, log.length); next++) {
            if (lane.enter(BigInt(next))) lane.add(log[next]!, BigInt(next));
          }
        };
        const write = () => {
          const taken = lane.take();
          position = taken.birth ?? position;
          store.write(taken.points);
          lane.settle();
          position = taken.position ?? position;
        };
        for (const one of events) {
          if (one.kind === 'read') read(next + one.records);
          else if (one.kind === 'write') write();
          else if (one.kind === 'lose') {
            // Some arrive even when nobody says so.
            const { birth, points } = lane.take();
            position = birth ?? position;
            store.write(points.slice(0, points.length >> 1));
            lane.giveBack();
          } else if (one.kind === 'again') {
            const until = next;
            next = Math.max(
              0,
              next - one.records,
              Number((position as Position | null)?.resume ?? 0n),
            );
            read(until);
          } else {
            // The slot is that of what was written; a new one is only for who knows of nothing.
            lane = new Lane(7, ++slot, position);
            next = Number((position as Position | null)?.resume ?? 0n);
          }
        }
        read(log.length);
        write();
        assert.deepEqual(store.sums(), expected(log));
        assert.equal(lane.lost, 0);
      },
    ),
    { numRuns: 1_000 },
  );
});

test('a lane that has no position never writes over what was there', () => {
  const store = new Store();
  for (const slot of [11, 12]) {
    const lane = new Lane(0, slot, null);
    for (let i = 0; i < 5; i++) lane.add(share(slot * 100 + i, START_MS + i), null);
    store.write(lane.take().points);
  }
  const counts = Object.values(store.sums()).map(([count]) => count);
  assert.equal(Math.max(...counts), 10);
});

test('another log under the same name is not passed over', () => {
  const position: Position = {
    resume: 1_000n,
    next: 1_010n,
    progressMs: START_MS + 900_000,
    slot: 3,
  };
  const lane = new Lane(0, 4, position);
  assert.equal(lane.enter(0n), true);
  assert.equal(lane.add(share(1, START_MS), 0n), 'counted');
  const [point] = lane.take().points;
  assert.equal(Math.round((point!.atMs - START_MS) * 1_000), 4_000);
});

test('without a time series the oldest windows go, and are counted', () => {
  const lane = new Lane(0, 0, null);
  for (let i = 0; i < 1_000; i++) lane.add(share(i, START_MS + i * WINDOW_MS), null);
  assert.equal(lane.dirtyCells, 180);
  assert.equal(lane.lost, 2_000 - 180);
});

test('late shares of before are bounded too', () => {
  const lane = new Lane(0, 0, null);
  lane.add(share(0, START_MS + 3_600_000), null);
  for (let i = 1; i < 60_000; i++) lane.add(share(i, START_MS), null);
  // A cell of the pool and one of the worker each; a few meet in one place.
  assert.ok(lane.dirtyCells >= 50_000 && lane.dirtyCells <= 50_004, String(lane.dirtyCells));
  assert.ok(lane.lost > 34_000 && lane.lost <= 35_000, String(lane.lost));
});
