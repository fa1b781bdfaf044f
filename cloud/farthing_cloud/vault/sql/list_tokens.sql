SELECT token_id, operator_id, account_id, label, denied_reason IS NOT NULL
FROM token
WHERE %(operator_id)s = '' OR operator_id = %(operator_id)s
ORDER BY operator_id, label, token_id
