-- The ledger's rows. Accounts keep four balances, transfers are append-only, identities are permanent.

-- What an operator books in one currency: its open window. Posting shares this row, closing takes it alone.
CREATE TABLE books (
    operator_id text NOT NULL,
    currency    text NOT NULL,
    open_window text NOT NULL DEFAULT 'w1',
    PRIMARY KEY (operator_id, currency)
);

-- Counts up when the ledger was restored from a backup (DESIGN 5.10).
CREATE TABLE epoch (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    epoch    bigint  NOT NULL DEFAULT 1
);
INSERT INTO epoch DEFAULT VALUES;

CREATE TABLE accounts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id     text NOT NULL,
    path            text NOT NULL,
    currency        text NOT NULL,
    debits_pending  numeric(38, 0) NOT NULL DEFAULT 0 CHECK (debits_pending >= 0),
    debits_posted   numeric(38, 0) NOT NULL DEFAULT 0 CHECK (debits_posted >= 0),
    credits_pending numeric(38, 0) NOT NULL DEFAULT 0 CHECK (credits_pending >= 0),
    credits_posted  numeric(38, 0) NOT NULL DEFAULT 0 CHECK (credits_posted >= 0),
    UNIQUE (operator_id, currency, path),
    -- Quota accounts are the other side of holds: nothing is ever posted to them.
    CHECK (path NOT LIKE 'quota/%' OR (debits_posted = 0 AND credits_posted = 0)),
    -- An account owes nothing less than nothing.
    CHECK (path NOT LIKE 'debt/%' OR debits_posted >= credits_posted)
) WITH (fillfactor = 70);

CREATE TABLE payers (
    operator_id         text NOT NULL,
    currency            text NOT NULL,
    account_id          text NOT NULL,
    status              text NOT NULL,
    credit_limit_micros bigint NOT NULL CHECK (credit_limit_micros >= 0),
    debt_limit_micros   bigint NOT NULL CHECK (debt_limit_micros >= 0),
    preload_micros      bigint NOT NULL CHECK (preload_micros >= 0),
    PRIMARY KEY (operator_id, account_id)
);

CREATE TABLE gateways (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id         text NOT NULL UNIQUE,
    operator_id        text NOT NULL,
    site_id            text NOT NULL,
    currency           text NOT NULL,
    exposure_micros    bigint NOT NULL CHECK (exposure_micros >= 0),
    beyond_micros      numeric(38, 0) NOT NULL DEFAULT 0 CHECK (beyond_micros >= 0),
    floor_micros       bigint NOT NULL DEFAULT 0 CHECK (floor_micros >= 0),
    incarnation        bigint NOT NULL,
    adopted            boolean NOT NULL DEFAULT false,
    quarantined        boolean NOT NULL DEFAULT false,
    directive_version  bigint NOT NULL DEFAULT 0,
    directive_hash     bytea  NOT NULL,
    time_zone          text NOT NULL,
    batch_key          bytea NOT NULL,
    grant_key          bytea NOT NULL,
    witness_start_id   bytea NOT NULL DEFAULT '',
    witness_position   bigint NOT NULL DEFAULT 0
);

CREATE TABLE chains (
    gateway_id      text NOT NULL REFERENCES gateways (gateway_id),
    incarnation     bigint NOT NULL,
    sequence        bigint NOT NULL,
    head_hash       bytea NOT NULL,
    proven_sequence bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (gateway_id, incarnation)
);

CREATE TABLE quotas (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    quota_id            text NOT NULL UNIQUE,
    operator_id         text NOT NULL,
    currency            text NOT NULL,
    gateway_id          text NOT NULL REFERENCES gateways (gateway_id),
    incarnation         bigint NOT NULL,
    account_id          text NOT NULL,
    amount_micros       bigint NOT NULL CHECK (amount_micros > 0),
    posted_micros       bigint NOT NULL DEFAULT 0 CHECK (posted_micros >= 0),
    voided_micros       bigint NOT NULL DEFAULT 0 CHECK (voided_micros >= 0),
    status              text NOT NULL CHECK (status IN ('open', 'recalled', 'stopped', 'closed')),
    spend_until_us      bigint NOT NULL,
    report_until_us     bigint NOT NULL,
    request_counter     bigint NOT NULL,
    -- The latest the gateway said that a hold of it is in use (DESIGN 5.6).
    in_use_at_us        bigint,
    CHECK (posted_micros + voided_micros <= amount_micros),
    CHECK (status <> 'closed' OR posted_micros + voided_micros = amount_micros)
) WITH (fillfactor = 70);
CREATE INDEX quotas_open ON quotas (operator_id, account_id) WHERE status <> 'closed';
CREATE INDEX quotas_of_gateway ON quotas (gateway_id) WHERE status <> 'closed';

CREATE TABLE quota_requests (
    gateway_id    text NOT NULL,
    incarnation   bigint NOT NULL,
    counter       numeric(20, 0) NOT NULL,
    account_id    text NOT NULL,
    wanted_micros bigint NOT NULL,
    answer        integer NOT NULL,
    quota_id      text NOT NULL,
    amount_micros bigint NOT NULL,
    PRIMARY KEY (gateway_id, incarnation, counter)
);

