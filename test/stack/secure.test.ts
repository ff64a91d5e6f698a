/** Services on a Kafka that encrypts and asks who comes: kept waiting by a wrong password, and at work when it has become the right one. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { kafkaMissing } from '../tools/broker.ts';
import { freePorts, makeDataDir, PoolProcess, removeData } from '../tools/pool-process.ts';
import { type SecureBroker, startSecureBroker } from '../tools/secure-broker.ts';
import { POOL_ADDRESS, untilReady } from './rig.ts';

const missing = kafkaMissing();
const PASSWORD = 'canary-kafka';

if (missing !== null)
  test(`services on a Kafka that asks who comes: NOT FOUND, ${missing}`, () => {});
else {
  let broker: SecureBroker | null = null;
  const dataDir = makeDataDir();
  const running: PoolProcess[] = [];
  after(async () => {
    await Promise.all(running.map((one) => one.stop(10_000)));
    await broker?.stop();
    removeData(dataDir);
  });

  test('a wrong password is told and waited out, by every part that speaks with Kafka', async () => {
    broker = await startSecureBroker();
    await broker.setPassword('pool', 'another');
    const { saslTls, caFile } = broker;
    const start = async (service: string): Promise<PoolProcess> => {
      const ports = await freePorts();
      const own = join(dataDir, service);
      mkdirSync(own);
      const env = {
        NETWORK: 'regtest',
        POOL_ADDRESS,
        DATA_DIR: own,
        // Nobody listens there: what is looked at is Kafka.
        BITCOIN_RPC_HOST: '127.0.0.1',
        BITCOIN_RPC_PORT: '1',
        BITCOIN_RPC_USER: 'pool',
        BITCOIN_RPC_PASSWORD: 'none',
        LISTEN_ADDR: '127.0.0.1',
        LISTEN_PORT: String(ports.stratum),
        METRICS_PORT: String(ports.metrics),
        INSTANCE_ID: '1',
        KAFKA_BROKERS: saslTls.join(','),
        KAFKA_TLS: 'on',
        KAFKA_TLS_CA_FILE: caFile,
        KAFKA_SASL_MECHANISM: 'SCRAM-SHA-512',
        KAFKA_USERNAME: 'pool',
        KAFKA_PASSWORD: PASSWORD,
        LOG_LEVEL: 'debug',
      };
      const process = new PoolProcess([service], env, ports);
      running.push(process);
      return process;
    };
    // One with its link to Kafka in the main thread, one with it in a thread of its own.
    const shareproc = await start('shareproc');
    const stratumd = await start('stratumd');
    const told = (one: PoolProcess) =>
      one
        .logged('Kafka does not let us in; it is tried again and again')
        .filter(({ level }) => level === 'error');
    for (const one of [shareproc, stratumd]) {
      await one.until('it says why', () => told(one).length > 0, 30_000);
      assert.match(JSON.stringify(told(one)), /KAFKA_PASSWORD/);
    }
    assert.match((await untilReady(shareproc, false)).join(), /user or password is refused/);

    await broker.setPassword('pool', PASSWORD);
    await untilReady(shareproc);
    const connected = async () =>
      /^headframe_kafka_connected 1$/m.test(
        await (await stratumd.get('metrics', '/metrics')).text(),
      );
    for (const endMs = performance.now() + 30_000; !(await connected()); ) {
      assert.ok(performance.now() < endMs, stratumd.tail());
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    for (const one of running) {
      assert.equal(await one.stop(), 0);
      assert.equal(told(one).length, 1, one.tail());
      assert.doesNotMatch(one.tail() + JSON.stringify(one.log), new RegExp(PASSWORD));
    }
  });
}
