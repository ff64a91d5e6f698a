/**
 * The pool's own server path without a database: door, gateway and journal on a real disk, in a process of its own. Records that
 * would be shipped to the database are only marked as shipped, so that the journal does not fill up.
 *
 * Verbs: listen, broadcast, usage, memory, counters.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDisk } from '../../src/adapters/disk.ts';
import { type Journal, openJournal, openJournalReader } from '../../src/adapters/journal.ts';
import { loadAccelerator } from '../../src/adapters/pow/sha256d.ts';
import { SESSION_LIMITS } from '../../src/core/stratum/limits.ts';
import { foldInTypescript } from '../../src/core/work/fold.ts';
import {
  buildJobCoinbase,
  EXTRANONCE_BYTES,
  encodeNotify,
  type Job,
} from '../../src/core/work/job.ts';
import { VARDIFF_POLICY } from '../../src/core/work/vardiff.ts';
import type { Log } from '../../src/ports.ts';
import { ADMISSION_OPTIONS } from '../../src/services/stratumd/admission.ts';
import { DOOR_LIMITS, type Door, startDoor } from '../../src/services/stratumd/door.ts';
import { Gateway } from '../../src/services/stratumd/gateway.ts';
import { createGatewayMetrics } from '../../src/services/stratumd/options.ts';
import { serveParent } from './child.ts';
import { monotonicMs } from './fleet.ts';
import { readMemory, type ServerMemory } from './memory.ts';
import { DIFFICULTY_OF_ANYTHING, makeSampleJob, PAYOUT_ADDRESS, PAYOUT_SCRIPT } from './sample.ts';

export type ServerOptions = {
  /** False: the fold in TypeScript. Default true. */
  accelerator?: boolean;
};
/** Monotonic milliseconds. `longestTurnMs`: longest time the event loop was blocked during the broadcast. */
export type BroadcastAnswer = {
  startedMs: number;
  endedMs: number;
  longestTurnMs: number;
  bytes: number;
};

const quiet: Log = {
  debug() {},
  info() {},
  warn(message, fields) {
    console.error('server:', message, fields ?? '');
  },
  error(message, fields) {
    console.error('server:', message, fields ?? '');
  },
  child: () => quiet,
};
const COINBASE_TAG = '/headframe/';
const clock = { nowMs: () => Date.now() };
const directory = mkdtempSync(join(process.env.BENCH_DIR ?? tmpdir(), 'headframe-bench-'));
const metrics = createGatewayMetrics();
let gateway: Gateway | null = null;
let door: Door | null = null;
let journal: Journal | null = null;
const ticking: NodeJS.Timeout | null = null;
let shipping = true;
let jobs = 0;
let leases = 0;

function nextJob() {
  jobs += 1;
  return makeSampleJob({
    jobId: (0x1000 + jobs).toString(16).padStart(8, '0'),
    time: Math.floor(Date.now() / 1000),
  });
}

async function listen(options: ServerOptions): Promise<number> {
  const accelerator = options.accelerator === false ? null : loadAccelerator();
  const disk = createDisk();
  const opened = await openJournal({ disk, directory, log: quiet, clock });
  journal = opened;
  void discard(opened);
  const made = new Gateway(
    {
      log: quiet,
      metrics,
      hash: accelerator?.hash ?? foldInTypescript,
      journal: opened,
      lane: { submit: (_candidate, onKept) => onKept() },
      defer: (work) => void setImmediate(work),
      persistLease: (highWater) => {
        leases = highWater;
      },
      randomBytes: (count) => randomBytes(count),
      blame: (address, points) => door?.blame(address, points),
    },
    {
      network: 'regtest',
      pools: [
        {
          id: 'main',
          coinbase: { mode: 'pool', script: PAYOUT_SCRIPT, address: PAYOUT_ADDRESS },
        },
      ],
      coinbaseTag: COINBASE_TAG,
      gateway: 'bench',
      versionMask: 0x1fffe000,
      instancePrefix: 0,
      instancePrefixBits: 0,
      extranonceHighWater: leases,
      ack: 'disk',
      vardiff: VARDIFF_POLICY,
      // The client stands for far more miners than it has connections.
      limits: { ...SESSION_LIMITS, submitsPerSecond: 1e9, submitBurst: 1e9 },
    },
  );
  gateway = made;
  opened.onCommitted = (ticket) => made.committed(ticket);
  made.setJob(nextJob(), clock.nowMs());
  door = await startDoor(
    { clock, log: quiet, gateway: made },
    {
      ports: [
        {
          port: 0,
          host: '127.0.0.1',
          startDifficulty: DIFFICULTY_OF_ANYTHING,
          minDifficulty: DIFFICULTY_OF_ANYTHING,
          maxDifficulty: 1e12,
          tls: 'off',
          vardiff: false,
        },
      ],
      trustedProxies: [],
      admission: { ...ADMISSION_OPTIONS, connectionsMax: 15_000 },
      tls: null,
      limits: { ...DOOR_LIMITS, linesPerSecond: 1e9, lineBurst: 1e9 },
    },
  );
  return door.ports[0]!;
}

/** Stands for the shipper: frees the journal's segments without looking at the records. */
async function discard(opened: Journal): Promise<void> {
  const reader = await openJournalReader({
    disk: createDisk(),
    directory,
    log: quiet,
    committed: opened.committedPosition,
  });
  const positions = new BigInt64Array(opened.committedPosition);
  while (shipping) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    await reader.markShipped(Number(Atomics.load(positions, 0)));
  }
}

async function broadcast(): Promise<BroadcastAnswer> {
  const wanted = metrics.notifies + metrics.authorizedSessions;
  const job = nextJob();
  const startedMs = monotonicMs();
  gateway!.setJob(job, clock.nowMs());
  let last = monotonicMs();
  let longestTurnMs = last - startedMs;
  const untilMs = startedMs + 3000;
  while (metrics.notifies < wanted && monotonicMs() < untilMs) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    const now = monotonicMs();
    longestTurnMs = Math.max(longestTurnMs, now - last);
    last = now;
  }
  return { startedMs, endedMs: monotonicMs(), longestTurnMs, bytes: notifyBytesOf(job) };
}

function notifyBytesOf(job: Job): number {
  const built = buildJobCoinbase(job, {
    tag: COINBASE_TAG,
    extranonceBytes: EXTRANONCE_BYTES,
    outputs: [{ script: PAYOUT_SCRIPT, valueSats: job.coinbaseValueSats }],
  });
  return built.ok ? encodeNotify(job, built.parts, true).length : 0;
}

serveParent(
  {
    listen,
    broadcast,
    usage: () => process.cpuUsage(),
    memory: (): ServerMemory => readMemory(),
    counters: () => ({ ...metrics, closedByGateway: [...metrics.closedByGateway] }),
  },
  async () => {
    if (ticking !== null) clearInterval(ticking);
    shipping = false;
    await door?.stop({ flushMs: 200 });
    await journal?.stop();
    rmSync(directory, { recursive: true, force: true });
  },
);
