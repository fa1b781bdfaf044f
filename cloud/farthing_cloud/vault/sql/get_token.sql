SELECT operator_id, account_id, sealed, denied_reason FROM token WHERE token_id = %(token_id)s
