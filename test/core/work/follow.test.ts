/**
 * Whose jobs are handed out: two and more job managers that lag, die, come back, disagree; a broker that is away. The gateway must not
 * flap, never go back to an older tip while somebody knows a newer one, and never stay with the dead.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FOLLOW_LIMITS, type JobOrigin, JobSources } from '../../../src/core/work/follow.ts';
import type { Job } from '../../../src/core/work/job.ts';

/** A job on the block of this height; `side` tells blocks of one height apart. */
function jobOn(height: number, given: Partial<Job> & { side?: number } = {}): Job {
  const { side = 0, ...rest } = given;
  const previousHash = new Uint8Array(32);
  new DataView(previousHash.buffer).setUint32(0, height);
  previousHash[31] = side;
  return {
    jobId: `${height}-${side}`,
    height: height + 1,
    version: 0x20000000,
    previousHash,
    bits: 0x207fffff,
    networkTarget: 1n,
    curtime: 0,
    mintime: 0,
    branch: [],
    coinbaseValueSats: 1n,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: null,
    coinbaseWeightMax: 1000,
    feesSats: 0n,
    transactionCount: 0,
    clean: true,
    createdAtMs: 1,
    ...rest,
  };
}

const from = (source: string, given: Partial<JobOrigin> = {}): JobOrigin => ({
  source,
  tipWork: null,
  isAgain: false,
  ...given,
});

