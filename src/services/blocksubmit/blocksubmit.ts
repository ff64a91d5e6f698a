/**
 * The second road of a found block: whole blocks from `block.solved` are handed to every node once more and followed until they are
 * final, by the same lane that a gateway has for its own. A record counts as read when its block is on disk here or at a node, so that
 * after any absence, and any death, it goes on where it was. What becomes of each is told on `block.outcome`.
 */
import { decodeSolvedBlock } from '../../messages/codec.ts';
import type { BusRecord } from '../../ports.ts';
import {
  type BlockLaneOptions,
  type BlockLaneTools,
  type LaneStatus,
  startBlockLane,
} from './lane.ts';

export type BlocksubmitOptions = Omit<BlockLaneOptions, 'wholeBlocks' | 'shelfBytesMax'>;

export type Blocksubmit = {
  status(): Omit<LaneStatus, 'templates'> & { received: number; unreadable: number };
  stop(): Promise<void>;
};

/** Starts the service. Rejects only when its directory cannot be made or read. */
export async function startBlocksubmit(
  tools: BlockLaneTools,
  options: BlocksubmitOptions,
): Promise<Blocksubmit> {
  const { bus, log } = tools;
  const lane = await startBlockLane(tools, { ...options, wholeBlocks: true });
  let received = 0;
  let unreadable = 0;

  /** The reason why a record is no block; null when it is safe. */
  async function take(value: Uint8Array): Promise<string | null> {
    const decoded = decodeSolvedBlock(value);
    if (!decoded.ok) return decoded.reason;
    return (await lane.submitBlock(decoded.value.block)) ? null : 'not a whole block';
  }

  await bus.subscribe('block.solved', 'blocksubmit', async (records) => {
    const poison: BusRecord[] = [];
    // Together: one that no node and no disk takes yet holds up no other.
    await Promise.all(
      records.map(async ({ value, partition = 0, offset = '' }) => {
        const reason = await take(value);
        received += 1;
        if (reason === null) return;
        const key = `block.solved/${partition}/${offset}`;
        log.error('A solved block could not be read.', { record: key, reason });
        poison.push({ key, value });
      }),
    );
    await bus.publish('dead.letters', poison);
    unreadable += poison.length;
  });

  return {
    status() {
      const { templates: _, ...rest } = lane.status();
      return { ...rest, received, unreadable };
    },
    stop: () => lane.stop(),
  };
}
