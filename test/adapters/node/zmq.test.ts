/** The ZMQ listener against real libzmq publishers: silence, repeats, gaps, garbage, floods, restarts (F-Z1, F-Z2, J11). */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { Publisher } from 'zeromq';
import { decodeZmqMessage, subscribeZmq } from '../../../src/adapters/node/zmq.ts';
import type { TipHint } from '../../../src/core/node/rpc.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

function counter(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

const HASH = Buffer.from('00'.repeat(31) + 'ab', 'hex');

describe('zmq messages', () => {
  it('reads the three topics of Core', () => {
    const block = decodeZmqMessage([Buffer.from('hashblock'), HASH, counter(7)]);
    assert.equal(
      block.kind === 'block' && Buffer.from(block.hash).toString('hex'),
      'ab' + '00'.repeat(31),
    );
    assert.equal(block.kind === 'block' && block.sequence, 7);
    assert.equal(HASH[31], 0xab);
    const connect = Buffer.concat([HASH, Buffer.from('C')]);
    assert.equal(decodeZmqMessage([Buffer.from('sequence'), connect, counter(1)]).kind, 'block');
    const pool = Buffer.concat([HASH, Buffer.from('A'), Buffer.alloc(8)]);
    assert.equal(decodeZmqMessage([Buffer.from('sequence'), pool, counter(1)]).kind, 'other');
    assert.equal(
      decodeZmqMessage([Buffer.from('rawblock'), Buffer.alloc(200), counter(1)]).kind,
      'block',
    );
  });

  it('calls everything else garbage', () => {
    const garbage: Buffer[][] = [
      [],
      [HASH],
      [Buffer.from('hashblock'), HASH],
      [Buffer.from('hashblock'), HASH.subarray(1), counter(1)],
      [Buffer.from('hashblock'), HASH, Buffer.alloc(3)],
      [Buffer.from('hashtx'), HASH, counter(1)],
      [Buffer.from('rawblock'), Buffer.alloc(80), counter(1)],
      [Buffer.from('sequence'), Buffer.concat([HASH, Buffer.from('X')]), counter(1)],
      [Buffer.from('hashblock'), HASH, counter(1), HASH, HASH],
    ];
    for (const frames of garbage) assert.equal(decodeZmqMessage(frames).kind, 'garbage');
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 5 }), (frames) => {
        decodeZmqMessage(frames);
      }),
    );
  });
});

describe('zmq subscription', () => {
  let publisher: Publisher;
  let address: string;
  const hints: TipHint[] = [];
  const kinds = new Map<string, number>();
  let subscription: { stop(): void };
  let sequence = 0;

  before(async () => {
    publisher = new Publisher({ linger: 0, sendHighWaterMark: 100_000 });
    await publisher.bind('tcp://127.0.0.1:*');
    address = publisher.lastEndpoint!;
    subscription = subscribeZmq(
      {
        log: createMemoryLog(),
        onMessage: (kind) => kinds.set(kind, (kinds.get(kind) ?? 0) + 1),
      },
      { name: 'a', url: '', zmqAddresses: ['nonsense://x', address] },
      (hint) => hints.push(hint),
    );
    // Subscribing takes its time: publish until something arrives.
    for (let i = 0; i < 400 && hints.length === 0; i++) {
      await publisher.send(['hashblock', HASH, counter(sequence++)]);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.ok(hints.length > 0);
  });
  after(() => {
    subscription.stop();
    publisher.close();
  });

  async function next(frames: (string | Buffer)[]): Promise<TipHint> {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const count = hints.length;
    await publisher.send(frames);
    await until('a hint', () => hints.length > count);
    return hints.at(-1)!;
  }

  it('hints at a block with its hash in display order', async () => {
    const hint = await next(['hashblock', HASH, counter(sequence++)]);
    assert.deepEqual(hint, { doubtful: false, hashDisplay: HASH.toString('hex') });
  });

  it('doubts after a gap, a repeat and a step back', async () => {
    sequence += 3;
    assert.equal((await next(['hashblock', HASH, counter(sequence++)])).doubtful, true);
    assert.equal((await next(['hashblock', HASH, counter(sequence - 1)])).doubtful, true);
    assert.equal((await next(['hashblock', HASH, counter(0)])).doubtful, true);
    sequence = 1;
    assert.equal((await next(['hashblock', HASH, counter(sequence++)])).doubtful, false);
  });

  it('counts around 2^32', async () => {
    await next(['hashblock', HASH, counter(0xffffffff)]);
    assert.equal((await next(['hashblock', HASH, counter(0)])).doubtful, false);
    sequence = 1;
  });

  it('takes garbage for a reason to look', async () => {
    const hint = await next(['hashblock', Buffer.from('short'), counter(9)]);
    assert.deepEqual(hint, { doubtful: true, hashDisplay: null });
  });

  it('turns a flood into few hints', async () => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const before = hints.length;
    const read = kinds.get('block') ?? 0;
    for (let i = 0; i < 5000; i++) await publisher.send(['hashblock', HASH, counter(sequence++)]);
    await until('most of the flood', () => (kinds.get('block') ?? 0) - read >= 500);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const got = (kinds.get('block') ?? 0) - read;
    assert.ok(hints.length - before < got / 4, `${hints.length - before} hints for ${got}`);
  });

  it('finds a publisher that was restarted, silently', async () => {
    publisher.close();
    publisher = new Publisher({ linger: 0 });
    for (let i = 0; i < 200; i++) {
      try {
        await publisher.bind(address);
        break;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
    const before = hints.length;
    for (let i = 0; i < 600 && hints.length === before; i++) {
      await publisher.send(['hashblock', HASH, counter(i)]);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.ok(hints.length > before);
  });
});
