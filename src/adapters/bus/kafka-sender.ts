/**
 * Publishes to one topic, over a producer and a connection of its own, so that megabytes of one topic hold up nobody else. One request
 * is under way at a time: that, with the idempotent producer, keeps the order of records whatever is repeated. What is published
 * meanwhile goes together in the next request.
 *
 * Repeats inside the time of a publish are the client's and leave no duplicates. When that time is over the publisher is told, and the
 * producer is given up with whatever it still had in hand; what the publisher then repeats may be there twice.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { findErrorBy, type Producer } from '@platformatic/kafka';
import type { Topic } from '../../messages/topics.ts';
import type { BusRecord } from '../../ports.ts';
import type { KafkaHealth } from './kafka-health.ts';
import { partitionOf } from './partitioner.ts';

export type KafkaSender = {
  /** Resolves when all in-sync replicas have the records; rejects when they are too many, too large or too late. */
  publish(records: readonly BusRecord[]): Promise<void>;
  waitingBytes(): number;
  /** Nothing new is taken; what is under way gets `timeoutMs`. */
  stop(timeoutMs: number): Promise<void>;
};

export type SenderTools = {
  /** Resolves when the topics are as they must be; rejects when they are refused. */
  ready: Promise<void>;
  openProducer(): Producer;
  health: KafkaHealth;
  /** Publishing failed: the topics may be gone. */
  onTrouble(): void;
};

export type SenderOptions = {
  name: string;
  topic: Topic;
  timeoutMs: number;
  waitingBytesMax: number;
};

type Message = { topic: string; key: Buffer; value: Buffer; partition: number };

/** One call of publish. */
type Call = {
  parts: number;
  isOver: boolean;
  resolve(): void;
  reject(error: Error): void;
};

/** As much of a call as one request may carry. */
type Parcel = { call: Call; messages: Message[]; bytes: number; alone: boolean };

/** What a record costs in a batch beside its key and value, at most. */
const RECORD_FRAME_BYTES = 40;
const REQUEST_BYTES = 896 * 1024;
const PAUSE_MS = 50;

