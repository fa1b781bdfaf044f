SELECT token_id, account_id, label, denied_reason
FROM token
WHERE operator_id = %(operator_id)s AND lookup = %(lookup)s
