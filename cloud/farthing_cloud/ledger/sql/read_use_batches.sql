SELECT b.posting_id, b.gateway_id, b.incarnation, b.sequence, b.site_id, b.batch, b.proven,
    (SELECT p.id FROM postings p
     WHERE p.kind = 'proven' AND p.subject = b.gateway_id || '/' || b.incarnation || '/' || b.sequence
        AND p.operator_id = b.operator_id) AS proven_by,
    array(SELECT l.line FROM parked_lines l WHERE l.batch_id = b.id ORDER BY l.line) AS parked,
    (SELECT jsonb_build_array(c -> 'net_micros', c -> 'tax_micros')
     FROM jsonb_array_elements(b.carried) AS c
     WHERE c ->> 'authorization_id' = encode(%(authorization_id)s, 'hex') AND c ->> 'gateway_id' = %(gateway_id)s) AS carried
FROM batches b
WHERE b.operator_id = %(operator_id)s AND b.currency = %(currency)s
    AND ((b.gateway_id = %(gateway_id)s
            AND CASE
                WHEN %(postings)s::bigint[] IS NULL THEN position(%(authorization_id)s IN b.batch) > 0
                ELSE b.posting_id = ANY (%(postings)s::bigint[])
            END)
        OR (b.carried <> '[]' AND b.carried @> %(carried)s::jsonb)
        OR (b.gateway_id, b.incarnation, b.sequence) IN (
            SELECT s.gateway_id, s.incarnation, s.sequence FROM asides s WHERE s.case_id = ANY (%(case_ids)s::bigint[])))
ORDER BY b.posting_id
