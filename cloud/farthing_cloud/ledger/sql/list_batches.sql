SELECT b.gateway_id, b.incarnation, b.sequence, b.batch_hash, b.sealed_at_us, b.posted_at_us, b.lines, b.claims, b.leaf_count,
    b.net_micros, b.tax_micros, b.proven, (SELECT count(*) FROM parked_lines p WHERE p.batch_id = b.id) AS parked_lines, b.parked_micros,
    array(SELECT DISTINCT p.reason FROM parked_lines p WHERE p.batch_id = b.id ORDER BY p.reason) AS parked_reasons
FROM batches b
WHERE b.operator_id = %(operator_id)s AND %(gateway_id)s IN ('', b.gateway_id)
    AND (NOT %(parked_only)s OR b.parked_micros > 0 OR EXISTS (SELECT FROM parked_lines p WHERE p.batch_id = b.id))
    AND (b.gateway_id, b.incarnation, b.sequence) > (%(after_gateway_id)s, %(after_incarnation)s, %(after_sequence)s)
ORDER BY b.gateway_id, b.incarnation, b.sequence
LIMIT %(limit)s
