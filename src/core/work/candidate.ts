/**
 * Whether the record of a found block belongs to its job: the check of everybody who makes a block of a record that others wrote.
 * Whom the coinbase pays is not judged: a block that the network takes is worth more than any rule of ours.
 */
import { equalBytes } from '../bitcoin/bytes.ts';
import { sha256d } from '../bitcoin/hash.ts';
import { hashHeader } from '../bitcoin/header.ts';
import { foldBranch } from '../bitcoin/merkle.ts';
import type { Job } from './job.ts';
import { meetsTarget, prepareTarget } from './share.ts';

/** What a block is made of besides its job: `header` is 80 bytes, `coinbase` without witness, `headerHash` in wire order. */
export type Find = { header: Uint8Array; headerHash: Uint8Array; coinbase: Uint8Array };

/** Why no node could take a block of this find and this job, in words for the log, or null. */
export function findFault(
  { header, headerHash, coinbase }: Find,
  job: Pick<Job, 'networkTarget' | 'previousHash' | 'branch'>,
): string | null {
  if (!equalBytes(hashHeader(header), headerHash)) return 'its header has another hash';
  if (!meetsTarget(headerHash, prepareTarget(job.networkTarget)))
    return 'its hash misses the target of its job';
  if (!equalBytes(header.subarray(4, 36), job.previousHash)) return 'it builds on another block';
  const root = foldBranch(sha256d(coinbase), job.branch);
  if (!equalBytes(header.subarray(36, 68), root)) return 'its coinbase does not belong to it';
  return null;
}
