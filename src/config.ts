/**
 * From flags, environment and file to one frozen, checked `Config`: the only reader of the environment. What can be set
 * stands in `config/settings.ts`, how values are written in `config/grammar.ts`; here they are gathered (flag before
 * environment before file before default) and checked against each other.
 *
 * Everything that is wrong is reported at once, in words that never hold a secret; nothing is guessed and nothing starts.
 */

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { isAbsolute, join, resolve } from 'node:path';
import type { KafkaSecurity, KafkaTls } from './adapters/bus/kafka-security.ts';
import { decodeSettingsFile, FILE_BYTES_MAX, type ReadFile, type Written } from './config/file.ts';
import {
  checkText,
  type Fields,
  type Kind,
  parseFields,
  printableName,
  type RecordForm,
  show,
} from './config/grammar.ts';
import { combineMoney, MAIN_POOL, type MoneyConfig } from './config/money.ts';
import { type Need, SERVICES, type ServiceName } from './config/services.ts';
import {
  REFUSED_KEYS,
  SETTINGS,
  type Setting,
  type SettingName,
  UNREAD,
  UNREAD_KEYS,
  type Values,
} from './config/settings.ts';
import { NETWORKS, type Network } from './core/bitcoin/network.ts';
import type { NodeAddress } from './core/node/rpc.ts';
import type { IpRange } from './core/stratum/ip.ts';
import { SESSION_LIMITS, type SessionLimits } from './core/stratum/limits.ts';
import { VARDIFF_POLICY, type VardiffPolicy } from './core/work/vardiff.ts';
import { ADMISSION_OPTIONS, type AdmissionOptions } from './services/stratumd/admission.ts';
import { DOOR_LIMITS, type DoorLimits } from './services/stratumd/door.ts';
import type { PortOptions } from './services/stratumd/options.ts';
import type { TlsOptions } from './services/stratumd/tls.ts';

/** A Stratum port and the id of the pool that its shares are counted by. */
export type PoolPort = PortOptions & { pool: string };

/** Everything the operator decides. Plain data: it can be posted to a worker thread. */
export type Config = MoneyConfig & {
  /** `node`: mine on `nodes`. `devnet`: nothing is configured, start the development chain and a miner. */
  mode: 'node' | 'devnet';
  network: Network;
  serviceName: string;
  /** Absolute; the network's own folder, or `devnet`. */
  dataDir: string;
  poolTag: string;
  versionMask: number;
  instance: {
    /** In share records: the service name, with the number where there is one. */
    gateway: string;
    prefix: number;
    /** 8 with INSTANCE_ID, else 0. */
    prefixBits: number;
  };
  /** In order of preference; empty in mode `devnet`. */
  nodes: readonly NodeAddress[];
  jobs: { pollMs: number; refreshMs: number; feeRiseSats: number; feeRisePpm: number };
  stratum: {
    /** The first is LISTEN_PORT, and serves the pool `main`. */
    ports: readonly PoolPort[];
    /** Null when every port is `tls: 'off'`. */
    tls: TlsOptions | null;
    trustedProxies: readonly IpRange[];
    admission: AdmissionOptions;
    door: DoorLimits;
    limits: SessionLimits;
    vardiff: VardiffPolicy;
  };
  journal: { directory: string; mode: 'disk' | 'memory'; unshippedBytesMax: number };
  database: {
    /** Null: a private PostgreSQL below `directory`. */
    url: string | null;
    directory: string;
  };
  /** Null: switched off. */
  api: { host: string; port: number } | null;
  metrics: { host: string; port: number; workersMax: number } | null;
  log: {
    level: 'debug' | 'info' | 'warn' | 'error';
    /** What `auto` means has been decided. */
    format: 'json' | 'text';
    /** Null: standard output. */
    file: string | null;
  };
  devnet: { blockTimeMs: number };
  /** Null: not a service over Kafka. */
  stack: StackConfig | null;
};

/** What only the services over Kafka have. */
export type StackConfig = {
  service: ServiceName;
  /** Holds a password. */
  kafka: { brokers: readonly string[]; groupPrefix: string; security: KafkaSecurity };
  /** Null: each process remembers by itself. Holds a password. */
  redisUrl: string | null;
  influx: InfluxAddress | null;
};

export type InfluxAddress = {
  url: string;
  token: string | null;
  org: string;
  /** Bucket of 2.x, database of 3 and 1.x. */
  bucket: string;
  dialect: 'auto' | '3' | '2' | '1';
};

export type ConfigSources = {
  /** The service over Kafka that is to run. Default: none of them. */
  service?: ServiceName | null;
  /** Without the program and the command. */
  argv: readonly string[];
  env: Readonly<Record<string, string | undefined>>;
  readFile: ReadFile;
  /** Standard output is a terminal. Default false. */
  isTerminal?: boolean;
  /** Files this process may have open (`ulimit -n`); null or absent when not known. */
  openFilesMax?: number | null;
  /** The process runs as root. Default false. */
  isRoot?: boolean;
  /** Where relative paths begin. Default: the working directory. */
  directory?: string;
  nowMs?: number;
};

export type ConfigAnswer =
  | { ok: true; config: Config; warnings: string[] }
  | {
      ok: false;
      /** One fault each, complete sentences, safe to print. */
      errors: string[];
      warnings: string[];
      /** 2: the command line is wrong. 78 (EX_CONFIG): the configuration is. */
      exitCode: 2 | 78;
    };

