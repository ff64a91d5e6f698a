/**
 * The shares of one partition of one topic, added up in windows of ten seconds: one point per worker, status and window, whose value is
 * the sum so far and which is written again when more shares come. What is written twice is the same, so nothing counts double.
 *
 * A window is closed when the partition has come half a minute past its end, by the times of the shares alone. A share that comes later
 * is a point of its own, at a place in its window that its hash gives (five million places: two that meet count as one). After a restart the partition is read again from where the first
 * window began that was open when everything was last known to be written (`Position`); what belongs to windows closed by then is
 * passed over. So the sums come out the same, however often and wherever it was interrupted.
 */
import type { SeriesPoint } from '../../ports.ts';

export type CountedShare = {
  status: string;
  /** Why it was refused; empty for a share that counts. */
  reason: string;
  pool: string;
  account: string;
  worker: string;
  difficulty: number;
  shareDifficulty: number;
  atMs: number;
  /** The header hash of a valid share, which is never counted twice. A refused one has no identity. */
  hash: Uint8Array | null;
};

/** Where a lane stands, and from where it can be rebuilt. */
export type Position = {
  /** Offset at which to read again. */
  resume: bigint;
  /** Everything before it is in the written sums. */
  next: bigint;
  /** The newest share before `next`. */
  progressMs: number;
  slot: number;
};

export type Verdict = 'counted' | 'late' | 'duplicate' | 'passed';

export type Taken = {
  /** Of a lane that nothing was known of: to be written before its first point, so that whoever comes after begins there, too. */
  birth: Position | null;
  points: SeriesPoint[];
  /** What holds once the points are written; null when it is nothing new. */
  position: Position | null;
};

export const WINDOW_MS = 10_000;
const LATE_MS = 30_000;
/** While the time series is away; a quarter of an hour. Beyond that the oldest sums are lost, and late shares. */
const WINDOWS_MAX = 90;
const LATE_MAX = 50_000;
/** The first half of a window's microseconds belongs to sums: slots of a thousand lanes each. The second half to late shares. */
export const SLOTS = 4_000;
const LANES_PER_SLOT = 1_000;
const LATE_FROM_US = 5_000_000;
const LATE_PLACES = 5_000_000;

type Cell = {
  measurement: string;
  tags: Record<string, string>;
  atMs: number;
  count: bigint;
  difficulty: number;
  best: number;
  isDirty: boolean;
};

type Window = {
  startMs: number;
  /** Offset of its first share; null where there are no offsets. */
  first: bigint | null;
  cells: Map<string, Cell>;
  hashes: Set<string>;
};

export class Lane {
  readonly #place: number;
  readonly #freshSlot: number;
  readonly #windows = new Map<number, Window>();
  readonly #late = new Map<string, Cell>();
  readonly #dirty = new Set<Cell>();
  #taken: Cell[] = [];
  #slot: number;
  #given: Position | null;
  #birth: Position | null = null;
  #next: bigint | null;
  #progressMs: number;
  /** How far the position last written goes: a lane that stands still says nothing more, because it may be another's by now. */
  #told: bigint | null = null;
  /** Sums that were given up unwritten. */
  #lost = 0;

  /**
   * `place` tells lanes apart whose points would meet: a number under 1,000. `slot` is for a lane that has no position: it must not
   * write over what was written before.
   */
  constructor(place: number, slot: number, position: Position | null) {
    this.#place = place % LANES_PER_SLOT;
    this.#slot = position?.slot ?? slot;
    this.#given = position;
    this.#next = null;
    this.#progressMs = position?.progressMs ?? 0;
    this.#freshSlot = slot;
  }

  get dirtyCells(): number {
    return this.#dirty.size;
  }

  get lost(): number {
    return this.#lost;
  }

