INSERT INTO details (batch_id, kept_at_us, authorizations, leaves)
SELECT b.id, %(kept_at_us)s, %(authorizations)s::bytea[], %(leaves)s
FROM batches b
WHERE b.gateway_id = %(gateway_id)s AND b.incarnation = %(incarnation)s AND b.sequence = %(sequence)s
ON CONFLICT (batch_id) DO NOTHING