/** Read when neither `--config` nor CONFIG_FILE names another, and only if it exists. */
export const DEFAULT_FILE = 'headframe.yaml';
/** Certificates and keys larger than this are none. */
const PEM_BYTES_MAX = 256 * 1024;
/** Descriptors that are not miners: node, database, journal, logs. */
const RESERVED_FILES = 128;
/** A variable that begins like this is meant for us, so one that is not known is a mistake. */
const PREFIXES = [
  'BITCOIN_RPC_',
  'BITCOIN_ZMQ_',
  'BITCOIN_NODE',
  'POOL_',
  'LISTEN_',
  'VARDIFF_',
  'HEADFRAME_',
  'PPLNS_',
  'PAYOUT_',
  'PPS_',
  'DEVELOPER_',
];
/** systemd's socket activation, which has nothing to do with LISTEN_PORT. */
const FOREIGN = new Set(['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']);
/** Where a setting's value came from, and the value; the default's where what was written is faulty. */
type Source = { where: string; value: unknown };

/** Reads and checks the whole configuration. Never throws. */
export function readConfig(sources: ConfigSources): ConfigAnswer {
  const usage: string[] = [];
  const errors: string[] = [];
  const warnings: string[] = [];
  const found = new Map<SettingName, Source>();

  const isService = (sources.service ?? null) !== null;
  const flags = gatherFlags(sources.argv, usage);
  if (usage.length > 0) return { ok: false, errors: usage, warnings, exitCode: 2 };
  gatherFile(sources, flags.config, found, errors, warnings);
  gatherEnvironment(sources.env, isService, found, errors, warnings);
  for (const [name, text] of flags.values) {
    if (isUnread(SETTINGS[name], isService))
      warnings.push(unreadOutsideServices(flagOf(SETTINGS[name])));
    else take(found, name, flagOf(SETTINGS[name]), text, errors);
  }
  const values = Object.fromEntries(
    entriesOfSettings().map(([name, setting]) => [
      name,
      found.has(name) ? found.get(name)!.value : defaultOf(setting),
    ]),
  ) as Values;
  const config = combine({ sources, values, found, errors, warnings });
  if (errors.length > 0 || config === null) {
    return { ok: false, errors: [...new Set(errors)], warnings, exitCode: 78 };
  }
  return { ok: true, config: freeze(config), warnings };
}

/** Only services over Kafka look at it, and this is none. */
function isUnread(setting: Pick<Setting<unknown>, 'stack'>, isService: boolean): boolean {
  return setting.stack === true && !isService;
}

function unreadOutsideServices(where: string): string {
  return `${where} is not read here: only the services over Kafka (headframe ${Object.keys(SERVICES).join(', ')}) read it; "headframe start" runs everything in one process.`;
}

/** The flag of a setting: its environment name in lower case with dashes. */
export function flagOf(setting: Pick<Setting<unknown>, 'env'>): string {
  return `--${setting.env.toLowerCase().replaceAll('_', '-')}`;
}

/**
 * What the operator set, for the log line at the start: plain values, secrets as `(set)`.
 */
export function describeConfig(config: Config): Record<string, unknown> {
  return {
    network: config.network,
    mode: config.mode,
    ...(config.stack === null ? {} : describeStack(config.stack)),
    pools: config.pools.map((pool) => `${pool.id} ${pool.scheme}`),
    payouts:
      config.payouts === null ? 'off' : `${config.payouts.signing}, ${config.payouts.wallet}`,
    nodes: config.nodes.map((node) => `${node.name} ${node.url}`),
    stratum: config.stratum.ports.map((port) => `${port.host ?? ''}:${port.port}`),
    api: config.api === null ? 'off' : `${config.api.host}:${config.api.port}`,
    metrics: config.metrics === null ? 'off' : `${config.metrics.host}:${config.metrics.port}`,
    database: config.database.url === null ? 'private' : '(set)',
    ack: config.journal.mode,
    dataDir: config.dataDir,
  };
}

function describeStack({ service, kafka, redisUrl, influx }: StackConfig): Record<string, unknown> {
  return {
    service,
    kafka: kafka.brokers,
    kafkaTls: kafka.security.tls === null ? 'off' : 'on',
    kafkaUser: kafka.security.sasl?.username ?? 'none',
    redis: redisUrl === null ? 'off' : '(set)',
    influx: influx === null ? 'off' : influx.url,
  };
}

/** Every secret in the configuration, for the log to hide wherever it turns up. */
export function secretsOf(config: Config): string[] {
  const secrets = config.nodes.flatMap(({ password }) =>
    password === undefined ? [] : [password],
  );
  const token = config.stack?.influx?.token ?? null;
  if (token !== null) secrets.push(token, token.slice(token.indexOf(':') + 1));
  const { redisUrl, influx, kafka } = config.stack ?? {};
  const kafkaPassword = kafka?.security.sasl?.password;
  if (kafkaPassword !== undefined) secrets.push(kafkaPassword);
  for (const text of [config.database.url, redisUrl, influx?.url]) {
    const { password } = URL.parse(text ?? '') ?? {};
    if (password === undefined || password === '') continue;
    secrets.push(password);
    try {
      secrets.push(decodeURIComponent(password));
    } catch {
      // Not encoded; it stands there as it is.
    }
  }
  return [...new Set(secrets)];
}

function entriesOfSettings(): [SettingName, Setting<unknown>][] {
  return Object.entries(SETTINGS) as [SettingName, Setting<unknown>][];
}

// ── Gathering ────────────────────────────────────────────────────────────────────────────────────────────────────────

