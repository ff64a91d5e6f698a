-- Payouts. A batch is one transaction's worth of payouts; a generation is one signed form of it (fee bumps make further ones).
--
-- What keeps a payout from happening twice: an account has at most one open item; an output of the wallet belongs to at most one
-- live batch; the signed bytes and their inputs stand here before anybody else sees them; every generation of a batch spends an
-- input of each earlier one, so that the chain takes at most one. States change by compare-and-swap (store/payouts.ts), in the
-- same transaction as the posting that belongs to them.

CREATE TABLE payout_batches (
  batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  state text NOT NULL CHECK (state IN ('planned', 'reserved', 'built', 'exported', 'signed', 'broadcast', 'seen', 'confirmed',
    'settled', 'released', 'manual')),
  signing text NOT NULL CHECK (signing IN ('hot', 'cold')),
  -- Who pays the network's fee: fixed when the batch is made.
  fee_policy text NOT NULL CHECK (fee_policy IN ('pool', 'miner')),
  created_at timestamptz NOT NULL,
  state_at timestamptz NOT NULL,
  total_sats bigint NOT NULL CHECK (total_sats > 0),
  -- Why it waits, was released or needs a person; empty when all is well.
  reason text NOT NULL DEFAULT ''
);
CREATE INDEX payout_batches_open ON payout_batches (batch_id) WHERE state NOT IN ('settled', 'released');
CREATE INDEX payout_batches_created_at ON payout_batches (created_at);

CREATE TABLE payout_items (
  batch_id bigint NOT NULL REFERENCES payout_batches,
  account_id bigint NOT NULL REFERENCES accounts,
  address text NOT NULL,
  script bytea NOT NULL,
  amount_sats bigint NOT NULL CHECK (amount_sats > 0),
  -- What of the amount the miner gives to the network; 0 when the pool pays.
  fee_sats bigint NOT NULL DEFAULT 0 CHECK (fee_sats >= 0 AND fee_sats < amount_sats),
  open boolean NOT NULL DEFAULT true,
  PRIMARY KEY (batch_id, account_id)
);
CREATE UNIQUE INDEX payout_items_open ON payout_items (account_id) WHERE open;
CREATE INDEX payout_items_account ON payout_items (account_id, batch_id);

CREATE TABLE payout_generations (
  batch_id bigint NOT NULL REFERENCES payout_batches,
  generation integer NOT NULL CHECK (generation >= 1),
  -- As the wallet made it, unsigned.
  psbt text NOT NULL,
  -- What the operator brought back from the signer (cold); checked before it becomes `raw`.
  signed_psbt text,
  raw bytea,
  -- Wire order.
  txid bytea UNIQUE CHECK (octet_length(txid) = 32),
  fee_sats bigint NOT NULL CHECK (fee_sats >= 0),
  vsize integer NOT NULL CHECK (vsize > 0),
  state text NOT NULL CHECK (state IN ('built', 'exported', 'signed', 'broadcast', 'seen', 'confirmed', 'superseded', 'dead')),
  made_at timestamptz NOT NULL,
  broadcast_at timestamptz,
  -- When it was last sent.
  sent_at timestamptz,
  seen_at timestamptz,
  block_hash bytea CHECK (octet_length(block_hash) = 32),
  confirmations integer NOT NULL DEFAULT 0,
  PRIMARY KEY (batch_id, generation),
  CHECK ((raw IS NULL) = (txid IS NULL)),
  CHECK (raw IS NOT NULL OR state IN ('built', 'exported', 'superseded', 'dead'))
);

CREATE TABLE payout_inputs (
  txid bytea NOT NULL CHECK (octet_length(txid) = 32),
  vout bigint NOT NULL CHECK (vout BETWEEN 0 AND 4294967295),
  batch_id bigint NOT NULL REFERENCES payout_batches,
  active boolean NOT NULL DEFAULT true,
  value_sats bigint NOT NULL CHECK (value_sats > 0),
  PRIMARY KEY (batch_id, txid, vout)
);
CREATE UNIQUE INDEX payout_inputs_active ON payout_inputs (txid, vout) WHERE active;

-- Signed bytes are never changed or taken back: what was signed once may be out there.
CREATE FUNCTION keep_signed_payout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    RAISE EXCEPTION 'payout generations are kept' USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.psbt IS DISTINCT FROM OLD.psbt OR NEW.batch_id <> OLD.batch_id OR NEW.generation <> OLD.generation
     OR NEW.fee_sats <> OLD.fee_sats
     OR (OLD.raw IS NOT NULL AND (NEW.raw IS DISTINCT FROM OLD.raw OR NEW.txid IS DISTINCT FROM OLD.txid)) THEN
    RAISE EXCEPTION 'a payout generation is written once' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER payout_generations_kept BEFORE UPDATE OR DELETE ON payout_generations
  FOR EACH ROW EXECUTE FUNCTION keep_signed_payout();

CREATE TABLE payout_events (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Null: of all payouts.
  batch_id bigint REFERENCES payout_batches,
  generation integer,
  at timestamptz NOT NULL,
  actor text NOT NULL,
  event text NOT NULL,
  detail text NOT NULL DEFAULT ''
);
CREATE INDEX payout_events_batch ON payout_events (batch_id, event_id);
CREATE TRIGGER payout_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payout_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One row: the kill switch, the schedule, and how far the wallet's history was looked at.
CREATE TABLE payout_control (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  halted boolean NOT NULL DEFAULT false,
  halt_reason text NOT NULL DEFAULT '',
  halted_by text NOT NULL DEFAULT '',
  halted_at timestamptz,
  run_requested_at timestamptz,
  last_run_at timestamptz,
  -- listsinceblock goes on from here; null: the wallet's past is not noted yet.
  scanned_block bytea CHECK (octet_length(scanned_block) = 32),
  -- Since when the wallet's spendable coins do not cover what is owed, although coins that are still immature would.
  short_since timestamptz
) WITH (fillfactor = 50);
INSERT INTO payout_control DEFAULT VALUES;

-- Spends of the wallet that are not payouts and were explained by a person, or were there before the first payout.
CREATE TABLE known_spends (
  txid bytea PRIMARY KEY CHECK (octet_length(txid) = 32),
  note text NOT NULL,
  at timestamptz NOT NULL
);

-- Accounts whose address the wallet refuses: they wait for a person, the others are paid.
CREATE TABLE payout_quarantine (
  account_id bigint PRIMARY KEY REFERENCES accounts,
  reason text NOT NULL,
  at timestamptz NOT NULL
);
