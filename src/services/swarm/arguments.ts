/** The command line of `headframe swarm`, and its report as text for people. */
import { SWARM_OPTIONS, type SwarmOptions, type SwarmReport } from './swarm.ts';

export type SwarmArguments = { ok: true; options: SwarmOptions } | { ok: false; errors: string[] };

export const SWARM_USAGE = `headframe swarm: load a Stratum V1 server of your own with valid shares

  --url HOST:PORT          or stratum+tcp://… or stratum+ssl://…   (127.0.0.1:3333)
  --connections N          miners to connect                       (100)
  --rate N                 shares per second in all, 0: flat out   (100)
  --depth N                shares in flight per connection         (8)
  --seconds N              how long to load                        (10)
  --user TEXT              user name, .1 .2 … are appended         (swarm)
  --password TEXT          password                                (x)
  --difficulty N           difficulty to suggest                   (the server's)
  --connects-at-once N     connections being opened together       (200)
  --i-own-this-server      needed for any server not on loopback
`;

/** Reads the arguments after `swarm`. All errors at once. */
export function readSwarmArguments(argv: readonly string[]): SwarmArguments {
  const options: SwarmOptions = { ...SWARM_OPTIONS };
  const errors: string[] = [];
  const numbers = new Map<string, [key: NumberKey, min: number, max: number]>([
    ['--connections', ['connections', 1, 50_000]],
    ['--rate', ['sharesPerSecond', 0, 10_000_000]],
    ['--depth', ['depth', 1, 256]],
    ['--seconds', ['seconds', 0.1, 86_400]],
    ['--difficulty', ['suggestedDifficulty', 0, 1e18]],
    ['--connects-at-once', ['connectsAtOnce', 1, 50_000]],
  ]);
  for (let at = 0; at < argv.length; at++) {
    const [flag, inline] = splitFlag(argv[at]!);
    if (flag === '--i-own-this-server') {
      options.ownsServer = true;
      continue;
    }
    const value = inline ?? argv[++at];
    if (value === undefined) {
      errors.push(`${flag} needs a value`);
      continue;
    }
    const number = numbers.get(flag);
    if (number !== undefined) {
      const [key, min, max] = number;
      const amount = Number(value);
      if (value.trim() === '' || !(amount >= min && amount <= max)) {
        errors.push(`${flag} takes a number from ${min} to ${max}, not "${value}"`);
      } else {
        options[key] = amount;
      }
    } else if (flag === '--user') options.user = value;
    else if (flag === '--password') options.password = value;
    else if (flag === '--url') {
      const error = readUrl(value, options);
      if (error !== null) errors.push(error);
    } else errors.push(`unknown option ${flag}`);
  }
  for (const key of ['connections', 'depth', 'connectsAtOnce'] as const) {
    options[key] = Math.floor(options[key]);
  }
  return errors.length === 0 ? { ok: true, options } : { ok: false, errors };
}

type NumberKey =
  | 'connections'
  | 'sharesPerSecond'
  | 'depth'
  | 'seconds'
  | 'suggestedDifficulty'
  | 'connectsAtOnce';

function splitFlag(text: string): [flag: string, value: string | null] {
  const equals = text.indexOf('=');
  return text.startsWith('--') && equals > 0
    ? [text.slice(0, equals), text.slice(equals + 1)]
    : [text, null];
}

function readUrl(text: string, options: SwarmOptions): string | null {
  const match = /^(?:(stratum\+tcp|stratum\+ssl|stratum\+tls):\/\/)?(.+):(\d{1,5})\/?$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || !(port >= 1 && port <= 65_535)) {
    return `--url takes HOST:PORT, not "${text}"`;
  }
  options.host = match[2]!.replace(/^\[(.*)\]$/, '$1');
  options.port = port;
  options.tls = match[1] === 'stratum+ssl' || match[1] === 'stratum+tls';
  return null;
}

/** The report as lines of text. */
export function formatSwarmReport(report: SwarmReport): string {
  const { latency, notifies } = report;
  const rejections = [...report.rejections].map(([text, count]) => `${count} × ${text}`);
  return [
    `miners working      ${report.working} of ${report.connections} after ${report.connectMs.toFixed(0)} ms` +
      (report.refused > 0 ? `, ${report.refused} refused (${report.firstRefusal})` : '') +
      (report.lost > 0 ? `, ${report.lost} lost` : ''),
    `shares              ${report.sent} sent, ${report.accepted} accepted, ${report.rejected} rejected, ` +
      `${report.unanswered} unanswered`,
    ...(rejections.length > 0 ? [`rejections          ${rejections.join('; ')}`] : []),
    `accepted            ${report.acceptedPerSecond.toFixed(0)} per second` +
      (report.late > 0 ? `, ${report.late} could not be sent in time` : ''),
    `latency             median ${latency.p50Ms.toFixed(2)} ms, 99 % ${latency.p99Ms.toFixed(2)} ms, ` +
      `99.9 % ${latency.p999Ms.toFixed(2)} ms, worst ${latency.maxMs.toFixed(2)} ms`,
    `new jobs            ${notifies.jobs}, first to last miner: median ${notifies.spreadP50Ms.toFixed(1)} ms, ` +
      `worst ${notifies.spreadMaxMs.toFixed(1)} ms`,
    `our own cost        ${report.cpuUsPerShare.toFixed(1)} µs of processor per share`,
    '',
  ].join('\n');
}
