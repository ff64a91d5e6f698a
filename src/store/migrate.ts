/**
 * Brings the schema to the version of this program: forward only, one transaction per step, safe when two processes start at
 * once. A database written by a newer program is refused.
 */
import type { Db, Log } from '../ports.ts';

export type MigrationStep = { version: number; name: string; sql: string };

/** The database is newer than the program. Nothing was changed. */
export class SchemaTooNewError extends Error {}

/** Any fixed number: all programs that migrate this schema wait for each other at it. */
const MIGRATION_LOCK = 4_714_212_009;

/** Applies the steps that are missing. Answers the version before and after. */
export async function migrate(
  tools: { db: Db; log: Log },
  steps: readonly MigrationStep[],
): Promise<{ from: number; to: number }> {
  const { db, log } = tools;
  const newest = steps.at(-1)?.version ?? 0;
  let from = -1;
  for (;;) {
    const applied = await db.transaction(async (tx) => {
      await tx.query('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK]);
      await tx.query(
        `CREATE TABLE IF NOT EXISTS schema_version (
           version integer PRIMARY KEY,
           name text NOT NULL,
           applied_at timestamptz NOT NULL DEFAULT now()
         )`,
      );
      const rows = await tx.query<{ version: number }>(
        'SELECT coalesce(max(version), 0) AS version FROM schema_version',
      );
      const current = rows[0]?.version ?? 0;
      if (from === -1) from = current;
      if (current > newest) {
        throw new SchemaTooNewError(
          `the database has schema version ${current}, this program knows ${newest}: it was written by a newer headframe`,
        );
      }
      const step = steps.find((one) => one.version === current + 1);
      if (step === undefined) return false;
      log.info('The database schema is brought forward.', { step: step.name });
      await tx.query(step.sql);
      await tx.query('INSERT INTO schema_version (version, name) VALUES ($1, $2)', [
        step.version,
        step.name,
      ]);
      return true;
    });
    if (!applied) return { from, to: newest };
  }
}
