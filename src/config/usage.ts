/**
 * What people read about the settings: `--help`, and `docs/configuration.md`. Both are made from the one table, and a test
 * holds the page against it.
 */

import { flagOf } from '../config.ts';
import { SERVICES } from './services.ts';
import {
  REFUSED_KEYS,
  SECTIONS,
  SETTINGS,
  type Setting,
  type SettingName,
  UNREAD,
  UNREAD_KEYS,
} from './settings.ts';

/** The commands, in the order of the help text. */
export const COMMANDS: ReadonlyMap<string, string> = new Map([
  ['start', 'the whole pool in one process; with no node configured, on its own development chain'],
  ...Object.entries(SERVICES).map(([name, { what }]) => [name, what] as const),
  ['doctor', 'checks configuration, node, ports, disk, clock and database, and says what is wrong'],
  ['ledger', 'balances, statements, rounds, audit, bookings; "headframe ledger" lists them'],
  ['payout', 'payouts: plan, run, hold, release, sign elsewhere; "headframe payout" lists them'],
  ['verify-round', 'recomputes a round from its export, offline'],
  ['devnet', 'only the development chain: a small Bitcoin-like node'],
  ['miner', 'a CPU miner that speaks Stratum, for tests'],
  ['swarm', 'a load generator for any Stratum server'],
  ['help', 'this text; "help settings" lists every setting'],
  ['version', 'the version'],
]);

/** Commands of the design that this version does not have; naming one is answered with this. */
export const LATER_COMMANDS: ReadonlySet<string> = new Set(['coop']);

/** Exit codes, for the help text and the operator's page. */
export const EXIT_CODES: ReadonlyMap<number, string> = new Map([
  [0, 'stopped as asked; doctor: all well; ledger, payout, verify-round: done, nothing wrong'],
  [
    1,
    'stopped by a fault that it could not work around; the others: something is wrong, or refused',
  ],
  [2, 'wrong command line'],
  [75, 'the data folder is in use by another process; ledger, payout: no database'],
  [78, 'wrong configuration'],
]);

/** The text of `headframe help`. */
export function helpText(): string {
  const commands = [...COMMANDS].map(([name, what]) => `  ${name.padEnd(13)}${what}`).join('\n');
  const codes = [...EXIT_CODES]
    .map(([code, what]) => `  ${String(code).padEnd(4)}${what}`)
    .join('\n');
  return `headframe: a mining pool that loses nothing

Usage: headframe <command> [--setting value …]

Commands
${commands}

Settings come from flags, then the environment, then the file named by --config or
CONFIG_FILE (else headframe.yaml, if it is there), then defaults. The usual ones:

  BITCOIN_RPC_HOST, BITCOIN_RPC_USER, BITCOIN_RPC_PASSWORD   your node
  NETWORK, POOL_ADDRESS                                      what to mine, and for whom
  DATA_DIR                                                   where to keep it
  KAFKA_BROKERS, DATABASE_URL, REDIS_URL, INFLUX_URL         for the services over Kafka

"headframe help settings" lists all of them; docs/configuration.md explains them.

Exit codes
${codes}
`;
}

/** The text of `headframe help settings`: one line each. */
export function settingsText(): string {
  const lines = [
    'Setting (environment; as a flag in lower case with dashes), default, meaning',
    '',
  ];
  for (const [name, setting] of settings()) {
    const heading = SECTIONS.get(name);
    if (heading !== undefined) lines.push(...(lines.length > 2 ? [''] : []), heading);
    const fallback = setting.default ?? setting.absent ?? '';
    lines.push(`  ${setting.env}${setting.secret ? ' (never as a flag)' : ''} [${fallback}]`);
    lines.push(...wrap(setting.description, 88).map((line) => `      ${line}`));
  }
  return `${lines.join('\n')}\n`;
}

