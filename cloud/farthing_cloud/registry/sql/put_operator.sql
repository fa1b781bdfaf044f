INSERT INTO operator (operator_id, content)
VALUES (%(operator_id)s, %(content)s)
ON CONFLICT (operator_id) DO UPDATE SET content = EXCLUDED.content
