/**
 * Signature hashes (legacy, BIP143, BIP341), signing, and the check of a spend. Checked in full: P2PKH, P2WPKH,
 * P2SH-P2WPKH, P2TR by key path, bare `OP_TRUE`, and P2WSH scripts made only of drops and a final `OP_TRUE`.
 * There is no script interpreter: every other script type (P2WSH in general, P2SH in general, bare multisig, P2PK,
 * taproot script path, future witness versions) is refused with a reason that says so, although Core might accept it.
 */
import { schnorr, secp256k1 } from '@noble/curves/secp256k1.js';
import { ByteWriter, concatBytes, equalBytes } from '../../core/bitcoin/bytes.ts';
import { hash160, sha256, sha256d, taggedHash } from '../../core/bitcoin/hash.ts';
import { encodeTx, type Tx } from '../../core/bitcoin/tx.ts';

export const sighash = { default: 0, all: 1, none: 2, single: 3, anyoneCanPay: 0x80 } as const;

/** An output being spent. */
export type SpentOutput = { valueSats: bigint; script: Uint8Array };

export type ScriptKind =
  | 'p2pkh'
  | 'p2sh'
  | 'p2wpkh'
  | 'p2wsh'
  | 'p2tr'
  | 'op-return'
  | 'op-true'
  | 'nonstandard';

/** Which template an output script is. */
export function kindOfScript(script: Uint8Array): ScriptKind {
  const length = script.length;
  if (length === 25 && startsWith(script, p2pkhHead) && script[23] === 0x88 && script[24] === 0xac)
    return 'p2pkh';
  if (length === 23 && script[0] === 0xa9 && script[1] === 0x14 && script[22] === 0x87)
    return 'p2sh';
  if (length === 22 && script[0] === 0x00 && script[1] === 0x14) return 'p2wpkh';
  if (length === 34 && script[0] === 0x00 && script[1] === 0x20) return 'p2wsh';
  if (length === 34 && script[0] === 0x51 && script[1] === 0x20) return 'p2tr';
  if (length > 0 && script[0] === 0x6a) return 'op-return';
  if (length === 1 && script[0] === 0x51) return 'op-true';
  return 'nonstandard';
}

/**
 * Checks that input `index` of `tx` may spend `spent[index]`. `spent` holds the outputs of all inputs, in order (BIP341
 * signs them all). Returns null, or Core's `ScriptErrorString` of the failure.
 */
export function checkSpend(tx: Tx, index: number, spent: readonly SpentOutput[]): string | null {
  const input = tx.inputs[index];
  const output = spent[index];
  const { witness, script: scriptSig } = input;
  switch (kindOfScript(output.script)) {
    case 'p2pkh': {
      if (witness.length > 0) return 'Witness provided for non-witness script';
      const pushes = decodePushes(scriptSig);
      if (pushes === null || pushes.length !== 2)
        return 'Operation not valid with the current stack size';
      const [signature, publicKey] = pushes;
      if (!equalBytes(hash160(publicKey), output.script.subarray(3, 23)))
        return 'Script failed an OP_EQUALVERIFY operation';
      return checkEcdsa(signature, publicKey, (type) => hashLegacy(tx, index, output.script, type));
    }
    case 'p2sh': {
      const pushes = decodePushes(scriptSig);
      if (pushes === null || pushes.length !== 1 || kindOfScript(pushes[0]) !== 'p2wpkh')
        return 'P2SH other than P2SH-P2WPKH is outside what this development chain checks';
      if (!equalBytes(hash160(pushes[0]), output.script.subarray(2, 22)))
        return 'Script evaluated without error but finished with a false/empty top stack element';
      return checkWitnessKeyHash(tx, index, pushes[0], output.valueSats);
    }
    case 'p2wpkh':
      if (scriptSig.length > 0) return 'Witness requires empty scriptSig';
      return checkWitnessKeyHash(tx, index, output.script, output.valueSats);
    case 'p2wsh':
      if (scriptSig.length > 0) return 'Witness requires empty scriptSig';
      return checkDropScript(witness, output.script);
    case 'p2tr':
      if (scriptSig.length > 0) return 'Witness requires empty scriptSig';
      return checkKeyPath(tx, index, spent);
    case 'op-true':
      if (witness.length > 0) return 'Witness provided for non-witness script';
      return scriptSig.length === 0 ? null : 'Script is not clean: one element must be left';
    case 'op-return':
      return 'OP_RETURN was encountered';
    case 'nonstandard':
      return 'a script outside what this development chain checks';
  }
}

