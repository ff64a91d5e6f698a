import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { decodeId, decodeRequest } from '../../../src/core/stratum/request.ts';

const decode = (text: string) => decodeRequest(text, SESSION_LIMITS);

test('a request with everything', () => {
  assert.deepEqual(decode('{"id":7,"method":"mining.submit","params":["a",1]}'), {
    kind: 'request',
    id: 7,
    hasId: true,
    idRefused: false,
    method: 'mining.submit',
    params: ['a', 1],
    error: null,
    result: null,
  });
});

test('every text gives a value', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.json()), (text) => {
      const request = decode(text);
      assert.ok(request.kind === 'refused' ? request.error !== null : request.error === null);
    }),
  );
});

test('nesting is bounded at eight levels, counted from the line itself', () => {
  const nested = (depth: number) =>
    `{"method":"m","params":[${'['.repeat(depth)}${']'.repeat(depth)}]}`;
  assert.equal(decode(nested(6)).kind, 'request');
  assert.equal(decode(nested(8)).error, 'too-deep');
  assert.equal(decode(nested(3_000)).error, 'too-deep');
  assert.equal(
    decode('{"method":"m","params":[{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}]}').error,
    'too-deep',
  );
});

test('ids: 64 bytes of UTF-8, not 64 characters', () => {
  assert.equal(decodeId('é'.repeat(32), 64), 'é'.repeat(32));
  assert.equal(decodeId('é'.repeat(33), 64), null);
  assert.equal(decodeId('😀'.repeat(16), 64), '😀'.repeat(16));
  assert.equal(decodeId('😀'.repeat(17), 64), null);
  assert.equal(decodeId(2 ** 53, 64), null);
  assert.equal(decodeId(2 ** 53 - 1, 64), 2 ** 53 - 1);
});

test('a response is told from a broken request', () => {
  assert.equal(decode('{"id":1,"result":"x"}').kind, 'response');
  assert.equal(decode('{"id":1,"error":[1]}').kind, 'response');
  assert.equal(decode('{"id":1}').error, 'method-required');
});
