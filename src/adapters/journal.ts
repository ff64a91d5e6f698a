/**
 * The gateway's append-only journal: a share is acknowledged once its record stands here on stable storage.
 *
 * Segment files `<base, 16 hex digits>.segment`, one after the other on a line of positions in bytes that only ever grows:
 *
 *   segment := magic "HFJ1" | salt u32 | base u64 | crc u32 of the 16 bytes before   (20 bytes, integers little-endian)
 *              record*
 *   record  := crc u32 | length u32 | payload                                        (crc over length and payload)
 *
 * The crc starts from the segment's random salt plus the record's offset, so that neither old bytes nor a payload made by a
 * miner can pass for a record at another place. Writing is group commit: appends of all sessions gather in memory, one write
 * and one fdatasync at a time carry them. A segment whose write or sync failed is never written or trusted again (Linux forgets
 * failed pages: the second fsync succeeds, the data is gone; PostgreSQL's "fsyncgate" of 2018): its waiting records are
 * written to a new one. Every start begins a new segment, so that no position is ever used twice.
 *
 * The reader lives in another thread and follows the committed position only. It may deliver a record twice (after a crash, after
 * a failed segment); the header hash of the share settles that.
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Clock, Log } from '../ports.ts';
import type { Disk, DiskFile } from './disk.ts';

export type JournalState = 'ok' | 'full' | 'failed';

/**
 * disk: acknowledged means on stable storage. memory: acknowledged means taken; the record is written all the same, but unsynced,
 * so that a crash of the machine loses up to some seconds of acknowledged shares.
 */
export type JournalMode = 'disk' | 'memory';

/** Timers, so that a simulation can own them. */
export type JournalTimers = {
  /** Runs `work` once the current turn of the event loop is over. */
  soon(work: () => void): void;
  /** Runs `work` after a delay; the answer cancels it. */
  after(delayMs: number, work: () => void): () => void;
};

export type JournalOptions = {
  disk: Disk;
  directory: string;
  log: Log;
  clock: Clock;
  /** A new segment is begun when the current one has reached this. */
  segmentBytesMax?: number;
  /** More than this not yet shipped: state `full`. */
  unshippedBytesMax?: number;
  /** More than this in memory, waiting for a slow disk: state `full`. */
  pendingBytesMax?: number;
  mode?: JournalMode;
  /** Least time from the start of one commit to the next. An idle journal commits at once. */
  batchMs?: number;
  /** Pause between tries to get a failed journal working again. */
  retryMs?: number;
  timers?: JournalTimers;
  /** Salt of a new segment, 32 bits. */
  salt?: () => number;
};

export type JournalFigures = {
  appends: number;
  refusals: number;
  commits: number;
  /** Duration of the last write and sync together. */
  lastCommitMs: number;
  failures: number;
  pendingBytes: number;
  unshippedBytes: number;
};

export type Journal = {
  /**
   * Takes a copy of the record. Answers its ticket (1, 2, 3 …), or −1 when it is refused: state is not `ok`, the journal is
   * stopped, or the record is empty or over 64 KiB. A refused record is not in the journal.
   */
  append(record: Uint8Array): number;
  /** Set it: called with a ticket when every record up to that ticket is safe. */
  onCommitted: (ticket: number) => void;
  state(): JournalState;
  /** Shared with the reader: committed and shipped position, two 64-bit integers. */
  readonly committedPosition: SharedArrayBuffer;
  /** What opening found. */
  readonly found: JournalFound;
  figures(): JournalFigures;
  /** Commits what is pending as well as it can be, then closes. Appends are refused from the call on. */
  stop(): Promise<void>;
};

export type JournalFound = {
  /** Bytes on disk that were not yet shipped. */
  unshippedBytes: number;
  segments: number;
  /** Bytes cut off behind the last whole record: a write that a crash interrupted. */
  tornBytes: number;
  /** Bytes in front of a whole record that are not a record: damage. */
  corruptBytes: number;
};

const KIB = 1024;
const MIB = 1024 * KIB;
const SEGMENT_BYTES_MAX = 16 * MIB;
const UNSHIPPED_BYTES_MAX = 256 * MIB;
const PENDING_BYTES_MAX = 32 * MIB;
const RECORD_BYTES_MAX = 64 * KIB;
const BATCH_BYTES_MAX = 1 * MIB;
const BATCH_MS = 2;
const RETRY_MS = 500;
const STOP_TRIES = 4;