function gatherFlags(
  argv: readonly string[],
  usage: string[],
): { config: string | null; values: Map<SettingName, string> } {
  const byFlag = new Map(entriesOfSettings().map(([name, setting]) => [flagOf(setting), name]));
  const values = new Map<SettingName, string>();
  let config: string | null = null;
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    if (!word.startsWith('-') || word === '-') {
      usage.push(
        `"${printableName(word)}" is not expected here; settings are written --name value`,
      );
      continue;
    }
    const equals = word.indexOf('=');
    // The Stratum server document writes -config.
    const flag = (equals < 0 ? word : word.slice(0, equals)).replace(/^-(?=config$)/, '--');
    const name = byFlag.get(flag);
    if (flag !== '--config' && name === undefined) {
      const near = nearest(flag, [...byFlag.keys(), '--config']);
      usage.push(
        `unknown flag ${printableName(flag)}${near === null ? '' : `; did you mean ${near}?`}`,
      );
      if (equals < 0 && argv[at + 1] !== undefined && !argv[at + 1]!.startsWith('-')) at++;
      continue;
    }
    const isSwitch = name !== undefined && SETTINGS[name].kind.form === 'true or false';
    let value: string | undefined = equals < 0 ? undefined : word.slice(equals + 1);
    if (value === undefined) {
      const next = argv[at + 1];
      if (next !== undefined && !next.startsWith('--')) {
        value = next;
        at++;
      } else if (isSwitch) value = 'true';
    }
    if (value === undefined) {
      usage.push(`${flag} needs a value`);
      continue;
    }
    if (flag === '--config') {
      if (config !== null) usage.push('--config is given twice');
      config = value;
      continue;
    }
    const setting: Setting<unknown> = SETTINGS[name!];
    if (setting.secret) {
      usage.push(
        `${flag} is a secret, and flags can be read by every user of this machine: set ${setting.env} in the environment or ${setting.key} in the file`,
      );
    } else if (values.has(name!)) usage.push(`${flag} is given twice`);
    else values.set(name!, value);
  }
  return { config, values };
}

function gatherFile(
  sources: ConfigSources,
  flag: string | null,
  found: Map<SettingName, Source>,
  errors: string[],
  warnings: string[],
): void {
  const named = flag ?? sources.env.CONFIG_FILE ?? null;
  if (named !== null) {
    const trouble = checkText(named);
    if (trouble !== null) {
      errors.push(`${flag === null ? 'CONFIG_FILE' : '--config'} ${trouble}.`);
      return;
    }
  }
  const shown = printableName(named ?? DEFAULT_FILE);
  const read = sources.readFile(locate(sources, named ?? DEFAULT_FILE), FILE_BYTES_MAX);
  if (read.kind === 'missing') {
    if (named !== null) errors.push(`The configuration file ${shown} does not exist.`);
    return;
  }
  if (read.kind === 'refused') {
    errors.push(`The configuration file ${shown} ${read.reason}.`);
    return;
  }
  const recordKeys = new Set(
    entriesOfSettings()
      .filter(([, setting]) => setting.kind.entry !== undefined)
      .map(([, setting]) => setting.key),
  );
  const decoded = decodeSettingsFile(read.bytes, recordKeys);
  if (!decoded.ok) {
    for (const error of decoded.errors) errors.push(`${shown}: ${error}.`);
    return;
  }
  const byKey = new Map(entriesOfSettings().map(([name, setting]) => [setting.key, name]));
  let holdsSecret = false;
  for (const [key, written] of decoded.written) {
    const where = `${key} (${shown}, line ${written.line})`;
    const name = byKey.get(key);
    if (name === undefined) {
      judgeUnknownKey(key, where, [...byKey.keys()], errors, warnings);
      continue;
    }
    const setting: Setting<unknown> = SETTINGS[name];
    holdsSecret ||= setting.secret === true;
    if (isUnread(setting, (sources.service ?? null) !== null)) {
      warnings.push(unreadOutsideServices(where));
      continue;
    }
    if (written.kind === 'list') {
      holdsSecret ||= setting.kind.entry !== undefined && hasSecretField(setting.kind, written);
      const form = setting.kind.entry;
      if (form === undefined)
        take(found, name, where, (written.entries as string[]).join(','), errors);
      else
        found.set(name, {
          where,
          value: readRecords(setting, form, written.entries, where, errors),
        });
    } else take(found, name, where, written.text, errors);
  }
  if (holdsSecret && read.othersMayRead) {
    warnings.push(
      `${shown} holds a secret and can be read by other users of this machine: chmod 600 it.`,
    );
  }
}

function hasSecretField(kind: Kind<unknown>, written: Extract<Written, { kind: 'list' }>): boolean {
  return written.entries.some(
    (entry) =>
      typeof entry !== 'string' &&
      [...entry.keys()].some((field) => kind.entry?.fields.get(field)?.secret === true),
  );
}

/** A YAML list of maps, or of entries in the one-line form. */
function readRecords(
  setting: Setting<unknown>,
  form: RecordForm,
  entries: Extract<Written, { kind: 'list' }>['entries'],
  where: string,
  errors: string[],
): Fields[] {
  const fields: Fields[] = [];
  for (const [at, entry] of entries.entries()) {
    const parsed = typeof entry === 'string' ? setting.kind.parse(entry) : parseFields(form, entry);
    if (!parsed.ok) errors.push(`${where}: entry ${at + 1}: ${parsed.reason}.`);
    else
      fields.push(
        ...(Array.isArray(parsed.value) ? (parsed.value as Fields[]) : [parsed.value as Fields]),
      );
  }
  if (fields.length > 64) errors.push(`${where} lists more than 64 entries.`);
  return fields;
}

function judgeUnknownKey(
  key: string,
  where: string,
  known: readonly string[],
  errors: string[],
  warnings: string[],
): void {
  for (const [unread, advice] of UNREAD_KEYS) {
    if (key === unread || key.startsWith(`${unread}.`)) {
      warnings.push(`${where} is not read by this version: ${advice}.`);
      return;
    }
  }
  for (const [refused, advice] of REFUSED_KEYS) {
    if (key === refused || key.startsWith(`${refused}.`)) {
      errors.push(`${where} is not read by this version: ${advice}.`);
      return;
    }
  }
  const near = nearest(key, known);
  // Where a colon is forgotten, the key is the secret: it is quoted only when it looks like one of ours.
  const place = where.replace(
    key,
    key.includes('.') ? `a key under ${key.replace(/\.[^.]*$/, '')}` : 'a key',
  );
  errors.push(
    near === null
      ? `${place} is not a setting.`
      : `${where} is not a setting; did you mean ${near}?`,
  );
}

function gatherEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  isService: boolean,
  found: Map<SettingName, Source>,
  errors: string[],
  warnings: string[],
): void {
  const known = new Map<string, SettingName>();
  for (const [name, setting] of entriesOfSettings()) {
    known.set(setting.env, name);
    if (setting.also !== undefined) known.set(setting.also, name);
  }
  const ours = [...known].flatMap(([variable, name]) =>
    isUnread(SETTINGS[name], isService) ? [] : [variable],
  );
  const givenBy = new Map<SettingName, string>();
  for (const [variable, value] of Object.entries(env)) {
    if (value === undefined || variable === 'CONFIG_FILE') continue;
    const name = known.get(variable);
    if (name === undefined) {
      judgeUnknownVariable(variable, value, ours, errors, warnings);
      continue;
    }
    if (isUnread(SETTINGS[name], isService)) {
      warnings.push(unreadOutsideServices(variable));
      continue;
    }
    // "" is the documented default of these two, and what an unset variable becomes in many start files.
    if (value === '' && (name === 'rpcUser' || name === 'rpcPassword')) continue;
    const other = givenBy.get(name);
    if (other !== undefined && env[other] !== value) {
      errors.push(`${other} and ${variable} are two names of one setting and differ.`);
    }
    givenBy.set(name, variable);
    take(found, name, variable, value, errors);
  }
}

function judgeUnknownVariable(
  variable: string,
  value: string,
  known: readonly string[],
  errors: string[],
  warnings: string[],
): void {
  const unread = UNREAD.get(variable);
  if (unread !== undefined) {
    warnings.push(`${variable} is not read by this version: ${unread}.`);
    return;
  }
  if (!/^[A-Z][A-Z0-9_]{3,63}$/.test(variable) || FOREIGN.has(variable)) return;
  // What Kubernetes and Docker set for a service called "pool" or "listen".
  if (/_SERVICE_(HOST|PORT)/.test(variable) || /_PORT(_\d+_(TCP|UDP).*)?$/.test(variable)) {
    if (
      !PREFIXES.some((prefix) => variable.startsWith(prefix)) ||
      /SERVICE|^tcp:/.test(variable + value)
    )
      return;
    if (/^(tcp|udp):\/\//.test(value) || /_\d+_(TCP|UDP)/.test(variable)) return;
  }
  const near = nearest(variable, known);
  const ours = PREFIXES.some((prefix) => variable.startsWith(prefix));
  const close = near !== null && variable.length >= 8 && distance(variable, near) <= 2;
  if (!ours && !close) return;
  errors.push(`${variable} is not a setting${near === null ? '.' : `; did you mean ${near}?`}`);
}

/** The known name with the fewest differing letters, when a person would call it a typing mistake. */
function nearest(name: string, known: readonly string[]): string | null {
  if (name.length > 64) return null;
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(name.length / 4)) + 1;
  for (const candidate of known) {
    const apart = distance(name, candidate);
    if (apart < bestDistance) {
      best = candidate;
      bestDistance = apart;
    }
  }
  return best;
}

/** Levenshtein's distance. Both at most 64 characters. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + cost));
    }
    row = next;
  }
  return row[b.length]!;
}

// ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Checks one written value. A faulty one is reported and counts as the default, so that the cross checks can go on. */
function take(
  found: Map<SettingName, Source>,
  name: SettingName,
  where: string,
  text: string,
  errors: string[],
): void {
  const setting: Setting<unknown> = SETTINGS[name];
  const trouble = checkText(text);
  const parsed =
    trouble === null ? setting.kind.parse(text) : { ok: false as const, reason: trouble };
  if (!parsed.ok)
    errors.push(`${where}${isSilent(setting, text) ? '' : ` = ${show(text)}`} ${parsed.reason}.`);
  found.set(name, { where, value: parsed.ok ? parsed.value : defaultOf(setting) });
}

/** Not to be quoted: secrets, and lists that may hold one. */
function isSilent(setting: Setting<unknown>, text: string): boolean {
  const fields = [...(setting.kind.entry?.fields.values() ?? [])];
  return text === '' || setting.secret === true || fields.some((field) => field.secret === true);
}

function defaultOf(setting: Setting<unknown>): unknown {
  if (setting.default === null) return null;
  const parsed = setting.kind.parse(setting.default);
  return parsed.ok ? parsed.value : null;
}

/** What the checks of settings against each other are handed. */
export type Combining = {
  sources: ConfigSources;
  values: Values;
  found: ReadonlyMap<SettingName, Source>;
  errors: string[];
  warnings: string[];
};

