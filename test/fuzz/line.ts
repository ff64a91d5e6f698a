/**
 * Fuzz target: the pure decoders on one line of any text. They must give a value for everything, within their bounds, and
 * what they echo must be JSON again.
 *
 * `node test/fuzz/line.ts [runs] [seed]`; the test suite runs a short one.
 */
import assert from 'node:assert/strict';
import { decodeConfigure, encodeConfigured, grantMask } from '../../src/core/stratum/configure.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { decodeDecimal, decodeHex32 } from '../../src/core/stratum/number.ts';
import { findProfile } from '../../src/core/stratum/profiles.ts';
import { encodeError, encodeTrue } from '../../src/core/stratum/reply.ts';
import { decodeRequest } from '../../src/core/stratum/request.ts';
import { createSubmitFields, decodeSubmit } from '../../src/core/stratum/submit.ts';
import {
  decodeSuggestedDifficulty,
  decodeSuggestedTarget,
} from '../../src/core/stratum/suggest.ts';
import { decodePassword, decodeUsername } from '../../src/core/stratum/username.ts';
import { MINER, OTHER_MINER, POOL } from '../services/stratumd/gateway-rig.ts';
import { createRandom, type Random } from './random.ts';

/** Runs `count` lines from a seed; throws with the seed in the message. */
export function fuzzLines(count: number, seed: number): number {
  for (let run = 0; run < count; run += 1) {
    const random = createRandom(seed + run);
    const line = createLine(random);
    try {
      check(line, random);
    } catch (error) {
      throw new Error(`fuzz line failed with seed ${seed + run}: ${JSON.stringify(line)}`, {
        cause: error,
      });
    }
  }
  return count;
}

function createLine(random: Random): string {
  if (random.chance(0.3)) return random.text(random.below(200));
  const id = random.pick([
    '1',
    'null',
    '"x"',
    '1e400',
    '{}',
    '[[[]]]',
    '9007199254740993',
    JSON.stringify(random.text(70)),
  ]);
  const params = random.pick([
    '[]',
    `[${'['.repeat(random.below(20))}${']'.repeat(random.below(20))}]`,
    JSON.stringify([random.text(20), random.hex(8), random.hex(16), random.hex(8), random.hex(9)]),
    JSON.stringify([
      [random.text(5), 'version-rolling'],
      { 'version-rolling.mask': random.hex(8) },
    ]),
    JSON.stringify([random.number(), random.text(8)]),
  ]);
  return `{"id":${id},"method":${JSON.stringify(random.text(random.below(80)))},"params":${params}}`;
}

function check(line: string, random: Random): void {
  const request = decodeRequest(line, SESSION_LIMITS);
  assert.ok(['request', 'response', 'refused'].includes(request.kind));
  for (const text of [encodeTrue(request.id), encodeError(request.id, 'rate')]) {
    assert.match(text, /^[\x20-\x7e]*\n$/);
    assert.deepEqual(JSON.parse(text).id, Object.is(request.id, -0) ? 0 : request.id);
  }
  const params = request.params ?? [];
  const fields = createSubmitFields();
  if (decodeSubmit(params, SESSION_LIMITS.jobIdCharsMax, fields) === null) {
    for (const word of [
      fields.nonce,
      fields.ntime,
      fields.versionBits,
      fields.extranonce2High,
      fields.extranonce2Low,
    ]) {
      assert.ok(Number.isInteger(word) && word >= 0 && word < 2 ** 32);
    }
  }
  const configure = decodeConfigure(params);
  const mask = grantMask(configure, 0x1fffe000);
  assert.equal(mask & ~0x1fffe000, 0);
  JSON.parse(encodeConfigured(configure, mask));
  for (const value of [params[0], random.text(20), random.number()]) {
    const username = decodeUsername(value, 'regtest', SESSION_LIMITS);
    if (username.ok) assert.match(username.worker, /^[A-Za-z0-9_.-]{1,64}$/);
    const password = decodePassword(value, SESSION_LIMITS);
    for (const wish of [password.difficulty, password.fixedDifficulty]) {
      assert.ok(Number.isFinite(wish) && wish >= 0);
    }
    for (const suggestion of [decodeSuggestedDifficulty(value), decodeSuggestedTarget(value)]) {
      if (suggestion.kind === 'difficulty')
        assert.ok(suggestion.difficulty > 0 && Number.isFinite(suggestion.difficulty));
    }
  }
  const split = decodeUsername(createSplit(random), 'regtest', SESSION_LIMITS);
  if (split.ok) {
    // One spelling per account, and somebody to pay.
    const again = decodeUsername(split.account, 'regtest', SESSION_LIMITS);
    assert.ok(again.ok && again.account === split.account);
    assert.deepEqual(again.parts, split.parts);
    assert.ok(split.parts.length >= 1 && split.parts.every(({ weight }) => weight >= 1n));
  } else {
    assert.ok(['split-invalid', 'username-invalid', 'worker-name'].includes(split.error));
  }
  const text = random.text(12);
  const decimal = decodeDecimal(text);
  assert.ok(decimal === null || (Number.isFinite(decimal) && decimal >= 0));
  const hex = decodeHex32(text);
  assert.ok(hex === -1 || (hex >= 0 && hex < 2 ** 32));
  assert.ok(findProfile(text).name.length > 0);
}

/** Texts near a split of several addresses. */
function createSplit(random: Random): string {
  const pieces = Array.from({ length: 1 + random.below(9) }, () => {
    const address = random.pick([MINER, OTHER_MINER, POOL, MINER.toUpperCase(), random.text(8)]);
    const weight = random.pick(['*1', '*60', '*10000', '*0', '', `*${random.number()}`]);
    return `${address}${weight}`;
  });
  const worker = random.pick(['', '.w', '_w', '.w+5', random.text(4)]);
  return pieces.join(random.chance(0.9) ? ',' : random.text(1)) + worker;
}

if (import.meta.main) {
  const [runs = '200000', seed = String(Date.now() % 1_000_000)] = process.argv.slice(2);
  console.log(`seed ${seed}`);
  console.log(fuzzLines(Number(runs), Number(seed)));
}
