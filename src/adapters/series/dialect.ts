/**
 * How the three generations of InfluxDB are spoken to: where lines go, how a question is asked, how the answer reads. Line protocol
 * and InfluxQL are the same in all; addresses, credentials and the form of rows are not.
 */

export type Dialect = '3' | '2' | '1';

export type InfluxTarget = {
  /** Without user and password; a path stands before every address. */
  base: URL;
  /** `user:password`, from the address or from the token of a 1.x. */
  login: string | null;
  token: string;
  org: string;
  /** Bucket in 2, database in 1 and 3. */
  bucket: string;
};

export type InfluxRequest = {
  url: URL;
  method: string;
  headers: Record<string, string>;
  body?: string;
};

/** Takes an address of the configuration apart. Throws a TypeError that does not show it. */
export function targetOf(options: {
  url: string;
  token?: string;
  org?: string;
  bucket: string;
}): InfluxTarget {
  const { url, token = '', org = '', bucket } = options;
  const base = URL.canParse(url) ? new URL(url) : null;
  if (base === null || !/^https?:$/.test(base.protocol)) {
    throw new TypeError('the address of InfluxDB can not be read');
  }
  const { username, password } = base;
  const named =
    username === '' ? null : `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  base.username = '';
  base.password = '';
  base.search = '';
  base.hash = '';
  if (!base.pathname.endsWith('/')) base.pathname += '/';
  return { base, login: named ?? (token.includes(':') ? token : null), token, org, bucket };
}

/** Where lines in microseconds are posted. */
export function writeRequest(target: InfluxTarget, dialect: Dialect): InfluxRequest {
  const { bucket, org } = target;
  const headers = { ...credentials(target, dialect), 'content-type': 'text/plain; charset=utf-8' };
  switch (dialect) {
    case '3':
      return at(
        target,
        'api/v3/write_lp',
        { db: bucket, precision: 'microsecond', accept_partial: 'true' },
        'POST',
        headers,
      );
    case '2':
      return at(target, 'api/v2/write', { org, bucket, precision: 'us' }, 'POST', headers);
    case '1':
      return at(target, 'write', { db: bucket, precision: 'u' }, 'POST', headers);
  }
}

/** A question in InfluxQL. A 2 answers it by way of the mapping it makes for every bucket, and takes it in the address. */
export function queryRequest(target: InfluxTarget, dialect: Dialect, text: string): InfluxRequest {
  const headers = { ...credentials(target, dialect), accept: 'application/json' };
  if (dialect === '3') {
    return {
      ...at(target, 'api/v3/query_influxql', {}, 'POST', {
        ...headers,
        'content-type': 'application/json',
      }),
      body: JSON.stringify({ db: target.bucket, q: text, format: 'json' }),
    };
  }
  const parameters = { db: target.bucket, epoch: 'ms' };
  if (dialect === '2') return at(target, 'query', { ...parameters, q: text }, 'GET', headers);
  return {
    ...at(target, 'query', parameters, 'POST', {
      ...headers,
      'content-type': 'application/x-www-form-urlencoded',
    }),
    body: new URLSearchParams({ q: text }).toString(),
  };
}

/** Who is there? Answered by all of them, mostly without credentials. */
export function pingRequest(target: InfluxTarget, path: 'ping' | 'health'): InfluxRequest {
  return at(target, path, {}, 'GET', credentials(target, target.login === null ? '3' : '1'));
}

/** The generation by what `ping` or `health` says of itself, or null when it says nothing. */
export function dialectOf(header: string | null, body: string): Dialect | null {
  const version = header ?? versionIn(body) ?? '';
  const [, major] = /^v?([123])\./.exec(version.trim()) ?? [];
  return (major as Dialect | undefined) ?? null;
}

/** Rows of an answer, tags and columns together, `time` in milliseconds. Throws with the server's words when it is none. */
export function readRows(body: string): Record<string, unknown>[] {
  const answer: unknown = JSON.parse(body);
  if (Array.isArray(answer)) return answer.filter(isRecord).map(flatRow);
  if (!isRecord(answer)) throw new Error('the answer is no list of rows');
  if (typeof answer.error === 'string') throw new Error(answer.error);
  const rows: Record<string, unknown>[] = [];
  for (const result of listOf(answer.results)) {
    if (typeof result.error === 'string') throw new Error(result.error);
    for (const series of listOf(result.series)) {
      const columns = Array.isArray(series.columns) ? series.columns.map(String) : [];
      const tags = isRecord(series.tags) ? series.tags : {};
      for (const values of Array.isArray(series.values) ? series.values : []) {
        const row: Record<string, unknown> = { ...tags };
        for (const [i, column] of columns.entries()) row[column] = (values as unknown[])[i];
        rows.push(flatRow(row));
      }
    }
  }
  return rows;
}

/**
 * How many of so many lines were refused while all others were written; null when the answer does not say so, and none may be there. A
 * 3 names the lines, a 2 and a 1.x count what they dropped, and a 1.x what it could not parse as well.
 */
export function refusedLines(body: string, lines: number): number | null {
  const answer = parseRecord(body);
  const words = answer?.error ?? answer?.message;
  if (answer === null || typeof words !== 'string' || !/\bpartial write\b/.test(words)) return null;
  if (Array.isArray(answer.data)) {
    const numbers = listOf(answer.data).map((line) => Number(line.line_number));
    const named = new Set(numbers.filter((number) => number >= 1 && number <= lines));
    return named.size === 0 ? null : named.size;
  }
  const dropped = Number(/\bdropped=(\d+)/.exec(words)?.[1] ?? 0);
  const unread = words.match(/\bunable to parse\b/g)?.length ?? 0;
  return dropped + unread === 0 ? null : Math.min(dropped + unread, lines);
}

/** The server's own words for a failure, cut. */
export function wordsOf(body: string): string {
  const answer = parseRecord(body);
  const words = answer?.error ?? answer?.message;
  if (typeof words !== 'string') return body.replace(/\s+/g, ' ').slice(0, 300);
  const [first] = isRecord(answer?.data) ? [answer.data] : listOf(answer?.data);
  const of = first === undefined ? '' : ` ${String(first.error_message ?? '')}`;
  return `${words}${of}`.slice(0, 300);
}

function at(
  target: InfluxTarget,
  path: string,
  parameters: Record<string, string>,
  method: string,
  headers: Record<string, string>,
): InfluxRequest {
  const url = new URL(path, target.base);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== '') url.searchParams.set(name, value);
  }
  return { url, method, headers };
}

function credentials(target: InfluxTarget, dialect: Dialect): Record<string, string> {
  const { login, token } = target;
  if (dialect === '1' && login !== null) {
    return { authorization: `Basic ${Buffer.from(login).toString('base64')}` };
  }
  if (token === '') return {};
  return { authorization: dialect === '2' ? `Token ${token}` : `Bearer ${token}` };
}

function versionIn(body: string): string | null {
  const version = parseRecord(body)?.version;
  return typeof version === 'string' ? version : null;
}

function parseRecord(body: string): Record<string, unknown> | null {
  try {
    const answer: unknown = JSON.parse(body);
    return isRecord(answer) ? answer : null;
  } catch {
    return null;
  }
}

/** A 3 writes times as text in UTC without saying so. */
function flatRow(row: Record<string, unknown>): Record<string, unknown> {
  const { time } = row;
  if (typeof time !== 'string') return row;
  const atMs = Date.parse(/(?:Z|[+-]\d\d:\d\d)$/.test(time) ? time : `${time}Z`);
  return Number.isNaN(atMs) ? row : { ...row, time: atMs };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

function listOf(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter(isRecord) : [];
}
