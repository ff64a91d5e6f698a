/**
 * How every command about money goes: words, usage, database, confirmation, end. Expected trouble (a wrong word, no database, a
 * refusal) is told in a sentence and becomes an exit code; anything else is a bug and is thrown.
 */

import { decodeAddress } from '../../core/bitcoin/address.ts';
import { parseAmount } from '../../core/ledger/amount.ts';
import { decodeSplit, encodeSplit } from '../../core/ledger/shares.ts';
import type { Db } from '../../ports.ts';
import { type Form, printable, type Request, readRequest, usageLines } from './arguments.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import type { Format } from './table.ts';

/** A value that was read from a word, or an exit code after the reason was told. */
export type Read<T> = { ok: true; value: T } | { ok: false; exitCode: ExitCode };

/** A command and its subcommands. */
export type Command = { name: string; forms: readonly Form[] };

/** Reads the words behind a command; where they ask for help or make no sense, the usage is told. Needs no configuration. */
export function readWords(
  desk: Pick<Desk, 'print' | 'complain'>,
  command: Command,
  argv: readonly string[],
): Read<Request> {
  const answer = readRequest(command.forms, argv);
  if (answer.kind === 'request') return yes(answer.request);
  const lines = usageLines(command.name, command.forms);
  if (answer.kind === 'help') {
    for (const line of lines) desk.print(line);
    return { ok: false, exitCode: EXIT.done };
  }
  for (const line of [...answer.errors, 'Usage:', ...lines]) desk.complain(line);
  return { ok: false, exitCode: EXIT.usage };
}

/** Reads the words and runs the request on the database. What is printed goes through the desk that `run` gets. */
export async function conduct(
  desk: Desk,
  command: Command,
  argv: readonly string[],
  run: (desk: Desk, db: Db, request: Request) => Promise<ExitCode>,
): Promise<ExitCode> {
  const words = readWords(desk, command, argv);
  if (!words.ok) return words.exitCode;
  let db: Db;
  try {
    db = await desk.openDb();
  } catch (error) {
    desk.complain(`The database can not be reached: ${(error as Error).message}`);
    return EXIT.unreachable;
  }
  let isReaderGone = false;
  const print = (line: string): void => {
    try {
      desk.print(line);
    } catch (error) {
      isReaderGone = (error as { code?: unknown }).code === 'EPIPE';
      throw error;
    }
  };
  try {
    return await run({ ...desk, print }, db, words.value);
  } catch (error) {
    // As with `| head`: whoever read has seen enough.
    if (isReaderGone) return EXIT.done;
    if (!isLostConnection(error)) throw error;
    desk.complain(
      `The database was lost on the way: ${(error as Error).message}. The same command again does what is left to do, and nothing twice.`,
    );
    return EXIT.unreachable;
  }
}

/** The command can not be what was meant. */
export function misuse(desk: Pick<Desk, 'complain'>, reason: string): ExitCode {
  desk.complain(reason);
  return EXIT.usage;
}

/** What was asked for is not done. */
export function refuse(desk: Pick<Desk, 'complain'>, reason: string): ExitCode {
  desk.complain(reason);
  return EXIT.finding;
}

/** Whether the operator means it: `--yes`, or a yes at the terminal. Tells when it is no. */
export async function isConfirmed(
  desk: Pick<Desk, 'confirm' | 'complain'>,
  request: Request,
  question: string,
): Promise<boolean> {
  if (request.options.has('yes') || (await desk.confirm(question))) return true;
  desk.complain(`${question} Not confirmed (a yes at a terminal, or --yes): nothing was changed.`);
  return false;
}

/** What the audit trail calls whoever sits at the desk. */
export function actorOf(desk: Pick<Desk, 'actor'>): string {
  return `operator ${desk.actor}`;
}

/** A person's reason, as the request has it. */
export function reasonOf(request: Request): string {
  return request.options.get('reason') ?? '';
}

/** `--csv`, `--json`, or a table for people. */
export function readFormat(desk: Pick<Desk, 'complain'>, request: Request): Read<Format> {
  const isCsv = request.options.has('csv');
  const isJson = request.options.has('json');
  if (isCsv && isJson) return no(desk, '--csv and --json do not go together');
  return yes(isCsv ? 'csv' : isJson ? 'json' : 'text');
}

/** A number of rows; `fallback` when it was not given. */
export function readLimit(
  desk: Pick<Desk, 'complain'>,
  request: Request,
  fallback: number,
): Read<number> {
  const text = request.options.get('limit');
  if (text === undefined) return yes(fallback);
  return /^[1-9]\d{0,8}$/.test(text)
    ? yes(Number(text))
    : no(desk, '--limit is a whole number from 1');
}

/** A positive amount with its unit. */
export function readAmount(desk: Pick<Desk, 'complain'>, text: string): Read<bigint> {
  const parsed = parseAmount(text);
  if (!parsed.ok) return no(desk, `"${printable(text)}" is no amount: ${parsed.reason}`);
  return parsed.sats > 0n ? yes(parsed.sats) : no(desk, 'the amount must be more than 0 BTC');
}

/** Percent with at most four places → parts per million. */
export function readPercent(desk: Pick<Desk, 'complain'>, text: string): Read<number> {
  const match = /^(0|[1-9]\d{0,2})(?:\.(\d{1,4}))?$/.exec(text);
  const ppm =
    match === null
      ? Number.NaN
      : Number(match[1]) * 10_000 + Number((match[2] ?? '').padEnd(4, '0'));
  return ppm <= 1_000_000
    ? yes(ppm)
    : no(
        desk,
        `"${printable(text)}" is no percentage from 0 to 100 like 1 or 0.25, without a % sign`,
      );
}

/** A plain address of the network, in its canonical spelling. Refused: addresses nobody is known to be able to spend from. */
export function readAddress(desk: Pick<Desk, 'complain' | 'network'>, text: string): Read<string> {
  const answer = decodeAddress(text, desk.network);
  if (!answer.ok) {
    return no(desk, `"${printable(text)}" is not an address of ${desk.network}: ${answer.reason}`);
  }
  if (answer.unusual) {
    return no(desk, `nobody is known to be able to spend what is paid to ${answer.canonical}`);
  }
  return yes(answer.canonical);
}

/** The address text of an account: a plain address, or a split like `addr1*60,addr2*40`. */
export function readAccount(desk: Pick<Desk, 'complain' | 'network'>, text: string): Read<string> {
  const parts = decodeSplit(text);
  if (parts === null || parts.length === 1) return readAddress(desk, text);
  const canonical = [];
  for (const { address, weight } of parts) {
    const read = readAddress(desk, address);
    if (!read.ok) return read;
    canonical.push({ address: read.value, weight });
  }
  const account = encodeSplit(canonical);
  return account === null ? no(desk, `"${printable(text)}" names an address twice`) : yes(account);
}

function yes<T>(value: T): { ok: true; value: T } {
  return { ok: true, value };
}

function no(desk: Pick<Desk, 'complain'>, reason: string): { ok: false; exitCode: ExitCode } {
  return { ok: false, exitCode: misuse(desk, reason) };
}

/** The codes of a connection that ended: sockets, SQLSTATE class 08, and a server that shuts down or starts. */
function isLostConnection(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (typeof code === 'string' && /^(E[A-Z]+|08\w{3}|57P0\d)$/.test(code)) {
    return /^(ECONN|EPIPE|ETIMEDOUT|ENOENT|ENOTFOUND|EHOST|ENET|08|57P0)/.test(code);
  }
  return typeof message === 'string' && /^Connection terminated/.test(message);
}
