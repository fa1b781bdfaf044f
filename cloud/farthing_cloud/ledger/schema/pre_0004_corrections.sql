-- Corrections: what was asked for, by whom, and what it took of which use; and how closed windows were split.

CREATE TABLE corrections (
    operator_id      text NOT NULL,
    -- Given by the caller: it counts once.
    correction_id    text NOT NULL,
    currency         text NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('refund', 'goodwill', 'payback', 'chargeback', 'dispute', 'dispute-won',
                         'dispute-lost', 'write-off', 'closing')),
    account_id       text NOT NULL,
    authorization_id bytea NOT NULL,
    gateway_id       text NOT NULL,
    payment_id       text NOT NULL,
    dispute_id       text NOT NULL,
    amount_micros    numeric(38, 0) NOT NULL CHECK (amount_micros >= 0),
    content          bytea NOT NULL,
    person           text NOT NULL,
    at_us            bigint NOT NULL,
    posting_id       bigint NOT NULL,
    PRIMARY KEY (operator_id, correction_id)
);
CREATE INDEX corrections_in_order ON corrections (operator_id, posting_id);
CREATE INDEX corrections_of_payment ON corrections (operator_id, currency, payment_id) WHERE payment_id <> '';
-- A dispute ends once.
CREATE UNIQUE INDEX corrections_of_dispute ON corrections (operator_id, dispute_id) WHERE dispute_id <> '';

-- (part_posting_id, line): which part of the use, as core/uses.py names them.
CREATE TABLE corrected_parts (
    operator_id      text NOT NULL,
    correction_id    text NOT NULL,
    place            integer NOT NULL,
    part_posting_id  bigint NOT NULL,
    line             integer NOT NULL,
    authorization_id bytea NOT NULL,
    gateway_id       text NOT NULL,
    net_micros       bigint NOT NULL CHECK (net_micros >= 0),
    tax_micros       bigint NOT NULL CHECK (tax_micros >= 0),
    risk_micros      bigint NOT NULL CHECK (risk_micros >= 0),
    -- [[account, micros]]: where a dispute's net was set aside from.
    set_aside        jsonb NOT NULL,
    PRIMARY KEY (operator_id, correction_id, place),
    FOREIGN KEY (operator_id, correction_id) REFERENCES corrections (operator_id, correction_id)
);
CREATE INDEX corrected_parts_of_posting ON corrected_parts (part_posting_id);

-- The rules that a window was split by, as closing it was told: a refund reverses the split by the rule of then.
CREATE TABLE closed_splits (
    operator_id    text NOT NULL,
    currency       text NOT NULL,
    closed         text NOT NULL,
    site_id        text NOT NULL,
    rule_version   bigint NOT NULL,
    -- [[account, parts per million]].
    parts          jsonb NOT NULL,
    remainder_path text NOT NULL,
    PRIMARY KEY (operator_id, currency, closed, site_id)
);

-- What a correction looks for in what was posted: the transfers of a posting (a range of blocks: next to nothing when they are written),
-- and the postings that proved a batch or decided a case.
CREATE INDEX transfers_of_posting ON transfers USING brin (posting_id) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX postings_of_people ON postings (subject) WHERE kind IN ('proven', 'case');
CREATE INDEX batches_carrying ON batches (operator_id, currency) WHERE carried <> '[]';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON corrections
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON corrected_parts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON closed_splits
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'farthing_ledger') THEN
        EXECUTE format('GRANT SELECT, INSERT ON corrections, corrected_parts, closed_splits TO farthing_ledger');
    END IF;
END
$$;
