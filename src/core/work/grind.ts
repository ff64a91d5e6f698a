/**
 * The search for a nonce on a processor: one header, a range of nonces, two compressions a hash from the midstate of its
 * first 64 bytes. About 0.3 µs a hash in plain TypeScript; it is there for tests, demos and load, not for profit.
 */
import { compress, hashStateAgain, resetState } from '../bitcoin/sha256.ts';
import { meetsTarget, type PreparedTarget } from './share.ts';

/** A header under search. Make one per header and thread. */
export class Grinder {
  /** Hash of the last nonce found, 32 bytes in wire order. */
  readonly hash: Uint8Array = new Uint8Array(32);
  readonly #view: DataView = new DataView(this.hash.buffer);
  readonly #midstate = new Int32Array(8);
  readonly #tail = new Int32Array(16);
  readonly #state = new Int32Array(8);
  readonly #scratch = new Int32Array(16);

  /** Sets the header (80 bytes; its nonce is ignored). */
  setHeader(header: Uint8Array): void {
    const view = new DataView(header.buffer, header.byteOffset, 80);
    const block = this.#scratch;
    for (let at = 0; at < 16; at++) block[at] = view.getInt32(4 * at);
    resetState(this.#midstate);
    compress(this.#midstate, block);
    const tail = this.#tail;
    tail.fill(0);
    for (let at = 0; at < 4; at++) tail[at] = view.getInt32(64 + 4 * at);
    tail[4] = 0x80000000 | 0;
    tail[15] = 640;
  }

  /**
   * Looks for the first nonce in [from, to) whose header hash meets the target; −1 when there is none. Nonces are
   * unsigned 32-bit as they stand in the header (little-endian there).
   */
  find(from: number, to: number, target: PreparedTarget): number {
    const state = this.#state;
    const midstate = this.#midstate;
    const tail = this.#tail;
    const scratch = this.#scratch;
    const limit = target[0]!;
    for (let nonce = from; nonce < to; nonce++) {
      for (let at = 0; at < 8; at++) state[at] = midstate[at]!;
      tail[3] = swap(nonce);
      compress(state, tail);
      hashStateAgain(state, scratch);
      if (swap(state[7]!) >>> 0 > limit) continue;
      for (let at = 0; at < 8; at++) this.#view.setInt32(4 * at, state[at]!);
      if (meetsTarget(this.hash, target)) return nonce;
    }
    return -1;
  }
}

/** Reverses the four bytes of a word. */
function swap(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | ((word >>> 24) & 0xff);
}
