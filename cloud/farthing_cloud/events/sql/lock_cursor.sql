-- One transaction of a consumer at a time, whatever number of processes follow under its name.
INSERT INTO event_cursor (consumer) VALUES (%(consumer)s)
ON CONFLICT (consumer) DO UPDATE SET consumer = excluded.consumer
RETURNING forgotten_transaction_id, forgotten_sequence;
