SELECT b.incarnation, b.sequence, b.batch, b.signature, b.key_id, b.proven, b.leaf_count, d.leaves, r.receipt, r.signature, r.key_id
FROM batches b
LEFT JOIN details d ON d.batch_id = b.id
LEFT JOIN receipts r ON r.batch_hash = b.batch_hash
WHERE b.gateway_id = %(gateway_id)s
    AND (b.id IN (SELECT a.batch_id FROM details a WHERE a.authorizations @> ARRAY[%(authorization_id)s::bytea])
        OR (b.incarnation, b.sequence) = (%(incarnation)s, %(sequence)s))
    AND (%(before_incarnation)s::bigint IS NULL
        OR (b.incarnation, b.sequence) < (%(before_incarnation)s::bigint, %(before_sequence)s::bigint))
ORDER BY b.incarnation DESC, b.sequence DESC
LIMIT %(limit)s
