-- Which key a gateway signed its batches with, and until when: a batch is judged by the key that was valid when it was sealed.
CREATE TABLE batch_keys (
    gateway_id text NOT NULL REFERENCES gateways (gateway_id),
    number     bigint NOT NULL CHECK (number >= 1),
    -- SubjectPublicKeyInfo (DER).
    batch_key  bytea NOT NULL CHECK (batch_key <> ''),
    -- Instants of the business clock. No end: the present one.
    since_us   bigint NOT NULL,
    until_us   bigint CHECK (until_us >= since_us),
    -- Good for nothing any more, whatever it signed and whenever.
    revoked_us bigint,
    PRIMARY KEY (gateway_id, number),
    CHECK (revoked_us IS NULL OR until_us IS NOT NULL)
);
CREATE UNIQUE INDEX batch_keys_present ON batch_keys (gateway_id) WHERE until_us IS NULL;

-- What is on record is all there ever was: it is good for all that came before.
INSERT INTO batch_keys (gateway_id, number, batch_key, since_us)
SELECT gateway_id, 1, batch_key, 0 FROM gateways WHERE batch_key <> '';

CREATE FUNCTION refuse_change_of_batch_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.gateway_id, OLD.number, OLD.batch_key, OLD.since_us) IS DISTINCT FROM (NEW.gateway_id, NEW.number, NEW.batch_key, NEW.since_us)
        OR (OLD.until_us IS NOT NULL AND OLD.until_us IS DISTINCT FROM NEW.until_us)
        OR (OLD.revoked_us IS NOT NULL AND OLD.revoked_us IS DISTINCT FROM NEW.revoked_us) THEN
        RAISE EXCEPTION 'a batch key ends once, and is revoked for ever' USING ERRCODE = 'raise_exception';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER no_change BEFORE UPDATE ON batch_keys FOR EACH ROW EXECUTE FUNCTION refuse_change_of_batch_key();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON batch_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON batch_keys TO farthing_ledger');
    END IF;
END
$$;
