/** A list of what a store gives in pages, as one command prints it: `--limit`, and a table, CSV or JSON. */

import type { Request } from './arguments.ts';
import { readFormat, readLimit } from './conduct.ts';
import { type Desk, EXIT, type ExitCode } from './desk.ts';
import { type Column, EXPORT_ROWS, pages, printTable, TEXT_ROWS, type Value } from './table.ts';

/**
 * Prints `read` page after page; `rowsOf` makes rows of each item. `begin` comes before a table for people, `empty` stands instead of
 * one without rows.
 */
export async function printList<Item>(
  desk: Desk,
  request: Request,
  list: {
    columns: readonly Column[];
    read: (last: Item | null, count: number) => Promise<Item[]>;
    rowsOf: (item: Item) => Value[][] | Promise<Value[][]>;
    empty: string;
    begin?: () => Promise<void>;
  },
): Promise<ExitCode> {
  const format = readFormat(desk, request);
  if (!format.ok) return format.exitCode;
  const isText = format.value === 'text';
  const limit = readLimit(desk, request, isText ? TEXT_ROWS : EXPORT_ROWS);
  if (!limit.ok) return limit.exitCode;
  if (isText) await list.begin?.();
  const items = pages<Item, Item>(list.read, limit.value, (item) => item);
  await printTable(desk, format.value, list.columns, rowsOf(items, list.rowsOf), list.empty);
  return EXIT.done;
}

async function* rowsOf<Item>(
  items: AsyncIterable<Item>,
  make: (item: Item) => Value[][] | Promise<Value[][]>,
): AsyncGenerator<Value[], void, undefined> {
  for await (const item of items) yield* await make(item);
}
