DELETE FROM carried_beyond WHERE authorization_id = %(authorization_id)s AND gateway_id = %(gateway_id)s
