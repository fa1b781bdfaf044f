UPDATE event_parked
SET reason = %(reason)s, attempts = attempts + 1, tried_at = now()
WHERE consumer = %(consumer)s AND transaction_id = %(transaction_id)s AND sequence = %(sequence)s;
