/** Records that could not be processed, kept for a person to look at. Bounded: the newest 100,000 stay. */
import { createHash } from 'node:crypto';
import type { Db } from '../ports.ts';
import { storableText } from './text.ts';

export type DeadLetter = {
  topic: string;
  /** A word from a closed list, such as `undecodable`. */
  reason: string;
  detail: string;
  raw: Uint8Array;
  atMs: number;
};

const LETTERS_MAX = 100_000;
const RAW_BYTES_MAX = 64 * 1024;
const DETAIL_MAX = 1_000;

/** Stores the letters; the same bytes on the same topic are one letter, however often they come. */
export async function recordDeadLetters(
  db: Pick<Db, 'query'>,
  letters: readonly DeadLetter[],
): Promise<void> {
  if (letters.length === 0) return;
  await db.query(
    `INSERT INTO dead_letters (at, topic, reason, detail, digest, raw)
     SELECT to_timestamp(ms / 1000.0), topic, reason, detail, digest, raw
     FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])
          AS given(ms, topic, reason, detail, digest, raw)
     ON CONFLICT (topic, digest) DO NOTHING`,
    [
      letters.map((letter) => letter.atMs),
      letters.map((letter) => letter.topic),
      letters.map((letter) => letter.reason),
      letters.map((letter) => storableText(letter.detail, DETAIL_MAX)),
      letters.map((letter) => createHash('sha256').update(letter.raw).digest()),
      letters.map((letter) => letter.raw.subarray(0, RAW_BYTES_MAX)),
    ],
  );
}

/** Removes all but the newest. */
export async function trimDeadLetters(db: Pick<Db, 'query'>): Promise<void> {
  await db.query(
    `DELETE FROM dead_letters WHERE letter_id <=
       (SELECT letter_id FROM dead_letters ORDER BY letter_id DESC OFFSET $1 LIMIT 1)`,
    [LETTERS_MAX],
  );
}
