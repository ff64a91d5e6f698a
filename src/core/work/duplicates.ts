/**
 * Which header hashes have been credited: a bounded set for each live job, so that a share pays once however its hex is
 * written and from whichever session it comes.
 *
 * Keyed by the first 16 bytes of the header hash in wire order: those no miner can steer, and 128 bits collide by chance
 * once in 10^19 years at a million shares a second. Open addressing on typed arrays, 16 bytes a slot, at most three quarters
 * full. Each job is split into 64 tables that double on their own, so that growing never stops the event loop (the largest
 * step moves 1/64 of a job). Memory: 30 KiB for an empty job, at most 43 bytes a share, and up to half of a table more while
 * it is copied; 8,000,000 shares, the default limit, stay below 350 MB. Full means full: the set answers so and forgets nothing.
 */

const TABLES = 64;
const SLOTS_MIN = 16;
const WORDS_PER_SLOT = 4;

type Table = { words: Uint32Array; used: number };

type JobTables = { tables: Table[]; size: number };

export class DuplicateSet {
  readonly #jobs = new Map<string, JobTables>();
  readonly #entriesMaxPerJob: number;
  readonly #entriesMax: number;
  readonly #jobsMax: number;
  #size = 0;

  /** Limits of shares in one job and in all, and of jobs. Default 8,000,000 shares, all of which may be of one job; 1024 jobs. */
  constructor(limits: { entriesMaxPerJob?: number; entriesMax?: number; jobsMax?: number } = {}) {
    this.#entriesMax = limits.entriesMax ?? 8_000_000;
    this.#entriesMaxPerJob = limits.entriesMaxPerJob ?? this.#entriesMax;
    this.#jobsMax = limits.jobsMax ?? 1024;
  }

  /** Shares remembered, over all jobs. */
  get size(): number {
    return this.#size;
  }

  /** Jobs that have tables: those a share was offered for and that were not dropped. */
  get jobs(): number {
    return this.#jobs.size;
  }

  /**
   * Remembers a header hash (32 bytes, wire order) under its job. 'present' when it was there; 'full' when it is new and a
   * limit is reached: the caller must not credit what it cannot remember.
   */
  add(jobId: string, hash: Uint8Array): 'added' | 'present' | 'full' {
    let job = this.#jobs.get(jobId);
    if (job === undefined) {
      if (this.#jobs.size >= this.#jobsMax) return 'full';
      job = { tables: Array.from({ length: TABLES }, createTable), size: 0 };
      this.#jobs.set(jobId, job);
    }
    // The last bits of the fourth word choose the table, the first word the slot.
    const a = wordAt(hash, 0);
    const b = wordAt(hash, 4);
    const c = wordAt(hash, 8);
    const d = wordAt(hash, 12) || 1; // an empty slot is one whose fourth word is zero
    const table = job.tables[d % TABLES]!;
    const slot = findSlot(table.words, a, b, c, d);
    if (table.words[slot + 3] !== 0) return 'present';
    if (job.size >= this.#entriesMaxPerJob || this.#size >= this.#entriesMax) return 'full';
    writeSlot(table.words, slot, a, b, c, d);
    table.used += 1;
    job.size += 1;
    this.#size += 1;
    if (table.used * 4 > (table.words.length / WORDS_PER_SLOT) * 3) grow(table);
    return 'added';
  }

  /** Whether a hash is remembered under this job; changes nothing. */
  has(jobId: string, hash: Uint8Array): boolean {
    const job = this.#jobs.get(jobId);
    if (job === undefined) return false;
    const d = wordAt(hash, 12) || 1;
    const { words } = job.tables[d % TABLES]!;
    return words[findSlot(words, wordAt(hash, 0), wordAt(hash, 4), wordAt(hash, 8), d) + 3] !== 0;
  }

  /** Forgets all shares of a job. Only for jobs whose shares are not credited any more. */
  dropJob(jobId: string): void {
    const job = this.#jobs.get(jobId);
    if (job === undefined) return;
    this.#jobs.delete(jobId);
    this.#size -= job.size;
  }
}

function createTable(): Table {
  return { words: new Uint32Array(SLOTS_MIN * WORDS_PER_SLOT), used: 0 };
}

/** Index of the first word of the slot that holds this key, or of the empty slot where it belongs. */
function findSlot(words: Uint32Array, a: number, b: number, c: number, d: number): number {
  const mask = words.length - 1;
  let slot = (a * WORDS_PER_SLOT) & mask;
  for (;;) {
    const found = words[slot + 3]!;
    if (found === 0) return slot;
    if (found === d && words[slot] === a && words[slot + 1] === b && words[slot + 2] === c) {
      return slot;
    }
    slot = (slot + WORDS_PER_SLOT) & mask;
  }
}

function writeSlot(
  words: Uint32Array,
  slot: number,
  a: number,
  b: number,
  c: number,
  d: number,
): void {
  words[slot] = a;
  words[slot + 1] = b;
  words[slot + 2] = c;
  words[slot + 3] = d;
}

function grow(table: Table): void {
  const old = table.words;
  const words = new Uint32Array(old.length * 2);
  for (let i = 0; i < old.length; i += WORDS_PER_SLOT) {
    const d = old[i + 3]!;
    if (d === 0) continue;
    const a = old[i]!;
    const b = old[i + 1]!;
    const c = old[i + 2]!;
    writeSlot(words, findSlot(words, a, b, c, d), a, b, c, d);
  }
  table.words = words;
}

function wordAt(hash: Uint8Array, offset: number): number {
  return (
    (hash[offset]! |
      (hash[offset + 1]! << 8) |
      (hash[offset + 2]! << 16) |
      (hash[offset + 3]! << 24)) >>>
    0
  );
}
