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
  const store = new Store();
  const seen = new Set<string>();
  const sums: Record<string, [number, number]> = {};
  for (const one of shares) {
    const id = one.hash === null ? `${seen.size}` : Buffer.from(one.hash).toString('hex');
    if (seen.has(id)) continue;
    seen.add(id);
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
  assert.equal(store.points.size, 0);
  return sums;
}

test('however it is interrupted, every share is in the sums exactly once', () => {
  const step = fc.record({
    /** Mostly forward; sometimes a share of long ago, from a gateway that was cut off. */
    passMs: fc.oneof(
      { weight: 6, arbitrary: fc.nat(4_000) },
      { weight: 1, arbitrary: fc.integer({ min: -120_000, max: 60_000 }) },
    ),
    event: fc.constantFrom(
      'none',
      'none',
      'none',
      'write',
      'write',
      'crash',
      'lostWrite',
      'again',
      'twin',
    ),
    isRefused: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 120 }), (steps) => {
      let nowMs = START_MS;
      const log: CountedShare[] = [];
      for (const [i, { passMs, isRefused, event }] of steps.entries()) {
        nowMs = Math.max(START_MS - 200_000, nowMs + passMs);
        const refused = { status: 'rejected', reason: 'audit-hash', hash: null };
        log.push(share(i, nowMs, isRefused && event !== 'twin' ? refused : {}));
        if (passMs < 0) nowMs -= passMs;
      }
      // Shareproc was killed between publishing and committing: a share stands in the log twice.
      const twins = steps.flatMap(({ event }, i) => (event === 'twin' ? [log[i]!] : []));
      for (const twin of twins) log.splice(log.indexOf(twin) + 1, 0, twin);

      const store = new Store();
      let position: Position | null = null;
      let lane = new Lane(7, 100, position);
      let next = 0;
      const write = (isTaken: boolean) => {
        const taken = lane.take();
        // Some arrive even when nobody says so.
        store.write(isTaken ? taken.points : taken.points.slice(0, taken.points.length >> 1));
        if (!isTaken) return lane.giveBack();
        lane.settle();
        position = taken.position ?? position;
      };
      for (let done = 0, guard = 0; done < steps.length && guard < 5_000; guard++) {
        const { event } = steps[done++]!;
        const until = Math.ceil((done * log.length) / steps.length);
        for (; next < until; next++) {
          if (lane.enter(BigInt(next))) lane.add(log[next]!, BigInt(next));
        }
        if (event === 'write') write(true);
        if (event === 'lostWrite') write(false);
        if (event === 'again') next = Math.max(0, next - 5);
        if (event === 'crash') {
          lane = new Lane(7, 100, position);
          next = Number((position as Position | null)?.resume ?? 0n);
        }
        if (event === 'again')
          for (; next < until; next++) assert.equal(lane.enter(BigInt(next)), false);
      }
      for (; next < log.length; next++) {
        if (lane.enter(BigInt(next))) lane.add(log[next]!, BigInt(next));
      }
      write(true);
      assert.deepEqual(store.sums(), expected(log));
      assert.equal(lane.lost, 0);
    }),
    { numRuns: 600 },
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
  assert.ok(lane.dirtyCells <= 50_004, String(lane.dirtyCells));
  assert.ok(lane.lost > 60_000, String(lane.lost));
});
