-- Who reads the outbox, and what it has surely passed; and up to where the outbox was pruned (ADR 43).
CREATE TABLE outbox_readers (
    -- The service that its certificate names.
    reader         text PRIMARY KEY,
    transaction_id xid8 NOT NULL,
    sequence       bigint NOT NULL,
    said_at_us     bigint NOT NULL
);

-- One row, from the first pruning on: everything up to this place is gone.
CREATE TABLE outbox_pruned (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    transaction_id xid8 NOT NULL,
    sequence       bigint NOT NULL
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE 'GRANT DELETE ON outbox TO farthing_ledger';
        EXECUTE 'GRANT SELECT, INSERT ON outbox_readers, outbox_pruned TO farthing_ledger';
        EXECUTE 'GRANT UPDATE (transaction_id, sequence, said_at_us) ON outbox_readers TO farthing_ledger';
        EXECUTE 'GRANT UPDATE (transaction_id, sequence) ON outbox_pruned TO farthing_ledger';
    END IF;
END
$$;
