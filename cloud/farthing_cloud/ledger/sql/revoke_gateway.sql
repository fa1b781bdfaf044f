INSERT INTO gateway_revocations (gateway_id, revoked_at_us) VALUES (%(gateway_id)s, %(at_us)s)
ON CONFLICT (gateway_id) DO NOTHING
