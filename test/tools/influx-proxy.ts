/**
 * A proxy before a real InfluxDB 1.x that makes it speak like a 2 or a 3 (addresses, credentials, form of rows, errors; the lines and
 * the questions are the same in all), and that can be told to refuse, to be slow or to cut connections.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { gunzipSync } from 'node:zlib';
import type { Dialect } from '../../src/adapters/series/dialect.ts';

export type Trouble =
  | { status: number; headers?: Record<string, string>; body?: string }
  | 'cut'
  | 'hang';

export type InfluxProxy = {
  url: string;
  token: string;
  /** What becomes of the next requests that write; an empty list: they pass. */
  troubles: Trouble[];
  /** Asked with every body of lines before it is passed on. */
  refuse: (lines: string[]) => Trouble | null;
  /** Requests that wrote, as they came. */
  writes: { lines: number; bytes: number; wasPacked: boolean }[];
  stop(): Promise<void>;
};

const VERSIONS: Record<Dialect, string> = { '1': '1.8.10', '2': 'v2.7.12', '3': '3.2.1' };

/** `dialect`: as what it presents itself; every request but the first look must carry the token. */
export async function startInfluxProxy(upstream: string, dialect: Dialect): Promise<InfluxProxy> {
  const token = 'secret-token-of-the-proxy';
  const proxy: Omit<InfluxProxy, 'url' | 'stop'> = {
    token,
    troubles: [],
    refuse: () => null,
    writes: [],
  };
  const wanted = dialect === '2' ? `Token ${token}` : `Bearer ${token}`;

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readAll(request);
    const url = new URL(request.url ?? '/', 'http://proxy');
    if (url.pathname === '/ping' || url.pathname === '/health') return look(url.pathname, response);
    if (dialect !== '1' && request.headers.authorization !== wanted) {
      return answer(response, 401, '{"error":"the request was not authenticated"}');
    }
    const [path, parameters] = [url.pathname, url.searchParams];
    if (dialect === '3' && path === '/api/v3/write_lp') {
      if (parameters.get('precision') !== 'microsecond')
        return answer(response, 400, '{"error":"precision"}');
      return write(request, body, parameters.get('db'), response);
    }
    if (dialect === '2' && path === '/api/v2/write') {
      const isWhole = parameters.get('org') === 'ours' && parameters.get('precision') === 'us';
      if (!isWhole)
        return answer(response, 404, '{"code":"not found","message":"organization not found"}');
      return write(request, body, parameters.get('bucket'), response);
    }
    if (dialect === '1' && path === '/write') {
      return write(request, body, parameters.get('db'), response);
    }
    if (dialect === '3' && path === '/api/v3/query_influxql') {
      const { db, q } = JSON.parse(body.toString()) as { db: string; q: string };
      const found = await ask(
        `/query?db=${encodeURIComponent(db)}`,
        new URLSearchParams({ q }).toString(),
      );
      return answer(response, found.status, flatten(found.text));
    }
    if (dialect !== '3' && path === '/query') {
      const found = await ask(`${path}${url.search}`, body.toString());
      return answer(response, found.status, found.text);
    }
    answer(response, 404, 'page not found');
  }

  function look(path: string, response: ServerResponse): void {
    if (dialect === '3') {
      // No header, as a 3 behind a gateway that takes it off.
      answer(response, 200, path === '/ping' ? `{"version":"${VERSIONS['3']}"}` : 'OK');
      return;
    }
    response.setHeader('x-influxdb-version', VERSIONS[dialect]);
    answer(response, path === '/ping' ? 204 : 200, '');
  }

  async function write(
    request: IncomingMessage,
    body: Buffer,
    database: string | null,
    response: ServerResponse,
  ): Promise<void> {
    const wasPacked = request.headers['content-encoding'] === 'gzip';
    const text = (wasPacked ? gunzipSync(body) : body).toString();
    const lines = text.split('\n');
    proxy.writes.push({ lines: lines.length, bytes: body.length, wasPacked });
    const trouble = proxy.troubles.shift() ?? proxy.refuse(lines);
    if (trouble === 'hang') return;
    if (trouble === 'cut') {
      response.destroy();
      return;
    }
    if (trouble !== null) {
      for (const [name, value] of Object.entries(trouble.headers ?? {}))
        response.setHeader(name, value);
      return answer(response, trouble.status, trouble.body ?? '{"error":"in trouble"}');
    }
    if (database !== null)
      await ask('/query', new URLSearchParams({ q: `CREATE DATABASE "${database}"` }).toString());
    const found = await ask(`/write?precision=u&db=${encodeURIComponent(database ?? '')}`, text);
    // A 2 and a 3 have words of their own for the same.
    const words = dialect === '1' ? found.text : JSON.stringify({ message: found.text });
    answer(response, found.status, words);
  }

  async function ask(path: string, body: string): Promise<{ status: number; text: string }> {
    const response = await fetch(`${upstream}${path}`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    });
    return { status: response.status, text: await response.text() };
  }

  const server = createServer((request, response) => {
    response.on('error', () => {});
    serve(request, response).catch((error) =>
      answer(response, 503, JSON.stringify({ error: String(error) })),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return Object.assign(proxy, {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

function answer(response: ServerResponse, status: number, body: string): void {
  response.statusCode = status;
  response.end(body);
}

/** A 3 gives a flat list of rows, with times in UTC that do not say so. */
function flatten(text: string): string {
  type Series = {
    name: string;
    tags?: Record<string, string>;
    columns: string[];
    values: unknown[][];
  };
  const { results } = JSON.parse(text) as { results: { error?: string; series?: Series[] }[] };
  const rows = results.flatMap(({ series = [] }) =>
    series.flatMap(({ name, tags, columns, values }) =>
      values.map((value) => ({
        'iox::measurement': name,
        ...tags,
        ...Object.fromEntries(
          columns.map((column, i) => [
            column,
            column === 'time' ? String(value[i]).replace('Z', '') : value[i],
          ]),
        ),
      })),
    ),
  );
  return JSON.stringify(rows);
}
