/**
 * PROP pays a share once. The blocks of a pool stand in the order of their finding shares, then of their heights, whichever was heard of
 * first; each counts from the end of the one before it, as the chain has it. What two blocks that cannot both be in the chain count is no
 * conflict: one of them will be taken back.
 */
import { encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import type { Db, Log } from '../../ports.ts';
import { type KnownFind, listStandingEnds } from '../../store/crediting.ts';
import { listPropOverlaps } from '../../store/rounds.ts';
import { type ChainTip, locateBlock } from './chain.ts';

/** A round counts the shares after `previousSeq` up to and with `lastSeq`. */
export type PropBounds = {
  previousSeq: bigint;
  lastSeq: bigint;
  /** Blocks that are not in the chain with this one, by hash as people write it: their rounds may count the same shares. */
  rivals: ReadonlySet<string>;
};

/**
 * Between which shares a block found by share `seq` counts: after the newest round before it whose block is in the chain, up to its own
 * share; less what a later block has paid so long ago that it is spendable, which nobody can take back. Null when the node could not tell.
 */
export async function propBounds(
  { db, log }: { db: Db; log: Log },
  task: { tip: ChainTip; find: KnownFind; seq: bigint },
): Promise<PropBounds | null> {
  const { tip, find, seq } = task;
  const { pool, hash: blockHash, height } = find;
  const own = { lastSeq: seq, height };
  const name = encodeHexReversed(blockHash);
  const rivals = new Set<string>();
  let previousSeq = 0n;
  for (const end of await listStandingEnds(db, { pool, belowSeq: seq + 1n })) {
    const other = encodeHexReversed(end.hash);
    if (other === name || isLater(end, own)) continue;
    if (end.state === 'immature') {
      const place = await locateBlock(tip, end.hash, end.height);
      if (place.kind === 'unknown') return null;
      if (place.kind !== 'in-chain') {
        rivals.add(other);
        continue;
      }
    }
    previousSeq = end.lastSeq;
    break;
  }
  let lastSeq = seq;
  for (const other of await listPropOverlaps(db, {
    pool,
    blockHash,
    firstSeq: previousSeq + 1n,
    lastSeq,
  })) {
    if (!isLater(other, own)) continue;
    if (other.height === height) rivals.add(encodeHexReversed(other.blockHash));
    else if (other.state === 'mature' && other.firstSeq <= lastSeq) lastSeq = other.firstSeq - 1n;
  }
  if (lastSeq < seq)
    log.warn('a block came after a later one had been paid its shares for good', {
      block: name,
      fromSeq: String(lastSeq + 1n),
      throughSeq: String(seq),
    });
  return { previousSeq, lastSeq, rivals };
}

/** Whether another round of the pool stands behind this one. */
export function isLater(
  other: { lastSeq: bigint; height: number },
  own: { lastSeq: bigint; height: number },
): boolean {
  return other.lastSeq === own.lastSeq ? other.height > own.height : other.lastSeq > own.lastSeq;
}