/** Checks the settings against each other. Null when that can not even be tried. */
function combine(given: Combining): Config | null {
  const { sources, values, found, errors, warnings } = given;
  const service = sources.service ?? null;
  const hasNode = nodeSettings.some((name) => found.has(name));
  const mode = hasNode || service !== null ? 'node' : 'devnet';
  /** For what this service does not use: it may be meant for another that is started with the same settings. */
  const quietly: Combining = { ...given, errors: [], warnings: [] };
  const needs = (need: Need) =>
    service === null || (SERVICES[service].needs as readonly Need[]).includes(need);
  const isOneOf = (...names: ServiceName[]) => service === null || names.includes(service);
  const network = values.network ?? (mode === 'node' ? 'mainnet' : 'regtest');
  if (mode === 'devnet' && network !== 'regtest') {
    errors.push(
      `NETWORK is ${network}, but no node is configured: set BITCOIN_RPC_HOST and the user and password, or the cookie file, of a Bitcoin node.`,
    );
  }
  if (sources.isRoot) {
    warnings.push(
      'Running as root: a user of its own is safer. The private database is never run as root.',
    );
  }
  const serviceName = service !== null && !found.has('serviceName') ? service : values.serviceName;
  const instance = values.instanceId === null ? serviceName : `${serviceName}-${values.instanceId}`;
  const root = locate(sources, values.dataDir);
  const dataDir = join(
    root,
    mode === 'devnet' ? 'devnet' : network,
    ...(service === null
      ? []
      : [values.instanceId === null ? service : `${service}-${values.instanceId}`]),
  );
  const forMiners = isOneOf('stratumd') ? given : quietly;
  const limits = combineLimits(forMiners);
  const hasApi = values.apiEnabled && isOneOf('apiserver');
  checkPorts(given, isOneOf('stratumd'), hasApi);
  const money = combineMoney(
    needs('pools')
      ? { ...given, warnings: isOneOf('payoutd') ? warnings : quietly.warnings }
      : quietly,
    mode,
    network,
  );
  const stack = combineStack(given);
  if (service !== null && needs('database') && values.databaseUrl === null)
    errors.push(`DATABASE_URL is not set: ${service} works on PostgreSQL.`);
  if (service !== null && needs('node') && !hasNode)
    errors.push(
      `BITCOIN_RPC_HOST is not set: ${service} works with a Bitcoin node, and needs its user and password, or its cookie file.`,
    );
  return {
    ...money,
    mode,
    network,
    serviceName,
    dataDir,
    poolTag: values.poolTag,
    versionMask: combineMask(given),
    instance: {
      gateway: instance,
      prefix: values.instanceId ?? 0,
      prefixBits: values.instanceId === null ? 0 : 8,
    },
    nodes: hasNode ? combineNodes(needs('node') ? given : quietly, network) : [],
    jobs: {
      pollMs: values.pollInterval,
      refreshMs: values.jobRefresh,
      feeRiseSats: values.jobFeeRiseSats,
      feeRisePpm: values.jobFeeRisePercent,
    },
    stratum: { ...combineStratum(forMiners, dataDir), limits, vardiff: combineVardiff(values) },
    journal: {
      directory: join(dataDir, 'journal'),
      mode: values.ackMode,
      unshippedBytesMax: values.journalMax,
    },
    database: { url: combineDatabase(given), directory: dataDir },
    api: hasApi ? { host: values.apiAddr, port: values.apiPort } : null,
    metrics: values.metricsEnabled
      ? { host: values.metricsAddr, port: values.metricsPort, workersMax: values.metricsWorkers }
      : null,
    log: combineLog(given),
    devnet: { blockTimeMs: values.devBlockTime },
    stack,
  };
}

/** Kafka and what stands beside it; null in the single process. */
function combineStack(given: Combining): StackConfig | null {
  const { sources, values, found, errors } = given;
  const service = sources.service ?? null;
  if (service === null) return null;
  if (!found.has('kafkaBrokers'))
    errors.push(
      `KAFKA_BROKERS is not set: ${service} works over Kafka; "headframe start" runs everything in one process without it.`,
    );
  if (values.influxUrl === null && (SERVICES[service].needs as readonly Need[]).includes('influx'))
    errors.push(`INFLUX_URL is not set: ${service} writes to InfluxDB.`);
  if (values.influxDialect === '1' && values.influxToken?.includes(':') === false)
    errors.push(
      `${found.get('influxToken')!.where} must be user:password for INFLUX_DIALECT 1, which has no tokens.`,
    );
  return {
    service,
    kafka: {
      brokers: values.kafkaBrokers ?? [],
      groupPrefix: values.kafkaGroup,
      security: combineKafkaSecurity(given),
    },
    redisUrl: values.redisUrl,
    influx:
      values.influxUrl === null
        ? null
        : {
            url: values.influxUrl,
            token: values.influxToken,
            org: values.influxOrg,
            bucket: values.influxBucket,
            dialect: values.influxDialect,
          },
  };
}

/** Half of it, or what would have no effect, is a fault: whoever writes it believes that his connections are safe. */
function combineKafkaSecurity(given: Combining): KafkaSecurity {
  const { values, found, errors, warnings } = given;
  const where = (name: SettingName) => found.get(name)?.where ?? SETTINGS[name].env;
  const tlsFiles = (['kafkaCaFile', 'kafkaCertFile', 'kafkaKeyFile'] as const).filter(
    (name) => values[name] !== null,
  );
  if (values.kafkaTls === 'off' && tlsFiles.length > 0)
    errors.push(`${where(tlsFiles[0]!)} has no effect while KAFKA_TLS is off: set KAFKA_TLS=on.`);
  const { kafkaMechanism: mechanism, kafkaUsername: username, kafkaPassword: password } = values;
  const lacking = (['kafkaMechanism', 'kafkaUsername', 'kafkaPassword'] as const).filter(
    (name) => values[name] === null,
  );
  if (lacking.length > 0 && lacking.length < 3) {
    const names = lacking.map((name) => SETTINGS[name].env).join(' and ');
    errors.push(
      `${names} ${lacking.length === 1 ? 'is' : 'are'} missing: KAFKA_SASL_MECHANISM, KAFKA_USERNAME and KAFKA_PASSWORD go together.`,
    );
  }
  const far = values.kafkaBrokers?.find(
    (broker) => !/^(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+$/.test(broker),
  );
  if (mechanism === 'PLAIN' && values.kafkaTls === 'off' && far !== undefined)
    warnings.push(
      `${where('kafkaMechanism')} is PLAIN and KAFKA_TLS is off: the password goes to ${far} where everybody on the way can read it.`,
    );
  return {
    tls: values.kafkaTls === 'off' ? null : combineKafkaTls(given),
    sasl:
      mechanism === null || username === null || password === null
        ? null
        : { mechanism, username, password },
  };
}

function combineKafkaTls({ sources, values, errors, warnings }: Combining): KafkaTls {
  const caFile = values.kafkaCaFile === null ? null : locate(sources, values.kafkaCaFile);
  if (caFile !== null) {
    const pem = readPem(sources, caFile, 'certificate', errors);
    if (pem !== null && !isCertificate(pem))
      errors.push(`${show(caFile)} (KAFKA_TLS_CA_FILE) holds no certificate in PEM form.`);
  }
  const { kafkaCertFile, kafkaKeyFile } = values;
  if ((kafkaCertFile === null) !== (kafkaKeyFile === null))
    errors.push(
      `${kafkaCertFile === null ? 'KAFKA_TLS_CERT_FILE' : 'KAFKA_TLS_KEY_FILE'} is missing: certificate and key go together.`,
    );
  if (kafkaCertFile === null || kafkaKeyFile === null) return { caFile, client: null };
  const client = {
    certFile: locate(sources, kafkaCertFile),
    keyFile: locate(sources, kafkaKeyFile),
  };
  errors.push(...checkCertificate(sources, client.certFile, client.keyFile, warnings));
  return { caFile, client };
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).subject !== undefined;
  } catch {
    return false;
  }
}

