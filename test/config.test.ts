import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { generate } from 'selfsigned';
import { type FileBytes, readLocalFile } from '../src/config/file.ts';
import { SERVICES, type ServiceName } from '../src/config/services.ts';
import { SETTINGS, type Setting, UNREAD } from '../src/config/settings.ts';
import { type ConfigAnswer, describeConfig, flagOf, readConfig, secretsOf } from '../src/config.ts';

const address = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080';
const second = 'bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry';
/** Regtest on a node of its own: nothing is missing. */
const whole = {
  NETWORK: 'regtest',
  BITCOIN_RPC_HOST: '127.0.0.1',
  BITCOIN_RPC_USER: 'u',
  BITCOIN_RPC_PASSWORD: 'canary-rpc',
  POOL_ADDRESS: address,
};

type Given = {
  argv?: string[];
  env?: Record<string, string>;
  file?: string;
  files?: Record<string, FileBytes>;
  openFilesMax?: number;
  service?: ServiceName | null;
};

function read({
  argv = [],
  env = {},
  file,
  files = {},
  openFilesMax,
  service = null,
}: Given): ConfigAnswer {
  return readConfig({
    service,
    argv,
    env,
    readFile: (path) => {
      if (file !== undefined && path.endsWith('headframe.yaml')) return bytesOf(file);
      return files[path] ?? { kind: 'missing' };
    },
    openFilesMax: openFilesMax ?? null,
    directory: '/srv/pool',
  });
}

function bytesOf(text: string, othersMayRead = false): FileBytes {
  return { kind: 'bytes', bytes: new TextEncoder().encode(text), othersMayRead };
}

function good(given: Given) {
  const answer = read(given);
  assert.ok(answer.ok, answer.ok ? '' : answer.errors.join('\n'));
  return answer;
}

function errorsOf(given: Given): string {
  const answer = read(given);
  assert.ok(!answer.ok, 'accepted');
  return answer.errors.join('\n');
}

test('nothing set is the development chain', () => {
  const { config, warnings } = good({});
  assert.equal(config.mode, 'devnet');
  assert.equal(config.network, 'regtest');
  assert.equal(config.pools.length, 1);
  assert.deepEqual(config.pools[0], {
    id: 'main',
    scheme: 'pplns',
    window: { kind: 'work', factorPpm: 2_000_000n },
    feePpm: 10_000,
    feeAddress: null,
    developerFeePpm: 0,
    developerAddress: null,
    address: null,
    ruinPpmMax: 10_000,
    onRuin: 'refuse',
  });
  assert.equal(config.payouts?.wallet, 'headframe');
  assert.equal(config.payouts?.minimumSats, 1_000_000n);
  assert.deepEqual(config.payouts?.schedule, { kind: 'every', intervalMs: 60_000 });
  assert.deepEqual([config.payouts?.confirmations, config.payouts?.maturity], [6, 101]);
  assert.equal(config.dataDir, '/srv/pool/data/devnet');
  assert.deepEqual(warnings, []);
});

test('Bitcoin Core on regtest by the founding names', () => {
  const { config } = good({
    env: { ...whole, BITCOIN_RPC_PORT: '18555', BITCOIN_ZMQ_ADDR: 'tcp://127.0.0.1:28332' },
  });
  assert.equal(config.mode, 'node');
  assert.deepEqual(config.nodes, [
    {
      name: 'node1',
      url: 'http://127.0.0.1:18555/',
      user: 'u',
      password: 'canary-rpc',
      zmqAddresses: ['tcp://127.0.0.1:28332'],
    },
  ]);
  assert.deepEqual([config.pools[0]?.scheme, config.pools[0]?.address], ['pplns', address]);
  assert.equal(config.dataDir, '/srv/pool/data/regtest');
});

test('each network has its own RPC port, and ZMQ is looked for beside the node', () => {
  const [node] = good({ env: { ...whole, BITCOIN_RPC_HOST: 'fd00::5' } }).config.nodes;
  assert.equal(node?.url, 'http://[fd00::5]:18443/');
  assert.deepEqual(node?.zmqAddresses, ['tcp://[fd00::5]:28332']);
  assert.deepEqual(
    good({ env: { ...whole, BITCOIN_ZMQ_ADDR: 'off' } }).config.nodes[0]?.zmqAddresses,
    [],
  );
});

