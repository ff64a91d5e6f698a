/** interim */
import type { JournalReader } from '../../src/adapters/journal.ts';
import { decodeShare } from '../../src/messages/codec.ts';
import type { Bus, Log } from '../../src/ports.ts';
import type { Pool } from './pool.ts';
import type { World } from './world.ts';

export type Records = { stop(): Promise<void> };

export async function startRecords(tools: {
  world: World;
  pool: Pool;
  log: Log;
  bus: Bus;
  reader: JournalReader;
}): Promise<Records> {
  const { world, pool, bus, reader } = tools;
  await bus.subscribe('share.submissions', 'shareproc', async (records) => {
    if (!pool.alive) await new Promise(() => {});
    world.fault('database.commit.before');
    if (!pool.alive) await new Promise(() => {});
    if (world.database !== 'up') throw new Error('database away');
    for (const record of records) {
      const share = decodeShare(record.value);
      if (!share.ok) throw new Error(share.reason);
      world.rowStored({
        hashHex: Buffer.from(share.value.headerHash).toString('hex'),
        account: share.value.account,
        worker: share.value.worker,
        difficulty: share.value.difficulty,
        isBlock: share.value.isBlock,
      });
    }
    world.fault('database.commit.after');
    if (!pool.alive) await new Promise(() => {});
  });
  let stopped = false;
  void (async () => {
    while (!stopped && pool.alive) {
      const batch = await reader.next();
      if (batch === null) {
        await reader.wait(1000);
        continue;
      }
      try {
        await bus.publish(
          'share.submissions',
          batch.records.map((value) => ({ key: 'x', value })),
        );
        await reader.markShipped(batch.position);
      } catch {
        reader.rewind();
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
  })();
  return {
    async stop() {
      stopped = true;
    },
  };
}
