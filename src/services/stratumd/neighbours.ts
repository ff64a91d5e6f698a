/**
 * What the gateways of a pool tell each other through the cache: difficulties that miners have proven, bans, arrivals of an address.
 * All of it is advice: a gateway decides at once with what it knows itself, and hears of the rest a moment later or never.
 */
import type { Cache } from '../../ports.ts';

export type Neighbours = {
  /** The difficulty that was remembered under a key, if any: `found` is called later, or never. */
  recall(key: string, found: (difficulty: number) => void): void;
  remember(key: string, difficulty: number, ttlMs: number): void;
  /** This address is banned until then, by the wall clock. */
  ban(address: string, untilMs: number): void;
  /**
   * Somebody has come from an address. `refuse` is called later, or never: when another gateway has banned it, with the end of that
   * (wall clock), or with 0 when more than `arrivalsMax` came to all gateways within ten seconds.
   */
  arrive(address: string, arrivalsMax: number, refuse: (bannedUntilMs: number) => void): void;
};

const ARRIVALS_MS = 10_000;
const NUMBER = /^\d{1,16}(\.\d{1,20})?(e[+-]?\d{1,3})?$/;

/** The key of a session's difficulty. */
export function sessionKey(sessionId: string): string {
  return `session:${sessionId}`;
}

/** The key of a worker's difficulty. */
export function workerKey(pool: string, account: string, worker: string): string {
  return `vardiff:${pool}:${account}.${worker}`;
}

/** `readMs` is the wall clock. */
export function createNeighbours(cache: Cache, readMs: () => number): Neighbours {
  return {
    recall(key, found) {
      void cache.get(key).then((value) => {
        const difficulty = numberIn(value);
        if (difficulty > 0) found(difficulty);
      });
    },
    remember(key, difficulty, ttlMs) {
      void cache.set(key, String(difficulty), ttlMs);
    },
    ban(address, untilMs) {
      const leftMs = untilMs - readMs();
      if (leftMs > 0) void cache.set(`ban:${address}`, String(Math.round(untilMs)), leftMs);
    },
    arrive(address, arrivalsMax, refuse) {
      void cache.get(`ban:${address}`).then((value) => {
        const untilMs = numberIn(value);
        if (untilMs > readMs()) refuse(untilMs);
      });
      void cache.increment(`arrivals:${address}`, ARRIVALS_MS).then((sum) => {
        if (sum !== null && sum > arrivalsMax) refuse(0);
      });
    },
  };
}

/** 0 for what is no positive number of ours: anybody may write there. */
function numberIn(value: Uint8Array | null): number {
  if (value === null || value.length > 40) return 0;
  const text = Buffer.from(value).toString('latin1');
  const number = NUMBER.test(text) ? Number(text) : 0;
  return Number.isFinite(number) ? number : 0;
}
