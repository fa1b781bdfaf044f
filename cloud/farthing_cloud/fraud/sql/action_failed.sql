UPDATE action
SET attempts = attempts + 1, last_error = %(error)s, changed_at_us = %(at_us)s
WHERE case_id = %(case_id)s AND kind = 'block-device';
