/**
 * Every service with nothing there that it needs: it lives, says why it is not ready, tells no secret, and ends in order. And what
 * cannot work is refused at once.
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { SERVICES, type ServiceName } from '../../src/config/services.ts';
import {
  freePorts,
  makeDataDir,
  PoolProcess,
  removeData,
  runCommand,
} from '../tools/pool-process.ts';
import { POOL_ADDRESS } from './rig.ts';

const CANARY = 'canary-Zx81';
const dataDir = makeDataDir();
const running: PoolProcess[] = [];

after(async () => {
  await Promise.all(running.map((one) => one.stop(5_000)));
  removeData(dataDir);
});

/** Servers that refuse every connection: nobody listens on port 1. Each password is a canary. */
const away = {
  NETWORK: 'regtest',
  POOL_ADDRESS,
  BITCOIN_RPC_HOST: '127.0.0.1',
  BITCOIN_RPC_PORT: '1',
  BITCOIN_RPC_USER: 'pool',
  BITCOIN_RPC_PASSWORD: `${CANARY}-node`,
  BITCOIN_ZMQ_ADDR: 'off',
  KAFKA_BROKERS: '127.0.0.1:1',
  DATABASE_URL: `postgres://pool:${CANARY}-postgres@127.0.0.1:1/pool`,
  REDIS_URL: `redis://pool:${CANARY}-redis@127.0.0.1:1/0`,
  INFLUX_URL: 'http://127.0.0.1:1',
  INFLUX_TOKEN: `pool:${CANARY}-influx`,
  LOG_LEVEL: 'debug',
};

/** What each of them must name as missing. */
const MISSING: Record<ServiceName, RegExp> = {
  stratumd: /no work|Kafka/,
  jobmanager: /Kafka|no job yet/,
  shareproc: /Kafka/,
  blocksubmit: /Kafka/,
  statsd: /Kafka/,
  payoutd: /PostgreSQL/,
  apiserver: /PostgreSQL/,
};

test('each service waits for what is away, says so, tells no secret, and ends when it is asked to', async (t) => {
  await Promise.all(
    (Object.keys(SERVICES) as ServiceName[]).map(async (service, at) => {
      const ports = await freePorts();
      const own = join(dataDir, service);
      mkdirSync(own);
      const one = new PoolProcess(
        [service],
        {
          ...away,
          DATA_DIR: own,
          INSTANCE_ID: String(at),
          LISTEN_ADDR: '127.0.0.1',
          LISTEN_PORT: String(ports.stratum),
          API_ADDR: '127.0.0.1',
          API_PORT: String(ports.api),
          HEALTH_PORT: String(ports.metrics),
        },
        ports,
      );
      running.push(one);
      const pages: string[] = [];
      const get = async (port: 'api' | 'metrics', path: string) => {
        const answer = await one.get(port, path);
        const text = await answer.text();
        pages.push(text);
        return { status: answer.status, text };
      };
      await one.until('a health port', () => one.logged('health and metrics').length > 0, 60_000);
      let said = '';
      for (const endMs = performance.now() + 30_000; performance.now() < endMs; ) {
        const { status, text } = await get('metrics', '/ready');
        said = `${status} ${text}`;
        if (status === 503 && MISSING[service].test(text)) break;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.match(said, MISSING[service], one.tail());
      assert.match(said, /^503/);
      assert.equal((await get('metrics', '/live')).status, 200);
      assert.equal((await get('metrics', '/health')).status, 503);
      assert.match((await get('metrics', '/metrics')).text, /headframe_info\{/);
      if (service === 'apiserver') {
        const health = await get('api', '/health');
        assert.equal(health.status, 503);
        assert.match(health.text, /no stratumd was heard of/);
        assert.equal((await get('api', '/')).status, 200);
        assert.equal((await get('api', '/api/v1/pool')).status, 200);
        assert.equal((await get('api', '/api/v1/blocks')).status, 503);
        assert.equal((await get('api', '/api/v1/accounts')).status, 503);
        assert.equal((await get('api', '/api/v1/rates')).status, 503);
        assert.equal((await get('api', '/api/v1/services')).status, 200);
        assert.equal((await get('api', '/api/v1/rates?worker=a')).status, 400);
      }
      assert.equal(one.hasExited, false, one.tail());
      assert.equal(await one.stop(12_000), 0, one.tail());
      const told = [JSON.stringify(one.log), one.output, ...pages].join('\n');
      assert.ok(!told.includes(CANARY), `${service} tells a secret`);
      assert.ok(one.log.length > 3);
    }),
  );
  t.diagnostic('seven services');
});

test('a service that lacks a setting says so in one line each and ends with 78', async () => {
  const { KAFKA_BROKERS: _, ...rest } = away;
  for (const service of ['stratumd', 'apiserver'] as const) {
    const { exitCode, text } = await runCommand([service], rest);
    assert.equal(exitCode, 78);
    assert.equal(text.trim().split('\n').length, 1, text);
    assert.match(text, new RegExp(`KAFKA_BROKERS is not set: ${service} works over Kafka`));
    assert.ok(!text.includes(CANARY));
  }
});
