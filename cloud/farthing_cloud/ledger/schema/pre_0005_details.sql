-- The detail of proven batches as gateways uploaded it: what a payer's doubt is answered from. Forgotten after the retention.
CREATE TABLE details (
    batch_id       bigint PRIMARY KEY REFERENCES batches (id),
    kept_at_us     bigint NOT NULL,
    -- Whose claims stand in the batch.
    authorizations bytea[] NOT NULL,
    -- zlib (RFC 1950) of a CBOR array of byte strings: the leaves in order.
    leaves         bytea NOT NULL
);
-- It is compressed already.
ALTER TABLE details ALTER COLUMN leaves SET STORAGE EXTERNAL;
CREATE INDEX details_of_authorization ON details USING gin (authorizations);
CREATE INDEX details_by_age ON details (kept_at_us);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON details TO farthing_ledger');
    END IF;
END
$$;
