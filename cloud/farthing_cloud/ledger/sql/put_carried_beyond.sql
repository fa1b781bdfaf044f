INSERT INTO carried_beyond (authorization_id, gateway_id, micros)
VALUES (%(authorization_id)s, %(gateway_id)s, %(micros)s)
ON CONFLICT (authorization_id, gateway_id) DO UPDATE SET micros = excluded.micros