-- One link of an operator's audit chain, and what its transfers have in common.
CREATE TABLE postings (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id    text NOT NULL,
    currency       text NOT NULL,
    -- Counts the links of one operator, without gaps.
    position       bigint NOT NULL,
    kind           text NOT NULL,
    subject        text NOT NULL,
    posted_at_us   bigint NOT NULL,
    business_at_us bigint NOT NULL,
    digest         bytea NOT NULL,
    head           bytea NOT NULL,
    UNIQUE (operator_id, position)
);

CREATE TABLE audit_heads (
    operator_id text PRIMARY KEY,
    position    bigint NOT NULL,
    head        bytea NOT NULL
);

-- Transfers. One index: a random one more than halves what can be posted in a second.
CREATE TABLE transfers (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    posting_id       bigint NOT NULL,
    debit_id         bigint NOT NULL,
    credit_id        bigint NOT NULL,
    amount_micros    bigint NOT NULL CHECK (amount_micros > 0),
    -- quotas.id; 0 for none.
    quota            bigint NOT NULL,
    line             integer,
    kind             text NOT NULL,
    cause            text NOT NULL,
    authorization_id bytea,
    CHECK (debit_id <> credit_id)
);

CREATE TABLE payments (
    operator_id   text NOT NULL,
    currency      text NOT NULL,
    payment_id    text NOT NULL,
    account_id    text NOT NULL,
    amount_micros bigint NOT NULL,
    source        text NOT NULL,
    posting_id    bigint NOT NULL,
    PRIMARY KEY (operator_id, currency, payment_id)
);

-- Dedupe is permanent: a batch's row stays for ever, and so do its bytes.
CREATE TABLE batches (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_hash        bytea NOT NULL UNIQUE,
    gateway_id        text NOT NULL REFERENCES gateways (gateway_id),
    incarnation       bigint NOT NULL,
    sequence          bigint NOT NULL,
    operator_id       text NOT NULL,
    currency          text NOT NULL,
    site_id           text NOT NULL,
    previous_hash     bytea NOT NULL,
    batch             bytea NOT NULL,
    signature         bytea NOT NULL,
    key_id            bytea NOT NULL,
    start_id          bytea NOT NULL,
    first_position    numeric(20, 0) NOT NULL,
    last_position     numeric(20, 0) NOT NULL,
    directive_version numeric(20, 0) NOT NULL,
    sealed_at_us      bigint NOT NULL,
    merkle_root       bytea NOT NULL,
    leaf_count        bigint NOT NULL,
    lines             integer NOT NULL,
    claims            integer NOT NULL,
    due_micros        bigint NOT NULL,
    net_micros        bigint NOT NULL,
    tax_micros        bigint NOT NULL,
    aside_micros      bigint NOT NULL,
    parked_micros     bigint NOT NULL,
    beyond_micros     bigint NOT NULL,
    -- Account id -> micros: what it paid, or owes, of its spending on the floor.
    floor             jsonb NOT NULL,
    -- Net of it that stands in some window's clearing: its own, and what cases released later.
    clearing_micros   bigint NOT NULL,
    posting_id        bigint NOT NULL,
    posted_at_us      bigint NOT NULL,
    ledger_epoch      bigint NOT NULL,
    audit_head        bytea NOT NULL,
    proven            boolean NOT NULL,
    UNIQUE (gateway_id, incarnation, sequence),
    CHECK (due_micros = net_micros + tax_micros + aside_micros + parked_micros)
);
CREATE INDEX batches_unproven ON batches (operator_id, currency, site_id) WHERE NOT proven;

-- Lines that could not be understood; with their batch's bytes they can be posted once they can.
CREATE TABLE parked_lines (
    batch_id   bigint NOT NULL REFERENCES batches (id),
    line       integer NOT NULL,
    reason     text NOT NULL,
    net_micros bigint NOT NULL,
    tax_micros bigint NOT NULL,
    PRIMARY KEY (batch_id, line)
);

