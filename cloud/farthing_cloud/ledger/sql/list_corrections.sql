SELECT c.correction_id, c.kind, c.account_id, c.authorization_id, c.gateway_id, c.payment_id, c.dispute_id, c.amount_micros,
    c.content, c.person, c.at_us, c.currency, c.plan_id, c.payback_id
FROM corrections c
WHERE c.operator_id = %(operator_id)s
    AND c.posting_id > coalesce((
        SELECT a.posting_id FROM corrections a
        WHERE a.operator_id = %(operator_id)s AND a.correction_id = %(after)s), 0)
ORDER BY c.posting_id
LIMIT %(limit)s
