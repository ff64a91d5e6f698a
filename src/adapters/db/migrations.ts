/**
 * The numbered SQL files of `sql/`, read for `store/migrate.ts`. A gap, a double number or an unreadable name is a fault of the
 * installation and throws.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export type Migration = { version: number; name: string; sql: string };

/** All migrations in order, 1 and up. */
export function readMigrations(
  folder: string = fileURLToPath(new URL('../../../sql', import.meta.url)),
): Migration[] {
  const names = readdirSync(folder)
    .filter((name) => name.endsWith('.sql'))
    .sort();
  return names.map((name, i) => {
    const match = /^(\d{4})\.sql$/.exec(name);
    if (!match || Number(match[1]) !== i + 1) {
      throw new Error(`sql/${name} is not the ${i + 1}th migration`);
    }
    return { version: i + 1, name, sql: readFileSync(join(folder, name), 'utf8') };
  });
}
