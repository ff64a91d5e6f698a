/**
 * Fuzz target: `readConfig` and `decodeSettingsFile` on mutated files, variables and flags. Neither may throw; what is said must
 * be free of control characters and of the planted secret; what is accepted must keep the promises between settings.
 *
 * Longer: `node test/fuzz/configuration.ts <seed> <iterations>`.
 */

import { SETTINGS, type Setting } from '../../src/config/settings.ts';
import { readConfig } from '../../src/config.ts';
import { createRandom, type Random } from '../tools/random.ts';

const settings = Object.values(SETTINGS) as Setting<unknown>[];
const SECRET = 'canaryPassword';
const FILES = [
  'network: regtest\nserver:\n  port: 3333\n  tls: { enabled: true }\n',
  'nodes:\n  - rpc_url: 10.0.0.2\n    name: a\n  - { rpc_url: "http://b:1", rpc_user: u, rpc_password: canaryPassword }\n',
  'mining: { initial_difficulty: 1.0, min_difficulty: 0.001 }\nlogging: { level: info }\n',
  'a: &a [1]\nb: *a\n',
  '',
];
const VALUES = [
  '0',
  '1',
  '-1',
  '3333',
  '65536',
  '1e400',
  'NaN',
  'true',
  'off',
  'auto',
  'regtest',
  'mainnet',
  '30s',
  '1m30s',
  '4096',
  '8KiB',
  '0.001',
  '1e15',
  'http://h:1',
  'tcp://127.0.0.1:28332',
  '10.0.0.0/8',
  '1fffe000',
  '10.0.0.1;name=x,10.0.0.2',
  '3334;difficulty=5;tls=only',
  'postgres://u:canaryPassword@h/d',
  'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080',
  '',
  ' ',
  '\u0000',
  '\ud800',
  'é',
  '__proto__',
  `x:${SECRET}@y`,
];
const PIECES = [
  ':',
  ' ',
  '\n',
  '\t',
  '- ',
  '{',
  '}',
  '[',
  ']',
  '"',
  "'",
  '&',
  '*',
  '#',
  '|',
  '>',
  '%',
  '@',
  '\u0000',
  '\ufeff',
  '<<: ',
  '!!int ',
  '---\n',
  '?',
  ',',
  '\u2028',
];

/** Runs `iterations` inputs from `seed`; throws on the first broken promise. Returns how many were accepted. */
export function fuzz(seed: number, iterations: number): number {
  const random = createRandom(seed);
  let accepted = 0;
  for (let at = 0; at < iterations; at++) {
    const file = random.below(3) === 0 ? null : mutate(random, random.pick(FILES));
    const env: Record<string, string> = {};
    const argv: string[] = [];
    for (let n = random.below(6); n > 0; n--) {
      const setting = random.pick(settings);
      const plain = random.pick(VALUES);
      // Cut in two, a secret is none that anybody could recognise.
      const value =
        random.below(4) === 0 && !plain.includes(SECRET) ? mutate(random, plain) : plain;
      if (random.below(5) === 0)
        argv.push(`--${setting.env.toLowerCase().replaceAll('_', '-')}`, value);
      else env[random.below(10) === 0 ? mutate(random, setting.env) : setting.env] = value;
    }
    const answer = readConfig({
      argv,
      env,
      readFile: () =>
        file === null
          ? { kind: 'missing' }
          : { kind: 'bytes', bytes: new TextEncoder().encode(file), othersMayRead: false },
      directory: '/srv',
    });
    const said = [...answer.warnings, ...(answer.ok ? [] : answer.errors)].join('\n');
    const input = JSON.stringify({ file, env, argv });
    if (/[\x00-\x09\x0b-\x1f\x7f]/.test(said))
      throw new Error(`control characters are said about ${input}`);
    if (said.includes(SECRET)) throw new Error(`a secret is told: ${said} about ${input}`);
    if (!answer.ok) {
      if (answer.errors.length === 0) throw new Error(`refused without a reason: ${input}`);
      continue;
    }
    accepted += 1;
    const { stratum, mode, pools, nodes } = answer.config;
    for (const port of stratum.ports) {
      if (
        !(port.minDifficulty <= port.startDifficulty && port.startDifficulty <= port.maxDifficulty)
      )
        throw new Error(`difficulties of ${input}`);
    }
    if (mode === 'node' && (pools.length === 0 || nodes.length === 0))
      throw new Error(`half a configuration from ${input}`);
  }
  return accepted;
}

function mutate(random: Random, text: string): string {
  let changed = text;
  for (let n = 1 + random.below(3); n > 0; n--) {
    const at = random.below(changed.length + 1);
    const kind = random.below(4);
    if (kind === 0) changed = changed.slice(0, at) + random.pick(PIECES) + changed.slice(at);
    else if (kind === 1) changed = changed.slice(0, at) + changed.slice(at + 1);
    else if (kind === 2)
      changed = changed.slice(0, at) + changed.slice(random.below(changed.length + 1));
    else changed = changed.slice(0, at);
  }
  return changed.slice(0, 10_000);
}

if (import.meta.main) {
  const [seed = '1', iterations = '100000'] = process.argv.slice(2);
  console.log(`seed ${seed}: ${fuzz(Number(seed), Number(iterations))} of ${iterations} accepted`);
}
