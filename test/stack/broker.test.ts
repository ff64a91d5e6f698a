/**
 * The gateway's link to Kafka, with two buses in memory: what goes where, in which order, and which jobs are kept back
 * until their template is there.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { KafkaBus } from '../../src/adapters/bus/kafka.ts';
import { createMemoryBus } from '../../src/adapters/bus/memory.ts';
import { encodeJob, encodeTemplateBody } from '../../src/messages/codec.ts';
import { createMeter } from '../../src/meter.ts';
import type { BusRecord } from '../../src/ports.ts';
import { createJobGate, linkKafka } from '../../src/stack/broker.ts';
import { createJob } from '../services/stratumd/gateway-rig.ts';
import { createMemoryLog } from '../tools/waiting.ts';

const jobRecord = (jobId: string, isAgain = false, source = 'a', clean = true): BusRecord => ({
  key: 'job',
  value: encodeJob(createJob({ jobId, clean }), { source, tipWork: null, isAgain }),
});
const refreshRecord = (jobId: string) => jobRecord(jobId, false, 'a', false);
const templateRecord = (jobId: string): BusRecord => ({
  key: 'job',
  value: encodeTemplateBody({
    jobId,
    height: 200,
    previousHash: new Uint8Array(32),
    transactionCount: 0,
    body: new Uint8Array(0),
    witness: true,
  }),
});

describe('jobs and their templates', () => {
  it('the job that was there before us waits for its template', () => {
    const gate = createJobGate();
    const old = jobRecord('aa');
    assert.deepEqual(gate.takeJobs([old]), []);
    assert.deepEqual(gate.takeTemplates([templateRecord('bb')]), []);
    assert.deepEqual(gate.takeTemplates([templateRecord('aa')]), [old]);
    assert.deepEqual(gate.takeTemplates([templateRecord('aa')]), []);
  });

  it('a new job goes at once when one before it had its template, and so does its repetition', () => {
    const gate = createJobGate();
    gate.takeTemplates([templateRecord('aa')]);
    gate.takeJobs([jobRecord('aa')]);
    const [fresh, again] = [jobRecord('bb'), jobRecord('bb', true)];
    assert.deepEqual(gate.takeJobs([fresh]), [fresh]);
    assert.deepEqual(gate.takeJobs([again]), [again]);
  });

  it('as long as templates are read from a later moment than jobs, new jobs wait', () => {
    const gate = createJobGate();
    assert.deepEqual(gate.takeJobs([jobRecord('aa'), jobRecord('bb')]), []);
    const [third, fourth] = [jobRecord('cc'), jobRecord('dd')];
    assert.deepEqual(gate.takeTemplates([templateRecord('cc')]), []);
    assert.deepEqual(gate.takeJobs([third, fourth]), [third, fourth]);
  });

  it('one that refreshes the job before waits for its template, and comes after no newer one', () => {
    const gate = createJobGate();
    gate.takeTemplates([templateRecord('aa')]);
    gate.takeJobs([jobRecord('aa')]);
    const [refresh, tip] = [refreshRecord('bb'), jobRecord('cc')];
    assert.deepEqual(gate.takeJobs([refresh]), []);
    assert.deepEqual(gate.takeTemplates([templateRecord('bb')]), [refresh]);
    assert.deepEqual(gate.takeJobs([refreshRecord('dd'), tip]), [tip]);
    assert.deepEqual(gate.takeTemplates([templateRecord('dd'), templateRecord('cc')]), []);
    const [third, fourth] = [refreshRecord('ee'), refreshRecord('ff')];
    assert.deepEqual(gate.takeJobs([third, fourth]), []);
    assert.deepEqual(gate.takeTemplates([templateRecord('ff'), templateRecord('ee')]), [fourth]);
  });

  it('that one job manager is followed says nothing of another', () => {
    const gate = createJobGate();
    gate.takeTemplates([templateRecord('aa')]);
    gate.takeJobs([jobRecord('aa')]);
    assert.deepEqual(gate.takeJobs([jobRecord('bb', false, 'b')]), []);
    assert.equal(gate.takeTemplates([templateRecord('bb')]).length, 1);
    assert.equal(gate.takeJobs([jobRecord('ee', false, 'b')]).length, 1);
  });

  it('a repetition of what we never had waits; with its template it goes', () => {
    const gate = createJobGate();
    gate.takeJobs([jobRecord('aa')]);
    const again = jobRecord('cc', true);
    assert.deepEqual(gate.takeJobs([again]), []);
    assert.deepEqual(gate.takeTemplates([templateRecord('cc')]), [again]);
    assert.deepEqual(gate.takeJobs([again]), [again]);
  });

  it('what cannot be read is left to the gateway, and does not count as the first', () => {
    const gate = createJobGate();
    const broken = { key: 'job', value: Uint8Array.of(255) };
    assert.deepEqual(gate.takeJobs([broken]), [broken]);
    assert.deepEqual(gate.takeJobs([jobRecord('aa')]), []);
  });

  it('keeps no more than it has room for', () => {
    const gate = createJobGate();
    for (let i = 0; i < 1000; i++) gate.takeJobs([jobRecord(`a${i}`, true)]);
    assert.deepEqual(gate.takeTemplates([templateRecord('a0')]), []);
    assert.equal(gate.takeTemplates([templateRecord('a999')]).length, 1);
  });
});

describe('the link', () => {
  async function createLink() {
    const log = createMemoryLog();
    const bus = createMemoryBus({ log });
    const remote = createMemoryBus({ log });
    const published: string[] = [];
    const road = { isBlocked: false, free: () => {} };
    const kafka = {
      ...remote,
      ready: Promise.resolve(),
      async publish(topic: string, records: readonly BusRecord[]) {
        if (road.isBlocked)
          await new Promise<void>((resolve) => {
            road.free = resolve;
          });
        published.push(...records.map(({ key }) => `${topic} ${key}`));
      },
    } as unknown as KafkaBus;
    const meter = createMeter();
    await linkKafka({ bus, kafka, log, meter, join: async () => {} });
    return { bus, remote, published, road, meter };
  }

  it('a found block is safe only when Kafka has it', async () => {
    const { bus, published, road } = await createLink();
    road.isBlocked = true;
    let isSafe = false;
    const publishing = bus
      .publish('block.candidates', [{ key: 'hash', value: Uint8Array.of(1) }])
      .then(() => {
        isSafe = true;
      });
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(isSafe, false);
    road.free();
    await publishing;
    assert.deepEqual(published, ['block.candidates hash']);
  });

  it('refusals hold up nobody: while one batch is under way the next is counted and let go', async () => {
    const { bus, published, road, meter } = await createLink();
    road.isBlocked = true;
    const record = { key: 's', value: Uint8Array.of(1) };
    await bus.publish('share.stale', [record]);
    await bus.publish('share.stale', [record, record, record]);
    await bus.publish('share.rejected', [record]);
    road.isBlocked = false;
    road.free();
    assert.equal(
      meter.figures().find(({ name }) => name === 'headframe_refusals_not_published_total')?.value,
      3,
    );
    await new Promise((resolve) => setImmediate(resolve));
    await bus.publish('share.stale', [record]);
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(published.includes('share.rejected s') || published.includes('share.stale s'));
  });

  it('jobs come in through the gate, templates and plans as they are', async () => {
    const { bus, remote } = await createLink();
    const seen: string[] = [];
    for (const topic of ['mining.jobs', 'mining.templates', 'mining.plans'])
      await bus.subscribe(topic, 'test', async (records) => {
        for (const _ of records) seen.push(topic);
      });
    await remote.publish('mining.jobs', [jobRecord('aa')]);
    assert.deepEqual(seen, []);
    await remote.publish('mining.templates', [templateRecord('aa')]);
    await remote.publish('mining.plans', [{ key: 'plans', value: Uint8Array.of(1) }]);
    assert.deepEqual(seen, ['mining.templates', 'mining.jobs', 'mining.plans']);
  });
});
