DELETE FROM wish
WHERE gateway_id = %(gateway_id)s AND subject = %(subject)s AND parked_reason IS NOT NULL
