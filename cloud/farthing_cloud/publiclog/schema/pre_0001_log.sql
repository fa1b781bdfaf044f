-- Append-only logs: what stood in one once stands there for ever.

CREATE TABLE log (
    name text PRIMARY KEY,
    size bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    -- Entries are taken in from a ledger of this epoch only; 0: from the next one that is asked.
    ledger_epoch bigint NOT NULL DEFAULT 0,
    -- How far the registry's changes were read.
    source_transaction_id bigint NOT NULL DEFAULT 0,
    source_sequence bigint NOT NULL DEFAULT 0
);

INSERT INTO log (name) VALUES ('batches'), ('devices');

CREATE TABLE leaf (
    log text NOT NULL REFERENCES log,
    leaf_index bigint NOT NULL CHECK (leaf_index >= 0),
    -- What it is about: a batch's hash, a device's id.
    subject bytea NOT NULL,
    entry bytea NOT NULL,
    PRIMARY KEY (log, leaf_index)
);

CREATE INDEX leaf_subject ON leaf (log, subject, leaf_index);

CREATE TABLE checkpoint (
    log text NOT NULL REFERENCES log,
    size bigint NOT NULL,
    root bytea NOT NULL,
    note bytea NOT NULL,
    PRIMARY KEY (log, size)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER leaf_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON leaf
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER checkpoint_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
