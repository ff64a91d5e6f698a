/**
 * The cache of one process: the least recently used go when there are too many entries or bytes, the others when their time is over.
 * Values are copied in and out, as through a socket. A value that is larger than a quarter of the whole is not kept.
 */
import type { Cache, Clock } from '../../ports.ts';

/** What became of the calls, since the start. Only `open` goes up and down. */
export type CacheCounts = {
  hits: number;
  misses: number;
  /** Calls that gave nothing because the server was away, slow or unwilling. */
  errors: number;
  /** Entries of a kind we never write: another program uses our keys. They read as absent. */
  wrongTypes: number;
  /** Values that were not kept: no room at the server, or too large. */
  dropped: number;
  /** Calls that were not even tried, because those before them failed. */
  refused: number;
  /** 1 while calls are not tried. */
  open: number;
};

/** A cache that also tells how it fares, for the metrics. */
export type CountedCache = Cache & { counts(): CacheCounts };

export type MemoryCacheOptions = { clock: Clock; entriesMax?: number; bytesMax?: number };

const ENTRIES_MAX = 100_000;
const BYTES_MAX = 64 * 1024 * 1024;
/** What an entry costs beside its key and value, roughly. */
const ENTRY_BYTES = 128;
const INTEGER = /^-?\d{1,15}$/;

type Entry = { value: Uint8Array; expiresAtMs: number; bytes: number };

/** A new, empty cache. */
export function createMemoryCache(options: MemoryCacheOptions): CountedCache {
  const { clock, entriesMax = ENTRIES_MAX, bytesMax = BYTES_MAX } = options;
  const entries = new Map<string, Entry>();
  const counts = createCacheCounts();
  let bytes = 0;

  function remove(key: string, entry: Entry): void {
    entries.delete(key);
    bytes -= entry.bytes;
  }

  function find(key: string): Entry | null {
    const entry = entries.get(key);
    if (entry === undefined) return null;
    if (entry.expiresAtMs > clock.nowMs()) return entry;
    remove(key, entry);
    return null;
  }

  function put(key: string, value: Uint8Array, expiresAtMs: number): boolean {
    const old = entries.get(key);
    if (old !== undefined) remove(key, old);
    const size = ENTRY_BYTES + key.length * 2 + value.length;
    if (size > bytesMax / 4 || !(expiresAtMs > clock.nowMs())) return false;
    entries.set(key, { value, expiresAtMs, bytes: size });
    bytes += size;
    for (const [eldest, entry] of entries) {
      if (entries.size <= entriesMax && bytes <= bytesMax) break;
      remove(eldest, entry);
    }
    return true;
  }

  return {
    async get(key) {
      const entry = find(key);
      if (entry === null) {
        counts.misses++;
        return null;
      }
      counts.hits++;
      entries.delete(key);
      entries.set(key, entry);
      return entry.value.slice();
    },

    async set(key, value, ttlMs) {
      const bytes = typeof value === 'string' ? Buffer.from(value) : value.slice();
      if (!put(key, bytes, clock.nowMs() + ttlMs)) counts.dropped++;
    },

    async increment(key, ttlMs) {
      const entry = find(key);
      const text = entry === null ? '0' : Buffer.from(entry.value).toString('latin1');
      if (!INTEGER.test(text)) {
        counts.wrongTypes++;
        return null;
      }
      const sum = Number(text) + 1;
      const expiresAtMs = entry?.expiresAtMs ?? clock.nowMs() + ttlMs;
      return put(key, Buffer.from(String(sum)), expiresAtMs) ? sum : null;
    },

    counts: () => ({ ...counts }),

    async stop() {
      entries.clear();
      bytes = 0;
    },
  };
}

/** All zero. */
export function createCacheCounts(): CacheCounts {
  return { hits: 0, misses: 0, errors: 0, wrongTypes: 0, dropped: 0, refused: 0, open: 0 };
}
