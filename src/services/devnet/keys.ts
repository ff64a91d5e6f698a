/**
 * Keys of a development wallet: one per address, derived from the wallet's 32-byte seed by a tagged hash of type, branch
 * and index. Not BIP32: there are no extended keys and no descriptors to export. Signs all four single-key script types.
 */
import { schnorr, secp256k1 } from '@noble/curves/secp256k1.js';
import { taprootTweakPrivKey, taprootTweakPubkey } from '@scure/btc-signer/utils.js';
import { concatBytes } from '../../core/bitcoin/bytes.ts';
import { hash160, taggedHash } from '../../core/bitcoin/hash.ts';
import type { Tx } from '../../core/bitcoin/tx.ts';
import {
  encodePush,
  hashLegacy,
  hashSegwit,
  hashTaproot,
  keyHashScript,
  type SpentOutput,
  sighash,
  signEcdsa,
} from './script.ts';

/** Address types by Core's names. */
export type AddressType = 'legacy' | 'p2sh-segwit' | 'bech32' | 'bech32m';

export const addressTypes: readonly AddressType[] = ['legacy', 'p2sh-segwit', 'bech32', 'bech32m'];

export type WalletKey = {
  type: AddressType;
  change: boolean;
  index: number;
  secretKey: Uint8Array;
  /** Compressed, 33 bytes. */
  publicKey: Uint8Array;
  /** What an address of this key pays to. */
  script: Uint8Array;
};

/** The key at a place of the wallet. The same place always gives the same key. */
export function deriveKey(
  seed: Uint8Array,
  place: { type: AddressType; change: boolean; index: number },
): WalletKey {
  const label = new TextEncoder().encode(`${place.type}/${place.change ? 1 : 0}/${place.index}`);
  const secretKey = taggedHash('headframe/devnet/key', concatBytes(seed, label));
  const publicKey = secp256k1.getPublicKey(secretKey, true);
  return { ...place, secretKey, publicKey, script: scriptOf(place.type, publicKey) };
}

/** Weight units an input of this type adds when it is spent with the longest signature. */
export const inputWeights: Readonly<Record<AddressType, number>> = {
  legacy: (32 + 4 + 1 + 1 + 72 + 1 + 33 + 4) * 4 + 1,
  'p2sh-segwit': (32 + 4 + 1 + 23 + 4) * 4 + 1 + 1 + 72 + 1 + 33,
  bech32: (32 + 4 + 1 + 4) * 4 + 1 + 1 + 72 + 1 + 33,
  bech32m: (32 + 4 + 1 + 4) * 4 + 1 + 1 + 64,
};

/** Script and witness that spend input `index` of `tx` with `key`. `spent`: the outputs of all inputs, in order. */
export function signInput(
  tx: Tx,
  index: number,
  spent: readonly SpentOutput[],
  key: WalletKey,
): { script: Uint8Array; witness: Uint8Array[] } {
  const { publicKey, secretKey } = key;
  const none = new Uint8Array(0);
  const keyHash = (): Uint8Array => hash160(publicKey);
  switch (key.type) {
    case 'legacy': {
      const hash = hashLegacy(tx, index, spent[index].script, sighash.all);
      const signature = signEcdsa(hash, secretKey, sighash.all);
      return { script: concatBytes(encodePush(signature), encodePush(publicKey)), witness: [] };
    }
    case 'p2sh-segwit':
    case 'bech32': {
      const code = keyHashScript(keyHash());
      const hash = hashSegwit(tx, index, code, spent[index].valueSats, sighash.all);
      const witness = [signEcdsa(hash, secretKey, sighash.all), publicKey];
      return { script: key.type === 'bech32' ? none : encodePush(redeemScriptOf(key)), witness };
    }
    case 'bech32m': {
      const hash = hashTaproot(tx, index, spent, sighash.default, null);
      if (hash === null) throw new Error('the default hash type is always defined');
      // No extra randomness: the same transaction signs to the same bytes, which keeps tests repeatable.
      const signature = schnorr.sign(hash, taprootTweakPrivKey(secretKey), new Uint8Array(32));
      return { script: none, witness: [signature] };
    }
  }
}

/** The P2WPKH program a P2SH-P2WPKH address hashes. */
export function redeemScriptOf(key: WalletKey): Uint8Array {
  return scriptOf('bech32', key.publicKey);
}

function scriptOf(type: AddressType, publicKey: Uint8Array): Uint8Array {
  switch (type) {
    case 'legacy':
      return keyHashScript(hash160(publicKey));
    case 'p2sh-segwit': {
      const redeem = scriptOf('bech32', publicKey);
      return concatBytes(Uint8Array.of(0xa9, 0x14), hash160(redeem), Uint8Array.of(0x87));
    }
    case 'bech32':
      return concatBytes(Uint8Array.of(0x00, 0x14), hash160(publicKey));
    case 'bech32m': {
      const [tweaked] = taprootTweakPubkey(publicKey.subarray(1), new Uint8Array(0));
      return concatBytes(Uint8Array.of(0x51, 0x20), tweaked);
    }
  }
}
