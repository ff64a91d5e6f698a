/** The transactions of a template as `mining.templates` carries them. */
import type { Job } from '../core/work/job.ts';
import type { Template } from '../core/work/template.ts';
import { encodeTemplateInPlace } from './codec.ts';

/** An encoded `TemplateBody`: the transactions of `template` for a job that was built from it. Null when one of them is not hex. */
export function encodeTransactions(
  job: Job,
  template: Pick<Template, 'transactions'>,
): Uint8Array | null {
  let digits = 0;
  for (const { data } of template.transactions) digits += data.length;
  if (digits % 2 !== 0) return null;
  return encodeTemplateInPlace(
    {
      jobId: job.jobId,
      height: job.height,
      previousHash: job.previousHash,
      transactionCount: job.transactionCount,
      witness: job.witnessCommitment !== null,
    },
    digits / 2,
    (body) => writeTransactions(template, body),
  );
}

/** All transactions, raw, one after the other: hex is decoded straight into its place. False when one is not hex. */
function writeTransactions(template: Pick<Template, 'transactions'>, body: Buffer): boolean {
  let offset = 0;
  for (const { data } of template.transactions) offset += body.write(data, offset, 'hex');
  // Writing ends at the first character that is none.
  return offset === body.length;
}
