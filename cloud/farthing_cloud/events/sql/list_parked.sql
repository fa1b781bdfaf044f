SELECT transaction_id, sequence, kind, key, at_us, value, traceparent, reason
FROM event_parked
WHERE consumer = %(consumer)s
ORDER BY tried_at, transaction_id, sequence
LIMIT %(limit)s;