test('flag before environment before file before default', () => {
  const env = { LISTEN_PORT: '3335' };
  const file = 'server:\n  port: 3336\n';
  const argv = ['--listen-port', '3334'];
  const port = (given: Given) => good(given).config.stratum.ports[0]?.port;
  assert.equal(port({ argv, env, file }), 3334);
  assert.equal(port({ env, file }), 3335);
  assert.equal(port({ file }), 3336);
  assert.equal(port({}), 3333);
  assert.equal(port({ argv: ['--listen-port=3337'] }), 3337);
});

test('the keys of the Stratum server document are read', () => {
  const file = `
server:
  host: 127.0.0.1
  port: 4444
  max_connections: 500
  read_timeout: 20s
  write_timeout: 20s
  tls: { enabled: false }
  metrics: { enabled: true, port: 9191 }
mining:
  pool_address: "${address}"
  coin_type: bitcoin
  initial_difficulty: 2.0
  min_difficulty: 0.5
  max_difficulty: 1000
  target_share_time: 10s
  retarget_time: 90s
  variance_percent: 30
redis: { host: localhost, port: 6379 }
logging: { level: debug, format: console, output: stdout }
node:
  rpc_url: http://10.0.0.2:18443
  rpc_user: u
  rpc_password: canary
  poll_interval: 500ms
network: regtest
`;
  const { config, warnings } = good({ file });
  const [port] = config.stratum.ports;
  assert.deepEqual(
    [
      port?.port,
      port?.host,
      port?.tls,
      port?.startDifficulty,
      port?.minDifficulty,
      port?.maxDifficulty,
    ],
    [4444, '127.0.0.1', 'off', 2, 0.5, 1000],
  );
  assert.equal(config.stratum.tls, null);
  assert.equal(config.stratum.admission.connectionsMax, 500);
  assert.equal(config.stratum.limits.authorizeTimeoutMs, 20_000);
  assert.equal(config.stratum.door.pendingTimeoutMs, 20_000);
  assert.equal(config.stratum.vardiff.intervalMs, 10_000);
  assert.equal(config.stratum.vardiff.bandHigh, 1.3);
  assert.equal(config.metrics?.port, 9191);
  assert.equal(config.log.level, 'debug');
  assert.equal(config.log.format, 'text');
  assert.equal(config.jobs.pollMs, 500);
  assert.equal(config.nodes[0]?.url, 'http://10.0.0.2:18443/');
  assert.deepEqual(
    warnings.map((line) => line.replace(/ \(.*?\)/, '')),
    [
      'redis.host is not read by this version: the services over Kafka read redis.url: redis://user:password@host:6379/0.',
      'redis.port is not read by this version: the services over Kafka read redis.url: redis://user:password@host:6379/0.',
      'PAYOUT_WALLET is not set: what miners earn is booked in the ledger, and nothing is paid out.',
    ],
  );
});

test('several nodes, each with its own or the common credentials', () => {
  const file = `
nodes:
  - rpc_url: 10.0.0.2
    name: second
  - { rpc_url: "https://node.example:8443", rpc_user: x, rpc_password: canary-y, zmq: off }
`;
  const { config } = good({ env: whole, file });
  assert.deepEqual(
    config.nodes.map(({ name, url, user, zmqAddresses }) => [
      name,
      url,
      user,
      zmqAddresses?.length,
    ]),
    [
      ['node1', 'http://127.0.0.1:18443/', 'u', 1],
      ['second', 'http://10.0.0.2:18443/', 'u', 1],
      ['node3', 'https://node.example:8443/', 'x', 0],
    ],
  );
  const { BITCOIN_RPC_HOST: _, ...rest } = whole;
  const listed = good({
    env: { ...rest, BITCOIN_NODES: '10.0.0.2;name=a,10.0.0.3:18444;name=b;zmq=off' },
  }).config.nodes;
  assert.deepEqual(
    listed.map(({ name, url }) => [name, url]),
    [
      ['a', 'http://10.0.0.2:18443/'],
      ['b', 'http://10.0.0.3:18444/'],
    ],
  );
});

test('further ports inherit what they do not say', () => {
  const { ports } = good({
    env: {
      LISTEN_PORTS:
        '3334;difficulty=65536;tls=only,3335;min=1e6;difficulty=1e9;max=1e15;vardiff=off',
      MIN_DIFFICULTY: '1',
    },
  }).config.stratum;
  assert.deepEqual(
    ports.map((port) => [
      port.port,
      port.startDifficulty,
      port.minDifficulty,
      port.maxDifficulty,
      port.tls,
      port.vardiff,
    ]),
    [
      [3333, 1024, 1, 1e12, 'auto', true],
      [3334, 65536, 1, 1e12, 'only', true],
      [3335, 1e9, 1e6, 1e15, 'auto', false],
    ],
  );
});

