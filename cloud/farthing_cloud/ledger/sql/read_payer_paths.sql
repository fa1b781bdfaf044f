SELECT y.currency, p.id, d.id, p.credits_posted, p.debits_posted, p.debits_pending, d.debits_posted - d.credits_posted
FROM payers y
JOIN accounts p ON p.operator_id = y.operator_id AND p.currency = y.currency AND p.path = 'payer/' || y.account_id
JOIN accounts d ON d.operator_id = y.operator_id AND d.currency = y.currency AND d.path = 'debt/' || y.account_id
WHERE y.operator_id = %(operator_id)s AND y.account_id = %(account_id)s
