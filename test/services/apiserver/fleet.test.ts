import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ServiceReport, WorkerReport } from '../../../src/messages/service.ts';
import { createFleet } from '../../../src/services/apiserver/fleet.ts';
import { joinWorkers } from '../../../src/services/apiserver/workers.ts';

const START_MS = 1_800_000_000_000;

function createRig() {
  let nowMs = START_MS;
  const fleet = createFleet({ clock: { nowMs: () => nowMs } });
  return {
    fleet,
    wait(elapsedMs: number) {
      nowMs += elapsedMs;
    },
    say(service: string, instance: string, more: Partial<ServiceReport> = {}) {
      fleet.take({
        service,
        instance,
        version: '1',
        startedAtMs: START_MS,
        atMs: nowMs,
        ended: false,
        reasons: [],
        figures: new Map(),
        words: new Map(service === 'payoutd' ? [['ledger', 'kept']] : []),
        alarms: [],
        nodes: [],
        ports: [],
        workers: [],
        ...more,
      });
    },
  };
}

function worker(name: string, more: Partial<WorkerReport> = {}): WorkerReport {
  return {
    pool: 'main',
    account: 'addr',
    worker: name,
    agent: 'a',
    sessions: 1,
    accepted: 10,
    workAccepted: 5,
    rejected: { stale: 1 },
    bestDifficulty: 7,
    blocks: 0,
    lastShareAtMs: START_MS,
    difficulty: 2,
    rates: { fiveMinutesHps: 100, hourHps: 50, dayHps: 10 },
    ...more,
  };
}

const NEEDED = ['stratumd', 'jobmanager', 'shareproc', 'blocksubmit', 'payoutd'];

test('one of each that is ready is enough; whoever is missing, silent or not ready is named with its reason', () => {
  const rig = createRig();
  assert.deepEqual(
    rig.fleet.faults(),
    NEEDED.map((service) => `no ${service} was heard of`),
  );
  for (const service of NEEDED) rig.say(service, `${service}-1`);
  assert.deepEqual(rig.fleet.faults(), []);
  rig.say('shareproc', 'shareproc-1', { reasons: ['Kafka does not answer'] });
  assert.deepEqual(rig.fleet.faults(), ['shareproc-1: Kafka does not answer']);
  rig.say('shareproc', 'shareproc-2');
  assert.deepEqual(rig.fleet.faults(), []);
  rig.wait(13_000);
  for (const service of NEEDED.filter((one) => one !== 'blocksubmit'))
    rig.say(service, `${service}-1`);
  assert.deepEqual(rig.fleet.faults(), ['blocksubmit-1: nothing was heard of it for 13 s']);
  assert.deepEqual(
    rig.fleet.members().map(({ instance, state }) => `${instance} ${state}`),
    [
      'stratumd-1 ready',
      'jobmanager-1 ready',
      'shareproc-1 ready',
      'shareproc-2 silent',
      'blocksubmit-1 silent',
      'payoutd-1 ready',
    ],
  );
  rig.say('blocksubmit', 'blocksubmit-1', { ended: true });
  assert.deepEqual(rig.fleet.faults(), ['no blocksubmit was heard of']);
});

test('statsd is not needed, and somebody must keep the ledger', () => {
  const rig = createRig();
  for (const service of NEEDED) rig.say(service, service);
  rig.say('statsd', 'statsd', { reasons: ['InfluxDB does not answer'] });
  assert.deepEqual(rig.fleet.faults(), []);
  rig.say('payoutd', 'payoutd', { words: new Map([['ledger', 'kept by another']]) });
  assert.deepEqual(rig.fleet.faults(), ['no payoutd keeps the ledger']);
  rig.say('payoutd', 'payoutd-2');
  assert.deepEqual(rig.fleet.faults(), []);
});

test('what is left of a dead process is silent; a live one whose clock is wrong is not', () => {
  const rig = createRig();
  rig.say('stratumd', 'old', { atMs: START_MS - 3_600_000 });
  assert.deepEqual(rig.fleet.members(), []);
  rig.say('stratumd', 'old', { atMs: START_MS - 60_000 });
  assert.equal(rig.fleet.members()[0]?.state, 'silent');
  rig.say('stratumd', 'old', { atMs: START_MS - 58_000 });
  assert.equal(rig.fleet.members()[0]?.state, 'ready');
  rig.say('stratumd', 'ahead', { atMs: START_MS + 3_600_000 });
  rig.wait(13_000);
  assert.deepEqual(
    rig.fleet.members().map(({ state }) => state),
    ['silent', 'silent'],
  );
  rig.wait(600_000);
  assert.deepEqual(rig.fleet.members(), []);
});

