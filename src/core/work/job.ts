/**
 * A job: everything of a template that miners need and judging needs, without the transactions themselves.
 *
 * Built once per template; the coinbase is built from it once per payout (`buildJobCoinbase`), the notify line once per
 * coinbase (`encodeNotify`). The job id is written into the coinbase, directly before the extranonce: two jobs can thus
 * never have a header in common, even when nothing but the id differs, so duplicate shares need only be looked for within
 * one job, and an extranonce used again after a restart still means new work.
 */

import { concatBytes, decodeHex, encodeHex, encodeHexU32 } from '../bitcoin/bytes.ts';
import {
  buildCoinbase,
  COINBASE_WITNESS_WEIGHT,
  type CoinbaseOutput,
} from '../bitcoin/coinbase.ts';
import { encodeHeader, HEADER_BYTES } from '../bitcoin/header.ts';
import { merkleBranch } from '../bitcoin/merkle.ts';
import type { Template } from './template.ts';

export type Job = {
  /** Lower-case hex, 2 to 16 digits, never used twice, also not across restarts. */
  jobId: string;
  height: number;
  /** Unsigned 32-bit. */
  version: number;
  /** Wire order. */
  previousHash: Uint8Array;
  /** Compact bits, unsigned 32-bit. */
  bits: number;
  /** `bits` as an integer: a header whose hash is at most this is a block. */
  networkTarget: bigint;
  /** Seconds since 1970: the node's time when it made the template. */
  curtime: number;
  /** Seconds since 1970: no valid block of this job is older. */
  mintime: number;
  /** Merkle siblings of the coinbase, bottom first, wire order, at most 15. */
  branch: Uint8Array[];
  /** Subsidy and fees: what the outputs must add up to. */
  coinbaseValueSats: bigint;
  /** Bytes the node wants in the coinbase script. */
  coinbaseAux: Uint8Array;
  /** Whole output script with the commitment (BIP141), or null before segwit. */
  witnessCommitment: Uint8Array | null;
  /** How heavy the coinbase may be before the block is over its limit. */
  coinbaseWeightMax: number;
  feesSats: bigint;
  /** Without the coinbase. */
  transactionCount: number;
  /** Miners must drop all older work: the tip has changed. */
  clean: boolean;
  createdAtMs: number;
};

/** The two halves of a coinbase without witness; extranonce1 and extranonce2 go between. */
export type CoinbaseParts = { prefix: Uint8Array; suffix: Uint8Array };

/** Longest job id, in hex digits: it takes half as many bytes of the 100 of the coinbase script. */
export const JOB_ID_DIGITS_MAX = 16;

/** Extranonce1 (4, per session) and extranonce2 (8, rolled by the miner). */
export const EXTRANONCE1_BYTES = 4;
export const EXTRANONCE2_BYTES = 8;
export const EXTRANONCE_BYTES = EXTRANONCE1_BYTES + EXTRANONCE2_BYTES;

/** Weight of a header, and of the transaction count at its longest for any block (3 bytes): 4 units per byte. */
const HEADER_WEIGHT = 4 * (HEADER_BYTES + 3);

const EMPTY_OUTPUT: CoinbaseOutput = { script: new Uint8Array(0), valueSats: 0n };
/** Value and the length of the script. */
const EMPTY_OUTPUT_BYTES = 9;
/** What a count of 253 outputs takes more than one of 252. */
const LONG_COUNT_BYTES = 2;

/** Template → job. The caller owns the rule that `jobId` is new. */
export function buildJob(
  template: Template,
  options: { jobId: string; clean: boolean; createdAtMs: number },
): Job {
  let feesSats = 0n;
  for (const transaction of template.transactions) feesSats += transaction.feeSats;
  return {
    jobId: options.jobId,
    height: template.height,
    version: template.version,
    previousHash: template.previousHash,
    bits: template.bits,
    networkTarget: template.networkTarget,
    curtime: template.curtime,
    mintime: template.mintime,
    branch: merkleBranch(template.transactions.map((transaction) => transaction.txid)),
    coinbaseValueSats: template.coinbaseValueSats,
    coinbaseAux: template.coinbaseAux,
    witnessCommitment: template.witnessCommitment,
    coinbaseWeightMax: template.weightLimit - template.transactionsWeight - HEADER_WEIGHT,
    feesSats,
    transactionCount: template.transactions.length,
    clean: options.clean,
    createdAtMs: options.createdAtMs,
  };
}

/**
 * The coinbase of a job for one set of outputs. Refused with a reason: outputs that do not add up to exactly
 * `coinbaseValueSats` (less burns coins, more is `bad-cb-amount`), a script over 100 bytes, more weight than the template
 * leaves, a job id that is not hex of at most 16 digits.
 */
