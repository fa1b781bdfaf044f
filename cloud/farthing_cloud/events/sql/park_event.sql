INSERT INTO event_parked (consumer, transaction_id, sequence, kind, key, at_us, value, traceparent, reason)
VALUES (%(consumer)s, %(transaction_id)s, %(sequence)s, %(kind)s, %(key)s, %(at_us)s, %(value)s, %(traceparent)s, %(reason)s)
ON CONFLICT (consumer, transaction_id, sequence) DO NOTHING;
