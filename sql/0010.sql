-- Uniqueness of shares, the second form. A header commits to its job, whose number is in the coinbase: equal hashes are of equal jobs, so
-- (job_id, header_hash) is as unique as header_hash was. But jobs come one after another, and hashes from everywhere: with the hash alone each
-- share touched another page of the whole day's index. At 5,500 shares/s that outgrows 48 MB of shared buffers in minutes, and what the
-- database takes of the processor grew with it. With the job before it, only the pages of the last few jobs are touched.
--
-- Partitions that hold shares already keep their index; the look-up before each insert finds its way in both.

CREATE OR REPLACE FUNCTION make_share_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  partition_name text := 'shares_' || to_char(day, 'YYYYMMDD');
  begins timestamptz := day::timestamp AT TIME ZONE 'UTC';
  ends timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
  IF to_regclass(partition_name) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE shares INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition_name);
  EXECUTE format('CREATE UNIQUE INDEX %I ON %I (job_id, header_hash)', partition_name || '_job_hash', partition_name);
  EXECUTE format(
    'WITH moved AS (DELETE FROM shares_default WHERE accepted_at >= $1 AND accepted_at < $2 RETURNING *) '
    'INSERT INTO %I SELECT * FROM moved', partition_name) USING begins, ends;
  EXECUTE format('ALTER TABLE shares ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition_name, begins, ends);
  RETURN true;
END $$;

CREATE UNIQUE INDEX shares_default_job_hash ON shares_default (job_id, header_hash);
DROP INDEX shares_default_header_hash;

-- Days ahead.
DO $$
DECLARE
  partition_name text;
  is_used boolean;
BEGIN
  FOR partition_name IN
    SELECT child.relname FROM pg_inherits
    JOIN pg_class child ON child.oid = inhrelid
    WHERE inhparent = 'shares'::regclass AND child.relname ~ '^shares_[0-9]{8}$'
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', partition_name) INTO is_used;
    CONTINUE WHEN is_used;
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (job_id, header_hash)', partition_name || '_job_hash', partition_name);
    EXECUTE format('DROP INDEX IF EXISTS %I', partition_name || '_header_hash');
  END LOOP;
END $$;

-- The share that found a block is looked for by the block's hash.
CREATE INDEX shares_blocks ON shares (header_hash) WHERE is_block;
