/**
 * The command line up to the command: what to run and what is left for it. Settings are read by `readConfig`, the options
 * of the small tools by themselves.
 */

import { flagOf } from '../config.ts';
import { printableName } from './grammar.ts';
import { isServiceName, type ServiceName } from './services.ts';
import { SETTINGS } from './settings.ts';
import { COMMANDS, helpText, LATER_COMMANDS, settingsPage, settingsText } from './usage.ts';

export type CommandLine =
  | {
      kind: 'run';
      command:
        | 'start'
        | 'doctor'
        | 'devnet'
        | 'miner'
        | 'swarm'
        | 'ledger'
        | 'payout'
        | 'verify-round'
        | ServiceName;
      argv: string[];
    }
  | { kind: 'print'; text: string }
  /** Exit code 2. */
  | { kind: 'usage'; errors: string[] };

/** Reads `process.argv.slice(2)`. Without a command it is `start`. */
export function readCommand(argv: readonly string[], version: string): CommandLine {
  const [first, ...rest] = argv;
  // These explain themselves, part by part.
  if (first === 'ledger' || first === 'payout' || first === 'verify-round')
    return { kind: 'run', command: first, argv: rest };
  const asksHelp = argv.includes('--help') || argv.includes('-h');
  const asksVersion = argv.includes('--version') || argv.includes('-v');
  if (asksHelp && asksVersion)
    return { kind: 'usage', errors: ['--help and --version do not go together'] };
  if (asksHelp) return { kind: 'print', text: helpText() };
  if (asksVersion) return { kind: 'print', text: `${version}\n` };
  if (first === undefined || first.startsWith('-'))
    return { kind: 'run', command: 'start', argv: [...argv] };
  switch (first) {
    case 'start':
    case 'doctor':
    case 'devnet':
    case 'miner':
    case 'swarm':
      return { kind: 'run', command: first, argv: rest };
    case 'version':
      return rest.length === 0
        ? { kind: 'print', text: `${version}\n` }
        : { kind: 'usage', errors: ['version takes nothing behind it'] };
    case 'help':
      return help(rest);
  }
  if (isServiceName(first)) return { kind: 'run', command: first, argv: rest };
  const name = printableName(first);
  return {
    kind: 'usage',
    errors: [
      LATER_COMMANDS.has(first)
        ? `there is no command ${name} in this version: "headframe start" runs everything in one process`
        : `there is no command ${name}; there are ${[...COMMANDS.keys()].join(', ')}`,
    ],
  };
}

/**
 * Parts the flags of settings (`--config`, `--database-url` …), which `readConfig` takes, from the words and options of a command
 * that has its own. What is not a setting's flag is left in its order.
 */
export function separateSettings(argv: readonly string[]): { settings: string[]; words: string[] } {
  const flags = new Set(['--config', ...Object.values(SETTINGS).map(flagOf)]);
  const settings: string[] = [];
  const words: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    const [name] = word.split('=', 1);
    if (!flags.has(name!)) words.push(word);
    else {
      settings.push(word);
      const next = argv[at + 1];
      if (name === word && next !== undefined && !next.startsWith('--')) settings.push(argv[++at]!);
    }
  }
  return { settings, words };
}

function help(rest: readonly string[]): CommandLine {
  if (rest.length === 0) return { kind: 'print', text: helpText() };
  if (rest.length === 1 && rest[0] === 'settings') return { kind: 'print', text: settingsText() };
  if (rest.length === 1 && rest[0] === 'page') return { kind: 'print', text: settingsPage() };
  return { kind: 'usage', errors: ['help is followed by nothing or by "settings"'] };
}
