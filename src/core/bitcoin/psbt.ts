/**
 * Reads partially signed transactions (BIP174, version 0) as far as a payer must: the unsigned transaction and what its inputs are
 * worth. Refused: anything not canonical base64, another version, a scriptSig in the unsigned transaction, double keys, a previous
 * transaction whose id is not the input's, a witness output that contradicts it.
 */
import { base64 } from '@scure/base';
import { ByteReader, equalBytes } from './bytes.ts';
import { decodeTx, type Tx, type TxOutput, txid } from './tx.ts';

export type PsbtAnswer =
  | {
      ok: true;
      /** Without signatures. */
      tx: Tx;
      /** What each input spends, in order; null where the PSBT does not say. */
      spent: (TxOutput | null)[];
    }
  | { ok: false; reason: string };

const PSBT_CHARACTERS_MAX = 4_000_000;
const MAGIC = Uint8Array.of(0x70, 0x73, 0x62, 0x74, 0xff);
const UNSIGNED_TX = 0x00;
const VERSION = 0xfb;
const NON_WITNESS_UTXO = 0x00;
const WITNESS_UTXO = 0x01;

/** Base64 text → PSBT. Total: never throws. */
export function readPsbt(text: string): PsbtAnswer {
  if (text.length > PSBT_CHARACTERS_MAX) return { ok: false, reason: 'PSBT: too long' };
  try {
    return readMaps(new ByteReader(base64.decode(text)));
  } catch (error) {
    return { ok: false, reason: `PSBT: ${error instanceof Error ? error.message : 'unreadable'}` };
  }
}

/**
 * The same transaction but for signatures: version, lock time, outpoints and sequences in order, and outputs in order. The
 * signatures of the one may therefore be sent for the other.
 */
export function sameSkeleton(left: Tx, right: Tx): boolean {
  return (
    left.version === right.version &&
    left.locktime === right.locktime &&
    left.inputs.length === right.inputs.length &&
    left.outputs.length === right.outputs.length &&
    left.inputs.every((input, at) => {
      const other = right.inputs[at];
      return (
        other !== undefined &&
        equalBytes(input.previousTxid, other.previousTxid) &&
        input.previousIndex === other.previousIndex &&
        input.sequence === other.sequence
      );
    }) &&
    left.outputs.every((output, at) => {
      const other = right.outputs[at];
      return (
        other !== undefined &&
        output.valueSats === other.valueSats &&
        equalBytes(output.script, other.script)
      );
    })
  );
}

function readMaps(reader: ByteReader): PsbtAnswer {
  if (!equalBytes(reader.bytes(MAGIC.length), MAGIC)) throw new RangeError('not a PSBT');
  const global = readMap(reader);
  const version = global.get(String(VERSION));
  if (version?.some((byte) => byte !== 0)) throw new RangeError('only version 0 is read');
  const unsigned = global.get(String(UNSIGNED_TX));
  if (unsigned === undefined) throw new RangeError('no unsigned transaction');
  const decoded = decodeTx(unsigned);
  if (!decoded.ok) throw new RangeError(decoded.reason);
  const { tx } = decoded;
  if (tx.inputs.some((input) => input.script.length > 0 || input.witness.length > 0))
    throw new RangeError('the unsigned transaction is signed');
  const spent = tx.inputs.map((input) => {
    const fields = readMap(reader);
    const full = fields.get(String(NON_WITNESS_UTXO));
    const witness = fields.get(String(WITNESS_UTXO));
    let known: TxOutput | null = null;
    if (full !== undefined) {
      const previous = decodeTx(full);
      if (!previous.ok) throw new RangeError(previous.reason);
      if (!equalBytes(txid(previous.tx), input.previousTxid))
        throw new RangeError('a previous transaction is not the one the input names');
      known = previous.tx.outputs[input.previousIndex] ?? null;
      if (known === null) throw new RangeError('an input names an output that is not there');
    }
    if (witness !== undefined) {
      const output = readOutput(witness);
      if (
        known !== null &&
        (known.valueSats !== output.valueSats || !equalBytes(known.script, output.script))
      )
        throw new RangeError('an input is described twice and differently');
      known = output;
    }
    return known;
  });
  for (const _ of tx.outputs) readMap(reader);
  if (!reader.done) throw new RangeError('bytes after the end');
  return { ok: true, tx, spent };
}

function readOutput(bytes: Uint8Array): TxOutput {
  const reader = new ByteReader(bytes);
  const valueSats = reader.u64();
  const script = reader.varbytes();
  if (!reader.done) throw new RangeError('bytes after an output');
  return { valueSats, script };
}

/** One map; keys of one byte by that number, longer ones by all their bytes. */
function readMap(reader: ByteReader): Map<string, Uint8Array> {
  const fields = new Map<string, Uint8Array>();
  for (;;) {
    const key = reader.varbytes();
    if (key.length === 0) return fields;
    const name = key.join(',');
    if (fields.has(name)) throw new RangeError('a key stands twice');
    fields.set(name, reader.varbytes());
  }
}
