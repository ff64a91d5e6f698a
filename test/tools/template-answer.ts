/** A `getblocktemplate` answer that is right in every field, with real transactions of random content. */

import { encodeHex, encodeHexReversed } from '../../src/core/bitcoin/bytes.ts';
import { sha256dPair } from '../../src/core/bitcoin/hash.ts';
import { merkleRoot } from '../../src/core/bitcoin/merkle.ts';
import { encodeTx, type Tx, txid, txWeight, wtxid } from '../../src/core/bitcoin/tx.ts';
import type { Random } from './random.ts';

/** Shape of the answer: a JSON object whose fields tests break one by one. */
// biome-ignore lint/suspicious/noExplicitAny: tests put anything into it
export type TemplateJson = Record<string, any>;

/** Every second transaction has a witness; each third spends the one before it. */
export function createTemplateAnswer(random: Random, transactionCount: number): TemplateJson {
  const txs: Tx[] = [];
  for (let i = 0; i < transactionCount; i++) {
    const parent = i % 3 === 2 ? txid(txs[i - 1]!) : random.bytes(32);
    txs.push({
      version: 2,
      inputs: [
        {
          previousTxid: parent,
          previousIndex: 0,
          script: i % 2 === 0 ? random.bytes(107) : new Uint8Array(0),
          sequence: 0xfffffffd,
          witness: i % 2 === 0 ? [] : [random.bytes(71), random.bytes(33)],
        },
      ],
      outputs: [{ valueSats: BigInt(random.u32()), script: random.bytes(22 + random.below(13)) }],
      locktime: 0,
    });
  }
  const root = merkleRoot([new Uint8Array(32), ...txs.map(wtxid)]);
  return {
    capabilities: ['proposal'],
    version: 536870912,
    rules: ['csv', '!segwit', 'taproot'],
    vbavailable: {},
    vbrequired: 0,
    previousblockhash: encodeHex(random.bytes(28)) + '00000000',
    transactions: txs.map((tx, i) => ({
      data: encodeHex(encodeTx(tx, { witness: true })),
      txid: encodeHexReversed(txid(tx)),
      hash: encodeHexReversed(wtxid(tx)),
      depends: i % 3 === 2 ? [i] : [],
      fee: 1000 + i,
      sigops: 4,
      weight: txWeight(tx),
    })),
    coinbaseaux: {},
    coinbasevalue: 312_500_000 + txs.reduce((sum, _, i) => sum + 1000 + i, 0),
    longpollid: `${encodeHex(random.bytes(32))}7`,
    target: '00000000ffff0000000000000000000000000000000000000000000000000000',
    mintime: 1_713_570_000,
    mutable: ['time', 'transactions', 'prevblock'],
    noncerange: '00000000ffffffff',
    sigoplimit: 80000,
    sizelimit: 4000000,
    weightlimit: 4000000,
    curtime: 1_713_571_767,
    bits: '1d00ffff',
    height: 840_001,
    default_witness_commitment: '6a24aa21a9ed' + encodeHex(sha256dPair(root, new Uint8Array(32))),
  };
}
