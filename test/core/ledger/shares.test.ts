import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  decodeSplit,
  encodeSplit,
  expandSplits,
  SPLIT_CHARACTERS_MAX,
  type SplitPart,
} from '../../../src/core/ledger/shares.ts';
import { Rational } from '../../tools/rational.ts';

const address = fc.stringMatching(/^bc1[0-9a-z]{8,40}$/);
const split = fc.uniqueArray(address, { minLength: 1, maxLength: 8 }).chain((addresses) =>
  fc
    .array(fc.integer({ min: 1, max: 10_000 }), {
      minLength: addresses.length,
      maxLength: addresses.length,
    })
    .map((weights) =>
      addresses.map((one, at): SplitPart => ({ address: one, weight: weights[at]! })),
    ),
);

test('splits have one canonical text', () => {
  assert.equal(
    encodeSplit([
      { address: 'bc1b', weight: 40 },
      { address: 'bc1a', weight: 60 },
    ]),
    'bc1a*3,bc1b*2',
  );
  assert.equal(encodeSplit([{ address: 'bc1a', weight: 60 }]), 'bc1a');
  assert.deepEqual(decodeSplit('bc1a'), [{ address: 'bc1a', weight: 1 }]);
  assert.deepEqual(decodeSplit('bc1b*40,bc1a*60'), [
    { address: 'bc1b', weight: 40 },
    { address: 'bc1a', weight: 60 },
  ]);
});

test('a canonical text is read and written as itself, whatever the order and the scale', () => {
  fc.assert(
    fc.property(split, fc.nat(), (parts, turn) => {
      const text = encodeSplit(parts);
      if (text === null) {
        assert.ok(parts.length * 12 + 8 * 40 > SPLIT_CHARACTERS_MAX - 100);
        return;
      }
      const again = decodeSplit(text)!;
      assert.equal(encodeSplit(again), text);
      const turned = [...parts.slice(turn % parts.length), ...parts.slice(0, turn % parts.length)];
      assert.equal(encodeSplit(turned), text);
      const half = parts.map((one) => ({ ...one, weight: one.weight * 2 }));
      if (half.every((one) => one.weight <= 10_000)) assert.equal(encodeSplit(half), text);
      // The proportions are what they were.
      for (const one of again) {
        const before = parts.find((part) => part.address === one.address)!;
        const first = parts.find((part) => part.address === again[0]!.address)!;
        assert.equal(one.weight * first.weight, before.weight * again[0]!.weight);
      }
    }),
  );
});

test('what is no split is refused on both ways', () => {
  const refused = [
    '',
    ',',
    'a*',
    '*1',
    'a*0',
    'a*01',
    'a*-1',
    'a*1.5',
    'a*10001',
    'a*99999999999',
    'a*1,',
    'a*1,b',
    'a,b',
    'a*1;b*2',
    'a*1, b*2',
    'a*1,a*2',
    'a*1+b*2',
    'a b',
    'ä',
    'a.b',
    Array.from({ length: 9 }, (_, at) => `a${at}*1`).join(','),
    'a'.repeat(SPLIT_CHARACTERS_MAX + 1),
  ];
  for (const text of refused) assert.equal(decodeSplit(text), null, text);
  const one = { address: 'a', weight: 1 };
  assert.equal(encodeSplit([]), null);
  assert.equal(encodeSplit([one, one]), null);
  assert.equal(
    encodeSplit(Array.from({ length: 9 }, (_, at) => ({ ...one, address: `a${at}` }))),
    null,
  );
  for (const weight of [0, -1, 0.5, 10_001, Number.NaN]) {
    assert.equal(encodeSplit([{ address: 'a', weight }]), null);
  }
  const long = Array.from({ length: 8 }, (_, at) => ({
    address: `${at}${'a'.repeat(63)}`,
    weight: 9 - at,
  }));
  assert.equal(encodeSplit(long), null);
});

test('no text makes the reader throw', () => {
  const likely = fc.string({ unit: fc.constantFrom('a', 'b', '*', ',', '0', '1', '9', '.') });
  fc.assert(
    fc.property(likely, (text) => void decodeSplit(text)),
    { numRuns: 1_000 },
  );
});

test('work of split accounts goes to their addresses, all of it, each within one unit of its part', () => {
  const members = fc.array(fc.tuple(split, fc.bigInt({ min: 0n, max: 1n << 128n })), {
    maxLength: 12,
  });
  fc.assert(
    fc.property(members, (rows) => {
      const ids = new Map<string, bigint>();
      const idOf = (text: string) => {
        if (!ids.has(text)) ids.set(text, BigInt(ids.size + 1));
        return ids.get(text)!;
      };
      const known = rows.filter(([parts]) => encodeSplit(parts) !== null);
      const texts = known.map(([parts, work]) => ({ text: encodeSplit(parts)!, work }));
      const result = expandSplits(
        texts.map(({ text, work }) => ({ accountId: idOf(text), address: text, work })),
        idOf,
      );
      const expected = new Map<string, Rational>();
      for (const { text, work } of texts) {
        const parts = decodeSplit(text)!;
        const weights = parts.reduce((sum, part) => sum + part.weight, 0);
        for (const part of parts) {
          const share = new Rational(work * BigInt(part.weight), BigInt(weights));
          expected.set(part.address, share.plus(expected.get(part.address) ?? new Rational(0n)));
        }
      }
      assert.equal(result.length, expected.size);
      for (const { address: text, accountId, work } of result) {
        assert.equal(accountId, idOf(text));
        const difference = new Rational(work).minus(expected.get(text)!);
        assert.ok(difference.compare(new Rational(BigInt(texts.length))) < 0);
        assert.ok(difference.compare(new Rational(BigInt(-texts.length))) > 0);
      }
      const sum = (list: readonly { work: bigint }[]) =>
        list.reduce((all, one) => all + one.work, 0n);
      assert.equal(sum(result), sum(texts));
      const order = result.map((one) => one.accountId);
      assert.deepEqual(
        order,
        [...order].sort((a, b) => (a < b ? -1 : 1)),
      );
    }),
    { numRuns: 200 },
  );
});

test('a miner that also stands in a split has all its work in one place', () => {
  const ids: Record<string, bigint> = { bc1a: 5n, bc1b: 6n };
  const members = [
    { accountId: 9n, address: 'bc1a*3,bc1b*2', work: 11n },
    { accountId: 5n, address: 'bc1a', work: 100n },
  ];
  const before = structuredClone(members);
  assert.deepEqual(
    expandSplits(members, (text) => ids[text]!),
    [
      { accountId: 5n, address: 'bc1a', work: 107n },
      { accountId: 6n, address: 'bc1b', work: 4n },
    ],
  );
  assert.deepEqual(members, before);
  assert.throws(
    () => expandSplits([{ accountId: 1n, address: 'a,b', work: 1n }], () => 1n),
    RangeError,
  );
});
