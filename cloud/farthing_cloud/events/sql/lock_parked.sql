SELECT 1 FROM event_parked
WHERE consumer = %(consumer)s AND transaction_id = %(transaction_id)s AND sequence = %(sequence)s
FOR UPDATE SKIP LOCKED;
