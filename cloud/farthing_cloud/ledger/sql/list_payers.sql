SELECT y.operator_id, y.account_id, y.currency, y.status, y.credit_limit_micros, y.debt_limit_micros, y.preload_micros,
    p.credits_posted::bigint, p.debits_posted::bigint, p.debits_pending::bigint,
    (p.credits_posted + y.credit_limit_micros - p.debits_posted - p.debits_pending)::bigint AS available_micros,
    (d.debits_posted - d.credits_posted)::bigint AS debt_micros
FROM payers y
JOIN accounts p ON p.operator_id = y.operator_id AND p.currency = y.currency AND p.path = 'payer/' || y.account_id
JOIN accounts d ON d.operator_id = y.operator_id AND d.currency = y.currency AND d.path = 'debt/' || y.account_id
WHERE y.operator_id = %(operator_id)s AND %(account_id)s IN ('', y.account_id)
    AND y.account_id > %(after_account_id)s
ORDER BY y.account_id
LIMIT %(limit)s
