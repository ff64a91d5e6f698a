import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { bridge } from '../../../src/adapters/bus/bridge.ts';
import { createMemoryBus } from '../../../src/adapters/bus/memory.ts';
import { encodeBlockOutcome } from '../../../src/messages/codec.ts';
import { TOPICS } from '../../../src/messages/topics.ts';
import { busContract } from '../../contract/bus.ts';
import { createSilentLog } from '../../tools/silent-log.ts';

const log = createSilentLog();
const record = {
  key: 'k',
  value: encodeBlockOutcome({
    headerHash: new Uint8Array(32),
    height: 7,
    state: 'found',
    node: '',
    detail: '',
    confirmations: 0,
    atMs: 1,
  }),
};

for (const encodeCheck of [false, true]) {
  busContract(`memory${encodeCheck ? ', every message checked' : ''}`, async () => {
    const bus = createMemoryBus({ log, encodeCheck });
    return { publisher: bus, subscriber: bus, close: () => bus.stop() };
  });
}

busContract('memory, two threads bridged', async () => {
  const publisher = createMemoryBus({ log, encodeCheck: true });
  const subscriber = createMemoryBus({ log, encodeCheck: true });
  const { port1, port2 } = new MessageChannel();
  const topics = Object.keys(TOPICS);
  const far = await bridge(subscriber, port2, { outgoing: [], incoming: topics, log, peer: 'a' });
  const near = await bridge(publisher, port1, { outgoing: topics, incoming: [], log, peer: 'b' });
  return {
    publisher,
    subscriber,
    async close() {
      await near.stop();
      await far.stop();
      await publisher.stop();
      await subscriber.stop();
    },
  };
});

test('publish resolves when every handler has, and rejects when one did', async () => {
  const bus = createMemoryBus({ log });
  let handled = 0;
  await bus.subscribe('block.outcome', 'slow', async () => {
    await new Promise((resolve) => setImmediate(resolve));
    handled += 1;
    if (handled === 2) throw new Error('not today');
  });
  await bus.publish('block.outcome', [record]);
  assert.equal(handled, 1);
  await assert.rejects(bus.publish('block.outcome', [record]), /not today/);
});

test('a topic may not circle between two threads', async () => {
  const { port1, port2 } = new MessageChannel();
  await assert.rejects(
    bridge(createMemoryBus({ log }), port1, {
      outgoing: ['block.outcome'],
      incoming: ['block.outcome'],
      log,
      peer: 'x',
    }),
    /both ways/,
  );
  port1.close();
  port2.close();
});

test('a thread that dies takes its subscription with it, and a new one gets the retained record', async () => {
  const main = createMemoryBus({ log });
  const first = new MessageChannel();
  let gone = false;
  const closed = new Promise<void>((resolve) => {
    void bridge(main, first.port1, {
      outgoing: ['block.outcome'],
      incoming: [],
      log,
      peer: 'worker',
      onClosed: () => {
        gone = true;
        resolve();
      },
    });
  });
  // Nobody answers at the other end, then it is gone.
  const unanswered = main.publish('block.outcome', [record]);
  unanswered.catch(() => {});
  await new Promise((resolve) => setImmediate(resolve));
  first.port2.close();
  await assert.rejects(unanswered, /gone/);
  await closed;
  assert.equal(gone, true);
  await main.publish('block.outcome', [record]);

  const second = new MessageChannel();
  const again = await bridge(main, second.port1, {
    outgoing: ['block.outcome'],
    incoming: [],
    log,
    peer: 'worker',
  });
  const bus = createMemoryBus({ log });
  const far = await bridge(bus, second.port2, {
    outgoing: [],
    incoming: ['block.outcome'],
    log,
    peer: 'main',
  });
  let seen = 0;
  await bus.subscribe('block.outcome', 'g', async (records) => {
    seen += records.length;
  });
  await main.publish('block.outcome', [record]);
  assert.equal(seen, 1);
  await again.stop();
  await far.stop();
});

test('a subscriber that falls too far behind is refused more', async () => {
  const bus = createMemoryBus({ log, waitingBatchesMax: 2 });
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  await bus.subscribe('block.outcome', 'slow', () => held);
  const waiting = [bus.publish('block.outcome', [record]), bus.publish('block.outcome', [record])];
  await assert.rejects(bus.publish('block.outcome', [record]), /too far behind/);
  release();
  await Promise.all(waiting);
  await bus.stop();
});

test('the check refuses bytes that are no message', async () => {
  const bus = createMemoryBus({ log, encodeCheck: true });
  await assert.rejects(
    bus.publish('block.outcome', [{ key: '', value: new Uint8Array([255, 255]) }]),
    /does not decode/,
  );
});
