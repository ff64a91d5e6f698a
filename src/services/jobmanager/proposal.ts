/**
 * Blocks for `getblocktemplate` in mode "proposal" (BIP23): the job exactly as miners get it, with the pool's coinbase and outputs,
 * so that the node says "bad-cb-amount" or "bad-witness-merkle-match" to us and not to the first block we find. Proof of work is
 * not checked in a proposal, so any nonce will do.
 */
import { ByteWriter, concatBytes, encodeHex } from '../../core/bitcoin/bytes.ts';
import { assembleCoinbase } from '../../core/bitcoin/coinbase.ts';
import { sha256d } from '../../core/bitcoin/hash.ts';
import { foldBranch } from '../../core/bitcoin/merkle.ts';
import type { Job } from '../../core/work/job.ts';
import { assembleBlockHeader, buildJobCoinbase, EXTRANONCE_BYTES } from '../../core/work/job.ts';
import { coinbaseOutputs } from '../../core/work/payout.ts';
import type { Template } from '../../core/work/template.ts';

/** Who a proposed coinbase pays: `script` null stands for a miner's address, where the pool has none of its own. */
export type ProposalPayout = {
  script: Uint8Array | null;
  fee: { ppm: number; script: Uint8Array } | null;
};

/** Pay-to-witness-pubkey-hash of twenty zeros: stands for a miner's address where the pool has none of its own (never mined). */
const ANYBODY: Uint8Array = Uint8Array.from([0x00, 0x14, ...new Uint8Array(20)]);
/** BIP141: OP_RETURN, push of 36, header; then SHA-256d of 64 zero bytes, the commitment of a block that has only a coinbase. */
const EMPTY_COMMITMENT_START: Uint8Array = Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed);

/**
 * The front of the proposed block as hex: header, transaction count and coinbase. The template's transactions follow it.
 * `timeSeconds` is the job's own `curtime`.
 */
export function encodeProposalFront(
  job: Job,
  options: { tag: string; payout: ProposalPayout },
): { ok: true; hex: string } | { ok: false; reason: string } {
  const built = buildJobCoinbase(job, {
    tag: options.tag,
    extranonceBytes: EXTRANONCE_BYTES,
    outputs: coinbaseOutputs(
      options.payout.script ?? ANYBODY,
      options.payout.fee,
      job.coinbaseValueSats,
    ),
  });
  if (!built.ok) return built;
  const { prefix, suffix } = built.parts;
  const extranonce = new Uint8Array(EXTRANONCE_BYTES);
  const plain = assembleCoinbase(prefix, extranonce, suffix, false);
  const whole = assembleCoinbase(prefix, extranonce, suffix, job.witnessCommitment !== null);
  const header = assembleBlockHeader(job, {
    merkleRoot: foldBranch(sha256d(plain), job.branch),
    version: job.version,
    ntime: job.curtime,
    nonce: 0,
  });
  const count = new ByteWriter().varint(job.transactionCount + 1).take();
  return { ok: true, hex: encodeHex(concatBytes(header, count, whole)) };
}

/** The same template without transactions: worth less, but nothing in it can be wrong but our own coinbase. */
export function emptyTemplate(template: Template): Template {
  let feesSats = 0n;
  for (const transaction of template.transactions) feesSats += transaction.feeSats;
  return {
    ...template,
    coinbaseValueSats: template.coinbaseValueSats - feesSats,
    transactions: [],
    transactionsWeight: 0,
    witnessCommitment:
      template.witnessCommitment === null
        ? null
        : concatBytes(EMPTY_COMMITMENT_START, sha256d(new Uint8Array(64))),
  };
}
