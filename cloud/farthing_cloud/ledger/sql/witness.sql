UPDATE gateways
SET witness_start_id = CASE WHEN %(position)s >= witness_position THEN %(start_id)s ELSE witness_start_id END,
    witness_position = greatest(witness_position, %(position)s),
    adopted = adopted OR %(adopted)s
WHERE gateway_id = %(gateway_id)s
