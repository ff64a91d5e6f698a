/**
 * Blocks and transactions as RPC callers see them: the JSON of `getblock`, `getblockheader`, `getrawtransaction` and the
 * wallet, with Core's field names and order. Descriptors (`desc`) are not given.
 */
import { encodeAddress } from '../../core/bitcoin/address.ts';
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeBits } from '../../core/bitcoin/target.ts';
import type { ChainBlock, ChainTx } from './blocks.ts';
import type { BlockNode, Chain, Coin } from './chain.ts';
import { amountJson } from './json.ts';
import { isCoinbase } from './rules.ts';
import { kindOfScript } from './script.ts';

/** Core's `GetDifficulty`: difficulty 1 target over this one, in doubles, with the 16 digits Core's JSON prints. */
export function difficultyOfBits(bits: number): number {
  let shift = bits >>> 24;
  let difficulty = 0x0000ffff / (bits & 0x00ffffff);
  for (; shift < 29; shift += 1) difficulty *= 256;
  for (; shift > 29; shift -= 1) difficulty /= 256;
  return Number(difficulty.toPrecision(16));
}

/** `getblockheader`, and the head of `getblock`. */
export function headerJson(chain: Chain, node: BlockNode): Record<string, unknown> {
  const { header } = node;
  const next = chain.inActive(node) ? chain.active[node.height + 1] : undefined;
  return {
    hash: node.id,
    confirmations: chain.confirmations(node),
    height: node.height,
    version: header.version | 0,
    versionHex: (header.version >>> 0).toString(16).padStart(8, '0'),
    merkleroot: encodeHexReversed(header.merkleRoot),
    time: header.time,
    mediantime: node.medianTimePast,
    nonce: header.nonce,
    bits: bitsText(header.bits),
    difficulty: difficultyOfBits(header.bits),
    chainwork: workText(node.chainWork),
    nTx: node.transactionCount,
    ...(node.previous ? { previousblockhash: node.previous.id } : {}),
    ...(next ? { nextblockhash: next.id } : {}),
  };
}

/** `getblock` with verbosity 1 (ids), 2 (transactions) or 3 (also what they spend, while the block is in the chain). */
export function blockJson(
  chain: Chain,
  node: BlockNode,
  block: ChainBlock,
  verbosity: number,
): Record<string, unknown> {
  const spent = node.spent?.slice() ?? null;
  const transactions = block.transactions.map((entry) => {
    if (verbosity < 2) return entry.id;
    const coins =
      spent === null || isCoinbase(entry.tx) ? null : spent.splice(0, entry.tx.inputs.length);
    return {
      ...transactionJson(entry, { coins, prevouts: verbosity >= 3 }),
      hex: encodeHex(entry.raw),
    };
  });
  return {
    ...headerJson(chain, node),
    strippedsize: block.strippedBytes,
    size: block.raw.length,
    weight: block.weight,
    tx: transactions,
  };
}

/** A decoded transaction; with the coins it spends also its fee. */
export function transactionJson(
  entry: ChainTx,
  options: { coins?: readonly Coin[] | null; prevouts?: boolean } = {},
): Record<string, unknown> {
  const { tx } = entry;
  const coins = options.coins ?? null;
  const coinbase = isCoinbase(tx);
  const vin = tx.inputs.map((input, at) => ({
    ...(coinbase
      ? { coinbase: encodeHex(input.script) }
      : {
          txid: encodeHexReversed(input.previousTxid),
          vout: input.previousIndex,
          scriptSig: { asm: disassemble(input.script), hex: encodeHex(input.script) },
        }),
    ...(input.witness.length > 0 ? { txinwitness: input.witness.map(encodeHex) } : {}),
    ...(coins !== null && options.prevouts
      ? {
          prevout: {
            generated: coins[at].coinbase,
            height: coins[at].height,
            value: amountJson(coins[at].valueSats),
            scriptPubKey: scriptJson(coins[at].script),
          },
        }
      : {}),
    sequence: input.sequence,
  }));
  const vout = tx.outputs.map((output, n) => ({
    value: amountJson(output.valueSats),
    n,
    scriptPubKey: scriptJson(output.script),
  }));
  const feeSats =
    coins === null
      ? null
      : coins.reduce((sum, coin) => sum + coin.valueSats, 0n) -
        tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
  return {
    txid: entry.id,
    hash: encodeHexReversed(entry.wtxid),
    version: tx.version,
    size: entry.raw.length,
    vsize: Math.ceil(entry.weight / 4),
    weight: entry.weight,
    locktime: tx.locktime,
    vin,
    vout,
    ...(feeSats === null ? {} : { fee: amountJson(feeSats) }),
  };
}

