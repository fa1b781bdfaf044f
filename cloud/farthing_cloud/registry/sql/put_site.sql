INSERT INTO site (site_id, operator_id, content)
VALUES (%(site_id)s, %(operator_id)s, %(content)s)
ON CONFLICT (site_id) DO UPDATE SET content = EXCLUDED.content
