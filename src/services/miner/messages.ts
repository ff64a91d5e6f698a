/** What the miner and its threads say to each other. */
import type { MinerJob, Solution } from '../../core/stratum/client.ts';

export type ThreadOptions = {
  /** 0 to 255: the first byte of extranonce2, so that no two threads search the same. */
  index: number;
  /** Infinity for no limit. */
  hashesPerSecondMax: number;
  sharesPerSecondMax: number;
};

/** `job: null` rests until the next one. */
export type ToThread = { kind: 'job'; job: MinerJob | null } | { kind: 'stop' };

export type FromThread =
  | { kind: 'found'; solution: Solution; difficulty: number }
  | { kind: 'hashed'; hashes: number };
