import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { encodeHex } from '../../../src/core/bitcoin/bytes.ts';
import { decodeAccount } from '../../../src/core/work/account.ts';

const address = fc
  .tuple(fc.uint8Array({ minLength: 20, maxLength: 20 }), fc.nat(2))
  .map(([hash, kind]) => {
    const script =
      kind === 0
        ? Uint8Array.of(0, 20, ...hash)
        : kind === 1
          ? Uint8Array.of(0xa9, 20, ...hash, 0x87)
          : Uint8Array.of(0x76, 0xa9, 20, ...hash, 0x88, 0xac);
    return { text: encodeAddress(script, 'regtest')!, script };
  });

const parts = fc.uniqueArray(fc.record({ address, weight: fc.integer({ min: 1, max: 10_000 }) }), {
  minLength: 2,
  maxLength: 8,
  selector: (one) => one.address.text,
});

test('a split has one account, whatever the order, the case and a common factor', () => {
  fc.assert(
    fc.property(parts, fc.nat(), fc.boolean(), (split, turn, isUpper) => {
      const write = (list: typeof split) =>
        list
          .map(({ address: { text }, weight }) =>
            isUpper && text.startsWith('bcrt1')
              ? `${text.toUpperCase()}*${weight}`
              : `${text}*${weight}`,
          )
          .join(',');
      const first = decodeAccount(write(split), 'regtest');
      const at = turn % split.length;
      const turned = decodeAccount(write([...split.slice(at), ...split.slice(0, at)]), 'regtest');
      assert.ok(first.ok && turned.ok);
      assert.equal(first.account, turned.account);
      const again = decodeAccount(first.account, 'regtest');
      assert.deepEqual(again, first);
      // Parts keep their proportions and stand for the addresses they were written for.
      const total = BigInt(split.reduce((sum, { weight }) => sum + weight, 0));
      const reduced = first.parts.reduce((sum, { weight }) => sum + weight, 0n);
      const byScript = new Map(first.parts.map((one) => [encodeHex(one.script), one.weight]));
      for (const { address: written, weight } of split) {
        assert.equal(byScript.get(encodeHex(written.script))! * total, BigInt(weight) * reduced);
      }
    }),
    { numRuns: 200 },
  );
});

test('twice every weight is the same account', () => {
  const [a, b] = [
    'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
    'mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn',
  ];
  const one = decodeAccount(`${a}*60,${b}*40`, 'regtest');
  const two = decodeAccount(`${b}*2,${a}*3`, 'regtest');
  assert.deepEqual(one, two);
  assert.ok(one.ok);
  assert.equal(one.account, `${a}*3,${b}*2`);
  const alone = decodeAccount(`${a}*7`, 'regtest');
  assert.ok(alone.ok);
  assert.equal(alone.account, a, 'a split of one is the address');
});

test('what is no account is refused with a reason', () => {
  const a = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
  const b = 'mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn';
  for (const text of [
    '',
    ',',
    '*',
    `${a},${b}`,
    `${a}*60,${b}`,
    `${a}*60,`,
    `,${a}*60`,
    `${a}*0,${b}*1`,
    `${a}*-1,${b}*1`,
    `${a}*1.5,${b}*1`,
    `${a}*01,${b}*1`,
    `${a}*10001,${b}*1`,
    `${a}*1e3,${b}*1`,
    `${a}*1 ,${b}*1`,
    `${a}*1,${a}*1`,
    `${a}*1,${a.toUpperCase()}*1`,
    `${a}*1*2,${b}*1`,
    `${a}*1;${b}*1`,
    `bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4*1,${b}*1`,
    `${a.slice(0, -1)}q*1,${b}*1`,
    Array.from({ length: 9 }, () => `${a}*1`).join(','),
    `${a}*1,`.repeat(1_000),
  ]) {
    const decoded = decodeAccount(text, 'regtest');
    assert.ok(!decoded.ok, text);
    assert.ok(decoded.reason.length > 0 && decoded.reason.length < 200);
  }
});

test('any text has an answer, and what is accepted is its own canonical form again', () => {
  const pieces = fc.constantFrom(
    '*',
    ',',
    '0',
    '1',
    '60',
    ' ',
    '.',
    'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
    'mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.array(pieces, { maxLength: 12 }).map((list) => list.join('')),
      ),
      (text) => {
        const decoded = decodeAccount(text, 'regtest');
        if (decoded.ok) assert.deepEqual(decodeAccount(decoded.account, 'regtest'), decoded);
      },
    ),
    { numRuns: 2_000 },
  );
});
