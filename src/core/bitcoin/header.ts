/**
 * The block header. 80 bytes on the wire, all integers little-endian:
 *
 *   0 version i32 | 4 previous block hash | 36 merkle root | 68 time u32 | 72 compact bits u32 | 76 nonce u32
 */

import { sha256d } from './hash.ts';

export type Header = {
  /** As an unsigned 32-bit integer; consensus reads it as signed. */
  version: number;
  previousHash: Uint8Array;
  merkleRoot: Uint8Array;
  /** Seconds since 1970. */
  time: number;
  bits: number;
  nonce: number;
};

/** Length of a header in bytes. */
export const HEADER_BYTES = 80;

/** Header → its 80 bytes. Hashes must be 32 bytes long, integers are taken modulo 2^32. */
export function encodeHeader(header: Header): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, header.version, true);
  bytes.set(header.previousHash, 4);
  bytes.set(header.merkleRoot, 36);
  view.setUint32(68, header.time, true);
  view.setUint32(72, header.bits, true);
  view.setUint32(76, header.nonce, true);
  return bytes;
}

/** 80 bytes → header, or null for any other length: every 80 bytes are some header. */
export function decodeHeader(bytes: Uint8Array): Header | null {
  if (bytes.length !== HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  return {
    version: view.getUint32(0, true),
    previousHash: bytes.slice(4, 36),
    merkleRoot: bytes.slice(36, 68),
    time: view.getUint32(68, true),
    bits: view.getUint32(72, true),
    nonce: view.getUint32(76, true),
  };
}

/** Block hash in wire order. Takes a header or its 80 bytes. */
export function hashHeader(header: Header | Uint8Array): Uint8Array {
  return sha256d(header instanceof Uint8Array ? header : encodeHeader(header));
}