export function createKafkaSender(tools: SenderTools, options: SenderOptions): KafkaSender {
  const { health } = tools;
  const { name, topic, timeoutMs, waitingBytesMax } = options;
  const part = `publishing ${name}`;
  const waiting: Parcel[] = [];
  let waitingBytes = 0;
  let producer: Producer | null = null;
  let isRunning = false;
  let isStopped = false;
  /** Ends the request under way when one of its calls runs out of time. */
  let cutShort: (() => void) | null = null;
  let flight: readonly Parcel[] = [];
  let onIdle: (() => void) | null = null;

  function parcelsOf(call: Call, records: readonly BusRecord[]): Parcel[] {
    const parcels: Parcel[] = [];
    let current: Parcel | null = null;
    for (const { key, value, partition } of records) {
      const keyBytes = Buffer.from(key);
      const bytes = keyBytes.length + value.length + RECORD_FRAME_BYTES;
      if (current === null || current.bytes + bytes > REQUEST_BYTES) {
        current = { call, messages: [], bytes: 0, alone: false };
        parcels.push(current);
      }
      current.bytes += bytes;
      current.messages.push({
        topic: name,
        key: keyBytes,
        value: Buffer.from(value.buffer, value.byteOffset, value.byteLength),
        partition: partition ?? partitionOf(keyBytes, topic.partitions),
      });
    }
    return parcels;
  }

  /** The next request: one parcel, and those behind it that fit in. */
  function takeParcels(): Parcel[] {
    const taken: Parcel[] = [];
    let bytes = 0;
    for (;;) {
      const next = waiting[0];
      if (next === undefined) break;
      if (!next.call.isOver) {
        const fits = taken.length === 0 || (bytes + next.bytes <= REQUEST_BYTES && !next.alone);
        if (!fits || taken[0]?.alone) break;
        taken.push(next);
        bytes += next.bytes;
      } else waitingBytes -= next.bytes;
      waiting.shift();
    }
    return taken;
  }

  async function run(): Promise<void> {
    if (isRunning) return;
    isRunning = true;
    while (waiting.length > 0) {
      const parcels = takeParcels();
      if (parcels.length > 0) await fly(parcels);
    }
    isRunning = false;
    onIdle?.();
  }

  async function fly(parcels: Parcel[]): Promise<void> {
    flight = parcels;
    const cut = new Promise<never>((_, reject) => {
      cutShort = () => reject(new Error(`Kafka did not take records of "${name}" in time`));
    });
    cut.catch(() => {});
    let isOver = false;
    try {
      const sending = send(
        parcels.flatMap(({ messages }) => messages),
        () => isOver,
      );
      // When its time is over nobody waits for it any more.
      sending.catch(() => {});
      await Promise.race([sending, cut]);
      health.fine(part);
      for (const { call } of parcels) if (--call.parts === 0) call.resolve();
    } catch (cause) {
      const error = cause instanceof Error ? cause : new Error(String(cause));
      isOver = true;
      dropProducer();
      if (!isStopped) {
        health.failed(part, error);
        tools.onTrouble();
      }
      // Records of others may be at fault: each call is tried alone before it is told so.
      const isTogether = new Set(parcels.map(({ call }) => call)).size > 1;
      const again = parcels.filter(({ call }) => isTogether && !call.isOver);
      for (const parcel of again) parcel.alone = true;
      if (again.length > 0) {
        waiting.unshift(...again);
        parcels = parcels.filter((parcel) => !again.includes(parcel));
      }
      for (const { call } of parcels) call.reject(error);
    } finally {
      for (const { bytes } of parcels) waitingBytes -= bytes;
      cutShort = null;
      flight = [];
    }
  }

  /** Until it is done, or nobody waits any more. A client whose own repeats are used up begins anew: leaders may have moved. */
  async function send(messages: Message[], isOver: () => boolean): Promise<void> {
    await tools.ready;
    while (!isOver()) {
      producer ??= tools.openProducer();
      try {
        await producer.send({ messages });
        return;
      } catch (error) {
        if (isOver() || findErrorBy(error as Error, 'canRetry', false) !== null) throw error;
        dropProducer();
        health.failed(part, error);
        tools.onTrouble();
        await sleep(PAUSE_MS);
      }
    }
  }

  function dropProducer(): void {
    producer?.close(true).catch(() => {});
    producer = null;
  }

  return {
    publish(records) {
      if (isStopped) return Promise.reject(new Error('the bus is stopped'));
      const tooLarge = records.find(({ value }) => value.length > topic.bytesMax);
      if (tooLarge !== undefined) {
        return Promise.reject(
          new RangeError(
            `a record of ${tooLarge.value.length} bytes is too large for "${name}" (${topic.bytesMax})`,
          ),
        );
      }
      if (records.length === 0) return Promise.resolve();
      return new Promise<void>((resolve, reject) => {
        const settle = (): void => {
          call.isOver = true;
          clearTimeout(timer);
        };
        const call: Call = {
          parts: 0,
          isOver: false,
          resolve: () => {
            if (call.isOver) return;
            settle();
            resolve();
          },
          reject: (error) => {
            if (call.isOver) return;
            settle();
            reject(error);
          },
        };
        const timer = setTimeout(() => {
          call.reject(new Error(`Kafka did not take records of "${name}" in ${timeoutMs} ms`));
          if (flight.some((parcel) => parcel.call === call)) cutShort?.();
        }, timeoutMs);
        const parcels = parcelsOf(call, records);
        call.parts = parcels.length;
        const bytes = parcels.reduce((sum, parcel) => sum + parcel.bytes, 0);
        if (waitingBytes > 0 && waitingBytes + bytes > waitingBytesMax) {
          call.reject(new Error(`too much waits to be published on "${name}"`));
          return;
        }
        waitingBytes += bytes;
        waiting.push(...parcels);
        void run();
      });
    },

    waitingBytes: () => waitingBytes,

    async stop(stopTimeoutMs) {
      isStopped = true;
      if (isRunning) {
        const timer = setTimeout(() => {
          for (const { call } of [...waiting, ...flight])
            call.reject(new Error('the bus is stopped'));
          cutShort?.();
        }, stopTimeoutMs);
        await new Promise<void>((resolve) => {
          onIdle = resolve;
        });
        clearTimeout(timer);
      }
      dropProducer();
      health.forget(part);
    },
  };
}
