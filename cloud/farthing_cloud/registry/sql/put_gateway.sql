INSERT INTO gateway (gateway_id, operator_id, site_id, status, content, revision)
VALUES (%(gateway_id)s, %(operator_id)s, %(site_id)s, %(status)s, %(content)s, 1)
ON CONFLICT (gateway_id) DO UPDATE SET content = EXCLUDED.content, revision = gateway.revision + 1
