/**
 * How the value of a setting is written, wherever it comes from: one parser per kind, from text to a checked value. Total:
 * any text gives a value or a reason in plain words, and a reason never repeats the text, because the text may be a secret.
 *
 * Refused on purpose: numbers with spaces, signs, hex or exponents where a person would not write them, durations and sizes
 * without a unit, URLs with a password in them.
 */

import { parseAmount } from '../core/ledger/amount.ts';
import { decodeIp, decodeIpRange, type IpRange } from '../core/stratum/ip.ts';

export type Parsed<T> = { ok: true; value: T } | { ok: false; reason: string };

/** A way of writing a value. `form` is what the documentation and `--help` say about it. */
export type Kind<T> = {
  form: string;
  parse(text: string): Parsed<T>;
  /** For lists of records: entries may also be written as maps in the file. */
  entry?: RecordForm;
};

/** The fields of one list entry. `head` is the field that stands first and without a name in the one-line form. */
export type RecordForm = {
  head: string;
  fields: ReadonlyMap<string, { kind: Kind<unknown>; secret?: true }>;
};

/** One value is at most this long; a list of ports or nodes fits many times. */
export const VALUE_CHARS_MAX = 4096;
const ENTRIES_MAX = 64;

const ok = <T>(value: T): Parsed<T> => ({ ok: true, value });
const no = (reason: string): { ok: false; reason: string } => ({ ok: false, reason });

/** Whole number in decimal digits, from `min` to `max`. */
export function integer(min: number, max: number): Kind<number> {
  const form = `whole number, ${min} to ${max}`;
  return {
    form,
    parse(text) {
      if (!/^(0|[1-9]\d{0,15})$/.test(text)) return no(`is not a ${form}`);
      const value = Number(text);
      return value >= min && value <= max ? ok(value) : no(`is outside ${min} to ${max}`);
    },
  };
}

/** Decimal number, with an exponent if need be (`1e-3`), from `min` to `max`. */
export function decimal(min: number, max: number): Kind<number> {
  const form = `number, ${min} to ${max}`;
  return {
    form,
    parse(text) {
      if (!/^\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,3})?$/.test(text)) return no(`is not a ${form}`);
      const value = Number(text);
      return value >= min && value <= max ? ok(value) : no(`is outside ${min} to ${max}`);
    },
  };
}

/** Percent with up to four places, as exact parts per million. */
export function percent(): Kind<number> {
  return {
    form: 'percent, 0 to 100, at most four places after the point, without a % sign',
    parse(text) {
      const match = /^(0|[1-9]\d{0,2})(?:\.(\d{1,4}))?$/.exec(text);
      if (match === null) return no('is not a percentage like 1 or 0.25 (no comma, no % sign)');
      const ppm = Number(match[1]) * 10_000 + Number((match[2] ?? '').padEnd(4, '0'));
      return ppm <= 1_000_000 ? ok(ppm) : no('is more than 100 percent');
    },
  };
}

/** A factor with up to six places, as exact parts per million. */
export function factor(min: string, max: string): Kind<bigint> {
  const minPpm = factorPpm(min)!;
  const maxPpm = factorPpm(max)!;
  return {
    form: `number, ${min} to ${max}, at most six places after the point`,
    parse(text) {
      const value = factorPpm(text);
      if (value === null) return no('is not a number like 2 or 0.5 with at most six places');
      return value >= minPpm && value <= maxPpm ? ok(value) : no(`is outside ${min} to ${max}`);
    },
  };
}

function factorPpm(text: string): bigint | null {
  const match = /^(0|[1-9]\d{0,8})(?:\.(\d{1,6}))?$/.exec(text);
  if (match === null) return null;
  return BigInt(match[1]!) * 1_000_000n + BigInt((match[2] ?? '').padEnd(6, '0'));
}

/** Money with its unit, `0.01 BTC` or `5000 sat`, as satoshi. */
export function amount(min: string, max: string): Kind<bigint> {
  const minSats = amountSats(min);
  const maxSats = amountSats(max);
  return {
    form: `amount with unit (BTC or sat), ${min} to ${max}`,
    parse(text) {
      const parsed = parseAmount(text);
      if (!parsed.ok) return no(parsed.reason);
      return parsed.sats >= minSats && parsed.sats <= maxSats
        ? ok(parsed.sats)
        : no(`is outside ${min} to ${max}`);
    },
  };
}

