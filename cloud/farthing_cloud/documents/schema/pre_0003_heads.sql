-- What the ledger's audit chain was where a run ended: the next one goes on from there, or not at all.
ALTER TABLE run ADD COLUMN to_head bytea NOT NULL DEFAULT '';
