/**
 * Partially signed transactions (BIP174, version 0) for the wallet, on @scure/btc-signer: the signing path there is not
 * the one of `script.ts`, so each checks the other. Functions take and give base64 as the RPCs do; what does not decode is
 * refused with Core's -22.
 */
import { base64 } from '@scure/base';
import { PSBTCombine, SigHash, Transaction } from '@scure/btc-signer';
import { encodeHex, encodeHexReversed } from '../../core/bitcoin/bytes.ts';
import { decodeTx, type Tx } from '../../core/bitcoin/tx.ts';
import { type ChainTx, completeTx, outpointKey, readChainTx } from './blocks.ts';
import { scriptJson, transactionJson } from './describe.ts';
import { amountJson } from './json.ts';
import { redeemScriptOf, type WalletKey } from './keys.ts';
import { RpcError, rpcCode } from './rpcerror.ts';

/** What a wallet knows about an output an input spends. */
export type KnownOutput = {
  output: { valueSats: bigint; script: Uint8Array };
  walletKey: WalletKey;
  entry: ChainTx;
};

const psbtCharsMax = 4_000_000;
const openOptions = {
  allowUnknownOutputs: true,
  allowUnknownInputs: true,
  allowLegacyWitnessUtxo: true,
  allowUnknownVersion: true,
  disableScriptCheck: true,
  allowUnknown: true,
} as const;

/** An unsigned transaction as PSBT, with what `lookup` knows about its inputs filled in. */
export function createPsbt(tx: Tx, lookup: (key: string) => KnownOutput | null): string {
  const psbt = new Transaction({ ...openOptions, version: tx.version, lockTime: tx.locktime });
  for (const input of tx.inputs)
    psbt.addInput({
      txid: encodeHexReversed(input.previousTxid),
      index: input.previousIndex,
      sequence: input.sequence,
    });
  for (const output of tx.outputs)
    psbt.addOutput({ script: output.script, amount: output.valueSats });
  fillInputs(psbt, lookup);
  return base64.encode(psbt.toPSBT(0));
}

/** `walletprocesspsbt`: fills in, signs and finalises what the wallet can. */
export function processPsbt(
  text: string,
  lookup: (key: string) => KnownOutput | null,
  options: { sign: boolean; finalize: boolean },
): { psbt: string; complete: boolean; hex: string | null } {
  const psbt = openPsbt(text);
  fillInputs(psbt, lookup);
  if (options.sign)
    for (let at = 0; at < psbt.inputsLength; at += 1) {
      const known = lookup(inputKey(psbt, at));
      if (known === null || isFinal(psbt, at)) continue;
      try {
        psbt.signIdx(
          known.walletKey.secretKey,
          at,
          [SigHash.ALL, SigHash.DEFAULT],
          new Uint8Array(32),
        );
      } catch {
        // Another input lacks its output (taproot signs them all), or a sighash we do not offer: stays unsigned.
        continue;
      }
      if (options.finalize) tryFinalize(psbt, at);
    }
  // As Core: complete also when the signatures suffice but were left unmerged on request.
  const complete = isComplete(psbt);
  const allFinal = complete && options.finalize;
  return {
    psbt: base64.encode(psbt.toPSBT(0)),
    complete,
    hex: allFinal ? encodeHex(psbt.extract()) : null,
  };
}

/** `finalizepsbt`. */
export function finalizePsbt(
  text: string,
  extract: boolean,
): { psbt?: string; hex?: string; complete: boolean } {
  const psbt = openPsbt(text);
  for (let at = 0; at < psbt.inputsLength; at += 1) if (!isFinal(psbt, at)) tryFinalize(psbt, at);
  const complete = everyInput(psbt, (at) => isFinal(psbt, at));
  return complete && extract
    ? { hex: encodeHex(psbt.extract()), complete }
    : { psbt: base64.encode(psbt.toPSBT(0)), complete };
}

/** `combinepsbt`. */
export function combinePsbts(texts: readonly string[]): string {
  if (texts.length === 0)
    throw new RpcError(rpcCode.invalidParameter, "Parameter 'txs' cannot be empty");
  const parts = texts.map((text) => openPsbt(text).toPSBT(0));
  try {
    return base64.encode(PSBTCombine(parts, openOptions));
  } catch {
    throw new RpcError(rpcCode.invalidParameter, 'PSBTs not compatible (different transactions)');
  }
}

/** The unsigned transaction inside. */
export function unsignedOf(text: string): ChainTx {
  return unsignedTx(openPsbt(text));
}