/** Any of these says: there is a node. */
const nodeSettings: readonly SettingName[] = [
  'rpcHost',
  'rpcPort',
  'rpcUrl',
  'rpcUser',
  'rpcPassword',
  'rpcCookieFile',
  'zmq',
  'moreNodes',
];

function combineMask({ values, errors, found }: Combining): number {
  const mask = values.versionMask;
  const outside = (mask & ~0x1fffe000) >>> 0;
  if (outside !== 0) {
    errors.push(
      `${found.get('versionMask')?.where ?? 'VERSION_MASK'} has bits outside 1fffe000, which belong to soft forks (BIP320).`,
    );
  }
  return mask;
}

function combineNodes(
  { sources, values, found, errors, warnings }: Combining,
  network: Network,
): NodeAddress[] {
  const nodes: NodeAddress[] = [];
  const namedFirst = nodeSettings.some(
    (name) =>
      name !== 'moreNodes' &&
      name !== 'rpcUser' &&
      name !== 'rpcPassword' &&
      name !== 'rpcCookieFile' &&
      found.has(name),
  );
  const credentials = combineCredentials({ sources, values, found, errors, warnings });
  if (namedFirst || values.moreNodes === null) {
    if (values.rpcUrl !== null && (values.rpcHost !== null || values.rpcPort !== null)) {
      errors.push(
        `${found.get('rpcUrl')!.where} and ${(found.get('rpcHost') ?? found.get('rpcPort'))!.where} both say where the node is: keep one of them.`,
      );
    }
    const url =
      values.rpcUrl ??
      nodeUrl(values.rpcHost ?? 'localhost', values.rpcPort ?? NETWORKS[network].rpcPort);
    nodes.push({ name: 'node1', url, ...credentials, zmqAddresses: values.zmq ?? zmqBeside(url) });
  }
  for (const fields of values.moreNodes ?? []) {
    const text = (name: string) => fields.get(name) as string | undefined;
    const address = text('rpc_url')!;
    const split = /^(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(address);
    const url = address.includes('://')
      ? address
      : nodeUrl(
          split![1]!.replace(/^\[(.*)\]$/, '$1'),
          Number(split![2] ?? NETWORKS[network].rpcPort),
        );
    const own: Pick<NodeAddress, 'user' | 'password' | 'cookieFile'> = {};
    if (text('cookie_file') !== undefined) own.cookieFile = locate(sources, text('cookie_file')!);
    if (text('rpc_user') !== undefined) own.user = text('rpc_user')!;
    if (text('rpc_password') !== undefined) own.password = text('rpc_password')!;
    nodes.push({
      name: text('name') ?? `node${nodes.length + 1}`,
      url,
      ...(Object.keys(own).length > 0 ? own : credentials),
      zmqAddresses: (fields.get('zmq') as string[] | undefined) ?? zmqBeside(url),
    });
  }
  if (nodes.length > 16) errors.push('More than 16 nodes are configured.');
  for (const name of repeated(nodes.map((node) => node.name)))
    errors.push(`Two nodes are called ${show(name)}.`);
  for (const url of repeated(nodes.map((node) => node.url)))
    errors.push(`The node ${show(url)} is listed twice.`);
  for (const node of nodes) {
    if (node.cookieFile !== undefined) checkCookie(sources, node.cookieFile, errors);
    else if (node.user === undefined || node.password === undefined) {
      errors.push(
        `The node ${show(node.url)} has no credentials: set BITCOIN_RPC_USER and BITCOIN_RPC_PASSWORD, or BITCOIN_RPC_COOKIE_FILE.`,
      );
    }
  }
  return nodes;
}

function combineCredentials({
  sources,
  values,
  found,
  errors,
  warnings,
}: Combining): Pick<NodeAddress, 'user' | 'password' | 'cookieFile'> {
  if (values.rpcCookieFile !== null) {
    if (values.rpcUser !== null || values.rpcPassword !== null) {
      warnings.push(`${found.get('rpcCookieFile')!.where} is used; user and password are not.`);
    }
    return { cookieFile: locate(sources, values.rpcCookieFile) };
  }
  if (
    (values.rpcUser === null) !== (values.rpcPassword === null) &&
    !errors.some((error) => /rpc_?(user|password)/i.test(error))
  ) {
    errors.push(
      values.rpcUser === null
        ? 'BITCOIN_RPC_PASSWORD is set, but BITCOIN_RPC_USER is not.'
        : 'BITCOIN_RPC_USER is set, but BITCOIN_RPC_PASSWORD is not.',
    );
  }
  return {
    ...(values.rpcUser === null ? {} : { user: values.rpcUser }),
    ...(values.rpcPassword === null ? {} : { password: values.rpcPassword }),
  };
}

/** A cookie that is not there yet is fine: the node may not have started. One that can never be read is not. */
function checkCookie(sources: ConfigSources, path: string, errors: string[]): void {
  const read = sources.readFile(path, 4096);
  if (read.kind === 'refused') errors.push(`The cookie file ${show(path)} ${read.reason}.`);
}

function nodeUrl(name: string, port: number): string {
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}/`;
}

function zmqBeside(url: string): string[] {
  const name = URL.parse(url)?.hostname ?? 'localhost';
  return [`tcp://${name}:28332`];
}

