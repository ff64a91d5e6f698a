/** ZMQ over real sockets: topics, frames, byte orders and counters as Core sends them, and the ZMQ faults. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Subscriber } from 'zeromq';
import type { Devnet } from '../../../src/services/devnet/devnet.ts';
import { startQuietDevnet } from './nodes.ts';

let devnet: Devnet;
let subscriber: Subscriber;
const received: { topic: string; body: Buffer; counter: number }[] = [];

before(async () => {
  devnet = await startQuietDevnet({ initialBlocks: 105, zmqPort: 0, seed: 'zmq' });
  assert.ok(devnet.zmqAddress);
  subscriber = new Subscriber({ linger: 0 });
  subscriber.subscribe();
  subscriber.connect(devnet.zmqAddress);
  void (async () => {
    for await (const [topic, body, counter] of subscriber) {
      assert.equal(counter.length, 4);
      received.push({ topic: topic.toString(), body, counter: counter.readUInt32LE() });
    }
  })();
  // A subscription takes effect a moment after connecting; messages before that are lost.
  for (let height = 0; received.length === 0; height += 1) {
    await devnet.generate(1);
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.ok(height < 200, 'nothing arrives');
  }
});

after(async () => {
  subscriber.close();
  await devnet.stop();
});

/** Runs `act` and returns the messages up to and including the first that `last` accepts. */
async function heard(
  act: () => Promise<unknown> | unknown,
  last: (message: { topic: string; body: Buffer }) => boolean,
): Promise<typeof received> {
  await new Promise((resolve) => setTimeout(resolve, 20));
  received.length = 0;
  await act();
  for (let wait = 0; wait < 500; wait += 1) {
    const at = received.findIndex(last);
    if (at >= 0) return received.slice(0, at + 1);
    await new Promise((resolve) => setTimeout(resolve, 4));
  }
  assert.fail(`did not hear it, only ${received.map((one) => one.topic)}`);
}

test('a block: its transactions, sequence C, then hashblock and rawblock', async () => {
  const messages = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'rawblock',
  );
  const { tip } = devnet.chain;
  assert.deepEqual(
    messages.map((one) => one.topic),
    ['hashtx', 'rawtx', 'sequence', 'hashblock', 'rawblock'],
  );
  const byTopic = new Map(messages.map((one) => [one.topic, one.body]));
  assert.equal(byTopic.get('hashblock')?.toString('hex'), tip.id);
  assert.equal(byTopic.get('sequence')?.toString('hex'), `${tip.id}43`);
  const block = devnet.chain.block(tip);
  assert.ok(block);
  assert.deepEqual(new Uint8Array(byTopic.get('rawblock') ?? []), block.raw);
  assert.equal(byTopic.get('hashtx')?.toString('hex'), block.transactions[0].id);
  assert.deepEqual(new Uint8Array(byTopic.get('rawtx') ?? []), block.transactions[0].raw);
});

test('a transaction: hashtx, rawtx and sequence A with the mempool counter', async () => {
  const before = devnet.mempool.sequence;
  const messages = await heard(
    () => devnet.addTransactions(1),
    (one) => one.topic === 'sequence',
  );
  const [id] = devnet.mempool.entries.keys();
  const sequence = messages[messages.length - 1].body;
  assert.equal(sequence.length, 41);
  assert.equal(sequence.subarray(0, 32).toString('hex'), id);
  assert.equal(String.fromCharCode(sequence[32]), 'A');
  assert.equal(sequence.readBigUInt64LE(33), before);
});

test('a reorganisation: D for what goes, C for what comes, one hashblock', async () => {
  const gone = devnet.chain.tip.id;
  let made: string[] = [];
  const messages = await heard(
    async () => {
      made = await devnet.reorganise(1);
    },
    (one) => one.topic === 'hashblock',
  );
  const labels = messages
    .filter((one) => one.topic === 'sequence' && one.body.length === 33)
    .map(
      (one) => `${one.body.subarray(0, 32).toString('hex')} ${String.fromCharCode(one.body[32])}`,
    );
  assert.deepEqual(labels, [`${gone} D`, `${made[0]} C`, `${made[1]} C`]);
  const hash = messages.find((one) => one.topic === 'hashblock');
  assert.equal(hash?.body.toString('hex'), made[1]);
});

test('counters count per topic without gaps', async () => {
  const counters: number[] = [];
  for (let at = 0; at < 3; at += 1) {
    const messages = await heard(
      () => devnet.generate(1),
      (one) => one.topic === 'hashblock',
    );
    counters.push(messages[messages.length - 1].counter);
  }
  assert.deepEqual(counters, [counters[0], counters[0] + 1, counters[0] + 2]);
});

test('faults: silence leaves a gap in the counter, duplicates, a wrong hash, a flood', async () => {
  const start = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'hashblock',
  );
  const last = start[start.length - 1].counter;
  devnet.fault({ kind: 'zmq-silent', topic: 'hashblock', times: 1 });
  const quiet = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'rawblock',
  );
  assert.ok(!quiet.some((one) => one.topic === 'hashblock'));

  devnet.fault({ kind: 'zmq-duplicate', topic: 'hashblock', times: 1 });
  const twice = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'rawblock',
  );
  const hashes = twice.filter((one) => one.topic === 'hashblock');
  assert.deepEqual(
    hashes.map((one) => one.counter),
    [last + 2, last + 3],
  );
  assert.deepEqual(hashes[0].body, hashes[1].body);

  devnet.fault({ kind: 'zmq-wrong-hash', topic: 'hashblock', times: 1 });
  const wrong = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'hashblock',
  );
  assert.notEqual(wrong[wrong.length - 1].body.toString('hex'), devnet.chain.tip.id);

  devnet.fault({ kind: 'zmq-flood', topic: 'hashblock', times: 1, messages: 50 });
  const flood = await heard(
    () => devnet.generate(1),
    (one) => one.topic === 'rawblock',
  );
  assert.equal(flood.filter((one) => one.topic === 'hashblock').length, 51);
});

test('invalidateblock moves the tip back without a hashblock, as in Core', async () => {
  const { tip } = devnet.chain;
  const messages = await heard(
    () => devnet.call('invalidateblock', [tip.id]),
    (one) => one.topic === 'sequence' && one.body[32] === 0x44,
  );
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(!messages.some((one) => one.topic === 'hashblock'));
  assert.ok(!received.some((one) => one.topic === 'hashblock'));
  assert.equal(devnet.chain.tip.id, tip.previous?.id);
});
