SELECT version, body, coalesce(idempotency_key, '')
FROM directives
WHERE gateway_id = %(gateway_id)s AND version > %(version)s
ORDER BY version
