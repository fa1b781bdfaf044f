INSERT INTO device (device_id, operator_id, status, content)
VALUES (%(device_id)s, %(operator_id)s, %(status)s, %(content)s)
ON CONFLICT (device_id) DO UPDATE SET content = EXCLUDED.content