test('bounds alone move the starting difficulty, a stated start must fit', () => {
  assert.equal(
    good({ env: { MAX_DIFFICULTY: '10' } }).config.stratum.ports[0]?.startDifficulty,
    10,
  );
  assert.match(errorsOf({ env: { MAX_DIFFICULTY: '10', INITIAL_DIFFICULTY: '11' } }), /outside/);
});

test('all faults come at once, and no secret is in them', () => {
  const text = errorsOf({
    argv: ['--metrics-port', '3333'],
    env: {
      NETWORK: 'mainet',
      LISTEN_PORT: '3333',
      BITCOIN_RPC_HOST: 'http://user:canary-host@node',
      BITCOIN_RPC_PASSWORD: 'canary\npassword',
      BITCOIN_RPC_USER: 'u',
      POOL_ADDRESS: 'bc1qinvalid',
      POOL_FEE_PERCENT: '1,0',
      POOL_FEE_PERCNT: '1',
      DATABASE_URL: 'mysql://pool:canary-db@db/pool',
      MIN_DIFFICULTY: '5',
      MAX_DIFFICULTY: '4',
    },
    file: 'server: { prot: 3333 }\nmining: { pool_addres: x }\n',
  });
  assert.doesNotMatch(text, /canary/);
  for (const part of [
    'NETWORK',
    'BITCOIN_RPC_HOST',
    'BITCOIN_RPC_PASSWORD',
    'POOL_ADDRESS',
    'POOL_FEE_PERCENT',
    'POOL_FEE_PERCNT',
    'DATABASE_URL',
    'server.prot',
    'mining.pool_addres',
    'MIN_DIFFICULTY 5 is above',
    'asked for twice',
  ]) {
    assert.ok(text.includes(part), `${part} is not in\n${text}`);
  }
});

test('names of the founding documents that are not read give a warning each', () => {
  const env = Object.fromEntries(Array.from(UNREAD.keys(), (name) => [name, 'x']));
  const { warnings } = good({ env });
  assert.equal(warnings.length, UNREAD.size);
  assert.ok(warnings.every((line) => line.includes('is not read by this version')));
});

test('variables of other programs are left alone', () => {
  good({
    env: {
      LISTEN_PID: '1',
      LISTEN_FDS: '3',
      POOL_SERVICE_HOST: '10.0.0.1',
      POOL_SERVICE_PORT: '3333',
      POOL_PORT: 'tcp://10.0.0.1:3333',
      POOL_PORT_3333_TCP_ADDR: '10.0.0.1',
      PATH: '/bin',
      HOME: '',
      NODE_OPTIONS: '',
      npm_config_pool_fee: '1',
    },
  });
});

test('every default is written in the grammar of its setting', () => {
  for (const setting of Object.values(SETTINGS) as Setting<unknown>[]) {
    if (setting.default === null) assert.ok(setting.absent, setting.env);
    else assert.ok(setting.kind.parse(setting.default).ok, setting.env);
    assert.match(setting.env, /^[A-Z][A-Z0-9_]+$/);
    assert.match(setting.key, /^[a-z0-9_]+(\.[a-z0-9_]+)*$/);
    assert.match(setting.description, /\.$/);
  }
  for (const part of ['env', 'key'] as const) {
    const names = (Object.values(SETTINGS) as Setting<unknown>[]).map((setting) => setting[part]);
    assert.equal(new Set(names).size, names.length, part);
  }
});

