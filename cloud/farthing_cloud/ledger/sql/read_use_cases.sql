SELECT c.id, c.status,
    (SELECT p.id FROM postings p
     WHERE p.kind = 'case' AND p.subject = c.id::text AND p.operator_id = c.operator_id) AS decided_by
FROM cases c
WHERE c.operator_id = %(operator_id)s AND c.currency = %(currency)s AND c.authorization_id = %(authorization_id)s
    AND EXISTS (
        SELECT FROM asides s
        LEFT JOIN batches b USING (gateway_id, incarnation, sequence)
        WHERE s.case_id = c.id AND (s.gateway_id = %(gateway_id)s OR b.carried @> %(carried)s::jsonb))
ORDER BY c.id
