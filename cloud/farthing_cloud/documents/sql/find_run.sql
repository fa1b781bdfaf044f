SELECT until_us, after_position, to_position, to_head, numbers FROM run
WHERE operator_id = %(operator_id)s AND account_id = %(account_id)s AND until_us = %(until_us)s;
