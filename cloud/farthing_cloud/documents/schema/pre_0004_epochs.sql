-- The ledger's epoch in which a seller was named so: a prefix of an earlier one may have given numbers that a restored database lost.
ALTER TABLE seller ADD COLUMN ledger_epoch bigint NOT NULL DEFAULT 1;
