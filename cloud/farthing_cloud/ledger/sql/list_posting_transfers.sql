SELECT t.posting_id, t.id, t.kind, d.path, c.path, t.amount_micros, coalesce(q.quota_id, ''), t.cause, t.line, t.authorization_id
FROM transfers t
JOIN accounts d ON d.id = t.debit_id
JOIN accounts c ON c.id = t.credit_id
LEFT JOIN quotas q ON q.id = t.quota
WHERE t.posting_id = ANY (%(posting_ids)s::bigint[])
ORDER BY t.id
