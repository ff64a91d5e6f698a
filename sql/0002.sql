-- Several pools in one share log, and its sums, so that a window of millions of shares is read from a few thousand rows.
--
-- A span is a fixed number of sequence numbers: span n of a level holds size * n + 1 … size * (n + 1). All pools are numbered together,
-- so a span has rows only of the pools that have shares in it. Spans are closed from the first on, each once and whole, and never change
-- after that. What they say is what the raw shares say: the time stamps are of one pool, the work is an exact sum.

ALTER TABLE shares ADD COLUMN pool text NOT NULL DEFAULT 'main';
-- nBits of its job; 0: from before they were kept.
ALTER TABLE shares ADD COLUMN bits bigint NOT NULL DEFAULT 0;
-- What the coinbase of its job pays in all.
ALTER TABLE shares ADD COLUMN job_value_sats bigint NOT NULL DEFAULT 0 CHECK (job_value_sats >= 0);

-- Where the log begins: what was numbered before is gone with its spans and counts for nobody.
ALTER TABLE share_sequence ADD COLUMN first_seq bigint NOT NULL DEFAULT 1;
-- Bounds on when the shares that no span holds yet were accepted, so that a look at them needs few partitions. Kept by the writer
-- of shares, drawn tighter when spans are closed.
ALTER TABLE share_sequence ADD COLUMN open_first_at timestamptz NOT NULL DEFAULT 'infinity';
ALTER TABLE share_sequence ADD COLUMN open_last_at timestamptz NOT NULL DEFAULT '-infinity';

CREATE TABLE share_span_heads (
  level smallint PRIMARY KEY,
  -- Sequence numbers in a span: a multiple of the level below. Fixed once there are spans.
  size bigint NOT NULL CHECK (size > 0),
  -- Spans with a lower number are closed.
  spans bigint NOT NULL CHECK (spans >= 0)
);

CREATE TABLE share_spans (
  level smallint NOT NULL,
  pool text NOT NULL,
  span bigint NOT NULL,
  account_id bigint NOT NULL,
  shares bigint NOT NULL,
  work numeric NOT NULL,
  PRIMARY KEY (level, pool, span, account_id)
);

CREATE TABLE share_span_totals (
  level smallint NOT NULL,
  pool text NOT NULL,
  span bigint NOT NULL,
  shares bigint NOT NULL,
  work numeric NOT NULL,
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  -- Earliest and latest; clocks jump, so the first share need not be the earliest.
  first_accepted_at timestamptz NOT NULL,
  last_accepted_at timestamptz NOT NULL,
  PRIMARY KEY (level, pool, span)
);
CREATE INDEX share_span_totals_span ON share_span_totals (level, span);

-- Who still needs raw shares after a sequence number; retention leaves them.
CREATE TABLE share_holds (
  name text PRIMARY KEY,
  after_seq bigint NOT NULL
);

-- A log from before this step begins at its oldest row; all of it is to be closed yet, and nothing is known of its times.
UPDATE share_sequence SET first_seq = coalesce((SELECT min(seq) FROM shares), last_seq + 1),
  open_first_at = '-infinity', open_last_at = 'infinity'
WHERE last_seq > 0;
-- The lowest begins with a span that is there as a whole, the higher ones with the one that holds it.
INSERT INTO share_span_heads
SELECT level, size, (first_seq - 1 + CASE level WHEN 0 THEN size - 1 ELSE 0 END) / size
FROM share_sequence, (VALUES (0::smallint, 4096::bigint), (1, 65536), (2, 262144), (3, 1048576)) AS given(level, size);

-- Removes the partitions of days before `day`, oldest first, up to the first that has a share no span holds yet or somebody still
-- needs, and remembers that shares from before the last removed are no longer taken.
CREATE OR REPLACE FUNCTION drop_share_partitions_before(day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  partition_name text;
  newest_seq bigint;
  kept_after bigint;
  dropped integer := 0;
  limit_at timestamptz := day::timestamp AT TIME ZONE 'UTC';
BEGIN
  -- The writer waits: no share comes into a partition between the look and the removal.
  PERFORM FROM share_sequence FOR UPDATE;
  SELECT least(size * spans, (SELECT min(after_seq) FROM share_holds)) INTO kept_after
  FROM share_span_heads WHERE level = 0;
  FOR partition_name IN
    SELECT child.relname FROM pg_inherits
    JOIN pg_class child ON child.oid = inhrelid
    WHERE inhparent = 'shares'::regclass AND child.relname ~ '^shares_[0-9]{8}$'
      AND child.relname < 'shares_' || to_char(day, 'YYYYMMDD')
    ORDER BY child.relname
  LOOP
    EXECUTE format('SELECT max(seq) FROM %I', partition_name) INTO newest_seq;
    IF newest_seq > kept_after THEN
      limit_at := to_date(right(partition_name, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC';
      EXIT;
    END IF;
    EXECUTE format('DROP TABLE %I', partition_name);
    dropped := dropped + 1;
  END LOOP;
  UPDATE share_sequence SET floor_at = greatest(floor_at, limit_at);
  DELETE FROM shares_default WHERE accepted_at < limit_at AND seq <= kept_after;
  RETURN dropped;
END $$;
