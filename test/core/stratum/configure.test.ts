import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  countBits,
  decodeConfigure,
  encodeConfigured,
  grantMask,
  printable,
} from '../../../src/core/stratum/configure.ts';

test('any parameters give an answer with only the keys that were asked', () => {
  fc.assert(
    fc.property(
      fc.array(fc.anything(), { maxLength: 4 }),
      fc.array(fc.constantFrom('version-rolling', 'info', 'foo'), { maxLength: 4 }),
      (junk, names) => {
        for (const params of [junk, [names, junk[0]]]) {
          const configure = decodeConfigure(params);
          const mask = grantMask(configure, 0x1fffe000);
          const keys = Object.keys(JSON.parse(encodeConfigured(configure, mask)));
          for (const key of keys) {
            assert.ok(
              configure.extensions.includes(key) || (key === 'version-rolling.mask' && mask !== 0),
            );
          }
        }
      },
    ),
  );
});

test('a mask is an intersection, and zero is never given', () => {
  const ask = (mask: unknown) =>
    decodeConfigure([['version-rolling'], { 'version-rolling.mask': mask }]);
  assert.equal(grantMask(ask('ffffffff'), 0x1fffe000), 0x1fffe000);
  assert.equal(grantMask(ask('FFFFFFFF'), 0x1fffffe0), 0x1fffffe0);
  assert.equal(grantMask(ask('00000fff'), 0x1fffe000), 0);
  assert.equal(encodeConfigured(ask('00000fff'), 0), '{"version-rolling":false}');
  assert.equal(countBits(0x1fffe000), 16);
  assert.equal(countBits(0xffffffff), 32);
});

test('info is printable and short', () => {
  const configure = decodeConfigure([
    ['info'],
    { 'info.hw-version': 'S19\u001b[31m', 'info.sw-version': 'x'.repeat(99) },
  ]);
  assert.equal(configure.info, `S19[31m ${'x'.repeat(32)}`);
  assert.equal(printable(5, 9), '');
});
