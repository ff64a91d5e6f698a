/**
 * Listens to a Bitcoin node's ZMQ publisher: `hashblock`, `rawblock` and `sequence` (Bitcoin Core doc/zmq.md). Frames are topic,
 * body, and a sequence number of 4 bytes little-endian, counted per topic.
 *
 * ZMQ drops messages when its queue is full and says nothing when the node dies, so what comes out is a hint to look, never a
 * fact. A lost, repeated or unreadable message is a hint as well. A flood becomes one hint per `COALESCE_MS`. Reconnecting is the
 * library's, silent and without end.
 */
import { Subscriber } from 'zeromq';
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { sha256d } from '../../core/bitcoin/hash.ts';
import type { NodeAddress, TipHint } from '../../core/node/rpc.ts';
import type { Log } from '../../ports.ts';

const TOPICS = ['hashblock', 'rawblock', 'sequence'] as const;
type Topic = (typeof TOPICS)[number];

const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
const RECEIVE_MESSAGES_MAX = 1000;
const COALESCE_MS = 5;
const HEADER_BYTES = 80;

/** What one message says; `sequence` also carries transactions entering and leaving the pool, which are of no interest here. */
type Message =
  | { kind: 'block'; topic: Topic; sequence: number; hash: Uint8Array }
  | { kind: 'other'; topic: Topic; sequence: number }
  | { kind: 'garbage' };

/** Decodes the frames of one message. Total. */
export function decodeZmqMessage(frames: readonly Uint8Array[]): Message {
  if (frames.length !== 3) return { kind: 'garbage' };
  const [topicBytes, body, count] = frames as [Uint8Array, Uint8Array, Uint8Array];
  if (count.length !== 4 || topicBytes.length > 16) return { kind: 'garbage' };
  const name = Buffer.from(topicBytes).toString('latin1');
  const topic = TOPICS.find((known) => known === name);
  if (topic === undefined) return { kind: 'garbage' };
  const sequence = new DataView(count.buffer, count.byteOffset, 4).getUint32(0, true);
  if (topic === 'hashblock') {
    // Core sends the hash in display order.
    if (body.length !== 32) return { kind: 'garbage' };
    return { kind: 'block', topic, sequence, hash: new Uint8Array(body).reverse() };
  }
  if (topic === 'rawblock') {
    if (body.length <= HEADER_BYTES) return { kind: 'garbage' };
    return { kind: 'block', topic, sequence, hash: sha256d(body.subarray(0, HEADER_BYTES)) };
  }
  const label = body[32];
  // 'C' connected, 'D' disconnected: 33 bytes; 'A' and 'R' carry the pool's own 8-byte counter behind.
  if (body.length === 33 && (label === 0x43 || label === 0x44))
    return { kind: 'block', topic, sequence, hash: new Uint8Array(body.subarray(0, 32)).reverse() };
  if (body.length === 41 && (label === 0x41 || label === 0x52))
    return { kind: 'other', topic, sequence };
  return { kind: 'garbage' };
}

/**
 * Subscribes to all of the node's addresses. `onHint` is called at most once per 5 ms, with the newest block hash.
 *
 * An address that zeromq refuses is logged and left out: polling notices new blocks without it.
 */
export function subscribeZmq(
  tools: { log: Log; onMessage?: (kind: Message['kind'] | 'gap') => void },
  node: NodeAddress,
  onHint: (hint: TipHint) => void,
): { stop(): void } {
  const sockets: Subscriber[] = [];
  let pending: TipHint | null = null;
  let timer: NodeJS.Timeout | null = null;
  let stopped = false;

  const hint = (doubtful: boolean, hash: Uint8Array | null) => {
    if (stopped) return;
    pending = {
      doubtful: doubtful || (pending?.doubtful ?? false),
      hashDisplay: hash === null ? (pending?.hashDisplay ?? null) : encodeHexReversed(hash),
    };
    timer ??= setTimeout(() => {
      timer = null;
      const next = pending;
      pending = null;
      if (next !== null && !stopped) onHint(next);
    }, COALESCE_MS);
  };

  async function listen(socket: Subscriber, address: string): Promise<void> {
    const expected = new Map<Topic, number>();
    for await (const frames of socket) {
      const message = decodeZmqMessage(frames);
      tools.onMessage?.(message.kind);
      if (message.kind === 'garbage') {
        hint(true, null);
        continue;
      }
      const due = expected.get(message.topic);
      expected.set(message.topic, (message.sequence + 1) >>> 0);
      const gap = due !== undefined && due !== message.sequence;
      if (gap) {
        tools.onMessage?.('gap');
        tools.log.debug('zmq messages were lost or repeated', {
          node: node.name,
          address,
          topic: message.topic,
        });
      }
      if (message.kind === 'block') hint(gap, message.hash);
      else if (gap) hint(true, null);
    }
  }

  for (const address of node.zmqAddresses ?? []) {
    try {
      const socket = new Subscriber({
        linger: 0,
        receiveHighWaterMark: RECEIVE_MESSAGES_MAX,
        maxMessageSize: MESSAGE_BYTES_MAX,
        reconnectInterval: 100,
        reconnectMaxInterval: 5000,
        // A half-open connection is noticed without traffic.
        heartbeatInterval: 10_000,
        heartbeatTimeout: 30_000,
        ipv6: true,
      });
      sockets.push(socket);
      socket.connect(address);
      for (const topic of TOPICS) socket.subscribe(topic);
      listen(socket, address).catch((error: unknown) => {
        if (!stopped) {
          tools.log.warn('listening to zmq ended; polling goes on', {
            node: node.name,
            address,
            reason: error instanceof Error ? error.message : 'unknown',
          });
        }
      });
    } catch (error) {
      tools.log.warn('zmq address cannot be used; polling goes on', {
        node: node.name,
        address,
        reason: error instanceof Error ? error.message : 'unknown',
      });
    }
  }

  return {
    stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      for (const socket of sockets) socket.close();
    },
  };
}
