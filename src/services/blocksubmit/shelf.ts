/**
 * Block bodies at hand: every template of the last three tips, so that a share on an old job that turns out to be a block can be
 * assembled. Successive templates share nearly all their transactions; each transaction is kept once, which keeps an hour without
 * a block within tens of megabytes. The newest bodies are also kept whole, raw and as hex ready to be sent.
 *
 * Bodies are cut at transaction borders only to find what is shared: the pieces put together are the body, whatever it holds.
 */
import type { TemplateBody } from '../../messages/block.ts';

/** Tips whose templates are kept: a gateway credits shares on fewer. */
export const TIPS_MAX = 3;
const TEMPLATES_MAX = 2000;
/** Prepared, a body takes three times its size more; older ones are put together when needed (6 ms for a full block). */
const READY_MAX = 2;

export type ShelvedTemplate = {
  jobId: string;
  height: number;
  previousHash: Uint8Array;
  transactionCount: number;
  witness: boolean;
};

type Piece = { bytes: Buffer; users: number; key: string };
type Entry = ShelvedTemplate & {
  tip: string;
  pieces: Piece[];
  ready: { hex: Buffer; raw: Buffer } | null;
};

export class TemplateShelf {
  readonly #bytesMax: number;
  readonly #entries = new Map<string, Entry>();
  /** Newest last. */
  readonly #tips: string[] = [];
  readonly #pieces = new Map<string, Piece>();
  #bytes = 0;
  #evicted = 0;

  /** `bytesMax` bounds the transactions kept; beyond it the oldest templates go first, never the newest one. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get templates(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Templates dropped for want of room although their tip was recent: should stay 0. */
  get evicted(): number {
    return this.#evicted;
  }

  /** Takes a template in. Returns true when its tip is new. A known job id changes nothing. */
  add(template: TemplateBody): boolean {
    if (this.#entries.has(template.jobId)) return false;
    const body = asBuffer(template.body);
    const tip = asBuffer(template.previousHash).toString('hex');
    const pieces: Piece[] = [];
    let offset = 0;
    for (const length of transactionLengths(body)) {
      pieces.push(this.#keep(body.subarray(offset, offset + length)));
      offset += length;
    }
    const { jobId, height, transactionCount, witness } = template;
    this.#entries.set(jobId, {
      jobId,
      height,
      previousHash: new Uint8Array(template.previousHash),
      transactionCount,
      witness,
      tip,
      pieces,
      ready: { hex: encodeHexBytes(body), raw: Buffer.from(body) },
    });
    const known = this.#tips.indexOf(tip);
    if (known >= 0) this.#tips.splice(known, 1);
    this.#tips.push(tip);
    this.#trim(jobId);
    return known < 0;
  }

  find(jobId: string): ShelvedTemplate | null {
    return this.#entries.get(jobId) ?? null;
  }

  /** All transactions of the template as the bytes of lower-case hex, or null when it is not here. */
  hexOf(jobId: string): Buffer | null {
    const entry = this.#entries.get(jobId);
    if (entry === undefined) return null;
    return entry.ready?.hex ?? encodeHexBytes(this.#bodyOf(entry));
  }

  /** All transactions of the template, raw, or null when it is not here. */
  bodyOf(jobId: string): Uint8Array | null {
    const entry = this.#entries.get(jobId);
    if (entry === undefined) return null;
    return entry.ready?.raw ?? this.#bodyOf(entry);
  }

  #bodyOf(entry: Entry): Buffer {
    return Buffer.concat(entry.pieces.map(({ bytes }) => bytes));
  }

  /** The piece equal to these bytes, or a copy of them: the body they are cut from must not stay alive for one transaction. */
  #keep(bytes: Buffer): Piece {
    // A transaction's first bytes hold the outpoint it spends, which no other transaction of a chain has.
    const key = `${bytes.length}:${bytes.toString('latin1', 0, 48)}`;
    const known = this.#pieces.get(key);
    if (known?.bytes.equals(bytes)) {
      known.users += 1;
      return known;
    }
    const copy = Buffer.allocUnsafeSlow(bytes.length);
    bytes.copy(copy);
    const piece: Piece = { bytes: copy, users: 1, key };
    if (known === undefined) this.#pieces.set(key, piece);
    this.#bytes += copy.length;
    return piece;
  }

  #trim(newest: string): void {
    while (this.#tips.length > TIPS_MAX) {
      const tip = this.#tips.shift();
      for (const entry of [...this.#entries.values()]) {
        if (entry.tip === tip) this.#drop(entry);
      }
    }
    // Oldest first: a Map keeps the order in which its keys came.
    for (const entry of [...this.#entries.values()]) {
      if (this.#bytes <= this.#bytesMax && this.#entries.size <= TEMPLATES_MAX) break;
      if (entry.jobId === newest) continue;
      this.#drop(entry);
      this.#evicted += 1;
    }
    const entries = [...this.#entries.values()];
    for (const entry of entries.slice(0, -READY_MAX)) entry.ready = null;
  }

  #drop(entry: Entry): void {
    this.#entries.delete(entry.jobId);
    for (const piece of entry.pieces) {
      piece.users -= 1;
      if (piece.users > 0) continue;
      this.#bytes -= piece.bytes.length;
      if (this.#pieces.get(piece.key) === piece) this.#pieces.delete(piece.key);
    }
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

function encodeHexBytes(body: Buffer): Buffer {
  return Buffer.from(body.toString('hex'), 'latin1');
}

/** Lengths of the transactions in a body; the rest is one piece where it does not read as transactions. Always adds up. */
export function transactionLengths(body: Uint8Array): number[] {
  const lengths: number[] = [];
  let start = 0;
  while (start < body.length) {
    const end = skipTransaction(body, start);
    if (end === null) {
      lengths.push(body.length - start);
      break;
    }
    lengths.push(end - start);
    start = end;
  }
  return lengths;
}

/**
 * Offset behind the transaction that starts at `start`, or null when there is none.
 *
 *     version 4 | [00 01] | inputs: count, {outpoint 36, script, sequence 4} | outputs: count, {value 8, script}
 *     | [per input: item count, items] | locktime 4                                           (BIP144)
 */
function skipTransaction(body: Uint8Array, start: number): number | null {
  let at = start + 4;
  const varint = (): number => {
    const first = body[at] ?? -1;
    at += 1;
    if (first < 0xfd) return first;
    const bytes = first === 0xfd ? 2 : first === 0xfe ? 4 : 8;
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (body[at + i] ?? 0);
    at += bytes;
    return value;
  };
  const skipBytes = (): void => {
    const length = varint();
    at += length;
  };
  const witness = body[at] === 0 && body[at + 1] === 1;
  if (witness) at += 2;
  const inputs = varint();
  if (inputs < 0) return null;
  for (let i = 0; i < inputs && at <= body.length; i++) {
    at += 36;
    skipBytes();
    at += 4;
  }
  const outputs = varint();
  for (let i = 0; i < outputs && at <= body.length; i++) {
    at += 8;
    skipBytes();
  }
  if (witness) {
    for (let i = 0; i < inputs && at <= body.length; i++) {
      const items = varint();
      for (let item = 0; item < items && at <= body.length; item++) skipBytes();
    }
  }
  at += 4;
  // A count of −1 (read past the end) moves backwards by less than it was moved forward.
  return at <= body.length && at > start ? at : null;
}