function amountSats(text: string): bigint {
  const parsed = parseAmount(text);
  if (!parsed.ok) throw new Error(`${text} ${parsed.reason}`);
  return parsed.sats;
}

/** When something happens again and again: at an interval, or once a day at a time of day. */
export type Schedule =
  | { kind: 'every'; intervalMs: number }
  | { kind: 'daily'; minuteOfDayUtc: number };

/** `every 1h` or `daily 03:00` (UTC). */
export function schedule(min: string, max: string): Kind<Schedule> {
  const interval = duration(min, max);
  return {
    form: `every and a duration, ${min} to ${max}, or daily and a time of day in UTC, such as every 1h or daily 03:00`,
    parse(text) {
      const every = /^every (\S+)$/.exec(text);
      if (every !== null) {
        const parsed = interval.parse(every[1]!);
        return parsed.ok
          ? ok({ kind: 'every', intervalMs: parsed.value })
          : no(`has an interval that ${parsed.reason}`);
      }
      const daily = /^daily ([01]\d|2[0-3]):([0-5]\d)$/.exec(text);
      if (daily === null) return no('is not a schedule like "every 1h" or "daily 03:00"');
      return ok({ kind: 'daily', minuteOfDayUtc: Number(daily[1]) * 60 + Number(daily[2]) });
    },
  };
}

/** The name of a pool: small letters, digits and dashes. */
export function poolId(): Kind<string> {
  const form = '1 to 16 small letters, digits and dashes';
  return {
    form,
    parse: (text) => (/^[a-z0-9-]{1,16}$/.test(text) ? ok(text) : no(`is not ${form}`)),
  };
}

const DURATION_UNITS_MS = new Map([
  ['ms', 1],
  ['s', 1_000],
  ['m', 60_000],
  ['h', 3_600_000],
  ['d', 86_400_000],
]);

/** Duration with unit, parts may be strung together (`1m30s`), as milliseconds. */
export function duration(min: string, max: string): Kind<number> {
  const minMs = durationMs(min)!;
  const maxMs = durationMs(max)!;
  return {
    form: `duration with unit (ms, s, m, h, d), ${min} to ${max}`,
    parse(text) {
      const value = durationMs(text);
      if (value === null) return no('is not a duration like 500ms, 30s, 5m or 1m30s');
      return value >= minMs && value <= maxMs ? ok(value) : no(`is outside ${min} to ${max}`);
    },
  };
}

function durationMs(text: string): number | null {
  if (text.length > 32 || !/^(\d{1,9}(\.\d{1,3})?(ms|s|m|h|d))+$/.test(text)) return null;
  let total = 0;
  for (const [, count, , unit] of text.matchAll(/(\d{1,9}(\.\d{1,3})?)(ms|s|m|h|d)/g)) {
    total += Number(count) * DURATION_UNITS_MS.get(unit!)!;
  }
  return Math.round(total);
}

const SIZE_UNITS = new Map([
  ['', 1],
  ['KiB', 1024],
  ['MiB', 1024 ** 2],
  ['GiB', 1024 ** 3],
]);

/** Size in bytes: a whole number, alone or with KiB, MiB or GiB. */
export function size(min: string, max: string): Kind<number> {
  const minBytes = sizeBytes(min)!;
  const maxBytes = sizeBytes(max)!;
  return {
    form: `size in bytes or with KiB, MiB, GiB, ${min} to ${max}`,
    parse(text) {
      const value = sizeBytes(text);
      if (value === null) return no('is not a size like 4096, 64KiB or 256MiB');
      return value >= minBytes && value <= maxBytes ? ok(value) : no(`is outside ${min} to ${max}`);
    },
  };
}

function sizeBytes(text: string): number | null {
  const match = /^(0|[1-9]\d{0,12})(KiB|MiB|GiB)?$/.exec(text);
  return match === null ? null : Number(match[1]) * SIZE_UNITS.get(match[2] ?? '')!;
}

