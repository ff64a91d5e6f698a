-- The ledger: double entry, append-only, chained by hashes. Rounds and their credits, settings of accounts, schemes of pools.
-- Amounts are satoshi in bigint, times are UTC, hashes in wire order.
--
-- What the database itself holds, whoever writes (short of disabling its triggers; `ledger audit` finds that):
--   * a posting's entries come with it, in one INSERT, sum to zero and are never changed, removed or added to;
--   * postings are numbered without gaps, and each hash covers the one before it, so that nothing old can change unseen;
--   * balances move through entries only; nobody's balance but those of the kinds that are meant to be signed goes below zero.
-- `ledger_post` is the one door. Whoever posts holds the row of ledger_head until the end of his transaction: one writer at a time,
-- also for balances, which are therefore never locked in a circle. Take it first in a transaction, other rows after it.
--
-- Every function here has a fixed search_path with pg_temp last: a temporary table of the same name deceives nobody.

-- No foreign keys in ledger_accounts, ledger_entries and round_credits: 20,000 look-ups of a large credit, one by one, cost more than all
-- the rest. Their triggers look up together.
CREATE TABLE ledger_accounts (
  ledger_account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- chain: where rewards come from; deposit: where the operator's money comes from; paid, network-fee: where money goes. These four
  -- stand for the world outside; each account has a paid of its own, and the operator one without. expense, loss: what the pool bears.
  -- transit: reserved by a payout. carry: what a coinbase-direct pool owes (or is owed) until a later block. Those that end in -immature
  -- are not spendable yet.
  kind text NOT NULL,
  pool text NOT NULL DEFAULT '',
  account_id bigint,
  balance bigint NOT NULL DEFAULT 0,
  CONSTRAINT ledger_accounts_kind CHECK (kind IN ('chain', 'deposit', 'paid', 'network-fee', 'miner', 'miner-immature', 'operator',
    'operator-immature', 'developer', 'developer-immature', 'reserve', 'reserve-immature', 'transit', 'expense', 'loss', 'carry')),
  CONSTRAINT ledger_accounts_owner CHECK
    (kind = 'paid' OR (account_id IS NOT NULL) = (kind IN ('miner', 'miner-immature', 'transit', 'carry'))),
  -- What a miner has is his whichever pool he mined at; a reserve or a carry belongs to one pool.
  CONSTRAINT ledger_accounts_pool CHECK (CASE
    WHEN kind IN ('miner', 'miner-immature', 'transit') THEN pool = ''
    WHEN kind IN ('reserve', 'reserve-immature', 'carry') THEN pool <> ''
    ELSE true END),
  CONSTRAINT ledger_accounts_balance CHECK
    (balance >= 0 OR kind IN ('chain', 'deposit', 'paid', 'network-fee', 'expense', 'loss', 'carry'))
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX ledger_accounts_identity ON ledger_accounts (kind, pool, (coalesce(account_id, 0)));
CREATE INDEX ledger_accounts_account ON ledger_accounts (account_id) WHERE account_id IS NOT NULL;

CREATE TABLE ledger_transactions (
  tx_seq bigint PRIMARY KEY CHECK (tx_seq > 0),
  -- Made by the writer before the act: the same posting again is known by it.
  key text NOT NULL UNIQUE CHECK (octet_length(key) BETWEEN 1 AND 200),
  kind text NOT NULL CHECK (kind IN ('credit', 'mature', 'orphan', 'pps', 'reserve', 'payout-reserve', 'payout-release',
    'payout-settle', 'manual', 'fund', 'loss', 'direct')),
  at timestamptz NOT NULL,
  actor text NOT NULL CHECK (octet_length(actor) BETWEEN 1 AND 200),
  reason text NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 2000),
  block_hash bytea CHECK (octet_length(block_hash) = 32),
  batch_id bigint CHECK (batch_id > 0),
  -- The posting that this one takes back.
  reverses bigint UNIQUE REFERENCES ledger_transactions,
  entries integer NOT NULL CHECK (entries BETWEEN 2 AND 200000),
  previous_hash bytea NOT NULL,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
CREATE INDEX ledger_transactions_block ON ledger_transactions (block_hash) WHERE block_hash IS NOT NULL;
CREATE INDEX ledger_transactions_batch ON ledger_transactions (batch_id) WHERE batch_id IS NOT NULL;

CREATE TABLE ledger_entries (
  tx_seq bigint NOT NULL,
  ordinal integer NOT NULL,
  ledger_account_id bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount <> 0),
  PRIMARY KEY (tx_seq, ordinal)
);
-- An account has one entry in a posting.
CREATE UNIQUE INDEX ledger_entries_account ON ledger_entries (ledger_account_id, tx_seq);

