UPDATE token
SET account_id = %(account_id)s, label = %(label)s
WHERE token_id = %(token_id)s
