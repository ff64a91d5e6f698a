/**
 * The words and options behind `headframe ledger`, `headframe payout` and `headframe verify-round`: one table per command, from which
 * reading and usage are made. Total: any words give a request or reasons.
 *
 * Refused: unknown names, missing or surplus words, options given twice or without their value, and every change without a reason.
 */

import { parseArgs } from 'node:util';

/** One subcommand. Names in capitals stand for what the operator writes. */
export type Form = {
  /** `''` where the command has no subcommands. */
  name: string;
  /** Words that must follow, in order. One in brackets may be left out. */
  words: readonly string[];
  /** Option → what stands behind it; null for a switch. */
  options: Readonly<Record<string, string | null>>;
  /** Options that must be given. */
  needs?: readonly string[];
  what: string;
};

export type Request = {
  name: string;
  words: readonly string[];
  /** Given options; a switch has the value `''`. */
  options: ReadonlyMap<string, string>;
};

/** `help`: the usage was asked for. */
export type RequestAnswer =
  | { kind: 'request'; request: Request }
  | { kind: 'help' }
  | { kind: 'usage'; errors: string[] };

const WORD_BYTES_MAX = 1_000;
const PRINTABLE_CHARS_MAX = 2_000;

/** Reads what stands behind the command. */
export function readRequest(forms: readonly Form[], argv: readonly string[]): RequestAnswer {
  if (argv.includes('--help') || argv.includes('-h')) return { kind: 'help' };
  const hasNames = forms[0]!.name !== '';
  const form = hasNames ? forms.find(({ name }) => name === argv[0]) : forms[0];
  if (form === undefined) {
    if (argv.length === 0) return { kind: 'usage', errors: ['what is to be done?'] };
    return { kind: 'usage', errors: [`there is no "${printable(argv[0]!)}" here`] };
  }
  const errors: string[] = [];
  const { tokens } = parseArgs({
    args: argv.slice(hasNames ? 1 : 0),
    options: Object.fromEntries(
      Object.entries(form.options).map(([name, value]) => [
        name,
        { type: value === null ? 'boolean' : 'string' },
      ]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const words: string[] = [];
  const options = new Map<string, string>();
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue;
    if (token.kind === 'positional') {
      words.push(token.value);
      continue;
    }
    const { name } = token;
    const standsFor = Object.hasOwn(form.options, name) ? form.options[name] : undefined;
    if (standsFor === undefined) errors.push(`unknown option ${printable(token.rawName)}`);
    else if (options.has(name)) errors.push(`--${name} is given twice`);
    else if (standsFor !== null && !/^(?!--).+/s.test(token.value ?? ''))
      errors.push(`--${name} needs a value: ${standsFor}`);
    else if (standsFor === null && token.value !== undefined)
      errors.push(`--${name} takes no value`);
    else options.set(name, token.value ?? '');
  }
  const needed = form.words.filter((word) => !word.startsWith('['));
  if (words.length < needed.length)
    errors.push(`${needed.slice(words.length).join(' and ')} is missing`);
  if (words.length > form.words.length)
    errors.push(`"${printable(words[form.words.length]!)}" is not expected here`);
  for (const name of form.needs ?? []) {
    if (!options.has(name)) errors.push(`--${name} is missing`);
  }
  for (const text of [...words, ...options.values()]) {
    if (
      Buffer.byteLength(text) > WORD_BYTES_MAX ||
      /[\x00-\x1f\x7f]/.test(text) ||
      !text.isWellFormed()
    )
      errors.push(`a word is longer than ${WORD_BYTES_MAX} bytes or holds control characters`);
  }
  return errors.length > 0
    ? { kind: 'usage', errors: errors.map((error) => `${form.name} ${error}`.trim()) }
    : { kind: 'request', request: { name: form.name, words, options } };
}

/** The usage of a command, line by line. */
export function usageLines(command: string, forms: readonly Form[]): string[] {
  const lines: string[] = [];
  for (const form of forms) {
    const options = Object.entries(form.options).map(([name, value]) => {
      const option = `--${name}${value === null ? '' : ` ${value}`}`;
      return form.needs?.includes(name) ? option : `[${option}]`;
    });
    const head = ['headframe', command, form.name, ...form.words].filter((word) => word !== '');
    const line = wrapWords([head.join(' '), ...options], 100);
    lines.push(`  ${line[0]}`, ...line.slice(1).map((more) => `      ${more}`));
    lines.push(...wrapWords(form.what.split(' '), 100 - 6).map((text) => `      ${text}`));
  }
  return lines;
}

/** Text from a command line, a file or a miner, safe to print: it does not move the cursor and has an end. */
export function printable(text: string): string {
  const clean = text.slice(0, PRINTABLE_CHARS_MAX + 1).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '?');
  return text.length > PRINTABLE_CHARS_MAX ? `${clean.slice(0, PRINTABLE_CHARS_MAX)}…` : clean;
}

function wrapWords(words: readonly string[], width: number): string[] {
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
