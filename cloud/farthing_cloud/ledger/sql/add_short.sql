UPDATE rewindings SET short_micros = short_micros + %(short_micros)s
WHERE gateway_id = %(gateway_id)s AND epoch = %(epoch)s