-- The last posting. One row.
CREATE TABLE ledger_head (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  last_seq bigint NOT NULL DEFAULT 0,
  hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
) WITH (fillfactor = 50);
INSERT INTO ledger_head DEFAULT VALUES;

-- Who changed what by hand, and why.
CREATE TABLE ledger_notes (
  note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL,
  actor text NOT NULL CHECK (octet_length(actor) BETWEEN 1 AND 200),
  action text NOT NULL CHECK (octet_length(action) BETWEEN 1 AND 200),
  detail jsonb NOT NULL DEFAULT '{}'
);

-- What one entry adds to the hash of its posting. The payout address itself is in it: exchanging addresses breaks the chain.
CREATE FUNCTION ledger_entry_bytes(kind text, pool text, address text, amount bigint) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT int8send(amount) || int4send(octet_length(convert_to(kind || '/' || pool || '/' || coalesce(address, ''), 'UTF8')))
    || convert_to(kind || '/' || pool || '/' || coalesce(address, ''), 'UTF8')
$$;

-- sha256 over everything a posting says. Numbers are big-endian, an absent one is 0; texts come after their length.
CREATE FUNCTION ledger_hash(previous_hash bytea, seq bigint, at timestamptz, batch_id bigint, reverses bigint, key text, kind text,
  actor text, reason text, block_hash bytea, entry_bytes bytea) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT sha256(previous_hash || int8send(seq) || int8send((extract(epoch FROM at) * 1000000)::bigint)
    || int8send(coalesce(batch_id, 0)) || int8send(coalesce(reverses, 0))
    || int4send(octet_length(convert_to(key, 'UTF8'))) || convert_to(key, 'UTF8')
    || int4send(octet_length(convert_to(kind, 'UTF8'))) || convert_to(kind, 'UTF8')
    || int4send(octet_length(convert_to(actor, 'UTF8'))) || convert_to(actor, 'UTF8')
    || int4send(octet_length(convert_to(reason, 'UTF8'))) || convert_to(reason, 'UTF8')
    || int4send(octet_length(coalesce(block_hash, ''))) || coalesce(block_hash, '')
    || entry_bytes)
$$;

-- A posting moves the head, and is refused unless it is the next one.
CREATE FUNCTION ledger_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ledger_head SET last_seq = NEW.tx_seq, hash = NEW.hash
    WHERE last_seq = NEW.tx_seq - 1 AND hash = NEW.previous_hash;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'posting % does not follow the last one', NEW.tx_seq USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_transactions_follow AFTER INSERT ON ledger_transactions FOR EACH ROW EXECUTE FUNCTION ledger_follow();

