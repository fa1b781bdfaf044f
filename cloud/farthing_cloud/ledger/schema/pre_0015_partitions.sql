-- Transfers in ranges of posting numbers, each a table of its own: its index stays small, and an old one can be taken out as a whole.
--
-- No row is moved: the table as it is becomes the first partition, with whatever it holds. Its key has to name what it is partitioned by,
-- so its index is built anew, and nobody posts meanwhile (about a second for each million transfers).

DROP INDEX transfers_of_posting;
ALTER TABLE transfers DROP CONSTRAINT transfers_pkey;
ALTER TABLE transfers ALTER COLUMN id DROP IDENTITY;
ALTER TABLE transfers RENAME TO transfers_from_1;

CREATE TABLE transfers (
    -- One count over all partitions, in the order in which they were written.
    id               bigint GENERATED ALWAYS AS IDENTITY,
    posting_id       bigint NOT NULL,
    debit_id         bigint NOT NULL,
    credit_id        bigint NOT NULL,
    amount_micros    bigint NOT NULL CONSTRAINT transfers_amount_micros_check CHECK (amount_micros > 0),
    -- quotas.id; 0 for none.
    quota            bigint NOT NULL,
    line             integer,
    kind             text NOT NULL,
    cause            text NOT NULL,
    authorization_id bytea,
    CONSTRAINT transfers_check CHECK (debit_id <> credit_id),
    -- The transfers of a posting stand together, and are found by it.
    PRIMARY KEY (posting_id, id)
) PARTITION BY RANGE (posting_id);

ALTER TABLE transfers_from_1 ADD PRIMARY KEY (posting_id, id);

DO $$
DECLARE
    -- Room for what is there, and the first range of what comes.
    v_end bigint := (1 + (SELECT coalesce(max(t.posting_id), 0) FROM transfers_from_1 t) / 1000000) * 1000000 + 1;
BEGIN
    EXECUTE format('ALTER TABLE transfers ATTACH PARTITION transfers_from_1 FOR VALUES FROM (1) TO (%s)', v_end);
    EXECUTE format('ALTER TABLE transfers ALTER COLUMN id RESTART WITH %s',
        1 + (SELECT coalesce(max(t.id), 0) FROM transfers_from_1 t));
END
$$;
-- A page of a listing begins after the last id of the page before: next to nothing when rows are written.
CREATE INDEX transfers_by_id ON transfers USING brin (id) WITH (pages_per_range = 16, autosummarize = on);

-- On every partition too: a trigger for a statement guards only the table that the statement names.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        -- Only through the table that has them all.
        EXECUTE 'REVOKE ALL ON transfers_from_1 FROM farthing_ledger';
        EXECUTE 'GRANT SELECT, INSERT ON transfers TO farthing_ledger';
    END IF;
END
$$;
