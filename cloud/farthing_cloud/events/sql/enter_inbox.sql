-- The places not seen before, entered now.
INSERT INTO event_inbox (consumer, transaction_id, sequence)
SELECT %(consumer)s, transaction_id, sequence
FROM unnest(%(transaction_ids)s::bigint[], %(sequences)s::bigint[]) AS place (transaction_id, sequence)
ON CONFLICT DO NOTHING
RETURNING transaction_id, sequence;
