SELECT d.version
FROM directives d
WHERE d.gateway_id = %(gateway_id)s AND d.idempotency_key = %(key)s
