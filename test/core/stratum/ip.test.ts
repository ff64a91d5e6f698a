import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import { it } from 'node:test';
import fc from 'fast-check';
import {
  decodeIp,
  decodeIpRange,
  encodeIp,
  isInRanges,
  prefixOf,
} from '../../../src/core/stratum/ip.ts';

it('writes what it reads, in canonical form', () => {
  for (const [text, canonical] of [
    ['1.2.3.4', '1.2.3.4'],
    ['::', '::'],
    ['::1', '::1'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['::ffff:1.2.3.4', '1.2.3.4'],
    ['64:ff9b::1.2.3.4', '64:ff9b::102:304'],
    ['1::', '1::'],
  ] as const) {
    assert.equal(encodeIp(decodeIp(text)!), canonical);
  }
});

it('refuses what is not one address', () => {
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '256.1.1.1',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1::2::3',
    ':::',
    'fe80::1%eth0',
    '1:2:3:4:5:6:7::8:9',
    '12345::',
    'localhost',
    '1.2.3.4 ',
    '::1.2.3',
  ]) {
    assert.equal(decodeIp(text), null, text);
  }
});

it('agrees with the runtime about what an address is', () => {
  const text = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.string({ unit: fc.constantFrom(...'0123456789abcf:.'), maxLength: 24 }),
  );
  fc.assert(
    fc.property(text, (candidate) => {
      assert.equal(decodeIp(candidate) !== null, isIP(candidate) !== 0, candidate);
    }),
    { numRuns: 2_000 },
  );
});

it('knows what lies in a range', () => {
  const ranges = ['10.0.0.0/8', '192.0.2.128/25', '2001:db8::/33', '::1'].map(
    (text) => decodeIpRange(text)!,
  );
  const inside = (text: string) => isInRanges(decodeIp(text)!, ranges);
  for (const text of ['10.255.0.1', '192.0.2.200', '2001:db8:7fff::1', '::1', '::ffff:10.1.1.1']) {
    assert.ok(inside(text), text);
  }
  for (const text of ['11.0.0.1', '192.0.2.127', '2001:db8:8000::1', '::2']) {
    assert.ok(!inside(text), text);
  }
  for (const text of ['10.0.0.0/33', '10.0.0.0/', '::/129', 'x/8', '10.0.0.0/-1', '10.0.0.0/8/8']) {
    assert.equal(decodeIpRange(text), null, text);
  }
});

it('gives one key to a network', () => {
  const key = (text: string, bits: number) => prefixOf(decodeIp(text)!, bits);
  assert.equal(key('10.1.2.3', 24), key('10.1.2.200', 24));
  assert.notEqual(key('10.1.2.3', 24), key('10.1.3.3', 24));
  assert.equal(key('2001:db8::1', 64), key('2001:db8::ffff:1', 64));
  assert.equal(key('10.1.2.3', 23), key('10.1.3.3', 23));
});