export function boolean(): Kind<boolean> {
  return {
    form: 'true or false',
    parse(text) {
      if (/^(true|yes|on|1)$/i.test(text)) return ok(true);
      if (/^(false|no|off|0)$/i.test(text)) return ok(false);
      return no('is neither true nor false');
    },
  };
}

/** One word of a closed list. `also` maps words of the founding documents to ours. */
export function choice<const Words extends readonly string[]>(
  words: Words,
  also: Readonly<Record<string, Words[number]>> = {},
): Kind<Words[number]> {
  const spellings = new Map<string, Words[number]>(Object.entries(also));
  for (const word of words) spellings.set(word, word);
  const form = `one of ${words.join(', ')}`;
  return {
    form,
    parse(text) {
      const word = spellings.get(text);
      return word === undefined ? no(`is not ${form}`) : ok(word);
    },
  };
}

/** Text without control characters, at most so many bytes of UTF-8. */
export function text(bytesMax: number, what = 'text'): Kind<string> {
  return {
    form: `${what}, at most ${bytesMax} bytes`,
    parse(value) {
      if (new TextEncoder().encode(value).length > bytesMax)
        return no(`is longer than ${bytesMax} bytes`);
      return ok(value);
    },
  };
}

/** Printable ASCII, for what ends up in a coinbase or in a metric. */
export function printable(bytesMax: number): Kind<string> {
  return {
    form: `printable ASCII, at most ${bytesMax} characters`,
    parse(value) {
      if (!/^[\x20-\x7e]*$/.test(value)) return no('holds characters that are not printable ASCII');
      return value.length <= bytesMax ? ok(value) : no(`is longer than ${bytesMax} characters`);
    },
  };
}

/** A file or folder. */
export function path(): Kind<string> {
  return { form: 'path', parse: ok };
}

/** Host name or IP address without scheme or port. */
export function host(): Kind<string> {
  return {
    form: 'host name or IP address',
    parse(value) {
      if (isHost(value)) return ok(value);
      if (value.includes('%')) return no('is an address with a zone, which is not supported');
      if (/:\/\//.test(value)) return no('is a URL; only the host name or address belongs here');
      return no('is not a host name or IP address');
    },
  };
}

/** Address of an interface of this machine to listen on. */
export function listenAddress(): Kind<string> {
  return {
    form: 'IP address of this machine, 0.0.0.0 or :: for all',
    parse(value) {
      if (value === 'localhost') return ok('127.0.0.1');
      return decodeIp(value) === null ? no('is not an IP address') : ok(value);
    },
  };
}

function isHost(value: string): boolean {
  if (decodeIp(value) !== null) return true;
  // What looks like a dotted number must be one.
  if (value.length > 253 || /^[\d.]+$/.test(value)) return false;
  return /^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})?)*\.?$/.test(
    value,
  );
}

/** `http(s)://host[:port][/path]`, no credentials, no query. */
export function httpUrl(): Kind<string> {
  return {
    form: 'URL http://host:port or https://host:port, without user or password',
    parse(value) {
      const url = urlOf(value);
      if (url === null) return no('is not a URL like http://127.0.0.1:8332');
      if (url.protocol !== 'http:' && url.protocol !== 'https:')
        return no('does not begin with http:// or https://');
      if (url.username !== '' || url.password !== '' || value.includes('@')) {
        return no('holds a user or password; use the settings for them, or a cookie file');
      }
      if (url.hostname === '') return no('has no host');
      if (url.search !== '' || url.hash !== '') return no('has a query or fragment');
      return ok(url.href);
    },
  };
}

