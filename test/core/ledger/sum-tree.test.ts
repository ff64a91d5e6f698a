import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { MONEY_MAX_SATS } from '../../../src/core/bitcoin/coinbase.ts';
import {
  climbsTo,
  type SumLeaf,
  type SumNode,
  type SumStep,
  stepsOf,
  sumTree,
} from '../../../src/core/ledger/sum-tree.ts';

const leaves = fc.array(
  fc.record({ content: fc.string(), sats: fc.bigInt({ min: 0n, max: 20_000_000_000n }) }),
  { minLength: 1, maxLength: 33 },
);

/** The same tree from the top down, by another hash. */
function rootOracle(list: readonly SumLeaf[]): SumNode {
  const amount = (sats: bigint) => Buffer.from(sats.toString(16).padStart(16, '0'), 'hex');
  const hashOf = (...parts: (string | Uint8Array)[]) => {
    const hash = createHash('sha256');
    for (const part of parts) hash.update(part);
    return new Uint8Array(hash.digest());
  };
  const [only] = list;
  if (list.length === 1) {
    const { content, sats } = only!;
    return { hash: hashOf(Buffer.of(0), amount(sats), content), sumSats: sats };
  }
  let half = 1;
  while (half * 2 < list.length) half *= 2;
  const left = rootOracle(list.slice(0, half));
  const right = rootOracle(list.slice(half));
  const hash = hashOf(
    Buffer.of(1),
    left.hash,
    amount(left.sumSats),
    right.hash,
    amount(right.sumSats),
  );
  return { hash, sumSats: left.sumSats + right.sumSats };
}

test('the root is that of a tree built from the top, with the sum of all leaves', () => {
  fc.assert(fc.property(leaves, (list) => assert.deepEqual(sumTree(list), rootOracle(list))));
});

test('every leaf climbs to the root by its steps, and by no others', () => {
  fc.assert(
    fc.property(leaves, fc.nat(), (list, pick) => {
      const root = sumTree(list);
      for (const [at, leaf] of list.entries()) {
        const steps = stepsOf(list, at);
        assert.ok(steps.length <= Math.ceil(Math.log2(list.length)));
        assert.ok(climbsTo(leaf, steps, root));
      }
      const at = pick % list.length;
      const other = (at + 1) % list.length;
      const [leaf, wrong] = [list[at]!, list[other]!];
      if (leaf.content === wrong.content && leaf.sats === wrong.sats) return;
      assert.ok(!climbsTo(wrong, stepsOf(list, at), root));
    }),
  );
});

test('a changed leaf, sum, sibling, side or root is refused', () => {
  const list = ['a', 'b', 'c', 'd', 'e'].map((content, at) => ({ content, sats: BigInt(at * 10) }));
  const root = sumTree(list);
  const leaf = list[2]!;
  const steps = stepsOf(list, 2);
  const changed = (at: number, change: Partial<SumStep>) =>
    steps.map((step, i) => (i === at ? { ...step, ...change } : step));
  const flipped = (hash: Uint8Array) => hash.map((byte, at) => (at === 31 ? byte ^ 1 : byte));
  assert.ok(climbsTo(leaf, steps, root));
  assert.ok(!climbsTo({ ...leaf, sats: leaf.sats + 1n }, steps, root));
  assert.ok(!climbsTo({ ...leaf, content: 'C' }, steps, root));
  assert.ok(!climbsTo(leaf, steps, { ...root, sumSats: root.sumSats + 1n }));
  assert.ok(!climbsTo(leaf, steps, { ...root, hash: flipped(root.hash) }));
  for (const [at, step] of steps.entries()) {
    assert.ok(!climbsTo(leaf, changed(at, { sumSats: step.sumSats + 1n }), root));
    assert.ok(!climbsTo(leaf, changed(at, { hash: flipped(step.hash) }), root));
    assert.ok(!climbsTo(leaf, changed(at, { hash: step.hash.slice(1) }), root));
    const side = step.side === 'left' ? 'right' : 'left';
    assert.ok(!climbsTo(leaf, changed(at, { side }), root));
  }
  // A sum moved from one sibling to the next leaves the total as it was, and is found all the same.
  const moved = changed(0, { sumSats: steps[0]!.sumSats - 1n });
  moved[1] = { ...moved[1]!, sumSats: moved[1]!.sumSats + 1n };
  assert.ok(!climbsTo(leaf, moved, root));
  assert.ok(!climbsTo(leaf, steps.slice(1), root));
  assert.ok(!climbsTo(leaf, [...steps, ...steps], root));
  assert.ok(!climbsTo(leaf, Array(41).fill(steps[0]!), root));
});

test('amounts below zero or over all money are refused wherever they stand', () => {
  const list = [
    { content: 'a', sats: 5n },
    { content: 'b', sats: 6n },
  ];
  const root = sumTree(list);
  const [step] = stepsOf(list, 0);
  // What a forger would want: a sibling that owes, so that the sum looks small.
  assert.ok(!climbsTo(list[0]!, [{ ...step!, sumSats: -6n }], { ...root, sumSats: -1n }));
  assert.ok(!climbsTo(list[0]!, [{ ...step!, sumSats: -3n }], { ...root, sumSats: 2n }));
  assert.ok(!climbsTo({ content: 'a', sats: -5n }, [step!], root));
  assert.ok(!climbsTo(list[0]!, [{ ...step!, sumSats: MONEY_MAX_SATS }], root));
  assert.ok(!climbsTo(list[0]!, [{ ...step!, sumSats: 1n << 64n }], root));
  assert.throws(() => sumTree([{ content: 'a', sats: -1n }]), RangeError);
  assert.throws(() => sumTree([{ content: 'a', sats: MONEY_MAX_SATS + 1n }]), RangeError);
  const rich = { content: 'a', sats: MONEY_MAX_SATS };
  assert.throws(() => sumTree([rich, list[0]!]), RangeError);
  assert.throws(() => sumTree([]), RangeError);
  assert.throws(() => stepsOf(list, 2), RangeError);
});

test('a node cannot be passed off as a leaf', () => {
  const list = ['a', 'b', 'c', 'd'].map((content) => ({ content, sats: 1n }));
  const root = sumTree(list);
  const [, above] = stepsOf(list, 0);
  const left = sumTree(list.slice(0, 2));
  const content = String.fromCharCode(...left.hash);
  assert.ok(!climbsTo({ content, sats: left.sumSats }, [above!], root));
});