test('every setting changes something, by flag and by environment alike', () => {
  const paid = { ...whole, PAYOUT_WALLET: 'w' };
  const base = JSON.stringify(good({ env: paid }).config, plain);
  const files = { '/srv/pool/cookie': bytesOf('a:b') };
  const other: Record<string, string> = {
    network: 'regtest2',
    coinType: '',
    poolAddress: second,
    payoutMode: 'prop',
    poolFee: '2',
    poolTag: 'x',
    versionMask: '00ffe000',
    dataDir: 'x',
    serviceName: 'x',
    instanceId: '1',
    rpcHost: 'x',
    rpcPort: '1',
    rpcUrl: '',
    rpcUser: 'x',
    rpcPassword: 'x',
    rpcCookieFile: 'cookie',
    zmq: 'off',
    moreNodes: '10.0.0.9',
    pollInterval: '200ms',
    jobRefresh: '10s',
    jobFeeRiseSats: '1',
    jobFeeRisePercent: '2',
    jobTimeout: '10m',
    listenAddr: '127.0.0.1',
    listenPort: '1',
    morePorts: '2',
    tlsMode: 'off',
    tlsEnabled: 'false',
    proxyTrusted: '10.0.0.0/8',
    maxConnections: '5',
    maxPerAddress: '5',
    maxPerNetwork: '5',
    allowList: '10.0.0.1',
    readTimeout: '5s',
    writeTimeout: '5s',
    idleTimeout: '5m',
    maxMessageSize: '4096',
    submitsPerSecond: '10',
    submitBurst: '100',
    minDifficulty: '1',
    maxDifficulty: '2000',
    initialDifficulty: '5',
    vardiffTarget: '5s',
    vardiffRetarget: '100s',
    vardiffVariance: '50',
    ackMode: 'memory',
    journalMax: '32MiB',
    databaseUrl: 'postgres://h/d',
    databaseInsecure: '',
    apiEnabled: 'false',
    apiAddr: '127.0.0.1',
    apiPort: '1',
    metricsEnabled: 'false',
    metricsAddr: '0.0.0.0',
    metricsPort: '1',
    metricsWorkers: '1',
    logLevel: 'debug',
    logFormat: 'text',
    logOutput: '',
    logFile: 'x',
    devBlockTime: '1s',
    tlsCertFile: '',
    tlsKeyFile: '',
    feeAddress: second,
    developerFee: '1',
    developerAddress: second,
    windowFactor: '3',
    windowDays: '3',
    ruinMax: '2',
    onRuin: 'downgrade',
    morePools: 'other',
    shareRetention: '91',
    spanRetention: '1000',
    payoutWallet: 'other',
    payoutSigning: 'cold',
    payoutMinimum: '0.5 BTC',
    payoutSchedule: 'daily 03:00',
    payoutFeePolicy: 'miner',
    payoutFeeRateMax: '50',
    payoutFeeMax: '1',
    payoutConfirmTarget: '2',
    payoutOutputsMax: '100',
    payoutTransactionMax: '9 BTC',
    payoutDailyMax: '49 BTC',
    payoutConfirmations: '7',
    payoutMaturity: '120',
    payoutBumpAfter: '1h',
    kafkaBrokers: 'a,b:9093',
    kafkaGroup: 'other',
    kafkaTls: 'on',
    kafkaCaFile: '',
    kafkaCertFile: '',
    kafkaKeyFile: '',
    kafkaMechanism: '',
    kafkaUsername: '',
    kafkaPassword: '',
    redisUrl: 'redis://h',
    influxUrl: 'http://h:8086',
    influxToken: 'x',
    influxOrg: 'x',
    influxBucket: 'x',
    influxDialect: '2',
  };
  // What only services read is tried on the one that needs most of it.
  const stack = {
    ...paid,
    KAFKA_BROKERS: 'k',
    INFLUX_URL: 'http://i',
    DATABASE_URL: 'postgres://h/e',
  };
  const stackBase = JSON.stringify(good({ env: stack, service: 'statsd' }).config, plain);
  for (const [name, setting] of Object.entries(SETTINGS) as [string, Setting<unknown>][]) {
    const value = other[name];
    assert.notEqual(value, undefined, `${name} has no other value here`);
    // Those that only allow, refuse or need a partner have tests of their own.
    if (value === '') continue;
    const service = setting.stack ? 'statsd' : null;
    const env: Record<string, string> = { ...(service ? stack : paid), [setting.env]: value! };
    if (name === 'network') env.NETWORK = 'testnet4';
    if (name === 'developerFee') env.DEVELOPER_ADDRESS = second;
    const answer = read({ env, files, service });
    const text = answer.ok ? JSON.stringify(answer.config, plain) : answer.errors.join();
    assert.notEqual(text, service ? stackBase : base, `${setting.env} changes nothing`);
    if (!setting.secret && answer.ok) {
      const { [setting.env]: _, ...rest } = env;
      const byFlag = read({
        env: rest,
        argv: [flagOf(setting), env[setting.env]!],
        files,
        service,
      });
      assert.ok(byFlag.ok, flagOf(setting));
      assert.equal(JSON.stringify(byFlag.config, plain), text, flagOf(setting));
    }
  }
});

