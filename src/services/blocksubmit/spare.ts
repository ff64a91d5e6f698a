/**
 * Transactions that do not come. The job of a new tip goes out ahead of its transactions, and the broker may die between the two: the job
 * is then mined on for as long as the broker is away, and what is found on it could be put together by nobody. But a node gives the same
 * template again for a while: Bitcoin Core makes a new one of the same tip after five seconds at the earliest. So our own nodes are asked
 * for it, and what they give is taken if it is the job's to the last transaction.
 */

import { equalBytes } from '../../core/bitcoin/bytes.ts';
import type { Network } from '../../core/bitcoin/network.ts';
import type { Rpc } from '../../core/node/rpc.ts';
import { buildJob, type Job } from '../../core/work/job.ts';
import { decodeTemplate, templateRequest } from '../../core/work/template.ts';
import { encodeTransactions } from '../../messages/transactions.ts';
import type { Log } from '../../ports.ts';

export type SpareTools = {
  log: Log;
  network: Network;
  nodes: readonly Rpc[];
  hasTemplate(jobId: string): boolean;
  /** Called with an encoded `TemplateBody`. */
  take(encoded: Uint8Array): void;
};

/** Transactions are some tens of milliseconds behind their job. */
const AFTER_MS = 1_000;
const TIMEOUT_MS = 5_000;
const NOTHING = new Uint8Array(0);

/** Looks after the newest job it is told of. */
export function createSpares(
  tools: SpareTools,
  options: { afterMs?: number } = {},
): { expect(job: Job): void; stop(): void } {
  const { log, network, nodes, hasTemplate, take } = tools;
  let timer: NodeJS.Timeout | undefined;
  let expected: Job | null = null;

  const isWanted = (job: Job) => expected === job && !hasTemplate(job.jobId);

  async function seek(job: Job): Promise<void> {
    const none = job.transactionCount === 0 ? encodeTransactions(job, { transactions: [] }) : null;
    if (none !== null && isWanted(job)) take(none);
    for (const node of nodes) {
      if (!isWanted(job)) return;
      const answer = await node.call('getblocktemplate', [templateRequest(network)], {
        timeoutMs: TIMEOUT_MS,
      });
      const encoded = answer.kind === 'result' ? encodeFor(job, answer.result) : null;
      if (encoded === null || !isWanted(job)) continue;
      log.warn('the transactions of a job did not come; a node had them still', {
        jobId: job.jobId,
        height: job.height,
        node: node.name,
      });
      take(encoded);
      return;
    }
    if (isWanted(job))
      log.error('the transactions of a job did not come: a block on it has to wait for them', {
        jobId: job.jobId,
        height: job.height,
      });
  }

  /** Null when the template is another one. */
  function encodeFor(job: Job, result: unknown): Uint8Array | null {
    const decoded = decodeTemplate(result, network);
    if (!decoded.ok) return null;
    const { template } = decoded;
    const { jobId, clean, createdAtMs } = job;
    const own = buildJob(template, { jobId, clean, createdAtMs });
    const isSame =
      equalBytes(own.previousHash, job.previousHash) &&
      own.transactionCount === job.transactionCount &&
      equalBytes(own.witnessCommitment ?? NOTHING, job.witnessCommitment ?? NOTHING) &&
      own.branch.every((hash, i) => equalBytes(hash, job.branch[i] ?? NOTHING));
    return isSame ? encodeTransactions(job, template) : null;
  }

  return {
    expect(job) {
      // Said again.
      if (expected?.jobId === job.jobId) return;
      clearTimeout(timer);
      expected = null;
      if (hasTemplate(job.jobId)) return;
      expected = job;
      timer = setTimeout(() => void seek(job), options.afterMs ?? AFTER_MS);
    },
    stop() {
      clearTimeout(timer);
      expected = null;
    },
  };
}
