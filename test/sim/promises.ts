/**
 * What the pool promises, as functions over the books that the simulated world keeps. Each returns null, or what was broken in
 * words. They are called after every step; the ones that need the pool to have come to rest are called at the end as well.
 * The numbers P01 to P16 are those of `docs/` and of the README's table of promises.
 */
import type { Submission } from './miner.ts';

/** A share row as the simulated database holds it. */
export type StoredShare = {
  hashHex: string;
  account: string;
  worker: string;
  difficulty: number;
  isBlock: boolean;
};

/** An acknowledgement that a miner received. */
export type Acknowledged = {
  submission: Submission;
  atMs: number;
  incarnation: number;
  /** The header hash stood in synced bytes of the disk, or in the database, when the answer was written. */
  durable: boolean;
};

/** A header that met the network target and was handed whole to the gateway. */
export type Win = {
  submission: Submission;
  deliveredAtMs: number;
  incarnation: number;
  acknowledged: boolean;
  /** The gateway could rebuild it: the job was of the last three tips. */
  rebuildable: boolean;
  /** Bytes of the block were seen synced on the disk. */
  onDiskAtMs: number | null;
  /** The process died after the delivery and before the block stood on the disk. */
  diedBefore: boolean;
  /** That death came while the disk failed, or soon after. */
  diedOnFailingDisk: boolean;
};

/** The books. Everything in it is written by the world, from the miners' wires, the disk, the database and the chain. */
export type Books = {
  nowMs: number;
  acknowledged: Acknowledged[];
  /** Hashes acknowledged in the running incarnation. */
  acknowledgedTwice: string[];
  stored: Map<string, StoredShare>;
  /** Inserts that the database's unique key turned away, and ones it let through twice (it must not). */
  storedTwice: string[];
  wins: Map<string, Win>;
  receivedByNode: (hashDisplay: string) => number | null;
  blockFaults: readonly string[];
  /** Since when the pool and at least one willing node have both been there, or null. */
  deliverableSinceMs: number | null;
  /** Extranonce1 of live connections, by connection. */
  liveExtranonces: Map<number, string>;
  /** Findings made at the moment they happened, by promise. */
  findings: { promise: string; text: string }[];
  /** Told difficulties: connection → job id → difficulties told with it. */
  rejectedHonest: { submission: Submission; code: number; text: string }[];
  atRest: boolean;
  /** Work that the database has counted for each worker (`account.worker`), in units of 2^-48 of difficulty 1. */
  workSums: () => Map<string, bigint>;
};

/** A block must be at a node this long after pool and node are both there (F-S7: within 1 s of the start; Q3: 500 ms of return). */
export const BLOCK_DEADLINE_MS = 500;

/** P06 excepts a disk that fails while the process dies: this long after the disk works again a block must be on it. */
export const DISK_GRACE_MS = 5_000;

/** P01: an acknowledged share was durable when it was acknowledged, and stands in the database once, in the end. */
export function p01AcknowledgedSharesStay(books: Books): string | null {
  for (const entry of books.acknowledged) {
    if (!entry.durable) {
      return `acknowledged before it was on the disk: ${entry.submission.hashDisplay}`;
    }
  }
  if (books.atRest) {
    for (const entry of books.acknowledged) {
      if (!books.stored.has(entry.submission.hashHex)) {
        return `acknowledged and lost: ${entry.submission.hashDisplay} of ${entry.submission.worker}`;
      }
    }
  }
  return null;
}

/** P02: an acknowledged share meets the target of its job, by the oracle's arithmetic. */
export function p02AcknowledgedSharesMeetTheirTarget(books: Books): string | null {
  for (const { submission } of books.acknowledged) {
    if (!submission.meetsTarget) {
      return `acknowledged below its target: ${submission.hashDisplay} at ${submission.difficulty}`;
    }
  }
  return null;
}

/** P03, with P04 and P06: whatever met the network target reaches a node in time, whatever policy, database, bus or crash says. */
export function p03WinsReachANode(books: Books): string | null {
  for (const [hashDisplay, win] of books.wins) {
    if (!win.rebuildable) continue;
    if (books.receivedByNode(hashDisplay) !== null) continue;
    // Killed before anything could be kept and nothing promised: the miner's own repetition brings it back.
    if (win.diedBefore && (!win.acknowledged || win.diedOnFailingDisk)) continue;
    if (books.deliverableSinceMs === null) continue;
    const sinceMs = Math.max(books.deliverableSinceMs, win.deliveredAtMs);
    if (books.nowMs - sinceMs > BLOCK_DEADLINE_MS) {
      return (
        `block ${hashDisplay} found at ${win.deliveredAtMs} is at no node after ${books.nowMs - sinceMs} ms ` +
        `(acknowledged ${win.acknowledged}, on disk ${win.onDiskAtMs}, died before ${win.diedBefore})`
      );
    }
  }
  return null;
}

/** P05 (part): no block was built that a node calls invalid. Size: `npm run bench -- block` and the end-to-end tests. */
export function p05BlocksAreBuiltRight(books: Books): string | null {
  return books.blockFaults.length === 0
    ? null
    : `a node refused our block: ${books.blockFaults[0]}`;
}