test('the log is told every secret', () => {
  const { config } = good({
    env: { ...whole, DATABASE_URL: 'postgres://pool:canary%2Fdb@localhost/pool' },
  });
  assert.deepEqual(secretsOf(config), ['canary-rpc', 'canary%2Fdb', 'canary/db']);
  assert.deepEqual(secretsOf(good({}).config), []);
});

test('a log file is used when it is named', () => {
  assert.equal(
    good({ env: { LOG_OUTPUT: 'file', LOG_FILE: 'a.log' } }).config.log.file,
    '/srv/pool/a.log',
  );
  assert.equal(good({ env: { LOG_OUTPUT: 'stdout', LOG_FILE: 'a.log' } }).config.log.file, null);
  assert.match(errorsOf({ env: { LOG_OUTPUT: 'file' } }), /LOG_FILE does not name one/);
});

test('a file with a secret that others can read is warned about', () => {
  const answer = readConfig({
    argv: ['--config', '/etc/pool.yaml'],
    env: {},
    readFile: () => bytesOf('storage: { database_url: "postgres://a:b@localhost/c" }', true),
  });
  assert.ok(answer.ok);
  assert.match(answer.warnings.join(), /chmod 600/);
});

test('the config can be posted to a thread and not be changed', () => {
  const { config } = good({ env: whole });
  assert.deepEqual(structuredClone(config), config);
  assert.throws(() => {
    (config as { network: string }).network = 'mainnet';
  }, TypeError);
});

const folder = mkdtempSync(join(tmpdir(), 'headframe-config-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('only regular files are read, and a FIFO does not make us wait', () => {
  writeFileSync(join(folder, 'a.yaml'), 'network: regtest\n');
  symlinkSync(join(folder, 'a.yaml'), join(folder, 'link.yaml'));
  execFileSync('mkfifo', [join(folder, 'fifo')]);
  assert.equal(readLocalFile(join(folder, 'a.yaml'), 1024).kind, 'bytes');
  assert.equal(readLocalFile(join(folder, 'link.yaml'), 1024).kind, 'bytes');
  assert.equal(readLocalFile(join(folder, 'none'), 1024).kind, 'missing');
  assert.deepEqual(readLocalFile(folder, 1024), { kind: 'refused', reason: 'is a folder' });
  assert.deepEqual(readLocalFile(join(folder, 'fifo'), 1024), {
    kind: 'refused',
    reason: 'is not a regular file',
  });
  assert.deepEqual(readLocalFile('/dev/zero', 1024), {
    kind: 'refused',
    reason: 'is not a regular file',
  });
  assert.equal(readLocalFile(join(folder, 'a.yaml'), 4).kind, 'refused');
});

function plain(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  return value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value;
}

/** Everything that the services of one pool are started with. */
const served = {
  ...whole,
  KAFKA_BROKERS: 'kafka1,kafka2:9093',
  DATABASE_URL: 'postgres://pool:canary%2Fdb@localhost/pool',
  REDIS_URL: 'redis://:canary%2Fredis@r',
  INFLUX_URL: 'http://i:8086',
  INFLUX_TOKEN: 'canary-user:canary-token',
};

test('every service starts with the settings of all, and keeps what is its own', () => {
  for (const service of Object.keys(SERVICES) as ServiceName[]) {
    const { config, warnings } = good({ env: { ...served, INSTANCE_ID: '3' }, service });
    assert.deepEqual(config.stack, {
      service,
      kafka: {
        brokers: ['kafka1:9092', 'kafka2:9093'],
        groupPrefix: 'headframe',
        security: { tls: null, sasl: null },
      },
      redisUrl: served.REDIS_URL,
      influx: {
        url: 'http://i:8086/',
        token: 'canary-user:canary-token',
        org: 'headframe',
        bucket: 'mining',
        dialect: 'auto',
      },
    });
    assert.equal(config.serviceName, service);
    assert.equal(config.instance.gateway, `${service}-3`);
    assert.equal(config.dataDir, `/srv/pool/data/regtest/${service}-3`);
    assert.equal(config.api !== null, service === 'apiserver');
    assert.deepEqual(
      warnings,
      service === 'payoutd'
        ? [
            'PAYOUT_WALLET is not set: what miners earn is booked in the ledger, and nothing is paid out.',
          ]
        : [],
    );
    assert.deepEqual(secretsOf(config), [
      'canary-rpc',
      'canary-user:canary-token',
      'canary-token',
      'canary%2Fdb',
      'canary/db',
      'canary%2Fredis',
      'canary/redis',
    ]);
    assert.doesNotMatch(JSON.stringify(describeConfig(config), plain), /canary/);
  }
});

