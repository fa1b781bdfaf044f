-- Where a consumer stands; its row is made at the first time.
INSERT INTO event_cursor (consumer) VALUES (%(consumer)s)
ON CONFLICT (consumer) DO UPDATE SET consumer = excluded.consumer
RETURNING transaction_id, sequence;
