-- What devices have signed, what it proved, and what was done about it.

-- The first content seen by each name. Later ones with the same content add nothing; one with another content is a proof.
CREATE TABLE statement (
    device_id text NOT NULL,
    device_epoch bigint NOT NULL,
    key_id bytea NOT NULL,
    counter bigint NOT NULL,
    payload_hash bytea NOT NULL,
    gateway_id text NOT NULL,
    cose bytea NOT NULL,
    -- Order in which they came: what came first is forgotten first, so that nobody can push others out by high counters.
    arrival bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (device_id, device_epoch, key_id, counter)
);

CREATE INDEX statement_arrival ON statement (device_id, arrival);

-- How many statements of a device are kept.
CREATE TABLE device_window (
    device_id text PRIMARY KEY,
    kept bigint NOT NULL CHECK (kept >= 0)
);

CREATE TABLE fraud_case (
    case_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id text NOT NULL,
    kind text NOT NULL CHECK (kind = 'clone'),
    device_id text NOT NULL,
    device_epoch bigint NOT NULL,
    key_id bytea NOT NULL,
    opened_at_us bigint NOT NULL,
    UNIQUE (kind, device_id, device_epoch, key_id)
);

CREATE INDEX fraud_case_operator ON fraud_case (operator_id, case_id);

-- Two statements of one name with other content.
CREATE TABLE proof (
    case_id bigint NOT NULL REFERENCES fraud_case,
    proof_id bytea NOT NULL,
    device_epoch bigint NOT NULL,
    counter bigint NOT NULL,
    first_cose bytea NOT NULL,
    first_gateway_id text NOT NULL,
    second_cose bytea NOT NULL,
    second_gateway_id text NOT NULL,
    arrival bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (case_id, proof_id)
);

-- An action is due until it is done; a new proof makes it due again.
CREATE TABLE action (
    case_id bigint NOT NULL REFERENCES fraud_case,
    kind text NOT NULL CHECK (kind = 'block-device'),
    state text NOT NULL CHECK (state IN ('due', 'done')),
    -- How often it was asked for: an answer to an older wish does not settle a newer one.
    wish bigint NOT NULL DEFAULT 1,
    attempts bigint NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    outcome text NOT NULL DEFAULT '',
    changed_at_us bigint NOT NULL,
    PRIMARY KEY (case_id, kind)
);

CREATE INDEX action_due ON action (case_id) WHERE state = 'due';

-- What the ledger set aside because two authorizations claim one use.
CREATE TABLE overlap (
    operator_id text NOT NULL,
    ledger_case_id bigint NOT NULL,
    device_id text NOT NULL,
    authorization_id bytea NOT NULL,
    other_authorization_id bytea NOT NULL,
    aside_micros bigint NOT NULL,
    PRIMARY KEY (operator_id, ledger_case_id)
);

CREATE INDEX overlap_device ON overlap (operator_id, device_id);
