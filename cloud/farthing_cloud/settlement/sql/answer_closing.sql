UPDATE closing SET response = %(response)s, closed_at_us = %(at_us)s, disagreement = %(disagreement)s
WHERE operator_id = %(operator_id)s AND window_name = %(window)s AND response IS NULL;
