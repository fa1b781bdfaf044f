UPDATE token
SET denied_reason = %(reason)s
WHERE token_id = %(token_id)s AND denied_reason IS NULL
