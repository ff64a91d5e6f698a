import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadAccelerator } from '../../../src/adapters/pow/sha256d.ts';
import { foldInTypescript } from '../../../src/core/work/fold.ts';
import { compileWork, fillWork } from '../../../src/core/work/share.ts';
import { chooseSeed, createRandom } from '../../tools/random.ts';

test('the accelerator, where there is one, gives what the TypeScript fold gives', (t) => {
  const accelerator = loadAccelerator();
  if (accelerator === null) {
    t.diagnostic('no accelerator on this machine: shares are hashed in TypeScript');
    return;
  }
  t.diagnostic(accelerator.name);
  const seed = chooseSeed();
  t.diagnostic(`TEST_SEED=${seed}`);
  const random = createRandom(seed);
  for (let round = 0; round < 300; round++) {
    const work = compileWork(
      {
        previousHash: random.bytes(32),
        bits: random.u32(),
        branch: Array.from({ length: round % 16 }, () => random.bytes(32)),
      },
      { prefix: random.bytes(1 + random.below(200)), suffix: random.bytes(random.below(700)) },
    );
    for (let i = 0; i < 30; i++) {
      fillWork(work, {
        extranonce1: random.u32(),
        extranonce2High: random.u32(),
        extranonce2Low: random.u32(),
        ntime: random.u32(),
        nonce: random.u32(),
        version: random.u32(),
      });
      accelerator.hash(work);
      const accelerated = Buffer.from(work.bytes);
      foldInTypescript(work);
      assert.ok(accelerated.equals(work.bytes), `round ${round}`);
    }
  }
});

test('two accelerators in one process do not disturb each other', () => {
  const [a, b] = [loadAccelerator(), loadAccelerator()];
  if (a === null || b === null) return;
  const random = createRandom(5);
  const works = [0, 1].map(() =>
    compileWork(
      { previousHash: random.bytes(32), bits: 1, branch: [random.bytes(32)] },
      { prefix: random.bytes(60), suffix: random.bytes(60) },
    ),
  );
  a.hash(works[0]!);
  b.hash(works[1]!);
  const hashes = works.map((work) => Buffer.from(work.hash));
  for (const work of works) foldInTypescript(work);
  assert.deepEqual(
    works.map((work) => Buffer.from(work.hash)),
    hashes,
  );
});
