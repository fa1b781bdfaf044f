-- The original of a token is in `sealed` only, under a key that never leaves the cloud's token.
CREATE TABLE token (
    token_id text PRIMARY KEY,
    operator_id text NOT NULL,
    -- HMAC of the token under a key in the cloud's token: finds it again without knowing it.
    lookup bytea NOT NULL,
    account_id text NOT NULL,
    label text NOT NULL,
    sealed bytea NOT NULL,
    denied_reason text,
    UNIQUE (operator_id, lookup)
);

-- The gateways that were told: each hears of every token of its operator.
CREATE TABLE gateway (
    gateway_id text PRIMARY KEY,
    operator_id text NOT NULL,
    site_id text NOT NULL,
    unwrap_key bytea NOT NULL
);

-- The present epoch of a site's key; the key itself is in the cloud's token, named by site and epoch.
CREATE TABLE site_key (
    site_id text PRIMARY KEY,
    operator_id text NOT NULL,
    epoch bigint NOT NULL
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