const MAGIC = 0x314a4648; // "HFJ1"
const SEGMENT_HEADER_BYTES = 20;
const RECORD_HEADER_BYTES = 8;
const SEGMENT_NAME = /^([0-9a-f]{16})\.segment$/;
const SHIPPED_NAME = 'shipped';
/** A sector, which a disk writes whole or not at all. */
const SHIPPED_SLOT_BYTES = 512;

const COMMITTED = 0;
const SHIPPED = 1;

/**
 * Opens the journal in `directory`, made when it is missing. Cuts off what a crash left half written, syncs what it left unsynced,
 * and begins a new segment. Rejects with the disk's error when that cannot be done: without a journal there is nothing to serve.
 */
export async function openJournal(options: JournalOptions): Promise<Journal> {
  const { disk, directory, log } = options;
  await disk.makeDirectory(directory);
  await (await openShipped(disk, directory)).close();
  const found = await recover(disk, directory, log);
  const positions = new SharedArrayBuffer(16);
  const view = new BigInt64Array(positions);
  Atomics.store(view, SHIPPED, BigInt(found.shipped));
  const writer = new JournalWriter(options, view, found.nextBase, {
    unshippedBytes: Math.max(0, found.nextBase - found.shipped),
    segments: found.segments,
    tornBytes: found.tornBytes,
    corruptBytes: found.corruptBytes,
  });
  await writer.begin();
  return writer;
}

/**
 * States. idle: nothing pending, nothing in flight. waiting: records pending, a timer runs. committing: one write and sync in flight.
 * failed: the segment is lost, a timer runs towards the next try; records already taken stay in memory and are written to the
 * next segment. stopped: nothing more is taken.
 */
class JournalWriter implements Journal {
  onCommitted: (ticket: number) => void = () => {};
  readonly committedPosition: SharedArrayBuffer;
  readonly found: JournalFound;

  readonly #disk: Disk;
  readonly #directory: string;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #timers: JournalTimers;
  readonly #salt: () => number;
  readonly #mode: JournalMode;
  readonly #segmentBytesMax: number;
  readonly #unshippedBytesMax: number;
  readonly #pendingBytesMax: number;
  readonly #batchMs: number;
  readonly #retryMs: number;
  readonly #view: BigInt64Array;

  /** Records taken since the last commit began, framed but without crc. */
  #filling = Buffer.allocUnsafeSlow(256 * KIB);
  #fillingBytes = 0;
  /** The buffer of the commit in flight, or of the one that failed. */
  #carrying = Buffer.allocUnsafeSlow(256 * KIB);
  #carryingBytes = 0;

  #file: DiskFile | null = null;
  #filePath = '';
  #fileSalt = 0;
  #fileBase: number;
  #fileBytes = 0;

  #ticket = 0;
  #carriedTicket = 0;
  #announced = 0;
  #state: JournalState = 'ok';
  #busy = false;
  #scheduled = false;
  #cancelTimer: (() => void) | null = null;
  #commitBeganMs = 0;
  #stopping = false;
  #stopped = false;
  #idleWaiters: (() => void)[] = [];
  #warnedFull = false;

  #refusals = 0;
  #commits = 0;
  #failures = 0;
  #failuresInRow = 0;
  #lastCommitMs = 0;

  constructor(options: JournalOptions, view: BigInt64Array, base: number, found: JournalFound) {
    this.#disk = options.disk;
    this.#directory = options.directory;
    this.#log = options.log;
    this.#clock = options.clock;
    this.#timers = options.timers ?? REAL_TIMERS;
    this.#salt = options.salt ?? (() => randomInt(2 ** 32));
    this.#mode = options.mode ?? 'disk';
    this.#segmentBytesMax = options.segmentBytesMax ?? SEGMENT_BYTES_MAX;
    this.#unshippedBytesMax = options.unshippedBytesMax ?? UNSHIPPED_BYTES_MAX;
    this.#pendingBytesMax = options.pendingBytesMax ?? PENDING_BYTES_MAX;
    this.#batchMs = options.batchMs ?? BATCH_MS;
    this.#retryMs = options.retryMs ?? RETRY_MS;
    this.#view = view;
    this.#fileBase = base;
    this.committedPosition = view.buffer as SharedArrayBuffer;
    this.found = found;
  }

  async begin(): Promise<void> {
    await this.#beginSegment();
    // Everything before the new segment was synced by `recover`.
    this.#publish();
    this.#judgeFullness();
  }

