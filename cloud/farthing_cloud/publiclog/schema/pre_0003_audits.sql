-- Whose batches the entries are: for audits, never published.
CREATE TABLE posted (
    batch_hash bytea PRIMARY KEY,
    operator_id text NOT NULL,
    gateway_id text NOT NULL,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL
);

CREATE TABLE audit (
    batch_hash bytea PRIMARY KEY REFERENCES posted,
    -- Of the log "batches": the checkpoint that it was drawn from.
    checkpoint_log text NOT NULL DEFAULT 'batches' CHECK (checkpoint_log = 'batches'),
    checkpoint_size bigint NOT NULL,
    rate_ppm integer NOT NULL,
    drawn_at_us bigint NOT NULL,
    due_at_us bigint NOT NULL,
    outcome text NOT NULL DEFAULT 'waits' CHECK (outcome IN ('waits', 'passed', 'unanswered', 'false')),
    detail text NOT NULL DEFAULT '',
    FOREIGN KEY (checkpoint_log, checkpoint_size) REFERENCES checkpoint (log, size)
);

CREATE INDEX audit_waits ON audit (due_at_us) WHERE outcome = 'waits';
CREATE INDEX audit_drawn ON audit (drawn_at_us);

-- Up to which checkpoint was drawn.
CREATE TABLE drawing (
    size bigint NOT NULL
);

INSERT INTO drawing (size) SELECT coalesce(max(size), 0) FROM checkpoint WHERE log = 'batches';
