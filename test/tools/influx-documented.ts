/**
 * An InfluxDB 2 or 3 as InfluxData's reference describes it, in memory: addresses, parameters, headers and bodies that are not in the
 * reference are answered with an error and remembered as an offence, and what becomes of good and bad lines of one request is what the
 * reference says of each generation. Of questions it answers `SELECT … FROM shares` with every line that it has.
 *
 * Sources: docs.influxdata.com, InfluxDB OSS v2 "API reference: write" and "troubleshoot issues writing data"; InfluxDB 3 Core "Use the v3
 * write_lp API", "API reference: query data"; the texts of errors as 2.7 and 3.2 give them.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { gunzipSync } from 'node:zlib';

export type DocumentedInflux = {
  url: string;
  token: string;
  /** Lines that were taken, by series and time, with their values: a point that comes twice is there once. */
  points: Map<string, string>;
  /** What a client did that the reference does not know. */
  offences: string[];
  /** Lines of each request to write. */
  writes: number[];
  questions: string[];
  /** Answers to the next requests to write, in place of what would be answered. */
  next: { status: number; headers?: Record<string, string>; body: object }[];
  /** Why a line cannot be parsed; null: it can. */
  parse: (line: string) => string | null;
  /** Bytes of a body, unpacked. */
  bytesMax: number;
  stop(): Promise<void>;
};

export const ORG = 'ours';
const DATABASE = 'mining';
const PRECISIONS = {
  '2': ['ms', 's', 'us', 'ns'],
  '3': ['auto', 'nanosecond', 'microsecond', 'millisecond', 'second'],
};
const WRITE = {
  '2': { path: '/api/v2/write', parameters: ['org', 'orgID', 'bucket', 'precision'] },
  '3': { path: '/api/v3/write_lp', parameters: ['db', 'precision', 'accept_partial', 'no_sync'] },
};
const LINE =
  /^(?<series>(?:[^\\ ]|\\.)+) (?<fields>(?:"(?:[^"\\]|\\.)*"|\\.|[^" \\])+) (?<time>\d{16})$/;

type Answer = { status: number; headers?: Record<string, string>; body?: object | string };
type Refused = { line: number; text: string; reason: string; kind: 'syntax' | 'conflict' };

