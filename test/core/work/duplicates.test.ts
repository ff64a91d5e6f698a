import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DuplicateSet } from '../../../src/core/work/duplicates.ts';
import { createRandom } from '../../tools/random.ts';

test('a hash is added once and present from then on, in its job only', () => {
  const random = createRandom(1);
  const set = new DuplicateSet();
  const hash = random.bytes(32);
  assert.equal(set.has('a', hash), false);
  assert.equal(set.add('a', hash), 'added');
  assert.equal(set.add('a', hash), 'present');
  assert.equal(set.has('a', hash), true);
  assert.equal(set.has('b', hash), false);
  assert.equal(set.add('b', hash), 'added');
  assert.equal(set.size, 2);
  assert.equal(set.jobs, 2);
});

test('200,000 shares of three jobs: nothing forgotten while tables grow, nothing imagined', () => {
  const random = createRandom(2);
  const set = new DuplicateSet();
  const hashes = Array.from({ length: 200_000 }, () => random.bytes(16));
  const wide = new Uint8Array(32);
  for (const [i, hash] of hashes.entries()) {
    wide.set(hash);
    assert.equal(set.add(`job${i % 3}`, wide), 'added');
  }
  for (const [i, hash] of hashes.entries()) {
    wide.set(hash);
    if (set.add(`job${i % 3}`, wide) !== 'present') assert.fail(`forgot ${i}`);
    if (set.has(`job${(i + 1) % 3}`, wide)) assert.fail(`imagined ${i}`);
  }
  assert.equal(set.size, 200_000);
});

test('full is said for new shares only, and nothing is forgotten for it', () => {
  const random = createRandom(3);
  const set = new DuplicateSet({ entriesMaxPerJob: 3, entriesMax: 5, jobsMax: 2 });
  const [a, b, c, d, e, f] = Array.from({ length: 6 }, () => random.bytes(32));
  for (const hash of [a, b, c]) assert.equal(set.add('1', hash!), 'added');
  assert.equal(set.add('1', d!), 'full'); // of this job
  assert.equal(set.add('1', a!), 'present');
  assert.equal(set.add('2', d!), 'added');
  assert.equal(set.add('2', e!), 'added');
  assert.equal(set.add('2', f!), 'full'); // of all jobs
  assert.equal(set.add('3', f!), 'full'); // of the number of jobs
  set.dropJob('1');
  assert.equal(set.size, 2);
  assert.equal(set.add('3', a!), 'added');
  assert.equal(set.has('1', a!), false);
  set.dropJob('unknown');
  assert.equal(set.size, 3);
});

test('behaves as a Map of Sets under any sequence', () => {
  const step = fc.record({
    job: fc.constantFrom('a', 'b', 'c'),
    key: fc.nat(40),
    drop: fc.boolean(),
    seldom: fc.nat(9),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const set = new DuplicateSet({ entriesMaxPerJob: 20, entriesMax: 30 });
      const model = new Map<string, Set<number>>();
      for (const { job, key, drop, seldom } of steps) {
        if (drop && seldom === 0) {
          set.dropJob(job);
          model.delete(job);
          continue;
        }
        const known = model.get(job) ?? new Set();
        const total = [...model.values()].reduce((sum, keys) => sum + keys.size, 0);
        const expected = known.has(key)
          ? 'present'
          : known.size >= 20 || total >= 30
            ? 'full'
            : 'added';
        // Keys share their slot on purpose: the same first word, differing in the third.
        const hash = new Uint8Array(32).fill(7);
        hash[8] = key;
        assert.equal(set.add(job, hash), expected);
        if (expected === 'added') model.set(job, known.add(key));
        assert.equal(
          set.size,
          [...model.values()].reduce((sum, keys) => sum + keys.size, 0),
        );
      }
    }),
  );
});

test('hashes of all zeros in the keyed words are remembered like others', () => {
  const set = new DuplicateSet();
  assert.equal(set.add('a', new Uint8Array(32)), 'added');
  assert.equal(set.add('a', new Uint8Array(32)), 'present');
});
