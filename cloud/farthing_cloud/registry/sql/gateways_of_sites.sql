SELECT gateway_id FROM gateway WHERE site_id = ANY(%(site_ids)s) ORDER BY gateway_id
