import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  decodeServiceReport,
  encodeServiceReport,
  REPORT_LIMITS,
  type ServiceReport,
  type WorkerReport,
} from '../../src/messages/service.ts';
import { topicOf } from '../../src/messages/topics.ts';

const label = fc.string({ unit: 'grapheme', maxLength: 40 }).map((text) => text.toWellFormed());
const figure = fc.double({ noNaN: true, noDefaultInfinity: true });
const whole = fc.nat({ max: 0xffff_ffff });
const moment = fc.nat({ max: Number.MAX_SAFE_INTEGER });

const worker: fc.Arbitrary<WorkerReport> = fc.record({
  pool: label,
  account: label,
  worker: label,
  agent: label,
  sessions: whole,
  accepted: moment,
  workAccepted: figure,
  rejected: fc.constantFrom<Record<string, number>>(
    {},
    { stale: 3 },
    { 'low-difficulty': 1, duplicate: 2 },
  ),
  bestDifficulty: figure,
  blocks: whole,
  lastShareAtMs: moment,
  difficulty: figure,
  rates: fc.record({ fiveMinutesHps: figure, hourHps: figure, dayHps: figure }),
});

const report: fc.Arbitrary<ServiceReport> = fc.record({
  service: label.filter((text) => text !== ''),
  instance: label.filter((text) => text !== ''),
  version: label,
  startedAtMs: moment,
  atMs: moment,
  ended: fc.boolean(),
  reasons: fc.array(label, { maxLength: REPORT_LIMITS.reasons }),
  figures: fc.array(fc.tuple(label, figure), { maxLength: 9 }).map((pairs) => new Map(pairs)),
  words: fc.array(fc.tuple(label, label), { maxLength: 9 }).map((pairs) => new Map(pairs)),
  alarms: fc.array(label, { maxLength: 5 }),
  nodes: fc.array(fc.record({ name: label, health: label, detail: label, blocks: whole }), {
    maxLength: 3,
  }),
  ports: fc.array(
    fc.record({
      port: fc.nat({ max: 65_535 }),
      tls: fc.constantFrom('auto' as const, 'off' as const, 'only' as const),
      startDifficulty: figure,
    }),
    { maxLength: 3 },
  ),
  workers: fc.array(worker, { maxLength: 4 }),
});

test('a report comes back as it went', () => {
  fc.assert(
    fc.property(report, (given) => {
      // What fast-check makes has no prototype.
      const value = structuredClone(given);
      assert.deepEqual(decodeServiceReport(encodeServiceReport(given)), { ok: true, value });
    }),
    { numRuns: 300 },
  );
});

test('any bytes give a report or a reason', () => {
  fc.assert(
    fc.property(report, fc.uint8Array({ maxLength: 20 }), fc.nat(), (given, noise, where) => {
      const bytes = encodeServiceReport(given);
      const at = where % (bytes.length + 1);
      const broken = Buffer.concat([bytes.subarray(0, at), noise, bytes.subarray(at + 1)]);
      const answer = decodeServiceReport(broken);
      assert.ok(answer.ok || answer.reason !== '');
    }),
    { numRuns: 500 },
  );
});

test('the largest report fits its topic, and names of objects harm nobody', () => {
  const long = '\u{10ffff}'.repeat(1_000);
  const many = (count: number) => Array.from({ length: count }, () => long);
  const heavy: ServiceReport = {
    service: long,
    instance: long,
    version: long,
    startedAtMs: Number.NaN,
    atMs: -1,
    ended: false,
    reasons: many(100),
    figures: new Map([['__proto__', Number.POSITIVE_INFINITY]]),
    words: new Map([['__proto__', long]]),
    alarms: many(100),
    nodes: [],
    ports: [],
    workers: Array.from({ length: 5_000 }, () => ({
      pool: 'main',
      account: 'b'.repeat(512),
      worker: 'w'.repeat(128),
      agent: 'a'.repeat(128),
      sessions: 1,
      accepted: 2 ** 53 - 1,
      workAccepted: 1e300,
      rejected: Object.fromEntries(Array.from({ length: 20 }, (_, at) => [`reason-${at}`, at])),
      bestDifficulty: 1,
      blocks: 1,
      lastShareAtMs: 2 ** 53 - 1,
      difficulty: 1,
      rates: { fiveMinutesHps: 1, hourHps: 1, dayHps: 1 },
    })),
  };
  const bytes = encodeServiceReport(heavy);
  assert.ok(bytes.length < topicOf('service.status')!.bytesMax, `${bytes.length}`);
  const back = decodeServiceReport(bytes);
  assert.ok(back.ok);
  assert.equal(back.value.workers.length, REPORT_LIMITS.workers);
  assert.equal(back.value.figures.get('__proto__'), 0);
  assert.equal(({} as { polluted?: unknown }).polluted, undefined);
});

test('a report without a sender is refused', () => {
  assert.equal(decodeServiceReport(new Uint8Array(0)).ok, false);
});
