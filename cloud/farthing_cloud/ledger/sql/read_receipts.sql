SELECT b.gateway_id, b.incarnation, b.sequence, b.batch_hash, b.ledger_epoch, b.posted_at_us, b.audit_head,
    coalesce((
        SELECT jsonb_agg(jsonb_build_array(p.line, p.reason) ORDER BY p.line) FROM parked_lines p
        WHERE p.batch_id = b.id), '[]') AS parked
FROM unnest(%(gateway_ids)s::text[], %(incarnations)s::bigint[], %(sequences)s::bigint[])
    WITH ORDINALITY AS named (gateway_id, incarnation, sequence, ordinal)
JOIN batches b USING (gateway_id, incarnation, sequence)
ORDER BY named.ordinal
