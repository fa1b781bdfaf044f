UPDATE gateways
SET witness_start_id = CASE WHEN %(position)s >= witness_position THEN %(start_id)s ELSE witness_start_id END,
    witness_position = greatest(witness_position, %(position)s),
    adopted = true,
    sealed_sequence = greatest(sealed_sequence, %(sealed_sequence)s),
    contact_at_us = greatest(contact_at_us, %(contact_at_us)s)
WHERE gateway_id = %(gateway_id)s AND incarnation = %(incarnation)s AND waits_because = ''
