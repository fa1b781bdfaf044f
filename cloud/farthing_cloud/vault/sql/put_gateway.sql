INSERT INTO gateway (gateway_id, operator_id, site_id, unwrap_key)
VALUES (%(gateway_id)s, %(operator_id)s, %(site_id)s, %(unwrap_key)s)
ON CONFLICT (gateway_id) DO UPDATE SET unwrap_key = EXCLUDED.unwrap_key
