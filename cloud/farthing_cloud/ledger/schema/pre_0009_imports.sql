-- Batches carried by hand, and what a revoked gateway sealed: parked until two persons have reviewed it.

CREATE TABLE gateway_revocations (
    gateway_id    text PRIMARY KEY REFERENCES gateways (gateway_id),
    revoked_at_us bigint NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON gateway_revocations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE imported_batches (
    batch_hash  bytea PRIMARY KEY CHECK (batch_hash = sha256(batch)),
    gateway_id  text NOT NULL REFERENCES gateways (gateway_id),
    incarnation bigint NOT NULL,
    sequence    bigint NOT NULL,
    batch       bytea NOT NULL,
    signature   bytea NOT NULL,
    key_id      bytea NOT NULL,
    -- zlib (RFC 1950) of a CBOR array of byte strings; empty where there is none.
    leaves      bytea NOT NULL,
    person      text NOT NULL,
    at_us       bigint NOT NULL
);
CREATE INDEX imported_batches_in_order ON imported_batches (gateway_id, incarnation, sequence);
ALTER TABLE imported_batches ALTER COLUMN leaves SET STORAGE EXTERNAL;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON imported_batches
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE import_reviews (
    review_id      text PRIMARY KEY,
    operator_id    text NOT NULL,
    currency       text NOT NULL,
    gateway_id     text NOT NULL REFERENCES gateways (gateway_id),
    -- ImportReviewContent (ledger.proto), byte for byte as both persons saw it.
    content        bytea NOT NULL,
    content_hash   bytea NOT NULL CHECK (content_hash = sha256(content)),
    proposed_by    text NOT NULL,
    proposed_at_us bigint NOT NULL,
    approved_by    text,
    approved_at_us bigint,
    CHECK ((approved_by IS NULL) = (approved_at_us IS NULL)),
    -- Maker and checker are two persons.
    CHECK (approved_by <> proposed_by)
);
CREATE FUNCTION refuse_change_of_review() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.approved_by IS NOT NULL
        OR (OLD.review_id, OLD.operator_id, OLD.currency, OLD.gateway_id, OLD.content, OLD.proposed_by, OLD.proposed_at_us)
        IS DISTINCT FROM
            (NEW.review_id, NEW.operator_id, NEW.currency, NEW.gateway_id, NEW.content, NEW.proposed_by, NEW.proposed_at_us) THEN
        RAISE EXCEPTION 'a review does not change' USING ERRCODE = 'raise_exception';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER no_change BEFORE UPDATE ON import_reviews FOR EACH ROW EXECUTE FUNCTION refuse_change_of_review();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON import_reviews
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT ON gateway_revocations, imported_batches TO farthing_ledger');
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON import_reviews TO farthing_ledger');
    END IF;
END
$$;
