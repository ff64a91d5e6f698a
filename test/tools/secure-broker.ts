/**
 * A real Kafka as others run it: doors that are encrypted and ask who comes, beside the open one of `broker.ts`. Its keys, certificates
 * and users are made for it.
 */
import { pbkdf2Sync, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { alterUserScramCredentialsV0, Connection, ScramMechanisms } from '@platformatic/kafka';
import { generate } from 'selfsigned';
import { startKafka } from '../../scripts/stack/kafka.ts';
import { findFreePorts } from '../../scripts/stack/server.ts';
import { watchOver } from './broker.ts';

export type SecureBroker = {
  /** Where each door is. */
  open: string[];
  /** Encrypted, asks for user and password. */
  saslTls: string[];
  /** Encrypted, asks for a certificate. */
  tls: string[];
  /** Asks for user and password, in the open. */
  sasl: string[];
  /** PEM files: who signed the broker's certificate, and a client's certificate with its key. */
  caFile: string;
  client: { certFile: string; keyFile: string };
  /** Of PLAIN, for good. */
  plain: { username: string; password: string };
  /** A user for SCRAM-SHA-256 and -512, new or with a new password. */
  setPassword(username: string, password: string): Promise<void>;
  stop(): Promise<void>;
};

const DAY_MS = 86_400_000;
/** Whoever has proved who he is must do it again. */
const SESSION_MS = 2_000;
const ITERATIONS = 4096;

export async function startSecureBroker(): Promise<SecureBroker> {
  const directory = mkdtempSync(join(tmpdir(), 'headframe-kafka-'));
  const file = (name: string, text: string): string => {
    const path = join(directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  const validity = {
    notBeforeDate: new Date(Date.now() - DAY_MS),
    notAfterDate: new Date(Date.now() + DAY_MS),
  };
  const make = (name: string, more: Parameters<typeof generate>[1] = {}) =>
    generate([{ name: 'commonName', value: name }], {
      ...validity,
      keySize: 2048,
      algorithm: 'sha256',
      ...more,
    });
  const ca = await make('test authority', {
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  const signed = { ca: { key: ca.private, cert: ca.cert } };
  const [server, client] = await Promise.all([
    make('broker', {
      ...signed,
      extensions: [
        {
          name: 'subjectAltName',
          altNames: [
            { type: 7, ip: '127.0.0.1' },
            { type: 2, value: 'localhost' },
          ],
        },
      ],
    }),
    make('pool', signed),
  ]);
  const plain = { username: 'plain', password: randomBytes(12).toString('hex') };
  const [openPort, saslTls, tls, sasl] = (await findFreePorts(4)) as [
    number,
    number,
    number,
    number,
  ];
  const doors: Record<number, 'SASL_SSL' | 'SSL' | 'SASL_PLAINTEXT'> = {
    [saslTls]: 'SASL_SSL',
    [tls]: 'SSL',
    [sasl]: 'SASL_PLAINTEXT',
  };
  const settings: Record<string, string> = {
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': file('broker.pem', `${server.private}\n${server.cert}`),
    'ssl.truststore.type': 'PEM',
    'ssl.truststore.location': file('ca.pem', ca.cert),
    'connections.max.reauth.ms': String(SESSION_MS),
    'group.min.session.timeout.ms': '1000',
  };
  for (const [port, protocol] of Object.entries(doors)) {
    const door = `listener.name.${protocol.toLowerCase()}_${port}`;
    if (protocol === 'SSL') settings[`${door}.ssl.client.auth`] = 'required';
    else {
      const login = 'org.apache.kafka.common.security';
      Object.assign(settings, {
        [`${door}.sasl.enabled.mechanisms`]: 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
        [`${door}.plain.sasl.jaas.config`]: `${login}.plain.PlainLoginModule required user_${plain.username}="${plain.password}";`,
        [`${door}.scram-sha-256.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
        [`${door}.scram-sha-512.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
      });
    }
  }
  const kafka = await startKafka({ directory, port: openPort, settings, listeners: doors });
  const watch = watchOver(kafka.pid(), directory);
  const at = (port: number): string[] => [`127.0.0.1:${port}`];
  return {
    open: at(openPort),
    saslTls: at(saslTls),
    tls: at(tls),
    sasl: at(sasl),
    caFile: join(directory, 'ca.pem'),
    client: {
      certFile: file('client.pem', client.cert),
      keyFile: file('client-key.pem', client.private),
    },
    plain,
    async setPassword(username, password) {
      const connection = new Connection('test-operator', {});
      await connection.connect('127.0.0.1', openPort);
      try {
        const kinds = [
          [ScramMechanisms.SCRAM_SHA_256, 'sha256', 32],
          [ScramMechanisms.SCRAM_SHA_512, 'sha512', 64],
        ] as const;
        for (const [mechanism, hash, bytes] of kinds) {
          const salt = randomBytes(16);
          const saltedPassword = pbkdf2Sync(password, salt, ITERATIONS, bytes, hash);
          const change = {
            name: username,
            mechanism,
            iterations: ITERATIONS,
            salt,
            saltedPassword,
          };
          await alterUserScramCredentialsV0.api.async(connection, [], [change]);
        }
      } finally {
        await connection.close();
      }
    },
    async stop() {
      watch();
      await kafka.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