/** `scriptPubKey` of an output. */
export function scriptJson(script: Uint8Array): Record<string, unknown> {
  const address = encodeAddress(script, 'regtest');
  return {
    asm: disassemble(script),
    hex: encodeHex(script),
    ...(address === null ? {} : { address }),
    type: typeNames[kindOfScript(script)],
  };
}

export function bitsText(bits: number): string {
  return bits.toString(16).padStart(8, '0');
}

/** Chain work or a target as 64 hex digits, most significant first. */
export function workText(work: bigint): string {
  return work.toString(16).padStart(64, '0');
}

export function targetText(bits: number): string {
  return workText(decodeBits(bits) ?? 0n);
}

const typeNames = {
  p2pkh: 'pubkeyhash',
  p2sh: 'scripthash',
  p2wpkh: 'witness_v0_keyhash',
  p2wsh: 'witness_v0_scripthash',
  p2tr: 'witness_v1_taproot',
  'op-return': 'nulldata',
  'op-true': 'nonstandard',
  nonstandard: 'nonstandard',
} as const;

const opcodeNames = new Map<number, string>([
  [0x00, '0'],
  [0x4f, '-1'],
  [0x61, 'OP_NOP'],
  [0x69, 'OP_VERIFY'],
  [0x6a, 'OP_RETURN'],
  [0x6d, 'OP_2DROP'],
  [0x75, 'OP_DROP'],
  [0x76, 'OP_DUP'],
  [0x87, 'OP_EQUAL'],
  [0x88, 'OP_EQUALVERIFY'],
  [0xa8, 'OP_SHA256'],
  [0xa9, 'OP_HASH160'],
  [0xac, 'OP_CHECKSIG'],
  [0xad, 'OP_CHECKSIGVERIFY'],
  [0xae, 'OP_CHECKMULTISIG'],
  [0xb1, 'OP_CHECKLOCKTIMEVERIFY'],
  [0xb2, 'OP_CHECKSEQUENCEVERIFY'],
]);

/** Script as words. Small pushes (up to four bytes) stand as numbers, as Core prints them. */
function disassemble(script: Uint8Array): string {
  const words: string[] = [];
  for (let at = 0; at < script.length; ) {
    const opcode = script[at++];
    let length = -1;
    if (opcode > 0 && opcode < 0x4c) length = opcode;
    else if (opcode === 0x4c) length = script[at++] ?? 0;
    else if (opcode === 0x4d) {
      length = (script[at] ?? 0) | ((script[at + 1] ?? 0) << 8);
      at += 2;
    }
    if (length >= 0) {
      if (at + length > script.length) return [...words, '[error]'].join(' ');
      const data = script.subarray(at, at + length);
      words.push(length <= 4 ? String(scriptNumber(data)) : encodeHex(data));
      at += length;
    } else if (opcode >= 0x51 && opcode <= 0x60) words.push(String(opcode - 0x50));
    else words.push(opcodeNames.get(opcode) ?? 'OP_UNKNOWN');
  }
  return words.join(' ');
}

function scriptNumber(data: Uint8Array): number {
  if (data.length === 0) return 0;
  let value = 0;
  data.forEach((byte, at) => {
    value += (at === data.length - 1 ? byte & 0x7f : byte) * 256 ** at;
  });
  return data[data.length - 1] & 0x80 ? -value : value;
}
