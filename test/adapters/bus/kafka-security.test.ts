/** Every way into a Kafka that encrypts and asks who comes, and what is said where there is none. */
import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import { createServer, connect as dial } from 'node:net';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createKafkaBus, type KafkaBus } from '../../../src/adapters/bus/kafka.ts';
import type { KafkaSecurity } from '../../../src/adapters/bus/kafka-security.ts';
import { kafkaMissing } from '../../tools/broker.ts';
import { assertNothingLost, isAllReceived, type Sent, startBusLoad } from '../../tools/bus-load.ts';
import { type SecureBroker, startSecureBroker } from '../../tools/secure-broker.ts';
import { createMemoryLog, until } from '../../tools/waiting.ts';

const missing = kafkaMissing();
const LIMIT_MS = 40_000;
const USER = { username: 'pool', password: 'right, and=odd' };

if (missing !== null) test(`Kafka NOT FOUND: ${missing}`, () => {});
else
  describe('Kafka that encrypts and asks who comes', () => {
    let broker: SecureBroker;
    const open: KafkaBus[] = [];
    const log = createMemoryLog();
    const connect = (brokers: readonly string[], security: KafkaSecurity): KafkaBus => {
      const bus = createKafkaBus({
        log,
        brokers,
        security,
        groupPrefix: `secure-${process.pid}-${open.length}`,
        clientId: 'test',
        heartbeatMs: 200,
        sessionMs: 3_000,
      });
      open.push(bus);
      return bus;
    };
    const scram = (mechanism: 'SCRAM-SHA-256' | 'SCRAM-SHA-512', password = USER.password) => ({
      mechanism,
      username: USER.username,
      password,
    });
    const trusting = () => ({ caFile: broker.caFile, client: null });

    before(async () => {
      broker = await startSecureBroker();
      await broker.setPassword(USER.username, USER.password);
    });
    after(async () => {
      await Promise.all(open.map((bus) => bus.stop()));
      await broker.stop();
    });

    test('records go in and come out by every door', async () => {
      const ways: Record<string, [string[], KafkaSecurity]> = {
        'scram 256': [broker.saslTls, { tls: trusting(), sasl: scram('SCRAM-SHA-256') }],
        'scram 512': [broker.saslTls, { tls: trusting(), sasl: scram('SCRAM-SHA-512') }],
        plain: [broker.saslTls, { tls: trusting(), sasl: { mechanism: 'PLAIN', ...broker.plain } }],
        certificate: [
          broker.tls,
          { tls: { caFile: broker.caFile, client: broker.client }, sasl: null },
        ],
        'in the open': [broker.sasl, { tls: null, sasl: scram('SCRAM-SHA-512') }],
      };
      for (const [name, [brokers, security]] of Object.entries(ways)) {
        const bus = connect(brokers, security);
        const received: string[] = [];
        await bus.subscribe('block.outcome', name.replaceAll(' ', '-'), async (records) => {
          for (const { key } of records) received.push(key);
        });
        await bus.publish('block.outcome', [{ key: name, value: Uint8Array.of(1) }]);
        await until(`${name} to arrive`, () => received.includes(name), LIMIT_MS);
        assert.equal(bus.status().connected, true, name);
      }
    });

    test('a broker that goes by a number and is looked for by name is for the operator to mend', async () => {
      const brokers = [broker.saslTls[0]!.replace('127.0.0.1', 'localhost')];
      const bus = connect(brokers, { tls: trusting(), sasl: scram('SCRAM-SHA-256') });
      await assert.rejects(bus.ready, /both must be names, or both addresses/);
    });

    test('who is not let in is told what to look at, tries on, and gets in when it is mended', async () => {
      const own = (name: string) => join(dirname(broker.caFile), name);
      const files = { certFile: own('own.pem'), keyFile: own('own-key.pem') };
      // Not a certificate at all, at first.
      for (const file of Object.values(files)) copyFileSync(broker.client.keyFile, file);
      const late = { ...scram('SCRAM-SHA-256'), username: 'late' };
      const wrong: [string[], KafkaSecurity, RegExp][] = [
        [broker.saslTls, { tls: trusting(), sasl: late }, /KAFKA_PASSWORD/],
        [broker.sasl, { tls: null, sasl: scram('SCRAM-SHA-512', 'x') }, /KAFKA_PASSWORD/],
        [
          broker.saslTls,
          { tls: trusting(), sasl: { mechanism: 'PLAIN', ...USER } },
          /KAFKA_PASSWORD/,
        ],
        [broker.saslTls, { tls: { caFile: null, client: null }, sasl: late }, /KAFKA_TLS_CA_FILE/],
        [broker.saslTls, { tls: null, sasl: null }, /KAFKA_TLS=on/],
        [broker.open, { tls: trusting(), sasl: null }, /not encrypted: KAFKA_TLS/],
        [broker.open, { tls: null, sasl: late }, /nobody is asked for a password/],
        [broker.tls, { tls: trusting(), sasl: null }, /KAFKA_TLS_CERT_FILE/],
        [
          broker.tls,
          { tls: { caFile: broker.caFile, client: files }, sasl: null },
          /KAFKA_TLS_CERT_FILE/,
        ],
      ];
      const buses = wrong.map(([brokers, security]) => connect(brokers, security));
      for (const [at, [, , words]] of wrong.entries()) {
        const bus = buses[at]!;
        await until(
          `${words}, not ${bus.status().lastError}`,
          () => words.test(bus.status().lastError ?? ''),
          LIMIT_MS,
        );
        assert.equal(bus.status().connected, false);
      }
      assert.doesNotMatch(log.text(), /right, and=odd/);

      await broker.setPassword(late.username, late.password);
      copyFileSync(broker.client.certFile, files.certFile);
      await Promise.all([buses[0]!.ready, buses.at(-1)!.ready]);
      assert.equal(buses[0]!.status().connected, true);
    });

    test('a refusal that ends with a cut line is borne', async () => {
      let cuts = 0;
      const road = createServer((near) => {
        const far = dial(Number(broker.sasl[0]!.split(':')[1]), '127.0.0.1');
        near.on('error', () => {}).on('data', (bytes) => void far.write(bytes));
        far.on('error', () => {}).on('data', (bytes) => void near.write(bytes));
        far.on('end', () => {
          cuts += 1;
          near.resetAndDestroy();
        });
        // Both ends of the road are in this process: one that is left open would keep it from ending.
        near.on('close', () => void far.destroy());
        far.on('close', () => void near.destroy());
      });
      await new Promise<void>((resolve) => road.listen(0, '127.0.0.1', resolve));
      const { port } = road.address() as { port: number };
      connect([`127.0.0.1:${port}`], { tls: null, sasl: scram('SCRAM-SHA-256', 'x') });
      await until('it was cut off several times', () => cuts >= 4, LIMIT_MS);
      road.close();
    });

    test('proving again who one is, in the middle of everything, loses nothing; a new password is asked for', async () => {
      const security = { tls: trusting(), sasl: scram('SCRAM-SHA-512') };
      const bus = connect(broker.saslTls, security);
      const prefix = `again-${process.pid}-`;
      const received: Sent[] = [];
      await bus.subscribe('share.stale', 'again', async (records) => {
        for (const { key, value } of records)
          if (key.startsWith(prefix)) received.push([key, String(value)]);
      });
      const load = startBusLoad(bus, 'share.stale', prefix);
      await new Promise((resolve) => setTimeout(resolve, 5_000));
      assert.equal(load.rejections(), 0);
      await broker.setPassword(USER.username, 'another');
      await until(
        'the old one to be refused',
        () => /KAFKA_PASSWORD/.test(bus.status().lastError ?? ''),
        LIMIT_MS,
      );
      await broker.setPassword(USER.username, USER.password);
      const before = received.length;
      await until('it goes on', () => received.length > before + 200, LIMIT_MS);
      await load.stop();
      await until('all arrived', () => isAllReceived(load.sent, received), LIMIT_MS);
      assertNothingLost(load.sent, received);
    });
  });
