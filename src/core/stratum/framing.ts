/**
 * Lines out of a byte stream: the outermost layer of Stratum V1. A line ends at LF; a CR and blanks before it are
 * trimmed, a byte order mark is forgiven once at the very start. Refused: a line above its limit, a NUL, a CR in the
 * middle, bytes that are not UTF-8, and floods of empty lines.
 *
 * Every byte is looked at once, whatever the segmentation (a reader that rescans its buffer costs 8 s for 4.4 MiB
 * without a newline). Text is decoded per line and never per chunk, so a character split over two segments arrives
 * whole. An idle framer holds no buffer.
 */

/** Why a stream cannot go on. The connection is to be closed; nothing after the fault may be handled. */
export type FrameFault = 'line-too-long' | 'nul' | 'lone-cr' | 'bad-utf8' | 'empty-lines';

/**
 * Turns bytes[from, to) into text. `ascii` promises that every byte is below 0x80. Answers null when the bytes are not
 * valid UTF-8; must keep a byte order mark (U+FEFF) as it is. Handed in because the fast ways live in the runtime.
 */
export type DecodeText = (
  bytes: Uint8Array,
  from: number,
  to: number,
  ascii: boolean,
) => string | null;

/** Consecutive empty lines that are forgiven before the stream counts as a flood. */
export const EMPTY_LINES_MAX = 100;

const LF = 10;
const CR = 13;
const SPACE = 32;
const TAB = 9;
const NO_BYTES = new Uint8Array(0);

/**
 * One per connection. Use: `feed(chunk)`, then `next(limit)` until it answers null; feed again only after that. The
 * caller may stop between two lines for as long as it likes (`pending` says that bytes of the chunk are left).
 */
export class LineFramer {
  /** Set once, never cleared: `next` answers null for ever after. */
  fault: FrameFault | null = null;

  #chunk: Uint8Array = NO_BYTES;
  #at = 0;
  #partial: Uint8Array | null = null;
  #partialLength = 0;
  #emptyLines = 0;
  /** The last byte that is not blank was a CR: only the end of the line may follow. */
  #afterCr = false;
  #ascii = true;
  #first = true;

  /** Hands over a chunk. The framer keeps it until it is used up and copies what remains of an unfinished line. */
  feed(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** True while bytes of the last chunk have not been looked at. */
  get pending(): boolean {
    return this.#at < this.#chunk.length;
  }

  /** Bytes held of a line whose end has not arrived. */
  get partialBytes(): number {
    return this.#partialLength;
  }

  /**
   * The next whole, non-empty line without its end and trailing blanks, or null when the chunk holds no further one
   * (or `fault` is set).
   * @param lineBytesMax longest line allowed, end excluded; may change from call to call
   */
  next(lineBytesMax: number, decode: DecodeText): string | null {
    while (this.fault === null) {
      const chunk = this.#chunk;
      const from = this.#at;
      const end = this.#scan(chunk, from, lineBytesMax);
      if (this.fault !== null) break;
      if (end < 0) {
        this.#keep(chunk, from);
        return null;
      }
      this.#at = end + 1;
      const line = this.#take(chunk, from, end, decode);
      if (line !== null) return line;
    }
    this.#drop();
    return null;
  }

  /** Forgets every byte held, for a connection that is going away. */
  #drop(): void {
    this.#chunk = NO_BYTES;
    this.#at = 0;
    this.#partial = null;
    this.#partialLength = 0;
  }

  /** Index of the LF that ends the current line, or −1; notes CR, NUL, non-ASCII and the length on the way. */
  #scan(chunk: Uint8Array, from: number, lineBytesMax: number): number {
    const overflow = from + lineBytesMax - this.#partialLength;
    const stop = Math.min(chunk.length, overflow);
    let at = from;
    if (this.#afterCr) at = skipBlanks(chunk, at, stop);
    for (; at < stop; at++) {
      const byte = chunk[at]!;
      if (byte >= SPACE && byte < 0x80) {
        if (!this.#afterCr) continue;
        this.fault = 'lone-cr';
        return -1;
      }
      if (byte === LF) return at;
      if (byte === 0) this.fault = 'nul';
      else if (this.#afterCr) this.fault = 'lone-cr';
      if (this.fault !== null) return -1;
      if (byte >= 0x80) this.#ascii = false;
      else if (byte === CR) {
        this.#afterCr = true;
        at = skipBlanks(chunk, at + 1, stop) - 1;
      }
    }
    if (at >= chunk.length) return -1;
    if (chunk[at] === LF) return at;
    this.fault = 'line-too-long';
    return -1;
  }

  /** The chunk ended inside a line: copy the beginning, let go of the chunk. */
  #keep(chunk: Uint8Array, from: number): void {
    if (from < chunk.length) this.#append(chunk, from, chunk.length);
    this.#chunk = NO_BYTES;
    this.#at = 0;
  }

  #append(chunk: Uint8Array, from: number, to: number): void {
    const length = this.#partialLength + to - from;
    let partial = this.#partial;
    if (partial === null || partial.length < length) {
      const grown = new Uint8Array(Math.max(256, length, 2 * (partial?.length ?? 0)));
      if (partial !== null) grown.set(partial.subarray(0, this.#partialLength));
      this.#partial = partial = grown;
    }
    if (from === 0 && to === chunk.length) partial.set(chunk, this.#partialLength);
    else partial.set(chunk.subarray(from, to), this.#partialLength);
    this.#partialLength = length;
  }

  /** Finishes the line that ends before `end`; null when it was empty or at fault. */
  #take(chunk: Uint8Array, from: number, end: number, decode: DecodeText): string | null {
    let bytes = chunk;
    let start = from;
    let stop = end;
    if (this.#partialLength > 0) {
      this.#append(chunk, from, end);
      bytes = this.#partial!;
      start = 0;
      stop = this.#partialLength;
    }
    while (stop > start && isBlank(bytes[stop - 1]!)) stop--;
    const ascii = this.#ascii;
    this.#partial = null;
    this.#partialLength = 0;
    this.#afterCr = false;
    this.#ascii = true;
    if (this.#first && stop > start) {
      this.#first = false;
      if (stop - start >= 3 && hasByteOrderMark(bytes, start)) start += 3;
    }
    if (start === stop) {
      if (++this.#emptyLines > EMPTY_LINES_MAX) this.fault = 'empty-lines';
      return null;
    }
    this.#emptyLines = 0;
    const text = decode(bytes, start, stop, ascii);
    if (text === null) this.fault = 'bad-utf8';
    return text;
  }
}

/** Index of the first byte from `at` on that is not a blank, or `stop`. */
function skipBlanks(chunk: Uint8Array, at: number, stop: number): number {
  while (at < stop && isBlank(chunk[at]!)) at++;
  return at;
}

function isBlank(byte: number): boolean {
  return byte === SPACE || byte === CR || byte === TAB;
}

function hasByteOrderMark(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xef && bytes[at + 1] === 0xbb && bytes[at + 2] === 0xbf;
}