/** BIP143: P2WPKH with the key hash in `program` (22 bytes). */
function checkWitnessKeyHash(
  tx: Tx,
  index: number,
  program: Uint8Array,
  valueSats: bigint,
): string | null {
  const { witness } = tx.inputs[index];
  if (witness.length === 0) return 'Witness program was passed an empty witness';
  if (witness.length !== 2) return 'Witness program hash mismatch';
  const [signature, publicKey] = witness;
  if (!equalBytes(hash160(publicKey), program.subarray(2)))
    return 'Script failed an OP_EQUALVERIFY operation';
  if (publicKey.length !== 33) return 'Using non-compressed keys in segwit';
  return checkEcdsa(signature, publicKey, (type) =>
    hashSegwit(tx, index, keyHashScript(program.subarray(2)), valueSats, type),
  );
}

/** P2WSH whose script is drops followed by OP_TRUE: what `dropScript` builds to carry weight. */
function checkDropScript(witness: readonly Uint8Array[], output: Uint8Array): string | null {
  if (witness.length === 0) return 'Witness program was passed an empty witness';
  const script = witness[witness.length - 1];
  if (!equalBytes(sha256(script), output.subarray(2))) return 'Witness program hash mismatch';
  const stack = witness.length - 1;
  let drops = 0;
  for (const opcode of script.subarray(0, -1))
    if (opcode === 0x6d) drops += 2;
    else if (opcode === 0x75) drops += 1;
    else return 'a witness script outside what this development chain checks';
  if (script[script.length - 1] !== 0x51)
    return 'a witness script outside what this development chain checks';
  if (script.length > 202) return 'Operation limit exceeded';
  if (witness.some((item, at) => at < stack && item.length > 520))
    return 'Push value size limit exceeded';
  return drops === stack
    ? null
    : drops > stack
      ? 'Operation not valid with the current stack size'
      : 'Script evaluated without error but finished with a false/empty top stack element';
}

function checkKeyPath(tx: Tx, index: number, spent: readonly SpentOutput[]): string | null {
  let witness = tx.inputs[index].witness;
  if (witness.length === 0) return 'Witness program was passed an empty witness';
  let annex: Uint8Array | null = null;
  if (witness.length >= 2 && witness[witness.length - 1][0] === 0x50) {
    annex = witness[witness.length - 1];
    witness = witness.slice(0, -1);
  }
  if (witness.length !== 1)
    return 'taproot script paths are outside what this development chain checks';
  const signature = witness[0];
  if (signature.length !== 64 && signature.length !== 65) return 'Invalid Schnorr signature size';
  const type = signature.length === 65 ? signature[64] : sighash.default;
  if (signature.length === 65 && type === sighash.default)
    return 'Invalid Schnorr signature hash type';
  const hash = hashTaproot(tx, index, spent, type, annex);
  if (hash === null) return 'Invalid Schnorr signature hash type';
  const ok = schnorr.verify(signature.subarray(0, 64), hash, spent[index].script.subarray(2));
  return ok ? null : 'Invalid Schnorr signature';
}

function checkEcdsa(
  signature: Uint8Array,
  publicKey: Uint8Array,
  hashOf: (type: number) => Uint8Array,
): string | null {
  if (signature.length < 9 || signature.length > 73) return 'Non-canonical DER signature';
  const der = signature.subarray(0, -1);
  const type = signature[signature.length - 1];
  let ok: boolean;
  try {
    ok = secp256k1.verify(der, hashOf(type), publicKey, {
      prehash: false,
      format: 'der',
      lowS: false,
    });
  } catch {
    return 'Non-canonical DER signature';
  }
  return ok ? null : 'Signature must be zero for failed CHECK(MULTI)SIG operation';
}