/** `decodepsbt`. */
export function decodePsbt(text: string): Record<string, unknown> {
  const psbt = openPsbt(text);
  const unsigned = unsignedTx(psbt);
  let inSats: bigint | null = 0n;
  const inputs = unsigned.tx.inputs.map((txInput, at) => {
    const input = psbt.getInput(at);
    const previous = input.nonWitnessUtxo && encodedPrevious(input.nonWitnessUtxo);
    const spent =
      input.witnessUtxo ??
      (previous
        ? {
            amount: previous.tx.outputs[txInput.previousIndex].valueSats,
            script: previous.tx.outputs[txInput.previousIndex].script,
          }
        : null);
    if (spent === null) inSats = null;
    else if (inSats !== null) inSats += spent.amount;
    return {
      ...(input.witnessUtxo
        ? {
            witness_utxo: {
              amount: amountJson(input.witnessUtxo.amount),
              scriptPubKey: scriptJson(input.witnessUtxo.script),
            },
          }
        : {}),
      ...(previous ? { non_witness_utxo: transactionJson(previous) } : {}),
      ...(input.partialSig?.length
        ? {
            partial_signatures: Object.fromEntries(
              input.partialSig.map(([key, signature]) => [encodeHex(key), encodeHex(signature)]),
            ),
          }
        : {}),
      ...(input.redeemScript ? { redeem_script: scriptJson(input.redeemScript) } : {}),
      ...(input.finalScriptSig?.length
        ? { final_scriptSig: { hex: encodeHex(input.finalScriptSig) } }
        : {}),
      ...(input.finalScriptWitness
        ? { final_scriptwitness: input.finalScriptWitness.map((item) => encodeHex(item)) }
        : {}),
      ...(input.tapKeySig ? { taproot_key_path_sig: encodeHex(input.tapKeySig) } : {}),
      ...(input.tapInternalKey ? { taproot_internal_key: encodeHex(input.tapInternalKey) } : {}),
    };
  });
  const outSats = unsigned.tx.outputs.reduce((sum, output) => sum + output.valueSats, 0n);
  return {
    tx: transactionJson(unsigned),
    global_xpubs: [],
    psbt_version: 0,
    proprietary: [],
    unknown: {},
    inputs,
    outputs: unsigned.tx.outputs.map(() => ({})),
    ...(inSats === null ? {} : { fee: amountJson(inSats - outSats) }),
  };
}

function openPsbt(text: string): Transaction {
  if (text.length > psbtCharsMax)
    throw new RpcError(rpcCode.deserialization, 'TX decode failed: too large');
  let bytes: Uint8Array;
  try {
    bytes = base64.decode(text);
  } catch {
    throw new RpcError(rpcCode.deserialization, 'TX decode failed invalid base64');
  }
  try {
    return Transaction.fromPSBT(bytes, openOptions);
  } catch (error) {
    throw new RpcError(
      rpcCode.deserialization,
      `TX decode failed ${error instanceof Error ? error.message : ''}`.trim(),
    );
  }
}

function fillInputs(psbt: Transaction, lookup: (key: string) => KnownOutput | null): void {
  for (let at = 0; at < psbt.inputsLength; at += 1) {
    const known = lookup(inputKey(psbt, at));
    if (known === null || isFinal(psbt, at)) continue;
    const { walletKey, output, entry } = known;
    const witnessUtxo = { amount: output.valueSats, script: output.script };
    switch (walletKey.type) {
      case 'legacy':
        psbt.updateInput(at, { nonWitnessUtxo: entry.raw }, true);
        break;
      case 'p2sh-segwit':
        psbt.updateInput(
          at,
          { witnessUtxo, nonWitnessUtxo: entry.raw, redeemScript: redeemScriptOf(walletKey) },
          true,
        );
        break;
      case 'bech32':
        psbt.updateInput(at, { witnessUtxo, nonWitnessUtxo: entry.raw }, true);
        break;
      case 'bech32m':
        psbt.updateInput(
          at,
          { witnessUtxo, tapInternalKey: walletKey.publicKey.subarray(1) },
          true,
        );
        break;
    }
  }
}

function inputKey(psbt: Transaction, at: number): string {
  const input = psbt.getInput(at);
  return outpointKey(encodeHex(input.txid ?? new Uint8Array(32)), input.index ?? 0);
}

function isFinal(psbt: Transaction, at: number): boolean {
  const input = psbt.getInput(at);
  return Boolean(input.finalScriptWitness || input.finalScriptSig?.length);
}

function isComplete(psbt: Transaction): boolean {
  return everyInput(psbt, (at) => {
    const input = psbt.getInput(at);
    return isFinal(psbt, at) || Boolean(input.partialSig?.length || input.tapKeySig);
  });
}

function everyInput(psbt: Transaction, good: (at: number) => boolean): boolean {
  for (let at = 0; at < psbt.inputsLength; at += 1) if (!good(at)) return false;
  return psbt.inputsLength > 0;
}

function tryFinalize(psbt: Transaction, at: number): void {
  try {
    psbt.finalizeIdx(at);
  } catch {
    // Not enough signatures; the input stays as it is and the answer says `complete: false`.
  }
}

function unsignedTx(psbt: Transaction): ChainTx {
  const decoded = decodeTx(psbt.unsignedTx);
  if (!decoded.ok)
    throw new RpcError(rpcCode.deserialization, `TX decode failed ${decoded.reason}`);
  return completeTx(decoded.tx);
}

type PreviousTx = NonNullable<ReturnType<Transaction['getInput']>['nonWitnessUtxo']>;

/** The signer keeps previous transactions decoded in its own shape; we want ours. */
function encodedPrevious(previous: PreviousTx): ChainTx | null {
  const tx: Tx = {
    version: previous.version,
    inputs: previous.inputs.map((input, at) => ({
      previousTxid: Uint8Array.from(input.txid).reverse(),
      previousIndex: input.index,
      script: input.finalScriptSig ?? new Uint8Array(0),
      sequence: input.sequence,
      witness: previous.witnesses?.[at] ?? [],
    })),
    outputs: previous.outputs.map((output) => ({
      valueSats: output.amount,
      script: output.script,
    })),
    locktime: previous.lockTime,
  };
  return readChainTx(completeTx(tx).raw);
}
