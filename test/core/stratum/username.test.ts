import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeAddress } from '../../../src/core/bitcoin/address.ts';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { decodePassword, decodeUsername } from '../../../src/core/stratum/username.ts';

const ADDRESSES = [
  'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
  'mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn',
  '2MzQwSSnBHWHqSAqtTVQ6v47XtaisrJa1Vc',
];

test('every spelling leads to one account, worker and wish', () => {
  for (const address of ADDRESSES) {
    for (const [username, worker, difficulty] of [
      [address, 'default', 0],
      [`${address}.rig1`, 'rig1', 0],
      [`${address}_rig1`, 'rig1', 0],
      [` ${address}.rig1 `, 'rig1', 0],
      [`${address}%2erig1`, 'rig1', 0],
      [`${address}.rig1+512`, 'rig1', 512],
      [`${address}.rig1=0.5`, 'rig1', 0.5],
      [`${address}.rig1%2B1k`, 'rig1', 1000],
      [`${address}+junk`, 'default', 0],
      [`${address}.a.b_c-d`, 'a.b_c-d', 0],
    ] as const) {
      const decoded = decodeUsername(username, 'regtest', SESSION_LIMITS);
      assert.ok(decoded.ok, username);
      assert.deepEqual(
        [decoded.account, decoded.worker, decoded.difficulty],
        [address, worker, difficulty],
      );
    }
  }
});

test('any value gives an answer, and no name outside the alphabet comes through', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.anything(),
        fc.string({ unit: 'binary' }).map((text) => `${ADDRESSES[0]}.${text}`),
      ),
      (value) => {
        const decoded = decodeUsername(value, 'regtest', SESSION_LIMITS);
        if (decoded.ok) assert.match(decoded.worker, /^[A-Za-z0-9_.-]{1,64}$/);
      },
    ),
  );
});

test('a split names one account, with worker and wish behind it', () => {
  const [a, b] = [ADDRESSES[0]!, ADDRESSES[1]!];
  for (const [username, worker, difficulty] of [
    [`${a}*60,${b}*40`, 'default', 0],
    [`${a}*60,${b}*40.rig1`, 'rig1', 0],
    [`${b}*40,${a}*60_rig1`, 'rig1', 0],
    [` ${a}*3,${b}*2.rig1+512`, 'rig1', 512],
    [`${a}%2A60%2c${b}%2a40.rig1%3D2`, 'rig1', 2],
    [`${a.toUpperCase()}*6,${b}*4.rig1`, 'rig1', 0],
  ] as const) {
    const decoded = decodeUsername(username, 'regtest', SESSION_LIMITS);
    assert.ok(decoded.ok, username);
    assert.equal(decoded.account, `${a}*3,${b}*2`);
    assert.deepEqual([decoded.worker, decoded.difficulty], [worker, difficulty]);
    assert.deepEqual(
      decoded.parts.map(({ weight }) => weight),
      [3n, 2n],
    );
  }
  // Plus is a wish, not another address.
  const plus = decodeUsername(`${a}*60+${b}*40`, 'regtest', SESSION_LIMITS);
  assert.ok(plus.ok);
  assert.deepEqual([plus.account, plus.difficulty], [a, 0]);
});

test('a bad split is refused as one, and so is a long one', () => {
  const [a, b] = [ADDRESSES[0]!, ADDRESSES[1]!];
  for (const username of [
    `${a},${b}.rig`,
    `${a}*60,${b}.rig`,
    `${a}*60,${a}*40.rig`,
    `${a}*0,${b}*40.rig`,
    `${a}*60,nobody*40.rig`,
    `${Array.from({ length: 9 }, () => `${a}*1`).join(',')}`,
    `${a}*60,${b}*40.${'w'.repeat(400)}`,
  ]) {
    const decoded = decodeUsername(username, 'regtest', SESSION_LIMITS);
    assert.deepEqual(decoded, { ok: false, error: 'split-invalid' }, username);
  }
  const eight = Array.from({ length: 8 }, (_, at) => {
    const script = Uint8Array.of(0, 20, ...new Array<number>(20).fill(at + 1));
    return `${encodeAddress(script, 'regtest')!}*1`;
  }).join(',');
  assert.equal(eight.length, 375);
  assert.ok(decodeUsername(`${eight}.${'w'.repeat(24)}`, 'regtest', SESSION_LIMITS).ok);
  assert.ok(!decodeUsername(`${eight}.${'w'.repeat(25)}`, 'regtest', SESSION_LIMITS).ok);
});

test('passwords', () => {
  for (const [password, difficulty, fixedDifficulty] of [
    ['x', 0, 0],
    ['d=1024', 1024, 0],
    ['x,d=1024', 1024, 0],
    ['DIFF=5;fd=6', 5, 6],
    ['worker d=2', 2, 0],
    ['d=0', 0, 0],
    ['fd=1e3', 0, 1000],
    ['d=-5', 0, 0],
    [5, 0, 0],
    [null, 0, 0],
  ] as const) {
    assert.deepEqual(decodePassword(password, SESSION_LIMITS), { difficulty, fixedDifficulty });
  }
});
