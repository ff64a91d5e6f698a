import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
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
