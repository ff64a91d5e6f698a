/**
 * Blocks for `getblocktemplate` in mode "proposal" (BIP23): the job exactly as miners get it, with the pool's coinbase and outputs,
 * so that the node says "bad-cb-amount" or "bad-witness-merkle-match" to us and not to the first block we find. Proof of work is
 * not checked in a proposal, so any nonce will do.
 */
import { ByteWriter, concatBytes, encodeHex } from '../../core/bitcoin/bytes.ts';
import type { CoinbaseOutput } from '../../core/bitcoin/coinbase.ts';
import { assembleCoinbase } from '../../core/bitcoin/coinbase.ts';
import { sha256d } from '../../core/bitcoin/hash.ts';
import { foldBranch } from '../../core/bitcoin/merkle.ts';
import type { Job } from '../../core/work/job.ts';
import { assembleBlockHeader, buildJobCoinbase, EXTRANONCE_BYTES } from '../../core/work/job.ts';
import type { Template } from '../../core/work/template.ts';

/** One output of the pool's coinbase: parts per million of the whole; the first takes what the others leave. */
export type OutputShare = { script: Uint8Array; ppm: number };

const PPM = 1_000_000n;
/** Pay-to-witness-pubkey-hash of twenty zeros: stands for a miner's address where the pool has none of its own (never mined). */
const ANYBODY: Uint8Array = Uint8Array.from([0x00, 0x14, ...new Uint8Array(20)]);
/** BIP141: OP_RETURN, push of 36, header; then SHA-256d of 64 zero bytes, the commitment of a block that has only a coinbase. */
const EMPTY_COMMITMENT_START: Uint8Array = Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed);

/** Outputs that add up to exactly `valueSats`. Shares over 100 % in sum are cut at what is left. */
export function splitOutputs(valueSats: bigint, shares: readonly OutputShare[]): CoinbaseOutput[] {
  const [first, ...others] = shares.length === 0 ? [{ script: ANYBODY, ppm: 1_000_000 }] : shares;
  let left = valueSats;
  const outputs: CoinbaseOutput[] = [];
  for (const { script, ppm } of others) {
    const wanted = (valueSats * BigInt(Math.trunc(ppm))) / PPM;
    const paid = wanted > left ? left : wanted;
    left -= paid;
    outputs.push({ script, valueSats: paid });
  }
  return [{ script: first!.script, valueSats: left }, ...outputs];
}

/**
 * The front of the proposed block as hex: header, transaction count and coinbase. The template's transactions follow it.
 * `timeSeconds` is the job's own `curtime`.
 */
export function encodeProposalFront(
  job: Job,
  options: { tag: string; outputs: readonly OutputShare[] },
): { ok: true; hex: string } | { ok: false; reason: string } {
  const built = buildJobCoinbase(job, {
    tag: options.tag,
    extranonceBytes: EXTRANONCE_BYTES,
    outputs: splitOutputs(job.coinbaseValueSats, options.outputs),
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
