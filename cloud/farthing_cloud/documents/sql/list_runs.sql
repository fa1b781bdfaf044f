SELECT account_id, until_us, after_position, to_position, to_head, numbers FROM run
WHERE operator_id = %(operator_id)s ORDER BY account_id, until_us;
