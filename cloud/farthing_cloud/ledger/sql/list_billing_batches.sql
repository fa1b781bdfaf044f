SELECT b.id, b.posting_id, b.gateway_id, b.batch, d.leaves
FROM batches b
JOIN details d ON d.batch_id = b.id
WHERE b.gateway_id = %(gateway_id)s AND b.proven AND d.batch_id > %(after)s
    AND d.authorizations && %(authorization_ids)s::bytea[]
ORDER BY b.id
LIMIT %(limit)s
