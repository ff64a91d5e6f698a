-- Accounts, workers, shares, blocks. Hashes are in wire order, amounts in satoshi, times in UTC.
--
-- Uniqueness of shares. The identity is header_hash. Every partition of `shares` has its own unique index on it, and the writer
-- (store/shares.ts, one at a time, holding the row of `share_sequence`) looks up each hash within two days around its time before it
-- inserts. So: a redelivered record, which carries the time it was accepted at, is never stored twice however late it comes; the same
-- work accepted twice with different times is credited once while the two times lie within two days of each other, far longer
-- than any job lives. Records older than the oldest partition kept are refused (dead_letters, 'too-old').

CREATE TABLE accounts (
  account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Canonical payout address.
  address text NOT NULL UNIQUE,
  created_at timestamptz NOT NULL
);

CREATE TABLE workers (
  worker_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts,
  name text NOT NULL,
  created_at timestamptz NOT NULL,
  last_share_at timestamptz NOT NULL,
  shares bigint NOT NULL DEFAULT 0,
  work numeric NOT NULL DEFAULT 0,
  best_difficulty double precision NOT NULL DEFAULT 0,
  UNIQUE (account_id, name)
) WITH (fillfactor = 70);
CREATE INDEX workers_last_share_at ON workers USING brin (last_share_at);

-- One row. Whoever holds it is the writer of shares; a rollback gives the numbers back, so that `seq` has no gaps.
CREATE TABLE share_sequence (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  last_seq bigint NOT NULL DEFAULT 0,
  work numeric NOT NULL DEFAULT 0,
  best_difficulty double precision NOT NULL DEFAULT 0,
  -- Shares accepted before this are no longer taken: their partition was removed, and with it the memory of what was credited.
  floor_at timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00'
) WITH (fillfactor = 50);
INSERT INTO share_sequence DEFAULT VALUES;

CREATE TABLE shares (
  seq bigint NOT NULL,
  accepted_at timestamptz NOT NULL,
  account_id bigint NOT NULL,
  worker_id bigint NOT NULL,
  -- Credited; `work` is floor(difficulty * 2^48), the integer that windows are counted in.
  difficulty double precision NOT NULL CHECK (difficulty > 0),
  share_difficulty double precision NOT NULL,
  work numeric NOT NULL CHECK (work >= 0),
  height integer NOT NULL,
  is_block boolean NOT NULL,
  -- False: the job was no longer known when the share was audited, and the gateway's word was taken.
  audited boolean NOT NULL,
  header_hash bytea NOT NULL CHECK (octet_length(header_hash) = 32),
  job_id text NOT NULL,
  gateway text NOT NULL
) PARTITION BY RANGE (accepted_at);
CREATE INDEX shares_seq ON shares (seq);
CREATE INDEX shares_accepted_at ON shares USING brin (accepted_at) WITH (pages_per_range = 32);

-- For a clock that jumped. Rows are moved out of it when their partition is made.
CREATE TABLE shares_default PARTITION OF shares DEFAULT;
CREATE UNIQUE INDEX shares_default_header_hash ON shares_default (header_hash);

-- Makes the partition of one UTC day if it is missing. Answers whether it was.
CREATE FUNCTION make_share_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  partition_name text := 'shares_' || to_char(day, 'YYYYMMDD');
  begins timestamptz := day::timestamp AT TIME ZONE 'UTC';
  ends timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
  IF to_regclass(partition_name) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE shares INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition_name);
  EXECUTE format('CREATE UNIQUE INDEX %I ON %I (header_hash)', partition_name || '_header_hash', partition_name);
  EXECUTE format(
    'WITH moved AS (DELETE FROM shares_default WHERE accepted_at >= $1 AND accepted_at < $2 RETURNING *) '
    'INSERT INTO %I SELECT * FROM moved', partition_name) USING begins, ends;
  EXECUTE format('ALTER TABLE shares ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition_name, begins, ends);
  RETURN true;
END $$;

-- Removes the partitions of all days before `day`, and remembers that shares from before it are no longer taken.
CREATE FUNCTION drop_share_partitions_before(day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  partition_name text;
  dropped integer := 0;
  limit_at timestamptz := day::timestamp AT TIME ZONE 'UTC';
BEGIN
  UPDATE share_sequence SET floor_at = greatest(floor_at, limit_at);
  FOR partition_name IN
    SELECT child.relname FROM pg_inherits
    JOIN pg_class child ON child.oid = inhrelid
    WHERE inhparent = 'shares'::regclass AND child.relname ~ '^shares_[0-9]{8}$'
      AND child.relname < 'shares_' || to_char(day, 'YYYYMMDD')
  LOOP
    EXECUTE format('DROP TABLE %I', partition_name);
    dropped := dropped + 1;
  END LOOP;
  DELETE FROM shares_default WHERE accepted_at < limit_at;
  RETURN dropped;
END $$;

-- Height is no key: two blocks may be found at one height, and one of them is orphaned.
CREATE TABLE blocks (
  hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
  height integer NOT NULL,
  state text NOT NULL CHECK (state IN ('found', 'submitted', 'accepted', 'side', 'confirmed', 'orphaned', 'refused')),
  state_at timestamptz NOT NULL,
  confirmations integer NOT NULL DEFAULT 0,
  -- Null until the record of the find arrives: the outcome may come first.
  account_id bigint REFERENCES accounts,
  worker text,
  job_id text,
  header bytea CHECK (octet_length(header) = 80),
  coinbase bytea,
  found_at timestamptz,
  network_difficulty double precision,
  reward_sats bigint CHECK (reward_sats >= 0)
);
CREATE INDEX blocks_height ON blocks (height);
CREATE INDEX blocks_open ON blocks (state) WHERE state IN ('found', 'submitted', 'accepted', 'side');

CREATE TABLE block_events (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  block_hash bytea NOT NULL REFERENCES blocks,
  state text NOT NULL,
  node text NOT NULL,
  detail text NOT NULL,
  confirmations integer NOT NULL,
  at timestamptz NOT NULL,
  UNIQUE (block_hash, state, node, at, confirmations)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER block_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON block_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What could not be processed, kept for a person to look at.
CREATE TABLE dead_letters (
  letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL,
  topic text NOT NULL,
  reason text NOT NULL,
  detail text NOT NULL,
  digest bytea NOT NULL,
  raw bytea NOT NULL,
  -- Redelivery of the same bytes is the same letter.
  UNIQUE (topic, digest)
);
