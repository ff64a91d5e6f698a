-- Whose rules a found block is paid by, and in scheme direct the plan that its coinbase was made from.

ALTER TABLE blocks
  ADD COLUMN pool text NOT NULL DEFAULT 'main',
  ADD COLUMN plan_id text NOT NULL DEFAULT '';
