INSERT INTO run (operator_id, account_id, until_us, after_position, to_position, to_head, numbers, person, at_us)
VALUES (%(operator_id)s, %(account_id)s, %(until_us)s, %(after_position)s, %(to_position)s, %(to_head)s, %(numbers)s, %(person)s, %(at_us)s);
