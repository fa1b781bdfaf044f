-- Payers' documents: who sells and buys, what was issued under which number, and which part of the ledger stands on which document.

-- All versions: the last one is in force.
CREATE TABLE seller (
    operator_id text NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    name text NOT NULL,
    street text NOT NULL,
    city text NOT NULL,
    postcode text NOT NULL,
    country text NOT NULL,
    vat_id text NOT NULL,
    invoice_prefix text NOT NULL,
    credit_note_prefix text NOT NULL,
    person text NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (operator_id, version)
);

-- Personal data: here, and in the documents that were issued.
CREATE TABLE buyer (
    operator_id text NOT NULL,
    account_id text NOT NULL,
    name text NOT NULL,
    street text NOT NULL,
    city text NOT NULL,
    postcode text NOT NULL,
    country text NOT NULL,
    vat_id text NOT NULL,
    person text NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (operator_id, account_id)
);

-- How many numbers of a series were given; counted in the transaction that writes the document, so that none is ever missing.
CREATE TABLE series (
    operator_id text NOT NULL,
    prefix text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('invoice', 'credit-note')),
    issued bigint NOT NULL CHECK (issued >= 0),
    PRIMARY KEY (operator_id, prefix)
);

CREATE TABLE document (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id text NOT NULL,
    number text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('invoice', 'credit-note')),
    prefix text NOT NULL,
    ordinal bigint NOT NULL CHECK (ordinal >= 1),
    account_id text NOT NULL,
    currency text NOT NULL,
    issued_at_us bigint NOT NULL,
    person text NOT NULL,
    -- The invoice that it credits or replaces; empty: none.
    names_number text NOT NULL,
    -- The first invoice of its lines: its own number where it replaces none.
    root_number text NOT NULL,
    exact_micros numeric(38, 0) NOT NULL CHECK (exact_micros > 0),
    rounded_minor numeric(38, 0) NOT NULL CHECK (rounded_minor >= 0),
    content bytea NOT NULL,
    content_hash bytea NOT NULL CHECK (content_hash = sha256(content)),
    UNIQUE (operator_id, number),
    UNIQUE (operator_id, prefix, ordinal),
    FOREIGN KEY (operator_id, prefix) REFERENCES series
);
CREATE INDEX document_of_account ON document (operator_id, account_id, id);
CREATE INDEX document_of_root ON document (operator_id, root_number, id);

-- Up to which place of the ledger's audit chain an account's documents go, run by run, without a gap between two of them.
CREATE TABLE run (
    operator_id text NOT NULL,
    account_id text NOT NULL,
    until_us bigint NOT NULL,
    after_position bigint NOT NULL,
    to_position bigint NOT NULL CHECK (to_position >= after_position),
    numbers text[] NOT NULL,
    person text NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (operator_id, account_id, until_us)
);
CREATE UNIQUE INDEX run_goes_on ON run (operator_id, account_id, after_position) WHERE to_position > after_position;

-- What was billed stands on one invoice: a second one of the same part cannot be written.
CREATE TABLE billed_part (
    operator_id text NOT NULL,
    account_id text NOT NULL,
    position bigint NOT NULL,
    line integer NOT NULL,
    authorization_id bytea NOT NULL,
    root_number text NOT NULL,
    line_number integer NOT NULL,
    net_micros bigint NOT NULL CHECK (net_micros >= 0),
    tax_micros bigint NOT NULL CHECK (tax_micros >= 0),
    PRIMARY KEY (operator_id, account_id, position, line, authorization_id)
);

-- What was given back stands on one credit note.
CREATE TABLE credited_part (
    operator_id text NOT NULL,
    account_id text NOT NULL,
    correction_position bigint NOT NULL,
    position bigint NOT NULL,
    line integer NOT NULL,
    authorization_id bytea NOT NULL,
    number text NOT NULL,
    net_micros bigint NOT NULL CHECK (net_micros >= 0),
    tax_micros bigint NOT NULL CHECK (tax_micros >= 0),
    PRIMARY KEY (operator_id, account_id, correction_position, position, line, authorization_id)
);

-- When and where a use was, as its devices signed it, and the code by which its payer finds it; forgotten after a while.
CREATE TABLE session (
    operator_id text NOT NULL,
    authorization_id bytea NOT NULL,
    gateway_id text NOT NULL,
    device_id text NOT NULL,
    first_at_us bigint NOT NULL,
    last_at_us bigint NOT NULL,
    -- Empty where no token was shown.
    code bytea NOT NULL,
    PRIMARY KEY (operator_id, authorization_id, gateway_id)
);
CREATE INDEX session_code ON session (operator_id, code) WHERE code <> '';
CREATE INDEX session_age ON session (last_at_us);

CREATE FUNCTION never_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is never changed: write a new one', TG_TABLE_NAME;
END;
$$;

CREATE TRIGGER seller_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON seller
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER document_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON document
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER run_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON run
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER billed_part_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON billed_part
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
CREATE TRIGGER credited_part_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON credited_part
    FOR EACH STATEMENT EXECUTE FUNCTION never_changes();