-- Entries are taken for whole postings only: ordinals from 1 in each INSERT, so that the primary key stands against a second one.
-- EXECUTE plans anew each time: a plan made when the tables were small would be used for 10,000 entries.
CREATE FUNCTION ledger_apply() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong record;
BEGIN
  EXECUTE
    'SELECT whole.tx_seq, CASE '
    '  WHEN posting.tx_seq IS NULL THEN ''has no posting'' '
    '  WHEN whole.lowest <> 1 OR whole.highest <> posting.entries OR whole.number <> posting.entries '
    '    THEN ''needs all its '' || posting.entries || '' entries, and in one statement'' '
    '  WHEN whole.total <> 0 THEN ''sums to '' || whole.total '
    '  ELSE ''has another hash than it says'' END AS what '
    'FROM ( '
    '  SELECT added.tx_seq, min(added.ordinal) AS lowest, max(added.ordinal) AS highest, '
    '    count(ledger_accounts.ledger_account_id) AS number, sum(added.amount) AS total, '
    '    string_agg(ledger_entry_bytes(ledger_accounts.kind, ledger_accounts.pool, accounts.address, added.amount), '''' '
    '      ORDER BY added.ordinal) AS entry_bytes '
    '  FROM added LEFT JOIN ledger_accounts USING (ledger_account_id) '
    '    LEFT JOIN accounts ON accounts.account_id = ledger_accounts.account_id '
    '  GROUP BY added.tx_seq '
    ') AS whole LEFT JOIN ledger_transactions AS posting USING (tx_seq) '
    'WHERE (posting.tx_seq IS NOT NULL AND whole.lowest = 1 AND whole.highest = posting.entries '
    '  AND whole.number = posting.entries AND whole.total = 0 '
    '  AND posting.hash = ledger_hash(posting.previous_hash, posting.tx_seq, posting.at, posting.batch_id, posting.reverses, '
    '    posting.key, posting.kind, posting.actor, posting.reason, posting.block_hash, whole.entry_bytes)) IS NOT TRUE '
    'LIMIT 1' INTO wrong;
  IF wrong.tx_seq IS NOT NULL THEN
    RAISE EXCEPTION 'posting % %', wrong.tx_seq, wrong.what USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  EXECUTE
    'UPDATE ledger_accounts SET balance = balance + moved.amount '
    'FROM (SELECT ledger_account_id, sum(amount)::bigint AS amount FROM added GROUP BY ledger_account_id) AS moved '
    'WHERE ledger_accounts.ledger_account_id = moved.ledger_account_id';
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_entries_apply AFTER INSERT ON ledger_entries REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_apply();

-- At COMMIT: a posting without its entries does not stay.
CREATE FUNCTION ledger_complete() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  number bigint;
  total numeric;
BEGIN
  SELECT count(*), coalesce(sum(amount), 0) INTO number, total FROM ledger_entries WHERE tx_seq = NEW.tx_seq;
  IF number <> NEW.entries OR total <> 0 THEN
    RAISE EXCEPTION 'posting % has % of its % entries', NEW.tx_seq, number, NEW.entries
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_transactions_complete AFTER INSERT ON ledger_transactions
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_complete();

CREATE TRIGGER ledger_transactions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_notes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_notes
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% moves through postings only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
-- By depth: the statements of the triggers above are the only ones that come from within one. Per statement, because a trigger per row
-- would lock every row of a large posting once more.
CREATE TRIGGER ledger_head_by_hand BEFORE UPDATE ON ledger_head
  FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER ledger_head_kept BEFORE INSERT OR DELETE OR TRUNCATE ON ledger_head
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER ledger_accounts_by_hand BEFORE UPDATE ON ledger_accounts
  FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION refuse_by_hand();
CREATE TRIGGER ledger_accounts_kept BEFORE DELETE OR TRUNCATE ON ledger_accounts
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_by_hand();

-- A ledger account opens empty, and for an account that is there.
CREATE FUNCTION ledger_open() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong record;
BEGIN
  EXECUTE
    'SELECT added.balance, added.account_id FROM added LEFT JOIN accounts USING (account_id) '
    'WHERE added.balance <> 0 OR (added.account_id IS NOT NULL AND accounts.account_id IS NULL) LIMIT 1' INTO wrong;
  IF wrong.balance <> 0 THEN
    RAISE EXCEPTION 'a ledger account opens empty' USING ERRCODE = 'restrict_violation';
  ELSIF wrong.account_id IS NOT NULL THEN
    RAISE EXCEPTION 'there is no account %', wrong.account_id USING ERRCODE = 'foreign_key_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER ledger_accounts_open AFTER INSERT ON ledger_accounts REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_open();

-- An account is its address, for ever.
CREATE TRIGGER accounts_address_kept BEFORE UPDATE ON accounts
  FOR EACH ROW WHEN (OLD.address <> NEW.address OR OLD.account_id <> NEW.account_id) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER accounts_kept BEFORE DELETE OR TRUNCATE ON accounts
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Appends one posting, all or nothing. Entries of one account are added up, zeros left out, the rest put into a fixed order. The same
-- key again: answers the posting that has it, if it says the same in all but its time; else fails with HL001.
CREATE FUNCTION ledger_post(given_key text, given_kind text, given_at timestamptz, given_actor text, given_reason text,
  given_block_hash bytea, given_batch_id bigint, given_reverses bigint,
  kinds text[], pools text[], account_ids bigint[], amounts bigint[],
  OUT posted_seq bigint, OUT is_new boolean) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  head ledger_head;
  old ledger_transactions;
  entry_bytes bytea;
BEGIN
  SELECT * INTO STRICT head FROM ledger_head FOR UPDATE;
  IF cardinality(kinds) <> cardinality(amounts) OR cardinality(pools) <> cardinality(amounts)
    OR cardinality(account_ids) <> cardinality(amounts) OR array_position(amounts, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'entries of posting % are incomplete', given_key USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT array_agg(one.kind ORDER BY one.ordinal), array_agg(one.pool ORDER BY one.ordinal),
      array_agg(one.account_id ORDER BY one.ordinal), array_agg(one.amount ORDER BY one.ordinal),
      string_agg(ledger_entry_bytes(one.kind, one.pool, accounts.address, one.amount), '' ORDER BY one.ordinal)
    INTO kinds, pools, account_ids, amounts, entry_bytes
    FROM (
      SELECT kind, pool, account_id, sum(amount)::bigint AS amount,
        row_number() OVER (ORDER BY account_id NULLS FIRST, kind COLLATE "C", pool COLLATE "C") AS ordinal
      FROM unnest(kinds, pools, account_ids, amounts) AS given(kind, pool, account_id, amount)
      GROUP BY kind, pool, account_id HAVING sum(amount) <> 0
    ) AS one LEFT JOIN accounts USING (account_id);
  SELECT * INTO old FROM ledger_transactions WHERE key = given_key;
  IF FOUND THEN
    IF old.hash <> ledger_hash(old.previous_hash, old.tx_seq, old.at, given_batch_id, given_reverses, given_key, given_kind,
      given_actor, given_reason, given_block_hash, coalesce(entry_bytes, '')) THEN
      RAISE EXCEPTION 'posting % has the key % and says something else', old.tx_seq, given_key USING ERRCODE = 'HL001';
    END IF;
    posted_seq := old.tx_seq;
    is_new := false;
    RETURN;
  END IF;
  posted_seq := head.last_seq + 1;
  is_new := true;
  INSERT INTO ledger_accounts (kind, pool, account_id)
    SELECT given.kind, given.pool, given.account_id
    FROM unnest(kinds, pools, account_ids) WITH ORDINALITY AS given(kind, pool, account_id, ordinal)
    WHERE NOT EXISTS (SELECT FROM ledger_accounts AS known WHERE known.kind = given.kind AND known.pool = given.pool
      AND coalesce(known.account_id, 0) = coalesce(given.account_id, 0))
    ORDER BY given.ordinal
    ON CONFLICT DO NOTHING;
  INSERT INTO ledger_transactions (tx_seq, key, kind, at, actor, reason, block_hash, batch_id, reverses, entries, previous_hash, hash)
    VALUES (posted_seq, given_key, given_kind, given_at, given_actor, given_reason, given_block_hash, given_batch_id, given_reverses,
      coalesce(cardinality(amounts), 0), head.hash,
      ledger_hash(head.hash, posted_seq, given_at, given_batch_id, given_reverses, given_key, given_kind, given_actor, given_reason,
        given_block_hash, entry_bytes));
  INSERT INTO ledger_entries (tx_seq, ordinal, ledger_account_id, amount)
    SELECT posted_seq, given.ordinal, known.ledger_account_id, given.amount
    FROM unnest(kinds, pools, account_ids, amounts) WITH ORDINALITY AS given(kind, pool, account_id, amount, ordinal)
    JOIN ledger_accounts AS known ON known.kind = given.kind AND known.pool = given.pool
      AND coalesce(known.account_id, 0) = coalesce(given.account_id, 0)
    ORDER BY given.ordinal;
END $$;

-- What one block pays and for which shares. A block that leaves the chain and comes back has a round of the next generation.
CREATE TABLE rounds (
  round_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  block_hash bytea NOT NULL REFERENCES blocks,
  generation integer NOT NULL DEFAULT 0 CHECK (generation >= 0),
  pool text NOT NULL,
  scheme text NOT NULL CHECK (scheme IN ('pplns', 'prop', 'pps', 'fpps', 'solo', 'direct')),
  height integer NOT NULL,
  state text NOT NULL DEFAULT 'immature' CHECK (state IN ('immature', 'mature', 'orphaned')),
  reward_sats bigint NOT NULL CHECK (reward_sats >= 0),
  operator_sats bigint NOT NULL CHECK (operator_sats >= 0),
  developer_sats bigint NOT NULL CHECK (developer_sats >= 0),
  -- The window, ends included; first_seq is last_seq + 1 when it is empty.
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  -- The share at the edge when only a part of its work counts.
  boundary_seq bigint,
  boundary_work numeric,
  boundary_counted numeric,
  total_work numeric NOT NULL CHECK (total_work >= 0),
  wanted_work numeric,
  bits bigint NOT NULL,
  found_at timestamptz NOT NULL,
  credited_at timestamptz NOT NULL,
  -- Merkle-sum root of the published statement.
  root bytea NOT NULL,
  credit_tx bigint REFERENCES ledger_transactions,
  mature_tx bigint REFERENCES ledger_transactions,
  reverse_tx bigint REFERENCES ledger_transactions,
  UNIQUE (block_hash, generation),
  CHECK (operator_sats + developer_sats <= reward_sats),
  CHECK (first_seq <= last_seq + 1),
  CHECK ((boundary_seq IS NULL) = (boundary_work IS NULL) AND (boundary_seq IS NULL) = (boundary_counted IS NULL)),
  CHECK (boundary_counted > 0 AND boundary_counted < boundary_work)
);
-- A block is credited once at a time.
CREATE UNIQUE INDEX rounds_standing ON rounds (block_hash) WHERE state <> 'orphaned';
CREATE INDEX rounds_open ON rounds (state) WHERE state = 'immature';
CREATE INDEX rounds_pool ON rounds (pool, last_seq);

CREATE TABLE round_credits (
  round_id bigint NOT NULL,
  account_id bigint NOT NULL,
  work numeric NOT NULL CHECK (work >= 0),
  fee_ppm integer NOT NULL,
  donation_ppm integer NOT NULL,
  credit_sats bigint NOT NULL CHECK (credit_sats >= 0),
  -- By the coinbase itself; null where the ledger pays.
  paid_sats bigint CHECK (paid_sats >= 0),
  PRIMARY KEY (round_id, account_id)
);

-- Credits come once, together, and with the fees are the reward. Accounts are looked up together, as with entries.
CREATE FUNCTION check_round_credits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong record;
BEGIN
  EXECUTE
    'SELECT credited.round_id FROM ( '
    '  SELECT added.round_id, sum(added.credit_sats) AS total, count(*) AS number, count(accounts.account_id) AS known '
    '  FROM added LEFT JOIN accounts USING (account_id) GROUP BY added.round_id '
    ') AS credited LEFT JOIN rounds USING (round_id) '
    'WHERE (credited.total + rounds.operator_sats + rounds.developer_sats = rounds.reward_sats '
    '  AND credited.number = credited.known) IS NOT TRUE LIMIT 1' INTO wrong;
  IF wrong.round_id IS NOT NULL THEN
    RAISE EXCEPTION 'credits of round % are not its reward', wrong.round_id USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER round_credits_whole AFTER INSERT ON round_credits REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_round_credits();
CREATE TRIGGER round_credits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON round_credits
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER rounds_kept BEFORE DELETE OR TRUNCATE ON rounds
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Of a round only its state changes, and only forward.
CREATE TRIGGER rounds_fixed BEFORE UPDATE ON rounds FOR EACH ROW
  WHEN ((OLD.round_id, OLD.block_hash, OLD.generation, OLD.pool, OLD.scheme, OLD.height, OLD.reward_sats, OLD.operator_sats,
      OLD.developer_sats, OLD.first_seq, OLD.last_seq, OLD.boundary_seq, OLD.boundary_work, OLD.boundary_counted, OLD.total_work,
      OLD.wanted_work, OLD.bits, OLD.found_at, OLD.credited_at, OLD.root, OLD.credit_tx)
    IS DISTINCT FROM
      (NEW.round_id, NEW.block_hash, NEW.generation, NEW.pool, NEW.scheme, NEW.height, NEW.reward_sats, NEW.operator_sats,
      NEW.developer_sats, NEW.first_seq, NEW.last_seq, NEW.boundary_seq, NEW.boundary_work, NEW.boundary_counted, NEW.total_work,
      NEW.wanted_work, NEW.bits, NEW.found_at, NEW.credited_at, NEW.root, NEW.credit_tx)
    OR (OLD.state, NEW.state) NOT IN (('immature', 'immature'), ('immature', 'mature'), ('immature', 'orphaned'),
      ('mature', 'mature'), ('mature', 'orphaned'), ('orphaned', 'orphaned')))
  EXECUTE FUNCTION refuse_change();

-- What an account may have otherwise than its pool. No row: nothing.
CREATE TABLE account_settings (
  account_id bigint PRIMARY KEY REFERENCES accounts,
  -- Null: the pool's.
  fee_ppm integer CHECK (fee_ppm BETWEEN 0 AND 1000000),
  donation_ppm integer NOT NULL DEFAULT 0 CHECK (donation_ppm BETWEEN 0 AND 1000000),
  -- Null: the pool's.
  minimum_payout_sats bigint CHECK (minimum_payout_sats >= 0),
  -- Nothing is paid out.
  on_hold boolean NOT NULL DEFAULT false,
  hold_reason text,
  updated_at timestamptz NOT NULL,
  CHECK (coalesce(fee_ppm, 0) + donation_ppm <= 1000000)
);

-- Which scheme a pool's shares are counted by, from which sequence number on; the newest row for a number counts.
CREATE TABLE pool_schemes (
  pool_scheme_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  pool text NOT NULL,
  from_seq bigint NOT NULL CHECK (from_seq >= 0),
  scheme text NOT NULL CHECK (scheme IN ('pplns', 'prop', 'pps', 'fpps', 'solo', 'direct', 'pool')),
  reason text NOT NULL,
  at timestamptz NOT NULL
);
CREATE INDEX pool_schemes_pool ON pool_schemes (pool, from_seq, pool_scheme_id);
CREATE TRIGGER pool_schemes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pool_schemes
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- PPS: up to which share a pool has credited.
CREATE TABLE pps_cursors (
  pool text PRIMARY KEY,
  last_seq bigint NOT NULL CHECK (last_seq >= 0)
);

-- PPS: what an account has earned beyond its last whole satoshi, in 2^-32 satoshi.
CREATE TABLE pps_fractions (
  pool text NOT NULL,
  account_id bigint NOT NULL REFERENCES accounts,
  fraction numeric NOT NULL CHECK (fraction >= 0 AND fraction < 4294967296 AND fraction = trunc(fraction)),
  PRIMARY KEY (pool, account_id)
) WITH (fillfactor = 50);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['ledger_follow', 'ledger_apply', 'ledger_complete', 'ledger_open', 'ledger_post',
    'check_round_credits'] LOOP
    EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', name, current_schema());
  END LOOP;
END $$;
-- Arrays of ten and of ten thousand need different plans; compiling one takes longer than running it.
ALTER FUNCTION ledger_post SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION ledger_post SET jit = off;
REVOKE EXECUTE ON FUNCTION ledger_post FROM PUBLIC;

-- For those who want the writer of money apart from the owner of the tables: a role that may post and read, nothing else. Made where
-- we may make roles.
DO $$
BEGIN
  BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headframe_ledger') THEN
      CREATE ROLE headframe_ledger NOLOGIN;
    END IF;
  EXCEPTION
    WHEN insufficient_privilege THEN
      RAISE NOTICE 'The role headframe_ledger was not made: this user may not make roles.';
      RETURN;
    WHEN duplicate_object OR unique_violation THEN
      NULL;
  END;
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO headframe_ledger', current_schema());
  GRANT EXECUTE ON FUNCTION ledger_post TO headframe_ledger;
  GRANT SELECT ON accounts, ledger_accounts, ledger_transactions, ledger_entries, ledger_head, ledger_notes, account_settings,
    rounds, round_credits, pool_schemes, pps_cursors, pps_fractions TO headframe_ledger;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'The role headframe_ledger has no rights here: this user may not grant them.';
END $$;
