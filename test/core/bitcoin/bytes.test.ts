import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  ByteReader,
  ByteWriter,
  concatBytes,
  decodeHex,
  decodeHexReversed,
  decodeHexU32,
  encodeHex,
  encodeHexReversed,
  encodeHexU32,
  equalBytes,
} from '../../../src/core/bitcoin/bytes.ts';

test('hex of any bytes decodes to the same bytes, in either case', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const text = encodeHex(bytes);
      assert.deepEqual(decodeHex(text), bytes);
      assert.deepEqual(decodeHex(text.toUpperCase()), bytes);
      assert.deepEqual(decodeHexReversed(encodeHexReversed(bytes)), bytes);
      assert.equal(encodeHexReversed(bytes), Buffer.from(bytes).reverse().toString('hex'));
    }),
  );
});

test('what is not strict hex is null, never a shorter array', () => {
  for (const text of [
    '0',
    '0g',
    'zz',
    'ab zz',
    ' ab',
    'ab ',
    '0x12',
    '+1',
    '-1',
    'é0',
    '０0',
    '٣٣',
  ]) {
    assert.equal(decodeHex(text), null, text);
    assert.equal(decodeHexReversed(text), null, text);
  }
  assert.deepEqual(decodeHex(''), new Uint8Array(0));
});

test('eight digits make an unsigned number, anything else −1', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), (value) => {
      assert.equal(decodeHexU32(encodeHexU32(value), 0), value);
      assert.equal(decodeHexU32('xx' + encodeHexU32(value).toUpperCase() + 'x', 2), value);
    }),
  );
  for (const text of ['', '1234567', '1234567g', '-1234567', ' 1234567', '0x123456']) {
    assert.equal(decodeHexU32(text, 0), -1, text);
  }
  assert.equal(decodeHexU32('123456789', 2), -1);
  assert.equal(decodeHexU32('12345678', -1), -1);
  assert.equal(encodeHexU32(-1), 'ffffffff');
});

test('a reader gives back what a writer wrote, in order, to the last byte', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('u8' as const), value: fc.integer({ min: 0, max: 0xff }) }),
    fc.record({ kind: fc.constant('u16' as const), value: fc.integer({ min: 0, max: 0xffff }) }),
    fc.record({
      kind: fc.constant('u32' as const),
      value: fc.integer({ min: 0, max: 0xffffffff }),
    }),
    fc.record({
      kind: fc.constant('i32' as const),
      value: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    }),
    fc.record({
      kind: fc.constant('u64' as const),
      value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    }),
    fc.record({ kind: fc.constant('varint' as const), value: fc.maxSafeNat() }),
    fc.record({ kind: fc.constant('varbytes' as const), value: fc.uint8Array({ maxLength: 700 }) }),
  );
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const writer = new ByteWriter(1);
      for (const { kind, value } of steps) (writer[kind] as (value: unknown) => unknown)(value);
      const bytes = writer.take();
      const reader = new ByteReader(bytes);
      for (const { kind, value } of steps) assert.deepEqual(reader[kind](), value);
      assert.ok(reader.done);
      assert.equal(reader.offset, bytes.length);
      assert.equal(reader.left, 0);
      assert.throws(() => reader.u8(), RangeError);
    }),
  );
});

test('lengths must be in their shortest form', () => {
  for (const hex of [
    'fd0000',
    'fdfc00',
    'fe00000000',
    'feffff0000',
    'ff0000000000000000',
    'ffffffffff00000000',
  ]) {
    assert.throws(() => new ByteReader(decodeHex(hex)!).varint(), RangeError, hex);
  }
  for (const hex of ['ffffffffffffffffff', 'fd', 'fdff', 'fe0000']) {
    assert.throws(() => new ByteReader(decodeHex(hex)!).varint(), RangeError, hex);
  }
  assert.equal(new ByteReader(decodeHex('fdfd00')!).varint(), 0xfd);
  assert.equal(new ByteReader(decodeHex('fe00000100')!).varint(), 0x10000);
});

test('bytes read are copies, and a view into a larger buffer is read at its own place', () => {
  const whole = Uint8Array.of(9, 9, 1, 2, 3);
  const reader = new ByteReader(whole.subarray(2));
  const part = reader.bytes(3);
  whole.fill(0);
  assert.deepEqual(part, Uint8Array.of(1, 2, 3));
});

test('concat and equality', () => {
  assert.deepEqual(concatBytes(), new Uint8Array(0));
  assert.deepEqual(
    concatBytes(Uint8Array.of(1), Uint8Array.of(), Uint8Array.of(2, 3)),
    Uint8Array.of(1, 2, 3),
  );
  assert.ok(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2)));
  assert.ok(!equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1)));
  assert.ok(!equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 3)));
});
