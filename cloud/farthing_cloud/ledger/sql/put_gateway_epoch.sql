UPDATE gateways SET epoch = %(epoch)s WHERE gateway_id = %(gateway_id)s
