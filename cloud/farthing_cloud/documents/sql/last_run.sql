SELECT until_us, after_position, to_position, to_head, numbers FROM run
WHERE operator_id = %(operator_id)s AND account_id = %(account_id)s ORDER BY until_us DESC LIMIT 1;
