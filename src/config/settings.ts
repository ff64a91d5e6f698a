/**
 * Every setting there is, once. The configuration reader, `--help`, `docs/configuration.md` and the tests are made from
 * this table, so a setting that is not here does not exist, and one that is here is read by `src/config.ts`.
 *
 * A setting has one name in three spellings: `LISTEN_PORT` in the environment, `--listen-port` as a flag (the same in lower
 * case with dashes), and a path in the YAML file. Names and defaults are those of the founding documents; a default that
 * differs says why in `note`.
 */

import {
  amount,
  boolean,
  brokers,
  choice,
  decimal,
  duration,
  factor,
  hex32,
  host,
  httpUrl,
  integer,
  ipRanges,
  type Kind,
  kafkaName,
  listenAddress,
  path,
  percent,
  poolId,
  postgresUrl,
  printable,
  records,
  redisUrl,
  schedule,
  size,
  text,
  zmqAddresses,
} from './grammar.ts';

export type Setting<T> = {
  env: string;
  /** Path in the YAML file, parts separated by dots. */
  key: string;
  kind: Kind<T>;
  /** As the operator would write it; null when there is none. */
  default: string | null;
  /** What happens without a value, for the documentation, when `default` is null. */
  absent?: string;
  /** Never printed, never accepted as a flag. */
  secret?: true;
  /** Read by the services over Kafka only. Everything else warns that it is not read, and does not look at the value. */
  stack?: true;
  /** Another name of the founding documents for the same thing. */
  also?: string;
  description: string;
  note?: string;
};

type Rest<T> = Omit<Setting<T>, 'env' | 'key' | 'kind' | 'default' | 'absent'>;

/** A setting that always has a value. The phantom type keeps `null` out of its readers' way. */
type Always<T> = Setting<T> & { readonly value?: T };
type Perhaps<T> = Setting<T> & { readonly value?: T | null };

function always<T>(
  env: string,
  key: string,
  kind: Kind<T>,
  fallback: string,
  rest: Rest<T>,
): Always<T> {
  return { env, key, kind, default: fallback, ...rest };
}

function perhaps<T>(
  env: string,
  key: string,
  kind: Kind<T>,
  absent: string,
  rest: Rest<T>,
): Perhaps<T> {
  return { env, key, kind, default: null, absent, ...rest };
}

const port = integer(1, 65_535);
const difficulty = decimal(1e-9, 1e15);
const address = text(120, 'Bitcoin address of the network');
const schemes = choice(['pplns', 'prop', 'pps', 'fpps', 'solo', 'direct', 'pool']);
const windowFactor = factor('0.01', '1000');
const windowDays = integer(1, 3_650);
const onRuin = choice(['refuse', 'downgrade']);
const tlsModes = choice(['auto', 'off', 'only']);

