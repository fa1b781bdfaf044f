-- How far documents have read the ledger's outbox (farthing_cloud/events/consumer.py).

CREATE TABLE event_cursor (
    consumer text PRIMARY KEY,
    transaction_id bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0,
    -- The inbox no longer remembers what stands at or before this place.
    forgotten_transaction_id bigint NOT NULL DEFAULT -1,
    forgotten_sequence bigint NOT NULL DEFAULT -1
);

CREATE TABLE event_inbox (
    consumer text NOT NULL,
    transaction_id bigint NOT NULL,
    sequence bigint NOT NULL,
    arrival bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (consumer, transaction_id, sequence)
);

CREATE INDEX event_inbox_arrival ON event_inbox (consumer, arrival);

CREATE TABLE event_parked (
    consumer text NOT NULL,
    transaction_id bigint NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    at_us bigint NOT NULL,
    value bytea NOT NULL,
    traceparent text NOT NULL,
    reason text NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    parked_at timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, transaction_id, sequence)
);

CREATE INDEX event_parked_tried ON event_parked (consumer, tried_at);
