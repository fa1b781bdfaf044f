-- Who shares, by which rules, which windows were closed, and what was planned.

CREATE TABLE agency (
    operator_id text NOT NULL,
    agency_id text NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (operator_id, agency_id)
);

CREATE TABLE split_rule (
    operator_id text NOT NULL,
    site_id text NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    remainder_path text NOT NULL,
    effective_from_us bigint NOT NULL,
    PRIMARY KEY (operator_id, site_id, version)
);

CREATE TABLE split_part (
    operator_id text NOT NULL,
    site_id text NOT NULL,
    version bigint NOT NULL,
    path text NOT NULL,
    share_ppm integer NOT NULL CHECK (share_ppm > 0),
    PRIMARY KEY (operator_id, site_id, version, path),
    FOREIGN KEY (operator_id, site_id, version) REFERENCES split_rule
);

-- What the ledger was asked to close, durable before it is asked, and what it answered.
CREATE TABLE closing (
    operator_id text NOT NULL,
    window_name text NOT NULL,
    currency text NOT NULL,
    request bytea NOT NULL,
    asked_at_us bigint NOT NULL,
    response bytea,
    closed_at_us bigint,
    -- Why the ledger's answer is not what the rules say; empty when it is.
    disagreement text NOT NULL DEFAULT '',
    PRIMARY KEY (operator_id, window_name)
);

CREATE TABLE payout_plan (
    plan_id text PRIMARY KEY,
    operator_id text NOT NULL,
    window_name text NOT NULL,
    canonical bytea NOT NULL,
    content_hash bytea NOT NULL,
    planned_at_us bigint NOT NULL,
    UNIQUE (operator_id, window_name)
);

-- What each plan promises to whom, so that no later plan promises it again.
CREATE TABLE payout_promise (
    plan_id text NOT NULL REFERENCES payout_plan,
    operator_id text NOT NULL,
    path text NOT NULL,
    planned_micros numeric(38, 0) NOT NULL CHECK (planned_micros > 0),
    PRIMARY KEY (plan_id, path)
);

CREATE INDEX payout_promise_payee ON payout_promise (operator_id, path);

CREATE FUNCTION never_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is never changed: write a new one', TG_TABLE_NAME;
END;
$$;

CREATE TRIGGER split_rule_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON split_rule
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER split_part_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON split_part
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER payout_plan_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON payout_plan
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER payout_promise_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON payout_promise
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
