/**
 * The storing half alone, in a process of its own.
 *
 * Verbs: journal({ records, bytes }) → records/s through group commit to a real disk; database({ shares, batch }) → shares/s through
 * `recordShares` into a private PostgreSQL.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/adapters/db/embedded.ts';
import { readMigrations } from '../../src/adapters/db/migrations.ts';
import { connectPostgres } from '../../src/adapters/db/postgres.ts';
import { createDisk } from '../../src/adapters/disk.ts';
import { openJournal } from '../../src/adapters/journal.ts';
import { encodeShare } from '../../src/messages/codec.ts';
import type { ShareRecord } from '../../src/messages/share.ts';
import type { Log } from '../../src/ports.ts';
import { migrate } from '../../src/store/migrate.ts';
import { makeSharePartitions, recordShares } from '../../src/store/shares.ts';
import { serveParent } from './child.ts';
import { removeData } from './program.ts';
import { PAYOUT_ADDRESS } from './sample.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };
const directory = mkdtempSync(join(tmpdir(), 'headframe-store-'));

function makeShare(index: number): ShareRecord {
  return {
    headerHash: randomBytes(32),
    jobId: '00c0ffee',
    extranonce1: new Uint8Array(4),
    extranonce2: randomBytes(8),
    ntime: 1_700_000_000,
    nonce: index >>> 0,
    version: 0x20000000,
    difficulty: 8192,
    shareDifficulty: 10_000 + index,
    account: PAYOUT_ADDRESS,
    worker: `rig${index % 500}`,
    sessionId: '0011223344556677',
    gateway: 'bench',
    height: 870_000,
    acceptedAtMs: Date.now(),
    isBlock: false,
    pool: 'main',
    networkBits: 0x170331db,
    jobValueSats: 312_500_000n,
    planId: '',
    coinbaseBytes: 0,
  };
}

async function journal(args: { records: number }): Promise<{
  recordsPerSecond: number;
  commits: number;
  microsecondsPerRecord: number;
}> {
  const opened = await openJournal({
    disk: createDisk(),
    directory: join(directory, 'journal'),
    log: quiet,
    clock: { nowMs: () => Date.now() },
    unshippedBytesMax: 4 * 2 ** 30,
  });
  const record = encodeShare(makeShare(1));
  let done: () => void = () => {};
  const all = new Promise<void>((resolve) => {
    done = resolve;
  });
  opened.onCommitted = (ticket) => {
    if (ticket >= args.records) done();
  };
  const startedMs = performance.now();
  const before = process.cpuUsage();
  let appended = 0;
  const feed = (): void => {
    for (let i = 0; i < 500 && appended < args.records; i++) {
      if (opened.append(record) < 0) break;
      appended += 1;
    }
    if (appended < args.records) setImmediate(feed);
  };
  feed();
  await all;
  const tookMs = performance.now() - startedMs;
  const used = process.cpuUsage(before);
  const { commits } = opened.figures();
  await opened.stop();
  rmSync(join(directory, 'journal'), { recursive: true, force: true });
  return {
    recordsPerSecond: (args.records * 1000) / tookMs,
    commits,
    microsecondsPerRecord: (used.user + used.system) / args.records,
  };
}

async function database(args: { shares: number; batch: number }): Promise<{
  sharesPerSecond: number;
  microsecondsPerShare: number;
}> {
  const server = await startEmbeddedPostgres({ dataDir: join(directory, 'postgres'), log: quiet });
  try {
    const db = await connectPostgres({ ...server.connection, log: quiet });
    await migrate({ db, log: quiet }, readMigrations());
    await makeSharePartitions(db, { nowMs: Date.now(), aheadDays: 2 });
    const batches: ShareRecord[][] = [];
    for (let index = 0; index < args.shares; index += args.batch) {
      batches.push(Array.from({ length: args.batch }, (_, i) => makeShare(index + i)));
    }
    await recordShares(
      db,
      Array.from({ length: 500 }, (_, i) => ({ share: makeShare(i), audited: true })),
    );
    const startedMs = performance.now();
    const before = process.cpuUsage();
    for (const batch of batches) {
      await recordShares(
        db,
        batch.map((share) => ({ share, audited: true })),
      );
    }
    const tookMs = performance.now() - startedMs;
    const used = process.cpuUsage(before);
    await db.stop();
    return {
      sharesPerSecond: (args.shares * 1000) / tookMs,
      microsecondsPerShare: (used.user + used.system) / args.shares,
    };
  } finally {
    await server.stop();
  }
}

serveParent({ journal, database }, () => removeData(directory));
