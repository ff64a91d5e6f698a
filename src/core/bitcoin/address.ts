/**
 * Addresses ↔ output scripts: base58check P2PKH and P2SH, bech32 P2WPKH and P2WSH (BIP173), bech32m P2TR (BIP350, BIP341).
 *
 * Money is sent to what this file accepts, so it fails closed: everything that is not one of the five forms of the asked
 * network is refused with a reason that says what is wrong, and length is checked before anything is decoded (base58 is
 * quadratic). One script has one spelling: bech32 in capitals is accepted and made lower-case.
 */

import { secp256k1 } from '@noble/curves/secp256k1.js';
import { base58, bech32, bech32m } from '@scure/base';
import { concatBytes, encodeHex, equalBytes } from './bytes.ts';
import { sha256d } from './hash.ts';
import { NETWORKS, type Network } from './network.ts';

export type AddressKind = 'p2pkh' | 'p2sh' | 'p2wpkh' | 'p2wsh' | 'p2tr';

export type AddressAnswer =
  | {
      ok: true;
      script: Uint8Array;
      kind: AddressKind;
      /** The one spelling under which this script is booked. */
      canonical: string;
      /** Present when coins sent there are known or very likely to be lost: all zeros, all ones, burn addresses, no curve point. */
      unusual?: true;
    }
  | { ok: false; reason: string };

/** BIP173: a bech32 string has at most 90 characters. Base58 addresses are far shorter. */
export const ADDRESS_CHARACTERS_MAX = 90;
const BASE58_CHARACTERS_MIN = 26;
const BASE58_CHARACTERS_MAX = 35;

const OP_0 = 0x00;
const OP_1 = 0x51;
const OP_DUP = 0x76;
const OP_EQUAL = 0x87;
const OP_EQUALVERIFY = 0x88;
const OP_HASH160 = 0xa9;
const OP_CHECKSIG = 0xac;

/** Human-readable parts that people paste into the wrong pool, and what to call them. */
const KNOWN_PREFIXES: ReadonlyMap<string, string> = new Map([
  ['bc', 'Bitcoin mainnet'],
  ['tb', 'a Bitcoin test network (testnet3, testnet4 or signet)'],
  ['bcrt', 'Bitcoin regtest'],
  ['ltc', 'Litecoin'],
  ['tltc', 'Litecoin testnet'],
  ['rltc', 'Litecoin regtest'],
  ['syl', 'OpenSY'],
  ['tsyl', 'OpenSY testnet'],
  ['rsyl', 'OpenSY regtest'],
  ['vtc', 'Vertcoin'],
  ['dgb', 'DigiByte'],
  ['grs', 'Groestlcoin'],
  ['btg', 'Bitcoin Gold'],
  ['ep', 'eCash'],
  ['lnbc', 'a Lightning invoice'],
  ['lntb', 'a Lightning testnet invoice'],
  ['lno', 'a Lightning offer'],
  ['lnurl', 'an LNURL'],
  ['sp', 'a silent payment address'],
  ['tsp', 'a silent payment test address'],
  ['npub', 'a Nostr key'],
]);

/** Version bytes of base58 addresses and keys, and what to call them. */
const KNOWN_VERSIONS: ReadonlyMap<number, string> = new Map([
  [0x00, 'Bitcoin mainnet'],
  [0x05, 'Bitcoin mainnet'],
  [0x6f, 'a Bitcoin test network (testnet3, testnet4, signet or regtest)'],
  [0xc4, 'a Bitcoin test network (testnet3, testnet4, signet or regtest)'],
  [0x30, 'Litecoin'],
  [0x32, 'Litecoin'],
  [0x3a, 'Litecoin testnet'],
  [0x1e, 'Dogecoin'],
  [0x16, 'Dogecoin'],
  [0x4c, 'Dash'],
  [0x10, 'Dash'],
]);

/** HASH160 payloads nobody has a key for: 1BitcoinEaterAddressDontSendf59kuE and 1CounterpartyXXXXXXXXXXXXXXXUWLpVr. */
const BURN_PAYLOADS: ReadonlySet<string> = new Set([
  '759d6677091e973b9e9d99f19c68fbf43e3f05f9',
  '818895f3dc2c178629d3d2d8fa3ec4a3f8179821',
]);