/** `tcp://host:port` of a ZMQ publisher, several separated by commas, or `off`. */
export function zmqAddresses(): Kind<string[]> {
  return {
    form: 'tcp://host:port, several separated by commas, or off',
    parse(value) {
      if (value === 'off') return ok([]);
      const addresses = value.split(',');
      if (addresses.length > 8) return no('lists more than 8 addresses');
      for (const address of addresses) {
        const match = /^tcp:\/\/(\[[0-9a-fA-F:.]+\]|[^:/@\s]+):([1-9]\d{0,4})$/.exec(address);
        const name = match?.[1]?.replace(/^\[(.*)\]$/, '$1') ?? '';
        if (match === null || !isHost(name) || Number(match[2]) > 65_535) {
          return no('is not an address like tcp://127.0.0.1:28332 (or off)');
        }
      }
      return ok([...new Set(addresses)]);
    },
  };
}

/** `postgres://user:password@host:port/database?…`. The parts are checked again where they are used. */
export function postgresUrl(): Kind<string> {
  return {
    form: 'postgres://user:password@host:port/database',
    parse(value) {
      const url = urlOf(value);
      if (url === null) return no('is not a URL like postgres://user:password@host:5432/database');
      if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') {
        return no('does not begin with postgres://');
      }
      if (url.hostname === '' && !url.searchParams.has('host')) return no('has no host');
      if (url.pathname.length < 2) return no('names no database');
      return ok(value);
    },
  };
}

/** `redis://user:password@host:port/number`, or `rediss://` for TLS. */
export function redisUrl(): Kind<string> {
  return {
    form: 'redis://user:password@host:port/number, rediss:// for TLS',
    parse(value) {
      const url = urlOf(value);
      if (url === null) return no('is not a URL like redis://host:6379/0');
      if (url.protocol !== 'redis:' && url.protocol !== 'rediss:')
        return no('does not begin with redis:// or rediss://');
      if (url.hostname === '') return no('has no host');
      if (!/^(\/\d{0,5})?$/.test(url.pathname)) return no('has a path that is not a number');
      if (url.search !== '' || url.hash !== '') return no('has a query or fragment');
      return ok(value);
    },
  };
}

/** `host` or `host:port` of Kafka brokers, separated by commas; port 9092 where none is given. */
export function brokers(): Kind<string[]> {
  return {
    form: 'host:port, several separated by commas',
    parse(value) {
      const parts = value.split(',').map((part) => part.trim());
      if (parts.length > ENTRIES_MAX) return no(`lists more than ${ENTRIES_MAX} brokers`);
      const found = new Set<string>();
      for (const part of parts) {
        const match = /^(\[[0-9a-fA-F:.]+\]|[^:/@\s[\]]+)(?::([1-9]\d{0,4}))?$/.exec(part);
        const name = match?.[1] ?? '';
        if (!isHost(name.replace(/^\[(.*)\]$/, '$1')) || Number(match?.[2] ?? 1) > 65_535)
          return no('is not a list of brokers like kafka1:9092,kafka2:9092');
        found.add(`${name}:${match?.[2] ?? 9092}`);
      }
      return ok([...found]);
    },
  };
}

/** A name that Kafka takes in names of groups. */
export function kafkaName(): Kind<string> {
  const form = '1 to 100 letters, digits, dots, dashes and underscores';
  return {
    form,
    parse: (value) => (/^[A-Za-z0-9._-]{1,100}$/.test(value) ? ok(value) : no(`is not ${form}`)),
  };
}

function urlOf(value: string): URL | null {
  if (/\s/.test(value)) return null;
  return URL.parse(value);
}

/** Eight hex digits as a 32-bit number. */
export function hex32(): Kind<number> {
  return {
    form: 'eight hex digits',
    parse(value) {
      return /^[0-9a-fA-F]{8}$/.test(value)
        ? ok(Number.parseInt(value, 16))
        : no('is not eight hex digits');
    },
  };
}

/** Addresses and ranges (`10.0.0.0/8`), separated by commas, or `none`. */
export function ipRanges(): Kind<IpRange[]> {
  return {
    form: 'IP addresses or ranges like 10.0.0.0/8, separated by commas, or none',
    parse(value) {
      if (value === 'none') return ok([]);
      const parts = value.split(',').map((part) => part.trim());
      if (parts.length > ENTRIES_MAX) return no(`lists more than ${ENTRIES_MAX} ranges`);
      const ranges: IpRange[] = [];
      for (const part of parts) {
        const range = decodeIpRange(part);
        if (range === null) return no('is not a list of addresses or ranges like 10.0.0.0/8');
        ranges.push(range);
      }
      return ok(ranges);
    },
  };
}

