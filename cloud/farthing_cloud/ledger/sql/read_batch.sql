SELECT b.batch, b.batch_hash, b.beyond_micros, b.proven, b.ledger_epoch, b.posted_at_us, b.audit_head,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(p.line, p.reason) ORDER BY p.line) FROM parked_lines p
        WHERE p.batch_id = b.id), '[]') AS parked,
    b.floor, b.key_id
FROM batches b
WHERE b.gateway_id = %(gateway_id)s AND b.incarnation = %(incarnation)s AND b.sequence = %(sequence)s
