UPDATE gateway SET status = %(status)s WHERE gateway_id = %(gateway_id)s