/** The original signature hash, `type` with its four bytes at the end. */
export function hashLegacy(
  tx: Tx,
  index: number,
  scriptCode: Uint8Array,
  type: number,
): Uint8Array {
  const base = type & 0x1f;
  const empty = new Uint8Array(0);
  if (base === sighash.single && index >= tx.outputs.length) {
    // The famous bug, consensus since 2009: the hash is the number one.
    const one = new Uint8Array(32);
    one[0] = 1;
    return one;
  }
  let inputs = tx.inputs.map((input, at) => ({
    ...input,
    script: at === index ? scriptCode : empty,
    sequence:
      at !== index && (base === sighash.none || base === sighash.single) ? 0 : input.sequence,
    witness: [],
  }));
  if (type & sighash.anyoneCanPay) inputs = [inputs[index]];
  let outputs = tx.outputs;
  if (base === sighash.none) outputs = [];
  if (base === sighash.single)
    outputs = tx.outputs
      .slice(0, index + 1)
      .map((output, at) =>
        at === index ? output : { valueSats: 0xffff_ffff_ffff_ffffn, script: empty },
      );
  const writer = new ByteWriter();
  writer.bytes(encodeTx({ ...tx, inputs, outputs }, { witness: false }));
  writer.u32(type);
  return sha256d(writer.take());
}

/** BIP143. `scriptCode` without its length prefix. */
export function hashSegwit(
  tx: Tx,
  index: number,
  scriptCode: Uint8Array,
  valueSats: bigint,
  type: number,
): Uint8Array {
  const base = type & 0x1f;
  const anyone = (type & sighash.anyoneCanPay) !== 0;
  const zero = new Uint8Array(32);
  const input = tx.inputs[index];
  const writer = new ByteWriter();
  writer.i32(tx.version);
  writer.bytes(anyone ? zero : sha256d(encodeOutpoints(tx)));
  writer.bytes(
    anyone || base === sighash.single || base === sighash.none
      ? zero
      : sha256d(encodeSequences(tx)),
  );
  writer.bytes(input.previousTxid);
  writer.u32(input.previousIndex);
  writer.varbytes(scriptCode);
  writer.u64(valueSats);
  writer.u32(input.sequence);
  if (base !== sighash.single && base !== sighash.none)
    writer.bytes(sha256d(encodeOutputs(tx.outputs)));
  else if (base === sighash.single && index < tx.outputs.length)
    writer.bytes(sha256d(encodeOutputs([tx.outputs[index]])));
  else writer.bytes(zero);
  writer.u32(tx.locktime);
  writer.u32(type);
  return sha256d(writer.take());
}

/** BIP341, key path (extension flag 0). Null for a hash type the BIP does not define. */
export function hashTaproot(
  tx: Tx,
  index: number,
  spent: readonly SpentOutput[],
  type: number,
  annex: Uint8Array | null,
): Uint8Array | null {
  if (![0x00, 0x01, 0x02, 0x03, 0x81, 0x82, 0x83].includes(type)) return null;
  const anyone = (type & sighash.anyoneCanPay) !== 0;
  const base = type & 3;
  if (base === sighash.single && index >= tx.outputs.length) return null;
  const input = tx.inputs[index];
  const writer = new ByteWriter();
  writer.u8(0);
  writer.u8(type);
  writer.i32(tx.version);
  writer.u32(tx.locktime);
  if (!anyone) {
    const amounts = new ByteWriter();
    const scripts = new ByteWriter();
    for (const output of spent) {
      amounts.u64(output.valueSats);
      scripts.varbytes(output.script);
    }
    writer.bytes(sha256(encodeOutpoints(tx)));
    writer.bytes(sha256(amounts.take()));
    writer.bytes(sha256(scripts.take()));
    writer.bytes(sha256(encodeSequences(tx)));
  }
  if (base !== sighash.none && base !== sighash.single)
    writer.bytes(sha256(encodeOutputs(tx.outputs)));
  writer.u8(annex === null ? 0 : 1);
  if (anyone) {
    writer.bytes(input.previousTxid);
    writer.u32(input.previousIndex);
    writer.u64(spent[index].valueSats);
    writer.varbytes(spent[index].script);
    writer.u32(input.sequence);
  } else writer.u32(index);
  if (annex !== null) {
    const prefixed = new ByteWriter();
    prefixed.varbytes(annex);
    writer.bytes(sha256(prefixed.take()));
  }
  if (base === sighash.single) writer.bytes(sha256(encodeOutputs([tx.outputs[index]])));
  return taggedHash('TapSighash', writer.take());
}

