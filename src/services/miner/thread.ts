/**
 * One mining thread. Takes a job, searches nonces and extranonce2 values that no other thread searches, and posts what
 * it finds. Looks at its messages between slices of about 10 ms, and rests as the limits ask.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { targetOfDifficulty } from '../../core/bitcoin/target.ts';
import { assembleMinerHeader, type MinerJob } from '../../core/stratum/client.ts';
import { Grinder } from '../../core/work/grind.ts';
import { type PreparedTarget, prepareTarget, rollVersion } from '../../core/work/share.ts';
import type { FromThread, ThreadOptions, ToThread } from './messages.ts';

const SLICE_MS = 10;
const NONCES = 0x1_0000_0000;
/** Solutions in hand that may be sent at once after a pause. */
const SHARE_BURST = 40;

function run(options: ThreadOptions): void {
  const port = parentPort!;
  const grinder = new Grinder();
  let job: MinerJob | null = null;
  let target: PreparedTarget = prepareTarget(1n);
  let extranonce2 = new Uint8Array(0);
  let rolls = 0;
  let nonce = NONCES;
  let version = 0;
  let slice = 2_000;
  let hashes = 0;
  let tokens = SHARE_BURST;
  let tokensAtMs = performance.now();
  let isTurning = false;

  port.on('message', (message: ToThread) => {
    if (message.kind === 'stop') {
      port.close();
      job = null;
      return;
    }
    job = message.job;
    if (job === null) return;
    target = prepareTarget(targetOfDifficulty(job.difficulty));
    // Never begun again: a job may come twice, and a resumed session has the extranonce1 it had before.
    if (extranonce2.length !== job.extranonce2Bytes) {
      extranonce2 = new Uint8Array(job.extranonce2Bytes);
      extranonce2[0] = options.index;
    } else {
      step(extranonce2);
    }
    rolls = 0;
    nonce = NONCES;
    if (!isTurning) {
      isTurning = true;
      turn();
    }
  });

  function turn(): void {
    if (job === null) {
      isTurning = false;
      return;
    }
    const startMs = performance.now();
    if (nonce >= NONCES) nextHeader(job);
    const to = Math.min(nonce + slice, NONCES);
    const before = nonce;
    while (nonce < to) {
      const found = grinder.find(nonce, to, target);
      nonce = found < 0 ? to : found + 1;
      if (found >= 0) {
        tokens--;
        post({
          kind: 'found',
          solution: {
            jobId: job.jobId,
            extranonce2: extranonce2.slice(),
            ntime: job.ntime,
            nonce: found,
            versionBits: job.versionMask === 0 ? null : (version & job.versionMask) >>> 0,
          },
          difficulty: job.difficulty,
        });
        if (tokens < 1) break;
      }
    }
    const done = nonce - before;
    hashes += done;
    const endMs = performance.now();
    const tookMs = Math.max(0.01, endMs - startMs);
    if (done === slice) {
      slice = Math.max(100, Math.min(1_000_000, Math.round((slice * SLICE_MS) / tookMs)));
    }
    tokens = Math.min(
      SHARE_BURST,
      tokens + ((endMs - tokensAtMs) * options.sharesPerSecondMax) / 1_000,
    );
    tokensAtMs = endMs;
    if (hashes > 0) post({ kind: 'hashed', hashes });
    hashes = 0;
    const dueMs = Number.isFinite(options.hashesPerSecondMax)
      ? (done * 1_000) / options.hashesPerSecondMax - tookMs
      : 0;
    const shareMs = tokens < 1 ? ((1 - tokens) * 1_000) / options.sharesPerSecondMax : 0;
    const restMs = Math.max(dueMs, shareMs);
    if (restMs >= 1) setTimeout(turn, restMs);
    else setImmediate(turn);
  }

  /** The next header nobody has searched: other version bits first (cheap), then the next extranonce2. */
  function nextHeader(current: MinerJob): void {
    const versions = current.versionMask === 0 ? 1 : 4;
    if (rolls > 0 && rolls % versions === 0) step(extranonce2);
    const bits = spread(rolls % versions, current.versionMask);
    version = rollVersion(current.version, current.versionMask, bits);
    if (current.versionMask === 0) version = current.version;
    grinder.setHeader(assembleMinerHeader(current, extranonce2, version));
    rolls++;
    nonce = 0;
  }

  function post(message: FromThread): void {
    port.postMessage(message);
  }
}

/** Counts up in the bytes behind the first, which is the thread's own number. */
function step(extranonce2: Uint8Array): void {
  for (let at = extranonce2.length - 1; at >= 1; at--) {
    extranonce2[at] = (extranonce2[at]! + 1) & 0xff;
    if (extranonce2[at] !== 0) return;
  }
}

/** Puts the low bits of a small number into the lowest bits of a mask. */
function spread(value: number, mask: number): number {
  let bits = 0;
  for (let at = 0; at < 32 && value !== 0; at++) {
    const bit = 1 << at;
    if ((mask & bit) === 0) continue;
    if ((value & 1) !== 0) bits |= bit;
    value >>>= 1;
  }
  return bits >>> 0;
}

run(workerData as ThreadOptions);
