SELECT c.gateway_id, c.incarnation, c.sequence, c.batch_hash, c.ledger_epoch, c.posted_at_us, c.audit_head, c.parked
FROM unnest(%(gateway_ids)s::text[], %(incarnations)s::bigint[], %(sequences)s::bigint[])
    WITH ORDINALITY AS named (gateway_id, incarnation, sequence, ordinal)
JOIN receipt_content c USING (gateway_id, incarnation, sequence)
ORDER BY named.ordinal