test('Kafka over TLS and with a password: whole or not at all', async () => {
  const ca = await generate([{ name: 'commonName', value: 'a' }], { algorithm: 'sha256' });
  const files = {
    '/srv/pool/ca.pem': bytesOf(ca.cert),
    '/srv/pool/key.pem': bytesOf(ca.private),
    '/srv/pool/junk.pem': bytesOf('junk'),
  };
  const of = (env: Record<string, string>) => ({
    env: { ...served, ...env },
    files,
    service: 'shareproc' as const,
  });
  const user = { KAFKA_USERNAME: 'pool', KAFKA_PASSWORD: 'canary-kafka' };
  const scram = { ...user, KAFKA_SASL_MECHANISM: 'SCRAM-SHA-512' };
  const tls = { KAFKA_TLS: 'on', KAFKA_TLS_CA_FILE: 'ca.pem' };

  const { config, warnings } = good(
    of({ ...tls, ...scram, KAFKA_TLS_CERT_FILE: 'ca.pem', KAFKA_TLS_KEY_FILE: 'key.pem' }),
  );
  assert.deepEqual(config.stack!.kafka.security, {
    tls: {
      caFile: '/srv/pool/ca.pem',
      client: { certFile: '/srv/pool/ca.pem', keyFile: '/srv/pool/key.pem' },
    },
    sasl: { mechanism: 'SCRAM-SHA-512', username: 'pool', password: 'canary-kafka' },
  });
  assert.deepEqual(warnings, []);
  assert.ok(secretsOf(config).includes('canary-kafka'));
  assert.doesNotMatch(JSON.stringify(describeConfig(config), plain), /canary/);

  for (const [env, words] of [
    [{ KAFKA_TLS_CA_FILE: 'ca.pem' }, /has no effect while KAFKA_TLS is off/],
    [{ ...tls, KAFKA_TLS_KEY_FILE: 'key.pem' }, /KAFKA_TLS_CERT_FILE is missing/],
    [{ ...tls, KAFKA_TLS_CERT_FILE: 'ca.pem' }, /KAFKA_TLS_KEY_FILE is missing/],
    [{ KAFKA_TLS: 'on', KAFKA_TLS_CA_FILE: 'none.pem' }, /does not exist/],
    [{ KAFKA_TLS: 'on', KAFKA_TLS_CA_FILE: 'junk.pem' }, /holds no certificate/],
    [user, /KAFKA_SASL_MECHANISM is missing/],
    [{ ...scram, KAFKA_PASSWORD: '' }, /KAFKA_PASSWORD is empty/],
    [{ KAFKA_SASL_MECHANISM: 'PLAIN' }, /KAFKA_USERNAME and KAFKA_PASSWORD are missing/],
    [{ KAFKA_SASL_MECHANISM: 'GSSAPI' }, /is not one of PLAIN/],
    [{ KAFKA_TLS: 'maybe' }, /is not one of off, on/],
  ] as [Record<string, string>, RegExp][]) {
    const said = errorsOf(of(env)).split('\n');
    assert.match(said[0]!, words);
    assert.equal(said.length, env.KAFKA_PASSWORD === '' ? 2 : 1, said.join('\n'));
    assert.doesNotMatch(said.join(), /canary/);
  }

  const plainUser = { ...user, KAFKA_SASL_MECHANISM: 'PLAIN' };
  const warned = (env: Record<string, string>) =>
    good(of({ ...plainUser, ...env })).warnings.join();
  assert.match(warned({}), /the password goes to kafka1:9092 where everybody/);
  assert.equal(warned(tls), '');
  assert.equal(warned({ KAFKA_BROKERS: 'localhost,127.0.0.1:9093,[::1]:9094' }), '');
});

test('each service says in one line what it lacks', () => {
  const lacking = { NETWORK: 'regtest', PAYOUT_MODE: 'solo' };
  const lines = (service: ServiceName) => errorsOf({ env: lacking, service }).split('\n');
  for (const service of Object.keys(SERVICES) as ServiceName[]) {
    const said = lines(service);
    assert.equal(said.length, 1 + SERVICES[service].needs.filter((n) => n !== 'pools').length);
    assert.match(said[0]!, /^KAFKA_BROKERS is not set: /);
  }
});
