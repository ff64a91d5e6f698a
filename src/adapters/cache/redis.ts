/**
 * The cache in Redis. It may be away, frozen, full, flushed, or hold another program's keys: every call ends within about 100 ms,
 * and what it can not have reads as absent. After a row of failures nothing is asked for a while (a circuit breaker); the connection
 * is renewed for ever, in the background.
 *
 * Every key stands under one prefix, and holds nothing but letters, digits and `:._-`; other characters are escaped, and a long key
 * is replaced by its hash.
 */
import { createHash } from 'node:crypto';
import { createClient, ErrorReply, RESP_TYPES } from '@redis/client';
import {
  admitCall,
  type BreakerLimits,
  createBreaker,
  recordCall,
} from '../../core/node/breaker.ts';
import type { Log } from '../../ports.ts';
import { type CountedCache, createCacheCounts } from './memory.ts';

export type RedisCacheOptions = {
  /** `redis://` or `rediss://`, with user, password and database number as need be. */
  url: string;
  /** Put before every key: `headframe:<network>:`. */
  prefix: string;
  log: Log;
  timeoutMs?: number;
};

const TIMEOUT_MS = 100;
const CONNECT_TIMEOUT_MS = 2_000;
const RECONNECT_MS_MIN = 50;
const RECONNECT_MS_MAX = 5_000;
const BREAKER: BreakerLimits = { failuresMax: 5, pauseMinMs: 500, pauseMaxMs: 5_000 };
/** A server that has let this many calls in a row run out of time is given a new connection. */
const SILENT_CALLS_MAX = 8;
const WAITING_CALLS_MAX = 2_000;
const VALUE_BYTES_MAX = 16 * 1024 * 1024;
const KEY_CHARS_MAX = 200;
const TTL_MS_MAX = 2 ** 40;
const WARN_MS = 60_000;

/** The counter is never without an end, whatever happens between two commands. */
const INCREMENT = `local sum = redis.call('INCR', KEYS[1])
if sum == 1 or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return sum`;

/** `wrong`: the server has something of another kind under this key. */
type Reply = { kind: 'value'; value: unknown } | { kind: 'wrong' } | { kind: 'nothing' };
const NOTHING: Reply = { kind: 'nothing' };

