import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { STRATUM_ERRORS, type StratumErrorName } from '../../../src/core/stratum/errors.ts';
import {
  encodeError,
  encodeReconnect,
  encodeResult,
  encodeSetDifficulty,
  encodeSetVersionMask,
  encodeShowMessage,
  encodeSubscribed,
  encodeTrue,
  hex32,
} from '../../../src/core/stratum/reply.ts';

test('lines are ASCII, end in one newline and carry the id back', () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.string({ unit: 'binary', maxLength: 64 }), fc.integer(), fc.constant(null)),
      fc.constantFrom(...(Object.keys(STRATUM_ERRORS) as StratumErrorName[])),
      (id, name) => {
        for (const line of [encodeTrue(id), encodeError(id, name), encodeResult(id, '[]')]) {
          assert.match(line, /^[\x20-\x7e]+\n$/);
          const message = JSON.parse(line);
          assert.deepEqual(message.id, id);
          assert.deepEqual(Object.keys(message), ['id', 'result', 'error']);
        }
        const { code, text } = STRATUM_ERRORS[name];
        assert.deepEqual(JSON.parse(encodeError(id, name)).error, [code, text, null]);
      },
    ),
  );
});

test("only the field's codes are used, and no answer names what came in", () => {
  for (const { code, text, points } of Object.values(STRATUM_ERRORS)) {
    assert.ok([20, 21, 22, 23, 24, 25, -3].includes(code));
    assert.match(text, /^[\x20-\x7e]{4,64}$/);
    assert.ok(points >= 0 && points <= 50);
  }
});

test('the fixed lines', () => {
  assert.equal(
    encodeSubscribed(1, { sessionId: 'ab', extranonce1: '00000001', extranonce2Bytes: 8 }),
    '{"id":1,"result":[[["mining.set_difficulty","ab"],["mining.notify","ab"]],"00000001",8],"error":null}\n',
  );
  assert.equal(
    encodeSetDifficulty(0.00015),
    '{"id":null,"method":"mining.set_difficulty","params":[0.00015]}\n',
  );
  assert.equal(JSON.parse(encodeSetDifficulty(5e-10)).params[0], 5e-10);
  assert.equal(
    encodeSetVersionMask(0x1fffe000),
    '{"id":null,"method":"mining.set_version_mask","params":["1fffe000"]}\n',
  );
  assert.equal(encodeReconnect(null, 0), '{"id":null,"method":"client.reconnect","params":[]}\n');
  assert.deepEqual(JSON.parse(encodeReconnect({ host: 'a"b', port: 1 }, 2)).params, ['a"b', 1, 2]);
  assert.deepEqual(JSON.parse(encodeShowMessage('ü')).params, ['ü']);
  assert.equal(hex32(0xffffffff), 'ffffffff');
});
