-- What the published statement of a round needs beside what was there: the form it is published in, and from which moment on shares
-- count where the window goes by time. Rounds of before keep version 1, which does not say the latter.

ALTER TABLE rounds
  ADD COLUMN statement_version smallint NOT NULL DEFAULT 1 CHECK (statement_version IN (1, 2)),
  ADD COLUMN after_at timestamptz CHECK (after_at IS NULL OR (wanted_work IS NULL AND statement_version >= 2));

-- Of a round only its state changes, and only forward.
DROP TRIGGER rounds_fixed ON rounds;
CREATE TRIGGER rounds_fixed BEFORE UPDATE ON rounds FOR EACH ROW
  WHEN ((OLD.round_id, OLD.block_hash, OLD.generation, OLD.pool, OLD.scheme, OLD.height, OLD.reward_sats, OLD.operator_sats,
      OLD.developer_sats, OLD.first_seq, OLD.last_seq, OLD.boundary_seq, OLD.boundary_work, OLD.boundary_counted, OLD.total_work,
      OLD.wanted_work, OLD.bits, OLD.found_at, OLD.credited_at, OLD.root, OLD.credit_tx, OLD.statement_version, OLD.after_at)
    IS DISTINCT FROM
      (NEW.round_id, NEW.block_hash, NEW.generation, NEW.pool, NEW.scheme, NEW.height, NEW.reward_sats, NEW.operator_sats,
      NEW.developer_sats, NEW.first_seq, NEW.last_seq, NEW.boundary_seq, NEW.boundary_work, NEW.boundary_counted, NEW.total_work,
      NEW.wanted_work, NEW.bits, NEW.found_at, NEW.credited_at, NEW.root, NEW.credit_tx, NEW.statement_version, NEW.after_at)
    OR (OLD.state, NEW.state) NOT IN (('immature', 'immature'), ('immature', 'mature'), ('immature', 'orphaned'),
      ('mature', 'mature'), ('mature', 'orphaned'), ('orphaned', 'orphaned')))
  EXECUTE FUNCTION refuse_change();
