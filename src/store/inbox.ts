/**
 * What came over the bus and how far it was taken in, by topic and partition, moved in the transaction of its effect. And the gateways
 * whose marks the share log waits for.
 */
import type { Db } from '../ports.ts';
import { storableText } from './text.ts';

type Tx = Pick<Db, 'query'>;

const GATEWAY_MAX = 64;
const NOBODY: ReadonlySet<number> = new Set();

/** A transaction that is under way, for verbs that would begin their own: they take part in it. */
export function within(tx: Tx): Pick<Db, 'query' | 'transaction'> {
  return { query: (sql, params) => tx.query(sql, params), transaction: (work) => work(tx) };
}

/** The next offset wanted of each partition of a topic; a partition that nothing was taken of is absent. */
export async function readInbox(tx: Tx, topic: string): Promise<Map<number, bigint>> {
  const rows = await tx.query<{ partition_number: number; next_offset: bigint }>(
    'SELECT partition_number, next_offset FROM inbox WHERE topic = $1',
    [topic],
  );
  return new Map(rows.map((row) => [row.partition_number, row.next_offset]));
}

/**
 * Says that everything before these offsets is stored. Where another has come further that stays, save for the partitions in `back`:
 * they are read again from an earlier place. Answers what stood there before, for partitions that were known; their rows are held
 * until the end of the transaction.
 */
export async function moveInbox(
  tx: Tx,
  topic: string,
  offsets: ReadonlyMap<number, bigint>,
  back: ReadonlySet<number> = NOBODY,
): Promise<Map<number, bigint>> {
  if (offsets.size === 0) return new Map();
  const partitions = [...offsets.keys()].sort((a, b) => a - b);
  const rows = await tx.query<{ partition_number: number; next_offset: bigint }>(
    `SELECT partition_number, next_offset FROM inbox
     WHERE topic = $1 AND partition_number = ANY($2::int[]) ORDER BY partition_number FOR UPDATE`,
    [topic, partitions],
  );
  const before = new Map(rows.map((row) => [row.partition_number, row.next_offset]));
  const next = partitions.map((partition) => {
    const wanted = offsets.get(partition) as bigint;
    const there = back.has(partition) ? wanted : (before.get(partition) ?? wanted);
    return there > wanted ? there : wanted;
  });
  await tx.query(
    `INSERT INTO inbox (topic, partition_number, next_offset)
     SELECT $1, partition_number, next_offset
     FROM unnest($2::int[], $3::bigint[]) AS given(partition_number, next_offset)
     ORDER BY partition_number
     ON CONFLICT (topic, partition_number) DO UPDATE SET next_offset = excluded.next_offset`,
    [topic, partitions, next],
  );
  return before;
}

/** The gateways that the share log waited for when it last stored something. */
export async function readShareGateways(tx: Tx): Promise<string[]> {
  const rows = await tx.query<{ gateway: string }>(
    'SELECT gateway FROM share_gateways ORDER BY gateway',
  );
  return rows.map(({ gateway }) => gateway);
}

/** Replaces the gateways that are waited for. */
export async function writeShareGateways(tx: Tx, gateways: readonly string[]): Promise<void> {
  const names = gateways.map((gateway) => storableText(gateway, GATEWAY_MAX));
  await tx.query('DELETE FROM share_gateways WHERE gateway <> ALL($1::text[])', [names]);
  await tx.query(
    `INSERT INTO share_gateways (gateway) SELECT DISTINCT gateway FROM unnest($1::text[]) AS given(gateway)
     ORDER BY gateway ON CONFLICT (gateway) DO NOTHING`,
    [names],
  );
}
