/**
 * The job that all benchmarks of the share path use: a coinbase of about 250 bytes and 12 merkle steps, as on mainnet with
 * 3,000 transactions; 45 SHA-256 compressions for one share.
 */
import { decodeHex } from '../../src/core/bitcoin/bytes.ts';
import { decodeBits } from '../../src/core/bitcoin/target.ts';
import type { Job } from '../../src/core/work/job.ts';

/** Pays `OP_0 <20 bytes>`; the address belongs to nobody. */
export const PAYOUT_SCRIPT = decodeHex('0014751e76e8199196d454941c45d1b3a323f1433bd6')!;
export const PAYOUT_ADDRESS = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
/** Every hash meets this difficulty: its target is 2^256 − 1. */
export const DIFFICULTY_OF_ANYTHING = 2 ** -33;
/** Network difficulty 2^44 or so: no benchmark finds a block by chance. */
export const HARD_BITS = 0x170331db;

/** A mainnet-like job. `time` in seconds since 1970. */
export function makeSampleJob(options: {
  jobId: string;
  time: number;
  bits?: number;
  clean?: boolean;
  branchLength?: number;
}): Job {
  const bits = options.bits ?? HARD_BITS;
  return {
    jobId: options.jobId,
    height: 870_000,
    version: 0x20000000,
    previousHash: Uint8Array.from({ length: 32 }, (_, i) => (i < 20 ? (i * 7 + 13) & 255 : 0)),
    bits,
    networkTarget: decodeBits(bits)!,
    curtime: options.time,
    mintime: options.time - 3600,
    branch: Array.from({ length: options.branchLength ?? 12 }, (_, step) =>
      Uint8Array.from({ length: 32 }, (_, i) => (step * 31 + i * 17 + 5) & 255),
    ),
    coinbaseValueSats: 321_234_567n,
    coinbaseAux: new Uint8Array(0),
    witnessCommitment: decodeHex(`6a24aa21a9ed${'5a'.repeat(32)}`),
    coinbaseWeightMax: 4000,
    feesSats: 8_734_567n,
    transactionCount: 3000,
    clean: options.clean ?? true,
    createdAtMs: options.time * 1000,
  };
}
