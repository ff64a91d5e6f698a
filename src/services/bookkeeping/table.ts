/**
 * Rows for people (aligned columns), for spreadsheets (CSV, RFC 4180 with line feeds) and for programs (one JSON array, a row per line).
 * Money is written in BTC for people; in exports it stands twice, as decimal BTC and as whole satoshi, with the unit in the name.
 *
 * A cell of a CSV that a spreadsheet would take for a formula (`=`, `+`, `-`, `@`, tab, carriage return at its beginning) gets an
 * apostrophe in front, unless it is nothing but a number.
 */

import { formatSats } from '../../core/ledger/amount.ts';
import { printable } from './arguments.ts';
import type { Desk } from './desk.ts';

/** What a column holds: text and hex, satoshi, whole numbers of any size, parts per million, milliseconds since 1970. */
type ColumnKind = 'text' | 'sats' | 'count' | 'ppm' | 'time';

export type Column = {
  /** `snake_case`, without a unit; the exports add it. For people the underscores become spaces. */
  name: string;
  kind: ColumnKind;
};

/** One value of a row, in the order of the columns; null: there is none. */
export type Value = string | bigint | number | null;

export type Format = 'text' | 'csv' | 'json';

/** Rows per query. */
export const PAGE = 1_000;
/** Rows for people, who can not read more; exports are whole. */
export const TEXT_ROWS = 50;
export const EXPORT_ROWS = Number.MAX_SAFE_INTEGER;

/** Prints a table whose rows may be made while they are printed. `note` stands instead of the rows when there are none. */
export async function printTable(
  desk: Pick<Desk, 'print'>,
  format: Format,
  columns: readonly Column[],
  rows: AsyncIterable<readonly Value[]> | Iterable<readonly Value[]>,
  note: string,
): Promise<void> {
  if (format === 'text') return printText(desk, columns, rows, note);
  if (format === 'csv') {
    desk.print(columns.flatMap(exportNames).join(','));
    for await (const row of rows) {
      desk.print(
        columns
          .flatMap((column, at) => exportValues(column, row[at] ?? null))
          .map((value) => csvCell(value === null ? '' : String(value)))
          .join(','),
      );
    }
    return;
  }
  // The comma comes before a row, so that no row needs to know whether another follows.
  let separator = '[';
  for await (const row of rows) {
    const fields = columns.flatMap((column, at) => {
      const values = exportValues(column, row[at] ?? null);
      return exportNames(column).map((name, place) => [name, values[place]!] as const);
    });
    desk.print(`${separator}${JSON.stringify(Object.fromEntries(fields))}`);
    separator = ',';
  }
  desk.print(separator === '[' ? '[]' : ']');
}

/** Times for people and exports: ISO 8601 in UTC, to the second for people. */
export function formatTime(atMs: number): string {
  return new Date(atMs).toISOString().replace(/\.\d{3}Z$/, 'Z');
}

/** Parts per million as percent, exact: `1.25%`. */
export function formatPpm(ppm: number): string {
  return `${percentText(ppm)}%`;
}

/** Rows of text are held until the widths are known: whoever prints many asks for an export. */
async function printText(
  desk: Pick<Desk, 'print'>,
  columns: readonly Column[],
  rows: AsyncIterable<readonly Value[]> | Iterable<readonly Value[]>,
  note: string,
): Promise<void> {
  const table = [columns.map(({ name }) => name.replaceAll('_', ' '))];
  for await (const row of rows) {
    table.push(columns.map((column, at) => forPeople(column, row[at] ?? null)));
  }
  if (table.length === 1) return desk.print(note);
  const widths = columns.map((_, at) =>
    table.reduce((most, row) => Math.max(most, row[at]!.length), 0),
  );
  for (const row of table) {
    const line = row.map((text, at) => {
      const isRight = columns[at]!.kind !== 'text' && columns[at]!.kind !== 'time';
      return isRight ? text.padStart(widths[at]!) : text.padEnd(widths[at]!);
    });
    desk.print(line.join('  ').trimEnd());
  }
}

function forPeople({ kind }: Column, value: Value): string {
  if (value === null) return '–';
  switch (kind) {
    case 'sats':
      return formatSats(value as bigint);
    case 'ppm':
      return formatPpm(value as number);
    case 'time':
      return formatTime(value as number);
    case 'count':
      return String(value);
    case 'text':
      return printable(String(value));
  }
}

function exportNames({ name, kind }: Column): string[] {
  if (kind === 'sats') return [`${name}_btc`, `${name}_sat`];
  if (kind === 'ppm') return [`${name}_percent`];
  return kind === 'time' ? [`${name}_utc`] : [name];
}

function exportValues({ kind }: Column, value: Value): (string | null)[] {
  if (kind === 'sats') {
    const sats = value as bigint | null;
    // The unit stands in the name of the column.
    return sats === null ? [null, null] : [formatSats(sats).replace(' BTC', ''), String(sats)];
  }
  if (value === null) return [null];
  if (kind === 'ppm') return [percentText(value as number)];
  return [kind === 'time' ? new Date(value as number).toISOString() : String(value)];
}

function percentText(ppm: number): string {
  const places = String(ppm % 10_000)
    .padStart(4, '0')
    .replace(/0+$/, '');
  return `${Math.floor(ppm / 10_000)}${places === '' ? '' : `.${places}`}`;
}

function csvCell(text: string): string {
  const isFormula = /^[=+\-@\t\r]/.test(text) && !/^-?\d+(\.\d+)?$/.test(text);
  const safe = isFormula ? `'${text}` : text;
  return /[",\r\n']/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Rows of a store's pages, one after the other. `readPage` gets the last row so far and how many are wanted. */
export async function* pages<Row, Out>(
  readPage: (last: Row | null, count: number) => Promise<Row[]>,
  limit: number,
  make: (row: Row) => Out,
): AsyncGenerator<Out, void, undefined> {
  let last: Row | null = null;
  for (let left = limit; left > 0; ) {
    const rows: Row[] = await readPage(last, Math.min(left, PAGE));
    for (const row of rows.slice(0, left)) yield make(row);
    if (rows.length < Math.min(left, PAGE)) return;
    left -= rows.length;
    last = rows.at(-1)!;
  }
}