/** P07: the same work is credited once and acknowledged once, in whatever spelling and from whichever connection. */
export function p07WorkIsCreditedOnce(books: Books): string | null {
  if (books.storedTwice.length > 0) return `credited twice: ${books.storedTwice[0]}`;
  if (books.acknowledgedTwice.length > 0) {
    return `acknowledged twice by one process: ${books.acknowledgedTwice[0]}`;
  }
  if (!books.atRest) return null;
  const sums = new Map<string, bigint>();
  for (const row of books.stored.values()) {
    const key = `${row.account}.${row.worker}`;
    sums.set(key, (sums.get(key) ?? 0n) + BigInt(Math.floor(row.difficulty * 2 ** 48)));
  }
  for (const [worker, work] of books.workSums()) {
    if (work !== (sums.get(worker) ?? 0n))
      return `${worker} has ${work} of work, its shares ${sums.get(worker)}`;
  }
  return null;
}

/** P08: no two live connections hold the same extranonce1, and none comes back after a crash except by resume. */
export function p08ExtranoncesAreUnique(books: Books): string | null {
  const holders = new Map<string, number>();
  for (const [connection, extranonce1] of books.liveExtranonces) {
    const other = holders.get(extranonce1);
    if (other !== undefined)
      return `extranonce1 ${extranonce1} on connections ${other} and ${connection}`;
    holders.set(extranonce1, connection);
  }
  return finding(books, 'P08');
}

/** P09: credit is the difficulty told with that job on that session. */
export function p09CreditIsTheDifficultyTold(books: Books): string | null {
  for (const { submission } of books.acknowledged) {
    const row = books.stored.get(submission.hashHex);
    if (row !== undefined && row.difficulty !== submission.difficulty) {
      return `${submission.hashDisplay} credited at ${row.difficulty}, told ${submission.difficulty}`;
    }
  }
  return null;
}

/** P10: an honest share is never called too easy. */
export function p10HonestSharesAreNotTooEasy(books: Books): string | null {
  const entry = books.rejectedHonest.find((rejected) => rejected.code === 23);
  if (entry === undefined) return null;
  return `honest share refused: ${entry.text}, told ${entry.submission.difficulty}, job ${entry.submission.jobId}`;
}

/** P12: credit goes to the account whose connection did the work; nothing overheard is worth anything. */
export function p12CreditGoesToTheWorker(books: Books): string | null {
  for (const { submission } of books.acknowledged) {
    const row = books.stored.get(submission.hashHex);
    if (
      row !== undefined &&
      (row.account !== submission.account || row.worker !== submission.worker)
    ) {
      return `${submission.hashDisplay} of ${submission.worker} credited to ${row.account}.${row.worker}`;
    }
  }
  return null;
}

/** P13: the difficulty stands before the first job, and the first job comes with the answer to subscribe. */
export function p13DifficultyThenJob(books: Books): string | null {
  return finding(books, 'P13');
}

/** P15: no job is told on a template older than 600 s. */
export function p15NoWorkOnDeadTemplates(books: Books): string | null {
  return finding(books, 'P15');
}

/** What firmware may rely on between the promises: whole lines, JSON, one answer to each request. */
export function wireIsClean(books: Books): string | null {
  return finding(books, 'wire');
}

/** No rejection is left to itself: it would end the process, and a fault of a disk or a peer must not. */
export function nothingGoesUncaught(books: Books): string | null {
  return finding(books, 'crash');
}

/** Nothing spins: a loop that finds nothing to do waits for something. */
export function nothingSpins(books: Books): string | null {
  return finding(books, 'spin');
}

function finding(books: Books, promise: string): string | null {
  const found = books.findings.find((entry) => entry.promise === promise);
  return found === undefined ? null : found.text;
}

export const PROMISES: readonly { id: string; check(books: Books): string | null }[] = [
  { id: 'P01', check: p01AcknowledgedSharesStay },
  { id: 'P02', check: p02AcknowledgedSharesMeetTheirTarget },
  { id: 'P03', check: p03WinsReachANode },
  { id: 'P05', check: p05BlocksAreBuiltRight },
  { id: 'P07', check: p07WorkIsCreditedOnce },
  { id: 'P08', check: p08ExtranoncesAreUnique },
  { id: 'P09', check: p09CreditIsTheDifficultyTold },
  { id: 'P10', check: p10HonestSharesAreNotTooEasy },
  { id: 'P12', check: p12CreditGoesToTheWorker },
  { id: 'P13', check: p13DifficultyThenJob },
  { id: 'P15', check: p15NoWorkOnDeadTemplates },
  { id: 'wire', check: wireIsClean },
  { id: 'spin', check: nothingSpins },
  { id: 'crash', check: nothingGoesUncaught },
];

/** The promises that a world without sockets, clocks and foreign nodes cannot break, and the tests that hold them. */
export const CHECKED_ELSEWHERE: readonly { id: string; why: string; tests: readonly string[] }[] = [
  {
    id: 'P04',
    why: 'held inside P03 here: bus and database are away in many runs while blocks are found',
    tests: ['test/sim/sim.test.ts'],
  },
  {
    id: 'P06',
    why: 'held inside P03 here: nodes are away, the pool is killed meanwhile, the block arrives when a node is back',
    tests: ['test/sim/sim.test.ts'],
  },
  {
    id: 'P11',
    why: 'a hash that equals its target cannot be found by search; vectors show it',
    tests: ['test/core/work/slow-share-oracle.test.ts'],
  },
  {
    id: 'P14',
    why: 'the job manager is not in this world: its templates come from the simulation',
    tests: ['test/services/jobmanager'],
  },
  {
    id: 'P16',
    why: 'proposals are made by the job manager',
    tests: ['test/services/jobmanager'],
  },
];