function combineStratum(
  given: Combining,
  dataDir: string,
): Pick<Config['stratum'], 'ports' | 'tls' | 'trustedProxies' | 'admission' | 'door'> {
  const { sources, values, found, errors, warnings } = given;
  const modeByFlag = values.tlsEnabled === false ? 'off' : 'auto';
  if (
    values.tlsMode !== null &&
    values.tlsEnabled !== null &&
    (values.tlsMode === 'off') === values.tlsEnabled
  ) {
    errors.push(
      `${found.get('tlsMode')!.where} and ${found.get('tlsEnabled')!.where} say different things.`,
    );
  }
  const first: PoolPort = {
    port: values.listenPort,
    host: values.listenAddr,
    startDifficulty: values.initialDifficulty,
    minDifficulty: values.minDifficulty,
    maxDifficulty: values.maxDifficulty,
    tls: values.tlsMode ?? modeByFlag,
    vardiff: true,
    pool: MAIN_POOL,
  };
  const ports = [first];
  for (const fields of values.morePorts ?? []) {
    const or = <T>(name: string, fallback: T): T => (fields.get(name) as T | undefined) ?? fallback;
    ports.push({
      port: fields.get('port') as number,
      host: or('host', first.host),
      startDifficulty: or('difficulty', first.startDifficulty),
      minDifficulty: or(
        'min',
        Math.min(first.minDifficulty, or('difficulty', first.minDifficulty)),
      ),
      maxDifficulty: or(
        'max',
        Math.max(first.maxDifficulty, or('difficulty', first.maxDifficulty)),
      ),
      tls: or('tls', first.tls),
      vardiff: or('vardiff', true),
      pool: or('pool', first.pool),
    });
  }
  for (const port of ports) {
    if (port.minDifficulty > port.maxDifficulty) {
      errors.push(
        `Port ${port.port}: MIN_DIFFICULTY ${port.minDifficulty} is above MAX_DIFFICULTY ${port.maxDifficulty}.`,
      );
    } else if (
      port.startDifficulty < port.minDifficulty ||
      port.startDifficulty > port.maxDifficulty
    ) {
      if (port === first && !found.has('initialDifficulty')) {
        // Only the bounds were set: begin at the nearer of them.
        port.startDifficulty = Math.min(
          Math.max(port.startDifficulty, port.minDifficulty),
          port.maxDifficulty,
        );
      } else {
        errors.push(
          `Port ${port.port}: the starting difficulty ${port.startDifficulty} is outside ${port.minDifficulty} to ${port.maxDifficulty}.`,
        );
      }
    }
  }
  const connectionsMax = combineConnections(given);
  const usesTls = ports.some((port) => port.tls !== 'off');
  return {
    ports,
    tls: usesTls ? { files: combineCertificate(given), directory: join(dataDir, 'tls') } : null,
    trustedProxies: values.proxyTrusted,
    admission: {
      ...ADMISSION_OPTIONS,
      connectionsMax,
      connectionsPerSourceMax: Math.min(values.maxPerAddress, connectionsMax),
      connectionsPerNetworkMax: Math.min(values.maxPerNetwork, connectionsMax),
      allowed: [...ADMISSION_OPTIONS.allowed, ...values.allowList],
    },
    door: {
      ...DOOR_LIMITS,
      firstBytesTimeoutMs: Math.min(DOOR_LIMITS.firstBytesTimeoutMs, values.readTimeout),
      pendingTimeoutMs: values.writeTimeout,
    },
  };

  function combineCertificate(_: Combining): TlsOptions['files'] {
    const certificate = values.tlsCertFile === null ? null : locate(sources, values.tlsCertFile);
    const key = values.tlsKeyFile === null ? null : locate(sources, values.tlsKeyFile);
    if (certificate === null && key === null) return null;
    if (certificate === null || key === null) {
      errors.push(
        `${certificate === null ? 'TLS_CERT_FILE' : 'TLS_KEY_FILE'} is missing: certificate and key go together.`,
      );
      return null;
    }
    errors.push(...checkCertificate(sources, certificate, key, warnings));
    return { certificate, key };
  }
}

/** Two listeners on one port; 0.0.0.0 and :: take every address. */
function checkPorts({ values, errors }: Combining, hasMiners: boolean, hasApi: boolean): void {
  const listeners: { what: string; host: string; port: number }[] = [];
  if (hasMiners) {
    listeners.push({ what: 'Stratum', host: values.listenAddr, port: values.listenPort });
    for (const fields of values.morePorts ?? []) {
      const host = (fields.get('host') as string | undefined) ?? values.listenAddr;
      listeners.push({ what: 'Stratum', host, port: fields.get('port') as number });
    }
  }
  if (hasApi)
    listeners.push({ what: 'the status page', host: values.apiAddr, port: values.apiPort });
  if (values.metricsEnabled)
    listeners.push({ what: 'metrics', host: values.metricsAddr, port: values.metricsPort });
  const everywhere = (name: string) => name === '0.0.0.0' || name === '::';
  for (const [at, a] of listeners.entries()) {
    for (const b of listeners.slice(at + 1)) {
      if (a.port === b.port && (a.host === b.host || everywhere(a.host) || everywhere(b.host))) {
        errors.push(`Port ${a.port} is asked for twice: by ${a.what} and by ${b.what}.`);
      }
    }
  }
}

function combineConnections({ sources, values, found, errors, warnings }: Combining): number {
  const filesMax = sources.openFilesMax ?? null;
  const wanted = values.maxConnections;
  if (filesMax === null) return wanted;
  const possible = Math.floor(0.9 * (filesMax - RESERVED_FILES));
  if (possible < 1) {
    errors.push(
      `This process may open only ${filesMax} files (ulimit -n), which is not enough to serve miners: ${RESERVED_FILES * 2} at least, 65536 recommended.`,
    );
    return wanted;
  }
  if (wanted <= possible) return wanted;
  const name = found.get('maxConnections')?.where ?? 'MAX_CONNECTIONS';
  warnings.push(
    `${name} is lowered from ${wanted} to ${possible}: this process may open ${filesMax} files (ulimit -n).`,
  );
  return possible;
}

