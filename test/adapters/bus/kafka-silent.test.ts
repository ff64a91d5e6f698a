/** A Kafka client that owes an answer for ever, as one may that lost it: played, because none is known that does. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import type { Consumer } from '@platformatic/kafka';
import { createKafkaFetch } from '../../../src/adapters/bus/kafka-fetch.ts';
import { joinKafkaGroup } from '../../../src/adapters/bus/kafka-group.ts';
import { createKafkaHealth } from '../../../src/adapters/bus/kafka-health.ts';
import { createTenure, settleTenure } from '../../../src/adapters/bus/kafka-tenure.ts';
import { createMemoryLog } from '../../tools/waiting.ts';

const TOPIC = 'mining.jobs';
const never = new Promise<never>(() => {});
/** Promises that are settled have been heard of. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

type Part = 'metadata' | 'fetch' | 'listOffsets';

/** Clients that answer, but for the first, which owes the answers to one question. */
function openClients(silent: Part) {
  const opened: { closed: boolean }[] = [];
  const open = (): Consumer => {
    const isFirst = opened.length === 0;
    const state = { closed: false };
    opened.push(state);
    let fetches = 0;
    const answers = {
      metadata: async () => ({
        topics: new Map([[TOPIC, { id: 'one', partitions: [{ leader: 1 }], partitionsCount: 1 }]]),
      }),
      listOffsets: async () => new Map([[TOPIC, [7n]]]),
      fetch: async () => {
        fetches += 1;
        if (fetches > 1) return never;
        const record = { offsetDelta: 0, key: Buffer.from('job'), value: Buffer.from('a job') };
        const batch = { attributes: 0, firstOffset: 7n, lastOffsetDelta: 0, records: [record] };
        const partition = { partitionIndex: 0, highWatermark: 8n, records: [batch] };
        return { responses: [{ partitions: [partition] }] };
      },
    };
    return Object.assign(new EventEmitter(), answers, isFirst ? { [silent]: () => never } : {}, {
      topics: { track() {} },
      clearMetadata() {},
      async close() {
        state.closed = true;
      },
    }) as unknown as Consumer;
  };
  return { opened, open };
}

for (const silent of ['metadata', 'fetch'] as const) {
  test(`an answer to ${silent} that never comes: reading goes on with a new client`, async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    const log = createMemoryLog();
    const { opened, open } = openClients(silent);
    const tenure = createTenure(0);
    settleTenure(tenure, 7n);
    let troubles = 0;
    const fetch = createKafkaFetch(
      {
        log,
        health: createKafkaHealth(log),
        openFetcher: open,
        tenures: new Map([[0, tenure]]),
        onRecords: () => {},
        onNewTopic: () => assert.fail('the topic is the same'),
        onPastEnd: () => assert.fail('the place is there'),
        onTrouble: () => {
          troubles += 1;
        },
      },
      { topic: TOPIC, group: null, part: 'reading', gatherBytes: 1 },
    );
    fetch.pump();
    for (let seconds = 0; seconds < 29; seconds += 1) {
      t.mock.timers.tick(1_000);
      await settle();
    }
    assert.equal(opened.length, 1, 'it has its time');
    assert.equal(tenure.queue.length, 0);
    for (let seconds = 0; seconds < 5; seconds += 1) {
      t.mock.timers.tick(1_000);
      await settle();
    }
    assert.deepEqual(
      opened.map(({ closed }) => closed),
      [true, false],
    );
    assert.equal(troubles, 1);
    assert.deepEqual(
      tenure.queue.map(({ offset }) => offset),
      [7n],
    );
    fetch.stop();
  });
}

test('where to begin, asked of a client that owes the answer: it is asked again of a new one', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const log = createMemoryLog();
  const { opened, open } = openClients('listOffsets');
  const fetch = createKafkaFetch(
    {
      log,
      health: createKafkaHealth(log),
      openFetcher: open,
      tenures: new Map(),
      onRecords: () => {},
      onNewTopic: () => {},
      onPastEnd: () => {},
      onTrouble: () => {},
    },
    { topic: TOPIC, group: null, part: 'reading', gatherBytes: 1 },
  );
  const first = fetch.findOffsets([0], 'first');
  const refused = assert.rejects(first, /owes an answer/);
  t.mock.timers.tick(30_000);
  await refused;
  assert.deepEqual(await fetch.findOffsets([0], 'first'), new Map([[0, 7n]]));
  assert.equal(opened.length, 2);
  fetch.stop();
});

test('a member of which nothing is heard is replaced; one that is heard, or refused, is not', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const log = createMemoryLog();
  const joins: (() => Promise<unknown>)[] = [() => never, async () => {}];
  const members: (EventEmitter & { groupInstanceId: string | null })[] = [];
  const assigned: (readonly number[])[] = [];
  const group = joinKafkaGroup(
    {
      log,
      health: createKafkaHealth(log),
      openMember: () => {
        const joinGroup = joins[members.length] ?? assert.fail('a third');
        const member = Object.assign(new EventEmitter(), {
          groupId: 'pool.ledger',
          groupInstanceId: 'payoutd-1' as string | null,
          topics: { track() {} },
          joinGroup,
          close: async () => {},
        });
        members.push(member);
        return member as unknown as Consumer;
      },
    },
    {
      topic: TOPIC,
      beforeJoin: async () => {},
      onAssigned: ({ partitions }) => void assigned.push(partitions),
      patienceMs: 40_000,
    },
  );
  members[0]!.groupInstanceId = null;
  t.mock.timers.tick(39_999);
  assert.equal(members.length, 1, 'it has its time');
  t.mock.timers.tick(1);
  await settle();
  assert.equal(members.length, 2);
  assert.equal(members[1]!.groupInstanceId, null, 'a name that was given up stays given up');
  const assignment = (partitions: number[]) => ({
    generationId: 1,
    memberId: 'm',
    assignments: [{ topic: TOPIC, partitions }],
  });
  members[0]!.emit('consumer:group:join', assignment([9]));
  members[1]!.emit('consumer:group:join', assignment([0, 1]));
  assert.deepEqual(assigned, [[0, 1]], 'the first has no say any more');
  for (let i = 0; i < 10; i += 1) {
    t.mock.timers.tick(20_000);
    members[1]!.emit(
      i % 2 === 0 ? 'consumer:heartbeat:end' : 'consumer:heartbeat:error',
      i % 2 === 0 ? {} : { error: new Error('the broker is away') },
    );
  }
  assert.equal(members.length, 2);
  await group.stop(0);
});
