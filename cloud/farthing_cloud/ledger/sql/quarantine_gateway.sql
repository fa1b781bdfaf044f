UPDATE gateways SET quarantined = true
WHERE gateway_id = %(gateway_id)s
