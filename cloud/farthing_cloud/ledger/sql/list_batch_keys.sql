SELECT number, batch_key, since_us, until_us, revoked_us FROM batch_keys WHERE gateway_id = %(gateway_id)s ORDER BY number