  append(record: Uint8Array): number {
    const length = record.length;
    if (this.#stopping || length === 0 || length > RECORD_BYTES_MAX) return this.#refuse();
    if (this.#state !== 'ok' && !this.#recheck()) return this.#refuse();
    const at = this.#fillingBytes;
    const end = at + RECORD_HEADER_BYTES + length;
    if (end + this.#carryingBytes > this.#pendingBytesMax) {
      this.#becomeFull('records wait for the disk');
      return this.#refuse();
    }
    if (end > this.#filling.length) this.#growFilling(end);
    const buffer = this.#filling;
    buffer[at + 4] = length;
    buffer[at + 5] = length >>> 8;
    buffer[at + 6] = length >>> 16;
    buffer[at + 7] = 0;
    buffer.set(record, at + RECORD_HEADER_BYTES);
    this.#fillingBytes = end;
    const ticket = ++this.#ticket;
    if (!this.#busy && !this.#scheduled) this.#schedule();
    return ticket;
  }

  state(): JournalState {
    if (this.#state === 'full') this.#recheck();
    return this.#state;
  }

  figures(): JournalFigures {
    return {
      appends: this.#ticket,
      refusals: this.#refusals,
      commits: this.#commits,
      lastCommitMs: this.#lastCommitMs,
      failures: this.#failures,
      pendingBytes: this.#fillingBytes + this.#carryingBytes,
      unshippedBytes: this.#unshippedBytes(),
    };
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const startFailures = this.#failures;
    while (this.#fillingBytes + this.#carryingBytes > 0 || this.#busy) {
      if (this.#failures - startFailures >= STOP_TRIES) {
        this.#log.error(
          'The journal stops with records it could not write. They were not acknowledged.',
          {
            bytes: this.#fillingBytes + this.#carryingBytes,
          },
        );
        break;
      }
      await new Promise<void>((resolve) => {
        this.#idleWaiters.push(resolve);
        if (!this.#busy && !this.#scheduled) this.#schedule();
      });
    }
    this.#stopped = true;
    this.#cancelTimer?.();
    const file = this.#file;
    this.#file = null;
    if (file === null) return;
    if (this.#mode === 'memory') await file.datasync().catch(() => {});
    await file.close().catch(() => {});
  }

  /** The first append of an idle journal commits as soon as this turn of the event loop is over; under load batches form. */
  #schedule(): void {
    this.#scheduled = true;
    const waitMs = this.#commitBeganMs + this.#batchMs - this.#clock.nowMs();
    if (waitMs <= 0 || waitMs > this.#batchMs || this.#stopping) {
      this.#timers.soon(() => this.#fire());
    } else {
      this.#cancelTimer = this.#timers.after(waitMs, () => this.#fire());
    }
  }

  #fire(): void {
    this.#cancelTimer = null;
    this.#scheduled = false;
    if (this.#busy || this.#stopped) return;
    this.#busy = true;
    void this.#commit();
  }

  /** One group commit. Never rejects. */
  async #commit(): Promise<void> {
    this.#commitBeganMs = this.#clock.nowMs();
    if (this.#carryingBytes === 0) this.#takeFilling();
    const ticket = this.#carriedTicket;
    if (this.#mode === 'memory') this.#announce(ticket);
    let safe = false;
    try {
      if (this.#file === null || this.#fileBytes >= this.#segmentBytesMax) {
        await this.#beginSegment();
      }
      const file = this.#file as unknown as DiskFile;
      const bytes = this.#carrying.subarray(0, this.#carryingBytes);
      seal(bytes, this.#fileSalt, this.#fileBytes);
      await file.write(bytes, this.#fileBytes);
      if (this.#mode === 'disk') await file.datasync();
      this.#fileBytes += bytes.length;
      this.#carryingBytes = 0;
      this.#commits++;
      this.#lastCommitMs = this.#clock.nowMs() - this.#commitBeganMs;
      this.#publish();
      this.#becomeWell();
      safe = true;
    } catch (error) {
      await this.#abandonSegment(error);
    }
    // Outside of the try: a fault in the handler is the program's, not the disk's.
    if (safe) this.#announce(ticket);
    this.#busy = false;
    for (const wake of this.#idleWaiters.splice(0)) wake();
    if (this.#stopped) return;
    if (this.#state === 'failed') {
      this.#scheduled = true;
      this.#cancelTimer = this.#timers.after(this.#retryMs, () => this.#fire());
    } else if (this.#fillingBytes > 0 && !this.#scheduled) {
      this.#schedule();
    }
  }

  #announce(ticket: number): void {
    if (ticket === this.#announced) return;
    this.#announced = ticket;
    this.onCommitted(ticket);
  }

  #takeFilling(): void {
    const buffer = this.#carrying;
    this.#carrying = this.#filling;
    this.#carryingBytes = this.#fillingBytes;
    this.#carriedTicket = this.#ticket;
    this.#filling = buffer;
    this.#fillingBytes = 0;
  }

  /** Makes the next segment and makes its name durable, before anything in it can be acknowledged. */
  async #beginSegment(): Promise<void> {
    const old = this.#file;
    this.#file = null;
    this.#fileBase += this.#fileBytes;
    this.#fileBytes = 0;
    if (old !== null) {
      if (this.#mode === 'memory') await old.datasync().catch(() => {});
      await old.close().catch(() => {});
    }
    const base = this.#fileBase;
    const path = join(this.#directory, segmentName(base));
    const salt = this.#salt() >>> 0;
    this.#filePath = path;
    let file: DiskFile;
    try {
      file = await this.#disk.open(path, 'create');
    } catch (error) {
      // A leftover that could not be removed: its name, and the positions it may hold, are not for us.
      if (errorCode(error) === 'EEXIST') this.#fileBase += RECORD_BYTES_MAX;
      throw error;
    }
    // From here on a failure must not take the name again.
    this.#fileBytes = SEGMENT_HEADER_BYTES;
    this.#file = file;
    await file.write(segmentHeader(base, salt), 0);
    await file.datasync();
    await this.#disk.syncDirectory(this.#directory);
    this.#fileSalt = salt;
  }

  /** The segment is not to be trusted beyond its committed end: cut it there as well as the disk allows, and go on elsewhere. */
  async #abandonSegment(error: unknown): Promise<void> {
    const code = errorCode(error);
    this.#failures++;
    this.#failuresInRow++;
    const wasWell = this.#state !== 'failed';
    this.#state = 'failed';
    if (wasWell || this.#failuresInRow % 60 === 0) {
      this.#log.error(
        'The journal cannot be written. Shares are not acknowledged until it can; found blocks go out all the same.',
        { code, segment: this.#filePath, tries: this.#failuresInRow },
      );
    }
    const file = this.#file;
    this.#file = null;
    const committedBytes = this.#fileBytes;
    this.#fileBytes = 0;
    if (file === null) return;
    if (await this.#cutBack(file, committedBytes)) return;
    // Whatever the failed write put there keeps its positions: the next segment begins behind all of it.
    this.#fileBase += committedBytes + this.#carryingBytes;
  }

  /** Answers whether the whole segment is gone, so that its positions, never seen by the reader, are free. */
  async #cutBack(file: DiskFile, committedBytes: number): Promise<boolean> {
    const empty = committedBytes <= SEGMENT_HEADER_BYTES;
    try {
      if (empty) await this.#disk.remove(this.#filePath);
      else await file.truncate(committedBytes);
    } catch (cause) {
      this.#log.debug('The failed segment could not be cut back. The reader skips its tail.', {
        code: errorCode(cause),
      });
      return false;
    } finally {
      await file.close().catch(() => {});
    }
    return false;
  }

  #becomeWell(): void {
    this.#failuresInRow = 0;
    if (this.#state === 'failed') {
      this.#state = 'ok';
      this.#log.info('The journal works again.', { segment: this.#filePath });
    }
    this.#judgeFullness();
  }

  #judgeFullness(): void {
    if (this.#state === 'failed') return;
    if (this.#unshippedBytes() >= this.#unshippedBytesMax) {
      this.#becomeFull('too much is not yet shipped');
    } else if (this.#state === 'full') {
      this.#recheck();
    }
  }

  #becomeFull(reason: string): void {
    if (this.#state === 'failed') return;
    this.#state = 'full';
    if (this.#warnedFull) return;
    this.#warnedFull = true;
    this.#log.error('The journal is full. Shares are not acknowledged until there is room.', {
      reason,
      unshippedBytes: this.#unshippedBytes(),
      pendingBytes: this.#fillingBytes + this.#carryingBytes,
    });
  }

  /** Full ends at seven eighths, so that it does not flutter. Answers whether the state is `ok` now. */
  #recheck(): boolean {
    if (this.#state !== 'full') return this.#state === 'ok';
    const pending = this.#fillingBytes + this.#carryingBytes;
    if (this.#unshippedBytes() > this.#unshippedBytesMax * 0.875) return false;
    if (pending > this.#pendingBytesMax * 0.875) return false;
    this.#state = 'ok';
    this.#warnedFull = false;
    this.#log.info('The journal has room again.');
    return true;
  }

  #unshippedBytes(): number {
    const shipped = Number(Atomics.load(this.#view, SHIPPED));
    const end = this.#fileBase + this.#fileBytes + this.#carryingBytes + this.#fillingBytes;
    return Math.max(0, end - shipped - SEGMENT_HEADER_BYTES);
  }

  #publish(): void {
    Atomics.store(this.#view, COMMITTED, BigInt(this.#fileBase + this.#fileBytes));
    Atomics.notify(this.#view, COMMITTED);
  }

  #refuse(): number {
    this.#refusals++;
    return -1;
  }

  #growFilling(needed: number): void {
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#filling.length * 2));
    this.#filling.copy(grown, 0, 0, this.#fillingBytes);
    this.#filling = grown;
  }
}

/** What one read gave: records in order, and the position to mark once they are safe elsewhere. */
export type JournalBatch = {
  records: Uint8Array[];
  position: number;
  /** Bytes skipped because they are not a record: damage inside a segment, or the tail of a failed one. */
  skippedBytes: number;
};

export type JournalReader = {
  /** The next records behind the last batch, or null when everything committed has been read. One call at a time. */
  next(): Promise<JournalBatch | null>;
  /** Resolves when something was committed, or after `timeoutMs`. */
  wait(timeoutMs: number): Promise<void>;
  /** Goes back to the last marked position, so that unmarked records come again. */
  rewind(): void;
  /**
   * Everything before `position` is safe elsewhere: notes that durably and removes segments no longer needed. A disk that refuses
   * the note is logged, not thrown: the worst of it is that records come twice after a restart.
   */
  markShipped(position: number): Promise<void>;
  /** Committed bytes not yet marked. */
  lagBytes(): number;
  stop(): Promise<void>;
};

export type JournalReaderOptions = {
  disk: Disk;
  directory: string;
  log: Log;
  /** From the journal, `committedPosition`. */
  committed: SharedArrayBuffer;
  batchBytesMax?: number;
  recordsMax?: number;
};

/** Whether everything committed has been shipped, as `committedPosition` says; from any thread. */
export function isAllShipped(committed: SharedArrayBuffer): boolean {
  const view = new BigInt64Array(committed);
  // Shipped first: it never passes what was committed before.
  const shipped = Atomics.load(view, SHIPPED);
  return shipped >= Atomics.load(view, COMMITTED);
}

/** Opens the reading end. The journal must have been opened before, in this process. */
export async function openJournalReader(options: JournalReaderOptions): Promise<JournalReader> {
  const { disk, directory, log } = options;
  const view = new BigInt64Array(options.committed);
  const batchBytesMax = Math.max(
    options.batchBytesMax ?? BATCH_BYTES_MAX,
    RECORD_BYTES_MAX + RECORD_HEADER_BYTES,
  );
  const recordsMax = options.recordsMax ?? 8192;
  let marked = await readShipped(disk, directory);
  const shippedFile = await openShipped(disk, directory);
  let shippedSlot = 0;
  let position = marked;
  let segment: { base: number; salt: number; file: DiskFile } | null = null;
  let stopped = false;
  let waitCancelled = () => {};
  /** The committed position at which nothing was left to read. */
  let emptyAt = -1;

  const committed = (): number => Number(Atomics.load(view, COMMITTED));

  async function closeSegment(): Promise<void> {
    const file = segment?.file;
    segment = null;
    await file?.close().catch(() => {});
  }

  /** Opens the segment that holds `position`, or else the first one behind it. False when there is none. */
  async function openSegment(): Promise<boolean> {
    const bases = await listBases(disk, directory);
    for (let i = 0; i < bases.length; i++) {
      const base = bases[i] as number;
      const nextBase = bases[i + 1] ?? Number.POSITIVE_INFINITY;
      if (nextBase <= position || base >= committed()) continue;
      const file = await disk.open(join(directory, segmentName(base)), 'read');
      const salt = decodeSegmentHeader(await file.read(0, SEGMENT_HEADER_BYTES), base);
      if (salt === null) {
        // Its creation was interrupted or it is damaged beyond the header. Nothing in it can be told from noise.
        const size = await file.size();
        await file.close();
        if (size > SEGMENT_HEADER_BYTES) {
          log.error('A journal segment has a broken header and is skipped.', { base, bytes: size });
        }
        position = Math.max(position, base + SEGMENT_HEADER_BYTES);
        if (nextBase === Number.POSITIVE_INFINITY) return false;
        position = Math.max(position, nextBase);
        continue;
      }
      segment = { base, salt, file };
      position = Math.max(position, base + SEGMENT_HEADER_BYTES);
      return true;
    }
    return false;
  }

  /** The base of the segment after the open one, or null. */
  async function nextBaseAfter(base: number): Promise<number | null> {
    const bases = await listBases(disk, directory);
    return bases.find((candidate) => candidate > base) ?? null;
  }

  /** Never the newest one: its name keeps the positions growing. */
  async function removeShippedSegments(): Promise<void> {
    const bases = await listBases(disk, directory);
    for (let i = 0; i + 1 < bases.length; i++) {
      const base = bases[i] as number;
      if ((bases[i + 1] as number) > marked) break;
      if (segment?.base === base) await closeSegment();
      await disk.remove(join(directory, segmentName(base)));
    }
  }

  async function next(): Promise<JournalBatch | null> {
    let skippedBytes = 0;
    while (!stopped && position < committed()) {
      const limit = committed();
      if (segment === null && !(await openSegment())) {
        emptyAt = limit;
        return null;
      }
      const { base, salt, file } = segment as unknown as NonNullable<typeof segment>;
      const offset = position - base;
      const wanted = Math.min(batchBytesMax, limit - position);
      const bytes = await file.read(offset, wanted);
      const atEnd = bytes.length < wanted || limit - position <= batchBytesMax;
      const scan = scanRecords(bytes, salt, offset, { recordsMax, atEnd });
      position += scan.usedBytes;
      skippedBytes += scan.skippedBytes;
      if (scan.skippedBytes > 0) {
        log.error('Bytes in the journal are not a record and were skipped.', {
          base,
          offset,
          bytes: scan.skippedBytes,
        });
      }
      if (scan.records.length > 0) return { records: scan.records, position, skippedBytes };
      if (scan.usedBytes > 0) continue;
      // Nothing whole is left in this segment. If there is a later one, this one is closed for good.
      const nextBase = await nextBaseAfter(base);
      if (nextBase === null || nextBase >= limit) {
        emptyAt = limit;
        return null;
      }
      const left = (await file.size()) - (position - base);
      if (left > 0) {
        skippedBytes += left;
        log.warn('The tail of a journal segment is not a record and was skipped.', {
          base,
          bytes: left,
        });
      }
      await closeSegment();
      position = nextBase;
    }
    return null;
  }

  return {
    next,
    async wait(timeoutMs) {
      if (stopped || (position < committed() && committed() !== emptyAt)) return;
      const seen = Atomics.load(view, COMMITTED);
      // With a plain timer beside it, because waitAsync alone neither keeps the process alive nor can be called off.
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        waitCancelled = () => {
          clearTimeout(timer);
          resolve();
        };
        const waiting = Atomics.waitAsync(view, COMMITTED, seen, timeoutMs);
        if (!waiting.async) waitCancelled();
        else void waiting.value.then(waitCancelled);
      });
    },
    rewind() {
      position = marked;
      void closeSegment();
    },
    async markShipped(shipped) {
      if (shipped <= marked) return;
      marked = shipped;
      Atomics.store(view, SHIPPED, BigInt(shipped));
      try {
        await shippedFile.write(encodeShipped(shipped), shippedSlot * SHIPPED_SLOT_BYTES);
        await shippedFile.datasync();
        shippedSlot = 1 - shippedSlot;
      } catch (error) {
        // What was shipped is safe all the same: after a restart some of it is delivered twice.
        log.warn('The journal could not note how far it was shipped.', { code: errorCode(error) });
      }
      try {
        await removeShippedSegments();
      } catch (error) {
        log.warn('A shipped journal segment could not be removed.', { code: errorCode(error) });
      }
    },
    lagBytes() {
      return Math.max(0, committed() - marked);
    },
    async stop() {
      stopped = true;
      waitCancelled();
      await closeSegment();
      await shippedFile.close().catch(() => {});
    },
  };
}

type Scan = {
  records: Uint8Array[];
  /** From the start of `bytes`: everything up to here was delivered or skipped. */
  usedBytes: number;
  /** Not records, but with a whole record behind them. */
  skippedBytes: number;
};

/**
 * Walks over records. `offset` is where `bytes` begins in its segment. Bytes that are no record are skipped only when a whole
 * record follows them; at the end they are left (`usedBytes` stays before them). With `atEnd` false a record cut by the end of
 * `bytes` is left for the next read. Records are views.
 */
export function scanRecords(
  bytes: Uint8Array,
  salt: number,
  offset: number,
  options: { recordsMax: number; atEnd: boolean },
): Scan {
  const records: Uint8Array[] = [];
  let at = 0;
  let skippedBytes = 0;
  while (records.length < options.recordsMax) {
    let end = recordEnd(bytes, at, salt, offset);
    if (end === 0) {
      if (!options.atEnd && couldBeCut(bytes, at)) break;
      // Damage, or the end. Look for the next whole record.
      let probe = at + 1;
      while (probe + RECORD_HEADER_BYTES < bytes.length) {
        end = recordEnd(bytes, probe, salt, offset);
        if (end !== 0) break;
        probe++;
      }
      if (end === 0) {
        if (options.atEnd) break;
        // A record may begin in the last bytes and go on behind them.
        const keep = Math.max(at, bytes.length - RECORD_BYTES_MAX - RECORD_HEADER_BYTES);
        skippedBytes += keep - at;
        at = keep;
        break;
      }
      skippedBytes += probe - at;
      at = probe;
    }
    records.push(bytes.subarray(at + RECORD_HEADER_BYTES, end));
    at = end;
  }
  return { records, usedBytes: at, skippedBytes };
}

/** The end of the whole record at `at`, or 0. */
function recordEnd(bytes: Uint8Array, at: number, salt: number, offset: number): number {
  if (at + RECORD_HEADER_BYTES >= bytes.length) return 0;
  const length = readU32(bytes, at + 4);
  if (length === 0 || length > RECORD_BYTES_MAX) return 0;
  const end = at + RECORD_HEADER_BYTES + length;
  if (end > bytes.length) return 0;
  const crc = crc32(bytes.subarray(at + 4, end), (salt + offset + at) >>> 0);
  return crc === readU32(bytes, at) ? end : 0;
}

/** Whether a sane record begins at `at` and goes on behind the end of `bytes`. */
function couldBeCut(bytes: Uint8Array, at: number): boolean {
  if (at + RECORD_HEADER_BYTES >= bytes.length) return true;
  const length = readU32(bytes, at + 4);
  return (
    length > 0 && length <= RECORD_BYTES_MAX && at + RECORD_HEADER_BYTES + length > bytes.length
  );
}

/** Writes the crc of each record in `bytes`, which begins at `offset` of its segment. */
function seal(bytes: Buffer, salt: number, offset: number): void {
  let at = 0;
  while (at < bytes.length) {
    const end = at + RECORD_HEADER_BYTES + readU32(bytes, at + 4);
    const crc = crc32(bytes.subarray(at + 4, end), (salt + offset + at) >>> 0);
    bytes[at] = crc;
    bytes[at + 1] = crc >>> 8;
    bytes[at + 2] = crc >>> 16;
    bytes[at + 3] = crc >>> 24;
    at = end;
  }
}

type Recovered = {
  nextBase: number;
  shipped: number;
  segments: number;
  tornBytes: number;
  corruptBytes: number;
};

/** Cuts the torn tail, makes sure of what is there, and finds where the next segment may begin. */
async function recover(disk: Disk, directory: string, log: Log): Promise<Recovered> {
  const shipped = await readShipped(disk, directory);
  const bases = await listBases(disk, directory);
  let nextBase = shipped;
  let tornBytes = 0;
  let corruptBytes = 0;
  for (const base of bases) {
    const file = await disk.open(join(directory, segmentName(base)), 'update');
    try {
      const size = await file.size();
      nextBase = Math.max(nextBase, base + Math.max(size, SEGMENT_HEADER_BYTES));
      if (base === bases.at(-1)) {
        const tail = await cutTornTail(file, base, size);
        tornBytes += tail.tornBytes;
        corruptBytes += tail.corruptBytes;
      }
      // The last process may have been killed between write and sync. What is delivered from here on must survive.
      await file.datasync();
    } finally {
      await file.close();
    }
  }
  if (bases.length > 0) await disk.syncDirectory(directory);
  if (tornBytes > 0 || corruptBytes > 0) {
    log.warn('The journal was not closed in order. What was acknowledged is kept.', {
      tornBytes,
      corruptBytes,
    });
  }
  return { nextBase, shipped, segments: bases.length, tornBytes, corruptBytes };
}

async function cutTornTail(
  file: DiskFile,
  base: number,
  size: number,
): Promise<{ tornBytes: number; corruptBytes: number }> {
  const salt = decodeSegmentHeader(await file.read(0, SEGMENT_HEADER_BYTES), base);
  if (salt === null) return { tornBytes: 0, corruptBytes: 0 };
  const bytes = await file.read(SEGMENT_HEADER_BYTES, size - SEGMENT_HEADER_BYTES);
  const scan = scanRecords(bytes, salt, SEGMENT_HEADER_BYTES, {
    recordsMax: Number.POSITIVE_INFINITY,
    atEnd: true,
  });
  const end = SEGMENT_HEADER_BYTES + scan.usedBytes;
  if (end < size) await file.truncate(end);
  return { tornBytes: size - end, corruptBytes: scan.skippedBytes };
}

function segmentName(base: number): string {
  return `${base.toString(16).padStart(16, '0')}.segment`;
}

async function listBases(disk: Disk, directory: string): Promise<number[]> {
  const bases: number[] = [];
  for (const name of await disk.list(directory)) {
    const match = SEGMENT_NAME.exec(name);
    if (match) bases.push(Number.parseInt(match[1] as string, 16));
  }
  return bases.sort((a, b) => a - b);
}

function segmentHeader(base: number, salt: number): Uint8Array {
  const header = Buffer.alloc(SEGMENT_HEADER_BYTES);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(salt, 4);
  header.writeBigUInt64LE(BigInt(base), 8);
  header.writeUInt32LE(crc32(header.subarray(0, 16)), 16);
  return header;
}

/** The salt, or null when the bytes are not the header of the segment with this base. */
function decodeSegmentHeader(bytes: Uint8Array, base: number): number | null {
  if (bytes.length !== SEGMENT_HEADER_BYTES) return null;
  if (readU32(bytes, 0) !== MAGIC) return null;
  if (readU32(bytes, 16) !== crc32(bytes.subarray(0, 16))) return null;
  if (readU32(bytes, 8) + readU32(bytes, 12) * 2 ** 32 !== base) return null;
  return readU32(bytes, 4);
}

/**
 * `shipped` is two sectors, written in turn, each a position in decimal and its crc in hex: a torn write leaves the other one, and
 * a full disk takes it all the same. The highest valid one counts; none counts as 0, and everything is shipped again.
 */
async function readShipped(disk: Disk, directory: string): Promise<number> {
  let file: DiskFile;
  try {
    file = await disk.open(join(directory, SHIPPED_NAME), 'read');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 0;
    throw error;
  }
  try {
    const first = decodeShipped(await file.read(0, SHIPPED_SLOT_BYTES));
    const second = decodeShipped(await file.read(SHIPPED_SLOT_BYTES, SHIPPED_SLOT_BYTES));
    return Math.max(first, second);
  } finally {
    await file.close();
  }
}

function decodeShipped(bytes: Uint8Array): number {
  const match = /^(\d{1,16}) ([0-9a-f]{8})\n/.exec(Buffer.from(bytes).toString('latin1'));
  if (!match) return 0;
  const digits = match[1] as string;
  return crc32(digits).toString(16).padStart(8, '0') === match[2] ? Number(digits) : 0;
}

function encodeShipped(position: number): Uint8Array {
  const digits = String(position);
  const slot = Buffer.alloc(SHIPPED_SLOT_BYTES, ' ');
  slot.write(`${digits} ${crc32(digits).toString(16).padStart(8, '0')}\n`, 'latin1');
  return slot;
}

async function openShipped(disk: Disk, directory: string): Promise<DiskFile> {
  const path = join(directory, SHIPPED_NAME);
  try {
    return await disk.open(path, 'update');
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
  const file = await disk.open(path, 'create');
  await file.write(Buffer.alloc(2 * SHIPPED_SLOT_BYTES, ' '), 0);
  await file.datasync();
  await disk.syncDirectory(directory);
  return file;
}

function readU32(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24)) >>>
    0
  );
}

function errorCode(error: unknown): string {
  if (error !== null && typeof error === 'object' && 'code' in error) return String(error.code);
  return String(error);
}

const REAL_TIMERS: JournalTimers = {
  soon(work) {
    setImmediate(work);
  },
  after(delayMs, work) {
    const timer = setTimeout(work, delayMs);
    return () => clearTimeout(timer);
  },
};
