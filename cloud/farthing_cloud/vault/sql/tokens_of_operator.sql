SELECT token_id, account_id, sealed, denied_reason
FROM token
WHERE operator_id = %(operator_id)s
ORDER BY token_id
