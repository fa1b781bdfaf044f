SELECT decision_id, kind, coalesce(gateway_id, ''), incarnation, reason, content, content_hash, proposed_by, proposed_at_us,
    coalesce(approved_by, ''), coalesce(approved_at_us, 0)
FROM decisions
WHERE operator_id = %(operator_id)s
ORDER BY proposed_at_us, decision_id
