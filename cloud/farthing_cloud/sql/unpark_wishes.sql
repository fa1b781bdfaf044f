UPDATE wish SET parked_reason = NULL WHERE gateway_id = %(gateway_id)s AND parked_reason IS NOT NULL
