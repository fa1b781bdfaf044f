SELECT b.gateway_id, b.incarnation, b.sequence, b.batch_hash, b.ledger_epoch, b.posted_at_us, b.audit_head,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(p.line, p.reason) ORDER BY p.line) FROM parked_lines p
        WHERE p.batch_id = b.id), '[]') AS parked,
    r.receipt
FROM receipts r
JOIN batches b USING (batch_hash)
ORDER BY b.id
