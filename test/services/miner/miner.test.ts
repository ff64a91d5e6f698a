import assert from 'node:assert/strict';
import { after, it } from 'node:test';
import { type Miner, startMiner } from '../../../src/services/miner/miner.ts';
import { eventually, quiet, stopRigs } from '../stratumd/door-rig.ts';
import { ADDRESS, openPool } from '../stratumd/pool-rig.ts';

const tools = { clock: { nowMs: () => Date.now() }, log: quiet };
const miners: Miner[] = [];
after(async () => {
  for (const miner of miners) await miner.stop();
  await stopRigs();
});

function mine(port: number, tls: 'off' | 'insecure'): Miner {
  const miner = startMiner(tools, {
    host: '127.0.0.1',
    port,
    tls,
    user: `${ADDRESS}.cpu`,
    password: 'x',
    threads: 2,
    hashesPerSecondMax: 200_000,
    sharesPerSecondMax: 100,
    shareIntervalSeconds: 0.02,
  });
  miners.push(miner);
  return miner;
}

const EASY = { startDifficulty: 2 ** -20, minDifficulty: 2 ** -20, vardiff: false };

it('finds shares the pool accepts, over TCP and over TLS, and follows new jobs', async () => {
  const pool = await openPool({ port: EASY });
  for (const tls of ['off', 'insecure'] as const) {
    const miner = mine(pool.port, tls);
    assert.ok(await eventually(() => miner.stats().accepted >= 5));
    pool.newJob();
    const before = miner.stats().accepted;
    assert.ok(await eventually(() => miner.stats().accepted >= before + 5));
    assert.equal(miner.stats().rejected, 0, miner.stats().lastRejection);
    await miner.stop();
  }
  await pool.stop();
});

it('comes back after the pool was gone, and mines on', async () => {
  const pool = await openPool({ port: EASY });
  const miner = mine(pool.port, 'off');
  assert.ok(await eventually(() => miner.stats().accepted >= 2));
  await pool.stop();
  assert.ok(await eventually(() => !miner.stats().connected));
  const again = await openPool({ port: { ...EASY, port: pool.port } });
  const before = miner.stats().accepted;
  assert.ok(await eventually(() => miner.stats().accepted > before + 2));
  assert.equal(miner.stats().rejected, 0, miner.stats().lastRejection);
  assert.ok(miner.stats().reconnects >= 1);
  await miner.stop();
  await again.stop();
});

it('hands a block to the lane when the network target is met', async () => {
  const pool = await openPool({ port: EASY });
  pool.newJob({ bits: 0x207fffff, networkTarget: 0x7fffffn << 232n });
  const miner = mine(pool.port, 'off');
  assert.ok(await eventually(() => pool.candidates.length >= 1));
  await miner.stop();
  await pool.stop();
});
