SELECT i.incarnation, i.sequence, i.batch, i.signature, i.key_id, i.leaves
FROM imported_batches i
WHERE i.gateway_id = %(gateway_id)s
    AND (i.incarnation, i.sequence, i.batch_hash) > (%(incarnation)s::bigint, %(sequence)s::bigint, %(batch_hash)s::bytea)
ORDER BY i.incarnation, i.sequence, i.batch_hash
LIMIT %(limit)s