/** Certificate and key as files: what is wrong with them, in words. */
function checkCertificate(
  sources: ConfigSources,
  certificatePath: string,
  keyPath: string,
  warnings: string[],
): string[] {
  const errors: string[] = [];
  const certificatePem = readPem(sources, certificatePath, 'certificate', errors);
  const keyPem = readPem(sources, keyPath, 'key', errors);
  if (certificatePem === null || keyPem === null) return errors;
  let certificate: X509Certificate | null = null;
  if (certificatePem.includes('-----BEGIN CERTIFICATE-----')) {
    try {
      certificate = new X509Certificate(certificatePem);
    } catch {
      errors.push(`The certificate ${show(certificatePath)} is damaged.`);
    }
  } else errors.push(`The certificate ${show(certificatePath)} is not in PEM form.`);
  let key: ReturnType<typeof createPrivateKey> | null = null;
  if (/-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED/.test(keyPem)) {
    errors.push(`The key ${show(keyPath)} is encrypted; it must have no passphrase.`);
  } else if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(keyPem)) {
    errors.push(`The key ${show(keyPath)} is not in PEM form.`);
  } else {
    try {
      key = createPrivateKey(keyPem);
    } catch {
      errors.push(`The key ${show(keyPath)} is damaged.`);
    }
  }
  if (certificate === null) return errors;
  const nowMs = sources.nowMs ?? Date.now();
  if (certificate.validToDate.getTime() <= nowMs) {
    errors.push(`The certificate ${show(certificatePath)} has expired on ${certificate.validTo}.`);
  } else if (certificate.validFromDate.getTime() > nowMs) {
    errors.push(
      `The certificate ${show(certificatePath)} is not valid before ${certificate.validFrom}.`,
    );
  } else if (certificate.validToDate.getTime() - nowMs < 14 * 86_400_000) {
    warnings.push(`The certificate ${show(certificatePath)} expires on ${certificate.validTo}.`);
  }
  if (key !== null && !certificate.checkPrivateKey(key)) {
    errors.push(
      `The key ${show(keyPath)} does not belong to the certificate ${show(certificatePath)}.`,
    );
  }
  return errors;
}

function readPem(
  sources: ConfigSources,
  path: string,
  what: string,
  errors: string[],
): string | null {
  const read = sources.readFile(path, PEM_BYTES_MAX);
  if (read.kind === 'missing') errors.push(`The ${what} ${show(path)} does not exist.`);
  else if (read.kind === 'refused') errors.push(`The ${what} ${show(path)} ${read.reason}.`);
  else if (read.bytes.length === 0) errors.push(`The ${what} ${show(path)} is empty.`);
  else return new TextDecoder().decode(read.bytes);
  return null;
}

function combineLimits({ values, found, errors }: Combining): SessionLimits {
  if (values.submitBurst < values.submitsPerSecond) {
    errors.push(
      `${(found.get('submitBurst') ?? found.get('submitsPerSecond'))?.where ?? 'SUBMIT_BURST'}: SUBMIT_BURST ${values.submitBurst} is below SUBMITS_PER_SECOND ${values.submitsPerSecond}.`,
    );
  }
  return {
    ...SESSION_LIMITS,
    lineBytesMax: values.maxMessageSize,
    lineBytesBeforeAuthorize: Math.floor(values.maxMessageSize / 4),
    authorizeTimeoutMs: values.readTimeout,
    idleTimeoutMs: values.idleTimeout,
    jobCreditMs: values.jobTimeout,
    submitsPerSecond: values.submitsPerSecond,
    submitBurst: values.submitBurst,
  };
}

function combineVardiff(values: Values): VardiffPolicy {
  const variance = values.vardiffVariance / 100;
  return {
    ...VARDIFF_POLICY,
    intervalMs: values.vardiffTarget,
    // Below ten shares chance decides more than the miner.
    lookShares: Math.max(10, Math.round(values.vardiffRetarget / values.vardiffTarget)),
    bandLow: 1 / (1 + variance),
    bandHigh: 1 + variance,
  };
}

function combineDatabase({ values, found, errors }: Combining): string | null {
  if (values.databaseUrl === null) return null;
  const url = URL.parse(values.databaseUrl);
  const name = url?.hostname ?? '';
  const isNear = name === '' || /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(name);
  if (!isNear && url?.searchParams.get('sslmode') === 'disable' && !values.databaseInsecure) {
    errors.push(
      `${found.get('databaseUrl')!.where} has sslmode=disable for another machine: shares and balances would cross the network in the open. Use TLS, or set DATABASE_ALLOW_INSECURE=true.`,
    );
  }
  return values.databaseUrl;
}

function combineLog({ sources, values, found, errors }: Combining): Config['log'] {
  if (values.logOutput === 'file' && values.logFile === null) {
    errors.push(`${found.get('logOutput')!.where} is file, but LOG_FILE does not name one.`);
  }
  const toFile =
    values.logFile !== null && (values.logOutput === 'file' || !found.has('logOutput'));
  const byPlace = sources.isTerminal === true && !toFile ? 'text' : 'json';
  return {
    level: values.logLevel,
    format: values.logFormat === 'auto' ? byPlace : values.logFormat,
    file: toFile ? locate(sources, values.logFile!) : null,
  };
}

function repeated(words: readonly string[]): string[] {
  return [...new Set(words.filter((word, at) => words.indexOf(word) !== at))];
}

function locate(sources: ConfigSources, path: string): string {
  return isAbsolute(path) ? resolve(path) : resolve(sources.directory ?? '.', path);
}

/** Freezes plain objects and arrays to the bottom; bytes can not be frozen. */
function freeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
  for (const inner of Object.values(value)) freeze(inner);
  return Object.freeze(value);
}
