SELECT incarnation, sequence, head_hash, proven_sequence
FROM chains
WHERE gateway_id = %(gateway_id)s
ORDER BY incarnation
