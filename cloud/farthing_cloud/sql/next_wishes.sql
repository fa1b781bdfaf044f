SELECT sequence, request
FROM wish
WHERE gateway_id = %(gateway_id)s AND parked_reason IS NULL
ORDER BY sequence
LIMIT %(limit)s
