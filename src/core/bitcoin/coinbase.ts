/**
 * The coinbase transaction of a pool, built once per payout and split around the space that miners fill:
 *
 *   prefix = version | one input: null outpoint, scriptSig length, height (BIP34), coinbaseaux, pool tag, push opcode, salt
 *   extranonce (extranonce1 of the session, then extranonce2 of the miner)
 *   suffix = sequence | outputs, the witness commitment (BIP141) last | locktime 0
 *
 * Prefix and suffix are the serialisation without witness, the one whose hash is the txid. Refused: a scriptSig over 100
 * bytes (consensus), no outputs, values outside [0, 21 million BTC], a height or an extranonce size out of range.
 */

import { utf8ToBytes } from '@noble/hashes/utils.js';
import { ByteWriter, concatBytes } from './bytes.ts';

export type CoinbaseOutput = { script: Uint8Array; valueSats: bigint };

/** Consensus: the scriptSig of a coinbase has 2 to 100 bytes. */
export const COINBASE_SCRIPT_BYTES_MAX = 100;

/** 21 million BTC, the largest amount any output may have. */
export const MONEY_MAX_SATS = 2_100_000_000_000_000n;

const OP_PUSHDATA1 = 0x4c;
const OP_1 = 0x51;

/** Weight of marker, flag and the reserved value (1 item of 32 bytes) that BIP141 adds to a coinbase. */
export const COINBASE_WITNESS_WEIGHT = 2 + 1 + 1 + 32;

/**
 * Builds both halves. `tag` is written as UTF-8 for people to read; `aux` are the bytes of the template's `coinbaseaux`,
 * placed as they are; `salt` is any bytes that must make this coinbase differ from others (it stands directly before the
 * extranonce, in the same push); `witnessCommitment` is the whole output script the node proposed, or null.
 */
export function buildCoinbase(options: {
  height: number;
  tag: string;
  aux: Uint8Array;
  salt?: Uint8Array;
  extranonceBytes: number;
  outputs: readonly CoinbaseOutput[];
  witnessCommitment: Uint8Array | null;
}): { ok: true; prefix: Uint8Array; suffix: Uint8Array } | { ok: false; reason: string } {
  const { height, extranonceBytes, outputs, witnessCommitment } = options;
  if (!Number.isSafeInteger(height) || height < 0 || height > 0x7fffffff) {
    return { ok: false, reason: `height ${height} is out of range` };
  }
  if (!Number.isInteger(extranonceBytes) || extranonceBytes < 1 || extranonceBytes > 32) {
    return { ok: false, reason: `extranonce of ${extranonceBytes} bytes is outside 1 to 32` };
  }
  if (outputs.length === 0) return { ok: false, reason: 'coinbase has no outputs' };
  for (const { valueSats } of outputs) {
    if (valueSats < 0n || valueSats > MONEY_MAX_SATS) {
      return { ok: false, reason: `output of ${valueSats} sats is out of range` };
    }
  }
  const salt = options.salt ?? new Uint8Array(0);
  const script = concatBytes(
    encodeHeightPush(height),
    options.aux,
    encodePush(utf8ToBytes(options.tag)),
    pushOpcode(salt.length + extranonceBytes),
    salt,
  );
  const scriptBytes = script.length + extranonceBytes;
  if (scriptBytes > COINBASE_SCRIPT_BYTES_MAX) {
    return {
      ok: false,
      reason: `coinbase script would have ${scriptBytes} bytes, allowed are ${COINBASE_SCRIPT_BYTES_MAX}: shorten the tag`,
    };
  }
  const prefix = new ByteWriter()
    .i32(2)
    .varint(1)
    .bytes(new Uint8Array(32))
    .u32(0xffffffff)
    .varint(scriptBytes)
    .bytes(script)
    .take();
  const suffix = new ByteWriter().u32(0xffffffff);
  suffix.varint(outputs.length + (witnessCommitment === null ? 0 : 1));
  for (const output of outputs) suffix.u64(output.valueSats).varbytes(output.script);
  if (witnessCommitment !== null) suffix.u64(0n).varbytes(witnessCommitment);
  return { ok: true, prefix, suffix: suffix.u32(0).take() };
}

/**
 * The whole coinbase. `witness: true` gives the form that stands in a block with a witness commitment: marker, flag and the
 * reserved value of 32 zero bytes as only witness item (BIP141); false gives the form whose hash is the txid.
 */
export function assembleCoinbase(
  prefix: Uint8Array,
  extranonce: Uint8Array,
  suffix: Uint8Array,
  witness: boolean,
): Uint8Array {
  const plain = concatBytes(prefix, extranonce, suffix);
  return witness ? addCoinbaseWitness(plain) : plain;
}

/** Serialised coinbase without witness → the same with marker, flag and the reserved value of BIP141. */
export function addCoinbaseWitness(coinbase: Uint8Array): Uint8Array {
  const locktimeStart = coinbase.length - 4;
  return concatBytes(
    coinbase.subarray(0, 4),
    Uint8Array.of(0, 1),
    coinbase.subarray(4, locktimeStart),
    Uint8Array.of(1, 32),
    new Uint8Array(32),
    coinbase.subarray(locktimeStart),
  );
}

/**
 * BIP34: the height as the script number Bitcoin Core compares with (`CScript() << height`): OP_0, OP_1 to OP_16, else a
 * minimal little-endian push with a zero byte behind a set sign bit.
 */
export function encodeHeightPush(height: number): Uint8Array {
  if (height === 0) return Uint8Array.of(0);
  if (height <= 16) return Uint8Array.of(OP_1 + height - 1);
  const number: number[] = [];
  for (let rest = height; rest > 0; rest = Math.floor(rest / 256)) number.push(rest % 256);
  if (number.at(-1)! >= 0x80) number.push(0);
  return Uint8Array.of(number.length, ...number);
}

/** A push of these bytes; nothing at all for no bytes. */
function encodePush(bytes: Uint8Array): Uint8Array {
  return bytes.length === 0 ? bytes : concatBytes(pushOpcode(bytes.length), bytes);
}

function pushOpcode(length: number): Uint8Array {
  return length < OP_PUSHDATA1 ? Uint8Array.of(length) : Uint8Array.of(OP_PUSHDATA1, length);
}