/** In the order of the documentation. */
export const SETTINGS = {
  // What is mined
  network: perhaps(
    'NETWORK',
    'network',
    choice(['mainnet', 'testnet3', 'testnet4', 'signet', 'regtest'], {
      main: 'mainnet',
      bitcoin: 'mainnet',
      testnet: 'testnet3',
    }),
    'mainnet; with no node configured, regtest',
    { description: 'The chain. The node must be on it: its genesis block is compared.' },
  ),
  coinType: always('COIN_TYPE', 'mining.coin_type', choice(['bitcoin']), 'bitcoin', {
    description: 'The coin. Only Bitcoin can be mined.',
  }),
  poolTag: always('POOL_TAG', 'mining.pool_tag', printable(40), '/headframe/', {
    description: 'Text in the coinbase of every block.',
  }),
  versionMask: always('VERSION_MASK', 'mining.version_mask', hex32(), '1fffe000', {
    description: 'Version bits that miners may roll (BIP320). Other bits are never offered.',
  }),
  dataDir: always('DATA_DIR', 'data_dir', path(), 'data', {
    description:
      'Folder for the journal, blocks, certificate and private database. Each network has its own folder in it.',
  }),
  serviceName: always('SERVICE_NAME', 'service_name', printable(64), 'headframe', {
    description: 'Name of this process in logs and share records.',
    note: 'Founding default: gomp.',
  }),
  instanceId: perhaps(
    'INSTANCE_ID',
    'instance_id',
    integer(0, 255),
    'the only process that hands out work for these miners',
    {
      description:
        'Number of this process when several serve one pool. It becomes the first byte of every extranonce1, so that no two processes hand out the same work.',
    },
  ),

  // How blocks are shared out
  payoutMode: always('PAYOUT_MODE', 'mining.payout_mode', schemes, 'pplns', {
    description:
      'How blocks are shared out. pplns, prop, pps, fpps: blocks pay POOL_ADDRESS, what miners earn is booked in the ledger and paid out from a wallet. solo: a block pays its finder. direct: PPLNS paid by the coinbase itself, so that the pool holds nothing. pool: blocks pay POOL_ADDRESS, and shares are only recorded.',
  }),
  poolAddress: perhaps(
    'POOL_ADDRESS',
    'mining.pool_address',
    address,
    'needed with a node, unless PAYOUT_MODE is solo or direct; the development chain makes its own',
    {
      description:
        'Where blocks are paid to in every mode but solo and direct. Payouts need it to be an address of the wallet.',
    },
  ),
  poolFee: perhaps(
    'POOL_FEE_PERCENT',
    'mining.fee_percent',
    percent(),
    '1; 0 in mode pool, and in modes solo and direct when there is no address to pay it to',
    {
      description:
        'What the operator keeps of a block or, in modes pps and fpps, of each share. Kept as parts per million; an account may have another.',
    },
  ),
  feeAddress: perhaps(
    'FEE_ADDRESS',
    'mining.fee_address',
    address,
    'booked as the operator’s; in modes solo and direct, paid to POOL_ADDRESS',
    {
      description:
        'Who gets the fee: booked to this address, or in modes solo and direct paid to it by the coinbase.',
    },
  ),
  developerFee: always('DEVELOPER_FEE_PERCENT', 'mining.developer_fee_percent', percent(), '0', {
    description:
      'What goes to DEVELOPER_ADDRESS beside the fee, in modes pplns, prop, pps and fpps. Nothing unless you say so.',
  }),
  developerAddress: perhaps('DEVELOPER_ADDRESS', 'mining.developer_address', address, 'none', {
    description: 'Whom the developer fee and the donations of accounts are booked to.',
  }),
  windowFactor: perhaps('PPLNS_WINDOW_FACTOR', 'mining.pplns_window_factor', windowFactor, '2.0', {
    description:
      'How much work a PPLNS window holds, as a multiple of the network’s difficulty at the find.',
  }),
  windowDays: perhaps(
    'PPLNS_WINDOW_DAYS',
    'mining.pplns_window_days',
    windowDays,
    'the window is measured in work',
    { description: 'The window as days before the find, instead of an amount of work.' },
  ),
  ruinMax: always('PPS_RUIN_PERCENT_MAX', 'mining.pps_ruin_percent_max', percent(), '1', {
    description:
      'Modes pps and fpps pay for shares whether blocks are found or not. This is the greatest chance of ruin that is accepted, computed from fee, reserve and what a block pays.',
  }),
  onRuin: always('PPS_ON_RUIN', 'mining.pps_on_ruin', onRuin, 'refuse', {
    description:
      'Beyond that chance: refuse, no shares are credited and an alarm is raised; downgrade, shares from then on are paid as in mode pplns, and the change is recorded.',
  }),
  morePools: perhaps(
    'POOLS',
    'pools',
    records('id', {
      id: { kind: poolId() },
      scheme: { kind: schemes },
      fee: { kind: percent() },
      fee_address: { kind: address },
      window_factor: { kind: windowFactor },
      window_days: { kind: windowDays },
      address: { kind: address },
      ruin_max: { kind: percent() },
      on_ruin: { kind: onRuin },
    }),
    'one pool, called main',
    {
      description:
        'Further pools beside main, such as solo;scheme=solo;fee=0.5. What is not given is as above. A port of LISTEN_PORTS names the pool it serves.',
    },
  ),

  // Payouts
  payoutWallet: perhaps(
    'PAYOUT_WALLET',
    'payout.wallet',
    printable(64),
    'nothing is paid out; on the development chain, its own wallet',
    {
      description:
        'Name of the wallet at the first node from which miners are paid. POOL_ADDRESS should be one of its addresses.',
    },
  ),
  payoutSigning: always('PAYOUT_SIGNING', 'payout.signing', choice(['hot', 'cold']), 'hot', {
    description:
      'hot: the wallet signs. cold: an unsigned PSBT is exported, signed elsewhere and imported.',
  }),
  payoutMinimum: perhaps(
    'PAYOUT_MINIMUM',
    'payout.minimum',
    amount('1 sat', '21000000 BTC'),
    '0.001 BTC; 0.01 BTC on the development chain',
    {
      description:
        'An account is paid when it has so much. It may ask for more, never for less. At least 546 sat, below which the network takes no output.',
    },
  ),
  payoutSchedule: perhaps(
    'PAYOUT_SCHEDULE',
    'payout.schedule',
    schedule('10s', '31d'),
    'every 1h; every 1m on the development chain',
    { description: 'When payouts are made.' },
  ),
  payoutFeePolicy: always(
    'PAYOUT_FEE_POLICY',
    'payout.fee_policy',
    choice(['pool', 'miner']),
    'pool',
    { description: 'Who bears the network’s fee of a payout.' },
  ),
  payoutFeeRateMax: always(
    'PAYOUT_FEE_RATE_MAX',
    'payout.fee_rate_max',
    decimal(1, 10_000),
    '100',
    {
      description: 'Highest fee rate of a payout, in satoshi per virtual byte.',
    },
  ),
  payoutFeeMax: always('PAYOUT_FEE_PERCENT_MAX', 'payout.fee_percent_max', percent(), '2', {
    description: 'Highest fee of a payout, as part of what it pays.',
  }),
  payoutConfirmTarget: always(
    'PAYOUT_CONFIRM_TARGET',
    'payout.confirm_target',
    integer(1, 1008),
    '36',
    { description: 'Blocks within which a payout should confirm; the node estimates the fee.' },
  ),
  payoutOutputsMax: always('PAYOUT_OUTPUTS_MAX', 'payout.outputs_max', integer(1, 500), '200', {
    description: 'Accounts paid by one transaction.',
  }),
  payoutTransactionMax: perhaps(
    'PAYOUT_TRANSACTION_MAX',
    'payout.transaction_max',
    amount('1 sat', '21000000 BTC'),
    '10 BTC, or PAYOUT_DAILY_MAX where that is less; 21000000 BTC on regtest',
    { description: 'What one transaction pays at most.' },
  ),
  payoutDailyMax: perhaps(
    'PAYOUT_DAILY_MAX',
    'payout.daily_max',
    amount('1 sat', '21000000 BTC'),
    '50 BTC, or PAYOUT_TRANSACTION_MAX where that is more; 21000000 BTC on regtest',
    { description: 'What is paid in any 24 hours at most.' },
  ),
  payoutConfirmations: always(
    'PAYOUT_CONFIRMATIONS',
    'payout.confirmations',
    integer(1, 100),
    '6',
    {
      description: 'Depth at which a payout is settled. Until then it is watched, and sent again.',
    },
  ),
  payoutMaturity: always('PAYOUT_MATURITY', 'payout.maturity', integer(101, 1_000), '101', {
    description:
      'Depth at which a block’s reward may be paid out. Bitcoin itself allows it 100 blocks later.',
  }),
  payoutBumpAfter: perhaps(
    'PAYOUT_BUMP_AFTER',
    'payout.bump_after',
    duration('1m', '14d'),
    '6h; 10m on the development chain',
    { description: 'A payout that is unconfirmed for so long gets a higher fee.' },
  ),

  // The nodes
  rpcHost: perhaps(
    'BITCOIN_RPC_HOST',
    'node.host',
    host(),
    'localhost when any other node setting is given',
    {
      description:
        'Host of the Bitcoin node. With no node setting at all, the development chain is started.',
    },
  ),
  rpcPort: perhaps(
    'BITCOIN_RPC_PORT',
    'node.port',
    port,
    "the network's own: 8332, 18332, 48332, 38332, 18443",
    {
      description: 'RPC port of the node.',
    },
  ),
  rpcUrl: perhaps('BITCOIN_RPC_URL', 'node.rpc_url', httpUrl(), 'made of host and port', {
    description: 'RPC address of the node as one URL, instead of host and port.',
  }),
  rpcUser: perhaps('BITCOIN_RPC_USER', 'node.rpc_user', text(256), 'none', {
    description: 'RPC user.',
  }),
  rpcPassword: perhaps('BITCOIN_RPC_PASSWORD', 'node.rpc_password', text(256), 'none', {
    secret: true,
    description: 'RPC password.',
  }),
  rpcCookieFile: perhaps('BITCOIN_RPC_COOKIE_FILE', 'node.cookie_file', path(), 'none', {
    description:
      "The node's .cookie file, instead of user and password. Read again when the node has written a new one.",
  }),
  zmq: perhaps('BITCOIN_ZMQ_ADDR', 'node.zmq', zmqAddresses(), "port 28332 of the node's host", {
    description:
      'Where the node publishes hashblock, rawblock or sequence. Without it, or when it is silent, a new block is noticed by asking, within 1.5 s.',
  }),
  moreNodes: perhaps(
    'BITCOIN_NODES',
    'nodes',
    records('rpc_url', {
      rpc_url: { kind: nodeAddress() },
      name: { kind: printable(32) },
      rpc_user: { kind: text(256) },
      rpc_password: { kind: text(256), secret: true },
      cookie_file: { kind: path() },
      zmq: { kind: zmqAddresses() },
    }),
    'one node',
    {
      description:
        'Further nodes, in the order in which they are preferred. Blocks go to all of them at once; templates come from the best. User, password and cookie file are those of the first node where not given.',
    },
  ),
  pollInterval: always('NODE_POLL_INTERVAL', 'node.poll_interval', duration('100ms', '1s'), '1s', {
    description: 'How often the node is asked for its best block, beside ZMQ and long-poll.',
  }),

  // Jobs
  jobRefresh: always('JOB_REFRESH', 'mining.job_refresh', duration('1s', '2m'), '30s', {
    description: 'Miners get a job with fresh transactions at least this often.',
  }),
  jobFeeRiseSats: always(
    'JOB_FEE_RISE_SATS',
    'mining.job_fee_rise_sats',
    integer(0, 100_000_000_000),
    '1000000',
    {
      description:
        'Miners get a new job as soon as the fees in it have risen by so many satoshi. 0: never for this reason.',
    },
  ),
  jobFeeRisePercent: always('JOB_FEE_RISE_PERCENT', 'mining.job_fee_rise_percent', percent(), '1', {
    description: 'The same, as part of what the whole block pays. 0: never for this reason.',
  }),
  jobTimeout: always('JOB_TIMEOUT', 'mining.job_timeout', duration('5m', '1h'), '5m', {
    description:
      'A share for a job of the current block is credited at least this long after the job was made.',
    note: 'Founding default 120s: miners behind proxies are slower than that. Stale is what a new block makes stale.',
  }),

  // Stratum
  listenAddr: always('LISTEN_ADDR', 'server.host', listenAddress(), '0.0.0.0', {
    description: 'Interface on which miners are served.',
  }),
  listenPort: always('LISTEN_PORT', 'server.port', port, '3333', {
    description:
      'Port on which miners are served: plain Stratum and TLS on the same port, told apart by the first byte.',
  }),
  morePorts: perhaps(
    'LISTEN_PORTS',
    'server.ports',
    records('port', {
      port: { kind: port },
      host: { kind: listenAddress() },
      difficulty: { kind: difficulty },
      min: { kind: difficulty },
      max: { kind: difficulty },
      tls: { kind: tlsModes },
      vardiff: { kind: boolean() },
      pool: { kind: poolId() },
    }),
    'one port',
    {
      description:
        'Further ports with a starting difficulty and limits of their own, such as 3334;difficulty=65536;min=1024 or 3335;pool=solo. What is not given is as on the first port, which serves the pool main.',
    },
  ),
  tlsMode: perhaps('TLS_MODE', 'server.tls.mode', tlsModes, 'auto', {
    description: 'auto: both plain and TLS. off: plain only. only: TLS only.',
  }),
  tlsEnabled: perhaps('TLS_ENABLED', 'server.tls.enabled', boolean(), 'true', {
    description: 'true is TLS_MODE=auto, false is TLS_MODE=off.',
    note: 'Founding default: false. Here TLS needs no set-up, and the port serves plain Stratum all the same.',
  }),
  tlsCertFile: perhaps(
    'TLS_CERT_FILE',
    'server.tls.cert_file',
    path(),
    'a certificate of its own, made once',
    {
      description: 'Certificate chain, PEM. Read again when it changes and on SIGHUP.',
    },
  ),
  tlsKeyFile: perhaps('TLS_KEY_FILE', 'server.tls.key_file', path(), 'as above', {
    description: 'Private key, PEM, without a passphrase.',
  }),
  proxyTrusted: always('PROXY_TRUSTED', 'server.proxy_trusted', ipRanges(), 'none', {
    description:
      "Load balancers whose PROXY protocol header (v1 or v2) is believed. Anybody else's closes the connection.",
  }),
  maxConnections: always(
    'MAX_CONNECTIONS',
    'server.max_connections',
    integer(1, 1_000_000),
    '10000',
    {
      description:
        'Miners served at once, all ports together. Lowered, with a warning, when the operating system allows fewer files.',
    },
  ),
  maxPerAddress: always(
    'MAX_CONNECTIONS_PER_IP',
    'server.max_connections_per_ip',
    integer(1, 1_000_000),
    '256',
    {
      description: 'Of these from one IPv4 address or one IPv6 /64.',
    },
  ),
  maxPerNetwork: always(
    'MAX_CONNECTIONS_PER_NETWORK',
    'server.max_connections_per_network',
    integer(1, 1_000_000),
    '1024',
    {
      description: 'Of these from one IPv4 /24 or one IPv6 /48.',
    },
  ),
  allowList: always('ALLOW_LIST', 'server.allow_list', ipRanges(), 'none', {
    description:
      'Farms and proxies for which only the total limit holds, and which are never banned. This machine is always among them.',
  }),
  readTimeout: always('READ_TIMEOUT', 'server.read_timeout', duration('1s', '10m'), '30s', {
    description: 'A new miner must have subscribed and authorized by then.',
  }),
  writeTimeout: always('WRITE_TIMEOUT', 'server.write_timeout', duration('1s', '10m'), '10s', {
    description: 'A miner that does not take what is sent to it is cut off after this.',
    note: 'Founding default 30s: a reader that never reads is better dropped before it has missed a block.',
  }),
  idleTimeout: always('IDLE_TIMEOUT', 'server.idle_timeout', duration('1m', '1d'), '15m', {
    description: 'A miner from which nothing has come for so long is cut off.',
    note: 'Founding default 120s: that cuts off honest small miners, which may need longer for one share.',
  }),
  maxMessageSize: always(
    'MAX_MESSAGE_SIZE',
    'server.max_message_size',
    size('1KiB', '15KiB'),
    '8KiB',
    {
      description: 'Longest line from a miner that has authorized; before, a quarter of it.',
      note: 'Founding default 4096: proxies with long names and answers need more.',
    },
  ),
  submitsPerSecond: always(
    'SUBMITS_PER_SECOND',
    'mining.submits_per_second',
    integer(1, 100_000),
    '20',
    {
      description:
        'Shares of one session that are credited, in the long run. What is more is answered with an error. A block is never lost to this.',
    },
  ),
  submitBurst: always('SUBMIT_BURST', 'mining.submit_burst', integer(1, 1_000_000), '200', {
    description: 'The same in one burst.',
  }),

  // Difficulty
  minDifficulty: always('MIN_DIFFICULTY', 'mining.min_difficulty', difficulty, '0.001', {
    description: 'Lowest share difficulty.',
    note: 'The default is the Stratum server document’s. GOMP’s 1.0 is one share in 24 hours for an ESP32 at 50 kH/s; 0.001 is one in 86 seconds.',
  }),
  maxDifficulty: always('MAX_DIFFICULTY', 'mining.max_difficulty', difficulty, '1000000000000', {
    description:
      'Highest share difficulty. The difficulty of the network is always a further bound.',
    note: 'Founding default 1000000: a proxy above 15 PH/s would send more shares than SUBMITS_PER_SECOND takes.',
  }),
  initialDifficulty: always('INITIAL_DIFFICULTY', 'mining.initial_difficulty', difficulty, '1024', {
    description: 'Difficulty of a miner that is not known yet.',
    note: 'Founding default 1.0: right for nobody. 1024 is right for a Bitaxe; an ESP32 is reached by four steps down in two minutes, a 100 TH/s machine by one step up.',
  }),
  vardiffTarget: always(
    'VARDIFF_TARGET',
    'mining.target_share_time',
    duration('500ms', '10m'),
    '6s',
    {
      description: 'Wanted time between two shares of a miner.',
      note: 'Founding defaults 30s and 10s: 6s gives 600 shares an hour, which shows a hashrate to 8 percent.',
    },
  ),
  vardiffRetarget: always(
    'VARDIFF_RETARGET',
    'mining.retarget_time',
    duration('1s', '1h'),
    '240s',
    {
      description:
        'Time over which a steady miner is looked at before its difficulty changes. Far too fast and silent miners are corrected at once.',
      note: 'Founding default 90s: at one share in 30 s that is three shares, which tell nothing. ckpool looks at 240 s too.',
    },
  ),
  vardiffVariance: always(
    'VARDIFF_VARIANCE_PERCENT',
    'mining.variance_percent',
    decimal(10, 400),
    '100',
    {
      description:
        'A miner whose pace is off by less than this keeps its difficulty: 100 means between half and twice the wanted pace.',
      note: 'Founding default 30: forty shares are off by that much by chance every seventeenth time.',
    },
  ),

  // Storage
  ackMode: always('ACK_MODE', 'storage.ack_mode', choice(['disk', 'memory']), 'disk', {
    description:
      'disk: a share is answered once it is synced to disk. memory: answered at once; the last moments are lost when the machine dies.',
  }),
  journalMax: always('JOURNAL_MAX', 'storage.journal_max', size('16MiB', '64GiB'), '256MiB', {
    description:
      'Shares that may wait on disk for the database. Above it shares are refused; blocks never are.',
  }),
  shareRetention: always(
    'SHARE_RETENTION_DAYS',
    'storage.share_retention_days',
    integer(1, 3_650),
    '90',
    {
      description:
        'Each share is kept for so many days; after that only sums of many shares, by account.',
    },
  ),
  spanRetention: always(
    'SPAN_RETENTION_DAYS',
    'storage.span_retention_days',
    integer(1, 36_500),
    '1100',
    { description: 'The sums are kept for so many days. Rounds and the ledger are kept for ever.' },
  ),
  databaseUrl: perhaps(
    'DATABASE_URL',
    'storage.database_url',
    postgresUrl(),
    'a private PostgreSQL in DATA_DIR',
    {
      secret: true,
      also: 'POSTGRES_URL',
      description: 'PostgreSQL 15 or later to use instead of the private one.',
    },
  ),
  databaseInsecure: always(
    'DATABASE_ALLOW_INSECURE',
    'storage.database_allow_insecure',
    boolean(),
    'false',
    {
      description: 'Allows sslmode=disable to a database on another machine.',
    },
  ),

  // Services over Kafka
  kafkaBrokers: perhaps('KAFKA_BROKERS', 'kafka.brokers', brokers(), 'none', {
    stack: true,
    description:
      'Kafka, through which the services hand each other everything; each of them needs it. One broker leads to the others.',
    note: 'Founding default localhost:9092.',
  }),
  kafkaGroup: always('KAFKA_GROUP_ID', 'kafka.group_id', kafkaName(), 'headframe', {
    stack: true,
    description:
      'How the names of our consumer groups begin. All services of a pool must agree; two pools must not share brokers.',
    note: 'Founding default gomp.',
  }),
  kafkaTls: always(
    'KAFKA_TLS',
    'kafka.tls.mode',
    choice(['off', 'on'], { true: 'on', false: 'off' }),
    'off',
    {
      stack: true,
      description: 'on: connections to Kafka are encrypted, and its certificate is checked.',
    },
  ),
  kafkaCaFile: perhaps('KAFKA_TLS_CA_FILE', 'kafka.tls.ca_file', path(), 'those that Node trusts', {
    stack: true,
    description:
      'Certificates, PEM, of those who may sign that of a broker. This file and the next two are read again for every connection.',
  }),
  kafkaCertFile: perhaps('KAFKA_TLS_CERT_FILE', 'kafka.tls.cert_file', path(), 'none', {
    stack: true,
    description: 'Certificate of ours, PEM, for a Kafka that wants to see one.',
  }),
  kafkaKeyFile: perhaps('KAFKA_TLS_KEY_FILE', 'kafka.tls.key_file', path(), 'none', {
    stack: true,
    description: 'Its private key, PEM, without a passphrase.',
  }),
  kafkaMechanism: perhaps(
    'KAFKA_SASL_MECHANISM',
    'kafka.sasl_mechanism',
    choice(['PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512']),
    'Kafka is not told who we are, but by a certificate',
    {
      stack: true,
      description:
        'How user and password are shown to Kafka. PLAIN sends the password as it is: only with KAFKA_TLS.',
    },
  ),
  kafkaUsername: perhaps('KAFKA_USERNAME', 'kafka.username', text(256), 'none', {
    stack: true,
    description: 'User at Kafka.',
  }),
  kafkaPassword: perhaps('KAFKA_PASSWORD', 'kafka.password', text(256), 'none', {
    stack: true,
    secret: true,
    description: 'Password of that user.',
  }),
  redisUrl: perhaps('REDIS_URL', 'redis.url', redisUrl(), 'each process remembers by itself', {
    stack: true,
    secret: true,
    description:
      'Redis for what may be forgotten: copies of jobs, difficulties, rates, answers of the API.',
    note: 'Founding default redis://localhost:6379/0.',
  }),
  influxUrl: perhaps('INFLUX_URL', 'influx.url', httpUrl(), 'none', {
    stack: true,
    description: 'InfluxDB for charts; statsd needs it, apiserver reads from it.',
    note: 'Founding default http://localhost:8086.',
  }),
  influxToken: perhaps('INFLUX_TOKEN', 'influx.token', text(512), 'none', {
    stack: true,
    secret: true,
    description: 'Token of InfluxDB; for version 1.x user:password.',
  }),
  influxOrg: always('INFLUX_ORG', 'influx.org', printable(120), 'headframe', {
    stack: true,
    description: 'Organisation in InfluxDB 2.x; the others have none.',
    note: 'Founding default gomp.',
  }),
  influxBucket: always('INFLUX_BUCKET', 'influx.bucket', printable(120), 'mining', {
    stack: true,
    description: 'Bucket in InfluxDB 2.x, database in 3 and 1.x.',
  }),
  influxDialect: always(
    'INFLUX_DIALECT',
    'influx.dialect',
    choice(['auto', '3', '2', '1']),
    'auto',
    {
      stack: true,
      description: 'Version of InfluxDB, or auto: what it says of itself.',
    },
  ),

  // What can be looked at
  apiEnabled: always('API_ENABLED', 'api.enabled', boolean(), 'true', {
    description: 'Status page and JSON.',
  }),
  apiAddr: always('API_ADDR', 'api.host', listenAddress(), '0.0.0.0', {
    description:
      'Interface of the status page. It is read-only and shows pool, workers and blocks.',
  }),
  apiPort: always('API_PORT', 'api.port', port, '8080', {
    description: 'Port of the status page.',
  }),
  metricsEnabled: always('METRICS_ENABLED', 'server.metrics.enabled', boolean(), 'true', {
    description: 'Metrics, health and profiles.',
  }),
  metricsAddr: always('METRICS_ADDR', 'server.metrics.host', listenAddress(), '127.0.0.1', {
    description:
      'Interface of metrics, health and profiles. Keep it private: a heap snapshot holds everything the process knows.',
    note: 'The founding documents publish this port. In a container set 0.0.0.0 and publish it to the monitoring network only.',
  }),
  metricsPort: always('METRICS_PORT', 'server.metrics.port', port, '9090', {
    also: 'HEALTH_PORT',
    description: 'Port of metrics and health. Services on one machine need one each.',
  }),
  metricsWorkers: always(
    'METRICS_WORKERS_MAX',
    'server.metrics.workers_max',
    integer(0, 10_000),
    '200',
    {
      description: 'Workers with a hashrate of their own in the metrics, the largest first.',
    },
  ),

  // Logs
  logLevel: always(
    'LOG_LEVEL',
    'logging.level',
    choice(['debug', 'info', 'warn', 'error']),
    'info',
    {
      description: 'Least important kind of line that is written.',
    },
  ),
  logFormat: always(
    'LOG_FORMAT',
    'logging.format',
    choice(['auto', 'json', 'text'], { console: 'text' }),
    'auto',
    {
      description:
        'json: one object per line. text: for people. auto: text at a terminal, json elsewhere.',
      note: 'Founding default json, which is what auto means everywhere but at a terminal.',
    },
  ),
  logOutput: always('LOG_OUTPUT', 'logging.output', choice(['stdout', 'file']), 'stdout', {
    description: 'Where lines go.',
  }),
  logFile: perhaps('LOG_FILE', 'logging.file_path', path(), 'none', {
    description: 'The file for LOG_OUTPUT=file. Opened again on SIGHUP, for log rotation.',
  }),

  // The development chain
  devBlockTime: always('DEV_BLOCK_TIME', 'dev.block_time', duration('100ms', '1h'), '5s', {
    description:
      'With no node configured: average time between two blocks of the development chain.',
  }),
} as const;

