/** The tables of the session: firmware profiles, methods, limits, payouts, suggestions. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SESSION_LIMITS } from '../../../src/core/stratum/limits.ts';
import { findMethod, METHODS } from '../../../src/core/stratum/methods.ts';
import {
  coinbaseClassOf,
  DEFAULT_PROFILE,
  findProfile,
  PROFILES,
} from '../../../src/core/stratum/profiles.ts';
import {
  decodeSuggestedDifficulty,
  decodeSuggestedTarget,
} from '../../../src/core/stratum/suggest.ts';
import { EXTRANONCE_BYTES, encodeNotify } from '../../../src/core/work/job.ts';
import { COINBASE_CLASSES } from '../../../src/core/work/payout.ts';
import { createJob } from '../../services/stratumd/gateway-rig.ts';

test('user agents of the field find their row', () => {
  for (const [agent, name] of [
    ['bitaxe/BM1370/v2.9.0', 'bitaxe'],
    ['NerdQAxe++/1.0', 'bitaxe'],
    ['NerdMinerV2', 'nerdminer'],
    ['cpuminer/2.5.1', 'cpuminer'],
    ['NiceHash/1.0.0', 'nicehash'],
    ['bosminer-plus-tuner 0.9', 'braiins-os'],
    ['whatsminer/v1.1', 'whatsminer'],
    ['cgminer/4.11.1', 'avalon'],
    ['cgminer/4.12', 'cgminer'],
    ['Antminer S21/Wed', 'antminer-new'],
    ['bmminer/2.0.0', 'antminer'],
    ['LUXminer 2024', 'aftermarket'],
    ['', 'default'],
    ['  ', 'default'],
    ['something/1', 'default'],
  ] as const) {
    assert.equal(findProfile(agent).name, name, agent);
  }
  assert.equal(findProfile('constructor'), DEFAULT_PROFILE);
});

test('profiles are consistent: lower case, names unique, sizes that a plain coinbase fits', () => {
  assert.equal(new Set(PROFILES.map((profile) => profile.name)).size, PROFILES.length);
  for (const profile of PROFILES) {
    for (const text of [...profile.prefixes, ...profile.substrings])
      assert.equal(text, text.toLowerCase());
    assert.ok(profile.prefixes.length + profile.substrings.length > 0);
    assert.ok(profile.coinbaseBytesMax >= 256 && profile.notifyBytesMax >= 4_096);
    assert.ok((0x1fffe000 & profile.versionMaskMax) !== 0);
  }
});

test('methods are found in a Map, not on a prototype', () => {
  for (const name of [
    '__proto__',
    'constructor',
    'toString',
    'mining.foo',
    'mining.suggest_difficulty(',
  ]) {
    assert.equal(findMethod(name), null, name);
  }
  for (const name of METHODS.keys()) assert.ok(findMethod(name));
  assert.deepEqual(findMethod('mining.suggest_difficulty( 5 )'), {
    method: 'suggest-difficulty',
    argument: '5',
  });
});

test('limits hang together: what is credited can be assembled, what is read can be parsed', () => {
  assert.ok(
    SESSION_LIMITS.tipsKept >= 3 &&
      SESSION_LIMITS.jobsMin >= 16 &&
      SESSION_LIMITS.jobsMax > SESSION_LIMITS.jobsMin,
  );
  assert.ok(SESSION_LIMITS.lineBytesMax < 16_384);
  assert.ok(SESSION_LIMITS.templateDeadMs > SESSION_LIMITS.templateDegradedMs);
  assert.ok(SESSION_LIMITS.templateDegradedMs > SESSION_LIMITS.rebroadcastMs);
  assert.ok(SESSION_LIMITS.broadcastChunk <= 500);
  for (const value of Object.values(SESSION_LIMITS)) assert.ok(Number.isFinite(value) && value > 0);
});

test('a device gets no larger coinbase with a choice of outputs than it works with, and a line that it reads', () => {
  for (const profile of [DEFAULT_PROFILE, ...PROFILES]) {
    const bytes = coinbaseClassOf(profile);
    assert.ok(COINBASE_CLASSES.includes(bytes), profile.name);
    assert.ok(bytes <= profile.coinbaseBytesMax, profile.name);
    const job = createJob({
      jobId: 'ffffffffffff',
      branch: Array.from({ length: 15 }, () => new Uint8Array(32)),
    });
    const half = (bytes - EXTRANONCE_BYTES) / 2;
    const parts = { prefix: new Uint8Array(half), suffix: new Uint8Array(half) };
    const line = encodeNotify({ ...job, jobId: `${job.jobId}ff` }, parts, false);
    assert.ok(line.length <= profile.notifyBytesMax, `${profile.name}: ${line.length}`);
  }
  const classes = Object.fromEntries(PROFILES.map((one) => [one.name, coinbaseClassOf(one)]));
  assert.deepEqual(
    [classes.nerdminer, classes.nmaxe, classes.nicehash, classes.rental, classes.bitaxe],
    [256, 750, 500, 2_250, 6_500],
  );
});

test('suggestions of every form', () => {
  assert.deepEqual(decodeSuggestedDifficulty('1e3'), { kind: 'difficulty', difficulty: 1000 });
  assert.deepEqual(decodeSuggestedDifficulty(0), { kind: 'none' });
  assert.deepEqual(decodeSuggestedDifficulty(Number.POSITIVE_INFINITY), { kind: 'wrong' });
  assert.deepEqual(decodeSuggestedTarget('00000000ffff' + '0'.repeat(52)), {
    kind: 'difficulty',
    difficulty: 1,
  });
  fc.assert(
    fc.property(fc.anything(), (value) => {
      for (const wish of [decodeSuggestedDifficulty(value), decodeSuggestedTarget(value)]) {
        if (wish.kind === 'difficulty') assert.ok(wish.difficulty > 0);
      }
    }),
  );
});
