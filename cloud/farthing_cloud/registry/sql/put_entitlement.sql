INSERT INTO entitlement (operator_id, entitlement_id, content)
VALUES (%(operator_id)s, %(entitlement_id)s, %(content)s)
ON CONFLICT (operator_id, entitlement_id) DO UPDATE SET content = EXCLUDED.content