describe('following one job manager of several', () => {
  it('takes whatever the only one says, also a chain that went back', () => {
    const sources = new JobSources();
    assert.equal(sources.hear(jobOn(5), from(''), 0)?.jobId, '5-0');
    assert.equal(sources.hear(jobOn(6), from(''), 1)?.jobId, '6-0');
    assert.equal(sources.hear(jobOn(5, { jobId: 'back' }), from(''), 2)?.jobId, 'back');
    assert.equal(sources.hear(jobOn(5, { jobId: 'back' }), from('', { isAgain: true }), 3), null);
    assert.equal(sources.changes, 0);
  });

  it('goes with the first that knows the next tip, and stays with it', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5, { jobId: 'a5' }), from('a'), 0);
    assert.equal(sources.hear(jobOn(5, { jobId: 'b5' }), from('b'), 10), null);
    assert.equal(sources.hear(jobOn(6, { jobId: 'b6' }), from('b'), 5000)?.jobId, 'b6');
    assert.equal(sources.hear(jobOn(6, { jobId: 'a6' }), from('a'), 5010), null);
    assert.equal(sources.hear(jobOn(6, { jobId: 'a6x' }), from('a'), 9000), null);
    assert.equal(sources.hear(jobOn(6, { jobId: 'b6x' }), from('b'), 9001)?.jobId, 'b6x');
    assert.equal(sources.source, 'b');
    assert.equal(sources.changes, 1);
  });

  it('leaves one that is silent for the other on the same tip, without making miners drop their work', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5, { jobId: 'a' }), from('a'), 0);
    for (let nowMs = 1000; nowMs < 9999; nowMs += 1000)
      assert.equal(sources.hear(jobOn(5, { jobId: 'b' }), from('b'), nowMs), null);
    assert.equal(sources.look(9_999), null);
    const taken = sources.look(10_000);
    assert.equal(taken?.jobId, 'b');
    assert.equal(taken?.clean, false);
    // The other comes back: no reason to change again.
    assert.equal(sources.hear(jobOn(5, { jobId: 'a2' }), from('a'), 12_000), null);
    assert.equal(sources.changes, 1);
  });

  it('compares work before height, and height where work is not known', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5), from('a', { tipWork: 100n }), 0);
    assert.equal(sources.hear(jobOn(7, { side: 1 }), from('b', { tipWork: 90n }), 2000), null);
    assert.equal(
      sources.hear(jobOn(4, { side: 2 }), from('c', { tipWork: 101n }), 2001)?.jobId,
      '4-2',
    );
    assert.equal(sources.hear(jobOn(9, { side: 3 }), from('d'), 4000)?.jobId, '9-3');
  });

  it('learns the work of a tip when the job is said again', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5), from('a'), 0);
    sources.hear(jobOn(5), from('a', { tipWork: 100n, isAgain: true }), 1);
    sources.hear(jobOn(5), from('a', { isAgain: true }), 2);
    assert.equal(sources.hear(jobOn(9, { side: 1 }), from('b', { tipWork: 99n }), 2000), null);
  });

  it('two blocks of equal work: the one it has, until the next block decides', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5, { side: 1 }), from('a', { tipWork: 9n }), 0);
    for (let nowMs = 500; nowMs < 60_000; nowMs += 500) {
      assert.equal(sources.hear(jobOn(5, { side: 2 }), from('b', { tipWork: 9n }), nowMs), null);
      sources.hear(jobOn(5, { side: 1 }), from('a', { tipWork: 9n, isAgain: true }), nowMs);
    }
    const next = sources.hear(jobOn(6, { side: 2 }), from('b', { tipWork: 10n }), 60_000);
    assert.equal(next?.jobId, '6-2');
  });

  it('a job manager with nothing to mine is left for one with a job on that tip, not for an older tip', () => {
    const sources = new JobSources();
    sources.hear(jobOn(6, { jobId: 'b' }), from('b'), 0);
    sources.hear(jobOn(7, { jobId: 'a' }), from('a'), 2000);
    const stop = jobOn(7, { jobId: 'none', createdAtMs: 0 });
    assert.equal(sources.hear(stop, from('a'), 4000)?.jobId, 'none');
    assert.equal(sources.hear(jobOn(6, { jobId: 'b' }), from('b'), 5000), null);
    assert.equal(sources.hear(jobOn(7, { jobId: 'b7' }), from('b'), 6000)?.jobId, 'b7');
  });

  it('does not go back to the tip of one that lags when the other has died, until that is long ago', () => {
    const sources = new JobSources();
    sources.hear(jobOn(6, { jobId: 'lagging' }), from('b'), 0);
    sources.hear(jobOn(7, { jobId: 'ahead' }), from('a'), 1500);
    const diedAtMs = 1500;
    let taken: Job | null = null;
    let nowMs = diedAtMs;
    while (taken === null) {
      nowMs += 1000;
      taken = sources.hear(jobOn(6, { jobId: 'lagging' }), from('b', { isAgain: true }), nowMs);
      assert.ok(nowMs < 1e6, 'never left the dead');
    }
    assert.equal(nowMs - diedAtMs, FOLLOW_LIMITS.heldMs);
    assert.equal(taken.jobId, 'lagging');
  });

  it('nobody is blamed when the broker was away', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5, { jobId: 'a' }), from('a'), 0);
    sources.hear(jobOn(5, { jobId: 'b' }), from('b'), 1);
    assert.equal(sources.look(400_000), null);
    assert.equal(
      sources.hear(jobOn(5, { jobId: 'b' }), from('b', { isAgain: true }), 400_000),
      null,
    );
    assert.equal(sources.hear(jobOn(4, { jobId: 'old' }), from('b'), 400_001), null);
    assert.equal(sources.source, 'a');
    sources.hear(jobOn(5, { jobId: 'a' }), from('a', { isAgain: true }), 400_100);
    assert.equal(sources.changes, 0);
  });

  it('remembers a bounded number of them, and never forgets the one it follows', () => {
    const sources = new JobSources();
    sources.hear(jobOn(5, { jobId: 'a' }), from('a'), 0);
    for (let i = 0; i < 100; i++) sources.hear(jobOn(5, { jobId: `x${i}` }), from(`x${i}`), i);
    assert.equal(sources.hear(jobOn(5, { jobId: 'a2' }), from('a'), 200)?.jobId, 'a2');
  });

  it('holds in every order of blocks, lags, deaths and partitions', () => {
    const step = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ kind: fc.constant('time'), ms: fc.integer({ min: 1, max: 4000 }) }),
      },
      {
        weight: 3,
        arbitrary: fc.record({ kind: fc.constant('block'), side: fc.integer({ min: 0, max: 1 }) }),
      },
      {
        weight: 2,
        arbitrary: fc.record({ kind: fc.constant('see'), who: fc.integer({ min: 0, max: 2 }) }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('die'), who: fc.integer({ min: 0, max: 2 }) }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('live'), who: fc.integer({ min: 0, max: 2 }) }),
      },
    ) as fc.Arbitrary<{ kind: string; ms?: number; side?: number; who?: number }>;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const sources = new JobSources();
        const chains = [10, 10];
        const managers = [0, 1, 1].map((side, i) => ({
          name: `m${i}`,
          side,
          seen: 10,
          isAlive: true,
          heardAtMs: Number.NEGATIVE_INFINITY,
          made: 0,
        }));
        let nowMs = 0;
        let handed: Job | null = null;
        let lastChangeMs = Number.NEGATIVE_INFINITY;
        let changes = 0;

        const workOf = (job: Job) => job.height;
        const take = (job: Job | null) => {
          if (sources.changes !== changes) {
            assert.ok(
              nowMs - lastChangeMs >= FOLLOW_LIMITS.changeMs,
              `changed twice within ${nowMs - lastChangeMs} ms`,
            );
            lastChangeMs = nowMs;
            changes = sources.changes;
          }
          if (job === null) return;
          // What is handed out is what the best of those who speak has, or better.
          const own = managers.find(({ name }) => name === sources.source)!;
          const live = managers.filter((one) => nowMs - one.heardAtMs < FOLLOW_LIMITS.silentMs);
          const isBack: boolean = handed !== null && workOf(job) < workOf(handed);
          assert.ok(!isBack || live.every((one) => one.seen + 1 <= workOf(job)), 'an older tip');
          assert.ok(own.made > 0);
          handed = job;
        };
        const speak = (who: number) => {
          const manager = managers[who]!;
          manager.heardAtMs = nowMs;
          manager.made += 1;
          const job = jobOn(manager.seen, {
            side: manager.side,
            jobId: `${manager.name}-${manager.seen}`,
          });
          take(sources.hear(job, from(manager.name, { tipWork: BigInt(manager.seen) }), nowMs));
        };
        for (const { kind, ms = 0, side = 0, who = 0 } of steps) {
          if (kind === 'block') chains[side]! += 1;
          else if (kind === 'die') managers[who]!.isAlive = false;
          else if (kind === 'live') managers[who]!.isAlive = true;
          else if (kind === 'see' && managers[who]!.isAlive) {
            managers[who]!.seen = chains[managers[who]!.side]!;
            speak(who);
          } else if (kind === 'time') {
            for (let passed = 0; passed < ms; passed += 250) {
              nowMs += 250;
              for (const [at, manager] of managers.entries())
                if (manager.isAlive && nowMs - manager.heardAtMs >= 3000) speak(at);
              take(sources.look(nowMs));
            }
          }
        }
        // Left alone with one that lives, the gateway comes to follow the best of the living, or a better one it had.
        for (let i = 0; i < 800; i++) {
          nowMs += 250;
          for (const [at, manager] of managers.entries())
            if (manager.isAlive && nowMs - manager.heardAtMs >= 3000) speak(at);
          take(sources.look(nowMs));
        }
        const alive = managers.filter(({ isAlive }) => isAlive);
        if (alive.length > 0) {
          const best = Math.max(...alive.map(({ seen }) => seen));
          assert.ok(
            alive.some(({ name }) => name === sources.source),
            'stays with the dead',
          );
          assert.equal(workOf(handed!), best + 1);
        }
      }),
      { numRuns: 300 },
    );
  });
});
