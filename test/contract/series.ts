/** What every time series must do, whatever it speaks. `open` gives one on a database with nothing in it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { InfluxSeries } from '../../src/adapters/series/influx.ts';
import { rateQuery, readRates } from '../../src/core/series/rates.ts';
import type { SeriesPoint } from '../../src/ports.ts';

const AT_MS = 1_700_000_000_000;
const point = (more: Partial<SeriesPoint>): SeriesPoint => ({
  measurement: 'shares',
  tags: { pool: 'main' },
  fields: { count: 1n },
  atMs: AT_MS,
  ...more,
});

export function seriesContract(name: string, open: () => Promise<InfluxSeries>): void {
  const withSeries = async (work: (series: InfluxSeries) => Promise<void>): Promise<void> => {
    const series = await open();
    try {
      await work(series);
    } finally {
      await series.stop();
    }
  };

  describe(`series contract: ${name}`, () => {
    test('before anything is written there is nothing, and that is no error', () =>
      withSeries(async (series) => {
        assert.deepEqual(await series.query('SELECT * FROM shares'), []);
        await series.flush();
      }));

    test('what was written is there, each kind as it was, at its microsecond', () =>
      withSeries(async (series) => {
        series.write([
          point({
            tags: { pool: 'main', miner_address: 'a b,c=d"e\\f', empty: '' },
            fields: { count: 7n, difficulty: 1.5, whole: 3, word: 'say "x"\\', flag: true },
            atMs: AT_MS + 0.25,
          }),
        ]);
        await series.flush();
        const rows = await series.query('SELECT * FROM shares GROUP BY *');
        assert.equal(rows.length, 1);
        const { count, difficulty, whole, word, flag, miner_address, pool } = rows[0]!;
        assert.deepEqual(
          { count, difficulty, whole, word, flag, miner_address, pool },
          {
            count: 7,
            difficulty: 1.5,
            whole: 3,
            word: 'say "x"\\',
            flag: true,
            miner_address: 'a b,c=d"e_f',
            pool: 'main',
          },
        );
        const [exact] = await series.query(`SELECT count FROM shares WHERE time = ${AT_MS}250u`);
        assert.equal(exact?.count, 7);
        assert.equal(series.counts().written, 1);
      }));

    test('the same point again changes nothing, and a later value replaces it', () =>
      withSeries(async (series) => {
        for (const count of [1n, 1n, 5n]) {
          series.write([
            point({ fields: { count } }),
            point({ fields: { count }, atMs: AT_MS + 0.001 }),
          ]);
          await series.flush();
        }
        const rows = await series.query('SELECT count FROM shares');
        assert.deepEqual(
          rows.map((row) => row.count),
          [5, 5],
        );
      }));

    test('names that would break out stay names', () =>
      withSeries(async (series) => {
        const names = [
          'a,b=c',
          'a b',
          'x=1i 1\ninjected,a=b count=1i',
          "' OR 1=1 --",
          '"quoted"',
          'trailing\\',
          'emoji ⛏',
          '\u0000\u0007',
          'x'.repeat(3_000),
        ];
        series.write(
          names.map((worker, i) =>
            point({ tags: { worker_name: worker }, fields: { count: BigInt(i) } }),
          ),
        );
        await series.flush();
        assert.equal(series.counts().refused, 0);
        const rows = await series.query('SELECT count FROM shares GROUP BY worker_name');
        assert.deepEqual(
          rows.map((row) => row.count).toSorted((a, b) => Number(a) - Number(b)),
          names.map((_, i) => i),
        );
        assert.deepEqual(await series.query('SELECT * FROM injected'), []);
        const span = { fromMs: AT_MS, untilMs: AT_MS + 60_000, stepMs: 10_000 };
        for (const worker of names) {
          const rows = await series.query(
            rateQuery({ pool: 'main', account: 'none', worker }, span),
          );
          assert.deepEqual(rows, []);
        }
      }));

    test('a line that is refused costs itself alone', () =>
      withSeries(async (series) => {
        series.write([point({})]);
        await series.flush();
        const many = Array.from({ length: 2_000 }, (_, i) =>
          point({ atMs: AT_MS + 1 + i, fields: { count: i % 700 === 3 ? 'no number' : 1n } }),
        );
        series.write(many);
        await series.flush();
        const [row] = await series.query('SELECT sum(count) AS sum FROM shares');
        assert.equal(row?.sum, 1_998);
        const { refused, written, dropped } = series.counts();
        assert.deepEqual({ refused, written, dropped }, { refused: 3, written: 1_998, dropped: 0 });
      }));

    test('rates of a pool, of an account and of a worker', () =>
      withSeries(async (series) => {
        const startMs = Math.ceil(AT_MS / 60_000) * 60_000;
        const points: SeriesPoint[] = [];
        for (let window = 0; window < 18; window++) {
          const atMs = startMs + window * 10_000 + 4;
          for (const worker of ['w1', 'w2']) {
            const fields = { count: 2n, difficulty: worker === 'w1' ? 10 : 30 };
            const tags = {
              pool: 'main',
              status: 'valid',
              miner_address: "a'1",
              worker_name: worker,
            };
            points.push({ measurement: 'shares', tags, fields, atMs });
            points.push({
              measurement: 'shares',
              tags: { ...tags, status: 'stale' },
              fields,
              atMs,
            });
          }
          points.push({
            measurement: 'pool',
            tags: { pool: 'main', status: 'valid' },
            fields: { count: 4n, difficulty: 40 },
            atMs,
          });
        }
        series.write(points);
        await series.flush();
        const span = { fromMs: startMs, untilMs: startMs + 240_000, stepMs: 60_000 };
        const rates = async (subject: Parameters<typeof rateQuery>[0]) =>
          readRates(await series.query(rateQuery(subject, span)), span).map(({ hps, shares }) => [
            Math.round((hps * 60) / 4_294_967_296),
            shares,
          ]);
        const full = (difficulty: number, shares: number) => [
          ...Array.from({ length: 3 }, () => [difficulty * 6, shares * 6]),
          [0, 0],
        ];
        assert.deepEqual(await rates({ pool: 'main' }), full(40, 4));
        assert.deepEqual(await rates({ pool: 'main', account: "a'1" }), full(40, 4));
        assert.deepEqual(await rates({ pool: 'main', account: "a'1", worker: 'w2' }), full(30, 2));
        assert.deepEqual(await rates({ pool: 'other' }), full(0, 0));
      }));

    test('what was written before the end is there after it', async () => {
      const series = await open();
      series.write(Array.from({ length: 12_000 }, (_, i) => point({ atMs: AT_MS + i })));
      await series.stop();
      assert.equal(series.counts().written, 12_000);
      series.write([point({ atMs: AT_MS - 1 })]);
      assert.equal(series.counts().bufferedLines, 0);
      await series.stop();
    });
  });
}
