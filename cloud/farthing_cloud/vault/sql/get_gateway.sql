SELECT operator_id, site_id, unwrap_key FROM gateway WHERE gateway_id = %(gateway_id)s