/** Begins to connect and returns at once; until the server is there, everything is absent. A malformed URL throws. */
export function createRedisCache(options: RedisCacheOptions): CountedCache {
  const { url, prefix, log, timeoutMs = TIMEOUT_MS } = options;
  const counts = createCacheCounts();
  const breaker = createBreaker();
  let waiting = 0;
  let silentCalls = 0;
  let stopped = false;
  let isDownTold = false;
  let refusalToldAtMs = Number.NEGATIVE_INFINITY;
  let client = open();

  function open() {
    // The error of the driver would show the password.
    if (!URL.canParse(url)) throw new TypeError('the address of Redis can not be read');
    const fresh = createClient({
      url,
      RESP: 2,
      disableOfflineQueue: true,
      disableClientInfo: true,
      maintNotifications: 'disabled',
      commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } },
      socket: {
        connectTimeout: CONNECT_TIMEOUT_MS,
        reconnectStrategy: (retries) =>
          Math.min(RECONNECT_MS_MIN * 2 ** Math.min(retries, 10), RECONNECT_MS_MAX),
      },
    });
    fresh.on('error', (error) => tellDown(words(error)));
    // A connection to a frozen server is open at once; only an answer counts.
    fresh.on('ready', () => void fresh.ping().then(succeed, () => {}));
    // Rejects only when it is closed.
    fresh.connect().catch(() => {});
    return fresh;
  }

  /** One command, whose answer may come too late; that one is thrown away. */
  async function ask(command: (redis: typeof client) => Promise<unknown>): Promise<Reply> {
    if (stopped || waiting >= WAITING_CALLS_MAX || !admitCall(breaker, performance.now())) {
      counts.refused++;
      return NOTHING;
    }
    if (!client.isReady) return fail();
    waiting++;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      // An answer that is already here, behind a stall of our own, is read before the last word.
      timer = setTimeout(() => setImmediate(resolve, 'late'), timeoutMs);
    });
    const answer = command(client)
      .finally(() => waiting--)
      .then(
        (value) => ({ value }),
        (error: unknown) => ({ error }),
      );
    const first = await Promise.race([answer, late]);
    clearTimeout(timer);
    if (first === 'late') {
      if (++silentCalls >= SILENT_CALLS_MAX) renew();
      return fail();
    }
    if ('error' in first) {
      if (!(first.error instanceof ErrorReply)) return fail();
      succeed();
      return refuse(first.error.message);
    }
    succeed();
    return { kind: 'value', value: first.value };
  }

  function fail(): Reply {
    counts.errors++;
    recordCall(breaker, false, performance.now(), BREAKER);
    if (breaker.openUntilMs !== 0) {
      counts.open = 1;
      tellDown(`no answer within ${timeoutMs} ms`);
    }
    return NOTHING;
  }

  function succeed(): void {
    silentCalls = 0;
    recordCall(breaker, true, performance.now(), BREAKER);
    counts.open = 0;
    if (isDownTold) log.info('The cache is there again.');
    isDownTold = false;
  }

  /** The server's own no. */
  function refuse(message: string): Reply {
    if (message.startsWith('WRONGTYPE') || message.includes('not an integer')) {
      counts.wrongTypes++;
      return { kind: 'wrong' };
    }
    if (/\bOOM\b/.test(message)) {
      counts.dropped++;
      tellRefusal('The cache is full. What it has no room for is not kept.', message);
    } else {
      counts.errors++;
      tellRefusal('The cache refuses.', message);
    }
    return NOTHING;
  }

  function tellDown(error: string): void {
    if (isDownTold || stopped) return;
    isDownTold = true;
    log.warn('The cache is away. Everything goes on without it.', { error });
  }

  function tellRefusal(what: string, answer: string): void {
    const nowMs = performance.now();
    if (nowMs - refusalToldAtMs < WARN_MS) return;
    refusalToldAtMs = nowMs;
    log.warn(what, { answer });
  }

  /** Commands that a frozen server never answers would pile up on their connection. */
  function renew(): void {
    silentCalls = 0;
    const old = client;
    client = open();
    destroy(old);
  }

  return {
    async get(key) {
      const reply = await ask((redis) => redis.get(keyOf(prefix, key)));
      if (reply.kind === 'value' && Buffer.isBuffer(reply.value)) {
        counts.hits++;
        return new Uint8Array(reply.value);
      }
      if (reply.kind !== 'nothing') counts.misses++;
      return null;
    },

    async set(key, value, ttlMs) {
      const bytes = typeof value === 'string' ? value : Buffer.from(value);
      if (bytes.length > VALUE_BYTES_MAX || !(ttlMs > 0)) {
        counts.dropped++;
        return;
      }
      const PX = wholeMs(ttlMs);
      await ask((redis) =>
        redis.set(keyOf(prefix, key), bytes, { expiration: { type: 'PX', value: PX } }),
      );
    },

    async increment(key, ttlMs) {
      if (!(ttlMs > 0)) return null;
      const reply = await ask((redis) =>
        redis.eval(INCREMENT, {
          keys: [keyOf(prefix, key)],
          arguments: [String(wholeMs(ttlMs))],
        }),
      );
      return reply.kind === 'value' && typeof reply.value === 'number' ? reply.value : null;
    },

    counts: () => ({ ...counts }),

    async stop() {
      stopped = true;
      destroy(client);
    },
  };
}

function destroy(client: { isOpen: boolean; destroy(): void }): void {
  if (client.isOpen) client.destroy();
}

function wholeMs(ttlMs: number): number {
  return Math.min(Math.max(1, Math.round(ttlMs)), TTL_MS_MAX);
}

/** The key as it stands in Redis. */
function keyOf(prefix: string, key: string): string {
  const plain = key.replace(
    /[^A-Za-z0-9:._-]/gu,
    (letter) => `%${Buffer.from(letter).toString('hex')}`,
  );
  if (plain.length <= KEY_CHARS_MAX) return prefix + plain;
  return `${prefix}sha256:${createHash('sha256').update(key).digest('hex')}`;
}

function words(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}
