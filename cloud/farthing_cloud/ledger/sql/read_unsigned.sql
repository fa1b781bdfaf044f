SELECT gateway_id, version, body, body_hash, coalesce(signature, ''), coalesce(key_id, '')
FROM directives
WHERE signature IS NULL
ORDER BY gateway_id, version
LIMIT %(limit)s
