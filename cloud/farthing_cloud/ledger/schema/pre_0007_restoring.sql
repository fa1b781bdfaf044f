-- A ledger restored from a backup (DESIGN 5.10): its epochs, what gateways handed back, and what had to give way.

ALTER TABLE epoch
    ADD COLUMN state    text   NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'stopped', 'restoring')),
    -- Since when it is not open, business time, and why.
    ADD COLUMN since_us bigint NOT NULL DEFAULT 0,
    ADD COLUMN why      text   NOT NULL DEFAULT '';

-- The epochs after the first, and the decision of two persons that began each.
CREATE TABLE epochs (
    epoch       bigint PRIMARY KEY,
    decision_id text   NOT NULL REFERENCES decisions (decision_id),
    began_at_us bigint NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON epochs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The epoch in which its chain of directives is whole.
ALTER TABLE gateways ADD COLUMN epoch bigint NOT NULL DEFAULT 1;

-- What was taken back of each gateway in an epoch.
CREATE TABLE rewindings (
    gateway_id        text    NOT NULL REFERENCES gateways (gateway_id),
    epoch             bigint  NOT NULL,
    shown_at_us       bigint  NOT NULL,
    directives        bigint  NOT NULL,
    set_aside         bigint  NOT NULL,
    quotas            bigint  NOT NULL,
    reinstated_micros numeric(38, 0) NOT NULL,
    short_micros      numeric(38, 0) NOT NULL,
    -- Its last receipt.
    incarnation       bigint  NOT NULL,
    sequence          bigint  NOT NULL,
    given_up          boolean NOT NULL,
    PRIMARY KEY (gateway_id, epoch)
);

-- Directives that the restored ledger wrote without knowing the end of a chain. Each was written again after that end; what was signed of
-- them is kept: it shows how a second directive of one version came to be.
CREATE TABLE directives_set_aside (
    gateway_id text   NOT NULL REFERENCES gateways (gateway_id),
    version    bigint NOT NULL,
    epoch      bigint NOT NULL,
    body       bytea  NOT NULL,
    signature  bytea,
    key_id     bytea,
    PRIMARY KEY (gateway_id, version, epoch)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON directives_set_aside
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A directive leaves its chain only for that table.
DROP TRIGGER append_only ON directives;
CREATE TRIGGER append_only BEFORE TRUNCATE ON directives FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE FUNCTION refuse_loss_of_directive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM directives_set_aside a
        WHERE a.gateway_id = OLD.gateway_id AND a.version = OLD.version AND a.body = OLD.body)
    THEN
        RAISE EXCEPTION 'directives is append-only' USING ERRCODE = 'raise_exception';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER set_aside_first BEFORE DELETE ON directives FOR EACH ROW EXECUTE FUNCTION refuse_loss_of_directive();

-- Below 0: resolved by a directive that was handed back, and not yet proven again.
ALTER TABLE floors DROP CONSTRAINT floors_spent_micros_check;

ALTER TABLE decisions DROP CONSTRAINT decisions_kind_check;
ALTER TABLE decisions ADD CONSTRAINT decisions_kind_check
    CHECK (kind IN ('incarnation', 'forced-void', 'restored', 'given-up'));
-- A new epoch is about no gateway.
ALTER TABLE decisions ALTER COLUMN gateway_id DROP NOT NULL;
ALTER TABLE decisions ADD CONSTRAINT decisions_gateway_check CHECK ((gateway_id IS NULL) = (kind = 'restored'));

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT ON epochs, directives_set_aside TO farthing_ledger');
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON rewindings TO farthing_ledger');
        EXECUTE format('GRANT DELETE ON directives TO farthing_ledger');
    END IF;
END
$$;