/**
 * Address text → the script that pays it on `network`. Total: never throws, whatever the text. testnet3, testnet4 and
 * signet share all their prefixes and cannot be told apart; regtest shares the base58 ones.
 */
export function decodeAddress(text: string, network: Network): AddressAnswer {
  if (text.length === 0) return refuse('address is empty');
  if (/^bitcoin:/i.test(text.slice(0, 8))) {
    return refuse('this is a bitcoin: URI, give the bare address');
  }
  if (text.length > ADDRESS_CHARACTERS_MAX) {
    return refuse(`address is longer than ${ADDRESS_CHARACTERS_MAX} characters`);
  }
  const stray = /[^0-9A-Za-z]/u.exec(text);
  if (stray !== null) {
    const code = stray[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
    return refuse(`address contains the character U+${code} at position ${stray.index + 1}`);
  }
  const prefix = prefixOf(text);
  return prefix === null ? decodeBase58(text, network) : decodeSegwit(text, prefix, network);
}

/** Script → the address that pays it on `network`, or null when the script is none of the five standard forms. */
export function encodeAddress(script: Uint8Array, network: Network): string | null {
  const { p2pkhVersion, p2shVersion, bech32Prefix } = NETWORKS[network];
  const [first, second] = script;
  if (script.length === 25 && equalBytes(script, p2pkhScript(script.slice(3, 23)))) {
    return encodeBase58(p2pkhVersion, script.slice(3, 23));
  }
  if (script.length === 23 && equalBytes(script, p2shScript(script.slice(2, 22)))) {
    return encodeBase58(p2shVersion, script.slice(2, 22));
  }
  if (first === OP_0 && (second === 20 || second === 32) && script.length === second + 2) {
    return bech32.encode(bech32Prefix, [0, ...bech32.toWords(script.slice(2))]);
  }
  if (first === OP_1 && second === 32 && script.length === 34) {
    return bech32m.encode(bech32Prefix, [1, ...bech32m.toWords(script.slice(2))]);
  }
  return null;
}

/**
 * The human-readable part when the text is meant as bech32: it begins with one we know, or is too long for base58 and has
 * letters in front of its last `1`. Null sends the text to base58. Test addresses in base58 begin with m or n, so a short
 * text with such a prefix is one of those.
 */
function prefixOf(text: string): string | null {
  const lower = text.toLowerCase();
  const isLong = text.length > BASE58_CHARACTERS_MAX;
  for (const known of KNOWN_PREFIXES.keys()) {
    if (lower.startsWith(known + '1') && (isLong || !/^[mn]/.test(known))) return known;
  }
  const separator = text.lastIndexOf('1');
  return isLong && /^[a-z]+$/.test(lower.slice(0, separator)) ? lower.slice(0, separator) : null;
}

function decodeSegwit(text: string, prefix: string, network: Network): AddressAnswer {
  const lower = text.toLowerCase();
  if (text !== lower && text !== text.toUpperCase()) {
    return refuse('bech32 address mixes upper and lower case');
  }
  const wanted = NETWORKS[network].bech32Prefix;
  const expected = bech32.decodeUnsafe(lower, ADDRESS_CHARACTERS_MAX);
  const expectedM = bech32m.decodeUnsafe(lower, ADDRESS_CHARACTERS_MAX);
  const decoded = expected ?? expectedM;
  if (prefix !== wanted) {
    const name = KNOWN_PREFIXES.get(prefix) ?? `an unknown network ("${prefix}")`;
    return refuse(`address belongs to ${name}, this pool runs on ${network} ("${wanted}1…")`);
  }
  if (!decoded) return refuse('bech32 checksum is wrong: a character is mistyped or missing');
  const version = decoded.words[0];
  if (version === undefined) return refuse('bech32 address has no witness version');
  if (version > 16) return refuse(`witness version ${version} does not exist`);
  const program = bech32.fromWordsUnsafe(decoded.words.slice(1));
  if (!program) return refuse('bech32 padding is wrong');
  if (program.length < 2 || program.length > 40) {
    return refuse(`witness program of ${program.length} bytes is outside 2 to 40`);
  }
  if (version === 0 && !expected) return refuse('witness version 0 needs bech32, this is bech32m');
  if (version > 0 && !expectedM) {
    return refuse(`witness version ${version} needs bech32m, this is bech32`);
  }
  if (version > 1) return refuse(`witness version ${version} is not payable yet`);
  if (version === 0) {
    if (program.length !== 20 && program.length !== 32) {
      return refuse(`witness version 0 program of ${program.length} bytes, must be 20 or 32`);
    }
    return accept({
      script: concatBytes(Uint8Array.of(OP_0, program.length), program),
      kind: program.length === 20 ? 'p2wpkh' : 'p2wsh',
      canonical: lower,
      unusual: isKeyless(program),
    });
  }
  if (program.length === 2 && program[0] === 0x4e && program[1] === 0x73) {
    return refuse('pay-to-anchor address: anyone could spend it');
  }
  if (program.length !== 32) {
    return refuse(`taproot program of ${program.length} bytes, must be 32`);
  }
  return accept({
    script: concatBytes(Uint8Array.of(OP_1, 32), program),
    kind: 'p2tr',
    canonical: lower,
    unusual: isKeyless(program) || !isCurvePoint(program),
  });
}

function decodeBase58(text: string, network: Network): AddressAnswer {
  if (text.length < BASE58_CHARACTERS_MIN || text.length > BASE58_CHARACTERS_MAX) {
    return refuse(
      `not an address: ${text.length} characters, base58 has ${BASE58_CHARACTERS_MIN} to ${BASE58_CHARACTERS_MAX}`,
    );
  }
  const stray = /[0OIl]/.exec(text);
  if (stray !== null) {
    return refuse(
      `base58 has no "${stray[0]}" (position ${stray.index + 1}): a mistyped character`,
    );
  }
  const bytes = base58.decode(text);
  if (bytes.length !== 25) return refuse(`base58 address has ${bytes.length} bytes instead of 25`);
  const checksum = sha256d(bytes.slice(0, 21)).subarray(0, 4);
  if (!equalBytes(checksum, bytes.subarray(21))) {
    return refuse('base58 checksum is wrong: a character is mistyped or missing');
  }
  const version = bytes[0]!;
  const payload = bytes.slice(1, 21);
  const { p2pkhVersion, p2shVersion } = NETWORKS[network];
  const unusual = isKeyless(payload) || BURN_PAYLOADS.has(encodeHex(payload));
  if (version === p2pkhVersion) {
    return accept({ script: p2pkhScript(payload), kind: 'p2pkh', canonical: text, unusual });
  }
  if (version === p2shVersion) {
    return accept({ script: p2shScript(payload), kind: 'p2sh', canonical: text, unusual });
  }
  const name = KNOWN_VERSIONS.get(version) ?? `an unknown network (version byte ${version})`;
  return refuse(`address belongs to ${name}, this pool runs on ${network}`);
}

function encodeBase58(version: number, payload: Uint8Array): string {
  const body = concatBytes(Uint8Array.of(version), payload);
  return base58.encode(concatBytes(body, sha256d(body).subarray(0, 4)));
}

function p2pkhScript(hash: Uint8Array): Uint8Array {
  return concatBytes(
    Uint8Array.of(OP_DUP, OP_HASH160, 20),
    hash,
    Uint8Array.of(OP_EQUALVERIFY, OP_CHECKSIG),
  );
}

function p2shScript(hash: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(OP_HASH160, 20), hash, Uint8Array.of(OP_EQUAL));
}

/** All bytes zero or all ones: no one has found, and no one will find, a key or script for it. */
function isKeyless(payload: Uint8Array): boolean {
  return payload.every((byte) => byte === 0) || payload.every((byte) => byte === 0xff);
}

/** BIP341: an output whose x coordinate is on no point of the curve can never be spent. */
function isCurvePoint(x: Uint8Array): boolean {
  try {
    secp256k1.Point.fromBytes(concatBytes(Uint8Array.of(2), x));
    return true;
  } catch {
    return false;
  }
}

function accept(found: {
  script: Uint8Array;
  kind: AddressKind;
  canonical: string;
  unusual: boolean;
}): AddressAnswer {
  const { script, kind, canonical, unusual } = found;
  return unusual
    ? { ok: true, script, kind, canonical, unusual }
    : { ok: true, script, kind, canonical };
}

function refuse(reason: string): AddressAnswer {
  return { ok: false, reason };
}