/** A DER signature with its hash type, low S. */
export function signEcdsa(hash: Uint8Array, secretKey: Uint8Array, type: number): Uint8Array {
  const signature = secp256k1.sign(hash, secretKey, { prehash: false, format: 'der', lowS: true });
  return concatBytes(signature, Uint8Array.of(type));
}

/** `OP_DUP OP_HASH160 <hash> OP_EQUALVERIFY OP_CHECKSIG`. */
export function keyHashScript(keyHash: Uint8Array): Uint8Array {
  return concatBytes(p2pkhHead, keyHash, Uint8Array.of(0x88, 0xac));
}

/** A witness script that throws `items` stack elements away and succeeds: anyone can spend it, with any weight. */
export function dropScript(items: number): Uint8Array {
  const pairs = items >> 1;
  const script = new Uint8Array(pairs + (items & 1) + 1).fill(0x6d, 0, pairs);
  if (items & 1) script[pairs] = 0x75;
  script[script.length - 1] = 0x51;
  return script;
}

/** The pushes of a push-only script; null when it holds anything else. */
export function decodePushes(script: Uint8Array): Uint8Array[] | null {
  const pushes: Uint8Array[] = [];
  for (let at = 0; at < script.length; ) {
    const opcode = script[at++];
    let length: number;
    if (opcode < 0x4c) length = opcode;
    else if (opcode === 0x4c && at < script.length) length = script[at++];
    else if (opcode === 0x4d && at + 1 < script.length) {
      length = script[at] | (script[at + 1] << 8);
      at += 2;
    } else return null;
    if (at + length > script.length) return null;
    pushes.push(script.subarray(at, at + length));
    at += length;
  }
  return pushes;
}

/** One minimal push of `data` (at most 75 bytes here). */
export function encodePush(data: Uint8Array): Uint8Array {
  if (data.length > 75) throw new RangeError('push too long');
  return concatBytes(Uint8Array.of(data.length), data);
}

/** Legacy signature operations of one script, CHECKMULTISIG counted as 20 (`GetSigOpCount(false)`). */
export function countSigops(script: Uint8Array): number {
  let count = 0;
  for (let at = 0; at < script.length; ) {
    const opcode = script[at++];
    if (opcode < 0x4c) at += opcode;
    else if (opcode === 0x4c) at += 1 + (script[at] ?? 0);
    else if (opcode === 0x4d) at += 2 + ((script[at] ?? 0) | ((script[at + 1] ?? 0) << 8));
    else if (opcode === 0x4e) return count;
    else if (opcode === 0xac || opcode === 0xad) count += 1;
    else if (opcode === 0xae || opcode === 0xaf) count += 20;
  }
  return count;
}

/** Sigop cost of an input's witness program: one for P2WPKH (also nested), none for what else is spendable here. */
export function countWitnessSigops(scriptSig: Uint8Array, output: Uint8Array): number {
  const kind = kindOfScript(output);
  if (kind === 'p2wpkh') return 1;
  if (kind !== 'p2sh') return 0;
  const pushes = decodePushes(scriptSig);
  return pushes?.length === 1 && kindOfScript(pushes[0]) === 'p2wpkh' ? 1 : 0;
}

const p2pkhHead = Uint8Array.of(0x76, 0xa9, 0x14);

function startsWith(bytes: Uint8Array, head: Uint8Array): boolean {
  return head.every((byte, at) => bytes[at] === byte);
}

function encodeOutpoints(tx: Tx): Uint8Array {
  const writer = new ByteWriter();
  for (const input of tx.inputs) {
    writer.bytes(input.previousTxid);
    writer.u32(input.previousIndex);
  }
  return writer.take();
}

function encodeSequences(tx: Tx): Uint8Array {
  const writer = new ByteWriter();
  for (const input of tx.inputs) writer.u32(input.sequence);
  return writer.take();
}

function encodeOutputs(outputs: readonly SpentOutput[]): Uint8Array {
  const writer = new ByteWriter();
  for (const output of outputs) {
    writer.u64(output.valueSats);
    writer.varbytes(output.script);
  }
  return writer.take();
}
