/**
 * The deterministic simulation in the suite: a fixed set of seeds that must keep every promise, and proof that it can fail: the pool
 * is broken on purpose in every way of breaks.ts, and the promise named there must notice.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BREAKS, type BreakName } from './breaks.ts';
import { CHECKED_ELSEWHERE, PROMISES } from './promises.ts';
import { CRASH_POINTS, makeSteps, type Step } from './steps.ts';
import { type RunResult, runWorld, shrinkFailure } from './world.ts';

const STEPS = 220;
const SEEDS = Array.from({ length: 12 }, (_, index) => index + 1);

async function mustHold(seed: number, steps: readonly Step[]): Promise<RunResult> {
  const result = await runWorld({ seed, steps });
  const { failure } = result;
  if (failure !== null) {
    const fewer = await shrinkFailure({ seed, steps }, failure.promise, 60);
    assert.fail(
      `seed ${seed} breaks ${failure.promise} at step ${failure.step}: ${failure.text}\n` +
        `replay: node test/sim/run.ts --seed ${seed} --steps ${steps.length} --trace\n` +
        `shrunk to ${fewer.length} steps: ${JSON.stringify(fewer)}`,
    );
  }
  return result;
}

describe('simulation', () => {
  test('keeps every promise through crashes, lost messages, away nodes and reorganisations', async () => {
    const crashedAt = new Set<string>();
    let accepted = 0;
    let blocks = 0;
    for (const seed of SEEDS) {
      const { stats } = await mustHold(seed, makeSteps(seed, STEPS));
      accepted += stats.accepted;
      blocks += stats.blocksReceived;
      for (const point of stats.crashedAt.keys()) crashedAt.add(point);
    }
    // The runs must have had something to lose.
    assert.ok(accepted > 600, `only ${accepted} shares were acknowledged`);
    assert.ok(blocks > 40, `only ${blocks} blocks reached a node`);
  });

  for (const point of CRASH_POINTS) {
    test(`survives a kill and a power loss at ${point}`, async () => {
      const reached = new Set<string>();
      for (const how of [0, 1]) {
        for (let round = 0; round < 4 && !reached.has(`${how}`); round++) {
          const seed = 9000 + round * 2 + how;
          const steps = pointedSteps(seed, how === 0 ? 'kill' : 'power', point);
          const { stats } = await mustHold(seed, steps);
          if (stats.crashedAt.has(point)) reached.add(`${how}`);
        }
      }
      assert.equal(reached.size, 2, `${point} was never reached`);
    });
  }

  test('gives the same run for the same seed', async () => {
    const runs: string[] = [];
    for (let i = 0; i < 2; i++) {
      const lines: string[] = [];
      await runWorld({ seed: 77, steps: makeSteps(77, 150), trace: (text) => lines.push(text) });
      runs.push(lines.join('\n'));
    }
    assert.equal(runs[0], runs[1]);
  });
});

describe('a pool broken on purpose is found out', () => {
  for (const [name, promise] of Object.entries(BREAKS) as [BreakName, string][]) {
    test(`${name} breaks ${promise}`, async () => {
      const found: string[] = [];
      for (let seed = 1; seed <= 40; seed++) {
        const { failure } = await runWorld({
          seed,
          steps: makeSteps(seed, STEPS),
          breaks: new Set([name]),
        });
        if (failure === null) continue;
        found.push(failure.promise);
        if (failure.promise === promise) return;
      }
      assert.fail(`not noticed in 40 seeds; other promises broken: ${found.join(', ') || 'none'}`);
    });
  }

  test('and the failing run is shrunk to a few steps', async () => {
    const breaks = new Set<BreakName>(['duplicates-off']);
    for (let seed = 1; seed <= 40; seed++) {
      const options = { seed, steps: makeSteps(seed, STEPS), breaks };
      const { failure } = await runWorld(options);
      if (failure?.promise !== 'P07') continue;
      const fewer = await shrinkFailure(options, 'P07', 60);
      const again = await runWorld({ ...options, steps: fewer });
      assert.equal(again.failure?.promise, 'P07');
      assert.ok(fewer.length < STEPS / 5, `${fewer.length} of ${STEPS} steps are left`);
      return;
    }
    assert.fail('duplicates-off was not noticed in 40 seeds');
  });
});

test('every promise from P01 to P16 is checked here or names the test that does', () => {
  const here = new Set(PROMISES.map((promise) => promise.id));
  for (let number = 1; number <= 16; number++) {
    const id = `P${String(number).padStart(2, '0')}`;
    const elsewhere = CHECKED_ELSEWHERE.find((entry) => entry.id === id);
    assert.ok(here.has(id) || elsewhere !== undefined, `${id} is checked nowhere`);
    for (const path of elsewhere?.tests ?? []) {
      const file = fileURLToPath(new URL(`../../${path}`, import.meta.url));
      assert.ok(existsSync(file), `${id} names ${path}, which does not exist`);
    }
  }
});

/** A run in which a crash at `point` is armed again and again among shares, blocks and faults. */
function pointedSteps(seed: number, how: 'kill' | 'power', point: string): Step[] {
  const steps = makeSteps(seed, 110).filter(
    (step) => !['crash', 'powerLoss', 'armCrash', 'wait', 'disk', 'freeze'].includes(step.kind),
  );
  return steps.flatMap((step, index) =>
    index % 12 === 5
      ? [
          { kind: 'armCrash', seed: step.seed, at: { point, how } } as Step,
          // A lease is only taken by a fresh process.
          ...(point.startsWith('lease') ? [{ kind: 'crash', seed: step.seed } as Step] : []),
          { kind: 'block', seed: step.seed } as Step,
          step,
        ]
      : [step],
  );
}