export function buildJobCoinbase(
  job: Job,
  options: { tag: string; extranonceBytes: number; outputs: readonly CoinbaseOutput[] },
): { ok: true; parts: CoinbaseParts } | { ok: false; reason: string } {
  const salt = decodeJobId(job.jobId);
  if (salt === null) {
    return { ok: false, reason: `job id is not hex of 1 to ${JOB_ID_DIGITS_MAX} digits` };
  }
  let paidSats = 0n;
  for (const output of options.outputs) paidSats += output.valueSats;
  if (paidSats !== job.coinbaseValueSats) {
    return {
      ok: false,
      reason: `outputs pay ${paidSats} sats, the block is worth ${job.coinbaseValueSats}`,
    };
  }
  const built = buildCoinbase({
    height: job.height,
    tag: options.tag,
    aux: job.coinbaseAux,
    salt,
    extranonceBytes: options.extranonceBytes,
    outputs: options.outputs,
    witnessCommitment: job.witnessCommitment,
  });
  if (!built.ok) return built;
  const { prefix, suffix } = built;
  const weight =
    4 * (prefix.length + options.extranonceBytes + suffix.length) +
    (job.witnessCommitment === null ? 0 : COINBASE_WITNESS_WEIGHT);
  if (weight > job.coinbaseWeightMax) {
    return {
      ok: false,
      reason: `coinbase weighs ${weight}, the template leaves ${job.coinbaseWeightMax}`,
    };
  }
  return { ok: true, parts: { prefix, suffix } };
}

/**
 * How many bytes a coinbase of this job has beside its outputs, without witness; with room for a count of outputs that takes
 * three bytes. Refused with a reason as by `buildJobCoinbase`.
 */
export function measureFrame(
  job: Job,
  tag: string,
): { ok: true; bytes: number } | { ok: false; reason: string } {
  const salt = decodeJobId(job.jobId);
  if (salt === null) {
    return { ok: false, reason: `job id is not hex of 1 to ${JOB_ID_DIGITS_MAX} digits` };
  }
  const built = buildCoinbase({
    height: job.height,
    tag,
    aux: job.coinbaseAux,
    salt,
    extranonceBytes: EXTRANONCE_BYTES,
    outputs: [EMPTY_OUTPUT],
    witnessCommitment: job.witnessCommitment,
  });
  if (!built.ok) return built;
  const bytes = built.prefix.length + EXTRANONCE_BYTES + built.suffix.length;
  return { ok: true, bytes: bytes - EMPTY_OUTPUT_BYTES + LONG_COUNT_BYTES };
}

/**
 * The whole `mining.notify` line with its newline, to be encoded once and written to every session that shares a coinbase.
 * Byte orders are the field's: the previous hash as eight byte-swapped words, coinbase halves and merkle branch in wire order,
 * version, bits and time as big-endian hex.
 */
export function encodeNotify(job: Job, parts: CoinbaseParts, clean: boolean): string {
  const branch = job.branch.map((hash) => `"${encodeHex(hash)}"`).join(',');
  return (
    `{"id":null,"method":"mining.notify","params":["${job.jobId}",` +
    `"${encodeSwappedWords(job.previousHash)}",` +
    `"${encodeHex(parts.prefix)}","${encodeHex(parts.suffix)}",[${branch}],` +
    `"${encodeHexU32(job.version)}","${encodeHexU32(job.bits)}","${encodeHexU32(job.curtime)}",` +
    `${clean}]}\n`
  );
}

/** 80 header bytes of a job under this merkle root (wire order) with what the miner chose (unsigned 32-bit each). */
export function assembleBlockHeader(
  job: Job,
  chosen: { merkleRoot: Uint8Array; version: number; ntime: number; nonce: number },
): Uint8Array {
  return encodeHeader({
    version: chosen.version,
    previousHash: job.previousHash,
    merkleRoot: chosen.merkleRoot,
    time: chosen.ntime,
    bits: job.bits,
    nonce: chosen.nonce,
  });
}

/** Hex of the bytes with every group of four reversed: how Stratum V1 writes the previous hash. `bytes` is 32 long. */
export function encodeSwappedWords(bytes: Uint8Array): string {
  const words: Uint8Array[] = [];
  for (let i = 0; i < bytes.length; i += 4) words.push(bytes.slice(i, i + 4).reverse());
  return encodeHex(concatBytes(...words));
}

function decodeJobId(jobId: string): Uint8Array | null {
  if (jobId.length === 0 || jobId.length > JOB_ID_DIGITS_MAX) return null;
  return decodeHex(jobId.length % 2 === 0 ? jobId : '0' + jobId);
}
