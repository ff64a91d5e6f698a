/**
 * Blocks for `getblocktemplate` in mode "proposal" (BIP23): the job exactly as miners get it, with the coinbases of our pools,
 * so that the node says "bad-cb-amount" or "bad-witness-merkle-match" to us and not to the first block we find. Proof of work is
 * not checked in a proposal, so any nonce will do.
 */
import { ByteWriter, concatBytes, encodeHex } from '../../core/bitcoin/bytes.ts';
import { assembleCoinbase } from '../../core/bitcoin/coinbase.ts';
import { sha256d } from '../../core/bitcoin/hash.ts';
import { foldBranch } from '../../core/bitcoin/merkle.ts';
import type { CoinbasePlan } from '../../core/ledger/plan.ts';
import type { Job } from '../../core/work/job.ts';
import { assembleBlockHeader, type CoinbaseParts, EXTRANONCE_BYTES } from '../../core/work/job.ts';
import { buildPoolCoinbase, COINBASE_CLASSES, type CoinbasePool } from '../../core/work/payout.ts';
import type { Template } from '../../core/work/template.ts';

/** Pay-to-witness-pubkey-hash of twenty zeros: stands for a miner's address where blocks pay their finder (never mined). */
const ANYBODY: Uint8Array = Uint8Array.from([0x00, 0x14, ...new Uint8Array(20)]);
/** BIP141: OP_RETURN, push of 36, header; then SHA-256d of 64 zero bytes, the commitment of a block that has only a coinbase. */
const EMPTY_COMMITMENT_START: Uint8Array = Uint8Array.of(0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed);

/**
 * The fronts of the blocks to propose for a job, as hex: header, transaction count and coinbase; the template's transactions
 * follow them. One with the largest coinbase that a plan makes, and one with a coinbase that no plan makes, where there are
 * such. Refused with a reason when a coinbase cannot be built.
 */
export function encodeProposalFronts(
  job: Job,
  options: { tag: string; pools: readonly CoinbasePool[]; plans: readonly CoinbasePlan[] },
): { ok: true; fronts: string[] } | { ok: false; reason: string } {
  const { tag, pools, plans } = options;
  const chosen: { plain: CoinbaseParts | null; planned: CoinbaseParts | null } = {
    plain: null,
    planned: null,
  };
  for (const { id, coinbase } of pools) {
    const built = buildPoolCoinbase(job, {
      tag,
      rules: coinbase,
      finder: [{ script: ANYBODY, weight: 1n }],
      plan: plans.find(({ pool }) => pool === id) ?? null,
      coinbaseBytesMax: Math.max(...COINBASE_CLASSES),
    });
    if (!built.ok) return built;
    const kind = built.planId === '' ? 'plain' : 'planned';
    const other = chosen[kind];
    if (other === null || built.parts.suffix.length > other.suffix.length)
      chosen[kind] = built.parts;
  }
  const fronts = [chosen.plain, chosen.planned]
    .filter((parts) => parts !== null)
    .map((parts) => encodeFront(job, parts));
  return { ok: true, fronts };
}

function encodeFront(job: Job, { prefix, suffix }: CoinbaseParts): string {
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
  return encodeHex(concatBytes(header, count, whole));
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
