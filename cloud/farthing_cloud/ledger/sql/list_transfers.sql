-- A page begins after the last transfer of the page before, in the order of postings.
SELECT t.id, t.kind, d.path, c.path, d.currency, t.amount_micros, coalesce(q.quota_id, ''), t.cause,
    coalesce(b.gateway_id || '/' || b.incarnation || '/' || b.sequence, ''), p.posted_at_us, p.business_at_us
FROM transfers t
JOIN postings p ON p.id = t.posting_id
JOIN accounts d ON d.id = t.debit_id
JOIN accounts c ON c.id = t.credit_id
LEFT JOIN quotas q ON q.id = t.quota
LEFT JOIN batches b ON b.batch_hash = CASE p.kind WHEN 'batch' THEN decode(p.subject, 'hex') END
WHERE (t.posting_id, t.id) > (coalesce((SELECT s.posting_id FROM transfers s WHERE s.id = %(after_id)s), 0), %(after_id)s)
    AND p.operator_id = %(operator_id)s AND %(path)s IN ('', d.path, c.path)
ORDER BY t.posting_id, t.id
LIMIT %(limit)s