/** What a record parser gives: each named field that was written. */
export type Fields = ReadonlyMap<string, unknown>;

/**
 * A list of records. In one line: `head;name=value;name=value`, entries separated by commas. In the file also as maps.
 * Secret fields can be written in the file only.
 */
export function records(
  head: string,
  fields: Readonly<Record<string, { kind: Kind<unknown>; secret?: true }>>,
): Kind<Fields[]> {
  const entry: RecordForm = { head, fields: new Map(Object.entries(fields)) };
  const names = [...entry.fields.keys()].filter(
    (name) => name !== head && !entry.fields.get(name)!.secret,
  );
  return {
    form: `entries separated by commas, each ${head}[;name=value…] with the names ${names.join(', ')}; in the file a list of maps`,
    entry,
    parse(value) {
      const parts = value.split(',');
      if (parts.length > ENTRIES_MAX) return no(`lists more than ${ENTRIES_MAX} entries`);
      const answer: Fields[] = [];
      for (const [at, part] of parts.entries()) {
        const written = new Map<string, string>();
        for (const [place, piece] of part.trim().split(';').entries()) {
          const equals = piece.indexOf('=');
          if (place === 0) written.set(head, piece);
          else if (equals < 1)
            return no(`entry ${at + 1}: every part after the first is name=value`);
          else {
            const name = piece.slice(0, equals);
            if (written.has(name)) return no(`entry ${at + 1}: ${name} is given twice`);
            if (entry.fields.get(name)?.secret) {
              return no(`entry ${at + 1}: ${name} is secret and can be given in the file only`);
            }
            written.set(name, piece.slice(equals + 1));
          }
        }
        const read = parseFields(entry, written);
        if (!read.ok) return no(`entry ${at + 1}: ${read.reason}`);
        answer.push(read.value);
      }
      return ok(answer);
    },
  };
}

/** Checks the written fields of one record. Unknown names and a missing head are faults. */
export function parseFields(
  entry: RecordForm,
  written: ReadonlyMap<string, string>,
): Parsed<Fields> {
  const values = new Map<string, unknown>();
  if (!written.has(entry.head)) return no(`${entry.head} is missing`);
  for (const [name, value] of written) {
    const field = entry.fields.get(name);
    // Not named: where a colon is forgotten, the name is the secret.
    if (field === undefined)
      return no(`a field is not one of ${[...entry.fields.keys()].join(', ')}`);
    const trouble = checkText(value);
    if (trouble !== null) return no(`${name} ${trouble}`);
    const parsed = field.kind.parse(value);
    if (!parsed.ok) return no(`${name} ${parsed.reason}`);
    values.set(name, parsed.value);
  }
  return ok(values);
}

/**
 * What holds for every value whatever its kind: not empty, no control characters, no spaces around it, not endless, not
 * damaged UTF-8. Answers the fault in words, or null.
 */
export function checkText(value: string): string | null {
  if (value === '') return 'is empty: give a value or leave the setting out';
  if (value.length > VALUE_CHARS_MAX) return `is longer than ${VALUE_CHARS_MAX} characters`;
  if (/[\x00-\x1f\x7f]/.test(value)) return 'holds control characters';
  if (value.includes('\ufffd') || !value.isWellFormed()) return 'is not valid UTF-8';
  if (value.trim() !== value) return 'has spaces around it';
  return null;
}

/** A name that came from outside, safe to print. */
export function printableName(name: string): string {
  const clean = name.replace(/[^\x20-\x7e]/g, '?');
  return clean.length > 48 ? `${clean.slice(0, 48)}…` : clean;
}

/** A value that is not secret, cut short and without what stands before an @ (people put passwords there). */
export function show(text: string): string {
  const clean = text.replace(/[^\x20-\x7e]/g, '?').replace(/[^/;,\s]*@/g, '***@');
  return `"${clean.length > 64 ? `${clean.slice(0, 64)}…` : clean}"`;
}
