/**
 * The hashes of Bitcoin over whole byte arrays: SHA-256, double SHA-256, HASH160 and BIP340 tagged hashes.
 *
 * Results are in wire order: `sha256d(header)` has its zeros at the end. RIPEMD-160 comes from @noble/hashes; SHA-256 is
 * ours (`sha256.ts`), because merkle trees and transaction ids of a full template are on the way of every new block.
 */

import { ripemd160 } from '@noble/hashes/legacy.js';
import { concatBytes, encodeUtf8 } from './bytes.ts';
import { compress, compressPaddingOf64, hashStateAgain, resetState } from './sha256.ts';

/** SHA-256 of any number of bytes → 32 bytes. */
export function sha256(bytes: Uint8Array): Uint8Array {
  const state = new Int32Array(8);
  const block = new Int32Array(16);
  resetState(state);
  absorb(state, block, bytes);
  return stateBytes(state);
}

/** SHA-256 of SHA-256 (Bitcoin's hash256) → 32 bytes in wire order. */
export function sha256d(bytes: Uint8Array): Uint8Array {
  const state = new Int32Array(8);
  const block = new Int32Array(16);
  resetState(state);
  absorb(state, block, bytes);
  hashStateAgain(state, block);
  return stateBytes(state);
}

/** Double SHA-256 of `left` followed by `right`, 32 bytes each: one step of a merkle tree. */
export function sha256dPair(left: Uint8Array, right: Uint8Array): Uint8Array {
  const state = new Int32Array(8);
  const block = new Int32Array(16);
  for (let i = 0; i < 8; i++) {
    block[i] = wordAt(left, 4 * i);
    block[i + 8] = wordAt(right, 4 * i);
  }
  resetState(state);
  compress(state, block);
  compressPaddingOf64(state, block);
  hashStateAgain(state, block);
  return stateBytes(state);
}

/** RIPEMD-160 of SHA-256 → 20 bytes: what P2PKH, P2SH and P2WPKH commit to. */
export function hash160(bytes: Uint8Array): Uint8Array {
  return ripemd160(sha256(bytes));
}

/** BIP340 tagged hash: SHA-256 of SHA-256(tag) twice, then the message → 32 bytes. */
export function taggedHash(tag: string, message: Uint8Array): Uint8Array {
  const tagHash = sha256(encodeUtf8(tag));
  return sha256(concatBytes(tagHash, tagHash, message));
}

/** Compresses all of `bytes` and the padding into `state`. `block` is scratch. */
function absorb(state: Int32Array, block: Int32Array, bytes: Uint8Array): void {
  const whole = bytes.length - (bytes.length % 64);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let offset = 0; offset < whole; offset += 64) {
    for (let i = 0; i < 16; i++) block[i] = view.getInt32(offset + 4 * i);
    compress(state, block);
  }
  // What is left, a one bit, and in the last block the length in bits.
  for (let i = 0; i < 16; i++) block[i] = 0;
  for (let i = whole; i < bytes.length; i++) orByte(block, i - whole, bytes[i]!);
  orByte(block, bytes.length - whole, 0x80);
  if (bytes.length - whole >= 56) {
    compress(state, block);
    for (let i = 0; i < 16; i++) block[i] = 0;
  }
  block[14] = Math.floor(bytes.length / 0x20000000);
  block[15] = bytes.length * 8;
  compress(state, block);
}

function orByte(block: Int32Array, index: number, byte: number): void {
  block[index >>> 2]! |= byte << (24 - 8 * (index & 3));
}

function wordAt(bytes: Uint8Array, offset: number): number {
  return (
    (bytes[offset]! << 24) |
    (bytes[offset + 1]! << 16) |
    (bytes[offset + 2]! << 8) |
    bytes[offset + 3]!
  );
}

function stateBytes(state: Int32Array): Uint8Array {
  const bytes = new Uint8Array(32);
  for (let i = 0; i < 8; i++) {
    const word = state[i]!;
    bytes[4 * i] = word >>> 24;
    bytes[4 * i + 1] = word >>> 16;
    bytes[4 * i + 2] = word >>> 8;
    bytes[4 * i + 3] = word;
  }
  return bytes;
}
