-- What people registered. `content` is the message of registry.proto as it is answered to List calls, without its status.
CREATE TABLE operator (
    operator_id text PRIMARY KEY,
    content bytea NOT NULL
);

CREATE TABLE site (
    site_id text PRIMARY KEY,
    operator_id text NOT NULL REFERENCES operator,
    content bytea NOT NULL
);

CREATE TABLE gateway (
    gateway_id text PRIMARY KEY,
    operator_id text NOT NULL REFERENCES operator,
    site_id text NOT NULL REFERENCES site,
    status smallint NOT NULL,
    content bytea NOT NULL,
    -- Counts changes; the ledger and the vault know the gateway as of the revisions beside it.
    revision bigint NOT NULL,
    ledger_revision bigint NOT NULL DEFAULT 0,
    vault_revision bigint NOT NULL DEFAULT 0
);

CREATE TABLE tariff (
    operator_id text NOT NULL REFERENCES operator,
    tariff_id text NOT NULL,
    version bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (operator_id, tariff_id, version)
);

CREATE TABLE device (
    device_id text PRIMARY KEY,
    operator_id text NOT NULL REFERENCES operator,
    status smallint NOT NULL,
    content bytea NOT NULL
);

-- `present` false: its gateways were told once that the device is there, and are told what becomes of it.
CREATE TABLE device_site (
    device_id text NOT NULL REFERENCES device,
    site_id text NOT NULL REFERENCES site,
    present boolean NOT NULL,
    PRIMARY KEY (device_id, site_id)
);

-- Who changed a status, from what, to what, and why. Never updated.
CREATE TABLE status_change (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    id text NOT NULL,
    old_status smallint NOT NULL,
    new_status smallint NOT NULL,
    reason text NOT NULL,
    caller text NOT NULL,
    at_us bigint NOT NULL
);

CREATE TABLE wish (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id text NOT NULL,
    -- What it is about, such as "device/chg-1": a newer wish replaces a parked one about the same.
    subject text NOT NULL,
    request bytea NOT NULL,
    parked_reason text
);

CREATE INDEX wish_open ON wish (gateway_id, sequence) WHERE parked_reason IS NULL;