-- Batches that do not fit their chain: kept, not posted.
CREATE TABLE parked_batches (
    batch_hash  bytea PRIMARY KEY,
    gateway_id  text NOT NULL,
    incarnation bigint NOT NULL,
    sequence    bigint NOT NULL,
    batch       bytea NOT NULL,
    signature   bytea NOT NULL,
    key_id      bytea NOT NULL,
    reason      text NOT NULL,
    arrived_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE receipts (
    batch_hash bytea PRIMARY KEY REFERENCES batches (batch_hash),
    receipt    bytea NOT NULL,
    signature  bytea NOT NULL,
    key_id     bytea NOT NULL
);

-- A row to lock: two batches that claim on one register wait for each other.
CREATE TABLE registers (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id      text NOT NULL,
    register_id    text NOT NULL,
    register_epoch bigint NOT NULL,
    UNIQUE (device_id, register_id, register_epoch)
);

-- The highest claim of each authorization, as its gateway tells it. (An authorization's id is a hash of names and a counter: another
-- gateway can work it out beforehand, but what that one claims under it changes nothing here.)
CREATE TABLE claims (
    authorization_id bytea NOT NULL,
    -- registers.id. (A foreign key would look up and lock each register once more; nobody deletes registers.)
    register         bigint NOT NULL,
    register_from    numeric(20, 0) NOT NULL,
    register_to      numeric(20, 0) NOT NULL,
    net_micros       bigint NOT NULL,
    tax_micros       bigint NOT NULL,
    final            boolean NOT NULL,
    aside            boolean NOT NULL,
    operator_id      text NOT NULL,
    gateway_id       text NOT NULL,
    incarnation      bigint NOT NULL,
    sequence         bigint NOT NULL,
    PRIMARY KEY (authorization_id, gateway_id),
    CHECK (register_from <= register_to)
) WITH (fillfactor = 80);
-- Who else claims here: what ends after my start. New use is at the end of its register, so this finds few rows.
CREATE INDEX claims_on_register ON claims (register, register_to);

CREATE TABLE cases (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id            text NOT NULL,
    currency               text NOT NULL,
    kind                   text NOT NULL,
    status                 text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'released', 'voided')),
    site_id                text NOT NULL,
    device_id              text NOT NULL,
    authorization_id       bytea NOT NULL,
    other_authorization_id bytea NOT NULL,
    missing_micros         bigint NOT NULL DEFAULT 0,
    opened_at_us           bigint NOT NULL
);
CREATE INDEX cases_open ON cases (authorization_id) WHERE status = 'open';

CREATE TABLE asides (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id     bigint NOT NULL REFERENCES cases (id),
    gateway_id  text NOT NULL,
    incarnation bigint NOT NULL,
    sequence    bigint NOT NULL,
    line        integer NOT NULL,
    account_id  text NOT NULL,
    site_id     text NOT NULL,
    rate_ppm    integer NOT NULL,
    net_micros  bigint NOT NULL,
    tax_micros  bigint NOT NULL
);
CREATE INDEX asides_of_case ON asides (case_id);

-- One chain per gateway. The signature follows the transaction that wrote the bytes.
CREATE TABLE directives (
    gateway_id      text NOT NULL REFERENCES gateways (gateway_id),
    version         bigint NOT NULL,
    previous_hash   bytea NOT NULL,
    body            bytea NOT NULL,
    body_hash       bytea NOT NULL,
    idempotency_key text,
    signature       bytea,
    key_id          bytea,
    PRIMARY KEY (gateway_id, version)
);
CREATE UNIQUE INDEX directives_wished ON directives (gateway_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX directives_unsigned ON directives (gateway_id, version) WHERE signature IS NULL;

CREATE TABLE told (
    gateway_id  text NOT NULL REFERENCES gateways (gateway_id),
    operator_id text NOT NULL,
    account_id  text NOT NULL,
    PRIMARY KEY (operator_id, account_id, gateway_id)
);

-- Proven spending on the floor whose account still owes: its room returns when the debt is settled.
CREATE TABLE floors (
    gateway_id   text NOT NULL REFERENCES gateways (gateway_id),
    account_id   text NOT NULL,
    spent_micros bigint NOT NULL CHECK (spent_micros >= 0),
    PRIMARY KEY (gateway_id, account_id)
);

CREATE TABLE closings (
    operator_id  text NOT NULL,
    currency     text NOT NULL,
    closed       text NOT NULL,
    answer       bytea NOT NULL,
    closed_at_us bigint NOT NULL,
    posting_id   bigint NOT NULL,
    PRIMARY KEY (operator_id, currency, closed)
);

-- Read by (transaction_id, sequence) below pg_snapshot_xmin: a transaction that commits late is not skipped.
CREATE TABLE outbox (
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence       bigint GENERATED ALWAYS AS IDENTITY,
    kind           text NOT NULL,
    key            text NOT NULL,
    at_us          bigint NOT NULL,
    value          bytea NOT NULL,
    traceparent    text NOT NULL,
    PRIMARY KEY (transaction_id, sequence)
);

-- What has been posted does not change: nobody may, whatever their privilege is.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'raise_exception';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON postings
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON receipts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON batches
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON directives
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON transfers, postings, receipts FROM PUBLIC;

-- The role that serves: may add, may not change what was posted. Production logs in as a member of it. Where the one who
-- migrates may not make roles, somebody who may does so before: CREATE ROLE farthing_ledger NOLOGIN.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        CREATE ROLE farthing_ledger NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this server made it just now
    WHEN insufficient_privilege THEN RAISE WARNING 'role farthing_ledger is missing and may not be made here';
END
$$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO farthing_ledger', current_schema());
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA %I TO farthing_ledger', current_schema());
        REVOKE UPDATE ON transfers, postings, receipts FROM farthing_ledger;
    END IF;
END
$$;
