INSERT INTO series AS s (operator_id, prefix, kind, issued) VALUES (%(operator_id)s, %(prefix)s, %(kind)s, 1)
ON CONFLICT (operator_id, prefix) DO UPDATE SET issued = s.issued + 1
RETURNING kind, issued;
