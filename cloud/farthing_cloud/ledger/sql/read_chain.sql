SELECT c.sequence, c.head_hash, c.proven_sequence
FROM chains c
WHERE c.gateway_id = %(gateway_id)s AND c.incarnation = %(incarnation)s
