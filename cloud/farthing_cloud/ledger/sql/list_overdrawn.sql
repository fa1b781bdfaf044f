SELECT y.operator_id, y.currency, y.account_id
FROM payers y
JOIN accounts p ON p.operator_id = y.operator_id AND p.currency = y.currency AND p.path = 'payer/' || y.account_id
WHERE p.credits_posted + y.credit_limit_micros < p.debits_posted + p.debits_pending
ORDER BY y.operator_id, y.currency, y.account_id
LIMIT %(limit)s
