/**
 * The share hash on OpenSSL's SHA-256, which every Node binary carries and exports (`SHA256_Transform`), reached through
 * koffi: no compiler, no library of the system, and the CPU's own SHA instructions where it has them.
 *
 * An accelerator, never a requirement: when koffi does not load, the symbol is missing, or one result out of many random
 * ones differs from the TypeScript fold, `loadAccelerator` answers null and the pool hashes in TypeScript. A call costs 58 ns
 * with its block of work (addresses handed over as BigInt; 75 ns with typed arrays), 45 of them make a share in 3 µs.
 */

import { randomBytes, randomInt } from 'node:crypto';
import { createRequire } from 'node:module';
import { foldInTypescript } from '../../core/work/fold.ts';
import { compileWork, fillWork, type HashWork, type Work } from '../../core/work/share.ts';

export type Accelerator = { hash: HashWork; name: string };

/** Mixes the 64 bytes at the second address into the eight host-order words at the first. */
type Transform = (state: bigint, block: bigint) => void;

// Layout of the arena, in bytes. OpenSSL's SHA256_CTX begins with the eight words of state; Transform touches nothing else.
const STATE = 0;
const BLOCK = 128;
const MERKLE_PADDING = BLOCK + 64;
const AGAIN = MERKLE_PADDING + 64;
const ARENA_BYTES = AGAIN + 64;

/** Works of this many random shapes must come out alike before the accelerator is used. */
const SELF_TEST_ROUNDS = 100;

/**
 * The accelerated `HashWork`, tested against `foldInTypescript`, or null where it cannot be had. Never throws. Each call
 * makes its own scratch memory, so every thread that hashes loads its own.
 */
export function loadAccelerator(): Accelerator | null {
  try {
    // BoringSSL builds of Node (Electron) export the same name with another meaning of the arguments' layout.
    const version = process.versions.openssl;
    if (version === undefined || !/^[13]\./.test(version)) return null;
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
    const transform: Transform = koffi
      .load(null)
      .func('SHA256_Transform', 'void', ['void *', 'void *']);
    const hash = createHash(transform, (memory) => BigInt(koffi.address(memory)));
    return passesSelfTest(hash) ? { hash, name: `OpenSSL ${version} through koffi` } : null;
  } catch {
    return null;
  }
}

/** Builds the fold over a transform. The arena is off the JavaScript heap and lives as long as the closure: it never moves. */
function createHash(transform: Transform, addressOf: (memory: Uint8Array) => bigint): HashWork {
  const arena = new ArrayBuffer(ARENA_BYTES);
  const bytes = new Uint8Array(arena);
  const state = new Uint32Array(arena, STATE, 8);
  const view = new DataView(arena);
  const start = addressOf(bytes);
  const stateAt = start + BigInt(STATE);
  const blockAt = start + BigInt(BLOCK);
  const merklePaddingAt = start + BigInt(MERKLE_PADDING);
  const againAt = start + BigInt(AGAIN);
  bytes[MERKLE_PADDING] = 0x80;
  view.setUint32(MERKLE_PADDING + 60, 512);
  bytes[AGAIN + 32] = 0x80;
  view.setUint32(AGAIN + 60, 256);

  function reset(): void {
    state[0] = 0x6a09e667;
    state[1] = 0xbb67ae85;
    state[2] = 0x3c6ef372;
    state[3] = 0xa54ff53a;
    state[4] = 0x510e527f;
    state[5] = 0x9b05688c;
    state[6] = 0x1f83d9ab;
    state[7] = 0x5be0cd19;
  }

  /** The state in wire order, at `offset` of `target`. */
  function store(target: DataView, offset: number): void {
    for (let i = 0; i < 8; i++) target.setUint32(offset + 4 * i, state[i]!);
  }

  function hashAgain(): void {
    store(view, AGAIN);
    reset();
    transform(stateAt, againAt);
  }

  function absorb(source: DataView, from: number, to: number): void {
    for (let offset = from; offset < to; offset += 64) {
      for (let i = 0; i < 64; i += 4) view.setUint32(BLOCK + i, source.getUint32(offset + i));
      transform(stateAt, blockAt);
    }
  }

  return (work: Work): void => {
    const { midstate, headerOffset, branchOffset } = work;
    for (let i = 0; i < 8; i++) state[i] = midstate[i]!;
    absorb(work.view, work.midstateOffset, headerOffset);
    hashAgain();
    const branchEnd = branchOffset + 32 * work.branchLength;
    for (let offset = branchOffset; offset < branchEnd; offset += 32) {
      store(view, BLOCK);
      for (let i = 0; i < 32; i += 4) {
        view.setUint32(BLOCK + 32 + i, work.view.getUint32(offset + i));
      }
      reset();
      transform(stateAt, blockAt);
      transform(stateAt, merklePaddingAt);
      hashAgain();
    }
    store(work.view, headerOffset + 36);
    reset();
    absorb(work.view, headerOffset, branchOffset);
    hashAgain();
    store(work.view, branchEnd);
  };
}

/** Random works of every shape a job can have, hashed both ways: whole buffers must be equal, merkle root included. */
function passesSelfTest(hash: HashWork): boolean {
  for (let round = 0; round < SELF_TEST_ROUNDS; round++) {
    const branchLength = round % 16;
    const work = compileWork(
      {
        previousHash: randomBytes(32),
        bits: randomInt(2 ** 32),
        branch: Array.from({ length: branchLength }, () => randomBytes(32)),
      },
      { prefix: randomBytes(randomInt(43, 143)), suffix: randomBytes(randomInt(17, 600)) },
    );
    fillWork(work, {
      extranonce1: randomInt(2 ** 32),
      extranonce2High: randomInt(2 ** 32),
      extranonce2Low: randomInt(2 ** 32),
      ntime: randomInt(2 ** 32),
      nonce: randomInt(2 ** 32),
      version: randomInt(2 ** 32),
    });
    hash(work);
    const accelerated = Buffer.from(work.bytes);
    work.hash.fill(0);
    foldInTypescript(work);
    if (!accelerated.equals(work.bytes)) return false;
  }
  return true;
}
