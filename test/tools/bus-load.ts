/** A publisher that never stops by itself, and the oracle of what must have arrived of it. */
import assert from 'node:assert/strict';
import type { Bus } from '../../src/ports.ts';
import { publishUntilSafe } from '../contract/bus.ts';

/** Key and text of one record. */
export type Sent = readonly [key: string, text: string];

/** Publishes records of some keys, ten at a time, until it is told to stop; what is rejected is published again. */
export function startBusLoad(bus: Bus, topic: string, prefix: string) {
  const sent: Sent[] = [];
  let rejections = 0;
  let isOver = false;
  const done = (async () => {
    for (let i = 0; !isOver; i += 1) {
      const batch = Array.from(
        { length: 10 },
        (_, j): Sent => [`${prefix}${(i * 10 + j) % 37}`, `${i * 10 + j}`],
      );
      const records = batch.map(([key, text]) => ({ key, value: Buffer.from(text) }));
      await publishUntilSafe(bus, topic, records, () => {
        rejections += 1;
      });
      sent.push(...batch);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  })();
  done.catch(() => {});
  return {
    sent,
    rejections: () => rejections,
    async stop() {
      isOver = true;
      await done;
    },
  };
}

/** True when everything that was sent is among what was received. */
export function isAllReceived(sent: readonly Sent[], received: readonly Sent[]): boolean {
  const there = new Set(received.map(([key, text]) => `${key} ${text}`));
  return sent.every(([key, text]) => there.has(`${key} ${text}`));
}

/** Everything came, and of each key what came for the first time came in its order. */
export function assertNothingLost(sent: readonly Sent[], received: readonly Sent[]): void {
  const byKey = (records: readonly Sent[]): Map<string, Set<string>> => {
    const texts = new Map<string, Set<string>>();
    for (const [key, text] of records) texts.set(key, (texts.get(key) ?? new Set()).add(text));
    return texts;
  };
  const first = byKey(received);
  for (const [key, texts] of byKey(sent)) {
    assert.deepEqual([...(first.get(key) ?? [])], [...texts], key);
  }
}
