UPDATE gateways SET least_class = %(least_class)s WHERE gateway_id = %(gateway_id)s