export type SettingName = keyof typeof SETTINGS;

/** The value of every setting, checked one by one but not against each other. */
export type Values = {
  [Name in SettingName]: (typeof SETTINGS)[Name] extends { readonly value?: infer T }
    ? Exclude<T, undefined>
    : never;
};

/** Headings of the documentation, each before the setting it begins with. */
export const SECTIONS: ReadonlyMap<SettingName, string> = new Map<SettingName, string>([
  ['network', 'What is mined'],
  ['payoutMode', 'How blocks are shared out'],
  ['payoutWallet', 'Payouts'],
  ['rpcHost', 'The nodes'],
  ['jobRefresh', 'Jobs'],
  ['listenAddr', 'Stratum'],
  ['minDifficulty', 'Difficulty'],
  ['ackMode', 'Storage'],
  ['kafkaBrokers', 'Services over Kafka'],
  ['apiEnabled', 'What can be looked at'],
  ['logLevel', 'Logs'],
  ['devBlockTime', 'The development chain'],
]);

/**
 * Names of the founding documents that this version does not read, and what to do. Finding one is a warning, because a
 * machine may serve other programs with it too.
 */
export const UNREAD: ReadonlyMap<string, string> = new Map([
  ['VERSION', 'the version is that of the package'],
  ['ENVIRONMENT', 'nothing depends on it'],
  ['BUFFER_SIZE', 'buffers are as large as a line'],
  ['WORKER_POOL_SIZE', 'there is no pool of threads to size'],
]);

