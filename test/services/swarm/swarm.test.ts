import assert from 'node:assert/strict';
import { after, it } from 'node:test';
import { formatSwarmReport, readSwarmArguments } from '../../../src/services/swarm/arguments.ts';
import { LatencyCounts } from '../../../src/services/swarm/latency.ts';
import { isLoopback, runSwarm, SWARM_OPTIONS } from '../../../src/services/swarm/swarm.ts';
import { eventually, stopRigs } from '../stratumd/door-rig.ts';
import { ADDRESS, openPool } from '../stratumd/pool-rig.ts';

after(stopRigs);

const QUICK = { ...SWARM_OPTIONS, user: ADDRESS, connections: 20, seconds: 0.4 };
const FREE = { submitsPerSecond: 1e9, submitBurst: 1e9 };

it('submits counted shares flat out, all accepted', async () => {
  const difficulty = { startDifficulty: 2 ** -33, minDifficulty: 2 ** -33, vardiff: false };
  const pool = await openPool({ port: difficulty, limits: FREE });
  const report = await runSwarm({ ...QUICK, port: pool.port, sharesPerSecond: 0, depth: 4 });
  assert.equal(report.working, 20);
  assert.equal(report.rejected, 0, JSON.stringify([...report.rejections]));
  assert.ok(report.accepted > 20);
  assert.equal(report.unanswered, 0);
  assert.equal(report.accepted, pool.metrics.sharesAccepted);
  assert.match(formatSwarmReport(report), /miners working {6}20 of 20/);
  await pool.stop();
});

it('grinds real shares at a pace, over TLS, and sees new jobs', async () => {
  const difficulty = { startDifficulty: 2 ** -26, minDifficulty: 2 ** -26, vardiff: false };
  const pool = await openPool({ port: difficulty, limits: FREE });
  const options = { ...QUICK, port: pool.port, tls: true, sharesPerSecond: 200, seconds: 1 };
  const running = runSwarm(options);
  await eventually(() => pool.metrics.sharesAccepted > 5);
  pool.newJob();
  const report = await running;
  assert.equal(report.rejected, 0, JSON.stringify([...report.rejections]));
  assert.ok(report.accepted > 5);
  assert.equal(report.notifies.jobs, 1);
  await pool.stop();
});

it('refuses to load what is not on loopback', async () => {
  await assert.rejects(runSwarm({ ...QUICK, host: 'pool.example' }), /i-own-this-server/);
  assert.ok(isLoopback('127.9.9.9') && isLoopback('::1') && isLoopback('localhost'));
  assert.ok(!isLoopback('10.0.0.1') && !isLoopback('127.0.0.1.example'));
});

it('reads its arguments, all errors at once', () => {
  const read = readSwarmArguments([
    '--url',
    'stratum+ssl://[::1]:3333',
    '--connections=7',
    '--rate',
    '0',
    '--i-own-this-server',
  ]);
  assert.ok(read.ok);
  assert.deepEqual(
    [read.options.host, read.options.port, read.options.tls, read.options.connections],
    ['::1', 3333, true, 7],
  );
  const bad = readSwarmArguments(['--url', 'nowhere', '--depth', 'many', '--what', 'x', '--user']);
  assert.ok(!bad.ok);
  assert.equal(bad.errors.length, 4);
});

it('counts latencies to within a bucket', () => {
  const counts = new LatencyCounts();
  assert.equal(counts.percentiles().p99Ms, 0);
  for (let ms = 1; ms <= 1_000; ms++) counts.add(ms);
  const { p50Ms, p99Ms, maxMs } = counts.percentiles();
  assert.ok(Math.abs(p50Ms - 500) <= 6 && Math.abs(p99Ms - 990) <= 11);
  assert.equal(maxMs, 1_000);
});
