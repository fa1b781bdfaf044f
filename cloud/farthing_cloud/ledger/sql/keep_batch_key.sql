INSERT INTO batch_keys (gateway_id, number, batch_key, since_us, until_us, revoked_us)
VALUES (%(gateway_id)s, %(number)s, %(batch_key)s, %(since_us)s, %(until_us)s, %(revoked_us)s)
ON CONFLICT (gateway_id, number) DO UPDATE SET until_us = excluded.until_us, revoked_us = excluded.revoked_us
