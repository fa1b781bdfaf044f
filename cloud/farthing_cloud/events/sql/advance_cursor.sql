-- Never backwards: a late event stands before the cursor and leaves it where it is.
UPDATE event_cursor
SET transaction_id = %(transaction_id)s, sequence = %(sequence)s
WHERE consumer = %(consumer)s AND (transaction_id, sequence) < (%(transaction_id)s, %(sequence)s);