export async function startDocumentedInflux(dialect: '2' | '3'): Promise<DocumentedInflux> {
  const token = dialect === '2' ? 'all-access-token==' : 'apiv3_token';
  const kinds = new Map<string, string>();
  const server: Omit<DocumentedInflux, 'url' | 'stop'> = {
    token,
    points: new Map(),
    offences: [],
    writes: [],
    questions: [],
    next: [],
    parse: () => null,
    bytesMax: 10_485_760,
  };

  function offend(what: string, status = 400): Answer {
    server.offences.push(what);
    return fail(status, 'invalid', what);
  }

  /** The form that errors have in each generation. */
  function fail(status: number, code: string, words: string): Answer {
    return { status, body: dialect === '2' ? { code, message: words } : { error: words } };
  }

  function serve(request: IncomingMessage, body: Buffer): Answer {
    const url = new URL(request.url ?? '/', 'http://influx');
    const { method, headers } = request;
    if (url.pathname === '/ping' && method === 'GET') {
      return dialect === '2'
        ? { status: 204, headers: { 'x-influxdb-build': 'OSS', 'x-influxdb-version': 'v2.7.12' } }
        : authorized(headers.authorization, () => ({
            status: 200,
            headers: { 'x-influxdb-build': 'Core', 'x-influxdb-version': '3.2.1' },
            body: { version: '3.2.1', revision: '1ca3168bee' },
          }));
    }
    return authorized(headers.authorization, () => {
      if (url.pathname === WRITE[dialect].path) return write(request, url, body);
      if (dialect === '2' && url.pathname === '/query') return answerQuery(request, url);
      if (dialect === '3' && url.pathname === '/api/v3/query_influxql')
        return answerInfluxql(request, body);
      return offend(`${method} ${url.pathname}`, 404);
    });
  }

  function authorized(header: string | undefined, work: () => Answer): Answer {
    // A 3 takes both words; the reference writes Bearer.
    const wanted = dialect === '2' ? `Token ${token}` : `Bearer ${token}`;
    if (header !== undefined && !/^(Token|Bearer) \S+$/.test(header))
      return offend('authorization', 401);
    return header === wanted ? work() : fail(401, 'unauthorized', 'unauthorized access');
  }

  function write(request: IncomingMessage, url: URL, body: Buffer): Answer {
    const { method, headers } = request;
    const parameters = url.searchParams;
    if (method !== 'POST') return offend(`write by ${method}`, 405);
    for (const name of parameters.keys())
      if (!WRITE[dialect].parameters.includes(name)) return offend(`parameter ${name}`);
    if (!PRECISIONS[dialect].includes(parameters.get('precision') ?? ''))
      return offend(`precision ${parameters.get('precision')}`);
    for (const name of ['accept_partial', 'no_sync'])
      if (!/^(true|false)$/.test(parameters.get(name) ?? 'true')) return offend(name);
    if (!/^text\/plain(; charset=utf-8)?$/.test(headers['content-type'] ?? ''))
      return offend(`content-type ${headers['content-type']}`, 415);
    if (!/^(gzip|identity)$/.test(headers['content-encoding'] ?? 'identity'))
      return offend(`content-encoding ${headers['content-encoding']}`);
    if (dialect === '2' && parameters.get('org') !== ORG)
      return fail(404, 'not found', `organization name "${parameters.get('org')}" not found`);
    if (parameters.get(dialect === '2' ? 'bucket' : 'db') !== DATABASE)
      return fail(404, 'not found', `bucket "${parameters.get('bucket')}" not found`);
    const text = (headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString();
    const lines = text.split('\n').filter((line) => line !== '');
    server.writes.push(lines.length);
    const told = server.next.shift();
    if (told !== undefined) return told;
    if (Buffer.byteLength(text) > server.bytesMax)
      return fail(413, 'request too large', 'points batch is too large');
    return take(lines);
  }

  function take(lines: readonly string[]): Answer {
    const refused: Refused[] = [];
    const good: { key: string; fields: string }[] = [];
    const learnt = new Map(kinds);
    for (const [i, text] of lines.entries()) {
      const found = LINE.exec(text)?.groups;
      const refuse = (kind: Refused['kind'], reason: string) =>
        refused.push({ line: i + 1, text, reason, kind });
      const unread = server.parse(text);
      if (found === undefined || unread !== null) {
        if (found === undefined) server.offences.push(`line ${text}`);
        refuse('syntax', unread ?? 'invalid line');
        continue;
      }
      const conflict = findConflict(found.series!, found.fields!, learnt);
      if (conflict !== null) refuse('conflict', conflict);
      else good.push({ key: `${found.series} ${found.time}`, fields: found.fields! });
    }
    const syntax = refused.find(({ kind }) => kind === 'syntax');
    // A 2 writes nothing of a request with a line that it cannot read.
    if (dialect === '2' && syntax !== undefined)
      return fail(400, 'invalid', `unable to parse '${syntax.text}': ${syntax.reason}`);
    for (const [name, kind] of learnt) kinds.set(name, kind);
    for (const { key, fields } of good) server.points.set(key, fields);
    if (refused.length === 0) return { status: 204 };
    if (dialect === '2') {
      return fail(
        422,
        'unprocessable entity',
        `failure writing points to database: partial write: field type conflict: ${refused[0]!.reason} dropped=${refused.length}`,
      );
    }
    const data = refused.map(({ line, text, reason }) => ({
      original_line: text.slice(0, 100),
      line_number: line,
      error_message: reason,
    }));
    return { status: 400, body: { error: 'partial write of line protocol occurred', data } };
  }

  /** A field has the kind that it had first. */
  function findConflict(
    series: string,
    fields: string,
    learnt: Map<string, string>,
  ): string | null {
    const measurement = /^(?:[^\\,]|\\.)+/.exec(series)![0];
    const pairs = fields.match(/(?:[^\\,="]|\\.)+=(?:"(?:[^"\\]|\\.)*"|[^,]+)/g) ?? [];
    for (const pair of pairs) {
      const at = pair.search(/(?<!\\)=/);
      const [name, kind] = [pair.slice(0, at), kindOf(pair.slice(at + 1))];
      const before = learnt.get(`${measurement} ${name}`) ?? kind;
      if (before !== kind)
        return dialect === '2'
          ? `input field "${name}" on measurement "${measurement}" is type ${kind}, already exists as type ${before}`
          : `invalid column type for column '${name}', expected iox::column_type::field::${before}, got iox::column_type::field::${kind}`;
      learnt.set(`${measurement} ${name}`, kind);
    }
    return null;
  }

  function answerQuery(request: IncomingMessage, url: URL): Answer {
    const { method, headers } = request;
    if (method !== 'GET') return offend(`query by ${method}`, 405);
    for (const name of url.searchParams.keys())
      if (!['db', 'rp', 'q', 'epoch'].includes(name)) return offend(`parameter ${name}`);
    if (!/^(ns|u|µ|ms|s|m|h)$/.test(url.searchParams.get('epoch') ?? '')) return offend('epoch');
    if (headers.accept !== 'application/json') return offend(`accept ${headers.accept}`);
    server.questions.push(url.searchParams.get('q') ?? '');
    if (url.searchParams.get('db') !== DATABASE)
      return fail(404, 'not found', 'no dbrp mapping found');
    const values = Array.from(server.points, ([key, fields]) => [
      Math.floor(Number(key.slice(-16)) / 1_000),
      fields,
    ]);
    const series = [{ name: 'shares', columns: ['time', 'fields'], values }];
    return {
      status: 200,
      body: { results: [{ statement_id: 0, ...(values.length === 0 ? {} : { series }) }] },
    };
  }

  function answerInfluxql(request: IncomingMessage, body: Buffer): Answer {
    const { method, headers } = request;
    if (method !== 'POST') return offend(`query by ${method}`, 405);
    if (headers['content-type'] !== 'application/json')
      return offend(`content-type ${headers['content-type']}`, 415);
    const asked = JSON.parse(body.toString()) as Record<string, unknown>;
    for (const name of Object.keys(asked))
      if (!['db', 'q', 'format', 'params'].includes(name)) return offend(`member ${name}`);
    if (asked.format !== 'json') return offend(`format ${asked.format}`);
    server.questions.push(String(asked.q));
    // A 3 makes its databases when they are first written to.
    if (asked.db !== DATABASE || server.points.size === 0)
      return { status: 404, body: { error: `database not found: ${asked.db}` } };
    const rows = Array.from(server.points, ([key, fields]) => ({
      'iox::measurement': 'shares',
      time: `${new Date(Math.floor(Number(key.slice(-16)) / 1_000)).toISOString().slice(0, -1)}${key.slice(-3)}`,
      fields,
    }));
    return { status: 200, body: rows };
  }

  const listener = createServer((request, response) => {
    readAll(request).then(
      (body) => answer(response, serve(request, body)),
      () => response.destroy(),
    );
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return Object.assign(server, {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      listener.closeAllConnections();
      await new Promise((resolve) => listener.close(resolve));
    },
  });
}

function kindOf(value: string): string {
  if (value.startsWith('"')) return 'string';
  if (/^-?\d+i$/.test(value)) return 'integer';
  if (/^(t|T|true|True|TRUE|f|F|false|False|FALSE)$/.test(value)) return 'boolean';
  return 'float';
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

function answer(response: ServerResponse, { status, headers = {}, body }: Answer): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  response.statusCode = status;
  if (body !== undefined) response.setHeader('content-type', 'application/json; charset=utf-8');
  response.end(body === undefined ? '' : JSON.stringify(body));
}
