/**
 * Whole blocks: header (80 bytes) | CompactSize count | transactions, the coinbase first.
 * Refused: no transactions, bytes after the end, more than 4,000,000 bytes, any transaction `tx.ts` refuses.
 */

import { ByteReader, ByteWriter, concatBytes } from './bytes.ts';
import { decodeHeader, encodeHeader, HEADER_BYTES, type Header } from './header.ts';
import { encodeTx, readTx, type Tx } from './tx.ts';

export type Block = { header: Header; transactions: Tx[] };

/** No valid block is larger (BIP141: weight at most 4,000,000, a byte weighs at least 1). */
export const BLOCK_BYTES_MAX = 4_000_000;

/** Bytes → block. Total: never throws. Checks form only, not consensus. */
export function decodeBlock(
  bytes: Uint8Array,
): { ok: true; block: Block } | { ok: false; reason: string } {
  if (bytes.length > BLOCK_BYTES_MAX) return { ok: false, reason: 'block is too large' };
  const header = decodeHeader(bytes.subarray(0, HEADER_BYTES));
  if (header === null) return { ok: false, reason: 'block is shorter than its header' };
  try {
    const reader = new ByteReader(bytes.subarray(HEADER_BYTES));
    const count = reader.varint();
    if (count === 0) return { ok: false, reason: 'block has no transactions' };
    const transactions: Tx[] = [];
    for (let i = 0; i < count; i++) transactions.push(readTx(reader));
    if (!reader.done) return { ok: false, reason: 'block has bytes after its end' };
    return { ok: true, block: { header, transactions } };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { ok: false, reason: `block is malformed: ${error.message}` };
  }
}

/** Block → bytes, with all witness data. */
export function encodeBlock(block: Block): Uint8Array {
  return assembleBlock({
    header: encodeHeader(block.header),
    coinbase: encodeTx(block.transactions[0]!, { witness: true }),
    transactionCount: block.transactions.length - 1,
    body: concatBytes(...block.transactions.slice(1).map((tx) => encodeTx(tx, { witness: true }))),
  });
}

/**
 * The bytes for `submitblock` from parts that are already encoded: the 80-byte header, the coinbase as it shall stand in the
 * block (with witness where the block commits to one), and the other transactions back to back.
 * `transactionCount` does not count the coinbase.
 */
export function assembleBlock(parts: {
  header: Uint8Array;
  coinbase: Uint8Array;
  transactionCount: number;
  body: Uint8Array;
}): Uint8Array {
  return new ByteWriter(HEADER_BYTES + 9 + parts.coinbase.length + parts.body.length)
    .bytes(parts.header)
    .varint(parts.transactionCount + 1)
    .bytes(parts.coinbase)
    .bytes(parts.body)
    .take();
}
