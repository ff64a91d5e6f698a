/**
 * Time series against a real InfluxDB 1.x: as it is, and through a proxy that speaks like a 2 and a 3; down, frozen, refusing, out of
 * breath. Where `influxd` is not on the machine, a name says so.
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { type InfluxOptions, openInflux } from '../../../src/adapters/series/influx.ts';
import type { SeriesPoint } from '../../../src/ports.ts';
import { seriesContract } from '../../contract/series.ts';
import { startInfluxProxy } from '../../tools/influx-proxy.ts';
import { INFLUXD, type InfluxServer, startInflux } from '../../tools/influx-server.ts';
import { freePort } from '../../tools/pool-process.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const AT_MS = 1_700_000_000_000;
const points = (from: number, count: number): SeriesPoint[] =>
  Array.from({ length: count }, (_, i) => ({
    measurement: 'shares',
    tags: { pool: 'main' },
    fields: { count: 1n, padding: 'x'.repeat(80) },
    atMs: AT_MS + from + i,
  }));

const sumOf = async (server: InfluxServer, bucket: string): Promise<unknown> =>
  (await server.ask('SELECT sum(count) AS sum FROM shares', bucket))[0]?.sum ?? 0;

const opened: { stop(): Promise<void> }[] = [];
after(() => Promise.all(opened.map((one) => one.stop())));

function open(options: Partial<InfluxOptions> & { url: string; bucket: string }) {
  const log = createMemoryLog();
  const series = openInflux({ dialect: 'auto', log, ...options });
  opened.push(series);
  return Object.assign(series, { log });
}

if (INFLUXD === null) {
  test('influxd NOT FOUND (set INFLUXD to its path): the contract was not held against it', () => {});
} else {
  const program = INFLUXD;
  let shared: Promise<InfluxServer> | null = null;
  const server = (): Promise<InfluxServer> => (shared ??= startInflux(program));
  after(async () => (await shared)?.stop());
  let made = 0;
  const newBucket = (): string => `bucket "${++made}"`;
  const proxies: { stop(): Promise<void> }[] = [];
  after(async () => {
    for (const proxy of proxies) await proxy.stop();
  });

  seriesContract('InfluxDB 1.x', async () =>
    open({ url: (await server()).url, bucket: newBucket() }),
  );
  for (const dialect of ['2', '3'] as const) {
    seriesContract(`as InfluxDB ${dialect}`, async () => {
      const proxy = await startInfluxProxy((await server()).url, dialect);
      proxies.push(proxy);
      const bucket = `bucket-${++made}`;
      return open({ url: proxy.url, token: proxy.token, org: 'ours', bucket });
    });
  }

  describe('InfluxDB in trouble', () => {
    test('down at the start, killed later: everything arrives once it is there', async () => {
      const influx = await startInflux(program);
      await influx.kill();
      const series = open({ url: influx.url, bucket: 'b' });
      try {
        series.write(points(0, 100));
        await assert.rejects(series.flush());
        assert.equal(series.counts().away, 1);
        assert.equal(series.counts().bufferedLines, 100);
        await influx.restart();
        await until('the first arrive', () => series.counts().written === 100, 20_000);
        await influx.kill();
        series.write(points(100, 7_000));
        await assert.rejects(series.flush());
        await influx.restart();
        await until('the rest arrives', () => series.counts().written === 7_100, 20_000);
        await series.flush();
        assert.equal(await sumOf(influx, 'b'), 7_100);
        const { away, dropped, refused, bufferedBytes } = series.counts();
        assert.deepEqual(
          { away, dropped, refused, bufferedBytes },
          { away: 0, dropped: 0, refused: 0, bufferedBytes: 0 },
        );
        const warnings = series.log.lines.filter((line) => line.level === 'warn');
        assert.equal(warnings.length, 2);
      } finally {
        await series.stop();
        await influx.stop();
      }
    });

    test('frozen: requests end by themselves, and what was cut off counts once', async () => {
      const influx = await startInflux(program);
      const series = open({ url: influx.url, bucket: 'b', timeoutMs: 300 });
      try {
        series.write(points(0, 10));
        await series.flush();
        influx.freeze();
        series.write(points(0, 5_000));
        await assert.rejects(series.flush());
        await assert.rejects(series.query('SELECT * FROM shares'));
        influx.thaw();
        await until('they arrive', () => series.counts().bufferedLines === 0, 20_000);
        assert.equal(await sumOf(influx, 'b'), 5_000);
      } finally {
        await series.stop();
        await influx.stop();
      }
    });

    test('429, 503, cut connections and no answer: repeated until they are taken', async () => {
      const proxy = await startInfluxProxy((await server()).url, '1');
      proxies.push(proxy);
      const bucket = newBucket();
      const series = open({ url: proxy.url, bucket, timeoutMs: 400 });
      proxy.troubles.push(
        { status: 429, headers: { 'retry-after': '1' } },
        'cut',
        { status: 503, body: '<html>no</html>' },
        'hang',
      );
      series.write(points(0, 3_000));
      await assert.rejects(series.flush(), /429/);
      await until('they arrive', () => series.counts().written === 3_000, 30_000);
      assert.equal(series.counts().failures, 4);
      assert.equal(series.counts().refused, 0);
      assert.equal(await sumOf(await server(), bucket), 3_000);
      await series.stop();
    });

    test('too large for the server: sent in halves', async () => {
      const proxy = await startInfluxProxy((await server()).url, '2');
      proxies.push(proxy);
      proxy.refuse = (lines) => (lines.length > 700 ? { status: 413 } : null);
      const series = open({
        url: proxy.url,
        token: proxy.token,
        org: 'ours',
        bucket: `b${++made}`,
      });
      series.write(points(0, 5_000));
      await series.flush();
      assert.equal(series.counts().written, 5_000);
      assert.ok(proxy.writes.some(({ wasPacked }) => wasPacked));
      await series.stop();
    });

    test('all lines refused: it does not ask for each of them', async () => {
      const proxy = await startInfluxProxy((await server()).url, '1');
      proxies.push(proxy);
      proxy.refuse = () => ({ status: 400, body: '{"error":"points beyond retention policy"}' });
      const series = open({ url: proxy.url, bucket: newBucket() });
      series.write(points(0, 5_000));
      await series.flush();
      assert.equal(series.counts().refused, 5_000);
      assert.ok(proxy.writes.length < 600, String(proxy.writes.length));
      assert.equal(series.log.lines.filter((line) => line.level === 'warn').length, 1);
      await series.stop();
    });

    test('a wrong token is patience, and is never shown', async () => {
      const proxy = await startInfluxProxy((await server()).url, '3');
      proxies.push(proxy);
      const series = open({ url: proxy.url, token: 'wrong-and-secret', bucket: 'b' });
      series.write(points(0, 10));
      await assert.rejects(series.flush(), /401/);
      await assert.rejects(series.query('SELECT * FROM shares'), /401/);
      assert.equal(series.counts().bufferedLines, 10);
      assert.doesNotMatch(series.log.text(), /wrong-and-secret/);
      await series.stop();
    });

    test('a database that somebody removed is made again', async () => {
      const influx = await server();
      const bucket = `removed${++made}`;
      const series = open({ url: influx.url, bucket });
      series.write(points(0, 10));
      await series.flush();
      await influx.ask(`DROP DATABASE "${bucket}"`);
      series.write(points(10, 10));
      await until('it is written', () => series.counts().written === 20, 20_000);
      assert.equal(await sumOf(influx, bucket), 10);
      await series.stop();
    });
  });
}

describe('InfluxDB that is not there', () => {
  test('the buffer is bounded in bytes and age, the oldest go, and it is counted', async () => {
    const url = `http://127.0.0.1:${await freePort()}`;
    const none = { written: 0, refused: 0 };
    const full = open({ url, bucket: 'b', limits: { bytesMax: 1_000_000, chunkLinesMax: 1_000 } });
    for (let i = 0; i < 20; i++) full.write(points(i * 1_000, 1_000));
    const { bufferedBytes, bufferedLines, dropped, written, refused } = full.counts();
    assert.ok(bufferedBytes <= 1_000_000 && bufferedBytes > 800_000, String(bufferedBytes));
    assert.equal(bufferedLines + dropped, 20_000);
    assert.deepEqual({ written, refused }, none);
    assert.ok(full.log.text().includes('have a gap'));

    const old = open({ url, bucket: 'b', limits: { ageMsMax: 50 } });
    old.write(points(0, 7_000));
    await assert.rejects(old.flush());
    await until('all are dropped', () => old.counts().dropped === 7_000, 20_000);
    assert.equal(old.counts().bufferedBytes, 0);
    await old.flush();
  });

  test('the end comes in time, and nothing is left running', async () => {
    const url = `http://127.0.0.1:${await freePort()}`;
    const series = open({ url, bucket: 'b' });
    series.write(points(0, 10));
    const waiting = assert.rejects(series.flush());
    await series.stop();
    await waiting;
    await assert.rejects(series.flush(), /stopped/);
  });

  test('an address that can not be read is refused without showing it', () => {
    for (const url of ['', 'influx:8086', 'file:///x', 'http//user:secretword@x']) {
      assert.throws(
        () => open({ url, bucket: 'b' }),
        (error: unknown) => error instanceof TypeError && !String(error).includes('secretword'),
      );
    }
  });
});
