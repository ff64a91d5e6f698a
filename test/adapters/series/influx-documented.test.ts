/** Time series in an InfluxDB 2 and a 3 as their reference describes them: what is sent, and what is made of each answer. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { refusedLines, wordsOf } from '../../../src/adapters/series/dialect.ts';
import { type InfluxOptions, openInflux } from '../../../src/adapters/series/influx.ts';
import type { SeriesPoint } from '../../../src/ports.ts';
import {
  type DocumentedInflux,
  ORG,
  startDocumentedInflux,
} from '../../tools/influx-documented.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const AT_MS = 1_700_000_000_000;
const points = (count: number, isBad: (at: number) => boolean = () => false): SeriesPoint[] =>
  Array.from({ length: count }, (_, at) => ({
    measurement: 'shares',
    tags: { pool: 'main', miner_address: 'a b,c=d', worker_name: 'say "x"' },
    fields: { count: isBad(at) ? 'no number' : 1n, difficulty: 1.5, note: 'a "b", c=d' },
    atMs: AT_MS + at,
  }));

for (const dialect of ['2', '3'] as const) {
  describe(`InfluxDB ${dialect} by its reference`, () => {
    const using =
      (
        work: (
          influx: DocumentedInflux,
          series: ReturnType<typeof openInflux>,
          log: ReturnType<typeof createMemoryLog>,
        ) => Promise<void>,
        more: Partial<InfluxOptions> = {},
      ) =>
      async () => {
        const influx = await startDocumentedInflux(dialect);
        const log = createMemoryLog();
        const { url, token } = influx;
        const given = { url, token, org: ORG, bucket: 'mining', log };
        const series = openInflux({ ...given, dialect: 'auto', ...more });
        try {
          await work(influx, series, log);
          assert.deepEqual(influx.offences, []);
        } finally {
          await series.stop();
          await influx.stop();
        }
      };

    test(
      'every request is in the reference; lines arrive at their microsecond, large bodies packed',
      using(async (influx, series) => {
        assert.deepEqual(await series.query('SELECT * FROM shares'), []);
        series.write([{ ...points(1)[0]!, atMs: AT_MS + 0.25 }]);
        await series.flush();
        assert.equal(series.counts().dialect, dialect);
        assert.deepEqual(
          [...influx.points.keys()],
          [
            String.raw`shares,miner_address=a\ b\,c\=d,pool=main,worker_name=say\ "x" 1700000000000250`,
          ],
        );
        const [row] = await series.query('SELECT * FROM shares WHERE "a b" = \'c&d=é\'');
        assert.equal(row?.time, AT_MS);
        assert.equal(influx.questions.at(-1), 'SELECT * FROM shares WHERE "a b" = \'c&d=é\'');
        series.write(points(5_000));
        await series.flush();
        assert.equal(influx.points.size, 5_001);
        assert.equal(series.counts().written, 5_001);
      }),
    );

    test(
      'lines with a value of the wrong kind: the others are written, and nothing is sent twice',
      using(async (influx, series, log) => {
        series.write(points(1));
        await series.flush();
        influx.writes.length = 0;
        series.write(points(5_000, (at) => at % 1_000 === 999));
        await series.flush();
        assert.deepEqual(influx.writes, [5_000]);
        assert.equal(influx.points.size, 4_995);
        const { written, refused, dropped, failures } = series.counts();
        assert.deepEqual([written, refused, dropped, failures], [4_996, 5, 0, 0]);
        const [told] = log.lines.filter(({ level }) => level === 'warn');
        assert.match(String(told?.fields.answer), /^4(00|22) .*count/);
        assert.equal(told?.fields.points, 5);
        // What comes after is not held up.
        series.write(points(5_010).slice(5_000));
        await series.flush();
        assert.equal(influx.points.size, 5_005);
      }),
    );

    test(
      'all lines are of the wrong kind: they are refused by one request',
      using(async (influx, series) => {
        series.write(points(1));
        await series.flush();
        series.write(points(200, () => true));
        await series.flush();
        assert.deepEqual(influx.writes, [1, 200]);
        assert.deepEqual(series.counts().refused, 200);
      }),
    );

    test(
      'a line that cannot be read costs itself alone, by a few requests',
      using(async (influx, series) => {
        influx.parse = (line) => (/ 1700000003333000$/.test(line) ? 'missing fields' : null);
        series.write(points(5_000));
        await series.flush();
        assert.equal(influx.points.size, 4_999);
        const { written, refused } = series.counts();
        assert.deepEqual([written, refused], [4_999, 1]);
        assert.ok(influx.writes.length < 40, String(influx.writes.length));
      }),
    );

    test(
      'a body that is too large goes in parts',
      using(async (influx, series) => {
        influx.bytesMax = 100_000;
        series.write(points(5_000));
        await series.flush();
        assert.equal(influx.points.size, 5_000);
        assert.deepEqual([series.counts().refused, series.counts().written], [0, 5_000]);
      }),
    );

    test(
      '429 and 503 with Retry-After: sent again after that, until it is taken',
      using(async (influx, series) => {
        for (const status of [429, 503])
          influx.next.push({
            status,
            headers: { 'retry-after': '1' },
            body: { code: 'too many requests', message: 'slow down' },
          });
        series.write(points(3_000));
        await assert.rejects(series.flush(), /429 slow down/);
        await until('they arrive', () => influx.points.size === 3_000, 20_000);
        assert.deepEqual(influx.writes, [3_000, 3_000, 3_000]);
        assert.deepEqual([series.counts().failures, series.counts().refused], [2, 0]);
      }),
    );

    test(
      'a wrong token and a wrong bucket are patience: nothing is refused, and no secret is told',
      using(
        async (influx, series, log) => {
          series.write(points(10));
          await assert.rejects(series.flush(), dialect === '2' ? /401 / : /401/);
          assert.deepEqual(
            [series.counts().bufferedLines, series.counts().refused, influx.points.size],
            [10, 0, 0],
          );
          assert.doesNotMatch(log.text(), /wrong-secret/);
        },
        { token: 'wrong-secret' },
      ),
    );
    test(
      'a bucket that is not there is waited for',
      using(
        async (_, series) => {
          series.write(points(10));
          await assert.rejects(series.flush(), /404 .*not found/);
          assert.deepEqual([series.counts().bufferedLines, series.counts().refused], [10, 0]);
        },
        { bucket: 'another' },
      ),
    );
  });
}

test('what an answer says of the lines that were refused', () => {
  const three = (...lines: unknown[]) =>
    JSON.stringify({
      error: 'partial write of line protocol occurred',
      data: lines.map((line_number) => ({ line_number, error_message: 'no' })),
    });
  assert.equal(refusedLines(three(1, 7, 7, 10), 10), 3);
  // Nothing that makes sense: whoever asks must search.
  assert.equal(refusedLines(three(), 10), null);
  assert.equal(refusedLines(three(0, 11, 'x', null), 10), null);
  const one = (error: string) => JSON.stringify({ error });
  assert.equal(refusedLines(one('partial write: points beyond retention policy dropped=3'), 10), 3);
  assert.equal(refusedLines(one('partial write: field type conflict: x dropped=99'), 10), 10);
  assert.equal(
    refusedLines(
      one("partial write: unable to parse 'a': x\nunable to parse 'b': y dropped=0"),
      10,
    ),
    2,
  );
  for (const body of [
    one("unable to parse 'shares count=': missing field value"),
    one('partial write: something else'),
    '{"code":"invalid","message":"parsing failed for write_lp endpoint"}',
    'partial write dropped=1',
    '[]',
    '{"error":7}',
    '',
  ])
    assert.equal(refusedLines(body, 10), null, body);
  assert.equal(
    wordsOf(
      '{"error":"parsing failed for write_lp endpoint","data":{"original_line":"x","line_number":1,"error_message":"No fields were provided"}}',
    ),
    'parsing failed for write_lp endpoint No fields were provided',
  );
});