test('the number of processes is bounded', () => {
  const rig = createRig();
  for (let at = 0; at < 1_000; at++) rig.say('stratumd', `s${at}`);
  assert.equal(rig.fleet.members().length, 256);
});

test('gateways are one pool: sums, the newest height, the best work, workers of several', () => {
  const rig = createRig();
  rig.say('stratumd', 'a', {
    figures: new Map([
      ['height', 10],
      ['networkDifficulty', 3],
      ['sessions', 4],
      ['fiveMinutesHps', 100],
      ['sharesAccepted', 7],
      ['rejected.stale', 2],
      ['unshippedBytes', 5],
    ]),
    words: new Map([
      ['work', 'none'],
      ['journal', 'ok'],
    ]),
    ports: [{ port: 3333, tls: 'auto', startDifficulty: 1 }],
    workers: [worker('x', { lastShareAtMs: START_MS + 5, difficulty: 9 }), worker('y')],
  });
  rig.say('stratumd', 'b', {
    figures: new Map([
      ['height', 11],
      ['networkDifficulty', 4],
      ['sessions', 1],
      ['fiveMinutesHps', 50],
      ['sharesAccepted', 1],
      ['rejected.stale', 1],
      ['rejected.duplicate', 1],
    ]),
    words: new Map([
      ['work', 'fine'],
      ['journal', 'full'],
    ]),
    ports: [{ port: 3333, tls: 'auto', startDifficulty: 1 }],
    workers: [worker('x', { rejected: { stale: 2, duplicate: 1 } })],
  });
  rig.say('jobmanager', 'j1', {
    nodes: [{ name: 'n', health: 'ready', detail: 'd', blocks: 9 }],
  });
  rig.say('jobmanager', 'j2', {
    nodes: [{ name: 'n', health: 'ready', detail: 'e', blocks: 10 }],
  });
  rig.say('payoutd', 'p', {
    words: new Map([
      ['ledger', 'kept'],
      ['payouts', 'halted'],
      ['countedBy.main', 'pplns'],
    ]),
    alarms: ['doubt'],
  });
  assert.deepEqual(rig.fleet.totals(), {
    height: 11,
    networkDifficulty: 4,
    work: 'fine',
    sessions: 5,
    hashrate: { fiveMinutesHps: 150, hourHps: 0, dayHps: 0 },
    sharesAccepted: 8,
    sharesRejected: { stale: 3, duplicate: 1 },
    journal: { state: 'full', unshippedBytes: 5 },
    nodes: [{ name: 'n', health: 'ready', detail: 'e', blocks: 10 }],
    ports: [{ port: 3333, tls: 'auto', startDifficulty: 1 }],
    payouts: { state: 'halted', alarms: ['doubt'] },
    countedBy: new Map([['main', 'pplns']]),
  });
  const [x, y] = rig.fleet.workers();
  assert.deepEqual(
    x,
    worker('x', {
      sessions: 2,
      accepted: 20,
      workAccepted: 10,
      rejected: { stale: 3, duplicate: 1 },
      lastShareAtMs: START_MS + 5,
      difficulty: 9,
      rates: { fiveMinutesHps: 200, hourHps: 100, dayHps: 20 },
    }),
  );
  assert.deepEqual(y, worker('y'));
  const stored = {
    account: 'addr',
    shares: 9n,
    work: 3n << 47n,
    bestDifficulty: 1,
    lastShareAtMs: 1,
  };
  const all = joinWorkers(rig.fleet.workers(), [
    { ...stored, worker: 'x' },
    { ...stored, worker: 'gone' },
  ]);
  assert.deepEqual(
    all.map((one) => [one.worker, one.sessions, one.accepted, one.workAccepted]),
    [
      ['x', 2, 20, 10],
      ['y', 1, 10, 5],
      ['gone', 0, 9, 1.5],
    ],
  );
});
