/**
 * Which gateway has which first byte of extranonce1, table `gateway_leases`. A byte belongs to the identity of a data directory; it is
 * free again when an operator deletes its row, or when its gateway was not seen for thirty days. Time is the database's own.
 */
import type { Db } from '../ports.ts';

/** Not seen for so long, a gateway has lost its byte. */
export const LEASE_DAYS = 30;

export type LeaseAnswer =
  | { kind: 'leased'; prefix: number }
  /** The byte that was wanted belongs to another gateway. */
  | { kind: 'taken'; prefix: number; name: string }
  /** All 256 belong to gateways that were seen within thirty days. */
  | { kind: 'full' };

/**
 * Takes a byte for an identity, or the one it has, and notes that it was seen. `wanted`: the byte it uses already or is told to use;
 * null: any. Safe with many gateways at once.
 */
export async function takeGatewayLease(
  db: Db,
  gateway: { identity: string; name: string; wanted: number | null },
): Promise<LeaseAnswer> {
  const { identity, name, wanted } = gateway;
  return db.transaction(async (tx) => {
    await tx.query('LOCK TABLE gateway_leases IN SHARE ROW EXCLUSIVE MODE');
    await tx.query(
      'DELETE FROM gateway_leases WHERE identity <> $1 AND seen_at < now() - make_interval(days => $2)',
      [identity, LEASE_DAYS],
    );
    if (wanted !== null) {
      const [holder] = await tx.query<{ name: string }>(
        'SELECT name FROM gateway_leases WHERE prefix = $1 AND identity <> $2',
        [wanted, identity],
      );
      if (holder !== undefined) return { kind: 'taken', prefix: wanted, name: holder.name };
      await tx.query('DELETE FROM gateway_leases WHERE identity = $1 AND prefix <> $2', [
        identity,
        wanted,
      ]);
    }
    const [own] = await tx.query<{ prefix: number }>(
      'UPDATE gateway_leases SET seen_at = now(), name = $2 WHERE identity = $1 RETURNING prefix',
      [identity, name],
    );
    if (own !== undefined) return { kind: 'leased', prefix: own.prefix };
    const [made] = await tx.query<{ prefix: number }>(
      `INSERT INTO gateway_leases (prefix, identity, name)
       SELECT n, $1, $2 FROM generate_series(0, 255) AS n
       WHERE ($3::smallint IS NULL OR n = $3) AND NOT EXISTS (SELECT FROM gateway_leases WHERE prefix = n)
       ORDER BY n LIMIT 1
       RETURNING prefix`,
      [identity, name, wanted],
    );
    return made === undefined ? { kind: 'full' } : { kind: 'leased', prefix: made.prefix };
  });
}
