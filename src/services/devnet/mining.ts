/**
 * Making blocks inside the development chain: for its first blocks, for `generatetoaddress`, and for competitors in
 * reorganisation tests. This is the node's own toy miner, not the pool's code: it builds its coinbase by itself, so that
 * a fault in the pool's builder cannot hide behind the same fault here.
 */
import { concatBytes } from '../../core/bitcoin/bytes.ts';
import { encodeHeader, hashHeader } from '../../core/bitcoin/header.ts';
import { merkleRoot } from '../../core/bitcoin/merkle.ts';
import { decodeBits, hashToInteger } from '../../core/bitcoin/target.ts';
import { type ChainBlock, type ChainTx, completeBlock, completeTx } from './blocks.ts';
import type { BlockNode } from './chain.ts';
import { commitmentScript, earliestTime, encodeHeight, subsidySats } from './rules.ts';

const hashesPerTurn = 20_000;

export type BlockPlan = {
  parent: BlockNode;
  bits: number;
  transactions: readonly ChainTx[];
  feesSats: bigint;
  /** Output script that receives subsidy and fees. */
  script: Uint8Array;
  /** Makes blocks on the same parent differ; at most 80 bytes. */
  extra: Uint8Array;
  timeSeconds: number;
};

/** A block without proof of work. */
export function planBlock(plan: BlockPlan): ChainBlock {
  const { parent } = plan;
  const height = parent.height + 1;
  const earliest = earliestTime({
    height: parent.height,
    time: parent.header.time,
    medianTimePast: parent.medianTimePast,
  });
  const script = concatBytes(encodeHeight(height), Uint8Array.of(plan.extra.length), plan.extra);
  const input = {
    previousTxid: new Uint8Array(32),
    previousIndex: 0xffff_ffff,
    script,
    sequence: 0xffff_ffff,
    witness: [new Uint8Array(32)],
  };
  const reward = { valueSats: subsidySats(height) + plan.feesSats, script: plan.script };
  const draft = completeTx({ version: 2, inputs: [input], outputs: [reward], locktime: 0 });
  const commitment = {
    valueSats: 0n,
    script: commitmentScript([draft, ...plan.transactions]),
  };
  const coinbase = completeTx({ ...draft.tx, outputs: [reward, commitment] });
  const transactions = [coinbase, ...plan.transactions];
  return completeBlock(
    {
      version: 0x20000000,
      previousHash: parent.hash,
      merkleRoot: merkleRoot(transactions.map((entry) => entry.txid)),
      time: Math.max(plan.timeSeconds, earliest),
      bits: plan.bits,
      nonce: 0,
    },
    transactions,
  );
}

/** Tries `attempts` nonces from `block`'s own on; the solved block, or null. */
export function solveBlock(block: ChainBlock, attempts: number): ChainBlock | null {
  const target = decodeBits(block.header.bits);
  if (target === null) return null;
  const bytes = encodeHeader(block.header);
  const view = new DataView(bytes.buffer);
  const first = block.header.nonce;
  for (let nonce = first; nonce < first + attempts && nonce <= 0xffff_ffff; nonce += 1) {
    view.setUint32(76, nonce, true);
    const hash = hashHeader(bytes);
    // The highest bytes decide almost always; the whole comparison only for near hits.
    if (target >> 248n === 0n && hash[31] !== 0) continue;
    if (hashToInteger(hash) <= target)
      return completeBlock({ ...block.header, nonce }, block.transactions);
  }
  return null;
}

/** As `solveBlock`, giving the event loop a turn every 20,000 hashes and stopping when `signal` aborts. */
export async function solveBlockPolitely(
  block: ChainBlock,
  attempts: number,
  signal: AbortSignal,
): Promise<ChainBlock | null> {
  for (let done = 0; done < attempts && !signal.aborted; done += hashesPerTurn) {
    const from = { ...block, header: { ...block.header, nonce: block.header.nonce + done } };
    const solved = solveBlock(from, Math.min(hashesPerTurn, attempts - done));
    if (solved) return solved;
    await new Promise((resolve) => setImmediate(resolve));
  }
  return null;
}