/** The same for keys of the file. A key stands for everything below it. */
export const UNREAD_KEYS: ReadonlyMap<string, string> = new Map([
  ['redis', 'the services over Kafka read redis.url: redis://user:password@host:6379/0'],
  ['mining.stale_job_threshold', 'shares go stale with the tip, see mining.job_timeout'],
  ['mining.extranonce1_size', 'it is 4 bytes'],
  ['mining.extranonce2_size', 'it is 8 bytes'],
]);

/** Keys that would put data somewhere else than their writer believes. Finding one is a fault. */
export const REFUSED_KEYS: ReadonlyMap<string, string> = new Map([
  ['postgres', 'write storage.database_url: postgres://user:password@host:5432/database'],
]);

/** How a further node is named: a URL, or host and port. */
function nodeAddress(): Kind<string> {
  const url = httpUrl();
  const name = host();
  return {
    form: 'URL, host or host:port',
    parse(value) {
      if (value.includes('://')) return url.parse(value);
      const match = /^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(value);
      if (match === null) return { ok: false, reason: 'is not a URL, host or host:port' };
      const checked = name.parse(match[1]!.replace(/^\[(.*)\]$/, '$1'));
      if (!checked.ok) return checked;
      if (match[2] !== undefined) {
        const number = port.parse(match[2]);
        if (!number.ok) return { ok: false, reason: `has a port that ${number.reason}` };
      }
      return { ok: true, value };
    },
  };
}
