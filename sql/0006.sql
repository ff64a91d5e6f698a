-- How far what came over the bus has been taken in. Written in the transaction of its effect, so that a consumer whose own position
-- was lost, reset or moved by another starts with what the database says.

CREATE TABLE inbox (
  topic text NOT NULL,
  partition_number integer NOT NULL CHECK (partition_number >= 0),
  -- Everything before this offset is stored, or set aside in dead_letters.
  next_offset bigint NOT NULL CHECK (next_offset >= 0),
  PRIMARY KEY (topic, partition_number)
) WITH (fillfactor = 50);

-- Whose marks the share log waits for, so that it knows after a restart whom it has not heard yet.
CREATE TABLE share_gateways (
  gateway text PRIMARY KEY
);
