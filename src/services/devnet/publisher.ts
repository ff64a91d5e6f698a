/**
 * The ZMQ side of a node, frame for frame as Core sends it (`src/zmq/zmqpublishnotifier.cpp`):
 *
 *   topic | body | u32 LE counter of that topic
 *
 *   hashblock, hashtx   32 bytes, hash in display order
 *   rawblock, rawtx     serialised, with witness
 *   sequence            32 bytes hash in display order, then 'C' or 'D' for blocks, or 'A' or 'R' + u64 LE mempool
 *                       sequence for transactions
 *
 * All topics leave by one socket. As with Core a slow subscriber loses messages; nothing here ever waits for one.
 */
import { randomBytes } from 'node:crypto';
import { Publisher } from 'zeromq';
import type { Log } from '../../ports.ts';
import type { Faults } from './faults.ts';

export type ZmqTopic = 'hashblock' | 'rawblock' | 'hashtx' | 'rawtx' | 'sequence';

/** Messages waiting for the socket, beyond which new ones are dropped (Core's default high-water mark). */
const queueMessagesMax = 1000;
const queueBytesMax = 256 * 1024 * 1024;

export type ZmqPublisher = {
  address: string;
  /** Queues one message; counts the topic's sequence up even when the message is then lost, as Core's counter does. */
  publish(topic: ZmqTopic, body: Uint8Array): void;
  stop(): Promise<void>;
};

/** Binds a publisher to loopback. Port 0 lets the system choose; `address` tells what it became. */
export async function openPublisher(
  tools: { log: Log; faults: Faults },
  options: { host: string; port: number },
): Promise<ZmqPublisher> {
  const { log, faults } = tools;
  const socket = new Publisher({ linger: 0, sendHighWaterMark: queueMessagesMax });
  await socket.bind(`tcp://${options.host}:${options.port === 0 ? '*' : options.port}`);
  const counters = new Map<ZmqTopic, number>();
  let queue: [string, Uint8Array, Uint8Array][] = [];
  let queuedBytes = 0;
  let sending = false;
  let stopped = false;

  const send = async (): Promise<void> => {
    if (sending) return;
    sending = true;
    while (queue.length > 0 && !stopped) {
      const batch = queue;
      queue = [];
      queuedBytes = 0;
      for (const frames of batch) {
        if (stopped) break;
        try {
          await socket.send(frames);
        } catch (error) {
          if (!stopped) log.warn('a ZMQ message was not sent', { error: String(error) });
        }
      }
    }
    sending = false;
  };

  const enqueue = (topic: ZmqTopic, body: Uint8Array): void => {
    const counter = counters.get(topic) ?? 0;
    counters.set(topic, (counter + 1) >>> 0);
    if (queue.length >= queueMessagesMax || queuedBytes + body.length > queueBytesMax) return;
    const counterBytes = new Uint8Array(4);
    new DataView(counterBytes.buffer).setUint32(0, counter, true);
    queue.push([topic, body, counterBytes]);
    queuedBytes += body.length;
  };

  return {
    address: socket.lastEndpoint ?? '',
    publish(topic, body) {
      if (stopped) return;
      const fault = faults.takeZmq(topic);
      if (fault?.kind === 'zmq-silent') {
        counters.set(topic, ((counters.get(topic) ?? 0) + 1) >>> 0);
        return;
      }
      if (fault?.kind === 'zmq-wrong-hash') {
        const wrong = Uint8Array.from(body);
        wrong.set(randomBytes(Math.min(32, wrong.length)));
        enqueue(topic, wrong);
      } else enqueue(topic, body);
      if (fault?.kind === 'zmq-duplicate') enqueue(topic, body);
      if (fault?.kind === 'zmq-flood')
        for (let index = 0; index < fault.messages; index += 1) enqueue(topic, randomBytes(32));
      void send();
    },
    async stop() {
      stopped = true;
      queue = [];
      socket.close();
    },
  };
}
