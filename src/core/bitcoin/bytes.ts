/**
 * Bytes and hex: the strict hex codec, and the reader and writer under every Bitcoin codec here.
 *
 * Bytes are in wire (internal) order everywhere; the `Reversed` pair makes and reads the byte-reversed hex that explorers
 * and the JSON-RPC of a node print. Integers are little-endian, lengths are CompactSize. Refused: odd hex, any character
 * outside 0-9a-fA-F, a CompactSize that is longer than it need be (as Bitcoin Core's `ReadCompactSize`).
 */

import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js';

const NOT_HEX = 0xff;

/** Character code → nibble, 0xff where the character is not hex. Every UTF-16 code has a row, so that no lookup needs a branch. */
const NIBBLES: Readonly<Uint8Array> = (() => {
  const table = new Uint8Array(0x10000).fill(NOT_HEX);
  for (let digit = 0; digit < 10; digit++) table[48 + digit] = digit;
  for (let digit = 10; digit < 16; digit++) {
    table[55 + digit] = digit;
    table[87 + digit] = digit;
  }
  return table;
})();

/** Hex of either case → bytes; null when the length is odd or any character is not hex. The empty string is no bytes. */
export function decodeHex(text: string): Uint8Array | null {
  if (text.length % 2 !== 0) return null;
  const bytes = new Uint8Array(text.length / 2);
  let seen = 0;
  for (let i = 0; i < bytes.length; i++) {
    const high = NIBBLES[text.charCodeAt(2 * i)]!;
    const low = NIBBLES[text.charCodeAt(2 * i + 1)]!;
    seen |= high | low;
    bytes[i] = (high << 4) | low;
  }
  return seen > 15 ? null : bytes;
}

/** Eight hex digits starting at `offset` → unsigned 32-bit integer, or −1 when there are fewer or one is not hex. No allocation. */
export function decodeHexU32(text: string, offset: number): number {
  if (offset < 0 || offset + 8 > text.length) return -1;
  let value = 0;
  for (let i = 0; i < 8; i++) {
    const nibble = NIBBLES[text.charCodeAt(offset + i)]!;
    if (nibble > 15) return -1;
    value = (value << 4) | nibble;
  }
  return value >>> 0;
}

/** Unsigned or signed 32-bit integer → eight lower-case hex digits, most significant first. */
export function encodeHexU32(value: number): string {
  return (value >>> 0).toString(16).padStart(8, '0');
}

/** Bytes → lower-case hex, in the order they stand. */
export function encodeHex(bytes: Uint8Array): string {
  return bytesToHex(bytes);
}

/** Bytes → lower-case hex of the reversed bytes: the form in which people and JSON-RPC write hashes. */
export function encodeHexReversed(bytes: Uint8Array): string {
  return bytesToHex(Uint8Array.from(bytes).reverse());
}

/** Hex as people write hashes → bytes in wire order; null when it is not strict hex. */
export function decodeHexReversed(text: string): Uint8Array | null {
  return decodeHex(text)?.reverse() ?? null;
}

/** One array holding all parts, in order. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** Same length and same bytes. Not constant time: for public data only. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/**
 * Reads little-endian Bitcoin encodings from the start to the end of an array. Every method throws RangeError when the
 * bytes run out or an encoding is not canonical; decoders catch it at their own door and answer `{ok: false}`.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** How many bytes have been read. */
  get offset(): number {
    return this.#offset;
  }

  /** How many bytes are left. */
  get left(): number {
    return this.#bytes.length - this.#offset;
  }

  /** Every byte has been read. */
  get done(): boolean {
    return this.#offset === this.#bytes.length;
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  i32(): number {
    return this.#view.getInt32(this.#advance(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  /** CompactSize. Refuses a longer form than needed, and anything above 2^53 − 1. */
  varint(): number {
    const first = this.u8();
    if (first < 0xfd) return first;
    if (first === 0xfd) return atLeast(this.u16(), 0xfd);
    if (first === 0xfe) return atLeast(this.u32(), 0x10000);
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError('length too large');
    return atLeast(Number(value), 0x100000000);
  }

  /** A copy of the next `length` bytes. */
  bytes(length: number): Uint8Array {
    const start = this.#advance(length);
    return this.#bytes.slice(start, start + length);
  }

  /** Passes over the next `length` bytes. */
  skip(length: number): void {
    this.#advance(length);
  }

  /** CompactSize length, then that many bytes. */
  varbytes(): Uint8Array {
    return this.bytes(this.varint());
  }

  #advance(length: number): number {
    const start = this.#offset;
    if (length > this.#bytes.length - start) throw new RangeError('data ends too early');
    this.#offset = start + length;
    return start;
  }
}

function atLeast(value: number, minimum: number): number {
  if (value < minimum) throw new RangeError('length is not in its shortest form');
  return value;
}

/** Writes little-endian Bitcoin encodings into a growing buffer; `take()` hands out what was written. */
export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(expectedBytes = 256) {
    this.#bytes = new Uint8Array(Math.max(16, expectedBytes));
    this.#view = new DataView(this.#bytes.buffer);
  }

  u8(value: number): this {
    const start = this.#reserve(1);
    this.#view.setUint8(start, value);
    return this;
  }

  u16(value: number): this {
    const start = this.#reserve(2);
    this.#view.setUint16(start, value, true);
    return this;
  }

  u32(value: number): this {
    const start = this.#reserve(4);
    this.#view.setUint32(start, value, true);
    return this;
  }

  i32(value: number): this {
    const start = this.#reserve(4);
    this.#view.setInt32(start, value, true);
    return this;
  }

  u64(value: bigint): this {
    const start = this.#reserve(8);
    this.#view.setBigUint64(start, value, true);
    return this;
  }

  /** CompactSize in its shortest form. */
  varint(value: number): this {
    if (value < 0xfd) return this.u8(value);
    if (value <= 0xffff) return this.u8(0xfd).u16(value);
    if (value <= 0xffffffff) return this.u8(0xfe).u32(value);
    return this.u8(0xff).u64(BigInt(value));
  }

  bytes(bytes: Uint8Array): this {
    const start = this.#reserve(bytes.length);
    this.#bytes.set(bytes, start);
    return this;
  }

  /** CompactSize length, then the bytes. */
  varbytes(bytes: Uint8Array): this {
    return this.varint(bytes.length).bytes(bytes);
  }

  /** What has been written so far, as its own copy. */
  take(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** Makes room, which may replace the buffer: call it before `#bytes` or `#view` is read. */
  #reserve(length: number): number {
    const start = this.#length;
    const end = start + length;
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(0, start));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = end;
    return start;
  }
}

/** Text as UTF-8; half a surrogate pair becomes U+FFFD. */
export function encodeUtf8(text: string): Uint8Array {
  return utf8ToBytes(text);
}
