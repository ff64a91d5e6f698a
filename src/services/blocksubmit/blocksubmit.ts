/**
 * The second road of a found block: every block is handed to every node once more and followed until it is final, by the same lane that
 * a gateway has for its own. It comes twice. First as the record of the find on `block.candidates`, which is small and fast: with the
 * template at hand it is a block at once. Then whole, on `block.solved`, for whoever had no template. A record counts as read when its
 * block is on disk here or at a node, so that after any absence, and any death, it goes on where it was. What becomes of each is told on
 * `block.outcome`.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { findFault } from '../../core/work/candidate.ts';
import type { Job } from '../../core/work/job.ts';
import type { BlockCandidate } from '../../messages/block.ts';
import { decodeBlockCandidate, decodeJobNews, decodeSolvedBlock } from '../../messages/codec.ts';
import type { BusRecord } from '../../ports.ts';
import {
  type BlockLaneOptions,
  type BlockLaneTools,
  type LaneStatus,
  startBlockLane,
} from './lane.ts';

export type BlocksubmitOptions = Omit<
  BlockLaneOptions,
  'isSecondRoad' | 'shelfBytesMax' | 'diskPatienceMs' | 'syncPatienceMs'
>;

export type Blocksubmit = {
  /** `assembled`: blocks made of their records. `received`: whole ones. */
  status(): LaneStatus & { assembled: number; received: number; unreadable: number };
  stop(): Promise<void>;
};

/** As many as a gateway takes shares on. */
const JOBS_MAX = 2_048;
/** Finds that wait for what they are made of, oldest given up first, and how often they are looked at. */
const EARLY_MAX = 256;
const EARLY_MS = 250;
/** Whoever finds on an older job has the whole block to come. */
const SHELF_BYTES_MAX = 96 * 1024 * 1024;

/** Starts the service. Rejects only when its directory cannot be made or read. */
export async function startBlocksubmit(
  tools: BlockLaneTools,
  options: BlocksubmitOptions,
): Promise<Blocksubmit> {
  const { bus, log } = tools;
  const lane = await startBlockLane(tools, {
    ...options,
    isSecondRoad: true,
    shelfBytesMax: SHELF_BYTES_MAX,
  });
  const jobs = new Map<string, Pick<Job, 'networkTarget' | 'previousHash' | 'branch'>>();
  /** Finds on a job whose transactions, or which itself, had not come: a job manager that was killed between the two sends them when it is back. */
  const early = new Map<string, BlockCandidate>();
  let assembled = 0;
  let received = 0;
  let unreadable = 0;

  /** The reason why a record is no block; null when it is safe. */
  async function take(value: Uint8Array): Promise<string | null> {
    const decoded = decodeSolvedBlock(value);
    if (!decoded.ok) return decoded.reason;
    return (await lane.submitBlock(decoded.value.block)) ? null : 'not a whole block';
  }

  /** Makes a block of the record of a find. What it cannot read, shareproc puts aside. */
  async function assemble(value: Uint8Array): Promise<void> {
    const decoded = decodeBlockCandidate(value);
    if (!decoded.ok || (await assembleOf(decoded.value))) return;
    const candidate = decoded.value;
    // A gateway that starts tells of all its blocks again: those that are known must not push out one that is not.
    if (lane.knows(candidate.headerHash)) return;
    early.set(encodeHexReversed(candidate.headerHash), candidate);
    if (early.size > EARLY_MAX) early.delete(early.keys().next().value!);
  }

  /** False when not all it takes is here. */
  async function assembleOf(candidate: BlockCandidate): Promise<boolean> {
    const job = jobs.get(candidate.jobId);
    if (job === undefined || !lane.hasTemplate(candidate.jobId)) return false;
    if (findFault(candidate, job) !== null) return true;
    assembled += 1;
    await lane.submit(candidate);
    return true;
  }

  const looking = setInterval(() => {
    for (const [hash, candidate] of early) {
      const isReady = lane.hasTemplate(candidate.jobId) && jobs.has(candidate.jobId);
      // It may have come whole meanwhile.
      if (!isReady && !lane.knows(candidate.headerHash)) continue;
      early.delete(hash);
      void assembleOf(candidate);
    }
  }, EARLY_MS);

  await bus.subscribe('mining.jobs', 'blocksubmit', async (records) => {
    for (const { value } of records) {
      const decoded = decodeJobNews(value);
      if (!decoded.ok) continue;
      lane.expectTemplate(decoded.value.job);
      const { jobId, networkTarget, previousHash, branch } = decoded.value.job;
      // Copies: a view would keep everything alive that came with it.
      jobs.set(jobId, {
        networkTarget,
        previousHash: new Uint8Array(previousHash),
        branch: branch.map((hash) => new Uint8Array(hash)),
      });
      if (jobs.size > JOBS_MAX) jobs.delete(jobs.keys().next().value!);
    }
  });
  await bus.subscribe('block.candidates', 'blocksubmit', async (records) => {
    await Promise.all(records.map(({ value }) => assemble(value)));
  });
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
    status: () => ({ ...lane.status(), assembled, received, unreadable }),
    stop() {
      clearInterval(looking);
      return lane.stop();
    },
  };
}
