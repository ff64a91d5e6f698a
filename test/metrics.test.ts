import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMetrics, type Figure, Histogram } from '../src/metrics.ts';
import { createGatewayMetrics } from '../src/services/stratumd/options.ts';

const options = { workersMax: 2, version: '0.1.0' };

test('the nine names of the Stratum server document, exactly', async () => {
  const gateway = createGatewayMetrics();
  gateway.sessions = 3;
  gateway.sharesAccepted = 10;
  gateway.sharesRejected
    .set('stale', 1)
    .set('unknown-job', 1)
    .set('duplicate', 2)
    .set('low-difficulty', 3)
    .set('ntime', 4);
  gateway.blocksFound = 1;
  gateway.currentHeight = 840_000;
  const metrics = createMetrics(
    { gateway: () => gateway, workers: () => [{ account: 'a', worker: 'w', hashrateHps: 5e12 }] },
    options,
  );
  metrics.shareProcessing.observe(0.00015);
  const page = await metrics.scrape();
  for (const line of [
    'stratum_active_connections 3',
    'stratum_total_connections 0',
    'stratum_shares_total{status="valid"} 10',
    'stratum_shares_total{status="stale"} 2',
    'stratum_shares_total{status="duplicate"} 2',
    'stratum_shares_total{status="low_diff"} 3',
    'stratum_shares_total{status="invalid"} 4',
    'stratum_share_processing_seconds_bucket{le="0.0001"} 0',
    'stratum_share_processing_seconds_bucket{le="0.0002"} 1',
    'stratum_share_processing_seconds_count 1',
    'stratum_blocks_found_total 1',
    'stratum_active_workers 0',
    'stratum_worker_hashrate{worker="a.w"} 5000000000000',
    'stratum_current_block_height 840000',
    'stratum_jobs_generated_total 0',
  ]) {
    assert.ok(page.split('\n').includes(line), `"${line}" is missing`);
  }
  const names = new Set(Array.from(page.matchAll(/^# TYPE (stratum_\S+)/gm), ([, name]) => name));
  assert.equal(names.size, 9);
  gateway.sessions = 4;
  assert.match(
    await metrics.scrape(),
    /^stratum_active_connections 4$/m,
    'read when asked, not before',
  );
});

test('only the largest workers have a series, and a name can not break the page', async () => {
  const workers = [
    { account: 'a', worker: '1', hashrateHps: 1 },
    { account: 'b', worker: '"}\nevil 1\n', hashrateHps: 3 },
    { account: 'c', worker: '', hashrateHps: 2 },
    { account: 'd', worker: 'idle', hashrateHps: 0 },
  ];
  const page = await createMetrics({ workers: () => workers }, options).scrape();
  const series = Array.from(
    page.matchAll(/^stratum_worker_hashrate\{worker="(.*)"\} (\d+)$/gm),
    ([, name, value]) => [name, value],
  );
  assert.deepEqual(series, [
    ['b.\\"}\\\\x0aevil 1\\\\x0a', '3'],
    ['c', '2'],
  ]);
  assert.doesNotMatch(page, /^evil/m);
});

test('a part that does not run, or fails, leaves its numbers out and not the page', async () => {
  const page = await createMetrics(
    {
      door: () => null,
      journal: () => {
        throw new Error('gone');
      },
      node: () => null,
      lane: () => null,
      figures: () => {
        throw new Error('gone');
      },
    },
    options,
  ).scrape();
  assert.doesNotMatch(page, /^headframe_journal_ok/m);
  assert.match(page, /^headframe_info\{/m);
  assert.match(page, /^process_cpu_seconds_total /m);
});

test('figures of other threads are written out by the same rules', async () => {
  const figures: Figure[] = [
    {
      name: 'headframe_rpc_calls_total',
      help: 'Calls.',
      kind: 'counter',
      value: 2,
      labels: { node: 'a"b' },
    },
    {
      name: 'headframe_rpc_calls_total',
      help: 'Calls.',
      kind: 'counter',
      value: 3,
      labels: { node: 'c' },
    },
    { name: 'bad name', help: '', kind: 'gauge', value: 1 },
    { name: 'headframe_nan', help: '', kind: 'gauge', value: Number.NaN },
  ];
  const page = await createMetrics({ figures: () => figures }, options).scrape();
  assert.match(
    page,
    /# TYPE headframe_rpc_calls_total counter\nheadframe_rpc_calls_total\{node="a\\"b"\} 2\nheadframe_rpc_calls_total\{node="c"\} 3\n/,
  );
  assert.doesNotMatch(page, /bad name|headframe_nan/);
});

test('every line of the page is a comment, empty or a sample', async () => {
  const page = await createMetrics({ gateway: createGatewayMetrics }, options).scrape();
  for (const line of page.split('\n')) {
    assert.match(
      line,
      /^$|^# (HELP|TYPE) [a-z0-9_]+ |^[a-z0-9_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[\d.e+-]+|[Nn]a[Nn]|\+Inf)$/,
      line,
    );
  }
});

test('a histogram counts up to each bound', () => {
  const histogram = new Histogram([1, 2]);
  for (const value of [0.5, 1, 1.5, 3]) histogram.observe(value);
  assert.deepEqual(histogram.read(), {
    buckets: [
      { le: '1', count: 2 },
      { le: '2', count: 3 },
      { le: '+Inf', count: 4 },
    ],
    count: 4,
    sum: 6,
  });
});
