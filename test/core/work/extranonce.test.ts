import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ExtranonceSpace } from '../../../src/core/work/extranonce.ts';

/** Prefix bits leave so few numbers that the counter comes round. */
const BITS = 16;

function createSpace(change: Partial<ConstructorParameters<typeof ExtranonceSpace>[0]> = {}) {
  return new ExtranonceSpace({
    prefix: 0,
    prefixBits: 0,
    highWater: 0,
    leaseSize: 4,
    persistLease: () => {},
    ...change,
  });
}

test('counts up from the high water under its prefix, and never without a stored lease', () => {
  const stored: number[] = [];
  const space = createSpace({
    prefix: 0xab,
    prefixBits: 8,
    highWater: 8,
    persistLease: (end) => void stored.push(end),
  });
  const taken = Array.from({ length: 5 }, () => space.take());
  assert.deepEqual(taken, [0xab000008, 0xab000009, 0xab00000a, 0xab00000b, 0xab00000c]);
  assert.deepEqual(stored, [12, 16]);
});

test('P08: over connects, leaves, kills and several gateways no number is held twice', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(3), fc.constantFrom('take', 'take', 'take', 'release', 'kill')), {
        maxLength: 400,
      }),
      (steps) => {
        const highWater = [0, 0, 0, 0];
        const create = (gateway: number) =>
          createSpace({
            prefix: gateway,
            prefixBits: 2,
            highWater: highWater[gateway]!,
            persistLease: (end) => {
              highWater[gateway] = end;
            },
          });
        const spaces = [0, 1, 2, 3].map(create);
        const everTaken = new Set<number>();
        const held: number[][] = [[], [], [], []];
        for (const [gateway, step] of steps) {
          if (step === 'take') {
            const value = spaces[gateway]!.take();
            assert.ok(value !== null);
            assert.ok(!everTaken.has(value), 'not reused while the counter has not come round');
            everTaken.add(value);
            held[gateway]!.push(value);
          } else if (step === 'release') {
            const value = held[gateway]!.shift();
            if (value !== undefined) spaces[gateway]!.release(value);
          } else {
            spaces[gateway] = create(gateway);
            held[gateway] = [];
          }
        }
      },
    ),
  );
});

test('when the counter comes round it skips what is held, and says when nothing is free', () => {
  const space = createSpace({ prefixBits: BITS, leaseSize: 1_000 });
  const size = 2 ** (32 - BITS);
  for (let n = 0; n < size; n += 1) assert.equal(space.take(), n);
  assert.equal(space.take(), null);
  space.release(77);
  space.release(5);
  assert.equal(space.take(), 5);
  assert.equal(space.take(), 77);
  assert.equal(space.take(), null);
  assert.equal(space.heldCount, size);
});

test('a lease that cannot be stored gives no number, and the next try works', () => {
  let isBroken = true;
  const space = createSpace({
    persistLease: () => {
      if (isBroken) throw new Error('ENOSPC');
    },
  });
  assert.equal(space.take(), null);
  isBroken = false;
  assert.equal(space.take(), 0);
});

test('options that do not fit are refused at once', () => {
  assert.throws(() => createSpace({ prefixBits: 17 }), RangeError);
  assert.throws(() => createSpace({ prefixBits: 4, prefix: 16 }), RangeError);
  assert.throws(() => createSpace({ highWater: -1 }), RangeError);
});
