SELECT c.correction_id, c.kind, c.account_id, c.authorization_id, c.gateway_id, c.payment_id, c.dispute_id, c.amount_micros, c.content,
    c.person, c.at_us, c.currency, c.plan_id, c.payback_id,
    CASE
        WHEN r.correction_id IS NOT NULL THEN 'returned'
        WHEN e.kind = 'payback-sent' THEN 'sent'
        WHEN e.kind = 'payback-failed' THEN 'failed'
        WHEN a.id IS NULL THEN 'booked'
        WHEN h.correction_id IS NOT NULL THEN 'handed'
        ELSE 'waits'
    END,
    coalesce(h.person, ''), coalesce(h.at_us, 0),
    coalesce(r.correction_id, e.correction_id, ''), coalesce(r.payment_id, e.payment_id, ''), coalesce(r.at_us, e.at_us, 0),
    coalesce(p.person, ''), coalesce(p.at_us, 0)
FROM corrections c
LEFT JOIN accounts a ON a.operator_id = c.operator_id AND a.currency = c.currency AND a.path = 'transit/' || c.correction_id
LEFT JOIN corrections p ON p.operator_id = c.operator_id AND p.payback_id = c.correction_id AND p.kind = 'payback-approved'
LEFT JOIN corrections h ON h.operator_id = c.operator_id AND h.payback_id = c.correction_id AND h.kind = 'payback-handed'
LEFT JOIN corrections e ON e.operator_id = c.operator_id AND e.payback_id = c.correction_id
    AND e.kind IN ('payback-sent', 'payback-failed')
LEFT JOIN corrections r ON r.operator_id = c.operator_id AND r.payback_id = c.correction_id AND r.kind = 'payback-returned'
WHERE c.operator_id = %(operator_id)s AND c.kind = 'payback'
    AND (NOT %(open_only)s OR (a.id IS NOT NULL AND e.correction_id IS NULL))
    AND c.posting_id > coalesce((
        SELECT f.posting_id FROM corrections f
        WHERE f.operator_id = %(operator_id)s AND f.correction_id = %(after)s), 0)
ORDER BY c.posting_id
LIMIT %(limit)s
