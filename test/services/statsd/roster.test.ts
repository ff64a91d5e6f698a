import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { OTHER, Roster } from '../../../src/services/statsd/roster.ts';

const LIMITS = { perAccountMax: 5, workersMax: 20, idleMsMax: 3_600_000 };

test('an account has so many names, all have so many, and the rest are others', () => {
  const roster = new Roster(LIMITS);
  for (let i = 0; i < 5; i++) assert.equal(roster.place('a', `w${i}`, 1_000).worker, `w${i}`);
  assert.deepEqual(roster.place('a', 'w5', 1_000), { account: 'a', worker: OTHER });
  assert.deepEqual(roster.place('a', 'w3', 1_000), { account: 'a', worker: 'w3' });
  for (let i = 0; i < 15; i++) roster.place(`b${i}`, 'w', 1_000);
  assert.equal(roster.workers, 20);
  assert.deepEqual(roster.place('c', 'w', 1_000), { account: OTHER, worker: OTHER });
  assert.deepEqual(roster.place('b1', 'x', 1_000), { account: 'b1', worker: OTHER });
});

test('names that are not seen for long make room', () => {
  const roster = new Roster(LIMITS);
  for (let i = 0; i < 5; i++) roster.place('a', `w${i}`, 1_000);
  roster.place('a', 'w0', 3_000_000);
  assert.equal(roster.place('a', 'new', 3_700_000).worker, 'new');
  assert.equal(roster.workers, 2);
  assert.equal(roster.place('a', 'w0', 3_700_000).worker, 'w0');
});

test('whatever comes, the series are bounded', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(30), fc.nat(30), fc.nat(30_000)), { maxLength: 400 }),
      (events) => {
        const roster = new Roster(LIMITS);
        const written = new Map<string, Set<string>>();
        for (const [account, worker, atMs] of events) {
          const place = roster.place(`a${account}`, `w${worker}`, atMs);
          const names = written.get(place.account) ?? new Set();
          written.set(place.account, names.add(place.worker));
          assert.ok(roster.workers <= LIMITS.workersMax);
        }
        // Nobody is idle long enough here.
        const named = [...written].flatMap(([, names]) =>
          [...names].filter((name) => name !== OTHER),
        );
        assert.ok(named.length <= LIMITS.workersMax);
        for (const names of written.values()) assert.ok(names.size <= LIMITS.perAccountMax + 1);
      },
    ),
    { numRuns: 200 },
  );
});
