/**
 * Transactions on the wire (BIP144):
 *
 *   version i32 | [00 01 when there is witness] | inputs | outputs | [one witness stack per input] | locktime u32
 *   input: txid 32 | index u32 | script | sequence u32        output: value u64 | script
 *
 * Refused: bytes after the end, lengths not in their shortest form, an unknown flag, a witness flag with no witness in it
 * ("superfluous witness record" of Bitcoin Core), more than 4,000,000 bytes.
 */

import { ByteReader, ByteWriter, concatBytes } from './bytes.ts';
import { sha256d } from './hash.ts';

export type TxInput = {
  /** Wire order; 32 zero bytes in a coinbase. */
  previousTxid: Uint8Array;
  previousIndex: number;
  script: Uint8Array;
  sequence: number;
  /** Stack items; empty when the input has no witness. */
  witness: Uint8Array[];
};

export type TxOutput = { valueSats: bigint; script: Uint8Array };

export type Tx = {
  /** Signed 32-bit. */
  version: number;
  inputs: TxInput[];
  outputs: TxOutput[];
  locktime: number;
};

export type TxAnswer = { ok: true; tx: Tx } | { ok: false; reason: string };

/** No transaction or block can be larger: a byte weighs at least one unit and a block at most 4,000,000. */
export const TX_BYTES_MAX = 4_000_000;

/** Bytes → transaction. Total: never throws. */
export function decodeTx(bytes: Uint8Array): TxAnswer {
  if (bytes.length > TX_BYTES_MAX) return { ok: false, reason: 'transaction is too large' };
  try {
    const reader = new ByteReader(bytes);
    const tx = readTx(reader);
    if (!reader.done) return { ok: false, reason: 'transaction has bytes after its end' };
    return { ok: true, tx };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { ok: false, reason: `transaction is malformed: ${error.message}` };
  }
}

/** Reads one transaction from a reader; throws RangeError like the reader. For decoders of larger things. */
export function readTx(reader: ByteReader): Tx {
  const version = reader.i32();
  let inputCount = reader.varint();
  let hasWitness = false;
  // No inputs is the marker byte 00 of BIP144; the flag behind it must be 01.
  if (inputCount === 0) {
    if (reader.u8() !== 1) throw new RangeError('no inputs, or an unknown flag');
    hasWitness = true;
    inputCount = reader.varint();
  }
  if (inputCount === 0) throw new RangeError('no inputs');
  const inputs = readMany(reader, inputCount, 41, readInput);
  const outputs = readMany(reader, reader.varint(), 9, readOutput);
  if (hasWitness) {
    for (const input of inputs) input.witness = readMany(reader, reader.varint(), 1, readItem);
    if (inputs.every((input) => input.witness.length === 0)) {
      throw new RangeError('witness flag without witness');
    }
  }
  return { version, inputs, outputs, locktime: reader.u32() };
}

/**
 * Encoded transaction → the same without witness (the very bytes given when it has none), read through but not taken apart:
 * three times as fast as decoding and encoding, for the thousands of transactions of a template. Accepts exactly what
 * `decodeTx` accepts.
 */
export function stripTx(
  bytes: Uint8Array,
): { ok: true; stripped: Uint8Array } | { ok: false; reason: string } {
  if (bytes.length > TX_BYTES_MAX) return { ok: false, reason: 'transaction is too large' };
  try {
    const reader = new ByteReader(bytes);
    const witnessStart = skipTx(reader);
    if (!reader.done) return { ok: false, reason: 'transaction has bytes after its end' };
    if (witnessStart === null) return { ok: true, stripped: bytes };
    const stripped = concatBytes(
      bytes.subarray(0, 4),
      bytes.subarray(6, witnessStart),
      bytes.subarray(bytes.length - 4),
    );
    return { ok: true, stripped };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return { ok: false, reason: `transaction is malformed: ${error.message}` };
  }
}

/** Passes over one transaction with the checks of `readTx`; where its witness starts, or null when it has none. */
function skipTx(reader: ByteReader): number | null {
  reader.skip(4);
  let inputCount = reader.varint();
  const hasWitness = inputCount === 0;
  if (hasWitness) {
    if (reader.u8() !== 1) throw new RangeError('no inputs, or an unknown flag');
    inputCount = reader.varint();
    if (inputCount === 0) throw new RangeError('no inputs');
  }
  for (let i = 0; i < inputCount; i++) {
    reader.skip(36);
    reader.skip(reader.varint());
    reader.skip(4);
  }
  const outputCount = reader.varint();
  for (let i = 0; i < outputCount; i++) {
    reader.skip(8);
    reader.skip(reader.varint());
  }
  const witnessStart = reader.offset;
  if (hasWitness) {
    let items = 0;
    for (let i = 0; i < inputCount; i++) {
      const count = reader.varint();
      for (let item = 0; item < count; item++) reader.skip(reader.varint());
      items += count;
    }
    if (items === 0) throw new RangeError('witness flag without witness');
  }
  reader.skip(4);
  return hasWitness ? witnessStart : null;
}

/** Transaction → bytes. `witness: false` gives the form that is hashed for the txid. */
export function encodeTx(tx: Tx, options: { witness: boolean }): Uint8Array {
  const writer = new ByteWriter();
  const witness = options.witness && hasWitness(tx);
  writer.i32(tx.version);
  if (witness) writer.u8(0).u8(1);
  writer.varint(tx.inputs.length);
  for (const input of tx.inputs) {
    writer.bytes(input.previousTxid).u32(input.previousIndex);
    writer.varbytes(input.script).u32(input.sequence);
  }
  writer.varint(tx.outputs.length);
  for (const output of tx.outputs) writer.u64(output.valueSats).varbytes(output.script);
  if (witness) {
    for (const input of tx.inputs) {
      writer.varint(input.witness.length);
      for (const item of input.witness) writer.varbytes(item);
    }
  }
  return writer.u32(tx.locktime).take();
}

/** Hash of the transaction without witness, wire order: what merkle trees and inputs refer to. */
export function txid(tx: Tx): Uint8Array {
  return sha256d(encodeTx(tx, { witness: false }));
}

/** Hash of the transaction with witness, wire order (BIP141); equal to the txid when there is none. */
export function wtxid(tx: Tx): Uint8Array {
  return sha256d(encodeTx(tx, { witness: true }));
}

/** Weight units: three times the size without witness plus the size with it (BIP141). */
export function txWeight(tx: Tx): number {
  return 3 * encodeTx(tx, { witness: false }).length + encodeTx(tx, { witness: true }).length;
}

/** Any input carries witness items. */
export function hasWitness(tx: Tx): boolean {
  return tx.inputs.some((input) => input.witness.length > 0);
}

/** Reads `count` things of at least `bytesMin` bytes; a count that cannot fit is refused before anything is allocated. */
function readMany<T>(
  reader: ByteReader,
  count: number,
  bytesMin: number,
  read: (reader: ByteReader) => T,
): T[] {
  if (count * bytesMin > reader.left) throw new RangeError('data ends too early');
  const items: T[] = [];
  for (let i = 0; i < count; i++) items.push(read(reader));
  return items;
}

function readInput(reader: ByteReader): TxInput {
  return {
    previousTxid: reader.bytes(32),
    previousIndex: reader.u32(),
    script: reader.varbytes(),
    sequence: reader.u32(),
    witness: [],
  };
}

function readOutput(reader: ByteReader): TxOutput {
  return { valueSats: reader.u64(), script: reader.varbytes() };
}

function readItem(reader: ByteReader): Uint8Array {
  return reader.varbytes();
}
