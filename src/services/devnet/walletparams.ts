/**
 * What wallet methods share in reading their parameters: addresses, outpoints, outputs, draft transactions, with Core's
 * errors.
 */
import { decodeAddress } from '../../core/bitcoin/address.ts';
import type { Tx, TxOutput } from '../../core/bitcoin/tx.ts';
import { type Args, readAmount, readHash, readHex } from './args.ts';
import { type AddressType, addressTypes } from './keys.ts';
import { RpcError, rpcCode } from './rpcerror.ts';
import type { Wallet, WalletTx } from './wallet.ts';

const outputsMax = 20_000;

/** The output script of a regtest address; -5 for anything else. */
export function scriptOfAddress(text: string): Uint8Array {
  const address = decodeAddress(text, 'regtest');
  if (!address.ok)
    throw new RpcError(
      rpcCode.invalidAddressOrKey,
      `Invalid Bitcoin address: ${text.slice(0, 100)}`,
    );
  return address.script;
}

/** Core's name of an address type; null gives bech32. */
export function addressTypeOf(text: string | null): AddressType {
  if (text === null) return 'bech32';
  const type = addressTypes.find((known) => known === text);
  if (!type)
    throw new RpcError(rpcCode.invalidAddressOrKey, `Unknown address type '${text.slice(0, 40)}'`);
  return type;
}

/** A transaction of the wallet by id; -5 when it is none. */
export function walletTxOf(wallet: Wallet, id: string): WalletTx {
  const found = wallet.transactions.get(id);
  if (!found)
    throw new RpcError(rpcCode.invalidAddressOrKey, 'Invalid or non-wallet transaction id');
  return found;
}

/** `{txid, vout, sequence?}`. */
export function readOutpoint(value: unknown): { id: string; index: number; sequence?: number } {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RpcError(rpcCode.type, 'an input is an object with txid and vout');
  const fields = new Map<string, unknown>(Object.entries(value));
  const txid = fields.get('txid');
  const vout = fields.get('vout');
  const sequence = fields.get('sequence');
  if (typeof txid !== 'string')
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, missing txid key');
  if (typeof vout !== 'number' || !Number.isInteger(vout))
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, missing vout key');
  if (vout < 0)
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, vout cannot be negative');
  if (sequence === undefined) return { id: readHash(txid, 'txid'), index: vout };
  if (typeof sequence !== 'number' || sequence < 0 || sequence > 0xffff_ffff)
    throw new RpcError(
      rpcCode.invalidParameter,
      'Invalid parameter, sequence number is out of range',
    );
  return { id: readHash(txid, 'txid'), index: vout, sequence };
}

/** Outputs as an object or an array of objects: address → amount, or `data` → hex. */
export function readOutputs(value: unknown): TxOutput[] {
  const parts = Array.isArray(value) ? value : [value];
  const outputs: TxOutput[] = [];
  const seen = new Set<string>();
  for (const part of parts) {
    if (typeof part !== 'object' || part === null || Array.isArray(part))
      throw new RpcError(
        rpcCode.invalidParameter,
        'Invalid parameter, key-value pair not an object as expected',
      );
    for (const [name, amount] of Object.entries(part)) {
      if (outputs.length >= outputsMax)
        throw new RpcError(rpcCode.invalidParameter, `more than ${outputsMax} outputs`);
      if (seen.has(name))
        throw new RpcError(
          rpcCode.invalidParameter,
          name === 'data'
            ? 'Invalid parameter, duplicate key: data'
            : `Invalid parameter, duplicated address: ${name}`,
        );
      seen.add(name);
      if (name === 'data') {
        const data = readHex(String(amount));
        if (data === null || data.length > 80)
          throw new RpcError(
            rpcCode.invalidParameter,
            `Data must be hexadecimal string (not '${String(amount).slice(0, 100)}')`,
          );
        const head = data.length < 0x4c ? [0x6a, data.length] : [0x6a, 0x4c, data.length];
        outputs.push({ valueSats: 0n, script: Uint8Array.of(...head, ...data) });
        continue;
      }
      const address = decodeAddress(name, 'regtest');
      if (!address.ok)
        throw new RpcError(
          rpcCode.invalidAddressOrKey,
          `Invalid Bitcoin address: ${name.slice(0, 100)}`,
        );
      outputs.push({ valueSats: readAmount(amount), script: address.script });
    }
  }
  return outputs;
}

/** `createrawtransaction`'s and `createpsbt`'s transaction. */
export function draftTx(args: Args): Tx {
  const replaceable = args.flag('replaceable', true);
  const locktime = args.integer('locktime', 0);
  if (locktime < 0 || locktime > 0xffff_ffff)
    throw new RpcError(rpcCode.invalidParameter, 'Invalid parameter, locktime out of range');
  const sequence = replaceable ? 0xffff_fffd : locktime > 0 ? 0xffff_fffe : 0xffff_ffff;
  return {
    version: 2,
    inputs: args.list('inputs').map((value) => {
      const outpoint = readOutpoint(value);
      return {
        previousTxid: Uint8Array.from(Buffer.from(outpoint.id, 'hex')).reverse(),
        previousIndex: outpoint.index,
        script: new Uint8Array(0),
        sequence: outpoint.sequence ?? sequence,
        witness: [],
      };
    }),
    outputs: readOutputs(args.raw('outputs')),
    locktime,
  };
}
