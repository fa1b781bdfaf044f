SELECT gateway_id, version, body, body_hash, coalesce(signature, ''), coalesce(key_id, '')
FROM directives
WHERE gateway_id = %(gateway_id)s AND version > %(after_version)s
ORDER BY version
LIMIT %(limit)s
