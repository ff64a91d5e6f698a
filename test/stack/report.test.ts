import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeServiceReport, type ServiceReport } from '../../src/messages/service.ts';
import type { BusRecord } from '../../src/ports.ts';
import { describeGateway } from '../../src/stack/gateway-report.ts';
import { instanceName, startReporter } from '../../src/stack/report.ts';
import { createSilentLog } from '../tools/silent-log.ts';
import { until } from '../tools/waiting.ts';

function createRig(publish: (record: BusRecord) => Promise<void> = async () => {}) {
  const said: ServiceReport[] = [];
  let stopped = false;
  const reporter = startReporter(
    {
      clock: { nowMs: () => 5_000 },
      log: createSilentLog(),
      bus: {
        async publish(topic, [record]) {
          assert.equal(topic, 'service.status');
          assert.equal(record!.key, 'stratumd-1');
          const decoded = decodeServiceReport(record!.value);
          assert.ok(decoded.ok);
          said.push(decoded.value);
          await publish(record!);
        },
        async stop() {
          stopped = true;
        },
      },
      notReady: () => ['no work'],
    },
    { service: 'stratumd', instance: 'stratumd-1', version: '1' },
  );
  return { reporter, said, isStopped: () => stopped };
}

const worker = (name: string, hps: number) => ({
  pool: 'main',
  account: 'a',
  worker: name,
  agent: '',
  sessions: 1,
  accepted: 1,
  workAccepted: 1,
  rejected: {},
  bestDifficulty: 1,
  blocks: 0,
  lastShareAtMs: 1,
  difficulty: 1,
  rates: { fiveMinutesHps: hps, hourHps: hps, dayHps: hps },
});

test('a process reports at once, again and again, and says goodbye', async () => {
  const { reporter, said, isStopped } = createRig();
  assert.equal(said.length, 1);
  assert.deepEqual(said[0]!.reasons, ['no work']);
  reporter.add(() => ({ figures: new Map([['sessions', 3]]) }));
  reporter.add(() => {
    throw new Error('a part that is not there yet');
  });
  reporter.add(() => ({ words: new Map([['work', 'fine']]) }));
  await until('a second report', () => said.length === 2, 10_000);
  assert.equal(said[1]!.figures.get('sessions'), 3);
  assert.equal(said[1]!.words.get('work'), 'fine');
  assert.equal(said[1]!.ended, false);
  await reporter.stop();
  assert.equal(said.at(-1)!.ended, true);
  assert.equal(isStopped(), true);
});

test('a broker that never answers holds up neither the process nor its end', async () => {
  const { reporter, said, isStopped } = createRig(() => new Promise(() => {}));
  await reporter.stop();
  assert.equal(said.length, 1);
  assert.equal(isStopped(), true);
});

test('of many workers the largest are told', async () => {
  const { reporter, said } = createRig();
  reporter.add(() => ({ workers: Array.from({ length: 3_000 }, (_, at) => worker(`w${at}`, at)) }));
  await reporter.stop();
  const { workers } = said.at(-1)!;
  assert.equal(workers.length, 1_000);
  assert.equal(workers[0]!.worker, 'w2999');
  assert.equal(workers.at(-1)!.worker, 'w2000');
});

test('sums of a gateway are over all its workers', () => {
  const detail = describeGateway({
    snapshot: {
      sessions: 2,
      authorizedSessions: 2,
      height: 7,
      networkDifficulty: 3,
      jobs: 1,
      newestJobId: 'j',
      newestJobAgeMs: 0,
      workState: 'fine',
      workers: [worker('x', 100), worker('y', 11)],
    },
    metrics: { sharesAccepted: 9, sharesRejected: new Map([['stale', 2]]) },
    journalState: 'ok',
    unshippedBytes: 4,
    ports: [],
  });
  assert.deepEqual(Object.fromEntries(detail.figures!), {
    height: 7,
    networkDifficulty: 3,
    sessions: 2,
    sharesAccepted: 9,
    unshippedBytes: 4,
    fiveMinutesHps: 111,
    hourHps: 111,
    dayHps: 111,
    'rejected.stale': 2,
  });
  assert.deepEqual(Object.fromEntries(detail.words!), { work: 'fine', journal: 'ok' });
});

test('the name of a process: its number where it has one, else its place', () => {
  const named = { stack: { service: 'payoutd' }, metrics: { port: 9091 } } as const;
  const at = { host: 'box', pid: 7 };
  const name = (more: Partial<Parameters<typeof instanceName>[0]>) =>
    instanceName({ ...named, instance: { prefix: 0, prefixBits: 0 }, ...more }, at);
  assert.equal(name({}), 'payoutd@box:9091');
  assert.equal(name({ metrics: null }), 'payoutd@box:7');
  assert.equal(name({ instance: { prefix: 3, prefixBits: 8 } }), 'payoutd-3');
});