/** The whole of `docs/configuration.md`. */
export function settingsPage(): string {
  const parts = [
    `# Configuration

This page is made from \`src/config/settings.ts\` by \`npm run headframe -- help page > docs/configuration.md\`; a test holds it
against the table (\`test/config/usage.test.ts\`).

A setting has one name in three spellings. Taken is the first that is there:

1. a flag: \`--listen-port 3334\`;
2. the environment: \`LISTEN_PORT=3334\`;
3. the file named by \`--config\` or \`CONFIG_FILE\`, else \`headframe.yaml\` in the working directory if there is one:
   \`server: { port: 3334 }\`;
4. the default.

Everything is checked before anything starts. All faults are listed at once, none of them with a secret in it, and the exit
code is 78 (2 when the command line itself is wrong). A name that is misspelt is a fault, with the name that was probably meant.
Values in the file are not expanded: \`$HOME\` is six characters. Secrets are not accepted as flags, because every user of a
machine can read those.

**How values are written.** Durations have a unit: \`500ms\`, \`30s\`, \`5m\`, \`1m30s\`. Sizes are bytes or have one: \`64KiB\`,
\`256MiB\`. Money has a unit and is exact: \`0.01 BTC\`, \`5000 sat\`. Percentages have no % sign and at most four places. Lists are separated by commas. An empty value is a fault, except
for BITCOIN_RPC_USER and BITCOIN_RPC_PASSWORD, where it means none.

\`headframe doctor\` checks the configuration and then what it names.
`,
  ];
  for (const [name, setting] of settings()) {
    const heading = SECTIONS.get(name);
    if (heading !== undefined) parts.push(`\n## ${heading}\n`);
    if (name === 'kafkaBrokers') parts.push(servicesText());
    const fallback =
      setting.default === null ? `none: ${setting.absent}` : `\`${setting.default}\``;
    const names = [
      `\`${setting.env}\`${setting.also === undefined ? '' : ` (also \`${setting.also}\`)`}`,
      setting.secret ? 'no flag, it is secret' : `\`${flagOf(setting)}\``,
      `\`${setting.key}\``,
    ];
    parts.push(`**${setting.env}**: ${setting.description}\\`);
    parts.push(
      `${names.join(' · ')}. ${capital(setting.kind.form)}. Default ${fallback}.${setting.note === undefined ? '' : ` *${setting.note}*`}\n`,
    );
  }
  parts.push(`
## Names that are known and not read

The founding documents name more settings, for parts that this version does not have. One of these gives a warning at the
start, and has no effect:
`);
  for (const [name, advice] of [...UNREAD, ...UNREAD_KEYS]) parts.push(`- \`${name}\`: ${advice}`);
  parts.push(
    '\nOne of these in the file is a fault, because data would go somewhere else than its writer believes:\n',
  );
  for (const [name, advice] of REFUSED_KEYS) parts.push(`- \`${name}\`: ${advice}`);
  return `${parts.join('\n')}\n`;
}

/** Which service needs what, before the settings that only services read. */
function servicesText(): string {
  const needs = {
    pools: '`POOL_ADDRESS` (or a scheme that needs none)',
    node: 'a node',
    database: '`DATABASE_URL`',
    influx: '`INFLUX_URL`',
  };
  const lines = Object.entries(SERVICES).map(
    ([name, service]) =>
      `| \`headframe ${name}\` | ${['`KAFKA_BROKERS`', ...service.needs.map((need) => needs[need])].join(', ')} |`,
  );
  return `These are read by the services that run as processes of their own. \`headframe start\` runs everything in one process, does not
read them, and says so in a warning when it finds one, because a machine may serve another program with it.

| service | does not start without |
|---|---|
${lines.join('\n')}

A service keeps its files in a folder of its own below the network's, named after it and its \`INSTANCE_ID\`. What one of them only
waits for (a broker, a database or a node that does not answer yet) does not keep it from starting: it is not ready until then.
`;
}

function settings(): [SettingName, Setting<unknown>][] {
  return Object.entries(SETTINGS) as [SettingName, Setting<unknown>][];
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function wrap(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines.at(-1)!;
    if (last.length + word.length + 1 > width && last !== '') lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines;
}