  /** Takes the place of a record in the partition; false when it was taken in before. Offsets begin where the position says, or anew. */
  enter(offset: bigint): boolean {
    if (this.#next === null && this.#given !== null && offset !== this.#given.resume) {
      // The log is another one, or its beginning is gone: what is known of the sums does not fit.
      this.#given = null;
      this.#slot = this.#freshSlot;
      this.#progressMs = 0;
    }
    if (this.#next === null && this.#given === null) {
      this.#birth = { resume: offset, next: offset, progressMs: 0, slot: this.#slot };
    }
    if (this.#next !== null && offset < this.#next) return false;
    this.#next = offset + 1n;
    return true;
  }

  /** Adds a share; with an offset, one that `enter` let in. */
  add(share: CountedShare, offset: bigint | null): Verdict {
    const startMs = Math.floor(share.atMs / WINDOW_MS) * WINDOW_MS;
    if (this.#isClosed(startMs)) {
      const isRead = offset !== null && this.#given !== null && offset < this.#given.next;
      if (isRead) return 'passed';
      return this.#addLate(share, startMs, offset);
    }
    this.#progressMs = Math.max(this.#progressMs, share.atMs);
    const window = this.#open(startMs, offset);
    if (share.hash !== null) {
      const identity = Buffer.from(share.hash).toString('latin1', 0, 12);
      if (window.hashes.has(identity)) return 'duplicate';
      window.hashes.add(identity);
    }
    const atMs = startMs + (this.#slot * LANES_PER_SLOT + this.#place) / 1_000;
    for (const { key, measurement, tags } of seriesOf(share)) {
      this.#count(window.cells, key, measurement, tags, atMs, share);
    }
    return 'counted';
  }

  /**
   * Points of all sums that changed since they were last known to be written. `settle` or `giveBack` must follow before the next.
   */
  take(): Taken {
    this.#taken = [...this.#dirty];
    this.#dirty.clear();
    for (const cell of this.#taken) cell.isDirty = false;
    const position = this.#position();
    const isNews = this.#next !== null && this.#next !== this.#told;
    this.#told = this.#next;
    return {
      birth: this.#birth,
      points: this.#taken.map(pointOf),
      position: isNews ? position : null,
    };
  }

  /** What was taken is written: sums of closed windows are let go. */
  settle(): void {
    this.#taken = [];
    this.#birth = null;
    for (const [key, cell] of this.#late) if (!cell.isDirty) this.#late.delete(key);
    for (const [startMs, { cells }] of this.#windows) {
      if (!this.#isClosed(startMs)) continue;
      if (!cells.values().some(({ isDirty }) => isDirty)) this.#windows.delete(startMs);
    }
  }

  /** What was taken may not be written: it is taken again next time. */
  giveBack(): void {
    for (const cell of this.#taken) this.#touch(cell);
    this.#taken = [];
    this.#told = null;
  }

  #isClosed(startMs: number): boolean {
    return startMs + WINDOW_MS + LATE_MS <= this.#progressMs;
  }

  #open(startMs: number, offset: bigint | null): Window {
    const known = this.#windows.get(startMs);
    if (known !== undefined) return known;
    const window: Window = { startMs, first: offset, cells: new Map(), hashes: new Set() };
    this.#windows.set(startMs, window);
    // Those closed by now are never added to again.
    for (const other of this.#windows.values()) {
      if (this.#isClosed(other.startMs)) other.hashes.clear();
    }
    if (this.#windows.size > WINDOWS_MAX) this.#lose(Math.min(...this.#windows.keys()));
    return window;
  }

  #lose(startMs: number): void {
    const window = this.#windows.get(startMs);
    if (window === undefined) return;
    this.#windows.delete(startMs);
    for (const cell of window.cells.values()) if (this.#dirty.delete(cell)) this.#lost++;
  }

  #addLate(share: CountedShare, startMs: number, offset: bigint | null): Verdict {
    if (this.#late.size >= LATE_MAX) {
      this.#lost++;
      return 'late';
    }
    // A refused share has no hash that is its own; its place in the log is.
    const place = (offset ?? 0n) * BigInt(LANES_PER_SLOT) + BigInt(this.#place);
    const seed = share.hash === null ? place : seedOf(share.hash);
    const mixed = Number((seed * 0x9e3779b97f4a7c15n) & 0xffffffffffffn) % LATE_PLACES;
    const atMs = startMs + (LATE_FROM_US + mixed) / 1_000;
    for (const { key, measurement, tags } of seriesOf(share)) {
      const cells = this.#late;
      const name = `${key}\n${atMs}`;
      // The same share again is the same point, not one more.
      if (share.hash !== null && cells.has(name)) continue;
      this.#count(cells, name, measurement, tags, atMs, share);
    }
    return 'late';
  }

  #count(
    cells: Map<string, Cell>,
    key: string,
    measurement: string,
    tags: Record<string, string>,
    atMs: number,
    share: CountedShare,
  ): void {
    let cell = cells.get(key);
    if (cell === undefined) {
      cell = { measurement, tags, atMs, count: 0n, difficulty: 0, best: 0, isDirty: false };
      cells.set(key, cell);
    }
    cell.count++;
    cell.difficulty += share.difficulty;
    cell.best = Math.max(cell.best, share.shareDifficulty);
    this.#touch(cell);
  }

  #touch(cell: Cell): void {
    cell.isDirty = true;
    this.#dirty.add(cell);
  }

  #position(): Position | null {
    if (this.#next === null) return null;
    // While it is read again, what was written before is still written.
    const given = this.#given?.next ?? 0n;
    let resume = this.#next;
    for (const { startMs, first } of this.#windows.values()) {
      if (first !== null && first < resume && !this.#isClosed(startMs)) resume = first;
    }
    return {
      resume,
      next: this.#next > given ? this.#next : given,
      progressMs: this.#progressMs,
      slot: this.#slot,
    };
  }
}

/** A share counts in two series: of its worker, and of its whole pool, where reasons are told apart. */
function* seriesOf(
  share: CountedShare,
): Generator<{ key: string; measurement: string; tags: Record<string, string> }> {
  const { status, reason, pool, account, worker } = share;
  yield {
    key: `pool\n${status}\n${reason}\n${pool}`,
    measurement: 'pool',
    tags: { pool, status, reason },
  };
  // What could not be read is nobody's.
  if (account === '') return;
  yield {
    key: `shares\n${status}\n${pool}\n${account}\n${worker}`,
    measurement: 'shares',
    tags: { pool, status, miner_address: account, worker_name: worker },
  };
}

function pointOf({ measurement, tags, atMs, count, difficulty, best }: Cell): SeriesPoint {
  return { measurement, tags, fields: { count, difficulty, best_difficulty: best }, atMs };
}

function seedOf(hash: Uint8Array): bigint {
  return Buffer.from(hash.subarray(0, 8)).readBigUInt64LE();
}
