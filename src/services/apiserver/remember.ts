/**
 * Answers that are costly to make and may be a few seconds old: kept in the cache, so that all apiservers together ask the database once.
 * What the cache holds is checked by a mark of ours; anything else reads as absent. While an answer is being made, whoever asks for the
 * same waits for that one.
 */
import type { Cache } from '../../ports.ts';

/** Makes the answer to a key, or gives the one that was made less than `ttlMs` ago. Rejects when `make` does. */
export type Remember = <T>(key: string, ttlMs: number, make: () => Promise<T>) => Promise<T>;

/** Before everything of ours; another number when the form changes, so that two versions do not read each other. */
const MARK = 'answer1 ';
/** Beyond so many different questions at a time each is answered by itself. */
const UNDER_WAY_MAX = 1_000;

/** A memory in the cache. */
export function createRemember(tools: { cache: Pick<Cache, 'get' | 'set'> }): Remember {
  const { cache } = tools;
  const underWay = new Map<string, Promise<unknown>>();

  async function find<T>(key: string, ttlMs: number, make: () => Promise<T>): Promise<T> {
    const kept = decode(await cache.get(key));
    if (kept.ok) return kept.value as T;
    const answer = await make();
    // Not waited for: a slow cache must not slow the answer.
    void cache.set(key, encode(answer), ttlMs);
    return answer;
  }

  return <T>(key: string, ttlMs: number, make: () => Promise<T>) => {
    const before = underWay.get(key);
    if (before !== undefined) return before as Promise<T>;
    const answer = find(`api:${key}`, ttlMs, make);
    if (underWay.size >= UNDER_WAY_MAX) return answer;
    underWay.set(key, answer);
    const done = () => void underWay.delete(key);
    answer.then(done, done);
    return answer;
  };
}

/** Satoshi are bigint, which JSON has not: they are written as an object with this one name. */
const BIGINT = '$bigint';

function encode(value: unknown): string {
  return (
    MARK +
    JSON.stringify(value, (_, inner) =>
      typeof inner === 'bigint' ? { [BIGINT]: inner.toString() } : inner,
    )
  );
}

function decode(bytes: Uint8Array | null): { ok: true; value: unknown } | { ok: false } {
  if (bytes === null) return { ok: false };
  const text = Buffer.from(bytes).toString('utf8');
  if (!text.startsWith(MARK)) return { ok: false };
  try {
    const value: unknown = JSON.parse(text.slice(MARK.length), (_, inner) =>
      typeof inner === 'object' && inner !== null && typeof inner[BIGINT] === 'string'
        ? BigInt(inner[BIGINT])
        : inner,
    );
    return { ok: true, value };
  } catch {
    return { ok: false };
  }
}
