/**
 * Carries topics between the buses of two threads over a MessagePort. Every batch is acknowledged by the other side after its
 * subscribers handled it, so `publish` means the same on both sides of the wall. At most one batch per topic is in flight; what
 * waits behind it is bounded by the bus.
 *
 * The records of a batch are packed into one buffer that is moved, not cloned: structured cloning would copy the whole memory
 * behind every small view.
 */
import type { MessagePort } from 'node:worker_threads';
import type { BusRecord, Log } from '../../ports.ts';
import type { MemoryBus } from './memory.ts';

export type BridgeOptions = {
  /** Topics carried from this bus to the other side. */
  outgoing: readonly string[];
  /** Topics the other side may publish here; others are refused. */
  incoming: readonly string[];
  log: Log;
  /** Name of the other side: the group on this bus, and the word in the log. */
  peer: string;
  /** The port has closed: the thread behind it is gone. Called once, also after `stop`. */
  onClosed?: () => void;
};

export type Bridge = { stop(): Promise<void> };

type Packed = {
  kind: 'batch';
  id: number;
  topic: string;
  keys: string[];
  lengths: Uint32Array;
  bytes: Uint8Array;
};
type Answer = { kind: 'answer'; id: number; error: string | null };

/** Both sides call this, each with the other's `outgoing` among its `incoming`. No topic may go both ways: it would circle. */
export async function bridge(
  bus: MemoryBus,
  port: MessagePort,
  options: BridgeOptions,
): Promise<Bridge> {
  const { outgoing, incoming, log, peer } = options;
  const both = outgoing.find((topic) => incoming.includes(topic));
  if (both !== undefined) throw new Error(`topic "${both}" may not be bridged both ways`);
  const group = `bridge:${peer}`;
  const waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  let lastId = 0;
  let closed = false;

  port.on('message', (message: Packed | Answer) => {
    if (message.kind === 'answer') {
      const asked = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error === null) asked?.resolve();
      else asked?.reject(new Error(message.error));
      return;
    }
    void receive(message);
  });
  port.on('messageerror', (error) => {
    log.error('A message between threads could not be read.', { peer, error: String(error) });
  });
  port.on('close', () => {
    closed = true;
    for (const topic of outgoing) bus.unsubscribe(topic, group);
    for (const { reject } of waiting.values()) reject(new Error(`"${peer}" is gone`));
    waiting.clear();
    options.onClosed?.();
  });

  async function receive(message: Packed): Promise<void> {
    let error: string | null = null;
    try {
      if (!incoming.includes(message.topic)) throw new Error(`"${message.topic}" is not for here`);
      await bus.publish(message.topic, unpack(message));
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    if (!closed) port.postMessage({ kind: 'answer', id: message.id, error } satisfies Answer);
  }

  function send(topic: string, records: readonly BusRecord[]): Promise<void> {
    return new Promise((resolve, reject) => {
      if (closed) {
        reject(new Error(`"${peer}" is gone`));
        return;
      }
      const id = ++lastId;
      waiting.set(id, { resolve, reject });
      const message = pack(id, topic, records);
      port.postMessage(message, [message.lengths.buffer, message.bytes.buffer] as ArrayBuffer[]);
    });
  }

  for (const topic of outgoing) {
    // Not awaited: the other side may subscribe to its own bus only after both bridges stand.
    bus
      .subscribe(topic, group, (records) => send(topic, records))
      .catch((error) => {
        log.error('A topic could not be bridged.', { peer, topic, error: String(error) });
      });
  }

  return {
    async stop() {
      if (closed) return;
      const done = new Promise<void>((resolve) => port.once('close', resolve));
      port.close();
      await done;
    },
  };
}

function pack(id: number, topic: string, records: readonly BusRecord[]): Packed {
  const lengths = new Uint32Array(records.length);
  let total = 0;
  for (const [i, { value }] of records.entries()) {
    lengths[i] = value.length;
    total += value.length;
  }
  const bytes = new Uint8Array(total);
  const keys: string[] = [];
  let at = 0;
  for (const { key, value } of records) {
    keys.push(key);
    bytes.set(value, at);
    at += value.length;
  }
  return { kind: 'batch', id, topic, keys, lengths, bytes };
}

function unpack(message: Packed): BusRecord[] {
  let at = 0;
  return message.keys.map((key, i) => {
    const end = at + (message.lengths[i] as number);
    const value = message.bytes.subarray(at, end);
    at = end;
    return { key, value };
  });
}
