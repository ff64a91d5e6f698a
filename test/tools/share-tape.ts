/**
 * Shares for tests of windows and rounds: a tape of them in memory, recorded in the database in the same order, so that what the
 * database says can be recomputed from all shares one by one.
 */
import { workOfDifficulty } from '../../src/core/bitcoin/target.ts';
import type { ShareWindow, WindowSpan } from '../../src/core/ledger/rules.ts';
import type { ShareRecord } from '../../src/messages/share.ts';
import type { Db } from '../../src/ports.ts';
import { recordShares } from '../../src/store/shares.ts';

/** What a test says of a share; the rest is filled in. */
export type TapeShare = {
  pool: string;
  address: string;
  difficulty: number;
  acceptedAtMs: number;
  networkBits?: number;
  jobValueSats?: bigint;
  height?: number;
  isBlock?: boolean;
};

export type Tape = {
  /** Share number i has sequence number i + 1. */
  shares: TapeShare[];
  record(db: Db, shares: readonly TapeShare[]): Promise<void>;
};

export function createTape(): Tape {
  const shares: TapeShare[] = [];
  return {
    shares,
    async record(db, more) {
      const batch = more.map((share, i) => ({
        share: recordOf(share, shares.length + i + 1),
        audited: true,
      }));
      const { stored } = await recordShares(db, batch);
      if (stored !== more.length) throw new Error('the tape has a share that was not stored');
      shares.push(...more);
    },
  };
}

/** The header hash of the share with this sequence number. */
export function tapeHash(seq: number): Uint8Array {
  const hash = new Uint8Array(32).fill(0x5a);
  new DataView(hash.buffer).setUint32(0, seq);
  return hash;
}

function recordOf(share: TapeShare, seq: number): ShareRecord {
  return {
    headerHash: tapeHash(seq),
    jobId: '1a',
    extranonce1: new Uint8Array(4),
    extranonce2: new Uint8Array(8),
    ntime: 1,
    nonce: seq >>> 0,
    version: 0x20000000,
    difficulty: share.difficulty,
    shareDifficulty: share.difficulty,
    account: share.address,
    worker: 'rig',
    sessionId: 's',
    gateway: 'g',
    height: share.height ?? 100,
    acceptedAtMs: share.acceptedAtMs,
    isBlock: share.isBlock ?? false,
    pool: share.pool,
    networkBits: share.networkBits ?? 0x1d00ffff,
    jobValueSats: share.jobValueSats ?? 312_500_000n,
    planId: '',
    coinbaseBytes: 0,
  };
}

/**
 * Spans of these sizes instead of thousands, in a database that has no share yet. Each size is a multiple of the one before.
 */
export async function setSpanSizes(db: Db, sizes: readonly bigint[]): Promise<void> {
  for (const [level, size] of sizes.entries()) {
    await db.query('UPDATE share_span_heads SET size = $2 WHERE level = $1', [level, size]);
  }
  await db.query('DELETE FROM share_span_heads WHERE level >= $1', [sizes.length]);
}

/** A window by the book: every share of the tape is looked at, from the newest to the oldest. Accounts are known by address. */
export function countWindow(
  tape: readonly TapeShare[],
  request: { pool: string; lastSeq: bigint; span: WindowSpan; afterSeq: bigint },
): Omit<ShareWindow, 'accounts'> & { workOf: Map<string, bigint> } {
  const { pool, lastSeq, span } = request;
  const workOf = new Map<string, bigint>();
  let left = span.kind === 'work' ? span.work : null;
  let firstSeq = lastSeq + 1n;
  let boundary: ShareWindow['boundary'] = null;
  let shares = 0n;
  for (let seq = lastSeq; seq > request.afterSeq && (left === null || left > 0n); seq--) {
    const share = tape[Number(seq) - 1]!;
    if ((share.pool || 'main') !== pool) continue;
    if (span.kind === 'time' && share.acceptedAtMs <= span.afterMs) continue;
    if (span.kind === 'since' && seq <= span.afterSeq) continue;
    const work = workOfDifficulty(share.difficulty);
    const countedWork = left !== null && left < work ? left : work;
    if (countedWork < work) boundary = { seq, work, countedWork };
    if (left !== null) left -= countedWork;
    if (countedWork > 0n) {
      workOf.set(share.address, (workOf.get(share.address) ?? 0n) + countedWork);
    }
    firstSeq = seq;
    shares++;
  }
  return {
    firstSeq,
    lastSeq,
    boundary,
    wantedWork: span.kind === 'work' ? span.work : null,
    afterMs: span.kind === 'time' ? span.afterMs : null,
    totalWork: [...workOf.values()].reduce((sum, work) => sum + work, 0n),
    shares,
    workOf,
  };
}
