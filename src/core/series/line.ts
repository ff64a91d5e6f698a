/**
 * InfluxDB's line protocol and the text of InfluxQL, so that no name that came from outside can add a tag, a field, a point or a
 * condition. What the protocol can not carry in a tag is replaced, the same on writing and on asking.
 */

/** A point as it is written. Times may have a fraction: microseconds are kept. */
export type LinePoint = {
  measurement: string;
  tags: Readonly<Record<string, string>>;
  fields: Readonly<Record<string, number | bigint | string | boolean>>;
  atMs: number;
};

/** Beyond this a tag is cut: an account of many addresses has about 500. */
const TAG_CHARS_MAX = 1_024;
const TEXT_CHARS_MAX = 16_384;
const INT64_MAX = 2n ** 63n - 1n;
/** Line breaks would end the point; a backslash at the end of a tag would swallow what follows. */
const UNFIT_FOR_TAG = /[\u0000-\u001f\u007f\u0085\u2028\u2029\\]/g;
const UNFIT_FOR_TEXT = /[\u0000-\u001f\u007f\u0085\u2028\u2029]/g;

/**
 * A point as one line, without its end, in microseconds since 1970; or null when nothing of it can be written: no field with a value
 * that is a number at all, or no time. Tags that are empty are left out, as the protocol wants it.
 */
export function encodeLine(point: LinePoint): string | null {
  const atUs = Math.round(point.atMs * 1_000);
  if (!Number.isSafeInteger(atUs)) return null;
  const name = cleanTag(point.measurement).replace(/[, ]/g, '\\$&');
  if (name === '' || name.startsWith('#')) return null;
  const fields = Object.entries(point.fields)
    .map(([key, value]) => encodeField(key, value))
    .filter((field) => field !== null);
  if (fields.length === 0) return null;
  const tags = Object.entries(point.tags)
    .map(([key, value]) => [cleanTag(key), cleanTag(value)] as const)
    .filter(([key, value]) => key !== '' && value !== '')
    // Sorted, as servers want them.
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `,${escapeTag(key)}=${escapeTag(value)}`);
  return `${name}${tags.join('')} ${fields.join(',')} ${atUs}`;
}

/** A tag as it stands in the database: without control characters and backslashes, and not longer than the longest. */
export function cleanTag(text: string): string {
  return text.slice(0, TAG_CHARS_MAX).toWellFormed().replace(UNFIT_FOR_TAG, '_').trim();
}

/** A text as a literal of InfluxQL, quotes included. */
export function quoteText(text: string): string {
  return `'${text.toWellFormed().replace(UNFIT_FOR_TEXT, '_').replace(/['\\]/g, '\\$&')}'`;
}

/** A name of a measurement, a field or a database in InfluxQL, quotes included. */
export function quoteName(name: string): string {
  return `"${name.toWellFormed().replace(UNFIT_FOR_TEXT, '_').replace(/["\\]/g, '\\$&')}"`;
}

function escapeTag(text: string): string {
  return text.replace(/[,= ]/g, '\\$&');
}

function encodeField(rawKey: string, value: number | bigint | string | boolean): string | null {
  const key = escapeTag(cleanTag(rawKey));
  if (key === '') return null;
  switch (typeof value) {
    case 'number':
      return Number.isFinite(value) ? `${key}=${value}` : null;
    case 'bigint':
      return value <= INT64_MAX && value >= -INT64_MAX ? `${key}=${value}i` : null;
    case 'boolean':
      return `${key}=${value}`;
    case 'string': {
      const text = value.slice(0, TEXT_CHARS_MAX).toWellFormed().replace(UNFIT_FOR_TEXT, ' ');
      return `${key}="${text.replace(/["\\]/g, '\\$&')}"`;
    }
  }
}
