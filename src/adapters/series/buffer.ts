/**
 * Lines on their way to the time series: gathered into chunks, kept in order while the server is away, and bounded in bytes and in
 * age. What goes over the bounds goes from the front, whole chunks at a time, and is counted.
 */

export type Chunk = {
  /** What is still to be sent of it; more than one piece when the server took offence at a line and it is searched for. */
  pieces: string[][];
  bytes: number;
  /** Numbers of its first and its last line, counted from 1 over everything ever written. */
  first: number;
  through: number;
  startedAtMs: number;
  /** On its way now: not dropped. */
  isBusy: boolean;
  /** How often a piece of it was halved. */
  splits: number;
};

export type BufferLimits = {
  chunkLinesMax: number;
  chunkBytesMax: number;
  bytesMax: number;
  ageMsMax: number;
};

const MIB = 1024 * 1024;

export const BUFFER_LIMITS: BufferLimits = {
  chunkLinesMax: 5_000,
  chunkBytesMax: MIB,
  bytesMax: 64 * MIB,
  ageMsMax: 15 * 60_000,
};

/** Times are of one clock that never goes back. */
export class LineBuffer {
  readonly #limits: BufferLimits;
  /** Closed chunks, oldest first; then the open one. */
  readonly #chunks: Chunk[] = [];
  #open: Chunk | null = null;
  #bytes = 0;
  #lastLine = 0;

  constructor(limits: BufferLimits) {
    this.#limits = limits;
  }

  /** The number of the newest line. */
  get lastLine(): number {
    return this.#lastLine;
  }

  /** The number of the newest line of those that none is left of, nor of any before them. */
  get settledLine(): number {
    const next = this.#chunks[0] ?? this.#open;
    return next === null ? this.#lastLine : next.first - 1;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get lines(): number {
    return this.#all().reduce((sum, { pieces }) => sum + countLines(pieces), 0);
  }

  /** Adds a line; true when that closed a chunk. */
  add(line: string, nowMs: number): boolean {
    const bytes = Buffer.byteLength(line) + 1;
    const { chunkLinesMax, chunkBytesMax } = this.#limits;
    let closed = false;
    if (this.#open !== null && this.#open.bytes + bytes > chunkBytesMax) {
      this.close();
      closed = true;
    }
    this.#lastLine++;
    this.#open ??= {
      pieces: [[]],
      bytes: 0,
      first: this.#lastLine,
      through: this.#lastLine,
      startedAtMs: nowMs,
      isBusy: false,
      splits: 0,
    };
    const open = this.#open;
    (open.pieces[0] as string[]).push(line);
    open.bytes += bytes;
    open.through = this.#lastLine;
    this.#bytes += bytes;
    if (open.through - open.first + 1 < chunkLinesMax) return closed;
    this.close();
    return true;
  }

  /** Nothing is added to the open chunk any more. */
  close(): void {
    if (this.#open !== null) this.#chunks.push(this.#open);
    this.#open = null;
  }

  /** Since when the open chunk gathers lines, or null when there is none. */
  get openSinceMs(): number | null {
    return this.#open?.startedAtMs ?? null;
  }

  /** The oldest closed chunk. It stays until it is removed. */
  head(): Chunk | null {
    return this.#chunks[0] ?? null;
  }

  remove(chunk: Chunk): void {
    const at = this.#chunks.indexOf(chunk);
    if (at < 0) return;
    this.#chunks.splice(at, 1);
    this.#bytes -= chunk.bytes;
  }

  /** Takes out what is too much or too old, the oldest first, but never what is on its way. */
  trim(nowMs: number): Chunk[] {
    const { bytesMax, ageMsMax } = this.#limits;
    const gone: Chunk[] = [];
    for (const chunk of this.#chunks.filter(({ isBusy }) => !isBusy)) {
      if (this.#bytes <= bytesMax && nowMs - chunk.startedAtMs <= ageMsMax) break;
      this.remove(chunk);
      gone.push(chunk);
    }
    return gone;
  }

  #all(): Chunk[] {
    return this.#open === null ? this.#chunks : [...this.#chunks, this.#open];
  }
}

export function countLines(pieces: readonly (readonly string[])[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}
